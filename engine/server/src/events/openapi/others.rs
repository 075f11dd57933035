//! The routes that are no proto messages over REST: messages as they are sent in, the older systems' events, and what the
//! process says of itself. Their forms are written out here.

use serde_json::{Map, Value, json};
use transports::message::EVENT_NAME_BYTES_MAX;

use super::patterns::PRINTABLE;

/// Adds the routes and their schemas. `asks`: whether they ask for a key (`auth.scope = all`); `levels`: what accepting can
/// mean with these settings.
pub(super) fn add(
    paths: &mut Map<String, Value>,
    schemas: &mut Map<String, Value>,
    asks: bool,
    levels: &[&str],
) {
    if let Value::Object(known) = forms() {
        schemas.extend(known);
    }
    let mut put = |method: &str, path: &str, mut operation: Value| {
        if let Some(level) = operation.pointer_mut("/parameters/0/schema") {
            level["enum"] = json!(levels);
        }
        if !asks {
            operation["security"] = json!([]);
        }
        let methods = paths.entry(path).or_insert_with(|| json!({}));
        methods[method] = operation;
    };
    for (path, id) in [("/ingest", "ingest"), ("/api/v1/ingest", "ingestV1"), ("/api/ingest", "ingestApi")] {
        let mut taken = answered("200", "Accepted, at the level in `ack`", "Ingested");
        taken["409"] = refused("The Idempotency-Key belongs to another message");
        taken["422"] = refused("Accepted, and then refused for ever where it goes; it is a dead letter");
        taken["503"] = refused("Not accepted; again after Retry-After");
        taken["504"] =
            refused("Unknown: the level was not reached in time; again with the same Idempotency-Key");
        put("post", path, sent(id, "Take a message in", "IngestMessage", taken, "Refusal"));
    }
    let taken = json!({"202": {
        "description": "Accepted. The body is empty",
        "headers": {"Tidegate-Ack": {"description": "The level that was reached", "schema": {"type": "string"}}},
    }});
    put(
        "post",
        "/enqueue",
        sent("enqueue", "Take a message in as it travels between stages", "StageMessage", taken, "Refusal"),
    );

    let told = |status, what| answered(status, what, "OlderEventAnswer");
    put(
        "post",
        "/events",
        sent(
            "sendEvent",
            "Take an event of the older system in",
            "OlderEvent",
            told("200", "Accepted"),
            "OlderEventAnswer",
        ),
    );
    put(
        "post",
        "/events/async",
        sent(
            "sendEventAsync",
            "The same, and nothing is waited for",
            "OlderEvent",
            told("202", "Queued"),
            "OlderEventAnswer",
        ),
    );
    for (path, id) in [("/events/batch", "sendEventBatch"), ("/batch", "sendBatch")] {
        let told = answered("200", "Accepted, but for those that are named", "OlderBatchAnswer");
        put("post", path, sent(id, "Take up to 1000 of them in", "OlderBatch", told, "OlderBatchAnswer"));
    }
    put(
        "get",
        "/analytics/summary",
        asked("olderSummary", "What was counted, for clients of the older system", "OlderSummary"),
    );
    for (path, id, summary) in [
        ("/api/v1/events/user", "publishUser", "Publish that a user was created"),
        ("/api/v1/events/user-created", "publishUserCreated", "Publish that a user was created"),
        ("/api/v1/events/order", "publishOrder", "Publish that an order was placed"),
        ("/api/v1/events/order-placed", "publishOrderPlaced", "Publish that an order was placed"),
        ("/api/v1/events/payment", "publishPayment", "Publish that a payment was processed"),
        (
            "/api/v1/events/payment-processed",
            "publishPaymentProcessed",
            "Publish that a payment was processed",
        ),
    ] {
        let told = answered("200", "Published", "PublishAnswer");
        put("post", path, sent(id, summary, "PublishRequest", told, "PublishError"));
    }
    put(
        "get",
        "/api/v1/events/stats",
        asked("publishStats", "What was published since the start", "PublishStats"),
    );
    for (path, id, summary) in [
        ("/health", "health", "How what this port is for can be done"),
        ("/livez", "liveness", "Whether the process turns: 503 when it should be restarted"),
        ("/ready", "readiness", "Whether requests should come here: 503 when not"),
    ] {
        let mut operation = asked(id, summary, "State");
        operation["responses"]["503"] = operation["responses"]["200"].clone();
        operation["responses"]["503"]["description"] = "No".into();
        operation["security"] = json!([]);
        put("get", path, operation);
    }
    for (path, id, summary) in [
        ("/stats", "stats", "What this port counts"),
        ("/status", "status", "The services with their counts"),
        ("/api/v1/status", "statusV1", "The services with their counts"),
        ("/api/v1/trace", "trace", "How long a message takes to the processor, phase by phase"),
        ("/lag", "lag", "What the group has not worked on yet, by partition"),
    ] {
        put("get", path, asked(id, summary, "State"));
    }
}

