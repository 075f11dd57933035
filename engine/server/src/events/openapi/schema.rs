//! The schemas of messages: proto JSON as it is answered, as it is taken in a body, and as it stands in a query.

use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};
use serde_json::{Map, Value, json};

use super::{
    super::{proto_json::descriptor, validate::SECONDS_MAX},
    comments::comment,
    patterns::{DURATION, FINITE, YEARS, time},
    rules::{self, rules},
};

/// Where a message stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// In an answer: every field, in one form.
    Answer,
    /// In a body: whatever proto JSON lets a client write. `null` is as good as nothing, numbers may be text, enums
    /// numbers.
    Body,
    /// In a query: everything is text.
    Query,
}

/// The schemas that are referred to, by name.
#[derive(Debug, Default)]
pub(super) struct Schemas(Map<String, Value>);

impl Schemas {
    pub(super) fn insert(&mut self, name: &str, schema: Value) {
        self.0.insert(name.to_owned(), schema);
    }

    pub(super) fn into_map(self) -> Map<String, Value> {
        self.0
    }

    /// A reference to an event that is sent alone: the rules for events, which of a batch break no request, are laid over
    /// its fields. In one schema, because generators of clients make nothing of two that hold together.
    pub(super) fn event_alone(&mut self) -> Value {
        let name = "EventAlone";
        if let Ok(event) = descriptor("Event") {
            let mut schema = self.message(&event, Place::Body);
            overlay(&mut schema, rules::event_rules());
            self.insert(name, schema);
        }
        json!({ "$ref": format!("#/components/schemas/{name}") })
    }

    /// A reference to a message's schema, which is described if it was not yet. What is taken has another name than
    /// what is answered: of an `Event`, it is the `EventInput`.
    pub(super) fn reference(&mut self, message: &str, place: Place) -> Value {
        let is_input = place != Place::Answer && !message.ends_with("Request");
        let name = if is_input { format!("{message}Input") } else { message.to_owned() };
        if !self.0.contains_key(&name)
            && let Ok(descriptor) = descriptor(message)
        {
            // Before its fields: a message may hold itself.
            self.insert(&name, Value::Null);
            let schema = self.message(&descriptor, place);
            self.insert(&name, schema);
        }
        json!({ "$ref": format!("#/components/schemas/{name}") })
    }

    fn message(&mut self, message: &MessageDescriptor, place: Place) -> Value {
        let rules = if place == Place::Body { rules(message.name()) } else { Value::Null };
        let properties: Map<String, Value> = message
            .fields()
            .map(|field| {
                let or_null = place == Place::Body && !requires(&rules, &field);
                let mut schema = self.field(&field, place, or_null);
                if let Some(said) = comment(message.name(), field.name())
                    && schema.get("$ref").is_none()
                {
                    schema["description"] = said.into();
                }
                (field.json_name().to_owned(), schema)
            })
            .collect();
        let mut schema = json!({"type": "object", "properties": properties});
        if place == Place::Body {
            for one_of in message.oneofs() {
                if let Some(condition) = at_most_one(&one_of.fields().collect::<Vec<_>>()) {
                    overlay(&mut schema, condition);
                }
            }
            overlay(&mut schema, rules);
        }
        schema
    }

    /// The schema of a field; `or_null`: whether `null` is as good as nothing.
    pub(super) fn field(&mut self, field: &FieldDescriptor, place: Place, or_null: bool) -> Value {
        let mut schema = if field.is_map() {
            // Of all maps that are answered or taken, the keys are text.
            let value = field.kind().as_message().map(MessageDescriptor::map_entry_value_field);
            let values = value.map(|value| self.kind(&value.kind(), place, false));
            json!({"type": "object", "additionalProperties": values})
        } else if field.is_list() {
            json!({"type": "array", "items": self.kind(&field.kind(), place, false)})
        } else {
            return self.kind(&field.kind(), place, or_null);
        };
        if or_null {
            schema["type"] = json!([schema["type"], "null"]);
        }
        schema
    }

