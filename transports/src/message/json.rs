//! Reading a JSON object field by field, borrowing from the body (RFC 8259).
//!
//! serde_json does the grammar and the strings. What it would let pass, [`strict`] checks on values that are
//! not plain; the usual message (a few plain strings) never goes there.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::strict::{self, Breach, DUPLICATE_KEY};
use super::{METADATA_PAIRS_MAX, MessageError, Pairs};

/// Takes the fields of an object as they come.
pub(super) trait Fields<'de> {
    /// Reads the value of `key` with one of `map`'s methods, or says false to have it ignored.
    fn field<A: MapAccess<'de>>(
        &mut self,
        key: &str,
        map: &mut A,
        trail: &mut Trail<'de>,
    ) -> Result<bool, A::Error>;
}

/// Where the reading is, and what broke a rule that serde_json does not know: its own error can carry only
/// a text.
#[derive(Default)]
pub(super) struct Trail<'de> {
    body: &'de str,
    field: Option<Cow<'de, str>>,
    key: Option<Cow<'de, str>>,
    found: Option<MessageError>,
}

/// Reads `body`, which must be one object and nothing else.
pub(super) fn read_object<'de>(body: &'de [u8], fields: &mut impl Fields<'de>) -> Result<(), MessageError> {
    let body =
        std::str::from_utf8(body).map_err(|error| MessageError::NotUtf8 { at: error.valid_up_to() })?;
    let mut trail = Trail { body, ..Trail::default() };
    let mut json = serde_json::Deserializer::from_str(body);
    let read = json.deserialize_map(ObjectVisitor { fields, trail: &mut trail }).and_then(|()| {
        trail.field = None;
        json.end()
    });
    read.map_err(|error| trail.explain(&error))
}

impl<'de> Trail<'de> {
    fn pointer(&self) -> String {
        let mut pointer = String::new();
        for token in [&self.field, &self.key].into_iter().flatten() {
            strict::push_token(&mut pointer, token);
        }
        pointer
    }

    fn explain(self, error: &serde_json::Error) -> MessageError {
        let pointer = self.pointer();
        if let Some(found) = self.found {
            return found;
        }
        let (line, column) = (error.line(), error.column());
        let text = error.to_string();
        let what = text.strip_suffix(&format!(" at line {line} column {column}")).unwrap_or(&text).to_owned();
        MessageError::Json { what, pointer, line, column }
    }

    /// Notes a broken rule at `text[at]`, `text` being a part of the body.
    pub(super) fn found<E: serde::de::Error>(&mut self, breach: Breach, text: &str) -> E {
        // Both point into the same body, so the difference of their addresses is an offset.
        let start = (text.as_ptr() as usize).saturating_sub(self.body.as_ptr() as usize);
        let pointer = self.pointer() + &breach.pointer;
        self.found = Some(strict::located(self.body.as_bytes(), start + breach.at, breach.what, pointer));
        E::custom(breach.what)
    }

    /// Checks a value of any kind, found inside `depth` open objects, beyond its grammar.
    fn check<E: serde::de::Error>(&mut self, raw: &'de str, depth: usize) -> Result<(), E> {
        match raw.as_bytes() {
            [b'"' | b'{' | b'[' | b'-' | b'0'..=b'9', ..] => {
                strict::check(raw, depth).map_err(|breach| self.found(breach, raw))
            }
            _ => Ok(()),
        }
    }

    fn duplicate<E: serde::de::Error>(&mut self) -> E {
        E::custom(DUPLICATE_KEY)
    }
}

struct ObjectVisitor<'t, 'de, F> {
    fields: &'t mut F,
    trail: &'t mut Trail<'de>,
}

impl<'de, F: Fields<'de>> Visitor<'de> for ObjectVisitor<'_, 'de, F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Self { fields, trail } = self;
        let mut ignored: Vec<Cow<'de, str>> = Vec::new();
        while let Some(key) = map.next_key_seed(Key)? {
            trail.field = Some(key.clone());
            if !fields.field(&key, &mut map, trail)? {
                let value: &RawValue = map.next_value()?;
                trail.check(value.get(), 1)?;
                ignored.push(key);
            }
        }
        ignored.sort_unstable();
        if let Some(pair) = ignored.windows(2).find(|pair| pair[0] == pair[1]) {
            trail.field = Some(pair[0].clone());
            return Err(trail.duplicate());
        }
        trail.field = None;
        Ok(())
    }
}

/// A key, borrowed unless it is escaped.
struct Key;

impl<'de> DeserializeSeed<'de> for Key {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(TextVisitor)
    }
}

struct TextVisitor;