/// RFC 4648 §4, with padding, whose last bits are zero (§3.5).
const BASE64: &str = "^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/][AQgw]==|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=)?$";

fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

fn content(form: &str) -> Value {
    json!({"application/json": {"schema": reference(form), "example": forms()[form]["examples"][0]}})
}

fn answered(status: &str, what: &str, form: &str) -> Value {
    let mut answers = Map::new();
    answers.insert(status.to_owned(), json!({"description": what, "content": content(form)}));
    answers.into()
}

fn refused(what: &str) -> Value {
    json!({"description": what, "content": content("Refusal")})
}

fn sent(id: &str, summary: &str, body: &str, mut responses: Value, error: &str) -> Value {
    responses["default"] = json!({"description": "What is wrong", "content": content(error)});
    let ack = json!({
        "name": "Tidegate-Ack", "in": "header",
        "description": "The level to wait for, of those that these settings can have; without it, ack.default.",
        "schema": {"type": "string"},
    });
    let key = json!({
        "name": "Idempotency-Key", "in": "header",
        "description": "The message's id: sent again with the same key, it is not taken twice. In /enqueue it is the id of the body, where that has one.",
        "schema": {"type": "string", "pattern": "^[!-~]{1,255}$"},
    });
    let is_message = matches!(body, "IngestMessage" | "StageMessage");
    json!({
        "operationId": id,
        "summary": summary,
        "parameters": if is_message { json!([ack, key]) } else { json!([]) },
        "requestBody": {"required": true, "content": content(body)},
        "responses": responses,
    })
}

fn asked(id: &str, summary: &str, form: &str) -> Value {
    json!({"operationId": id, "summary": summary, "responses": answered("200", "OK", form)})
}