    fn kind(&mut self, kind: &Kind, place: Place, or_null: bool) -> Value {
        let types = |names: &[&str]| match names {
            [one] if !or_null => json!(one),
            names => names.iter().copied().chain(or_null.then_some("null")).collect(),
        };
        let in_body = place == Place::Body;
        match kind {
            Kind::Double | Kind::Float if in_body => {
                let pattern = format!("^(NaN|-?Infinity)$|{FINITE}");
                json!({"type": types(&["number", "string"]), "format": "double", "pattern": pattern})
            }
            Kind::Double | Kind::Float if place == Place::Answer => {
                json!({"type": ["number", "string"], "format": "double", "pattern": "^(NaN|-?Infinity)$"})
            }
            Kind::Double | Kind::Float => json!({"type": "number", "format": "double"}),
            Kind::Bool => json!({"type": types(&["boolean"])}),
            Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => {
                let mut schema =
                    json!({"type": "integer", "format": "int32", "minimum": i32::MIN, "maximum": i32::MAX});
                if in_body {
                    schema["type"] = types(&["integer", "string"]);
                    schema["pattern"] = "^[+-]?[0-9]{1,9}$".into();
                }
                schema
            }
            Kind::Uint32 | Kind::Fixed32 => json!({"type": "integer", "minimum": 0, "maximum": u32::MAX}),
            Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 | Kind::Uint64 | Kind::Fixed64 => {
                json!({"type": "string", "format": "int64", "pattern": "^-?[0-9]{1,20}$"})
            }
            Kind::String => json!({"type": types(&["string"])}),
            Kind::Bytes => json!({"type": types(&["string"]), "contentEncoding": "base64"}),
            Kind::Enum(kind) => {
                let names = kind.values().map(|value| value.name().to_owned());
                match place {
                    Place::Answer => json!({"type": "string", "enum": names.collect::<Vec<_>>()}),
                    // Of a number, proto3 does not ask that it has a name.
                    Place::Body => {
                        let names: Value =
                            names.map(Value::from).chain(or_null.then_some(Value::Null)).collect();
                        json!({"anyOf": [
                            {"enum": names},
                            {"type": "integer", "minimum": i32::MIN, "maximum": i32::MAX},
                        ]})
                    }
                    Place::Query => {
                        let prefix =
                            kind.default_value().name().strip_suffix("UNSPECIFIED").map(str::to_owned);
                        let prefix = prefix.unwrap_or_default();
                        let short =
                            kind.values().map(|value| value.name().trim_start_matches(&prefix).into());
                        let numbers = kind.values().map(|value| value.number().into());
                        let names: Vec<Value> = names.map(Value::from).chain(short).collect();
                        // Each list of one type: some generators take no mixed ones.
                        json!({"anyOf": [
                            {"type": "string", "enum": names},
                            {"type": "integer", "enum": numbers.collect::<Vec<Value>>()},
                        ]})
                    }
                }
            }
            Kind::Message(message) => match message.full_name() {
                "google.protobuf.Timestamp" if in_body => json!({
                    "type": types(&["string", "number"]),
                    "format": "date-time",
                    "pattern": time(YEARS),
                    // As a number of seconds.
                    "minimum": 0,
                    "maximum": SECONDS_MAX,
                }),
                "google.protobuf.Timestamp" => {
                    json!({"type": "string", "format": "date-time", "pattern": time(YEARS)})
                }
                "google.protobuf.Duration" => {
                    json!({"type": types(&["string"]), "pattern": DURATION, "examples": ["1.5s"]})
                }
                _ => {
                    let schema = self.reference(message.name(), place);
                    if or_null || place == Place::Answer {
                        json!({"anyOf": [schema, {"type": "null"}]})
                    } else {
                        schema
                    }
                }
            },
        }
    }
}

/// Whether the rules for a message ask for one of its fields.
pub(super) fn requires(rules: &Value, field: &FieldDescriptor) -> bool {
    rules["required"].as_array().is_some_and(|names| names.iter().any(|name| name == field.json_name()))
}

/// Of the fields of a `oneof`, all but one are absent, or `null`: where the first is there, the others are not; else the same of
/// the rest. As a condition, because a generator of clients takes the branches of an `anyOf` for types of their own.
fn at_most_one(fields: &[FieldDescriptor]) -> Option<Value> {
    let [one, others @ ..] = fields else { return None };
    let name = one.json_name();
    let absent: Map<String, Value> =
        others.iter().map(|other| (other.json_name().to_owned(), json!({"type": "null"}))).collect();
    let mut condition = json!({
        "if": {"required": [name], "properties": {name: {"type": "object"}}},
        "then": {"properties": absent},
    });
    // Of the last one alone nothing is to be said.
    if others.len() > 1
        && let Some(rest) = at_most_one(others)
    {
        condition["else"] = rest;
    }
    Some(condition)
}

/// Lays a schema over another one.
pub(super) fn overlay(schema: &mut Value, over: Value) {
    match (schema, over) {
        (Value::Object(schema), Value::Object(over)) => {
            for (name, value) in over {
                match schema.get_mut(&name) {
                    Some(known) => overlay(known, value),
                    None => {
                        schema.insert(name, value);
                    }
                }
            }
        }
        (schema, over) => *schema = over,
    }
}
