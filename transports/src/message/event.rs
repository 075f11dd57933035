//! `analytics.v1.Event` from its wire form, borrowed.
//!
//! The hot lane takes an event only when it is *plain*: whole, valid by every rule (docs/events.md), and
//! with each field at most once. Whatever is not plain is no error here: the cold lane reads it with the general
//! decoder and says what is wrong with it, if anything is.

use super::{
    protobuf::Keys,
    shape::{CUSTOM_EVENT, Kind, SYSTEM_EVENT, Shape, TRANSACTION_EVENT, USER_EVENT},
    wire::{Value, Wire},
};

/// Longest id, in characters.
pub const EVENT_ID_CHARS_MAX: usize = 128;
/// Longest name of a user, a session, a source or a metric, in bytes: they are kept as long as they are counted.
pub const EVENT_NAME_BYTES_MAX: usize = 1024;
/// How far ahead of our clock an event may be, in milliseconds.
pub const EVENT_AHEAD_MS_MAX: i64 = 24 * 60 * 60 * 1000;
/// The last second of the year 9999, where `google.protobuf.Timestamp` ends.
const SECONDS_MAX: i64 = 253_402_300_799;

/// An event. Texts were checked to be UTF-8 but stay bytes, which is what they are copied as.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct EventProto<'a> {
    /// Its id; empty: it has none of its own.
    pub id: &'a [u8],
    /// Whose it is.
    pub user_id: &'a [u8],
    /// Its session, or empty.
    pub session_id: &'a [u8],
    /// `analytics.v1.EventType`, 1 to 4.
    pub event_type: u8,
    /// When it happened, in milliseconds of the Unix epoch.
    pub timestamp_ms: Option<i64>,
    /// Where it comes from, or empty.
    pub source: &'a [u8],
    /// What it is about.
    pub about: About<'a>,
    /// The same as it was sent, with the number of its field: an event with nothing else in it.
    pub about_wire: &'a [u8],
    properties: &'a [u8],
}

/// The part of an event that depends on its type.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum About<'a> {
    /// Nothing more is said.
    #[default]
    Nothing,
    /// What a user did.
    User,
    /// Money.
    Transaction {
        /// Finite, 0 to 10^12.
        amount: f64,
        /// `analytics.v1.TransactionType`.
        kind: u64,
        /// `analytics.v1.TransactionStatus`.
        status: u64,
    },
    /// What a system reports.
    System {
        /// `analytics.v1.SystemEventType`.
        kind: u64,
    },
    /// Anything else.
    Custom(Metrics<'a>),
}

/// The named values of a custom event.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Metrics<'a> {
    wire: &'a [u8],
}

impl<'a> Metrics<'a> {
    /// Names and values, in order.
    pub fn iter(self) -> impl Iterator<Item = (&'a [u8], f64)> {
        delimited(self.wire, 4).map(|metric| {
            let (mut name, mut value) = (&b""[..], 0.0);
            let mut wire = Wire { bytes: metric, at: 0 };
            // It was walked before: nothing breaks here.
            while !wire.is_done()
                && let Ok(field) = wire.next()
            {
                match field {
                    (1, Value::Delimited(text)) => name = text.bytes,
                    (2, Value::Double(number)) => value = number,
                    _ => {}
                }
            }
            (name, value)
        })
    }
}

impl<'a> EventProto<'a> {
    /// Its properties, in order; no key comes twice.
    pub fn properties(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
        delimited(self.properties, 7).map(|entry| {
            let (mut key, mut value) = (&b""[..], &b""[..]);
            let mut wire = Wire { bytes: entry, at: 0 };
            while !wire.is_done()
                && let Ok(field) = wire.next()
            {
                match field {
                    (1, Value::Delimited(text)) => key = text.bytes,
                    (2, Value::Delimited(text)) => value = text.bytes,
                    _ => {}
                }
            }
            (key, value)
        })
    }
}

/// The length-delimited values of one field of a message that was walked before.
struct Delimited<'a> {
    wire: Wire<'a>,
    wanted: u32,
}

fn delimited(bytes: &[u8], wanted: u32) -> Delimited<'_> {
    Delimited { wire: Wire { bytes, at: 0 }, wanted }
}

impl<'a> Iterator for Delimited<'a> {
    type Item = &'a [u8];

