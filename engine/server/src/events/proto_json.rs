//! Messages of `analytics.v1` as JSON, by the rules of grpc-gateway: proto JSON with every field, 64-bit numbers as text, both
//! spellings of field names in, and a query as the JSON of a message.

use std::sync::LazyLock;

use axum::body::Bytes;
use prost::Message;
use prost_reflect::{
    DescriptorPool, DeserializeOptions, DynamicMessage, FieldDescriptor, Kind, MessageDescriptor,
    SerializeOptions,
};
use prost_types::Timestamp;
use serde_json::{Map, Value, json};
use tidegate_proto::analytics::v1::{Event, ValidationError};
use tonic::Status;
use transports::message::check_json;

use super::{ingestion::invalid, normal::normalise};

static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    // The bytes are part of the program; the tests read them.
    DescriptorPool::decode(tidegate_proto::FILE_DESCRIPTOR_SET).unwrap_or_default()
});

pub(super) fn descriptor(name: &str) -> Result<MessageDescriptor, Status> {
    POOL.get_message_by_name(&format!("analytics.v1.{name}"))
        .ok_or_else(|| Status::internal(format!("analytics.v1.{name} is not described")))
}

/// Reads a request that brings events in. Unlike in an event, nothing is dropped in it: it would be the options of a
/// request that means another than it says.
pub(super) fn read_request<M: Message + Default>(name: &str, value: Value) -> Result<M, Status> {
    let descriptor = descriptor(name)?;
    refuse_unknown(&descriptor, &value)?;
    for (name, value) in value.as_object().into_iter().flatten() {
        match field(&descriptor, name).map(|field| field.kind()) {
            Some(Kind::Message(inner)) if inner.name() != "Event" => refuse_unknown(&inner, value)?,
            _ => {}
        }
    }
    read(name, value)
}

/// The field of this name, in either spelling.
pub(super) fn field(message: &MessageDescriptor, name: &str) -> Option<FieldDescriptor> {
    message.get_field_by_json_name(name).or_else(|| message.get_field_by_name(name))
}

fn refuse_unknown(message: &MessageDescriptor, value: &Value) -> Result<(), Status> {
    let unknown =
        value.as_object().and_then(|fields| fields.keys().find(|name| field(message, name).is_none()));
    unknown.map_or(Ok(()), |unknown| {
        let known: Vec<_> = message.fields().map(|field| field.name().to_owned()).collect();
        let text = format!("unknown field; {} has {}", message.name(), known.join(", "));
        Err(wrong_field(unknown, "UNKNOWN", text))
    })
}

pub(super) fn wrong_field(field: &str, code: &str, message: String) -> Status {
    invalid(&[ValidationError { field: field.to_owned(), message, code: code.to_owned() }])
}

/// Reads an event of several; `place` says which.
pub(super) fn read_event(place: &str, value: Value) -> Result<Event, Status> {
    let named = |status: Status| {
        let text = status.message();
        let text = if text.starts_with(place) { text.to_owned() } else { format!("{place}: {text}") };
        Status::invalid_argument(text)
    };
    read_from(place, "Event", value).map_err(named)
}

/// Reads a message from a body's proto JSON; unknown fields are dropped.
pub(super) fn read<M: Message + Default>(name: &str, value: Value) -> Result<M, Status> {
    read_from("request body", name, value)
}

/// Reads a message from a query.
pub(super) fn read_query<M: Message + Default>(name: &str, query: Option<&str>) -> Result<M, Status> {
    read_from("query", name, query_value(name, query)?)
}

/// Reads a message; `place` is where its fields stood, for the words of an error.
pub(super) fn read_from<M: Message + Default>(
    place: &str,
    name: &str,
    mut value: Value,
) -> Result<M, Status> {
    let descriptor = descriptor(name)?;
    normalise(&descriptor, &mut value)?;
    let options = DeserializeOptions::new().deny_unknown_fields(false);
    let message = DynamicMessage::deserialize_with_options(descriptor, value, &options)
        .map_err(|error| Status::invalid_argument(format!("{place}: {error}")))?;
    M::decode(message.encode_to_vec().as_slice()).map_err(|error| Status::internal(error.to_string()))
}

