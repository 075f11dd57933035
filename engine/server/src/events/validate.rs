//! What an event must be (docs/events.md).

use prost_types::Timestamp;
use tidegate_proto::analytics::v1::{
    Event, EventType, SystemEvent, SystemEventType, SystemSeverity, TransactionEvent, TransactionStatus,
    TransactionType, ValidationError, event::EventData,
};
use transports::message::{EVENT_AHEAD_MS_MAX, EVENT_ID_CHARS_MAX, EVENT_NAME_BYTES_MAX};

/// The last second of the year 9999, where `google.protobuf.Timestamp` ends.
pub(super) const SECONDS_MAX: i64 = 253_402_300_799;
/// The largest amount of a transaction.
pub(super) const AMOUNT_MAX: f64 = 1e12;

/// What is wrong with an event; nothing if it is good. `at` is where it stands in the request: `event`, `events[3]`.
pub(super) fn check(event: &Event, at: &str, now_ms: i64) -> Vec<ValidationError> {
    let mut wrong = Vec::new();
    let mut say = |field: &str, code: &str, message: String| {
        wrong.push(ValidationError { field: format!("{at}.{field}"), message, code: code.to_owned() });
    };
    if event.id.chars().count() > EVENT_ID_CHARS_MAX || event.id.chars().any(char::is_control) {
        say(
            "id",
            "INVALID",
            format!("expected 1 to {EVENT_ID_CHARS_MAX} printable characters, or none for an id of ours"),
        );
    }
    if event.user_id.is_empty() {
        say("user_id", "REQUIRED", "expected at least 1 character".to_owned());
    }
    for (field, text) in
        [("user_id", &event.user_id), ("session_id", &event.session_id), ("source", &event.source)]
    {
        if text.len() > EVENT_NAME_BYTES_MAX {
            say(field, "INVALID", format!("expected at most {EVENT_NAME_BYTES_MAX} bytes"));
        }
    }
    if let Some(EventData::CustomEvent(custom)) = &event.event_data
        && custom
            .metrics
            .iter()
            .any(|metric| metric.name.len() > EVENT_NAME_BYTES_MAX || !metric.value.is_finite())
    {
        let text = format!("expected names of at most {EVENT_NAME_BYTES_MAX} bytes, and finite values");
        say("custom_event.metrics", "INVALID", text);
    }
    match EventType::try_from(event.event_type) {
        Ok(EventType::Unspecified) => {
            say(
                "event_type",
                "REQUIRED",
                "expected EVENT_TYPE_USER, _TRANSACTION, _SYSTEM or _CUSTOM".to_owned(),
            );
        }
        Err(_) => say("event_type", "INVALID", format!("there is no event type {}", event.event_type)),
        Ok(_) => {}
    }
    if let Some(timestamp) = &event.timestamp {
        match milliseconds(timestamp) {
            None => say(
                "timestamp",
                "INVALID",
                "expected a time from 1970 on, with nanos of 0 to 999999999".to_owned(),
            ),
            Some(ms) if ms > now_ms + EVENT_AHEAD_MS_MAX => {
                say(
                    "timestamp",
                    "OUT_OF_RANGE",
                    "it is more than a day ahead of this server's clock".to_owned(),
                );
            }
            Some(_) => {}
        }
    }
    let mut required = |field: &str, text: &str| {
        if text.is_empty() {
            say(field, "REQUIRED", "expected at least 1 character".to_owned());
        }
    };
    match &event.event_data {
        Some(EventData::UserEvent(user)) => required("user_event.action", &user.action),
        Some(EventData::CustomEvent(custom)) => required("custom_event.name", &custom.name),
        Some(EventData::TransactionEvent(transaction)) => {
            required("transaction_event.transaction_id", &transaction.transaction_id);
            if !(0.0..=AMOUNT_MAX).contains(&transaction.amount) {
                let text = "expected an amount from 0 to 10^12".to_owned();
                say("transaction_event.amount", "OUT_OF_RANGE", text);
            }
            let currency = transaction.currency.as_bytes();
            if currency.len() != 3 || !currency.iter().all(u8::is_ascii_alphabetic) {
                say("transaction_event.currency", "INVALID", "expected three letters, as EUR".to_owned());
            }
        }
        Some(EventData::SystemEvent(_)) | None => {}
    }
    let mut known = |field: &str, value: i32, is_known: bool| {
        if !is_known {
            say(field, "INVALID", format!("there is no value {value}"));
        }
    };
    match &event.event_data {
        Some(EventData::TransactionEvent(TransactionEvent { r#type, status, .. })) => {
            known("transaction_event.type", *r#type, TransactionType::try_from(*r#type).is_ok());
            known("transaction_event.status", *status, TransactionStatus::try_from(*status).is_ok());
        }
        Some(EventData::SystemEvent(SystemEvent { r#type, severity, .. })) => {
            known("system_event.type", *r#type, SystemEventType::try_from(*r#type).is_ok());
            known("system_event.severity", *severity, SystemSeverity::try_from(*severity).is_ok());
        }
        _ => {}
    }
    wrong
}

/// Milliseconds of the Unix epoch.
pub(super) fn milliseconds(timestamp: &Timestamp) -> Option<i64> {
    let in_range =
        (0..=SECONDS_MAX).contains(&timestamp.seconds) && (0..1_000_000_000).contains(&timestamp.nanos);
    in_range.then(|| timestamp.seconds * 1000 + i64::from(timestamp.nanos) / 1_000_000)
}

#[cfg(test)]
mod tests {
    use tidegate_proto::analytics::v1::TransactionEvent;

    use super::*;

    fn good() -> Event {
        Event { user_id: "u".into(), event_type: EventType::User.into(), ..Event::default() }
    }

    fn fields(event: &Event) -> Vec<String> {
        check(event, "events[3]", 0).into_iter().map(|error| error.field).collect()
    }

    #[test]
    fn each_rule_names_its_field() {
        assert!(fields(&good()).is_empty());
        let empty = fields(&Event::default());
        assert_eq!(empty, ["events[3].user_id", "events[3].event_type"]);
        let long = Event { id: "x".repeat(129), event_type: 9, ..good() };
        assert_eq!(fields(&long), ["events[3].id", "events[3].event_type"]);
        let ahead = Event { timestamp: Some(Timestamp { seconds: 90_000, nanos: 0 }), ..good() };
        assert_eq!(fields(&ahead), ["events[3].timestamp"]);
        let transaction =
            TransactionEvent { amount: f64::NAN, currency: "EURO".into(), ..Default::default() };
        let money = Event { event_data: Some(EventData::TransactionEvent(transaction)), ..good() };
        let names = ["transaction_id", "amount", "currency"]
            .map(|name| format!("events[3].transaction_event.{name}"));
        assert_eq!(fields(&money), names);
        let wordy = Event { session_id: "s".repeat(1025), ..good() };
        assert_eq!(fields(&wordy), ["events[3].session_id"]);
    }
}