    // Inlined by force, for the reason that `wire` gives.
    #[inline(always)]
    fn next(&mut self) -> Option<&'a [u8]> {
        while !self.wire.is_done() {
            match self.wire.next().ok()? {
                (number, Value::Delimited(value)) if number == self.wanted => return Some(value.bytes),
                _ => {}
            }
        }
        None
    }
}

/// Reads an event; `None`: it is not plain. `now_ms` is Unix time, for what lies too far ahead.
pub fn decode_event(bytes: &[u8], now_ms: i64) -> Option<EventProto<'_>> {
    let mut event = EventProto::default();
    let mut wire = Wire { bytes, at: 0 };
    let mut seen = 0_u32;
    let mut keys = Keys::default();
    let mut pairs = 0;
    while !wire.is_done() {
        let start = wire.at;
        let (number, value) = wire.next().ok()?;
        let bit = match number {
            1..=6 => 1 << number,
            // The four of the `oneof`.
            10..=13 => 1 << 10,
            _ => 0,
        };
        if seen & bit != 0 {
            return None;
        }
        seen |= bit;
        match (number, value) {
            (1, Value::Delimited(text)) if text.is_utf8() => event.id = text.bytes,
            (2, Value::Delimited(text)) if text.is_utf8() => event.user_id = text.bytes,
            (3, Value::Delimited(text)) if text.is_utf8() => event.session_id = text.bytes,
            (4, Value::Varint(kind @ 1..=4)) => event.event_type = kind as u8,
            (5, Value::Delimited(time)) => event.timestamp_ms = Some(timestamp_ms(time.bytes, now_ms)?),
            (6, Value::Delimited(text)) if text.is_utf8() => event.source = text.bytes,
            (7, Value::Delimited(entry)) => {
                let key = check_pair(entry.bytes)?;
                if pairs == 0 {
                    event.properties = &bytes[start..];
                }
                keys.note(pairs, key);
                pairs += 1;
            }
            (10..=13, Value::Delimited(about)) => {
                event.about = read_about(number, about.bytes, true)?;
                event.about_wire = &bytes[start..wire.at];
            }
            (1..=7 | 10..=13, _) => return None,
            _ => {}
        }
    }
    let longest = event.user_id.len().max(event.session_id.len()).max(event.source.len());
    let whole = !event.user_id.is_empty()
        && event.event_type != 0
        && longest <= EVENT_NAME_BYTES_MAX
        && is_good_id(event.id)
        && !keys.repeated
        && (pairs <= Keys::FEW || keys_differ(&event));
    whole.then_some(event)
}

/// The key of an entry of a map, when that is whole and plain.
#[inline]
fn check_pair(bytes: &[u8]) -> Option<&[u8]> {
    let (mut key, mut seen) = (&b""[..], 0_u32);
    let mut wire = Wire { bytes, at: 0 };
    while !wire.is_done() {
        match wire.next().ok()? {
            (number @ (1 | 2), Value::Delimited(text)) if seen & number == 0 && text.is_utf8() => {
                seen |= number;
                if number == 1 {
                    key = text.bytes;
                }
            }
            (1 | 2, _) => return None,
            _ => {}
        }
    }
    Some(key)
}

/// Reads an event whose bytes [`decode_event`] found plain before, without looking at all of the rules again. `None`:
/// the bytes are no message at all. Texts are not checked to be UTF-8.
#[inline]
pub fn read_event(bytes: &[u8]) -> Option<EventProto<'_>> {
    let mut event = EventProto::default();
    let mut wire = Wire { bytes, at: 0 };
    let mut has_properties = false;
    while !wire.is_done() {
        let start = wire.at;
        match wire.next().ok()? {
            (1, Value::Delimited(text)) => event.id = text.bytes,
            (2, Value::Delimited(text)) => event.user_id = text.bytes,
            (3, Value::Delimited(text)) => event.session_id = text.bytes,
            (4, Value::Varint(kind)) => event.event_type = u8::try_from(kind).unwrap_or(0),
            (5, Value::Delimited(time)) => event.timestamp_ms = timestamp_ms(time.bytes, i64::MAX),
            (6, Value::Delimited(text)) => event.source = text.bytes,
            (7, Value::Delimited(_)) if !has_properties => {
                has_properties = true;
                event.properties = &bytes[start..];
            }
            // Of what users do nothing more is counted.
            (10, Value::Delimited(_)) => {
                event.about = About::User;
                event.about_wire = &bytes[start..wire.at];
            }
            (number @ 11..=13, Value::Delimited(about)) => {
                event.about = read_about(number, about.bytes, false).unwrap_or_default();
                event.about_wire = &bytes[start..wire.at];
            }
            _ => {}
        }
    }
    (!event.user_id.is_empty()).then_some(event)
}