/// Writes a message as proto JSON with every field.
pub(super) fn write(name: &str, message: &impl Message) -> Result<Value, Status> {
    let internal = |error: &dyn std::fmt::Display| Status::internal(error.to_string());
    let dynamic = DynamicMessage::decode(descriptor(name)?, message.encode_to_vec().as_slice())
        .map_err(|error| internal(&error))?;
    let options = SerializeOptions::new().skip_default_fields(false);
    dynamic.serialize_with_options(serde_json::value::Serializer, &options).map_err(|error| internal(&error))
}

pub(super) fn body_value(body: &Bytes) -> Result<Value, Status> {
    let value = serde_json::from_slice(body).map_err(|error| wrong_body(&error))?;
    check_json(body).map_err(|error| wrong_body(&error))?;
    Ok(value)
}

pub(super) fn wrong_body(error: &dyn std::fmt::Display) -> Status {
    Status::invalid_argument(format!("request body: {error}"))
}

/// A query as the JSON of a message: `a.b=1`, `list=x&list=y`, `map[key]=value`.
pub(super) fn query_value(name: &str, query: Option<&str>) -> Result<Value, Status> {
    let descriptor = descriptor(name)?;
    let mut root = Map::new();
    for (key, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
        set(&mut root, &descriptor, &key, &key, &value)?;
    }
    Ok(Value::Object(root))
}

/// Sets the field that `key` leads to; `whole` is the key as it stands in the query, for the words of an error.
fn set(
    into: &mut Map<String, Value>,
    descriptor: &MessageDescriptor,
    whole: &str,
    key: &str,
    value: &str,
) -> Result<(), Status> {
    let (head, rest) = match key.find(['.', '[']) {
        Some(at) => key.split_at(at),
        None => (key, ""),
    };
    let found = descriptor.get_field_by_name(head).or_else(|| descriptor.get_field_by_json_name(head));
    // As in a body, unknown fields are dropped.
    let Some(field) = found else { return Ok(()) };
    let wrong =
        |expected: &str| Status::invalid_argument(format!("{whole}: expected {expected}, not `{value}`"));
    let name = field.json_name().to_owned();
    if field.is_map() {
        let inner = rest.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let inner = inner.ok_or_else(|| wrong("a key in brackets"))?;
        if let Value::Object(map) = into.entry(name).or_insert_with(|| json!({})) {
            map.insert(inner.to_owned(), value.into());
        }
        return Ok(());
    }
    let scalar = match field.kind() {
        Kind::Message(message) if !rest.is_empty() => {
            let rest = rest.strip_prefix('.').ok_or_else(|| wrong("a field behind a dot"))?;
            if let Value::Object(map) = into.entry(name).or_insert_with(|| json!({})) {
                set(map, &message, whole, rest, value)?;
            }
            return Ok(());
        }
        Kind::Bool => Value::Bool(value.parse().map_err(|_| wrong("true or false"))?),
        Kind::Double | Kind::Float => json!(value.parse::<f64>().map_err(|_| wrong("a number"))?),
        Kind::Enum(kind) => match value.parse::<i32>() {
            Ok(number) if kind.get_value(number).is_some() => number.into(),
            _ => {
                // `DAY` is as good as `TIME_GRANULARITY_DAY`.
                let zero = kind.default_value().name().to_owned();
                let full = zero.strip_suffix("UNSPECIFIED").map(|prefix| format!("{prefix}{value}"));
                let known = [Some(value.to_owned()), full].into_iter().flatten();
                let known = known.filter_map(|name| kind.get_value_by_name(&name)).next();
                known
                    .ok_or_else(|| wrong(&format!("a name or number of {}", kind.full_name())))?
                    .number()
                    .into()
            }
        },
        Kind::Message(message)
            if message.full_name() == "google.protobuf.Timestamp" && value.parse::<Timestamp>().is_err() =>
        {
            return Err(wrong("a time as 2026-06-01T10:00:00Z"));
        }
        Kind::String | Kind::Bytes | Kind::Message(_) => value.into(),
        _ => value.parse::<i64>().map_or_else(|_| value.into(), Into::into),
    };
    if field.is_list() {
        if let Value::Array(list) = into.entry(name).or_insert_with(|| json!([])) {
            list.push(scalar);
        }
    } else if into.insert(name, scalar).is_some() {
        // Of two, grpc-gateway takes neither.
        return Err(wrong("one value"));
    }
    Ok(())
}
