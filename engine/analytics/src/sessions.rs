//! A user's sessions: by the id that events name, else cut where nothing happened for 30 minutes.
//!
//! The order in which events come does not matter: a late one joins, widens or merges what is there. Only the last
//! [`SESSIONS_MAX`] sessions of a user are kept; a late event can not join an older one, and counts as a new one.

use compact_str::CompactString;
use smallvec::SmallVec;

use serde::{Deserialize, Serialize};

/// What cuts a session.
pub const GAP_MS: i64 = 30 * 60 * 1000;
/// Sessions that are remembered of a user.
pub const SESSIONS_MAX: usize = 64;

/// A stretch of a user's events.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// The id that its events name; `None`: it is cut by gaps.
    pub id: Option<CompactString>,
    /// Time of its first event, in milliseconds.
    pub start_ms: i64,
    /// Time of its last event.
    pub end_ms: i64,
    /// Its events.
    pub events: u32,
}

/// How the starts of sessions changed: `(time, +1 or -1)`.
pub(crate) type Change = (i64, i64);

/// The sessions of a user, oldest start first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sessions {
    /// Most users have one: it lies where the profile lies.
    list: SmallVec<[Session; 1]>,
    /// How long those lasted that are not remembered, in milliseconds all together.
    forgotten_ms: i64,
}

impl Sessions {
    /// Those that are remembered.
    pub fn list(&self) -> &[Session] {
        &self.list
    }

    /// How long those lasted that are not remembered, in milliseconds all together.
    pub fn forgotten_ms(&self) -> i64 {
        self.forgotten_ms
    }

    /// Takes an event in; says how the starts of sessions changed.
    pub(crate) fn add(&mut self, id: &str, at_ms: i64, mut changed: impl FnMut(Change)) {
        // Most events belong to the last one.
        let found = if id.is_empty() {
            self.list.iter().rposition(|session| {
                session.id.is_none() && at_ms >= session.start_ms - GAP_MS && at_ms <= session.end_ms + GAP_MS
            })
        } else {
            self.list.iter().rposition(|session| session.id.as_deref() == Some(id))
        };
        let Some(place) = found else {
            let id = (!id.is_empty()).then(|| id.into());
            self.insert(Session { id, start_ms: at_ms, end_ms: at_ms, events: 1 });
            changed((at_ms, 1));
            return;
        };
        let count = self.list.len();
        let session = &mut self.list[place];
        // One that is not widened towards a neighbour joins none.
        let may_join = at_ms < session.start_ms || (at_ms > session.end_ms && place + 1 < count);
        session.events += 1;
        session.end_ms = session.end_ms.max(at_ms);
        if at_ms < session.start_ms {
            changed((session.start_ms, -1));
            changed((at_ms, 1));
            session.start_ms = at_ms;
            let moved = self.list.remove(place);
            self.insert(moved);
        }
        if id.is_empty() && may_join {
            self.merge_gaps(changed);
        }
    }

    /// Takes in those of the same user on another core. Two that are one only together are not joined.
    pub(crate) fn take_over(&mut self, other: &Self) {
        self.forgotten_ms = self.forgotten_ms.saturating_add(other.forgotten_ms);
        other.list.iter().for_each(|session| self.insert(session.clone()));
    }

    fn insert(&mut self, session: Session) {
        let place = self.list.partition_point(|other| other.start_ms <= session.start_ms);
        self.list.insert(place, session);
        if self.list.len() > SESSIONS_MAX {
            let oldest = self.list.remove(0);
            self.forgotten_ms = self.forgotten_ms.saturating_add(oldest.end_ms - oldest.start_ms);
        }
    }

    /// Joins neighbours between which there is no gap any more.
    fn merge_gaps(&mut self, mut changed: impl FnMut(Change)) {
        let mut last: Option<usize> = None;
        let mut at = 0;
        while at < self.list.len() {
            if self.list[at].id.is_some() {
                at += 1;
                continue;
            }
            match last {
                Some(before) if self.list[at].start_ms <= self.list[before].end_ms + GAP_MS => {
                    let joined = self.list.remove(at);
                    changed((joined.start_ms, -1));
                    let session = &mut self.list[before];
                    session.end_ms = session.end_ms.max(joined.end_ms);
                    session.events += joined.events;
                }
                _ => {
                    last = Some(at);
                    at += 1;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: i64 = 60_000;

    fn sessions(times: &[i64]) -> (Vec<(i64, i64, u32)>, i64) {
        let (mut sessions, mut starts) = (Sessions::default(), 0);
        for time in times {
            sessions.add("", *time, |(_, change)| starts += change);
        }
        let list = sessions.list().iter().map(|session| (session.start_ms, session.end_ms, session.events));
        (list.collect(), starts)
    }

    #[test]
    fn a_gap_of_more_than_half_an_hour_cuts() {
        let (list, starts) = sessions(&[0, 30 * MINUTE, 61 * MINUTE]);
        assert_eq!(list, [(0, 30 * MINUTE, 2), (61 * MINUTE, 61 * MINUTE, 1)]);
        assert_eq!(starts, 2);
    }

    #[test]
    fn exactly_half_an_hour_does_not_cut() {
        assert_eq!(sessions(&[0, GAP_MS, 2 * GAP_MS]).1, 1);
        assert_eq!(sessions(&[0, GAP_MS + 1]).1, 2);
        assert_eq!(sessions(&[GAP_MS, 0]).1, 1);
    }

    #[test]
    fn what_is_forgotten_is_in_the_sum_of_lengths() {
        let mut sessions = Sessions::default();
        for number in 0..100 {
            for minute in [0, 5] {
                sessions.add("", (number * 60 + minute) * MINUTE, |_| {});
            }
        }
        let known: i64 = sessions.list().iter().map(|session| session.end_ms - session.start_ms).sum();
        assert_eq!((sessions.list().len(), known), (SESSIONS_MAX, 64 * 5 * MINUTE));
        assert_eq!(sessions.forgotten_ms(), 36 * 5 * MINUTE);
    }

    #[test]
    fn a_late_event_joins_what_it_stands_between() {
        let in_order = sessions(&[0, 25 * MINUTE, 50 * MINUTE]);
        assert_eq!(sessions(&[0, 50 * MINUTE, 25 * MINUTE]), in_order);
        assert_eq!(sessions(&[50 * MINUTE, 25 * MINUTE, 0]), in_order);
        assert_eq!(in_order, (vec![(0, 50 * MINUTE, 3)], 1));
    }

    #[test]
    fn a_named_session_is_one_whatever_the_gap() {
        let mut sessions = Sessions::default();
        let mut changes = Vec::new();
        for time in [100 * MINUTE, 0, 200 * MINUTE] {
            sessions.add("nine", time, |change| changes.push(change));
        }
        let id = Some("nine".into());
        assert_eq!(sessions.list(), [Session { id, start_ms: 0, end_ms: 200 * MINUTE, events: 3 }]);
        assert_eq!(changes, [(100 * MINUTE, 1), (100 * MINUTE, -1), (0, 1)]);
    }
}