/// Whether all of many keys differ.
#[cold]
fn keys_differ(event: &EventProto<'_>) -> bool {
    let mut keys: Vec<&[u8]> = event.properties().map(|(key, _)| key).collect();
    keys.sort_unstable();
    keys.windows(2).all(|two| two[0] != two[1])
}

/// Printable, and not too long; empty is good, too.
fn is_good_id(id: &[u8]) -> bool {
    if id.len() <= EVENT_ID_CHARS_MAX && id.iter().all(|byte| (b' '..=b'~').contains(byte)) {
        return true;
    }
    std::str::from_utf8(id)
        .is_ok_and(|id| id.chars().count() <= EVENT_ID_CHARS_MAX && !id.chars().any(char::is_control))
}

/// Milliseconds of a `google.protobuf.Timestamp`.
fn timestamp_ms(bytes: &[u8], now_ms: i64) -> Option<i64> {
    let (mut seconds, mut nanos, mut seen) = (0, 0, 0);
    let mut wire = Wire { bytes, at: 0 };
    while !wire.is_done() {
        let (number, value) = wire.next().ok()?;
        match (number, value) {
            (1, Value::Varint(value)) if seen & 1 == 0 => (seconds, seen) = (value.cast_signed(), seen | 1),
            (2, Value::Varint(value)) if seen & 2 == 0 => (nanos, seen) = (value, seen | 2),
            (1 | 2, _) => return None,
            _ => {}
        }
    }
    let in_range = (0..=SECONDS_MAX).contains(&seconds) && nanos < 1_000_000_000;
    let ms = in_range.then(|| seconds * 1000 + (nanos / 1_000_000).cast_signed())?;
    (ms <= now_ms.saturating_add(EVENT_AHEAD_MS_MAX)).then_some(ms)
}

fn read_about(number: u32, bytes: &[u8], is_new: bool) -> Option<About<'_>> {
    /// All of an event's enums end with this number. One of an earlier version's events may be beyond.
    const ENUM_MAX: u64 = 4;
    let is_known = |value: u64| !is_new || value <= ENUM_MAX;
    // What the rules ask for; a field that is absent is empty.
    let mut name = &b""[..];
    match number {
        10 => {
            check(&USER_EVENT, bytes, |number, value| {
                if let (1, Value::Delimited(action)) = (number, value) {
                    name = action.bytes;
                }
            })?;
            (!name.is_empty()).then_some(About::User)
        }
        11 => {
            let (mut currency, mut amount, mut kind, mut status) = (&b""[..], 0.0, 0, 0);
            check(&TRANSACTION_EVENT, bytes, |number, value| match (number, value) {
                (1, Value::Delimited(id)) => name = id.bytes,
                (2, Value::Varint(value)) => kind = enum_value(value),
                (3, Value::Double(value)) => amount = value,
                (4, Value::Delimited(text)) => currency = text.bytes,
                (5, Value::Varint(value)) => status = enum_value(value),
                _ => {}
            })?;
            let good = !name.is_empty()
                && (0.0..=1e12).contains(&amount)
                && currency.len() == 3
                && currency.iter().all(u8::is_ascii_alphabetic)
                && is_known(kind)
                && is_known(status);
            good.then_some(About::Transaction { amount, kind, status })
        }
        12 => {
            let (mut kind, mut severity) = (0, 0);
            check(&SYSTEM_EVENT, bytes, |number, value| match (number, value) {
                (2, Value::Varint(value)) => kind = enum_value(value),
                (3, Value::Varint(value)) => severity = enum_value(value),
                _ => {}
            })?;
            (is_known(kind) && is_known(severity)).then_some(About::System { kind })
        }
        _ => {
            check(&CUSTOM_EVENT, bytes, |number, value| {
                if let (1, Value::Delimited(text)) = (number, value) {
                    name = text.bytes;
                }
            })?;
            let metrics = Metrics { wire: bytes };
            let good = |(name, value): (&[u8], f64)| name.len() <= EVENT_NAME_BYTES_MAX && value.is_finite();
            (!name.is_empty() && metrics.iter().all(good)).then_some(About::Custom(metrics))
        }
    }
}

