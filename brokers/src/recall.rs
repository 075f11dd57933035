//! What recognises repeats, filled at the start with what earlier runs kept, whatever number of cores those had.

use std::time::Duration;

use engine_core::{AckLevel, Outcome, Receipt, clock, shard_of};

use crate::{
    log::Log,
    pipeline::in_shard,
    window::{Ids, Window},
};

/// The windows of so many cores, which together hold `entries` messages for `age`.
///
/// A message of the log stands in the window of the core that its key belongs to now, and if its id has its home elsewhere, it
/// is claimed there. What is remembered is in which shard of the log it is, which need not be that core's.
pub fn windows(log: Option<&Log>, cores: usize, entries: usize, age: Duration) -> Vec<Window> {
    let share = entries.div_ceil(cores);
    // An id may stand in two windows: where its message is, and at its home.
    let room = if cores > 1 { 2 * share } else { share };
    let ids = match log.and_then(Log::hash_key) {
        Some(hash_key) => Ids::keyed(hash_key, cores),
        None => Ids::new(cores),
    };
    let mut windows: Vec<_> = (0..cores).map(|_| Window::sharing(ids.clone(), room, age)).collect();
    let Some(log) = log else { return windows };
    let (now, now_ms) = (clock::now(), clock::wall_ms());
    // As many as all of them have room for. The oldest is to be forgotten first.
    for (shard, known) in log.known(cores * room, age).into_iter().rev() {
        let since = now.checked_sub(Duration::from_millis(now_ms.saturating_sub(known.appended_ms)));
        // A machine that was started since has no such moment.
        let since = since.unwrap_or(now);
        let (core, id) = (shard_of(known.key_hash, cores), ids.of_fingerprint(&known.fingerprint));
        let outcome = Outcome::Stored(in_shard(Receipt::new(AckLevel::Durable, Some(known.offset)), shard));
        windows[core].remember_as(&known.fingerprint, outcome, since);
        if id.home() != core {
            windows[id.home()].remember_away(id, core, since);
        }
    }
    windows
}
