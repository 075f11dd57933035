//! `/openapi.json`: an OpenAPI 3.1 description of the platform's routes, made from the messages that they read and write.

use axum::{
    Router,
    http::header::CONTENT_TYPE,
    response::{Html, IntoResponse},
    routing::get,
};
use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};
use serde_json::{Map, Value, json};

use super::rest::descriptor;

/// Where the fields of a request stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum In {
    /// In the body, as JSON.
    Body,
    /// In the query; those that the path names stand there.
    Query,
}

/// A route of `analytics.v1`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Route {
    pub(super) method: &'static str,
    pub(super) path: &'static str,
    pub(super) summary: &'static str,
    /// The message that is asked with; empty: none.
    pub(super) request: &'static str,
    pub(super) place: In,
    pub(super) response: &'static str,
    /// Whether the answer goes on, a `{"result": …}` to a line.
    pub(super) streams: bool,
}

const fn route(
    method: &'static str,
    path: &'static str,
    request: &'static str,
    place: In,
    response: &'static str,
    summary: &'static str,
) -> Route {
    Route { method, path, summary, request, place, response, streams: false }
}

const fn streaming(
    path: &'static str,
    request: &'static str,
    response: &'static str,
    summary: &'static str,
) -> Route {
    Route { method: "get", path, summary, request, place: In::Query, response, streams: true }
}

pub(super) const EVENT: Route =
    route("post", "/v1/events", "Event", In::Body, "IngestEventResponse", "Take an event in");
pub(super) const BATCH: Route = route(
    "post",
    "/v1/events/batch",
    "IngestEventsRequest",
    In::Body,
    "IngestEventsResponse",
    "Take up to 1000 events in, each with a result of its own",
);
pub(super) const EVENTS_HEALTH: Route =
    route("get", "/v1/events/health", "", In::Query, "HealthResponse", "Whether ingestion answers");
pub(super) const SUMMARY: Route = route(
    "get",
    "/v1/analytics/summary",
    "GetAnalyticsSummaryRequest",
    In::Query,
    "AnalyticsSummary",
    "What happened in a time; the last hour without one",
);
pub(super) const SERIES: Route = route(
    "get",
    "/v1/analytics/timeseries",
    "GetTimeSeriesRequest",
    In::Query,
    "GetTimeSeriesResponse",
    "A metric by minute, hour, day, week or month",
);
pub(super) const REAL_TIME: Route = streaming(
    "/v1/analytics/realtime",
    "GetRealTimeAnalyticsRequest",
    "RealTimeAnalyticsResponse",
    "The last seconds, once a second",
);
pub(super) const USER: Route = route(
    "get",
    "/v1/analytics/users/{user_id}",
    "GetUserAnalyticsRequest",
    In::Query,
    "GetUserAnalyticsResponse",
    "A user's profile, sessions and events",
);
pub(super) const FUNNEL: Route = route(
    "post",
    "/v1/analytics/funnel",
    "GetFunnelAnalysisRequest",
    In::Body,
    "GetFunnelAnalysisResponse",
    "How many users took steps in order",
);
pub(super) const ANALYTICS_HEALTH: Route =
    route("get", "/v1/analytics/health", "", In::Query, "HealthResponse", "Whether analytics answers");
pub(super) const METRICS: Route = route(
    "get",
    "/v1/metrics",
    "GetMetricsRequest",
    In::Query,
    "GetMetricsResponse",
    "What is counted, as metrics",
);
pub(super) const METRICS_STREAM: Route =
    streaming("/v1/metrics/stream", "GetMetricsRequest", "Metric", "Metrics as they change");
pub(super) const METRICS_EXPORT: Route = route(
    "get",
    "/v1/metrics/export",
    "ExportMetricsRequest",
    In::Query,
    "ExportMetricsResponse",
    "Metrics as Prometheus, JSON or CSV",
);
pub(super) const METRICS_HEALTH: Route =
    route("get", "/v1/metrics/health", "", In::Query, "HealthResponse", "Whether metrics answers");

