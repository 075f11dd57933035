//! Which topic or subject a message goes to, when its source or metadata says so: a template with one field, and the names
//! that it may come to. What senders write never names one by itself: everything else goes where all messages go.

use std::collections::BTreeMap;

use engine_core::{MetadataPairs, Record};

/// Most names that a template may come to.
const ALLOWED_MAX: usize = 256;

/// What is chosen.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    /// In a sentence.
    word: &'static str,
    /// The setting that lists those allowed.
    setting: &'static str,
    is_name: fn(&str) -> bool,
}

/// Kafka's topics.
pub const TOPICS: Kind = Kind { word: "topic", setting: "kafka.topics_allowed", is_name: is_topic };
/// NATS' subjects.
pub const SUBJECTS: Kind = Kind { word: "subject", setting: "nats.subjects_allowed", is_name: is_subject };

/// A template such as `orders-{region}`, and what it may come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    field: String,
    /// The names that it may come to, by the field's value.
    allowed: BTreeMap<Vec<u8>, String>,
}

impl Kind {
    /// Whether this is a name of one, in words.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check(&self, name: &str) -> Result<(), String> {
        let Kind { word, is_name, .. } = self;
        if is_name(name) { Ok(()) } else { Err(format!("`{name}` is no {word}'s name")) }
    }
}

impl Choice {
    /// Reads a template with one field in braces, `source` or the name of a metadata key, and the names allowed, separated
    /// by commas.
    ///
    /// # Errors
    /// What is wrong, and what would be right.
    pub fn parse(kind: Kind, template: &str, allowed: &str) -> Result<Self, String> {
        let parts = template.split_once('{').and_then(|(before, rest)| {
            let (field, behind) = rest.split_once('}')?;
            let is_plain = |part: &str| !part.contains(['{', '}']);
            (is_plain(before) && is_plain(field) && is_plain(behind) && !field.is_empty())
                .then_some((before, field, behind))
        });
        let Some((before, field, behind)) = parts else {
            return Err("it needs one field in braces, {source} or {the name of a metadata key}".to_owned());
        };
        let Kind { word, setting, is_name } = kind;
        let names: Vec<&str> = allowed.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
        if names.is_empty() || names.len() > ALLOWED_MAX {
            return Err(format!(
                "it needs the {word}s that it may come to, 1 to {ALLOWED_MAX} of them, in {setting}"
            ));
        }
        let mut allowed = BTreeMap::new();
        for name in names {
            if !is_name(name) {
                return Err(format!("`{name}` in {setting} is no {word}'s name"));
            }
            let value = name.strip_prefix(before).and_then(|rest| rest.strip_suffix(behind));
            let Some(value) = value.filter(|value| !value.is_empty()) else {
                return Err(format!("it can never come to `{name}` of {setting}"));
            };
            allowed.insert(value.as_bytes().to_vec(), name.to_owned());
        }
        Ok(Self { field: field.to_owned(), allowed })
    }

    /// The names that it may come to.
    pub fn allowed(&self) -> impl Iterator<Item = &str> {
        self.allowed.values().map(String::as_str)
    }

    /// Where a message goes; `None`: where all messages go.
    pub fn of(&self, record: &Record<'_>) -> Option<&str> {
        let value = match self.field.as_str() {
            "source" => record.source,
            key => MetadataPairs::new(record.metadata).find(|(name, _)| *name == key.as_bytes())?.1,
        };
        self.allowed.get(value).map(String::as_str)
    }
}

/// Kafka's rule for names (`org.apache.kafka.common.internals.Topic`): up to 249 of ASCII letters, digits, `.`, `_`, `-`.
fn is_topic(name: &str) -> bool {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    !matches!(name, "" | "." | "..") && name.len() <= 249 && name.bytes().all(known)
}

/// NATS' rule for what is published on (docs.nats.io, "Subject-Based Messaging"): tokens between dots, without blanks and
/// wildcards, and not the system's own, which begin with `$`.
fn is_subject(name: &str) -> bool {
    let is_token = |token: &str| {
        !token.is_empty()
            && !token.contains(|c: char| c.is_whitespace() || c.is_control() || "*>".contains(c))
    };
    name.len() <= 249 && !name.starts_with('$') && name.split('.').all(is_token)
}

#[cfg(test)]
mod tests {
    use engine_core::MetadataWriter;

    use super::*;

    #[test]
    fn only_topics_that_are_allowed_are_named() {
        let choice = Choice::parse(TOPICS, "orders-{region}.v1", " orders-eu.v1, orders-us.v1 ").unwrap();
        for (region, topic) in
            [("eu", Some("orders-eu.v1")), ("us", Some("orders-us.v1")), ("mars", None), ("", None)]
        {
            let mut metadata = Vec::new();
            MetadataWriter::new(&mut metadata).push(b"region", region.as_bytes());
            assert_eq!(choice.of(&Record { metadata: &metadata, ..Record::default() }), topic, "{region}");
        }
        assert_eq!(choice.of(&Record::default()), None);
        let by_source = Choice::parse(TOPICS, "{source}", "till").unwrap();
        assert_eq!(by_source.of(&Record { source: b"till", ..Record::default() }), Some("till"));
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (template, allowed, why) in [
            ("orders", "orders", "one field"),
            ("{a}{b}", "x", "one field"),
            ("{}", "x", "one field"),
            ("a-{b}", "", "kafka.topics_allowed"),
            ("a-{b}", "a-x,c-x", "never come to `c-x`"),
            ("a-{b}", "a-", "never come to `a-`"),
            ("{b}", "no topic", "no topic's name"),
        ] {
            let error = Choice::parse(TOPICS, template, allowed).unwrap_err();
            assert!(error.contains(why), "{template} {allowed}: {error}");
        }
        for allowed in ["a.*", "a.>", "a..b", "a. b", "$a.b", "a."] {
            let error = Choice::parse(SUBJECTS, "{b}", allowed).unwrap_err();
            assert!(error.contains("nats.subjects_allowed is no subject's name"), "{allowed}: {error}");
        }
        Choice::parse(SUBJECTS, "orders.{region}", "orders.eu,orders.us").unwrap();
    }
}
