//! Words that go with an outcome: an [`Outcome`](crate::Outcome) is two words of memory and carries a number, the words
//! stand here.
//!
//! The latest are kept. Who asks for an older one gets none, and has the status to go by.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
};

/// Reasons that are kept. They are read within one turn of a core after they were noted.
const KEPT_MAX: usize = 1024;
/// Longest text; the rest is cut off.
const TEXT_BYTES_MAX: usize = 1024;

/// Why another process did not take a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// In its own words.
    pub text: String,
    /// The name of its gRPC code, if it gave one.
    pub code: Option<String>,
}

/// The latest reasons by number. Written by whoever speaks to the other process, read by the front ends.
#[derive(Debug, Default)]
pub struct Reasons(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    /// The number of the first.
    first: u32,
    reasons: VecDeque<Reason>,
}

impl Reasons {
    /// Keeps a reason and gives its number; one that says what the last one said has the same.
    pub fn note(&self, text: &str, code: Option<&str>) -> u32 {
        let mut end = text.len().min(TEXT_BYTES_MAX);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let reason = Reason { text: text[..end].to_owned(), code: code.map(str::to_owned) };
        // Nothing is left half-done where this could panic.
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.reasons.back() != Some(&reason) {
            if kept.reasons.len() == KEPT_MAX {
                kept.reasons.pop_front();
                kept.first = kept.first.wrapping_add(1);
            }
            kept.reasons.push_back(reason);
        }
        kept.first.wrapping_add(kept.reasons.len() as u32 - 1)
    }

    /// The reason of this number, if it is still kept.
    pub fn get(&self, number: u32) -> Option<Reason> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.reasons.get(number.wrapping_sub(kept.first) as usize).cloned()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_number_leads_to_its_words_until_they_are_too_old() {
        let reasons = Reasons::default();
        let first = reasons.note("queue is full", Some("RESOURCE_EXHAUSTED"));
        assert_eq!(reasons.note("queue is full", Some("RESOURCE_EXHAUSTED")), first);
        let second = reasons.note("another", None);
        assert_ne!(first, second);
        assert_eq!(reasons.get(first).map(|reason| reason.text), Some("queue is full".to_owned()));
        for n in 0..KEPT_MAX {
            reasons.note(&n.to_string(), None);
        }
        assert_eq!((reasons.get(first), reasons.get(second)), (None, None));
    }

    #[test]
    fn long_words_are_cut_between_characters() {
        let reasons = Reasons::default();
        let number = reasons.note(&"\u{fc}".repeat(TEXT_BYTES_MAX), None);
        assert_eq!(reasons.get(number).map(|reason| reason.text.len()), Some(TEXT_BYTES_MAX));
    }
}