/// Every route that is described.
const ROUTES: [Route; 13] = [
    EVENT,
    BATCH,
    EVENTS_HEALTH,
    SUMMARY,
    SERIES,
    REAL_TIME,
    USER,
    FUNNEL,
    ANALYTICS_HEALTH,
    METRICS,
    METRICS_STREAM,
    METRICS_EXPORT,
    METRICS_HEALTH,
];

/// Serves the description, and a page that shows it.
pub(super) fn routes() -> Router {
    Router::new()
        .route("/openapi.json", get(async || ([(CONTENT_TYPE, "application/json")], document().to_string())))
        .route("/docs", get(async || page().into_response()))
}

/// The whole description.
fn document() -> Value {
    let mut schemas = Map::new();
    schemas.insert("Error".to_owned(), error_schema());
    let mut paths = Map::new();
    for route in ROUTES {
        let operation = operation(&route, &mut schemas);
        if let Value::Object(methods) = paths.entry(route.path).or_insert_with(|| json!({})) {
            methods.insert(route.method.to_owned(), operation);
        }
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Tidegate events and analytics",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "analytics.v1 over REST, by the rules of grpc-gateway: proto JSON, 64-bit numbers as text.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
                "token": {"type": "http", "scheme": "bearer"},
            },
        },
        // Where no keys are set, none is asked for.
        "security": [{}, {"key": []}, {"token": []}],
    })
}

fn error_schema() -> Value {
    json!({
        "type": "object",
        "required": ["code", "message", "details"],
        "properties": {
            "code": {"type": "integer", "description": "gRPC status code"},
            "message": {"type": "string"},
            "details": {"type": "array", "items": {"type": "object"}},
        },
    })
}

fn operation(route: &Route, schemas: &mut Map<String, Value>) -> Value {
    let response = reference(route.response, schemas);
    let schema =
        if route.streams { json!({"type": "object", "properties": {"result": response}}) } else { response };
    let described = if route.streams { "One such object to a line, until the caller hangs up" } else { "OK" };
    let error = json!({
        "description": "What is wrong",
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
    });
    let mut operation = json!({
        "summary": route.summary,
        "responses": {
            "200": {"description": described, "content": {"application/json": {"schema": schema}}},
            "default": error,
        },
    });
    match route.place {
        In::Body => {
            let schema = reference(route.request, schemas);
            operation["requestBody"] =
                json!({"required": true, "content": {"application/json": {"schema": schema}}});
        }
        In::Query => {
            if let Ok(message) = descriptor(route.request) {
                let mut parameters = Vec::new();
                query_parameters(&message, "", route.path, schemas, &mut parameters);
                operation["parameters"] = parameters.into();
            }
        }
    }
    operation
}

/// The fields of a message as parameters: those of messages in it behind a dot.
fn query_parameters(
    message: &MessageDescriptor,
    prefix: &str,
    path: &str,
    schemas: &mut Map<String, Value>,
    into: &mut Vec<Value>,
) {
    for field in message.fields() {
        let name = format!("{prefix}{}", field.name());
        if let Kind::Message(inner) = field.kind()
            && !field.is_map()
            && well_known(&inner).is_none()
        {
            query_parameters(&inner, &format!("{name}."), path, schemas, into);
            continue;
        }
        let in_path = path.contains(&format!("{{{name}}}"));
        let mut parameter = json!({
            "name": name,
            "in": if in_path { "path" } else { "query" },
            "required": in_path,
            "schema": field_schema(&field, schemas),
        });
        if field.is_map() {
            // filters[key]=value
            parameter["style"] = "deepObject".into();
            parameter["explode"] = true.into();
        }
        into.push(parameter);
    }
}

