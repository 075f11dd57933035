//! A NATS server with JetStream and its clients, by their rules and without sockets, threads or time of their own.
//!
//! ```text
//! NatsPublisher ─ ModelSession ─ connection ─ Stream (the server)
//! ```
//!
//! ```
//! # use std::{sync::Arc, time::Duration};
//! # use brokers::{Publisher, nats::{Naming, publish::NatsPublisher}, status::SideStatus};
//! # use simulator::nats::{Server, config};
//! let clock = engine_core::clock::SimulatedClock::start(0);
//! let server = Server::default();
//! let (config, status) = (config("MESSAGES", "messages.new"), Arc::new(SideStatus::new("nats")));
//! let client = server.client(&config, &status);
//! let mut publisher = NatsPublisher::over(client, config, Naming::of_this_run(), status).unwrap();
//! let (mut rng, mut acks) = (fastrand::Rng::with_seed(1), Vec::new());
//! while publisher.publish(1, &engine_core::Record::default()).is_err() {
//!     server.step(&mut rng);
//!     publisher.poll(Duration::ZERO, &mut acks);
//!     clock.advance(Duration::from_millis(10));
//! }
//! while acks.is_empty() {
//!     server.step(&mut rng);
//!     publisher.poll(Duration::ZERO, &mut acks);
//! }
//! assert_eq!(server.stored("MESSAGES").len(), 1);
//! ```
//!
//! Nothing happens by itself: [`Server::step`] moves one thing, of all that could be next the one that the seed says.
//! [`Server::fault`] breaks something, [`Server::heal`] mends everything; messages that were worked on, purged or deleted with
//! their stream are in [`Server::ever`].
//!
//! What is left out: clusters, accounts, consumers, and what a power failure takes that JetStream had not synced
//! (`sync_interval`).

mod client;
mod faults;
mod stream;

use std::{
    cell::{RefCell, RefMut},
    collections::{BTreeMap, VecDeque},
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use brokers::{
    nats::{NatsConfig, Servers, client::Answer, covers},
    raw_message::MessageValue,
    status::SideStatus,
};
use engine_core::clock;

use self::stream::Stream;
pub use self::{
    client::{ModelClient, ModelSession},
    stream::{Limits, Message, Outcome, Refusal, Stored},
};

/// `max_payload` of a server that sets none.
const MAX_PAYLOAD: usize = 1 << 20;
/// `max_control_line`: subject, reply and sizes of a publish.
const CONTROL_LINE_MAX: usize = 4096;
/// Bytes of a reply's subject and of the sizes, about.
const REPLY_BYTES: usize = 70;
/// When a client notices that nothing comes any more: it pings every minute, and two may be unanswered.
const PING_TIMEOUT: Duration = Duration::from_secs(180);

/// A server. Clones are the same one.
#[derive(Clone, Debug, Default)]
pub struct Server(Rc<RefCell<Inside>>);

#[derive(Debug)]
struct Inside {
    streams: BTreeMap<String, Stream>,
    ever: Vec<Stored>,
    connections: Vec<Connection>,
    next: u64,
    is_down: bool,
    /// It keeps its connections and does nothing.
    is_stalled: bool,
    /// JetStream is off.
    is_bare: bool,
    max_payload: usize,
    /// Whoever sends a payload with this in it loses the connection.
    poison: Option<Vec<u8>>,
}

impl Default for Inside {
    fn default() -> Self {
        Self {
            streams: BTreeMap::new(),
            ever: Vec::new(),
            connections: Vec::new(),
            next: 0,
            is_down: false,
            is_stalled: false,
            is_bare: false,
            max_payload: MAX_PAYLOAD,
            poison: None,
        }
    }
}

/// A connection. What was sent on it may arrive long after its client has left.
#[derive(Debug)]
struct Connection {
    number: u64,
    is_open: bool,
    was_open: bool,
    /// Its client is there.
    is_held: bool,
    /// Since when nothing passes any more, without either side knowing.
    half_open: Option<Instant>,
    /// As the server said when it was opened.
    max_payload: usize,
    requests: VecDeque<Request>,
    responses: VecDeque<Response>,
    received: VecDeque<Response>,
}

#[derive(Debug)]
enum Request {
    Publish(u64, Message),
    Look(String),
    Make(String, Vec<String>, Limits),
}

#[derive(Debug)]
enum Response {
    Reply(u64, Answer),
    Look(Look),
    Made(bool),
}

/// What is said of a stream.
#[derive(Clone, Debug)]
enum Look {
    /// JetStream is off.
    NoAnswer,
    Missing,
    Found {
        subjects: Vec<String>,
        message_bytes_max: Option<usize>,
    },
}

/// What can come next; with the number of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A connection is opened.
    Open(u64),
    /// The server reads and judges what was sent.
    Judge(u64),
    /// A response arrives.
    Respond(u64),
    /// The client notices that the connection is dead.
    Notice(u64),
}

