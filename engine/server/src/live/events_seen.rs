//! Events of the last hour by type and by source, from the aggregates' minutes.

use std::collections::HashMap;

use engine_analytics::Part;
use serde::Serialize;

use crate::events::Parts;

/// How far back.
pub const MINUTES: i64 = 60;
/// Names that are listed, the most frequent first; the rest is added up.
const NAMES_MAX: usize = 20;

/// What was seen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct EventsSeen {
    /// All events.
    total: u64,
    by_type: Tally,
    by_source: Tally,
}

/// Counts by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
struct Tally {
    top: Vec<(String, u64)>,
    /// Names beyond the list, and their events.
    more_names: usize,
    more_events: u64,
}

impl Tally {
    fn new(counts: HashMap<String, u64>) -> Self {
        let mut top: Vec<(String, u64)> = counts.into_iter().collect();
        top.sort_by(|one, other| other.1.cmp(&one.1).then_with(|| one.0.cmp(&other.0)));
        let rest = top.split_off(top.len().min(NAMES_MAX));
        let more_events = rest.iter().map(|(_, events)| events).sum();
        Self { top, more_names: rest.len(), more_events }
    }
}

/// Adds the minutes up, core by core. Event times are the senders'; what lies outside the hour is not here.
pub fn look(parts: &Parts, now_ms: i64) -> EventsSeen {
    let (mut types, mut sources, mut total) = (HashMap::new(), HashMap::new(), 0);
    for part in parts.iter() {
        // Sharing the minutes is quick; adding them up needs no lock. By number first: a list of a thousand names is
        // gone through once per minute and not once per name.
        let buckets = part.lock().cover(now_ms - MINUTES * 60_000, now_ms + 1);
        let (mut by_type, mut by_source) = (Vec::new(), Vec::new());
        for bucket in &buckets {
            total += bucket.events;
            add(&mut by_type, &bucket.by_name);
            add(&mut by_source, &bucket.by_source);
        }
        drop(buckets);
        let part: &Part = &part.lock();
        name(&mut types, &by_type, |number| part.names().name(number));
        name(&mut sources, &by_source, |number| part.sources().name(number));
    }
    EventsSeen { total, by_type: Tally::new(types), by_source: Tally::new(sources) }
}

fn add(sums: &mut Vec<u64>, counts: &[(u16, u64)]) {
    for (number, count) in counts {
        let place = usize::from(*number);
        if place >= sums.len() {
            sums.resize(place + 1, 0);
        }
        sums[place] += count;
    }
}

fn name<'a>(all: &mut HashMap<String, u64>, sums: &[u64], name_of: impl Fn(u16) -> &'a str) {
    for (number, count) in (0_u16..).zip(sums).filter(|(_, count)| **count > 0) {
        *all.entry(name_of(number).to_owned()).or_default() += count;
    }
}

#[cfg(test)]
mod tests {
    use engine_analytics::{Bounds, Event};

    use super::*;

    #[test]
    fn cores_are_added_up_by_name_and_the_rare_ones_together() {
        let parts = crate::events::parts(2, Bounds::default());
        let now_ms = 1_780_000_000_000;
        let put = |core: usize, name: &str, at_ms: i64| {
            let event = Event { name, source: "web", user: "u", timestamp_ms: at_ms, ..Event::default() };
            parts[core].lock().add(&event);
        };
        for number in 0..25 {
            // In another order on the other core: their numbers differ.
            put(0, &format!("n-{number:02}"), now_ms);
            put(1, &format!("n-{:02}", 24 - number), now_ms);
        }
        put(1, "n-24", now_ms - 1000);
        put(0, "n-24", now_ms - 2 * MINUTES * 60_000);
        let seen = look(&parts, now_ms);
        assert_eq!(seen.total, 51);
        assert_eq!(seen.by_type.top[..2], [("n-24".to_owned(), 3), ("n-00".to_owned(), 2)]);
        assert_eq!((seen.by_type.more_names, seen.by_type.more_events), (5, 10));
        assert_eq!(seen.by_source.top, [("web".to_owned(), 51)]);
    }
}
