//! What an answer says beside its body: the level that was reached, and of one message where the log has it and whether it
//! repeats an earlier one. As fields over HTTP, as metadata over gRPC, under the same names.

use axum::response::Response;
use engine_core::AckLevel;
use http::{HeaderMap, HeaderName, HeaderValue};
use tonic::metadata::{AsciiMetadataValue, MetadataMap};
use transports::inject::Stored;

/// The level, asked for and told.
pub(super) const ACK: &str = "tidegate-ack";
const SHARD: &str = "tidegate-shard";
const OFFSET: &str = "tidegate-offset";
const DUPLICATE: &str = "tidegate-duplicate";

/// What an answer is to say.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Reached<'a> {
    level: Option<AckLevel>,
    /// Of one message.
    stored: Option<&'a Stored>,
}

impl<'a> Reached<'a> {
    /// By one message.
    pub(super) fn by(stored: &'a Stored) -> Self {
        Self { level: Some(stored.level), stored: Some(stored) }
    }

    /// By each of several, as far as any of them reached one.
    pub(super) fn by_all(level: Option<AckLevel>) -> Self {
        Self { level, stored: None }
    }

    fn each(&self, mut tell: impl FnMut(&'static str, &str)) {
        if let Some(level) = self.level {
            tell(ACK, level.name());
        }
        let Some(stored) = self.stored else { return };
        if let Some(offset) = stored.offset {
            tell(SHARD, &stored.shard.to_string());
            tell(OFFSET, &offset.to_string());
        }
        if stored.duplicate {
            tell(DUPLICATE, "true");
        }
    }

    /// Says it over gRPC.
    pub(super) fn tell<T>(&self, response: &mut tonic::Response<T>) {
        self.each(|name, value| {
            // Names of levels and numbers are ASCII.
            if let Ok(value) = AsciiMetadataValue::try_from(value) {
                response.metadata_mut().insert(name, value);
            }
        });
    }

    /// Says it over HTTP.
    pub(super) fn told(&self, mut response: Response) -> Response {
        self.each(|name, value| {
            if let Ok(value) = HeaderValue::from_str(value) {
                response.headers_mut().insert(HeaderName::from_static(name), value);
            }
        });
        response
    }
}

/// Says over REST what was told over gRPC.
pub(super) fn copy(from: &MetadataMap, to: &mut HeaderMap) {
    for name in [ACK, SHARD, OFFSET, DUPLICATE] {
        if let Some(value) = from.get(name).and_then(|value| HeaderValue::from_bytes(value.as_bytes()).ok()) {
            to.insert(HeaderName::from_static(name), value);
        }
    }
}
