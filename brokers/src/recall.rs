//! What recognises repeats, filled at the start with what earlier runs kept.

use std::time::Duration;

use crate::{
    log::Log,
    stored::Stored,
    window::{Id, Ids, Window},
};

/// The windows of so many cores, which together hold `entries` messages for `age`.
pub fn windows(log: Option<&Log>, cores: usize, entries: usize, age: Duration) -> Vec<Window> {
    let share = entries.div_ceil(cores);
    // An id may stand in two windows: where its message is, and at its home.
    let room = if cores > 1 { 2 * share } else { share };
    let ids = Ids::new(cores);
    let mut windows: Vec<_> = (0..cores).map(|_| Window::sharing(ids.clone(), room, age)).collect();
    let Some(log) = log else { return windows };
    let mut away = Vec::new();
    for (core, window) in windows.iter_mut().enumerate() {
        let each = |since, id: Id| {
            if id.home() != core {
                away.push((since, id, core));
            }
        };
        if let Err(error) = Stored::fill_window(log, core, window, share, age, each) {
            tracing::warn!(core, %error, "repeats of what an earlier run kept are not recognised");
        }
    }
    // The oldest is to be forgotten first.
    away.sort_by_key(|(since, ..)| *since);
    for (since, id, core) in away {
        windows[id.home()].remember_away(id, core, since);
    }
    windows
}