impl Server {
    /// A client for a publisher with these settings.
    pub fn client(&self, config: &NatsConfig, status: &Arc<SideStatus>) -> ModelClient {
        ModelClient::new(self.clone(), config, status)
    }

    fn inside(&self) -> RefMut<'_, Inside> {
        self.0.borrow_mut()
    }

    /// Does one thing, of all that could be next; `None` when there is nothing to do.
    pub fn step(&self, rng: &mut fastrand::Rng) -> Option<Step> {
        let mut inside = self.inside();
        let steps = inside.steps();
        let step = *steps.get(rng.usize(..steps.len().max(1)))?;
        inside.take(step);
        Some(step)
    }

    /// What a stream holds now, in order.
    pub fn stored(&self, stream: &str) -> Vec<Stored> {
        let inside = self.inside();
        let messages = inside.streams.get(stream).into_iter().flat_map(|stream| &stream.messages);
        let stored = messages.map(|(sequence, _, message)| Stored {
            stream: stream.to_owned(),
            sequence: *sequence,
            message: Rc::clone(message),
        });
        stored.collect()
    }

    /// Everything that was ever stored, also what is gone again, in the order in which it was stored.
    pub fn ever(&self) -> Vec<Stored> {
        self.ever_since(0)
    }

    /// The same from this place on.
    pub fn ever_since(&self, place: usize) -> Vec<Stored> {
        self.inside().ever.get(place..).unwrap_or_default().to_vec()
    }

    /// How many that are.
    pub fn ever_count(&self) -> usize {
        self.inside().ever.len()
    }

    /// The streams that are there.
    pub fn streams(&self) -> Vec<String> {
        self.inside().streams.keys().cloned().collect()
    }

    /// Publishes a message without a client. `None`: nobody listens.
    pub fn publish(&self, message: Message) -> Option<Outcome> {
        self.inside().publish(message).map(|(_, outcome)| outcome)
    }
}

impl Inside {
    fn connect(&mut self) -> u64 {
        self.next += 1;
        self.connections.push(Connection {
            number: self.next,
            is_open: false,
            was_open: false,
            is_held: true,
            half_open: None,
            max_payload: MAX_PAYLOAD,
            requests: VecDeque::new(),
            responses: VecDeque::new(),
            received: VecDeque::new(),
        });
        self.next
    }

    fn connection(&mut self, number: u64) -> Option<&mut Connection> {
        self.connections.iter_mut().find(|one| one.number == number)
    }

    /// What a client sends is lost without an error when its connection is.
    fn send(&mut self, number: u64, request: Request) {
        if let Some(connection) = self.connection(number).filter(|one| one.is_open && one.half_open.is_none())
        {
            connection.requests.push_back(request);
        }
    }

    fn received(&mut self, number: u64) -> Option<Response> {
        self.connection(number)?.received.pop_front()
    }

    /// The client goes; what it sent is still on its way.
    fn leave(&mut self, number: u64) {
        if let Some(connection) = self.connection(number) {
            connection.is_held = false;
        }
    }

    fn steps(&mut self) -> Vec<Step> {
        self.connections.retain(|one| one.is_held || (one.is_open && !one.requests.is_empty()));
        let works = !self.is_down && !self.is_stalled;
        let mut steps = Vec::new();
        for one in &self.connections {
            if works && !one.is_open && !one.was_open && one.is_held {
                steps.push(Step::Open(one.number));
            }
            if works && one.is_open && !one.requests.is_empty() {
                steps.push(Step::Judge(one.number));
            }
            if one.is_open && one.half_open.is_none() && !one.responses.is_empty() {
                steps.push(Step::Respond(one.number));
            }
            if one.is_open && one.half_open.is_some_and(|since| clock::since(since) > PING_TIMEOUT) {
                steps.push(Step::Notice(one.number));
            }
        }
        steps
    }

