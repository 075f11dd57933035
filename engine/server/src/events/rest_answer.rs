//! Answers over REST, and errors as `{"code", "message", "details"}`, as grpc-gateway writes them.

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header::CONTENT_TYPE};
use serde_json::{Value, json};
use tonic::{Code, Status};
use tonic_types::StatusExt;

/// The HTTP status of a gRPC code, as grpc-gateway has it (`runtime.HTTPStatusFromCode`).
pub(super) fn http_status(code: Code) -> u16 {
    match code {
        Code::Ok => 200,
        Code::Cancelled => 499,
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => 400,
        Code::DeadlineExceeded => 504,
        Code::NotFound => 404,
        Code::AlreadyExists | Code::Aborted => 409,
        Code::ResourceExhausted => 429,
        Code::Unimplemented => 501,
        Code::Unavailable => 503,
        Code::Unauthenticated => 401,
        Code::PermissionDenied => 403,
        Code::Unknown | Code::Internal | Code::DataLoss => 500,
    }
}

pub(super) fn error_value(status: &Status) -> Value {
    let mut details = Vec::new();
    if let Some(bad) = status.get_details_bad_request() {
        let violations = bad.field_violations.iter();
        let violations: Vec<Value> = violations
            .map(|violation| json!({"field": violation.field, "description": violation.description}))
            .collect();
        details.push(
            json!({"@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": violations}),
        );
    }
    json!({"code": status.code() as i32, "message": status.message(), "details": details})
}

pub(super) fn answer(status: u16, value: &Value) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = (status, value.to_string()).into_response();
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if status == StatusCode::UNAUTHORIZED {
        response.headers_mut().insert("www-authenticate", HeaderValue::from_static("Bearer"));
    }
    response
}

/// An error as it is told over REST.
pub(super) fn refuse(status: &Status) -> Response {
    answer(http_status(status.code()), &error_value(status))
}