/// The value of an enum: the lower half of its varint, as the general decoder takes it.
fn enum_value(varint: u64) -> u64 {
    u64::from(varint as u32)
}

/// Walks a message and shows its known fields. `None`: it is broken, a text is not UTF-8, a field has another type or
/// comes twice.
fn check<'a>(shape: &Shape, bytes: &'a [u8], mut show: impl FnMut(u32, Value<'a>)) -> Option<()> {
    let mut wire = Wire { bytes, at: 0 };
    let mut seen = 0_u32;
    while !wire.is_done() {
        let (number, value) = wire.next().ok()?;
        let Some(field) = shape.numbered(number) else { continue };
        if !field.repeated {
            let bit = 1 << number;
            if seen & bit != 0 {
                return None;
            }
            seen |= bit;
        }
        match (field.kind, value) {
            (Kind::Text, Value::Delimited(text)) if text.is_utf8() => {}
            (Kind::Double, Value::Double(_))
            | (Kind::Int32 | Kind::Bool | Kind::Enum(_), Value::Varint(_)) => {}
            (Kind::Message(inner), Value::Delimited(inner_bytes)) => {
                check(inner, inner_bytes.bytes, nothing)?
            }
            (Kind::Pairs, Value::Delimited(entry)) => {
                check_pair(entry.bytes)?;
            }
            _ => return None,
        }
        show(number, value);
    }
    Some(())
}

