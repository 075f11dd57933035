//! What is said of a field in the `.proto` files: the comment above it, or behind it on its line. The compiled descriptors
//! have no comments.

use std::{collections::BTreeMap, sync::LazyLock};

const FILES: [&str; 4] = [
    include_str!("../../../../../proto/analytics/v1/events.proto"),
    include_str!("../../../../../proto/analytics/v1/ingestion.proto"),
    include_str!("../../../../../proto/analytics/v1/analytics.proto"),
    include_str!("../../../../../proto/analytics/v1/metrics.proto"),
];

/// By `Message.field`.
static COMMENTS: LazyLock<BTreeMap<String, String>> = LazyLock::new(|| {
    let mut comments = BTreeMap::new();
    FILES.into_iter().for_each(|file| read(file, &mut comments));
    comments
});

/// What is said of a field of a message.
pub(super) fn comment(message: &str, field: &str) -> Option<&'static str> {
    COMMENTS.get(&format!("{message}.{field}")).map(String::as_str)
}

fn read(file: &str, comments: &mut BTreeMap<String, String>) {
    let (mut message, mut above) = ("", String::new());
    for line in file.lines().map(str::trim) {
        if let Some(text) = line.strip_prefix("//") {
            if !above.is_empty() {
                above.push(' ');
            }
            above.push_str(text.trim());
            continue;
        }
        let said = std::mem::take(&mut above);
        if let Some(rest) = line.strip_prefix("message ") {
            message = rest.split([' ', '{']).next().unwrap_or_default();
        } else if let Some((field, number)) = line.split_once(" = ")
            && number.starts_with(|first: char| first.is_ascii_digit())
            && let Some(name) = field.rsplit(' ').next()
        {
            let behind = line.split_once("//").map(|(_, text)| text.trim().to_owned());
            if let Some(text) = Some(said).filter(|said| !said.is_empty()).or(behind) {
                comments.insert(format!("{message}.{name}"), text);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comment_is_that_of_its_field() {
        assert_eq!(comment("Event", "user_id"), Some("Whose it is; required."));
        assert_eq!(comment("Event", "source"), None);
        for (message, field) in COMMENTS.keys().filter_map(|name| name.split_once('.')) {
            let descriptor = super::super::descriptor(message);
            let is_known = descriptor.is_ok_and(|known| known.get_field_by_name(field).is_some());
            assert!(is_known, "{message}.{field}");
        }
    }
}
