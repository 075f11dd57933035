//! A broker without rules of its own: it stores what it takes, in order, and answers some time later; or it is away, or
//! silent, or refuses some messages for ever. What was under way when it went may be stored, and is sent again.

use std::{
    cell::RefCell,
    collections::VecDeque,
    rc::Rc,
    task::{Wake, Waker},
    time::Duration,
};

use brokers::{Ack, Busy, Publisher, Rejected, entry};
use engine_core::Record;

/// Messages that a publisher has under way at most.
const IN_FLIGHT_MAX: usize = 12;

/// A broker. Clones are the same one.
#[derive(Clone, Debug, Default)]
pub struct PlainBroker(Rc<RefCell<State>>);

#[derive(Debug, Default)]
struct State {
    /// Every message that was ever stored, in order, as its log entry.
    stored: Vec<Box<[u8]>>,
    is_down: bool,
    is_silent: bool,
    refuses: Option<u32>,
    /// Of the connection that is open: what it was sent and has not looked at, and its answers under way.
    requests: VecDeque<(u64, Box<[u8]>)>,
    answers: VecDeque<Ack>,
    /// Counts connections: what an earlier one was sent is answered to nobody.
    connection: u64,
}

impl PlainBroker {
    /// Moves one thing: a request is judged and stored. Says what happened, for the trace.
    pub fn step(&self, mut number_of: impl FnMut(&Record<'_>) -> u32) -> &'static str {
        let state = &mut *self.0.borrow_mut();
        if state.is_down || state.is_silent && state.requests.is_empty() {
            return "rests";
        }
        let Some((tag, entry)) = state.requests.pop_front() else { return "idles" };
        let number = entry::decode(&entry).map_or(0, |record| number_of(&record));
        if state.refuses.is_some_and(|refuses| number % 16 == refuses) {
            let reason = "this broker refuses it".to_owned();
            let outcome = Err(Rejected { code: "REFUSED".to_owned(), reason, attempts: 1 });
            if !state.is_silent {
                state.answers.push_back(Ack { tag, outcome });
            }
            return "refuses";
        }
        state.stored.push(entry);
        if !state.is_silent {
            state.answers.push_back(Ack { tag, outcome: Ok(()) });
        }
        "stores"
    }

    /// It goes away, with its connection.
    pub fn go_down(&self) {
        let mut state = self.0.borrow_mut();
        state.is_down = true;
        state.cut();
    }

    /// From now on it answers nothing.
    pub fn fall_silent(&self) {
        self.0.borrow_mut().is_silent = true;
    }

    /// It is there again, on new connections.
    pub fn come_up(&self) {
        let mut state = self.0.borrow_mut();
        if state.is_down || state.is_silent {
            state.cut();
        }
        (state.is_down, state.is_silent) = (false, false);
    }

    /// From now on it refuses every message of this number modulo 16; `None`: none.
    pub fn refuse(&self, refuses: Option<u32>) {
        self.0.borrow_mut().refuses = refuses;
    }

    /// How many messages it was ever given to store.
    pub fn stored(&self) -> usize {
        self.0.borrow().stored.len()
    }

    /// Gives those from number `from` on to `each`.
    pub fn each_stored(&self, from: usize, mut each: impl FnMut(&Record<'_>)) {
        for entry in &self.0.borrow().stored[from..] {
            if let Ok(record) = entry::decode(entry) {
                each(&record);
            }
        }
    }

    /// A publisher of a process; the connections of an earlier process are cut.
    pub fn publisher(&self) -> PlainPublisher {
        let connection = self.0.borrow_mut().cut();
        PlainPublisher { broker: self.clone(), connection, pending: VecDeque::new() }
    }
}

impl State {
    /// Cuts the connection: some of what it was sent is stored, nothing is answered.
    fn cut(&mut self) -> u64 {
        let stored = if self.requests.is_empty() { 0 } else { fastrand::usize(0..=self.requests.len()) };
        if !self.is_silent {
            self.stored.extend(self.requests.drain(..stored).map(|(_, entry)| entry));
        }
        self.requests.clear();
        self.answers.clear();
        self.connection += 1;
        self.connection
    }
}

/// A publisher to a [`PlainBroker`].
#[derive(Debug)]
pub struct PlainPublisher {
    broker: PlainBroker,
    connection: u64,
    pending: VecDeque<(u64, Box<[u8]>)>,
}

impl PlainPublisher {
    /// Sends everything again on a new connection, if the old one is gone and there is one to be had.
    fn keep_connected(&mut self) -> bool {
        let mut state = self.broker.0.borrow_mut();
        if state.is_down {
            return false;
        }
        if state.connection != self.connection {
            self.connection = state.connection;
            state.requests.extend(self.pending.iter().cloned());
        }
        true
    }
}

struct Nobody;

impl Wake for Nobody {
    fn wake(self: std::sync::Arc<Self>) {}
}

impl Publisher for PlainPublisher {
    fn publish(&mut self, tag: u64, record: &Record<'_>) -> Result<(), Busy> {
        if !self.keep_connected() || self.pending.len() >= IN_FLIGHT_MAX {
            return Err(Busy);
        }
        let mut bytes = Vec::new();
        entry::encode(record, &mut bytes);
        let entry: Box<[u8]> = bytes.into();
        self.broker.0.borrow_mut().requests.push_back((tag, entry.clone()));
        self.pending.push_back((tag, entry));
        Ok(())
    }

    fn poll(&mut self, _timeout: Duration, acks: &mut Vec<Ack>) {
        if !self.keep_connected() {
            return;
        }
        let mut state = self.broker.0.borrow_mut();
        while let Some(ack) = state.answers.pop_front() {
            self.pending.retain(|(tag, _)| *tag != ack.tag);
            acks.push(ack);
        }
    }

    fn in_flight(&self) -> usize {
        self.pending.len()
    }

    fn is_connected(&self) -> bool {
        let state = self.broker.0.borrow();
        !state.is_down && !state.is_silent
    }

    fn waker(&self) -> Waker {
        Waker::from(std::sync::Arc::new(Nobody))
    }
}
