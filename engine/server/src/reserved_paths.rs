//! Paths that the server's own routes have, or may have one day.

/// What the paths of both lanes' routes begin with, beside gRPC's.
const FIRST_SEGMENTS: [&str; 17] = [
    "",
    "analytics",
    "api",
    "batch",
    "docs",
    "enqueue",
    "events",
    "health",
    "ingest",
    "lag",
    "live",
    "livez",
    "openapi.json",
    "ready",
    "stats",
    "status",
    "v1",
];

/// Why the metrics cannot have this path beside `/metrics`, if they cannot.
///
/// What is below another route's first segment is taken, too: it may be a route one day, and a setting that was good has to
/// stay so.
pub fn not_for_metrics(path: &str) -> Option<&'static str> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
    let Some(segments) = path.strip_prefix('/') else { return Some("it does not begin with /") };
    let first = segments.split('/').next().unwrap_or_default();
    // `grpc.health.v1.Health`, `IngestService`, `analytics.v1.MetricsService`.
    let is_grpc = first.starts_with("grpc.") || first.ends_with("Service");
    if is_grpc || FIRST_SEGMENTS.contains(&first) {
        return Some("other routes are there");
    }
    let is_path = segments.split('/').all(|segment| !segment.is_empty() && segment.bytes().all(is_plain));
    (!is_path).then_some("only letters, digits, - . _ ~ stand between its slashes, and none at its end")
}