impl<'de> Visitor<'de> for TextVisitor {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(text))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(text.to_owned()))
    }

    /// encoding/json leaves a string alone when it meets null, and the seed's clients were written for that.
    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(""))
    }
}

/// A string, or null for an empty one.
struct Text;

impl<'de> DeserializeSeed<'de> for Text {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(TextVisitor)
    }
}

/// Reads a string field into `place`, which is empty unless the key came before.
pub(super) fn text<'de, A: MapAccess<'de>>(
    place: &mut Option<Cow<'de, str>>,
    map: &mut A,
    trail: &mut Trail<'de>,
) -> Result<bool, A::Error> {
    if place.is_some() {
        return Err(trail.duplicate());
    }
    *place = Some(map.next_value_seed(Text)?);
    Ok(true)
}

/// Reads a whole number, or a string that holds one (protojson writes 64-bit numbers so).
pub(super) fn whole_number<'de, A: MapAccess<'de>>(
    place: &mut Option<Option<i64>>,
    map: &mut A,
    trail: &mut Trail<'de>,
) -> Result<bool, A::Error> {
    if place.is_some() {
        return Err(trail.duplicate());
    }
    let raw = map.next_value::<&RawValue>()?.get();
    let digits = match raw.as_bytes() {
        b"null" => {
            *place = Some(None);
            return Ok(true);
        }
        [b'"', inner @ .., b'"'] => std::str::from_utf8(inner).unwrap_or_default(),
        _ => raw,
    };
    // `parse` would take a plus sign, which no JSON number has.
    let number = if digits.starts_with('+') { None } else { digits.parse().ok() };
    match number {
        Some(number) => *place = Some(Some(number)),
        None => {
            return Err(A::Error::custom("expected a whole number of 64 bits, or a string that holds one"));
        }
    }
    Ok(true)
}

/// Reads a metadata object: strings as they are, other scalars and nested values as their JSON text, null
/// as if the key were not there.
pub(super) fn metadata<'de, A: MapAccess<'de>>(
    place: &mut Option<()>,
    pairs: &mut Pairs<'de>,
    map: &mut A,
    trail: &mut Trail<'de>,
) -> Result<bool, A::Error> {
    if place.replace(()).is_some() {
        return Err(trail.duplicate());
    }
    map.next_value_seed(Metadata { pairs, trail })?;
    Ok(true)
}

const FEW_KEYS: usize = 16;

struct Metadata<'t, 'de> {
    pairs: &'t mut Pairs<'de>,
    trail: &'t mut Trail<'de>,
}

impl<'de> DeserializeSeed<'de> for Metadata<'_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Metadata<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Self { pairs, trail } = self;
        let mut dropped: Vec<Cow<'de, str>> = Vec::new();
        while let Some(key) = map.next_key_seed(Key)? {
            // Comparing each with each is the fastest for a few; many are sorted at the end.
            let few = pairs.len() + dropped.len() <= FEW_KEYS;
            let repeated = few && (pairs.get(&key).is_some() || dropped.contains(&key));
            trail.key = Some(key.clone());
            if repeated {
                return Err(trail.duplicate());
            }
            let raw = map.next_value::<&RawValue>()?.get();
            let value = match raw.as_bytes() {
                b"null" => {
                    dropped.push(key);
                    if dropped.len() > METADATA_PAIRS_MAX {
                        trail.found = Some(MessageError::TooManyPairs);
                        return Err(A::Error::custom("too many keys"));
                    }
                    continue;
                }
                [b'"', ..] => match strict::decode(raw) {
                    Ok(text) => text,
                    Err(()) => {
                        trail.check::<A::Error>(raw, 2)?;
                        return Err(A::Error::custom("invalid string"));
                    }
                },
                [b'{' | b'[', ..] => {
                    trail.check::<A::Error>(raw, 2)?;
                    strict::compact(raw)
                }
                _ => {
                    trail.check::<A::Error>(raw, 2)?;
                    Cow::Borrowed(raw)
                }
            };
            if pairs.len() == METADATA_PAIRS_MAX {
                trail.found = Some(MessageError::TooManyPairs);
                return Err(A::Error::custom("too many keys"));
            }
            pairs.push(key, value);
        }
        trail.key = None;
        if pairs.len() + dropped.len() > FEW_KEYS {
            let dropped = dropped.iter().map(|key| &**key);
            let mut keys: Vec<&str> = pairs.iter().map(|(key, _)| key).chain(dropped).collect();
            keys.sort_unstable();
            if let Some(pair) = keys.windows(2).find(|pair| pair[0] == pair[1]) {
                trail.key = Some(Cow::Owned(pair[0].to_owned()));
                return Err(trail.duplicate());
            }
        }
        Ok(())
    }
}
