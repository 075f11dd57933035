//! What must hold of each answer when no log stands in front of the brokers.
//!
//! `delivered` is on every side, or on one with best-effort. `queued` is so, too, unless its engine was killed: an orderly
//! end delivers it, or puts it among the dead letters, or counts it as lost and names it. What best-effort leaves one
//! side without is among the dead letters.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::client::Told;

/// How a life of the engine ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// kill -9.
    Killed,
    /// SIGTERM; its last line counted so many messages as lost.
    Stopped {
        /// `lost=` of that line.
        lost: u64,
    },
}

/// What is known at the end.
pub struct Evidence<'a> {
    /// What was said of each message.
    pub told: &'a HashMap<String, Told>,
    /// The messages that each side has.
    pub sides: &'a [(&'static str, HashSet<String>)],
    /// Side and message id of each dead letter.
    pub letters: &'a HashSet<(String, String)>,
    /// Message ids that the engine's own output names.
    pub named: &'a HashSet<String>,
    /// How each life ended.
    pub ends: &'a [End],
    /// Whether one side is enough.
    pub best_effort: bool,
}

/// What was not kept.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Broken {
    /// Answered `delivered`, and not on the sides that promises.
    pub delivered: Vec<String>,
    /// Answered `queued` by an engine that ended in order; neither there, nor listed, nor named.
    pub queued: Vec<String>,
    /// By life: answered `queued`, neither there nor listed, and beyond what the last line counts as lost.
    pub uncounted: BTreeMap<u32, u64>,
    /// By side: what it misses and another side has, and is not listed.
    pub missed: BTreeMap<&'static str, Vec<String>>,
    /// Not broken: answered `queued` by an engine that was killed then.
    pub killed: u64,
    /// Not broken: missed by one side of best-effort, the engine was killed before it could list it.
    pub missed_killed: u64,
}

impl Broken {
    /// Whether every promise was kept.
    pub fn is_clean(&self) -> bool {
        self.delivered.is_empty()
            && self.queued.is_empty()
            && self.uncounted.is_empty()
            && self.missed.values().all(Vec::is_empty)
    }

    /// Prints it.
    pub fn print(&self) {
        let some = |ids: &[String]| ids.iter().take(3).cloned().collect::<Vec<_>>().join(", ");
        println!("answered delivered, and not there: {}  {}", self.delivered.len(), some(&self.delivered));
        println!(
            "answered queued, ended in order, neither there nor listed: {}  {}",
            self.queued.len(),
            some(&self.queued)
        );
        let uncounted: u64 = self.uncounted.values().sum();
        println!(
            "  of these more than the last lines count as lost: {uncounted}, in {} lives",
            self.uncounted.len()
        );
        for (side, missed) in &self.missed {
            println!("missed by {side}, not among the dead letters: {}  {}", missed.len(), some(missed));
        }
        println!(
            "not promised: {} answered queued and gone with a kill -9, {} missed by a side and not listed because of one",
            self.killed, self.missed_killed
        );
    }
}

/// Compares what was said with what is there.
pub fn check(evidence: &Evidence<'_>) -> Broken {
    let mut broken = Broken::default();
    let mut gone: BTreeMap<u32, u64> = BTreeMap::new();
    let mut told: Vec<_> = evidence.told.iter().collect();
    told.sort_by_key(|(id, _)| *id);
    for (id, told) in told {
        let end = evidence.ends.get(told.life as usize).copied().unwrap_or(End::Killed);
        let (has, lacks): (Vec<_>, Vec<_>) = evidence.sides.iter().partition(|(_, ids)| ids.contains(id));
        let is_there = if evidence.best_effort { !has.is_empty() } else { lacks.is_empty() };
        let is_listed = |side: &str| evidence.letters.contains(&(side.to_owned(), told.message_id.clone()));
        if !is_there && told.level == "delivered" {
            broken.delivered.push(id.clone());
        } else if !is_there && end == End::Killed {
            broken.killed += 1;
        } else if !is_there && !lacks.iter().all(|(side, _)| is_listed(side)) {
            *gone.entry(told.life).or_default() += 1;
            if !evidence.named.contains(&told.message_id) {
                broken.queued.push(id.clone());
            }
        }
        if !is_there || !evidence.best_effort {
            continue;
        }
        for (side, _) in lacks.iter().filter(|(side, _)| !is_listed(side)) {
            if end == End::Killed {
                broken.missed_killed += 1;
            } else {
                broken.missed.entry(side).or_default().push(id.clone());
            }
        }
    }
    for (life, gone) in gone {
        if let Some(End::Stopped { lost }) = evidence.ends.get(life as usize)
            && gone > *lost
        {
            broken.uncounted.insert(life, gone - lost);
        }
    }
    broken
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(level: &'static str, life: u32) -> Told {
        Told { level, life, message_id: "m".to_owned() }
    }

    /// One message, on these of the sides nats and kafka; two lives, the first was killed, the second stopped.
    fn one(told: Told, on: &[&str], listed: &[&str], lost: u64, best_effort: bool) -> Broken {
        let told = HashMap::from([("a".to_owned(), told)]);
        let has =
            |side: &str| if on.contains(&side) { HashSet::from(["a".to_owned()]) } else { HashSet::new() };
        check(&Evidence {
            told: &told,
            sides: &[("nats", has("nats")), ("kafka", has("kafka"))],
            letters: &listed.iter().map(|side| ((*side).to_owned(), "m".to_owned())).collect(),
            named: &HashSet::new(),
            ends: &[End::Killed, End::Stopped { lost }],
            best_effort,
        })
    }

    #[test]
    fn delivered_is_on_every_side_whatever_the_end() {
        assert!(one(told("delivered", 0), &["nats", "kafka"], &[], 0, false).is_clean());
        assert_eq!(one(told("delivered", 0), &["nats"], &[], 0, false).delivered, ["a"]);
        assert_eq!(one(told("delivered", 0), &[], &["nats", "kafka"], 0, true).delivered, ["a"]);
    }

    #[test]
    fn a_kill_may_take_what_was_queued_and_a_stop_may_not() {
        assert!(one(told("queued", 0), &[], &[], 0, false).is_clean());
        let broken = one(told("queued", 1), &[], &[], 0, false);
        assert_eq!((broken.queued.len(), broken.uncounted[&1]), (1, 1));
        assert!(one(told("queued", 1), &[], &["nats", "kafka"], 0, false).is_clean());
    }

    #[test]
    fn what_is_counted_as_lost_has_to_be_named_as_well() {
        let broken = one(told("queued", 1), &[], &[], 1, false);
        assert!(broken.uncounted.is_empty() && !broken.is_clean());
    }

    #[test]
    fn what_one_side_of_best_effort_misses_is_listed() {
        assert!(one(told("delivered", 1), &["nats"], &["kafka"], 0, true).is_clean());
        assert_eq!(one(told("delivered", 1), &["nats"], &[], 0, true).missed["kafka"], ["a"]);
        let killed = one(told("delivered", 0), &["nats"], &[], 0, true);
        assert!(killed.is_clean() && killed.missed_killed == 1);
    }
}