/// Shown to nobody. A function and no closure, for `check` calls itself with it.
fn nothing(_: u32, _: Value<'_>) {}

#[cfg(test)]
mod tests {
    use prost::Message;
    use prost_types::Timestamp;
    use tidegate_proto::analytics::v1::{
        CustomEvent, CustomMetric, Event, EventType, SystemEvent, SystemEventType, TransactionEvent,
        TransactionItem, UserContext, UserEvent, event::EventData,
    };

    use super::*;

    const NOW_MS: i64 = 1_800_000_000_000;

    fn good() -> Event {
        Event {
            id: "evt-1".into(),
            user_id: "u".into(),
            session_id: "s".into(),
            event_type: EventType::User.into(),
            timestamp: Some(Timestamp { seconds: 1_700_000_000, nanos: 5_000_000 }),
            source: "web".into(),
            properties: [("page".to_owned(), "home".to_owned()), ("plan".to_owned(), "free".to_owned())]
                .into(),
            ..Event::default()
        }
    }

    fn with(data: EventData) -> Event {
        Event { event_data: Some(data), ..good() }
    }

    fn is_plain(event: &Event) -> bool {
        decode_event(&event.encode_to_vec(), NOW_MS).is_some()
    }

    #[test]
    fn a_plain_event_is_borrowed_whole() {
        let bytes = good().encode_to_vec();
        let event = decode_event(&bytes, NOW_MS).unwrap();
        assert_eq!((event.id, event.user_id, event.session_id), (&b"evt-1"[..], &b"u"[..], &b"s"[..]));
        assert_eq!((event.event_type, event.source), (1, &b"web"[..]));
        assert_eq!(event.timestamp_ms, Some(1_700_000_000_005));
        assert_eq!(read_event(&bytes), Some(event));
        let mut properties: Vec<_> = event.properties().collect();
        properties.sort_unstable();
        assert_eq!(properties, [(&b"page"[..], &b"home"[..]), (b"plan", b"free")]);
    }

    #[test]
    fn each_kind_brings_what_the_aggregates_need() {
        let money = with(EventData::TransactionEvent(TransactionEvent {
            transaction_id: "t".into(),
            r#type: 1,
            amount: 12.5,
            currency: "EUR".into(),
            status: 2,
            items: vec![TransactionItem { price: 2.0, quantity: -3, ..Default::default() }; 2],
            ..Default::default()
        }));
        let about = |event: &Event| {
            let bytes = event.encode_to_vec();
            assert_eq!(read_event(&bytes), decode_event(&bytes, NOW_MS));
            let alone = Event::decode(decode_event(&bytes, NOW_MS).unwrap().about_wire).unwrap();
            assert_eq!(alone, Event { event_data: event.event_data.clone(), ..Event::default() });
            match decode_event(&bytes, NOW_MS).unwrap().about {
                About::Custom(metrics) => format!("{:?}", metrics.iter().collect::<Vec<_>>()),
                other => format!("{other:?}"),
            }
        };
        assert_eq!(about(&money), "Transaction { amount: 12.5, kind: 1, status: 2 }");
        let custom = with(EventData::CustomEvent(CustomEvent {
            name: "n".into(),
            metrics: vec![CustomMetric { name: "m".into(), value: 1.5, unit: "s".into() }],
            ..Default::default()
        }));
        assert_eq!(about(&custom), "[([109], 1.5)]");
        let system = SystemEvent { r#type: SystemEventType::Error.into(), ..Default::default() };
        assert_eq!(about(&with(EventData::SystemEvent(system))), "System { kind: 1 }");
        let context = UserContext { is_new_user: true, os: "x".into(), ..Default::default() };
        let user = UserEvent { action: "click".into(), user_context: Some(context), ..Default::default() };
        assert_eq!(about(&with(EventData::UserEvent(user))), "User");
    }

    #[test]
    fn what_breaks_a_rule_is_not_plain() {
        assert!(is_plain(&good()));
        let transaction = |amount: f64, currency: &str, id: &str| {
            with(EventData::TransactionEvent(TransactionEvent {
                transaction_id: id.into(),
                amount,
                currency: currency.into(),
                ..Default::default()
            }))
        };
        assert!(is_plain(&transaction(0.0, "EUR", "t")));
        let metric = |name: &str, value: f64| {
            with(EventData::CustomEvent(CustomEvent {
                name: "n".into(),
                metrics: vec![CustomMetric { name: name.into(), value, ..Default::default() }],
                ..Default::default()
            }))
        };
        for (what, event) in [
            ("no user", Event { user_id: String::new(), ..good() }),
            ("no type", Event { event_type: 0, ..good() }),
            ("unknown type", Event { event_type: 5, ..good() }),
            ("long id", Event { id: "x".repeat(129), ..good() }),
            ("control character", Event { id: "a\u{7f}".into(), ..good() }),
            ("long user", Event { user_id: "u".repeat(1025), ..good() }),
            ("ahead", Event { timestamp: Some(Timestamp { seconds: 1_800_086_401, nanos: 0 }), ..good() }),
            ("before 1970", Event { timestamp: Some(Timestamp { seconds: -1, nanos: 0 }), ..good() }),
            ("nanos", Event { timestamp: Some(Timestamp { seconds: 1, nanos: -1 }), ..good() }),
            ("no action", with(EventData::UserEvent(UserEvent::default()))),
            ("no transaction id", transaction(1.0, "EUR", "")),
            ("negative amount", transaction(-1.0, "EUR", "t")),
            ("no number", transaction(f64::NAN, "EUR", "t")),
            ("currency", transaction(1.0, "EURO", "t")),
            ("metric name", metric(&"m".repeat(1025), 1.0)),
            ("metric value", metric("m", f64::INFINITY)),
        ] {
            assert!(!is_plain(&event), "{what}");
        }
        assert!(is_plain(&Event { id: "ü".repeat(128), ..good() }));
    }

    #[test]
    fn broken_or_repeated_fields_are_not_plain_and_unknown_ones_are() {
        let bytes = good().encode_to_vec();
        let and = |more: &[u8]| decode_event(&[&bytes, more].concat(), NOW_MS).is_some();
        assert!(and(b"") && and(b"\xa2\x06\x01x") && and(b"\xa0\x06\x01"));
        // A second id, an id that is a number, bytes that are no text, a cut, a nested message that is cut.
        for more in
            [&b"\x0a\x01x"[..], b"\x08\x01", b"\x3a\x03\x0a\x01\xff", b"\x3a\x09", b"\x52\x03\x0a\x05x"]
        {
            assert!(!and(more), "{more:x?}");
        }
        // A property whose key came before.
        assert!(!and(b"\x3a\x06\x0a\x04page"));
        let many: Vec<u8> = (0..20_u8).flat_map(|n| [0x3a, 3, 0x0a, 1, b'a' + n]).collect();
        assert!(and(&many) && !and(&[&many[..], b"\x3a\x03\x0a\x01b"].concat()));
        for length in 0..bytes.len() {
            // Never a panic; a prefix may be an event of its own.
            let _ = decode_event(&bytes[..length], NOW_MS);
        }
    }
}