    fn take(&mut self, step: Step) {
        let max_payload = self.max_payload;
        match step {
            Step::Open(number) => {
                if let Some(one) = self.connection(number) {
                    (one.is_open, one.was_open, one.max_payload) = (true, true, max_payload);
                }
            }
            Step::Judge(number) => {
                let Some(request) = self.connection(number).and_then(|one| one.requests.pop_front()) else {
                    return;
                };
                let response = self.judge(request);
                if let Some(one) = self.connection(number) {
                    match response {
                        Some(response) => one.responses.push_back(response),
                        None => one.break_off(),
                    }
                }
            }
            Step::Respond(number) => {
                if let Some(one) = self.connection(number) {
                    one.received.extend(one.responses.pop_front());
                }
            }
            Step::Notice(number) => {
                if let Some(one) = self.connection(number) {
                    one.break_off();
                }
            }
        }
    }

    /// `None`: the connection is ended for it.
    fn judge(&mut self, request: Request) -> Option<Response> {
        Some(match request {
            Request::Publish(_, message)
                if self.is_poison(&message)
                    || message.bytes() > self.max_payload
                    || message.subject.len() + REPLY_BYTES > CONTROL_LINE_MAX =>
            {
                return None;
            }
            Request::Publish(number, message) => {
                let answer = match self.publish(message) {
                    Some((stream, outcome)) => client::answer(&stream, &outcome),
                    None => Answer::NoResponders,
                };
                Response::Reply(number, answer)
            }
            Request::Look(_) if self.is_bare => Response::Look(Look::NoAnswer),
            Request::Look(name) => Response::Look(match self.streams.get(&name) {
                None => Look::Missing,
                Some(stream) => Look::Found {
                    subjects: stream.subjects.clone(),
                    message_bytes_max: stream.limits.message_bytes,
                },
            }),
            Request::Make(name, subjects, limits) => Response::Made(self.make(&name, subjects, limits)),
        })
    }

    fn is_poison(&self, message: &Message) -> bool {
        self.poison.as_ref().is_some_and(|poison| {
            message.payload.windows(poison.len()).any(|bytes| bytes == poison.as_slice())
        })
    }

    /// Makes a stream; false when there is one of that name, or another has one of its subjects.
    fn make(&mut self, name: &str, subjects: Vec<String>, limits: Limits) -> bool {
        let overlap = |known: &Stream| {
            subjects.iter().any(|one| {
                covers(&known.subjects, one) || known.subjects.iter().any(|other| covers(&subjects, other))
            })
        };
        if self.is_bare || self.streams.contains_key(name) || self.streams.values().any(overlap) {
            return false;
        }
        self.streams.insert(name.to_owned(), Stream::new(subjects, limits));
        true
    }

    /// The stream that has the subject, and what it says.
    fn publish(&mut self, message: Message) -> Option<(String, Outcome)> {
        if self.is_bare {
            return None;
        }
        let mut streams = self.streams.iter_mut();
        let (name, stream) = streams.find(|(_, stream)| covers(&stream.subjects, &message.subject))?;
        let message = Rc::new(message);
        let outcome = stream.publish(name, &message);
        if let Ok((sequence, false)) = outcome {
            self.ever.push(Stored { stream: name.clone(), sequence, message });
        }
        Some((name.clone(), outcome))
    }
}

impl Connection {
    fn break_off(&mut self) {
        self.is_open = false;
        self.requests.clear();
        self.responses.clear();
    }
}

/// Settings of a publisher as a new configuration file has them, for a stream and a subject.
pub fn config(stream: &str, subject: &str) -> NatsConfig {
    NatsConfig {
        servers: Servers::parse("nats://model:4222").expect("an address"),
        stream: stream.into(),
        subject: subject.into(),
        subject_choice: None,
        value: MessageValue::DataMessage,
        consumer: "model".into(),
        in_flight_max: 1024,
        pack_messages: 1,
        ack_timeout: Duration::from_secs(30),
    }
}

#[cfg(test)]
mod tests;
