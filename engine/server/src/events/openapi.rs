//! `/openapi.json`: an OpenAPI 3.1 description of the HTTP routes. Those of the platform are made from
//! the messages that they read and write.

mod comments;
mod others;
mod page;
mod patterns;
mod rules;
mod schema;

use std::sync::LazyLock;

use axum::{
    Router,
    http::header::CONTENT_TYPE,
    response::{Html, IntoResponse},
    routing::get,
};
use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};
use serde_json::{Map, Value, json};

use self::{
    rules::rules,
    schema::{Place, Schemas, overlay, requires},
};
use super::{deadline, proto_json::descriptor};

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

impl Route {
    fn is_health(&self) -> bool {
        self.response == "HealthResponse"
    }
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

/// Serves the description, and a page that shows it. `has_keys`: whether only who has a key may ask the platform's routes;
/// `all_ask`: and all others. `levels`: what accepting can mean with these settings.
pub(super) fn routes(has_keys: bool, all_ask: bool, levels: &[&str]) -> Router {
    let document = document(has_keys, all_ask, levels);
    let page = page::page(&document);
    let document = document.to_string();
    Router::new()
        .route("/openapi.json", get(async move || ([(CONTENT_TYPE, "application/json")], document)))
        .route("/docs", get(async move || Html(page).into_response()))
}

/// The whole description.
fn document(has_keys: bool, all_ask: bool, levels: &[&str]) -> Value {
    let mut schemas = Schemas::default();
    schemas.insert("Error", error_schema());
    schemas.insert("EventRules", rules::event_rules());
    let mut paths = Map::new();
    for route in ROUTES {
        let operation = operation(&route, &mut schemas);
        if let Value::Object(methods) = paths.entry(route.path).or_insert_with(|| json!({})) {
            methods.insert(route.method.to_owned(), operation);
        }
    }
    let mut schemas = schemas.into_map();
    others::add(&mut paths, &mut schemas, all_ask, levels);
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Tidegate",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Messages in, the older systems' events, and what the process says of itself. Under /v1: analytics.v1 over REST, by the rules of grpc-gateway: proto JSON, 64-bit numbers as text. Fields \
                of bodies and queries are taken in both spellings, user_id and userId; those that are not known are dropped, \
                but refused beside an event or events and among the options. Left out: /metrics, which is Prometheus' text and no JSON, \
                and /live/**, which is for the live page at / and may change with it.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        // Where this description is, the routes are, too, whatever stands in front.
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "parameters": {"Timeout": timeout_parameter()},
            "securitySchemes": {
                "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
                "token": {"type": "http", "scheme": "bearer"},
            },
        },
        "security": if has_keys { json!([{"key": []}, {"token": []}]) } else { json!([]) },
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

fn timeout_parameter() -> Value {
    json!({
        "name": deadline::FIELD,
        "in": "header",
        "description": "How long the caller waits: up to eight digits and H, M, S, m (ms), u (\u{b5}s) or n (ns). Then the answer \
            is 504; a stream ends with an error.",
        "schema": {"type": "string", "pattern": "^[0-9]{1,8}[HMSmun]$"},
    })
}

/// The name that generated clients give a method: what is done, then the path's fixed parts (`getAnalyticsUsers`). It
/// depends on nothing else, so that a client made anew has the same methods.
fn operation_id(route: &Route) -> String {
    let parts = route.path.split('/').filter(|part| !part.is_empty() && !part.starts_with('{'));
    // The version is not what is done.
    let words = parts.filter(|part| *part != "v1");
    words.fold(route.method.to_owned(), |id, word| {
        let (first, rest) = word.split_at(1);
        id + &first.to_ascii_uppercase() + rest
    })
}

fn operation(route: &Route, schemas: &mut Schemas) -> Value {
    let response = schemas.reference(route.response, Place::Answer);
    let example = example(route.response);
    let (description, content) = if route.streams {
        // Lines together are no JSON that a schema could be for. OpenAPI 3.2 has `itemSchema` for that.
        let line = json!({"type": "object", "properties": {"result": response}});
        (
            "One such object to a line, until the caller hangs up or its time is over",
            json!({"x-itemSchema": line, "example": {"result": example}}),
        )
    } else {
        ("OK", json!({"schema": response, "example": example}))
    };
    let error = json!({
        "description": "What is wrong",
        "content": {"application/json": {
            "schema": {"$ref": "#/components/schemas/Error"},
            "example": {"code": 3, "message": "user_id: expected at least 1 character", "details": []},
        }},
    });
    let mut parameters = vec![json!({"$ref": "#/components/parameters/Timeout"})];
    let mut operation = json!({
        "operationId": operation_id(route),
        "summary": route.summary,
        "responses": {
            "200": {"description": description, "content": {"application/json": content}},
            "default": error,
        },
    });
    match route.place {
        In::Body => operation["requestBody"] = body(route, schemas),
        In::Query => {
            if let Ok(message) = descriptor(route.request) {
                let asked = message.fields().map(|field| parameter(&field, &message, route.path, schemas));
                parameters.extend(asked);
            }
        }
    }
    operation["parameters"] = parameters.into();
    if route.is_health() {
        // Whether a process lives, it says to everybody.
        operation["security"] = json!([]);
    }
    operation
}

fn body(route: &Route, schemas: &mut Schemas) -> Value {
    let asked = schemas.reference(route.request, Place::Body);
    let (schema, description) = match route.request {
        "Event" => {
            let wrapped = schemas.reference("IngestEventRequest", Place::Body);
            let event = schemas.event_alone();
            (json!({"anyOf": [event, wrapped]}), "The event, or `event` beside `options`")
        }
        "IngestEventsRequest" => {
            let text = "Events; those that break the rules for events (`EventRules`) are named in the answer. Or an event to a line, \
                        as application/x-ndjson";
            (asked, text)
        }
        _ => (asked, "What is asked"),
    };
    json!({
        "required": true,
        "description": description,
        "content": {"application/json": {"schema": schema, "example": example(route.request)}},
    })
}

/// A field of a message as a parameter.
fn parameter(
    field: &FieldDescriptor,
    message: &MessageDescriptor,
    path: &str,
    schemas: &mut Schemas,
) -> Value {
    let name = field.name();
    let in_path = path.contains(&format!("{{{name}}}"));
    let rules = rules(message.name());
    let mut schema = match field.kind() {
        Kind::Message(inner) if !field.is_map() && inner.package_name() == message.package_name() => {
            object_of_dotted(name, &inner, schemas)
        }
        _ => schemas.field(field, Place::Query, false),
    };
    if let Some(rule) = rules["properties"].get(field.json_name()) {
        overlay(&mut schema, rule.clone());
    }
    let mut parameter = json!({
        "name": name,
        "in": if in_path { "path" } else { "query" },
        "required": in_path || requires(&rules, field),
    });
    if field.is_map() {
        // filters[key]=value
        parameter["style"] = "deepObject".into();
        parameter["explode"] = true.into();
    } else if schema["type"] == "object" {
        // time_range.start=value: each of its fields stands by itself.
        parameter["style"] = "form".into();
        parameter["explode"] = true.into();
    }
    parameter["schema"] = schema;
    parameter
}

/// The fields of a message in a query: their names behind its own and a dot. OpenAPI has no style for that; but an
/// object's properties may have any name, and those that go together can be asked for together.
fn object_of_dotted(name: &str, message: &MessageDescriptor, schemas: &mut Schemas) -> Value {
    let rules = rules(message.name());
    let (mut properties, mut required) = (Map::new(), Vec::new());
    for field in message.fields() {
        let mut schema = schemas.field(&field, Place::Query, false);
        if let Some(rule) = rules["properties"].get(field.json_name()) {
            overlay(&mut schema, rule.clone());
        }
        let dotted = format!("{name}.{}", field.name());
        required.push(dotted.clone());
        properties.insert(dotted, schema);
    }
    json!({"type": "object", "properties": properties, "required": required})
}

/// An example of a message.
fn example(message: &str) -> Value {
    static EXAMPLES: LazyLock<Value> =
        LazyLock::new(|| serde_json::from_str(include_str!("openapi/examples.json")).unwrap_or_default());
    EXAMPLES[message].clone()
}

#[cfg(test)]
mod tests {
    use prost_reflect::DynamicMessage;

