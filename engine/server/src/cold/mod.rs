//! The cold lane: one tokio thread with axum and tonic, for everything that is no hot route.

mod behind;
mod condition;
mod elsewhere;
mod events_metrics;
mod families;
mod farewell;
mod health;
mod house;
mod metrics;
mod native;
mod platform;
mod probe;
mod rate;
mod routes;
mod rpcs;

use std::time::Instant;

use axum::{Router, body::Body, extract::MatchedPath};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header::CONTENT_LENGTH};
use http_body_util::BodyExt;
use tower::ServiceExt;
use transports::{
    ENDPOINTS, Role,
    cold::{Abandoned, Arrival, ColdAnswer, ColdCall, ColdReceiver},
};

use self::farewell::Farewell;
pub use condition::Condition;
pub use health::HealthReport;
pub use house::{ColdCounts, ColdKey, CoreView, House, Totals};
pub use metrics::hot_requests;
pub use platform::consumed_so_far;
pub use probe::Processor;
pub use rate::Rate;
pub use routes::{not_found, router};
pub use rpcs::RpcCounts;

/// Answers calls until the bridge's other end is gone.
pub async fn serve(mut calls: ColdReceiver, router: Router, house: std::sync::Arc<House>) {
    while let Some(call) = calls.recv().await {
        let (router, house) = (router.clone(), std::sync::Arc::clone(&house));
        tokio::spawn(async move {
            let ColdCall { request, mut answer } = call;
            let started = Instant::now();
            let role = request.extensions().get::<Arrival>().map_or(Role::Gateway, |arrival| arrival.role);
            let method = method_label(request.method());
            let abandoned = answer.abandoned();
            let outcome = tokio::select! {
                outcome = answer_one(router, request.map(Body::new), &answer, &house) => outcome,
                () = abandoned => Err(Abandoned),
            };
            // An answer that nobody waited for is none.
            if let Ok(Answered { endpoint, status, rpc }) = outcome {
                if let Some((path, code)) = rpc {
                    house.rpcs.note(path, code);
                }
                house.cold.note(ColdKey { role: role.index(), method, endpoint, status }, started.elapsed());
            }
        });
    }
}

/// An answer that was given whole.
struct Answered {
    /// The route's pattern.
    endpoint: String,
    status: u16,
    /// Path and code of an RPC.
    rpc: Option<(&'static str, usize)>,
}

/// Lets the router answer and passes the answer on.
async fn answer_one(
    router: Router,
    request: http::Request<Body>,
    answer: &ColdAnswer,
    house: &House,
) -> Result<Answered, Abandoned> {
    let farewell = Farewell::of(&request);
    let rpc = rpcs::called(&request);
    // Who is turned away for want of a key has not come to the router, which would know the route.
    let hot = ENDPOINTS.iter().map(|row| row.path).find(|path| *path == request.uri().path());
    let response = match router.oneshot(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    };
    let (mut parts, mut body) = response.into_parts();
    let endpoint = match parts.extensions.get::<MatchedPath>() {
        Some(path) => short_pattern(path.as_str()).to_owned(),
        None if parts.status == StatusCode::UNAUTHORIZED && hot.is_some() => {
            short_pattern(hot.unwrap_or_default()).to_owned()
        }
        // Paths that nobody serves are one series, or a scan would fill the memory.
        None => "unmatched".to_owned(),
    };
    let status = parts.status.as_u16();
    if let Some(length) = http_body::Body::size_hint(&body).exact()
        && !parts.headers.contains_key(CONTENT_LENGTH)
        && !parts.headers.contains_key("grpc-status")
        && !parts.status.is_informational()
        && status != 204
    {
        parts.headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    // gRPC's trailers-only answers must end with their head: an empty DATA frame is an error to grpcio.
    let ends = http_body::Body::is_end_stream(&body);
    let code_of = |fields: &HeaderMap| rpc.map(|path| (path, rpcs::code(fields)));
    let answered = |rpc| Answered { endpoint, status, rpc };
    let at_once = code_of(&parts.headers);
    answer.head(parts, ends)?;
    if ends {
        return Ok(answered(at_once));
    }
    // What has a length, such as an error, ends by itself.
    let farewell = farewell.filter(|_| http_body::Body::size_hint(&body).exact().is_none());
    let mut trailers = None;
    loop {
        let frame = match farewell {
            None => body.frame().await,
            Some(farewell) => tokio::select! {
                frame = body.frame() => frame,
                () = house.until_draining() => {
                    farewell.say(answer).await?;
                    return Ok(answered(rpc.map(|path| (path, rpcs::UNAVAILABLE))));
                }
            },
        };
        let Some(frame) = frame else { break };
        let Ok(frame) = frame else {
            answer.failed();
            return Ok(answered(rpc.map(|path| (path, rpcs::UNKNOWN))));
        };
        match frame.into_data() {
            Ok(data) => answer.data(data).await?,
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
    }
    let at_end = trailers.as_ref().map_or_else(|| rpc.map(|path| (path, rpcs::UNKNOWN)), code_of);
    answer.end(trailers)?;
    Ok(answered(at_end))
}

/// A route's pattern as a label: the producer service's dashboards know its routes by their last two parts.
pub fn short_pattern(path: &str) -> &str {
    path.strip_prefix("/api/v1").filter(|short| short.starts_with("/events/")).unwrap_or(path)
}

/// A method as a label: the known ones by name, the rest as one.
fn method_label(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "DELETE" => "DELETE",
        "PATCH" => "PATCH",
        "OPTIONS" => "OPTIONS",
        _ => "OTHER",
    }
}
