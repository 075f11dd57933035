//! Which topic a message goes to, when its source or metadata says so: a template with one field, and the topics that it may
//! name. What senders write never names a topic by itself: everything else goes to the topic of all messages.

use engine_core::{MetadataPairs, Record};

/// Most topics that a template may name.
const ALLOWED_MAX: usize = 256;

/// A template such as `orders-{region}`, and what it may come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicChoice {
    before: String,
    field: String,
    behind: String,
    allowed: Vec<String>,
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
        let allowed: Vec<String> =
            allowed.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect();
        if allowed.is_empty() || allowed.len() > ALLOWED_MAX {
            return Err(format!(
                "it needs the topics that it may name, 1 to {ALLOWED_MAX} of them, in kafka.topics_allowed"
            ));
        }
        for name in &allowed {
            if !is_topic(name) {
                return Err(format!("`{name}` in kafka.topics_allowed is no topic's name"));
            }
            let fits = name
                .strip_prefix(before)
                .is_some_and(|rest| rest.strip_suffix(behind).is_some_and(|value| !value.is_empty()));
            if !fits {
                return Err(format!("it can never come to `{name}` of kafka.topics_allowed"));
            }
        }
        Ok(Self { before: before.to_owned(), field: field.to_owned(), behind: behind.to_owned(), allowed })
    }

    /// The topics that it may name.
    pub fn allowed(&self) -> &[String] {
        &self.allowed
    }

    /// The topic of a message; `None`: that of all messages.
    pub fn of(&self, record: &Record<'_>) -> Option<&str> {
        let value = match self.field.as_str() {
            "source" => record.source,
            key => MetadataPairs::new(record.metadata).find(|(name, _)| *name == key.as_bytes())?.1,
        };
        let is_it = |topic: &&String| {
            let rest = topic.as_bytes().strip_prefix(self.before.as_bytes());
            rest.and_then(|rest| rest.strip_suffix(self.behind.as_bytes())) == Some(value)
        };
        self.allowed.iter().find(is_it).map(String::as_str)
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
