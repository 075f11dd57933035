//! What a side of a composite misses while it is out of reach and another side has it (best-effort, without the log): written
//! to the dead letters before the sender is told anything, like a message to a side of its own. So what is missed is listed
//! or refused, never forgotten; and what waits to be listed is bounded as everything else that is under way is.

use std::{
    collections::VecDeque,
    sync::Arc,
    task::{Wake, Waker},
    thread::{self, Thread},
    time::Duration,
};

use engine_core::Record;

use crate::{
    dead_letter::{Cause, DeadLetters},
    entry,
    publisher::{Ack, Busy, Publisher},
    status::SideStatus,
};

/// The code of such a dead letter.
pub const MISSED: &str = "MISSED";
/// Messages that are written with one sync.
const BATCH_MAX: usize = 1024;
/// Bytes of them.
const BATCH_BYTES_MAX: usize = 4 << 20;
/// Pause when they cannot be written.
const RETRY: Duration = Duration::from_millis(200);

/// Publishes to the dead letters what one side misses.
#[derive(Debug)]
pub struct MissedPublisher {
    dead_letters: Arc<DeadLetters>,
    cause: Cause,
    status: Arc<SideStatus>,
    waiting: VecDeque<(u64, Box<[u8]>)>,
    bytes: usize,
    fails: bool,
    thread: Thread,
}

struct Bell(Thread);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

impl MissedPublisher {
    /// For the side of this name; to be made on the thread that drives it.
    pub fn new(dead_letters: Arc<DeadLetters>, side: &str, status: Arc<SideStatus>) -> Self {
        let cause = Cause {
            side: side.to_owned(),
            code: MISSED.to_owned(),
            reason: format!(
                "{side} was out of reach, another side has it (composite.strategy = best-effort)"
            ),
            attempts: 0,
            place: None,
        };
        let (waiting, thread) = (VecDeque::new(), thread::current());
        Self { dead_letters, cause, status, waiting, bytes: 0, fails: false, thread }
    }
}

impl Publisher for MissedPublisher {
    fn publish(&mut self, tag: u64, record: &Record<'_>) -> Result<(), Busy> {
        if self.waiting.len() >= BATCH_MAX || self.bytes >= BATCH_BYTES_MAX {
            return Err(Busy);
        }
        let mut bytes = Vec::new();
        entry::encode(record, &mut bytes);
        self.bytes += bytes.len();
        self.waiting.push_back((tag, bytes.into()));
        Ok(())
    }

    fn poll(&mut self, timeout: Duration, acks: &mut Vec<Ack>) {
        if self.waiting.is_empty() || self.fails {
            let pause = if self.fails { timeout.min(RETRY) } else { timeout };
            if !pause.is_zero() {
                thread::park_timeout(pause);
            }
        }
        let letter = |number: usize| {
            let record = self.waiting.get(number).and_then(|(_, bytes)| entry::decode(bytes).ok());
            (&self.cause, record.unwrap_or_default())
        };
        let (kept, result) = self.dead_letters.append_all(self.waiting.len(), letter);
        for (tag, bytes) in self.waiting.drain(..kept) {
            self.bytes -= bytes.len();
            acks.push(Ack { tag, outcome: Ok(()) });
        }
        self.fails = result.is_err();
        if let Err(why) = &result {
            let side = &self.cause.side;
            self.status.set_trouble(Some(format!("what {side} misses cannot be listed: {why}")));
        }
    }

    fn in_flight(&self) -> usize {
        self.waiting.len()
    }

    fn is_connected(&self) -> bool {
        !self.fails
    }

    fn waker(&self) -> Waker {
        Waker::from(Arc::new(Bell(self.thread.clone())))
    }
}