    use super::*;

    #[test]
    fn every_reference_leads_somewhere_and_every_message_has_fields() {
        let document = document(false, false, &["queued"]);
        let text = document.to_string();
        for part in text.split("#/components/").skip(1) {
            let name = part.split('"').next().unwrap();
            assert!(document.pointer(&format!("/components/{name}")).is_some_and(Value::is_object), "{name}");
        }
        for route in ROUTES {
            for name in [route.request, route.response].into_iter().filter(|name| !name.is_empty()) {
                assert!(descriptor(name).unwrap().fields().len() > 0, "{name}");
            }
        }
    }

    fn parameters(path: &str) -> Vec<Value> {
        let document = document(false, false, &["queued"]);
        let parameters = document["paths"][path]["get"]["parameters"].as_array().unwrap();
        parameters.iter().filter(|parameter| parameter.get("$ref").is_none()).cloned().collect()
    }

    #[test]
    fn parameters_are_those_that_the_routes_read() {
        let names = |path: &str| -> Vec<String> {
            let name = |parameter: &Value| {
                format!("{} {}", parameter["in"].as_str().unwrap(), parameter["name"].as_str().unwrap())
            };
            parameters(path).iter().map(name).collect()
        };
        assert_eq!(names("/v1/analytics/users/{user_id}")[..2], ["path user_id", "query time_range"]);
        assert!(names("/v1/analytics/timeseries").contains(&"query filters".to_owned()));
    }

