//! Who may ask: API keys and bearer tokens for the events platform (contracts C23), and request ids.

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method,
    header::{AUTHORIZATION, CONTENT_TYPE},
};
use tonic::Status;
use transports::Guard;

use super::{
    Platform,
    deadline::Deadline,
    rest::{refuse, unbound},
};

const API_KEY: HeaderName = HeaderName::from_static("x-api-key");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Longest id of a request that is given back.
const REQUEST_ID_BYTES_MAX: usize = 128;

/// Whether the bearer of these headers may ask.
///
/// # Errors
/// `UNAUTHENTICATED`, with what would be right.
pub fn admits(guard: &Guard, headers: &HeaderMap) -> Result<(), Status> {
    let field = |name: HeaderName| headers.get(name).map(HeaderValue::as_bytes);
    guard
        .admits(field(API_KEY), field(AUTHORIZATION))
        .map_err(|denied| Status::unauthenticated(denied.to_string()))
}

/// Whether a path belongs to the platform, and whether it takes credentials.
fn is_guarded(path: &str) -> bool {
    let ours = path.starts_with("/v1/") || path.starts_with("/analytics.v1.");
    ours && !(path.ends_with("/health") || path.ends_with("/Health"))
}

/// Turns away who may not ask; gives every answer of the platform its request's id. What is asked of a gRPC method in JSON
/// is answered in JSON, as grpc-gateway does for methods without a route of their own.
pub async fn check(State(platform): State<Platform>, mut request: Request, next: Next) -> Response {
    let path = request.uri().path();
    if !path.starts_with("/v1/") && !path.starts_with("/analytics.") {
        return next.run(request).await;
    }
    let known = request
        .headers()
        .get(REQUEST_ID)
        .filter(|id| (1..=REQUEST_ID_BYTES_MAX).contains(&id.len()))
        .cloned();
    let id = known.or_else(|| HeaderValue::from_str(&format!("req-{}", uuid::Uuid::now_v7())).ok());
    let is_grpc = request
        .headers()
        .get(CONTENT_TYPE)
        .is_some_and(|content_type| content_type.as_bytes().starts_with(b"application/grpc"));
    let is_json = request
        .headers()
        .get(CONTENT_TYPE)
        .is_some_and(|content_type| content_type.as_bytes().starts_with(b"application/json"));
    let admitted = if is_guarded(path) { admits(&platform.guard, request.headers()) } else { Ok(()) };
    let method = path.strip_prefix("/analytics.v1.").map(str::to_owned);
    let mut response = match admitted {
        // Where gRPC is spoken, the front end watches the clock.
        Ok(()) if is_grpc => next.run(request).await,
        Ok(()) => match Deadline::read(request.headers()) {
            Ok(deadline) => {
                request.extensions_mut().insert(deadline);
                let work = async {
                    match method {
                        Some(method) if is_json && request.method() == Method::POST => {
                            unbound(&platform, &method, deadline, request).await
                        }
                        _ => next.run(request).await,
                    }
                };
                deadline.answer(work).await
            }
            Err(status) => refuse(&status),
        },
        Err(status) if is_grpc => status.into_http::<axum::body::Body>().into_response(),
        Err(status) => refuse(&status),
    };
    if let Some(id) = id {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn health_needs_no_key() {
        for path in ["/v1/events", "/v1/analytics/summary", "/analytics.v1.AnalyticsService/GetTimeSeries"] {
            assert!(is_guarded(path), "{path}");
        }
        for path in
            ["/v1/events/health", "/analytics.v1.EventIngestionService/Health", "/health", "/api/v1/ingest"]
        {
            assert!(!is_guarded(path), "{path}");
        }
    }
}
