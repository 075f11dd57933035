//! What the server asks of requests beyond the types of their fields, as JSON Schema.
//!
//! The rules themselves stand where they are enforced: for events in `validate`, for queries in `analytics` and `metrics`.
//! No schema can say how values go together: that an end lies behind its start, how long a range may be for a
//! granularity, what `group_by` goes with; or that a time is not far ahead of the clock. And lengths, which are bytes
//! there, are characters here.

use engine_analytics::STEPS_MAX;
use serde_json::{Value, json};
use transports::message::{EVENT_ID_CHARS_MAX, EVENT_NAME_BYTES_MAX};

use super::{
    super::{
        analytics::WINDOW_SECONDS_MAX,
        ingestion::{BATCH_MAX, TIMEOUT_SECONDS_MAX},
        validate::AMOUNT_MAX,
    },
    patterns,
};

/// What a filter may ask for; funnels are over users, so theirs may not ask for one.
const FILTERS: &str = "^(user_id|session_id|source|event_type)$|^properties\\.";
const FUNNEL_FILTERS: &str = "^(session_id|source|event_type)$|^properties\\.";

/// A whole number of 0 to 300 as text.
const TIMEOUT_SECONDS_TEXT: &str = r"^(?:\+?0{0,6}(?:[0-9]{1,2}|[12][0-9]{2}|300)|-0{1,9})$";
const _: () = assert!(TIMEOUT_SECONDS_MAX == 300, "TIMEOUT_SECONDS_TEXT has another bound");

/// The rules for a message that is asked with; they are laid over the schema of its fields. What is required may not be
/// `null` either.
pub(super) fn rules(message: &str) -> Value {
    match message {
        "IngestEventRequest" => json!({
            "required": ["event"],
            "additionalProperties": false,
            // A request that only asks whether an event is good is answered, whatever the event is.
            "if": {
                "required": ["options"],
                "properties": {"options": {
                    "type": "object",
                    "required": ["validateOnly"],
                    "properties": {"validateOnly": {"const": true}},
                }},
            },
            "else": {"properties": {"event": {"$ref": "#/components/schemas/EventRules"}}},
        }),
        "IngestEventsRequest" => json!({
            "required": ["events"],
            "additionalProperties": false,
            "properties": {"events": {"minItems": 1, "maxItems": BATCH_MAX}},
        }),
        "IngestOptions" => json!({
            "additionalProperties": false,
            "properties": {"timeoutSeconds": {
                "minimum": 0, "maximum": TIMEOUT_SECONDS_MAX, "pattern": TIMEOUT_SECONDS_TEXT,
            }},
        }),
        "TimeRange" => {
            json!({"required": ["start", "end"], "properties": {"start": counted(), "end": counted()}})
        }
        "GetAnalyticsSummaryRequest" => json!({
            "properties": {
                "filters": {"propertyNames": {"pattern": FILTERS}},
                "groupBy": {"enum": ["", "event_type"]},
            },
        }),
        "GetTimeSeriesRequest" => json!({
            "required": ["timeRange", "metric"],
            "properties": {
                "metric": {"minLength": 1},
                "filters": {"propertyNames": {"pattern": FILTERS}},
                "groupBy": {"maxItems": 1, "items": {"enum": ["event_type", "source"]}},
            },
        }),
        "GetRealTimeAnalyticsRequest" => json!({
            "properties": {
                "filters": {"propertyNames": {"pattern": FILTERS}},
                "windowSeconds": {"minimum": 0, "maximum": WINDOW_SECONDS_MAX},
            },
        }),
        "GetUserAnalyticsRequest" => json!({
            "required": ["userId"],
            "properties": {"userId": {"minLength": 1}},
        }),
        "GetFunnelAnalysisRequest" => json!({
            "required": ["steps", "timeRange"],
            "properties": {
                "steps": {"minItems": 2, "maxItems": STEPS_MAX},
                "filters": {"propertyNames": {"pattern": FUNNEL_FILTERS}},
                // Without the minus that a duration may have.
                "stepTimeout": {"pattern": "^[0-9]{1,11}(\\.[0-9]{1,9})?s$"},
            },
        }),
        "FunnelStep" => json!({
            "properties": {"filters": {"propertyNames": {"pattern": FUNNEL_FILTERS}}},
            "if": {"required": ["eventType"], "properties": {"eventType": {"type": "string", "minLength": 1}}},
            "else": {"required": ["filters"], "properties": {"filters": {"type": "object", "minProperties": 1}}},
        }),
        // Our metrics have no labels to ask for.
        "GetMetricsRequest" => json!({"properties": {"labels": {"maxProperties": 0}}}),
        "ExportMetricsRequest" => json!({
            "properties": {"format": {"enum": ["", "prometheus", "json", "csv"]}},
        }),
        _ => json!({}),
    }
}

/// The rules for an event. They stand apart from its fields: in a batch, an event that breaks them does not make the
/// request a bad one.
pub(super) fn event_rules() -> Value {
    json!({
        "type": "object",
        "required": ["userId", "eventType"],
        "properties": {
            "id": {"maxLength": EVENT_ID_CHARS_MAX, "pattern": patterns::PRINTABLE},
            "userId": {"type": "string", "minLength": 1, "maxLength": EVENT_NAME_BYTES_MAX},
            "sessionId": {"maxLength": EVENT_NAME_BYTES_MAX},
            "source": {"maxLength": EVENT_NAME_BYTES_MAX},
            // Each list of one type: some generators take no mixed ones.
            "eventType": {"anyOf": [
                {
                    "type": "string",
                    "enum": ["EVENT_TYPE_USER", "EVENT_TYPE_TRANSACTION", "EVENT_TYPE_SYSTEM", "EVENT_TYPE_CUSTOM"],
                },
                {"type": "integer", "enum": [1, 2, 3, 4]},
            ]},
            "timestamp": counted(),
            "userEvent": {
                "required": ["action"],
                "properties": {"action": {"type": "string", "minLength": 1}},
            },
            "transactionEvent": {
                "required": ["transactionId", "currency"],
                "properties": {
                    "transactionId": {"type": "string", "minLength": 1},
                    "amount": {
                        "minimum": 0,
                        "maximum": AMOUNT_MAX,
                        // As text.
                        "pattern": "^([0-9]{1,12}(\\.[0-9]+)?|1000000000000)$",
                    },
                    "currency": {"type": "string", "pattern": "^[A-Za-z]{3}$"},
                    // As numbers.
                    "type": {"minimum": 0, "maximum": 4},
                    "status": {"minimum": 0, "maximum": 4},
                },
            },
            "systemEvent": {
                "properties": {
                    "type": {"minimum": 0, "maximum": 4},
                    "severity": {"minimum": 0, "maximum": 4},
                },
            },
            "customEvent": {
                "required": ["name"],
                "properties": {
                    "name": {"type": "string", "minLength": 1},
                    "metrics": {"items": {"properties": {
                        "name": {"maxLength": EVENT_NAME_BYTES_MAX},
                        "value": {"pattern": patterns::FINITE},
                    }}},
                },
            },
        },
    })
}

/// A time that is counted: from 1970 on.
fn counted() -> Value {
    json!({"pattern": patterns::time("(19[7-9][0-9]|[2-9][0-9]{3})")})
}