    #[test]
    fn every_example_is_such_a_message_and_none_is_missing() {
        for route in ROUTES {
            let asked = if route.place == In::Body { route.request } else { "" };
            for name in [asked, route.response].into_iter().filter(|name| !name.is_empty()) {
                let read = DynamicMessage::deserialize(descriptor(name).unwrap(), example(name));
                assert!(read.is_ok_and(|message| message.fields().count() > 0), "{name}: {}", example(name));
            }
        }
    }

    #[test]
    fn every_body_and_every_answer_has_an_example() {
        let document = document(false, false, &["queued"]);
        for (path, methods) in document["paths"].as_object().unwrap() {
            for (method, operation) in methods.as_object().unwrap() {
                let answers = operation["responses"].as_object().unwrap().values();
                for place in answers.chain(operation.get("requestBody")) {
                    if let Some(content) = place.get("content") {
                        assert!(
                            content["application/json"]["example"].is_object(),
                            "{method} {path}: {place}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn every_hot_route_that_speaks_json_is_described() {
        let document = document(false, false, &["queued"]);
        let served = transports::ENDPOINTS
            .iter()
            .filter(|row| !row.path.contains('.') && !row.path.contains("Service/"));
        for row in served {
            let method = row.method.to_ascii_lowercase();
            assert!(document["paths"][row.path][&method].is_object(), "{} {}", row.method, row.path);
        }
    }

    #[test]
    fn every_operation_has_a_name_of_its_own() {
        let document = document(false, false, &["queued"]);
        let operations = document["paths"]
            .as_object()
            .unwrap()
            .values()
            .flat_map(|methods| methods.as_object().unwrap().values());
        let mut all: Vec<&str> =
            operations.map(|operation| operation["operationId"].as_str().unwrap()).collect();
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert!(all.len() == count && count > ROUTES.len());

        let mut names: Vec<String> = ROUTES.iter().map(operation_id).collect();
        assert!(names.contains(&"postEventsBatch".to_owned()), "{names:?}");
        assert!(names.contains(&"getAnalyticsUsers".to_owned()), "{names:?}");
        names.sort();
        names.dedup();
        assert_eq!(names.len(), ROUTES.len());
        assert!(names.iter().all(|name| name.bytes().all(|byte| byte.is_ascii_alphabetic())), "{names:?}");
    }

    #[test]
    fn half_a_time_range_is_not_one() {
        let of = |path: &str| {
            let parameters = parameters(path);
            parameters.into_iter().find(|parameter| parameter["name"] == "time_range").unwrap()
        };
        let (summary, series) = (of("/v1/analytics/summary"), of("/v1/analytics/timeseries"));
        assert_eq!(summary["schema"]["required"], json!(["time_range.start", "time_range.end"]));
        assert_eq!((&summary["style"], &summary["explode"]), (&json!("form"), &json!(true)));
        assert_eq!((&summary["required"], &series["required"]), (&json!(false), &json!(true)));
    }

    #[test]
    fn what_is_taken_and_what_is_answered_differ() {
        let document = document(false, false, &["queued"]);
        let schemas = &document["components"]["schemas"];
        let kind = |message: &str, field: &str| schemas[message]["properties"][field]["type"].clone();
        assert_eq!(kind("Event", "userId"), "string");
        assert_eq!(kind("EventInput", "userId"), json!(["string", "null"]));
        assert_eq!(schemas["GetFunnelAnalysisRequest"]["properties"]["steps"]["minItems"], 2);
        let first = &schemas["EventInput"];
        assert_eq!(first["then"]["properties"].as_object().unwrap().len(), 3);
        assert_eq!(first["else"]["else"]["then"]["properties"].as_object().unwrap().len(), 1);
    }

    #[test]
    fn keys_are_asked_for_where_there_are_some() {
        assert_eq!(document(false, false, &["queued"])["security"], json!([]));
        let document = document(true, false, &["queued"]);
        assert_eq!(document["security"].as_array().unwrap().len(), 2);
        assert_eq!(document["paths"]["/v1/events/health"]["get"]["security"], json!([]));
    }
}
