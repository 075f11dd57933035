//! The latest warnings, errors and refusals, for the live page: bounded, with a count for what repeats. The texts are those
//! that were logged, and no more is known here than there.

use std::{
    collections::VecDeque,
    fmt::{Debug, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::SystemTime,
};

use parking_lot::Mutex;
use serde::Serialize;
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::layer::Context;

/// Entries that are kept; a further one takes the place of the one that was seen least lately.
pub const KEPT_MAX: usize = 50;
/// Longest text that is kept of one, in characters.
const TEXT_CHARS_MAX: usize = 500;

/// What an entry is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A line of the log.
    Error,
    /// A line of the log.
    Warning,
    /// Requests that were turned away.
    Refusal,
}

/// Something that went wrong, once or again and again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// Of which kind.
    pub kind: Kind,
    /// What happened.
    pub text: String,
    /// Why, as far as it is known.
    pub reason: Option<String>,
    /// How often it was seen since it is kept.
    pub count: u64,
    /// When it was first seen, in milliseconds of the Unix epoch.
    pub first_ms: u64,
    /// When it was last seen.
    pub last_ms: u64,
}

/// The latest entries.
#[derive(Debug, Default)]
pub struct Latest {
    /// Seen least lately first.
    kept: Mutex<VecDeque<Entry>>,
    noted: AtomicU64,
}

impl Latest {
    /// Something happened so many times.
    pub fn note(&self, kind: Kind, text: &str, reason: Option<&str>, count: u64) {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let now_ms = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        let cut = |text: &str| text.chars().take(TEXT_CHARS_MAX).collect::<String>();
        let (text, reason) = (cut(text), reason.map(cut));
        let mut kept = self.kept.lock();
        let known = kept.iter().position(|entry| entry.kind == kind && entry.text == text);
        let entry = match known.and_then(|place| kept.remove(place)) {
            Some(known) => Entry { count: known.count + count, last_ms: now_ms, reason, ..known },
            None => Entry { kind, text, reason, count, first_ms: now_ms, last_ms: now_ms },
        };
        if kept.len() >= KEPT_MAX {
            kept.pop_front();
        }
        kept.push_back(entry);
        self.noted.fetch_add(1, Relaxed);
    }

    /// Another number each time that something was noted.
    pub fn noted(&self) -> u64 {
        self.noted.load(Relaxed)
    }

    /// All that are kept, the latest first.
    pub fn all(&self) -> Vec<Entry> {
        self.kept.lock().iter().rev().cloned().collect()
    }
}

/// Takes them from the log.
#[derive(Debug)]
pub(super) struct Layer(Arc<Latest>);

impl Layer {
    pub(super) fn new(latest: Arc<Latest>) -> Self {
        Self(latest)
    }
}

impl<S: Subscriber> tracing_subscriber::Layer<S> for Layer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let kind = match *event.metadata().level() {
            Level::ERROR => Kind::Error,
            Level::WARN => Kind::Warning,
            _ => return,
        };
        let mut line = Line::default();
        event.record(&mut line);
        let reason = (!line.fields.is_empty()).then_some(line.fields.as_str());
        self.0.note(kind, &line.message, reason, 1);
    }
}

/// A line of the log as text: its message, and what stands beside it.
#[derive(Debug, Default)]
struct Line {
    message: String,
    fields: String,
}

impl Line {
    fn add(&mut self, field: &Field, value: std::fmt::Arguments<'_>) {
        // Writing to a String does not fail.
        if field.name() == "message" {
            let _ = write!(self.message, "{value}");
        } else {
            let between = if self.fields.is_empty() { "" } else { ", " };
            let _ = write!(self.fields, "{between}{}: {value}", field.name());
        }
    }
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.add(field, format_args!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[test]
    fn what_repeats_is_counted_and_the_oldest_gives_way() {
        let latest = Latest::default();
        latest.note(Kind::Warning, "again", Some("first"), 1);
        for number in 0..KEPT_MAX - 1 {
            latest.note(Kind::Error, &format!("once {number}"), None, 1);
        }
        latest.note(Kind::Warning, "again", Some("second"), 2);
        latest.note(Kind::Error, "one more", None, 1);
        let all = latest.all();
        assert_eq!((all.len(), all[0].text.as_str()), (KEPT_MAX, "one more"));
        assert_eq!((all[1].count, all[1].reason.as_deref()), (3, Some("second")));
        assert_eq!(all.last().map(|entry| entry.text.as_str()), Some("once 1"));
        assert_eq!(latest.noted(), KEPT_MAX as u64 + 2);
    }

    #[test]
    fn a_warning_is_kept_with_its_fields_and_a_message_of_lower_level_is_not() {
        let latest = Arc::<Latest>::default();
        let all = tracing_subscriber::registry().with(Layer::new(Arc::clone(&latest)));
        tracing::subscriber::with_default(all, || {
            tracing::info!("nothing");
            tracing::warn!(broker = "nats", tries = 3, "trouble");
            tracing::error!(error = %"broken", "the end");
        });
        let kept: Vec<(Kind, String, Option<String>)> =
            latest.all().into_iter().map(|entry| (entry.kind, entry.text, entry.reason)).collect();
        assert_eq!(
            kept,
            [
                (Kind::Error, "the end".to_owned(), Some("error: broken".to_owned())),
                (Kind::Warning, "trouble".to_owned(), Some("broker: nats, tries: 3".to_owned())),
            ]
        );
    }

    #[test]
    fn a_text_without_end_is_cut() {
        let latest = Latest::default();
        latest.note(Kind::Error, &"\u{e4}".repeat(2 * TEXT_CHARS_MAX), None, 1);
        assert_eq!(latest.all()[0].text.chars().count(), TEXT_CHARS_MAX);
    }
}
