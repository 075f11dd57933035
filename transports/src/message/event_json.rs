//! Proto JSON of an `analytics.v1.Event` into its wire form, in one pass and without an allocation of its own.
//!
//! It takes what clients send day in, day out: both spellings of names, enums by name or number, times as RFC 3339 in
//! UTC or as a number of seconds, unknown fields of an event dropped. Whatever else proto JSON allows or forbids ends the
//! transcoding with `None`, and the cold lane's general reader has the word.

use std::{fmt, time::UNIX_EPOCH};

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::{
    encode,
    shape::{EVENT, Field, Kind, Shape},
    strict,
};

/// Appends the event of a body: it is the body, or lies in its `event`. `None`: the cold lane reads it.
pub fn transcode_event(json: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let mut reader = reader(json)?;
    OneEvent { out }.deserialize(&mut reader).ok()?;
    reader.end().ok()
}

/// Appends the events of a batch, `{"events": […]}`, and where each of them ends. `None`: the cold lane reads it.
pub fn transcode_events(json: &[u8], out: &mut Vec<u8>, ends: &mut Vec<usize>) -> Option<()> {
    let mut reader = reader(json)?;
    reader.deserialize_map(BatchVisitor { out, ends }).ok()?;
    reader.end().ok()
}

/// Appends the events of lines of JSON, and where each of them ends. `None`: the cold lane reads it.
pub fn transcode_lines(json: &[u8], out: &mut Vec<u8>, ends: &mut Vec<usize>) -> Option<()> {
    let mut reader = reader(json)?;
    while reader.end().is_err() {
        Message { shape: &EVENT, out }.deserialize(&mut reader).ok()?;
        ends.push(out.len());
    }
    Some(())
}

/// What is not looked at has to be text, too.
fn reader(json: &[u8]) -> Option<serde_json::Deserializer<serde_json::de::StrRead<'_>>> {
    std::str::from_utf8(json).ok().map(serde_json::Deserializer::from_str)
}

/// Not for these eyes; its text is never shown.
fn unusual<E: Error>() -> E {
    E::custom("unusual")
}

struct OneEvent<'o> {
    out: &'o mut Vec<u8>,
}

impl<'de> DeserializeSeed<'de> for OneEvent<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for OneEvent<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an event")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut fields = Fields::new(&EVENT);
        let mut wrapped = false;
        while let Some(name) = map.next_key::<Name<'de>>()? {
            match &*name.0 {
                "event" if fields.is_empty() && !wrapped => {
                    wrapped = true;
                    map.next_value_seed(Message { shape: &EVENT, out: self.out })?;
                }
                // A request with options, or one that is both.
                "event" | "options" => return Err(unusual()),
                _ if wrapped => return Err(unusual()),
                _ => fields.value(name, &mut map, self.out)?,
            }
        }
        Ok(())
    }
}

struct BatchVisitor<'o> {
    out: &'o mut Vec<u8>,
    ends: &'o mut Vec<usize>,
}

impl<'de> Visitor<'de> for BatchVisitor<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a batch of events")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut seen = false;
        while let Some(name) = map.next_key::<Name<'de>>()? {
            match &*name.0 {
                "events" if !seen => {
                    seen = true;
                    map.next_value_seed(List {
                        shape: &EVENT,
                        field: None,
                        out: self.out,
                        ends: Some(self.ends),
                    })?;
                }
                // Options, or what is no field of a request.
                _ => return Err(unusual()),
            }
        }
        Ok(())
    }
}

/// A name in an object, borrowed when it has no escapes.
#[derive(PartialEq)]
struct Name<'de>(std::borrow::Cow<'de, str>);

impl<'de> serde::Deserialize<'de> for Name<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl<'de> Visitor<'de> for Text {
            type Value = Name<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name")
            }

            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Name<'de>, E> {
                Ok(Name(text.into()))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Name<'de>, E> {
                Ok(Name(text.to_owned().into()))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

/// A few names of one object.
struct Names<'de, const MAX: usize> {
    names: [Option<Name<'de>>; MAX],
    count: usize,
}

impl<'de, const MAX: usize> Names<'de, MAX> {
    fn new() -> Self {
        Self { names: [const { None }; MAX], count: 0 }
    }

