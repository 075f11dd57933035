//! One id on two cores: a message is remembered on the core of its partition key, and an id is one id whatever key it came
//! with. So each id has a home, a core chosen by the id alone, and before another core takes a message with it for the
//! first time it claims the id there.
//!
//! ```text
//! core of the key ── claim ─────────▶ home of the id: no other core has it, so it is granted
//!                 ◀── granted, or taken
//!                 ── kept, or free ─▶ when the message has come to something
//! ```
//!
//! What is claimed stands in the home's own [`Window`] beside the messages it remembers itself, as a message whose content
//! is the core that has it. So a claim and a message of the home's own meet like two messages do.
//!
//! Messages wait for a verdict in their queue, in order; those of a batch are claimed together. A repeat is known where
//! the first one is remembered, because its key is part of its content: it claims nothing. Nor does a message without a
//! key, which goes to the home of its id, and nothing does on a single core.
//!
//! # Bounds
//!
//! Verdicts that are waited for: one for each message offered, so `cores × BATCH` a core. What has been decided and not
//! been told: one for each message under way, which the slabs bound; it waits here when the ring is full.

use std::collections::VecDeque;

use engine_core::{
    BATCH, Doorbell, Outcome, clock,
    ring::{Consumer, Producer, ring},
};

use crate::window::{ByIds, Id, Window};

/// What a core tells the home of an id.
#[derive(Clone, Copy, Debug)]
enum Said {
    /// A message of it would be taken.
    Claim(Id),
    /// It was, and is remembered.
    Kept(Id),
    /// It was not, or it has failed: anybody may try again.
    Free(Id),
}

/// Whether a claim was granted.
#[derive(Clone, Copy, Debug)]
struct Verdict {
    id: Id,
    granted: bool,
}

/// What a core knows of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    /// It has not been made.
    None,
    /// Its verdict is not there yet.
    Waits,
    /// The id is this core's.
    Granted,
    /// Another core has it.
    Refused,
}

/// The way to one other core, and from it.
#[derive(Debug)]
struct Lane {
    said: Producer<Said>,
    heard: Consumer<Said>,
    verdicts_out: Producer<Verdict>,
    verdicts_in: Consumer<Verdict>,
    /// Said while the ring was full; oldest first.
    unsaid: VecDeque<Said>,
    doorbell: Doorbell,
}

/// One core's claims, and its part in judging those of the others.
#[derive(Debug)]
pub struct Claims {
    core: usize,
    /// By core; `None` at our own place.
    lanes: Vec<Option<Lane>>,
    /// `None`: the verdict is waited for.
    made: ByIds<Option<bool>>,
}

/// The claims of the cores with these doorbells, in order.
pub fn claims(doorbells: &[Doorbell]) -> Vec<Claims> {
    let cores = doorbells.len();
    // As many as can be waited for, so that a ring of verdicts is never full.
    let capacity = (cores * BATCH).next_power_of_two();
    let mut all: Vec<Claims> = (0..cores)
        .map(|core| Claims { core, lanes: (0..cores).map(|_| None).collect(), made: ByIds::default() })
        .collect();
    for first in 0..cores {
        for second in first + 1..cores {
            let (to_second, from_first) = ring(capacity);
            let (to_first, from_second) = ring(capacity);
            let (verdicts_to_second, verdicts_from_first) = ring(capacity);
            let (verdicts_to_first, verdicts_from_second) = ring(capacity);
            all[first].lanes[second] = Some(Lane {
                said: to_second,
                heard: from_second,
                verdicts_out: verdicts_to_second,
                verdicts_in: verdicts_from_second,
                unsaid: VecDeque::new(),
                doorbell: doorbells[second].clone(),
            });
            all[second].lanes[first] = Some(Lane {
                said: to_first,
                heard: from_first,
                verdicts_out: verdicts_to_first,
                verdicts_in: verdicts_from_first,
                unsaid: VecDeque::new(),
                doorbell: doorbells[first].clone(),
            });
        }
    }
    all
}

impl Claims {
    /// Whether an id has its home on another core.
    pub(crate) fn is_away(&self, id: Id) -> bool {
        id.home() != self.core
    }

    /// Claims an id, once. [`flush`](Self::flush) sends it.
    pub(crate) fn make(&mut self, id: Id) {
        if let Some(lane) = self.lanes.get_mut(id.home()).and_then(Option::as_mut)
            && !self.made.contains_key(&id)
        {
            self.made.insert(id, None);
            lane.say(Said::Claim(id));
        }
    }

    /// What became of a claim. A verdict is used up; see [`give_back`](Self::give_back).
    pub(crate) fn verdict(&mut self, id: Id) -> Claim {
        match self.made.get(&id).copied() {
            None => Claim::None,
            Some(None) => Claim::Waits,
            Some(Some(granted)) => {
                self.made.remove(&id);
                if granted { Claim::Granted } else { Claim::Refused }
            }
        }
    }

    /// A granted claim whose message goes nowhere yet: it stays granted.
    pub(crate) fn give_back(&mut self, id: Id) {
        if self.is_away(id) {
            self.made.insert(id, Some(true));
        }
    }

    /// What became of a message whose id was granted: whether it is remembered.
    pub(crate) fn settle(&mut self, id: Id, kept: bool) {
        if let Some(lane) = self.lanes.get_mut(id.home()).and_then(Option::as_mut) {
            lane.say(if kept { Said::Kept(id) } else { Said::Free(id) });
        }
    }

    /// Takes the verdicts that have come; whether there were any.
    pub(crate) fn take_verdicts(&mut self) -> bool {
        let Self { lanes, made, .. } = self;
        let mut came = 0;
        for lane in lanes.iter_mut().flatten() {
            came += lane.verdicts_in.take(usize::MAX, |Verdict { id, granted }| {
                made.insert(id, Some(granted));
            });
        }
        came > 0
    }

    /// Judges what the other cores claim, in this core's window.
    pub(crate) fn judge(&mut self, window: &mut Window) {
        let mut now = None;
        for (core, lane) in self.lanes.iter_mut().enumerate() {
            let Some(Lane { heard, verdicts_out, doorbell, .. }) = lane else { continue };
            heard.take(usize::MAX, |said| match said {
                Said::Claim(id) => {
                    let now = *now.get_or_insert_with(clock::now);
                    let granted = window.claim(id, core, now);
                    let staged = verdicts_out.stage(Verdict { id, granted });
                    debug_assert!(staged.is_ok(), "a ring of verdicts holds all that can be waited for");
                }
                Said::Kept(id) => window.decide(id, Outcome::Processed),
                Said::Free(id) => window.decide(id, Outcome::Failed),
            });
            if verdicts_out.staged() > 0 {
                verdicts_out.publish();
                doorbell.ring();
            }
        }
    }

    /// Shows the other cores what was said, and wakes them.
    pub(crate) fn flush(&mut self) {
        for lane in self.lanes.iter_mut().flatten() {
            while let Some(said) = lane.unsaid.pop_front() {
                if let Err(said) = lane.said.stage(said) {
                    lane.unsaid.push_front(said);
                    break;
                }
            }
            if lane.said.staged() > 0 {
                lane.said.publish();
                lane.doorbell.ring();
            }
        }
    }
}

impl Lane {
    fn say(&mut self, said: Said) {
        if !self.unsaid.is_empty() {
            self.unsaid.push_back(said);
        } else if let Err(said) = self.said.stage(said) {
            self.unsaid.push_back(said);
        }
    }
}

#[cfg(test)]
mod tests;
