//! Which topic a message goes to, when its source or metadata says so: a template with one field, and the topics that it may
//! name. What senders write never names a topic by itself: everything else goes to the topic of all messages.

use std::collections::BTreeMap;

use engine_core::{MetadataPairs, Record};

/// Most topics that a template may name.
const ALLOWED_MAX: usize = 256;

/// A template such as `orders-{region}`, and what it may come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicChoice {
    field: String,
    /// The topics that it may come to, by the field's value.
    allowed: BTreeMap<Vec<u8>, String>,
}

impl TopicChoice {
    /// Reads a template with one field in braces, `source` or the name of a metadata key, and the topics allowed, separated
    /// by commas.
    ///
    /// # Errors
    /// What is wrong, and what would be right.
    pub fn parse(template: &str, allowed: &str) -> Result<Self, String> {
        let parts = template.split_once('{').and_then(|(before, rest)| {
            let (field, behind) = rest.split_once('}')?;
            let is_plain = |part: &str| !part.contains(['{', '}']);
            (is_plain(before) && is_plain(field) && is_plain(behind) && !field.is_empty())
                .then_some((before, field, behind))
        });
        let Some((before, field, behind)) = parts else {
            return Err("it needs one field in braces, {source} or {the name of a metadata key}".to_owned());
        };
        let names: Vec<&str> = allowed.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
        if names.is_empty() || names.len() > ALLOWED_MAX {
            return Err(format!(
                "it needs the topics that it may name, 1 to {ALLOWED_MAX} of them, in kafka.topics_allowed"
            ));
        }
        let mut allowed = BTreeMap::new();
        for name in names {
            if !is_topic(name) {
                return Err(format!("`{name}` in kafka.topics_allowed is no topic's name"));
            }
            let value = name.strip_prefix(before).and_then(|rest| rest.strip_suffix(behind));
            let Some(value) = value.filter(|value| !value.is_empty()) else {
                return Err(format!("it can never come to `{name}` of kafka.topics_allowed"));
            };
            allowed.insert(value.as_bytes().to_vec(), name.to_owned());
        }
        Ok(Self { field: field.to_owned(), allowed })
    }

    /// The topics that it may name.
    pub fn allowed(&self) -> impl Iterator<Item = &str> {
        self.allowed.values().map(String::as_str)
    }

    /// The topic of a message; `None`: that of all messages.
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

#[cfg(test)]
mod tests {
    use engine_core::MetadataWriter;

    use super::*;

    #[test]
    fn only_topics_that_are_allowed_are_named() {
        let choice = TopicChoice::parse("orders-{region}.v1", " orders-eu.v1, orders-us.v1 ").unwrap();
        for (region, topic) in
            [("eu", Some("orders-eu.v1")), ("us", Some("orders-us.v1")), ("mars", None), ("", None)]
        {
            let mut metadata = Vec::new();
            MetadataWriter::new(&mut metadata).push(b"region", region.as_bytes());
            assert_eq!(choice.of(&Record { metadata: &metadata, ..Record::default() }), topic, "{region}");
        }
        assert_eq!(choice.of(&Record::default()), None);
        let by_source = TopicChoice::parse("{source}", "till").unwrap();
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
            let error = TopicChoice::parse(template, allowed).unwrap_err();
            assert!(error.contains(why), "{template} {allowed}: {error}");
        }
    }
}