    /// Takes another name, unless it is one of them or there are too many to be compared with each other.
    fn take<E: Error>(&mut self, name: Name<'de>) -> Result<(), E> {
        let known = self.names.get(..self.count).unwrap_or_default();
        if known.iter().flatten().any(|known| *known == name) {
            return Err(unusual());
        }
        *self.names.get_mut(self.count).ok_or_else(unusual)? = Some(name);
        self.count += 1;
        Ok(())
    }
}

/// Names that no field has, in one object; with more it is the cold lane's.
const UNKNOWN_MAX: usize = 4;
/// Entries of a map within what an event is about.
const ENTRIES_MAX: usize = 16;

/// The fields of a message, as they come.
struct Fields<'de> {
    shape: &'static Shape,
    /// Fields that came, by number; those of a `oneof` are one.
    seen: u32,
    /// What came and is dropped.
    unknown: Names<'de, UNKNOWN_MAX>,
}

impl<'de> Fields<'de> {
    fn new(shape: &'static Shape) -> Self {
        Self { shape, seen: 0, unknown: Names::new() }
    }

    /// Whether nothing came.
    fn is_empty(&self) -> bool {
        self.seen == 0 && self.unknown.count == 0
    }

    fn value<A: MapAccess<'de>>(
        &mut self,
        name: Name<'de>,
        map: &mut A,
        out: &mut Vec<u8>,
    ) -> Result<(), A::Error> {
        let Some(field) = self.shape.named(&name.0) else {
            let value = map.next_value::<&RawValue>()?.get();
            // Dropped, and read with the same care as everything else.
            if strict::check(value, 1).is_err() {
                return Err(unusual());
            }
            return self.unknown.take(name);
        };
        let bit = if field.one_of { 1 << 31 } else { 1 << field.number };
        if self.seen & bit != 0 {
            return Err(unusual());
        }
        self.seen |= bit;
        match field.kind {
            Kind::Message(shape) if field.repeated => {
                map.next_value_seed(List { shape, field: Some(field.number), out, ends: None })
            }
            _ => map.next_value_seed(Value { field, out }),
        }
    }
}

/// An object as a message, without a tag or a length before it.
struct Message<'o> {
    shape: &'static Shape,
    out: &'o mut Vec<u8>,
}

impl<'de> DeserializeSeed<'de> for Message<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Message<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut fields = Fields::new(self.shape);
        while let Some(name) = map.next_key::<Name<'de>>()? {
            fields.value(name, &mut map, self.out)?;
        }
        Ok(())
    }
}

/// An array of objects: as the field of this number each, or one behind the other with their ends noted.
struct List<'o> {
    shape: &'static Shape,
    field: Option<u32>,
    out: &'o mut Vec<u8>,
    ends: Option<&'o mut Vec<usize>>,
}

impl<'de> DeserializeSeed<'de> for List<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for List<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut items: A) -> Result<(), A::Error> {
        let shape = self.shape;
        loop {
            let out = &mut *self.out;
            let more = match self.field {
                Some(number) => {
                    let length = out.len();
                    let more =
                        encode::message(out, number, |out| items.next_element_seed(Message { shape, out }))?;
                    if more.is_none() {
                        // The tag of an item that did not come.
                        out.truncate(length);
                    }
                    more
                }
                None => items.next_element_seed(Message { shape, out })?,
            };
            if more.is_none() {
                return Ok(());
            }
            if let Some(ends) = &mut self.ends {
                ends.push(out.len());
            }
        }
    }
}

/// A value as a field of the message.
struct Value<'o> {
    field: &'static Field,
    out: &'o mut Vec<u8>,
}

