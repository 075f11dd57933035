//! Questions that a process which sends its messages on cannot answer: what was computed from them is where they are
//! worked on. An empty answer would be a wrong one.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use http::{StatusCode, header::CONTENT_TYPE};
use serde_json::json;
use tonic::Code;

use super::house::House;

/// What is computed from the stream of events.
const PATHS: [&str; 4] = [
    "/v1/analytics/",
    "/analytics/summary",
    "/analytics.v1.AnalyticsService/",
    "/analytics.AnalyticsService/",
];

/// Turns such questions down, with the process to ask.
pub async fn turn_down(State(house): State<Arc<House>>, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let Some(remote) = house.behind.delivery.remote.as_ref().filter(|_| is_computed(path)) else {
        return next.run(request).await;
    };
    let text = format!(
        "messages are not worked on here, so nothing is known of them; ask the process that works on them, at {} or behind it ({})",
        remote.target, remote.setting
    );
    let content_type = request.headers().get(CONTENT_TYPE).map_or(&b""[..], |value| value.as_bytes());
    if content_type.starts_with(b"application/grpc") {
        return tonic::Status::failed_precondition(text).into_http::<axum::body::Body>();
    }
    let body = json!({ "code": Code::FailedPrecondition as i32, "message": text, "details": [] });
    (StatusCode::BAD_REQUEST, Json(body)).into_response()
}

/// Health is the service's own.
fn is_computed(path: &str) -> bool {
    PATHS.iter().any(|start| path.starts_with(start)) && !path.to_ascii_lowercase().ends_with("/health")
}
