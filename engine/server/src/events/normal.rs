//! Where this API and the general reader of proto JSON differ: times may be numbers of seconds, as older clients send them,
//! and an enum's name that nobody knows is an error. The reader drops such a name together with unknown fields, and
//! revenue would be lost to a typing error in `status`.

use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};
use prost_types::Timestamp;
use serde_json::Value;
use tonic::Status;

use super::validate::SECONDS_MAX;

/// Brings a message's JSON into the form that the reader takes. What it finds wrong with the form is left to it.
pub(super) fn normalise(message: &MessageDescriptor, value: &mut Value) -> Result<(), Status> {
    let Value::Object(fields) = value else { return Ok(()) };
    // Of two spellings the reader would take the last one.
    let twice = |field: &FieldDescriptor| {
        field.json_name() != field.name()
            && fields.contains_key(field.json_name())
            && fields.contains_key(field.name())
    };
    if let Some(field) = message.fields().find(twice) {
        let (name, camel) = (field.name(), field.json_name());
        return Err(Status::invalid_argument(format!(
            "{name}: it comes twice, as `{name}` and as `{camel}`"
        )));
    }
    for (name, value) in fields {
        let known = message.get_field_by_json_name(name).or_else(|| message.get_field_by_name(name));
        // Maps are text to text.
        let Some(field) = known.filter(|field| !field.is_map()) else { continue };
        let kind = field.kind();
        match value {
            Value::Array(items) if field.is_list() => {
                items.iter_mut().try_for_each(|item| normalise_one(&kind, name, item))?;
            }
            one => normalise_one(&kind, name, one)?,
        }
    }
    Ok(())
}

fn normalise_one(kind: &Kind, name: &str, value: &mut Value) -> Result<(), Status> {
    match (kind, &mut *value) {
        (Kind::Message(message), Value::Number(seconds))
            if message.full_name() == "google.protobuf.Timestamp" =>
        {
            let time = seconds.as_f64().and_then(time).ok_or_else(|| {
                Status::invalid_argument(format!(
                    "{name}: expected 0 to {SECONDS_MAX} seconds, not {seconds}"
                ))
            })?;
            *value = time.to_string().into();
            Ok(())
        }
        (Kind::Message(message), _) => normalise(message, value),
        // 3.0 is the whole number 3, but not to the reader.
        (Kind::Enum(_), Value::Number(number)) => {
            let whole = number.as_f64().filter(|number| number.fract() == 0.0 && number.abs() < 4e9);
            if let Some(whole) = whole {
                *value = (whole as i64).into();
            }
            Ok(())
        }
        (Kind::Enum(kind), Value::String(text)) if kind.get_value_by_name(text).is_none() => {
            let known: Vec<String> = kind.values().map(|value| value.name().to_owned()).collect();
            let text = format!("{name}: expected one of {}, not `{text}`", known.join(", "));
            Err(Status::invalid_argument(text))
        }
        _ => Ok(()),
    }
}

fn time(seconds: f64) -> Option<Timestamp> {
    let whole = seconds.floor();
    let nanos = (seconds - whole) * 1e9;
    (0.0..=SECONDS_MAX as f64)
        .contains(&whole)
        .then(|| Timestamp { seconds: whole as i64, nanos: (nanos as i32).min(999_999_999) })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{super::proto_json::descriptor, *};

    fn normal(mut value: Value) -> Result<Value, Status> {
        normalise(&descriptor("IngestEventsRequest").unwrap(), &mut value)?;
        Ok(value)
    }

    #[test]
    fn numbers_of_seconds_are_times() {
        let value = normal(json!({"events": [{"timestamp": 1_700_000_000.5}, {"timestamp": 0}]})).unwrap();
        assert_eq!(value["events"][0]["timestamp"], "2023-11-14T22:13:20.500Z");
        assert_eq!(value["events"][1]["timestamp"], "1970-01-01T00:00:00Z");
        for beyond in [json!(-1), json!(253_402_300_800_i64), json!(1e300)] {
            let error = normal(json!({"events": [{"timestamp": beyond}]})).unwrap_err();
            assert!(error.message().starts_with("timestamp: "), "{error}");
        }
    }

    #[test]
    fn a_name_that_no_enum_has_is_an_error_an_unknown_field_is_not() {
        let event = |status| json!({"events": [{"transaction_event": {"status": status, "x": [1]}}], "y": 1});
        for good in [json!("TRANSACTION_STATUS_PENDING"), json!(77), json!(null)] {
            assert_eq!(normal(event(good.clone())).unwrap(), event(good));
        }
        assert_eq!(normal(event(json!(2.0))).unwrap(), event(json!(2)));
        let error = normal(event(json!("COMPLETE"))).unwrap_err();
        assert!(error.message().starts_with("status: expected one of TRANSACTION_STATUS_"), "{error}");
    }
}
