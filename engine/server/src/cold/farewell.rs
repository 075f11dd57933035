//! The end of answers that have none of their own: whoever watches health or metrics would hold a shutdown until it cuts
//! the connection.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, header::CONTENT_TYPE};
use transports::cold::{Abandoned, ColdAnswer};

/// What goes on until the caller hangs up.
const ENDLESS: [&str; 7] = [
    "/v1/analytics/realtime",
    "/v1/metrics/stream",
    "/analytics.v1.AnalyticsService/GetRealTimeAnalytics",
    "/analytics.v1.MetricsService/StreamMetrics",
    "/grpc.health.v1.Health/Watch",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
];

const MESSAGE: &str = "this server shuts down";

/// How a caller is told that the server shuts down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Farewell {
    /// By the trailers of gRPC.
    Grpc,
    /// By a line of JSON, as grpc-gateway tells an error in a stream.
    Line,
}

impl Farewell {
    /// `None`: the request has an answer that ends by itself.
    pub(super) fn of<B>(request: &Request<B>) -> Option<Self> {
        ENDLESS.contains(&request.uri().path()).then(|| {
            let content_type = request.headers().get(CONTENT_TYPE);
            let is_grpc = content_type.is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"));
            if is_grpc { Self::Grpc } else { Self::Line }
        })
    }

    pub(super) async fn say(self, answer: &ColdAnswer) -> Result<(), Abandoned> {
        match self {
            Self::Grpc => {
                let mut trailers = HeaderMap::new();
                trailers.insert("grpc-status", HeaderValue::from_static("14"));
                trailers.insert("grpc-message", HeaderValue::from_static(MESSAGE));
                answer.end(Some(trailers))
            }
            Self::Line => {
                let error = serde_json::json!({"error": {"code": 14, "message": MESSAGE, "details": []}});
                answer.data(Bytes::from(format!("{error}\n"))).await?;
                answer.end(None)
            }
        }
    }
}
