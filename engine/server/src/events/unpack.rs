//! Bodies packed with gzip, of as many members as there are (RFC 1952 section 2.2): `cat a.gz b.gz` is one body, and what follows
//! the first member is not dropped.

use std::io::{self, Read};

use axum::{
    body::{Body, Bytes, to_bytes},
    extract::Request,
    middleware::Next,
    response::Response,
};
use flate2::bufread::MultiGzDecoder;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH};

use super::BODY_BYTES_MAX;

/// Unpacks the body of a request that says that it is gzip. What is broken, or too long, is for the route to answer.
pub(super) async fn gzip(request: Request, next: Next) -> Response {
    let coding = request.headers().get(CONTENT_ENCODING);
    if !coding.is_some_and(|coding| coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"gzip")) {
        return next.run(request).await;
    }
    let (mut parts, packed) = request.into_parts();
    parts.headers.remove(CONTENT_ENCODING);
    parts.headers.remove(CONTENT_LENGTH);
    let unpacked = match to_bytes(packed, BODY_BYTES_MAX).await {
        Ok(packed) => unpack(&packed),
        Err(error) => Err(io::Error::other(error)),
    };
    let body = match unpacked {
        Ok(unpacked) => Body::from(unpacked),
        Err(error) => Body::from_stream(futures_util::stream::once(async { Err::<Bytes, _>(error) })),
    };
    next.run(Request::from_parts(parts, body)).await
}

/// One byte more than the longest body, at most.
fn unpack(packed: &[u8]) -> io::Result<Vec<u8>> {
    let mut unpacked = Vec::new();
    MultiGzDecoder::new(packed).take(BODY_BYTES_MAX as u64 + 1).read_to_end(&mut unpacked)?;
    Ok(unpacked)
}
