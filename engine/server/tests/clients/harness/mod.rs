//! What every test needs: a running server, clients to ask it with, and tools from outside.

mod exchange;
mod h2_peer;
mod server;
mod tools;

pub(crate) use exchange::{Answer, Peer, get, get_with_key, post_json};
pub(crate) use h2_peer::{H2Peer, framed, on_runtime, patiently, read, send_all};
pub(crate) use server::{Farewell, Scratch, Server, Start, TIDEGATE, run_command};
pub(crate) use tools::{curl, root, tool};

use std::{
    thread,
    time::{Duration, Instant},
};

/// Longest a condition may take to come true; only a broken server takes that long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Asks again and again until `condition` gives something.
#[track_caller]
pub(crate) fn eventually<T>(what: &str, condition: impl FnMut() -> Option<T>) -> T {
    eventually_within(PATIENCE, what, condition)
}

/// The same for what takes its time by a rule of somebody else's.
#[track_caller]
pub(crate) fn eventually_within<T>(
    patience: Duration,
    what: &str,
    mut condition: impl FnMut() -> Option<T>,
) -> T {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(Instant::now() < deadline, "never came true: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}
