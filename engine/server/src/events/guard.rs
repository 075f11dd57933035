//! Who may ask: API keys and bearer tokens for the events platform (contracts C23), and request ids.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method,
    header::{AUTHORIZATION, CONTENT_TYPE},
};
use subtle::ConstantTimeEq;
use tonic::Status;

use super::{
    Platform,
    rest::{refuse, unbound},
};

const API_KEY: HeaderName = HeaderName::from_static("x-api-key");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Longest id of a request that is given back.
const REQUEST_ID_BYTES_MAX: usize = 128;

/// The keys and tokens that are good. None: everybody may ask.
#[derive(Clone, Default)]
pub struct Guard {
    secrets: Arc<[Box<[u8]>]>,
}

impl std::fmt::Debug for Guard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Guard({} secrets)", self.secrets.len())
    }
}

impl Guard {
    /// Keys and tokens, each list separated by commas.
    pub fn new(api_keys: &str, tokens: &str) -> Self {
        let secrets = [api_keys, tokens].into_iter().flat_map(|list| list.split(','));
        let secrets = secrets.map(str::trim).filter(|secret| !secret.is_empty());
        Self { secrets: secrets.map(|secret| secret.as_bytes().into()).collect() }
    }

    /// Whether these headers carry a good key or token, or none is asked for.
    ///
    /// # Errors
    /// What to give.
    pub fn admits(&self, headers: &HeaderMap) -> Result<(), Status> {
        if self.secrets.is_empty() {
            return Ok(());
        }
        let bearer = headers.get(AUTHORIZATION).map(|value| {
            let value = value.as_bytes();
            // The scheme is not case-sensitive (RFC 9110 §11.1); the older system takes a bare token, too.
            match value.split_at_checked(7) {
                Some((scheme, token)) if scheme.eq_ignore_ascii_case(b"bearer ") => token,
                _ => value,
            }
        });
        let given = headers.get(API_KEY).map(HeaderValue::as_bytes).or(bearer);
        let Some(given) = given.map(<[u8]>::trim_ascii).filter(|given| !given.is_empty()) else {
            return Err(Status::unauthenticated(
                "missing authentication credentials: give x-api-key, or authorization: Bearer <token>",
            ));
        };
        // All of them are compared, each in a time that does not depend on where they differ.
        let good = self.secrets.iter().fold(false, |good, secret| good | bool::from(secret.ct_eq(given)));
        if good { Ok(()) } else { Err(Status::unauthenticated("this key or token is not known")) }
    }
}

/// Whether a path belongs to the platform, and whether it takes credentials.
fn is_guarded(path: &str) -> bool {
    let ours = path.starts_with("/v1/") || path.starts_with("/analytics.v1.");
    ours && !(path.ends_with("/health") || path.ends_with("/Health"))
}

/// Turns away who may not ask; gives every answer of the platform its request's id. What is asked of a gRPC method in JSON
/// is answered in JSON, as grpc-gateway does for methods without a route of their own.
pub async fn check(State(platform): State<Platform>, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    if !path.starts_with("/v1/") && !path.starts_with("/analytics.") {
        return next.run(request).await;
    }
    let known = request.headers().get(REQUEST_ID).filter(|id| id.len() <= REQUEST_ID_BYTES_MAX).cloned();
    let id = known.or_else(|| HeaderValue::from_str(&format!("req-{}", uuid::Uuid::now_v7())).ok());
    let is_grpc = request
        .headers()
        .get(CONTENT_TYPE)
        .is_some_and(|content_type| content_type.as_bytes().starts_with(b"application/grpc"));
    let is_json = request
        .headers()
        .get(CONTENT_TYPE)
        .is_some_and(|content_type| content_type.as_bytes().starts_with(b"application/json"));
    let admitted = if is_guarded(path) { platform.guard.admits(request.headers()) } else { Ok(()) };
    let method = path.strip_prefix("/analytics.v1.").map(str::to_owned);
    let mut response = match admitted {
        Ok(()) => match method {
            Some(method) if is_json && request.method() == Method::POST => {
                unbound(&platform, &method, request).await
            }
            _ => next.run(request).await,
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

    fn headers(name: &'static str, value: &'static str) -> HeaderMap {
        [(HeaderName::from_static(name), HeaderValue::from_static(value))].into_iter().collect()
    }

    #[test]
    fn without_keys_everybody_may_ask_and_with_keys_only_who_has_one() {
        assert!(Guard::new("", " , ").admits(&HeaderMap::new()).is_ok());
        let guard = Guard::new("one, two", "secret");
        for (name, value) in [
            ("x-api-key", "two"),
            ("authorization", "Bearer secret"),
            ("authorization", "bearer one"),
            ("authorization", "secret"),
        ] {
            assert!(guard.admits(&headers(name, value)).is_ok(), "{name}: {value}");
        }
        for (name, value) in
            [("x-api-key", "three"), ("x-api-key", "on"), ("authorization", "Bearer "), ("cookie", "one")]
        {
            assert!(guard.admits(&headers(name, value)).is_err(), "{name}: {value}");
        }
    }

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
