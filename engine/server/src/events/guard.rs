//! Who may ask: API keys and bearer tokens for the events platform, or for all there is (`auth.scope`), and request ids.
//!
//! Hot routes that are no events' ask for a key themselves where all do (`AckPolicy::guard` of the cores).

use axum::{
    Json,
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, StatusCode,
    header::{ACCESS_CONTROL_REQUEST_METHOD, AUTHORIZATION, CONTENT_TYPE, WWW_AUTHENTICATE},
};
use serde_json::json;
use tonic::Status;
use transports::Guard;

use super::{Platform, deadline::Deadline, producer, rest::unbound, rest_answer::refuse};
use crate::scope::Scope;

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

/// What says how a process or a service is. Written out: a rule for them would let `/v1/analytics/users/health` through.
const HEALTH: [&str; 12] = [
    "/health",
    "/livez",
    "/ready",
    "/v1/events/health",
    "/v1/analytics/health",
    "/v1/metrics/health",
    "/analytics.v1.EventIngestionService/Health",
    "/analytics.v1.AnalyticsService/Health",
    "/analytics.v1.MetricsService/Health",
    "/analytics.ProducerService/GetProducerHealth",
    "/analytics.ConsumerService/GetConsumerHealth",
    "/analytics.AnalyticsService/GetAnalyticsHealth",
];

/// Whether a path belongs to the platform.
fn is_platform(path: &str) -> bool {
    path.starts_with("/v1/") || path.starts_with("/analytics.v1.")
}

/// Whether a path takes credentials.
fn is_guarded(path: &str, scope: Scope) -> bool {
    if path.starts_with("/grpc.reflection.") {
        return scope.reflection;
    }
    if HEALTH.contains(&path) || path.starts_with("/grpc.health.v1.Health/") {
        return false;
    }
    // The files of the live page hold no data, and are where a browser asks its user for the key; the page's stream asks
    // for it where the platform does.
    let is_page = path == "/" || path.starts_with("/live/");
    is_platform(path) || (scope.all && !is_page)
}

/// Whether a browser asks if it may ask: it never sends credentials with that (Fetch, CORS-preflight fetch).
fn is_preflight(request: &Request) -> bool {
    request.method() == Method::OPTIONS && request.headers().contains_key(ACCESS_CONTROL_REQUEST_METHOD)
}

/// Credentials that come as gRPC metadata over REST, in the way of grpc-gateway: `Grpc-Metadata-X-Api-Key`. Those that come
/// without the prefix count more.
fn take_metadata(headers: &mut HeaderMap) {
    for (prefixed, name) in
        [("grpc-metadata-x-api-key", API_KEY), ("grpc-metadata-authorization", AUTHORIZATION)]
    {
        if let Some(value) = headers.remove(prefixed)
            && !headers.contains_key(&name)
        {
            headers.insert(name, value);
        }
    }
}

fn has_type(request: &Request, start: &[u8]) -> bool {
    let content_type = request.headers().get(CONTENT_TYPE);
    content_type.is_some_and(|content_type| content_type.as_bytes().starts_with(start))
}

/// The answer to who may not ask, in the words of whoever's path it is.
fn turn_away(path: &str, is_grpc: bool, status: Status) -> Response {
    if is_grpc {
        return status.into_http::<axum::body::Body>().into_response();
    }
    if is_platform(path) {
        return refuse(&status);
    }
    let mut response = if path.starts_with(producer::PATHS) {
        producer::unauthorized(status.message())
    } else {
        let body = json!({ "status": "error", "error": status.message(), "code": "UNAUTHENTICATED" });
        (StatusCode::UNAUTHORIZED, Json(body)).into_response()
    };
    response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    response
}

/// Turns away who may not ask; gives every answer of the platform its request's id. What is asked of a gRPC method and is
/// not gRPC is JSON, whatever its type, and is answered in JSON, as grpc-gateway does for methods without a route of their
/// own.
pub async fn check(State(platform): State<Platform>, mut request: Request, next: Next) -> Response {
    let is_grpc = has_type(&request, b"application/grpc");
    if !is_grpc && is_platform(request.uri().path()) {
        take_metadata(request.headers_mut());
    }
    let path = request.uri().path();
    let is_asked = is_guarded(path, platform.scope) && (is_platform(path) || !is_preflight(&request));
    let admitted = if is_asked { admits(&platform.guard, request.headers()) } else { Ok(()) };
    if !path.starts_with("/v1/") && !path.starts_with("/analytics.") {
        return match admitted {
            Ok(()) => next.run(request).await,
            Err(status) => turn_away(path, is_grpc, status),
        };
    }
    let known = request
        .headers()
        .get(REQUEST_ID)
        .filter(|id| (1..=REQUEST_ID_BYTES_MAX).contains(&id.len()))
        .cloned();
    let id = known.or_else(|| HeaderValue::from_str(&format!("req-{}", uuid::Uuid::now_v7())).ok());
    let method = path.strip_prefix("/analytics.v1.").map(str::to_owned);
    let mut response = match admitted {
        // Where gRPC is spoken, the front end watches the clock.
        Ok(()) if is_grpc => next.run(request).await,
        Ok(()) => match Deadline::read(request.headers()) {
            Ok(deadline) => {
                request.extensions_mut().insert(deadline);
                let work = async {
                    match method {
                        Some(method) if request.method() == Method::POST => {
                            unbound(&platform, &method, deadline, request).await
                        }
                        _ => next.run(request).await,
                    }
                };
                deadline.answer(work).await
            }
            Err(status) => refuse(&status),
        },
        Err(status) => turn_away(path, is_grpc, status),
    };
    if let Some(id) = id {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Scope = Scope { all: true, reflection: false };

    #[test]
    fn health_needs_no_key_and_what_only_looks_like_it_does() {
        for path in HEALTH.into_iter().chain(["/grpc.health.v1.Health/Check"]) {
            assert!(!is_guarded(path, ALL), "{path}");
        }
        for path in
            ["/v1/analytics/users/health", "/v1/health", "/analytics.v1.AnalyticsService/Health/Health"]
        {
            assert!(is_guarded(path, Scope::default()), "{path}");
        }
    }

    #[test]
    fn the_scope_says_whether_more_than_the_platform_is_guarded() {
        for path in ["/v1/events", "/v1/analytics/summary", "/analytics.v1.AnalyticsService/GetTimeSeries"] {
            assert!(is_guarded(path, Scope::default()) && is_guarded(path, ALL), "{path}");
        }
        for path in
            ["/api/v1/ingest", "/stats", "/metrics", "/analytics.ProducerService/SendEvent", "/nowhere"]
        {
            assert!(!is_guarded(path, Scope::default()) && is_guarded(path, ALL), "{path}");
        }
    }

    #[test]
    fn reflection_has_a_setting_of_its_own() {
        let path = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
        assert!(!is_guarded(path, ALL));
        assert!(is_guarded(path, Scope { all: false, reflection: true }));
    }
}