/// A reference to a message's schema, which is described if it was not yet.
fn reference(name: &str, schemas: &mut Map<String, Value>) -> Value {
    if !schemas.contains_key(name)
        && let Ok(message) = descriptor(name)
    {
        // Before its fields: a message may hold itself.
        schemas.insert(name.to_owned(), Value::Null);
        let properties: Map<String, Value> = message
            .fields()
            .map(|field| (field.json_name().to_owned(), field_schema(&field, schemas)))
            .collect();
        schemas.insert(name.to_owned(), json!({"type": "object", "properties": properties}));
    }
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

fn well_known(message: &MessageDescriptor) -> Option<Value> {
    match message.full_name() {
        "google.protobuf.Timestamp" => Some(json!({"type": "string", "format": "date-time"})),
        "google.protobuf.Duration" => Some(
            json!({"type": "string", "pattern": "^-?[0-9]{1,12}(\\.[0-9]{1,9})?s$", "examples": ["1.5s"]}),
        ),
        _ => None,
    }
}

fn field_schema(field: &FieldDescriptor, schemas: &mut Map<String, Value>) -> Value {
    if let Kind::Message(entry) = field.kind()
        && field.is_map()
        && let Some(value) = entry.get_field_by_name("value")
    {
        return json!({"type": "object", "additionalProperties": kind_schema(&value.kind(), schemas)});
    }
    let schema = kind_schema(&field.kind(), schemas);
    if field.is_list() { json!({"type": "array", "items": schema}) } else { schema }
}

fn kind_schema(kind: &Kind, schemas: &mut Map<String, Value>) -> Value {
    match kind {
        Kind::Double | Kind::Float => json!({"type": "number"}),
        Kind::Bool => json!({"type": "boolean"}),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => json!({"type": "integer", "format": "int32"}),
        Kind::Uint32 | Kind::Fixed32 => json!({"type": "integer", "minimum": 0}),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 | Kind::Uint64 | Kind::Fixed64 => {
            json!({"type": "string", "format": "int64"})
        }
        Kind::String => json!({"type": "string"}),
        Kind::Bytes => json!({"type": "string", "contentEncoding": "base64"}),
        Kind::Enum(kind) => {
            let names: Vec<String> = kind.values().map(|value| value.name().to_owned()).collect();
            json!({"type": "string", "enum": names})
        }
        Kind::Message(message) => well_known(message).unwrap_or_else(|| reference(message.name(), schemas)),
    }
}

/// A page without anything from elsewhere.
fn page() -> Html<String> {
    let mut rows = String::new();
    for route in ROUTES {
        let Route { method, path, summary, request, response, .. } = route;
        let asked = if request.is_empty() { "nothing" } else { request };
        rows.push_str(&format!(
            "<tr><td><code>{} {path}</code><td>{summary}<td><code>{asked}</code><td><code>{response}</code>\n",
            method.to_uppercase()
        ));
    }
    Html(format!(
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>\
         <title>Tidegate: events and analytics</title>\
         <style>body{{font:16px/1.5 system-ui;margin:2rem auto;max-width:70rem;padding:0 1rem}}\
         table{{border-collapse:collapse;width:100%}}td,th{{border-bottom:1px solid #8886;padding:.4rem;text-align:left;\
         vertical-align:top;overflow-wrap:anywhere}}</style>\
         <h1>Events and analytics</h1>\
         <p>Fields of every message: <a href=/openapi.json>openapi.json</a>. The same over gRPC: \
         <code>analytics.v1</code>, with reflection.</p>\
         <table><tr><th>Route<th>What it does<th>Asked with<th>Answered with\n{rows}</table></html>"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reference_leads_somewhere_and_every_message_has_fields() {
        let document = document();
        let text = document.to_string();
        let schemas = document["components"]["schemas"].as_object().unwrap();
        for part in text.split("#/components/schemas/").skip(1) {
            let name = part.split('"').next().unwrap();
            assert!(schemas.get(name).is_some_and(Value::is_object), "{name}");
        }
        for route in ROUTES {
            for name in [route.request, route.response].into_iter().filter(|name| !name.is_empty()) {
                assert!(descriptor(name).unwrap().fields().len() > 0, "{name}");
            }
        }
    }

    #[test]
    fn parameters_are_those_that_the_routes_read() {
        let document = document();
        let names = |path: &str| -> Vec<String> {
            let parameters = document["paths"][path]["get"]["parameters"].as_array().unwrap();
            parameters
                .iter()
                .map(|parameter| {
                    format!("{} {}", parameter["in"].as_str().unwrap(), parameter["name"].as_str().unwrap())
                })
                .collect()
        };
        let user = names("/v1/analytics/users/{user_id}");
        assert_eq!(user[..3], ["path user_id", "query time_range.start", "query time_range.end"]);
        assert!(names("/v1/analytics/timeseries").contains(&"query filters".to_owned()));
    }
}