impl<'de> DeserializeSeed<'de> for Value<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Value<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value of the field")
    }

    /// As if it were not there.
    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        let number = self.field.number;
        match self.field.kind {
            Kind::Text => encode::text(self.out, number, text.as_bytes()),
            Kind::Enum(names) => {
                let value = names.iter().position(|name| *name == text).ok_or_else(unusual)?;
                encode::number(self.out, number, value as u64);
            }
            Kind::Time if is_usual_time(text.as_bytes()) => {
                let time = humantime::parse_rfc3339(text).map_err(|_| unusual())?;
                let since = time.duration_since(UNIX_EPOCH).map_err(|_| unusual())?;
                write_time(self.out, number, since.as_secs(), since.subsec_nanos());
            }
            _ => return Err(unusual()),
        }
        Ok(())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        let number = self.field.number;
        match self.field.kind {
            Kind::Double => encode::double(self.out, number, value as f64),
            Kind::Int32 | Kind::Enum(_) if i32::try_from(value).is_ok() => {
                encode::number(self.out, number, value);
            }
            Kind::Time => write_time(self.out, number, value, 0),
            _ => return Err(unusual()),
        }
        Ok(())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<(), E> {
        match self.field.kind {
            Kind::Double => encode::double(self.out, self.field.number, value as f64),
            // A negative int32 is a varint of ten bytes.
            Kind::Int32 if i32::try_from(value).is_ok() => {
                encode::number(self.out, self.field.number, value.cast_unsigned());
            }
            _ => return Err(unusual()),
        }
        Ok(())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<(), E> {
        match self.field.kind {
            Kind::Double => encode::double(self.out, self.field.number, value),
            Kind::Time if (0.0..1e12).contains(&value) => {
                let nanos = (value.fract() * 1e9) as u32;
                write_time(self.out, self.field.number, value as u64, nanos.min(999_999_999));
            }
            _ => return Err(unusual()),
        }
        Ok(())
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<(), E> {
        match self.field.kind {
            Kind::Bool => encode::number(self.out, self.field.number, value.into()),
            _ => return Err(unusual()),
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let number = self.field.number;
        match self.field.kind {
            Kind::Message(shape) => {
                encode::message(self.out, number, |out| Message { shape, out }.visit_map(map))
            }
            Kind::Pairs => {
                // Those of an event's properties are compared when it is decoded.
                let compares = self.field.name != "properties";
                let mut keys = Names::<ENTRIES_MAX>::new();
                while let Some(key) = map.next_key::<Name<'de>>()? {
                    let value = map.next_value::<Name<'de>>()?;
                    encode::message(self.out, number, |out| {
                        encode::text(out, 1, key.0.as_bytes());
                        encode::text(out, 2, value.0.as_bytes());
                    });
                    if compares {
                        keys.take(key)?;
                    }
                }
                Ok(())
            }
            _ => Err(unusual()),
        }
    }
}

/// Whether behind the seconds of a time there is a `Z`, or a point and digits before it (RFC 3339 §5.6); humantime takes
/// any byte for the point, and no digits.
fn is_usual_time(text: &[u8]) -> bool {
    text.len() == 20 || (text.len() > 21 && text.get(19) == Some(&b'.'))
}

fn write_time(out: &mut Vec<u8>, number: u32, seconds: u64, nanos: u32) {
    encode::message(out, number, |out| {
        encode::number(out, 1, seconds);
        encode::number(out, 2, nanos.into());
    });
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use prost_reflect::{DescriptorPool, DeserializeOptions, DynamicMessage};
    use tidegate_proto::analytics::v1::Event;

    use super::*;

    fn event(json: &str) -> Option<Event> {
        let mut out = Vec::new();
        transcode_event(json.as_bytes(), &mut out)?;
        Some(Event::decode(out.as_slice()).unwrap())
    }

    /// What the general reader makes of it.
    fn general(json: &str) -> Event {
        let pool = DescriptorPool::decode(tidegate_proto::FILE_DESCRIPTOR_SET).unwrap();
        let descriptor = pool.get_message_by_name("analytics.v1.Event").unwrap();
        let options = DeserializeOptions::new().deny_unknown_fields(false);
        let mut reader = serde_json::Deserializer::from_str(json);
        let message = DynamicMessage::deserialize_with_options(descriptor, &mut reader, &options).unwrap();
        Event::decode(message.encode_to_vec().as_slice()).unwrap()
    }

    #[test]
    fn it_reads_what_the_general_reader_reads() {
        for json in [
            r#"{"user_id":"u","eventType":"EVENT_TYPE_USER","userEvent":{"action":"click","userContext":{"isNewUser":true}}}"#,
            r#"{"id":"e \"1\" é","userId":"u","event_type":4,"timestamp":"2026-11-26T10:11:12.5Z","source":null,
                "properties":{"a":"1","b c":"é"},"unknown":{"deep":[1,{"x":[]}]},
                "custom_event":{"name":"n","metrics":[{"name":"m","value":1.5},{"name":"k","value":-3},{"name":"z"}]}}"#,
            r#"{"transaction_event":{"transaction_id":"t","type":"TRANSACTION_TYPE_REFUND","amount":12,"currency":"EUR",
                "items":[{"itemId":"i","price":1e3,"quantity":-2},{}],"metadata":{"customFields":{"k":"v"}}}}"#,
            r#"{"systemEvent":{"component":"c","severity":3,"tags":{},"metrics":{"cpuUsage":0.5,"activeConnections":7}}}"#,
            "{}",
        ] {
            assert_eq!(event(json), Some(general(json)), "{json}");
        }
        let long = format!(
            r#"{{"user_event":{{"action":"{}","metadata":{{"k":"{}"}}}}}}"#,
            "a".repeat(300),
            "b".repeat(20_000)
        );
        assert_eq!(event(&long), Some(general(&long)));
    }

    #[test]
    fn an_event_is_the_body_or_lies_in_it() {
        let wrapped = event(r#"{"event":{"user_id":"u"}}"#).unwrap();
        assert_eq!(wrapped.user_id, "u");
        for json in [
            r#"{"event":{"user_id":"u"},"options":{"async":true}}"#,
            r#"{"user_id":"u","event":{"user_id":"w"}}"#,
            r#"{"event":{"user_id":"u"},"user_id":"w"}"#,
        ] {
            assert_eq!(event(json), None, "{json}");
        }
    }

    #[test]
    fn a_time_may_be_seconds() {
        let at = |json: &str| event(json).unwrap().timestamp.unwrap();
        assert_eq!(at(r#"{"timestamp":1640995200}"#).seconds, 1_640_995_200);
        assert_eq!(at(r#"{"timestamp":1.5}"#).nanos, 500_000_000);
    }

    #[test]
    fn what_is_unusual_is_left_to_the_general_reader() {
        for json in [
            "",
            "[]",
            "{",
            r#"{"user_id":"u"} x"#,
            r#"{"user_id":7}"#,
            r#"{"user_id":"u","userId":"u"}"#,
            r#"{"event_type":"USER"}"#,
            r#"{"event_type":-1}"#,
            r#"{"timestamp":"yesterday"}"#,
            r#"{"timestamp":"2026-11-26T10:11:12.Z"}"#,
            r#"{"timestamp":"2026-11-26T10:11:12Z9Z"}"#,
            r#"{"timestamp":"2026-11-26T10:11:12+01:00"}"#,
            r#"{"properties":{"a":1}}"#,
            r#"{"user_event":{},"custom_event":{}}"#,
            r#"{"transaction_event":{"amount":"1.5"}}"#,
            r#"{"user_id":"\ud800"}"#,
            r#"{"event":{},"x":1}"#,
            r#"{"x":1,"event":{}}"#,
            r#"{"x":1,"x":1}"#,
            r#"{"x":{"y":1,"y":1}}"#,
            r#"{"a":1,"b":1,"c":1,"d":1,"e":1}"#,
            r#"{"user_event":{"metadata":{"a":"1","a":"1"}}}"#,
        ] {
            assert_eq!(event(json), None, "{json}");
        }
    }

    #[test]
    fn a_batch_says_where_each_event_ends() {
        let (mut out, mut ends) = (Vec::new(), Vec::new());
        let json = br#"{"events":[{"user_id":"a"},{},{"user_id":"bc"}]}"#;
        transcode_events(json, &mut out, &mut ends).unwrap();
        assert_eq!(ends, [3, 3, 7]);
        let (mut lines, mut line_ends) = (Vec::new(), Vec::new());
        transcode_lines(b"{\"user_id\":\"a\"}\n{}\n\n{\"user_id\":\"bc\"}\n", &mut lines, &mut line_ends)
            .unwrap();
        assert_eq!((lines, line_ends), (out, ends));
        assert!(transcode_lines(b"{\"user_id\":\"a\"}\n{", &mut Vec::new(), &mut Vec::new()).is_none());
        for more in
            [r#"{"events":[],"options":{}}"#, r#"{"x":1,"events":[]}"#, r#"{"events":[],"events":[]}"#]
        {
            assert!(transcode_events(more.as_bytes(), &mut Vec::new(), &mut Vec::new()).is_none(), "{more}");
        }
    }
}