/// The forms of bodies and answers, each with an example.
fn forms() -> Value {
    let text = |description: &str| json!({"type": "string", "description": description});
    // Fields that may be null, which is as if they were not there.
    let or_null = |description: &str| json!({"type": ["string", "null"], "description": description});
    let seconds = |description: &str| json!({"type": "integer", "format": "int64", "minimum": i64::MIN, "maximum": i64::MAX, "description": description});
    let id = json!({
        "type": "string", "minLength": 1, "maxLength": EVENT_NAME_BYTES_MAX, "pattern": PRINTABLE,
        "description": "Its id; required.",
    });
    let free = |description: &str| json!({"type": "string", "maxLength": EVENT_NAME_BYTES_MAX, "description": description});
    let name = |description: &str| json!({"type": "string", "minLength": 1, "maxLength": EVENT_NAME_BYTES_MAX, "description": description});
    let number = |description: &str| json!({"type": "integer", "description": description});
    json!({
        "IngestMessage": {
            "type": "object",
            "properties": {
                "source": or_null("Where it comes from."),
                "data": or_null("The payload; it arrives byte for byte."),
                "metadata": {
                    "type": ["object", "null"], "additionalProperties": true, "description": "Free pairs. What is no text arrives as its JSON text; null is left out.",
                },
            },
            "examples": [{"source": "shop", "data": "an order", "metadata": {"type": "demo"}}],
        },
        "Ingested": {
            "type": "object",
            "required": ["messageId", "status"],
            "properties": {
                "messageId": text("Its id: the Idempotency-Key, or a UUID of version 7."),
                "status": text("`accepted`."),
                "ack": text("The level that was reached."),
                "shard": number("Which shard of the log it is in."),
                "offset": number("Its offset there."),
                "duplicate": {"type": "boolean", "description": "It was accepted before; nothing was done."},
            },
            "examples": [{"messageId": "01a222b9-5e2a-7000-b8b2-24c029f0ce4d", "status": "accepted", "ack": "queued"}],
        },
        "Refusal": {
            "type": "object",
            "required": ["status", "error"],
            "properties": {
                "status": text("`error`."),
                "error": text("What is wrong, with the setting to look at."),
                "code": text("The gRPC code by name."),
            },
            "examples": [{"status": "error", "error": "the queue is full (queue.size); again after a second", "code": "RESOURCE_EXHAUSTED"}],
        },
        "StageMessage": {
            "type": "object",
            "properties": {
                "id": {"type": ["string", "null"], "pattern": PRINTABLE, "description": "Its id."},
                "timestamp": {
                    "type": ["integer", "string", "null"], "format": "int64", "minimum": i64::MIN, "maximum": i64::MAX,
                    "pattern": "^-?[0-9]{1,18}$", "description": "Seconds of the Unix epoch, as a number or as text.",
                },
                "source": or_null("Where it comes from."),
                "payload": {
                    "type": ["string", "null"], "contentEncoding": "base64", "pattern": BASE64, "description": "The payload.",
                },
                "metadata": {
                    "type": ["object", "null"], "additionalProperties": true, "description": "Free pairs. What is no text arrives as its JSON text; null is left out.",
                },
            },
            "examples": [{"id": "m-1", "timestamp": 1_700_000_000, "source": "shop", "payload": "aGVsbG8=", "metadata": {"k": "v"}}],
        },
        "OlderEvent": {
            "type": "object",
            "required": ["id", "event_type"],
            "properties": {
                "id": id,
                "user_id": free("Whose it is."),
                "event_type": name("Free text, such as page_view; required."),
                "properties": {"type": ["object", "null"], "additionalProperties": {"type": "string"}, "description": "Free pairs."},
                "timestamp": seconds("Seconds of the Unix epoch; 0: now."),
                "source": free("Where it comes from."),
            },
            "examples": [{"id": "e-1", "user_id": "u-1", "event_type": "page_view", "source": "web", "properties": {"page": "/"}}],
        },
        "OlderBatchItem": {
            "type": "object",
            "description": "An event as it is read. One that is not as it should be fails alone, as long as another one is.",
            "properties": {
                "id": text("Its id; required."),
                "user_id": text("Whose it is."),
                "event_type": text("Free text, such as page_view; required."),
                "properties": {"type": ["object", "null"], "additionalProperties": {"type": "string"}, "description": "Free pairs."},
                "timestamp": seconds("Seconds of the Unix epoch; 0: now."),
                "source": text("Where it comes from."),
            },
            "examples": [{"id": "e-1", "user_id": "u-1", "event_type": "page_view", "source": "web", "properties": {"page": "/"}}],
        },
        "OlderEventAnswer": {
            "type": "object",
            "properties": {
                "success": {"type": "boolean", "description": "Whether it was accepted."},
                "message": text("What became of it."),
                "event_id": text("Its id."),
            },
            "examples": [{"success": true, "message": "Event sent successfully", "event_id": "e-1"}],
        },
        "OlderBatch": {
            "type": "object",
            "required": ["events"],
            "properties": {"events": {"type": "array", "minItems": 1, "maxItems": 1000, "items": reference("OlderBatchItem"), "contains": reference("OlderEvent"), "description": "The events, of which one at least is as it should be."}},
            "examples": [{"events": [{"id": "e-2", "user_id": "u-1", "event_type": "page_view"}]}],
        },
        "OlderBatchAnswer": {
            "type": "object",
            "properties": {
                "success": {"type": "boolean", "description": "Whether all were accepted."},
                "message": text("How many of how many were."),
                "processed_count": number("How many were."),
                "failed_event_ids": {"type": "array", "items": {"type": "string"}, "description": "The others."},
            },
            "examples": [{"success": true, "message": "Processed 1/1 events", "processed_count": 1, "failed_event_ids": []}],
        },
        "OlderSummary": {
            "type": "object",
            "properties": {
                "total_events": number("Events."),
                "total_users": number("Different users."),
                "events_by_type": {"type": "object", "additionalProperties": {"type": "integer"}, "description": "Events by type."},
                "top_metrics": {"type": "array", "items": {"type": "object"}, "description": "Metrics."},
                "last_updated": number("Seconds of the Unix epoch."),
            },
            "examples": [{"total_events": 2, "total_users": 1, "events_by_type": {"page_view": 2}, "top_metrics": [], "last_updated": 1_795_878_903}],
        },
        "PublishRequest": {
            "type": "object",
            "required": ["data"],
            "properties": {
                "data": {"type": "string", "minLength": 1, "description": "The event's content, such as JSON as text; not blank."},
                "metadata": {"type": ["object", "null"], "additionalProperties": true, "description": "Free pairs."},
            },
            "examples": [{"data": "{\"user\":\"u-1\"}", "metadata": {"trace": "t-1"}}],
        },
        "PublishAnswer": {
            "type": "object",
            "properties": {
                "status": text("`success`."),
                "message": text("What was done."),
                "event": {"type": "object", "description": "The event as it was published.", "properties": {
                    "id": text("Its id."), "type": text("Its type."), "data": text("Its content."),
                    "timestamp": text("When it was taken."), "version": text("Of this form."), "source": text("Who published it."),
                }},
                "timestamp": text("When it was answered."),
            },
            "examples": [{
                "status": "success", "message": "User created event sent to Kafka",
                "event": {
                    "id": "user_created_20261128151535_txtcl4az", "type": "user_created", "data": "{\"user\":\"u-1\"}",
                    "timestamp": "2026-11-28T15:15:35Z", "version": "1.0", "source": "producer-service",
                },
                "timestamp": "2026-11-28T15:15:35Z",
            }],
        },
        "PublishError": {
            "type": "object",
            "properties": {
                "error": text("The status in words."), "message": text("What is wrong."), "code": text("What is wrong, in a word."),
                "timestamp": text("When it was answered."),
            },
            "examples": [{
                "error": "Bad Request", "message": "data is required: a text that is not blank", "code": "VALIDATION_ERROR",
                "timestamp": "2026-11-28T15:15:03Z",
            }],
        },
        "PublishStats": {
            "type": "object",
            "properties": {
                "status": text("`success`."),
                "data": {"type": "object", "description": "The counts.", "properties": {
                    "total_events": number("Events that were published."), "error_count": number("Requests that failed."),
                    "success_rate": {"type": "number", "description": "Per cent."},
                    "events_by_type": {"type": "object", "additionalProperties": {"type": "integer"}, "description": "Events by type."},
                }},
            },
            "examples": [{"status": "success", "data": {"total_events": 1, "events_by_type": {"user_created": 1}, "error_count": 0, "success_rate": 100.0}}],
        },
        "State": {
            "type": "object",
            "additionalProperties": true,
            "description": "Its fields depend on the settings, and may become more.",
            "examples": [{"healthy": true, "status": "healthy", "service": "producer-service", "version": "0.1.0"}],
        },
    })
}
