//! The cold lane's routes.

use std::{sync::Arc, time::SystemTime};

use axum::{
    Json, Router,
    extract::{MatchedPath, Request, State},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use http::{
    HeaderMap, HeaderValue, Method, StatusCode,
    header::{ACCEPT, ALLOW, CONTENT_TYPE, RETRY_AFTER},
};
use serde_json::{Value, json};
use tonic::service::Routes;
use transports::{ENDPOINTS, Role, cold::Arrival};

use super::{
    behind,
    condition::Condition,
    elsewhere,
    health::{ready, service},
    house::House,
    metrics, native, platform, probe,
};
use crate::events::{self, Platform, producer};

type HouseState = State<Arc<House>>;

/// The router of the cold lane; `grpc` are the services that tonic serves, `platform` is the events platform, `page` has the live
/// page's routes.
pub fn router(house: Arc<House>, grpc: Routes, platform: Platform, page: Router) -> Router {
    let asked = Arc::clone(&house);
    let mut router = Router::new()
        .route("/api/v1/status", get(status))
        .route("/status", get(status))
        .route("/api/v1/trace", get(trace))
        .route("/stats", get(stats))
        .route("/lag", get(platform::lag))
        .route(
            "/ready",
            get(readiness).options(async || StatusCode::OK).layer(middleware::from_fn(producer::dress)),
        )
        .route("/metrics", get(metrics_page));
    if house.metrics_path != "/metrics" {
        router = router.route(&house.metrics_path, get(metrics_page));
    }
    router
        .method_not_allowed_fallback(method_not_allowed)
        .route_layer(middleware::from_fn(keep_pattern))
        .with_state(house)
        .merge(events::routes(platform.clone()).merge(page).route_layer(middleware::from_fn(keep_pattern)))
        .merge(
            grpc.into_axum_router()
                .reset_fallback()
                .route_layer(middleware::from_fn(grpc_only))
                .route_layer(middleware::from_fn(keep_pattern)),
        )
        .fallback(not_found)
        .layer(middleware::from_fn_with_state(asked, elsewhere::turn_down))
        .layer(middleware::from_fn_with_state(platform, events::check))
        .layer(middleware::from_fn(say_when_to_retry))
}

/// Whoever is turned away for the moment is told when to come back, whatever the route: after a second, where the route
/// does not know better.
async fn say_when_to_retry(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    if matches!(response.status(), StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) {
        response.headers_mut().entry(RETRY_AFTER).or_insert(HeaderValue::from_static("1"));
    }
    response
}

/// What is no gRPC is not for its services: tonic would answer it in gRPC, whose errors are HTTP's 200.
async fn grpc_only(request: Request, next: Next) -> Response {
    if is_grpc(&request) {
        return next.run(request).await;
    }
    let text = "this path speaks gRPC; expected the content type application/grpc";
    let body = json!({ "status": "error", "error": text, "code": "INVALID_ARGUMENT" });
    (StatusCode::UNSUPPORTED_MEDIA_TYPE, Json(body)).into_response()
}

fn is_grpc(request: &Request) -> bool {
    let content_type = request.headers().get(CONTENT_TYPE);
    content_type.is_some_and(|content_type| content_type.as_bytes().starts_with(b"application/grpc"))
}

/// Puts the matched pattern where the counting finds it.
async fn keep_pattern(pattern: Option<MatchedPath>, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    if let Some(pattern) = pattern {
        response.extensions_mut().insert(pattern);
    }
    response
}

fn role(request: &Request) -> Role {
    request.extensions().get::<Arrival>().map_or(Role::Gateway, |arrival| arrival.role)
}

async fn status(State(house): HouseState, headers: HeaderMap) -> Json<Value> {
    let open = !house.is_draining();
    let (intake, workers) = (house.intake(), house.workers());
    let part = |condition: &Condition| {
        let mut part = json!({ "healthy": open && condition.is_able(), "status": condition.name() });
        if let Some(why) = condition.trouble() {
            part["error"] = json!(why);
        }
        part
    };
    let mut status = json!({
        "services": { "ingest": part(&intake), "processor": part(&workers) },
        "ingest": part(&intake),
        "processor": part(&workers),
    });
    status["ingest"]["stats"] = house.ingest_stats();
    status["processor"]["stats"] = house.processor_stats();
    if let (Some(remote), Some(there)) = (house.remote(), &house.processor) {
        // The processor is another process: what it did, it says itself.
        let hops = headers.get(behind::HOPS).and_then(|hops| hops.to_str().ok()?.parse().ok()).unwrap_or(0);
        match behind::processor(there, hops).await {
            Ok(told) => status["processor"] = told,
            Err(error) => {
                let known = remote.get("error").cloned().unwrap_or_else(|| json!(error));
                status["processor"] = json!({ "healthy": false, "error": known });
            }
        }
        status["services"]["processor"]["healthy"] = status["processor"]["healthy"].clone();
        status["remote"] = remote;
    }
    Json(status)
}

async fn trace(State(house): HouseState) -> Json<Value> {
    let body = match &house.processor {
        Some(processor) => json!(probe::trace(processor, &house.probe_token).await),
        None => json!(probe::unreachable("this process has no processor listener (listen.processor)")),
    };
    Json(body)
}

async fn stats(State(house): HouseState, request: Request) -> Json<Value> {
    let role = role(&request);
    let mut stats = json!({
        "service": service(role),
        "uptime_seconds": house.started.elapsed().as_secs_f64(),
        "timestamp": humantime::format_rfc3339_millis(SystemTime::now()).to_string(),
    });
    let (ingest, processor) = match role {
        Role::Ingest => (true, false),
        Role::Processor => (false, true),
        Role::Gateway | Role::Analytics | Role::Grpc | Role::Metrics => (true, true),
    };
    let parts = [
        ingest.then(|| house.ingest_stats()),
        processor.then(|| house.processor_stats()),
        ingest.then(|| Value::Object(platform::fields(&house, Role::Ingest))),
        processor.then(|| Value::Object(platform::fields(&house, Role::Processor))),
    ];
    for part in parts.into_iter().flatten() {
        if let (Value::Object(stats), Value::Object(part)) = (&mut stats, part) {
            stats.extend(part);
        }
    }
    Json(stats)
}

async fn readiness(State(house): HouseState, request: Request) -> impl IntoResponse {
    let (ready, body) = ready(&house, role(&request));
    (if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, Json(body))
}

async fn metrics_page(State(house): HouseState, fields: HeaderMap) -> Response {
    let accept = fields.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let accept = accept.collect::<Vec<_>>().join(",");
    match metrics::page(&house, native::is_wanted(&accept)) {
        Ok((content_type, text)) => ([(CONTENT_TYPE, content_type)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("metrics: {error}\n")).into_response(),
    }
}

async fn method_not_allowed(method: Method) -> impl IntoResponse {
    let text = format!("Method not allowed: {method} is not answered here; the Allow field says what is");
    let body = json!({ "status": "error", "error": text, "code": "UNIMPLEMENTED" });
    (StatusCode::METHOD_NOT_ALLOWED, Json(body))
}

/// Answers a path that no route has.
pub async fn not_found(request: Request) -> Response {
    if is_grpc(&request) {
        let text = format!("there is no method {}", request.uri().path());
        return tonic::Status::unimplemented(text).into_http::<axum::body::Body>();
    }
    if let Some(hot) = ENDPOINTS.iter().find(|row| row.path == request.uri().path()) {
        // Only OPTIONS of a hot path comes here; of the health object a browser's page may ask before it reads it.
        if hot.method == "GET" {
            return producer::dressed((StatusCode::OK, [(ALLOW, "GET, HEAD, OPTIONS")]).into_response());
        }
        return (StatusCode::NO_CONTENT, [(ALLOW, "POST, OPTIONS")]).into_response();
    }
    (StatusCode::NOT_FOUND, "404 page not found\n").into_response()
}
