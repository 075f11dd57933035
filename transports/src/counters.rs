//! What one core counts of its front end.
//!
//! Each cell has one writer, the core itself, so an increment is a plain load and store; a scrape reads all cells
//! and adds the cores up. Nothing here can grow: every label comes from a fixed table.

use std::{
    cell::RefCell,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use crate::{
    durations::{CELLS, Durations, observe},
    listener::Role,
    routes::{ENDPOINTS, Endpoint},
};

/// Bounds of the finer buckets of all answers, in microseconds: powers of two, so that finding the bucket is counting
/// zeros.
pub const ANSWER_BOUNDS_US: [u64; 18] = {
    let mut bounds = [0; 18];
    let mut at = 0;
    while at < bounds.len() {
        bounds[at] = 8 << at;
        at += 1;
    }
    bounds
};

/// HTTP statuses that hot routes answer with; anything else is counted under the last.
pub const STATUSES: [u16; 19] =
    [200, 202, 400, 401, 404, 405, 408, 409, 411, 413, 415, 417, 422, 429, 431, 501, 503, 504, 500];

/// gRPC codes, 0 to 16.
pub const GRPC_CODES: usize = 17;

const ANSWER_BUCKETS: usize = ANSWER_BOUNDS_US.len() + 1;
const OUTCOMES: usize = STATUSES.len();
const _: () = assert!(OUTCOMES >= GRPC_CODES);
macro_rules! causes {
    ($($(#[$doc:meta])* $name:ident = $label:literal,)*) => {
        /// Why a connection or request was cut short.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Cause { $($(#[$doc])* $name,)* }

        impl Cause {
            /// Every cause.
            pub const ALL: &[Cause] = &[$(Cause::$name,)*];

            /// The `reason` label.
            pub fn label(self) -> &'static str {
                match self { $(Cause::$name => $label,)* }
            }
        }
    };
}

causes! {
    /// More connections than the bound.
    ConnectionsMax = "connections_max",
    /// More connections of one address than the bound.
    ConnectionsPerAddress = "connections_per_address",
    /// The system had no descriptor or memory for another connection.
    AcceptFailed = "accept_failed",
    /// The first bytes did not tell a protocol in time.
    PrefaceTimeout = "preface_timeout",
    /// A request head was not complete in time.
    HeaderTimeout = "header_timeout",
    /// A body stood still, or crept.
    BodyTimeout = "body_timeout",
    /// The client took nothing of its answer.
    WriteTimeout = "write_timeout",
    /// Nothing happened on the connection.
    IdleTimeout = "idle_timeout",
    /// A body or message over its limit.
    TooLarge = "too_large",
    /// A core held as many bytes of requests that come in pieces as it may.
    BodyRoom = "body_room",
    /// HTTP/1.1 that RFC 9112 does not allow.
    Http1Protocol = "http1_protocol",
    /// HTTP/2 that RFC 9113 does not allow.
    Http2Protocol = "http2_protocol",
    /// An abuse budget of HTTP/2 was used up.
    EnhanceYourCalm = "enhance_your_calm",
    /// The bridge to the cold lane was full.
    ColdLaneFull = "cold_lane_full",
    /// A message's ack level was not reached in time; what became of it is unknown.
    AckTimeout = "ack_timeout",
    /// A connection was cut because the shutdown's time was over.
    ShutdownTimeout = "shutdown_timeout",
}

macro_rules! tallies {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Plain counts.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Tally { $($(#[$doc])* $name,)* }

        impl Tally {
            const ALL: &[Tally] = &[$(Tally::$name,)*];
        }
    };
}

tallies! {
    /// Connections accepted.
    ConnectionsOpened,
    /// Connections closed again.
    ConnectionsClosed,
    /// Bytes read from sockets.
    BytesReceived,
    /// Bytes written to sockets.
    BytesSent,
    /// Messages of well-formed requests.
    MessagesReceived,
    /// Messages that went into the queue, those among them that turn out to be repeats, too.
    MessagesQueued,
    /// Messages that were refused: queue full, draining.
    MessagesRefused,
    /// Bytes of payload of the messages that went into the queue.
    MessageBytes,
    /// Probes of `/api/v1/trace` that went into the queue; they are in no other count.
    Probes,
    /// Requests handed to the cold lane.
    ColdCalls,
}

/// What comes on a stream, each answered for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamKind {
    /// Messages of `IngestStream`; the answer is one, at the end.
    Messages,
    /// Events of `StreamEvents`.
    Events,
}

impl StreamKind {
    /// Both, with the names of their methods.
    pub const ALL: [(StreamKind, &str); 2] =
        [(StreamKind::Messages, "IngestStream"), (StreamKind::Events, "StreamEvents")];
}

/// The counters of one core.
#[derive(Debug)]
pub struct FrontCounters {
    durations: Box<[AtomicU64]>,
    streamed: Box<[AtomicU64]>,
    processing: Box<[AtomicU64]>,
    answering: Box<[AtomicU64]>,
    tallies: Box<[AtomicU64]>,
    causes: Box<[AtomicU64]>,
    /// Nanoseconds of processor time that the thread has taken.
    cpu_ns: AtomicU64,
    /// Of the last second, the millionths that it took.
    busy_millionths: AtomicU64,
}

fn cells(count: usize) -> Box<[AtomicU64]> {
    (0..count).map(|_| AtomicU64::new(0)).collect()
}

fn add(cell: &AtomicU64, count: u64) {
    // One writer: no read-modify-write is needed.
    cell.store(cell.load(Relaxed).wrapping_add(count), Relaxed);
}

impl Default for FrontCounters {
    fn default() -> Self {
        Self {
            durations: cells(Role::ALL.len() * ENDPOINTS.len() * OUTCOMES * CELLS),
            streamed: cells(StreamKind::ALL.len() * CELLS),
            processing: cells(CELLS),
            answering: cells(ANSWER_BUCKETS),
            tallies: cells(Tally::ALL.len()),
            causes: cells(Cause::ALL.len()),
            cpu_ns: AtomicU64::new(0),
            busy_millionths: AtomicU64::new(0),
        }
    }
}

impl FrontCounters {
    /// Counts `count` of something; to be called by the owning core alone.
    pub(crate) fn add(&self, tally: Tally, count: u64) {
        add(&self.tallies[tally as usize], count);
    }

    /// Counts one hit of a limit; to be called by the owning core alone.
    pub(crate) fn hit(&self, cause: Cause) {
        add(&self.causes[cause as usize], 1);
    }

    /// Notes the processor time that the thread has taken since its start, of which `taken` in the last `passed`; to be called
    /// by the owning core alone, once a second.
    pub(crate) fn note_cpu(&self, whole: Duration, taken: Duration, passed: Duration) {
        let ratio = taken.as_secs_f64() / passed.as_secs_f64().max(1e-9);
        self.cpu_ns.store(u64::try_from(whole.as_nanos()).unwrap_or(u64::MAX), Relaxed);
        // Two clocks are read one after the other: a busy second may come out a little above itself.
        self.busy_millionths.store((ratio.min(1.0) * 1e6) as u64, Relaxed);
    }

    /// Processor time that the core's thread has taken, as of its last second.
    pub fn cpu(&self) -> Duration {
        Duration::from_nanos(self.cpu_ns.load(Relaxed))
    }

    /// The part of the last second in which the core's thread had a processor, 0 to 1.
    pub fn busy(&self) -> f64 {
        self.busy_millionths.load(Relaxed) as f64 / 1e6
    }

    /// A plain count.
    pub fn tally(&self, tally: Tally) -> u64 {
        self.tallies[tally as usize].load(Relaxed)
    }

    /// Hits of a limit.
    pub fn hits(&self, cause: Cause) -> u64 {
        self.causes[cause as usize].load(Relaxed)
    }

    /// Requests of one role and endpoint that ended with one outcome: an index into [`STATUSES`], or a gRPC code.
    pub fn durations(&self, role: Role, endpoint: Endpoint, outcome: usize) -> Durations {
        Durations::read(&self.durations[cell_of(role, endpoint, outcome)..])
    }

    /// What came on streams and reached the level asked for, by how long after its arrival: as far as the turn that read
    /// it began, and the one that learnt of it ended.
    pub fn streamed(&self, what: StreamKind) -> Durations {
        Durations::read(&self.streamed[what as usize * CELLS..])
    }

    /// Messages that this core's worker finished, each with its share of the time of the turn that finished it.
    pub fn processing(&self) -> Durations {
        Durations::read(&self.processing)
    }

    /// Requests of hot routes by how long the turn took that answered them: from the read that completed them, or from
    /// the acknowledgement that they waited for, to their answers being given to the socket. Bounds in
    /// [`ANSWER_BOUNDS_US`], the last bucket is for anything longer.
    pub fn answering(&self) -> [u64; ANSWER_BOUNDS_US.len() + 1] {
        std::array::from_fn(|at| self.answering[at].load(Relaxed))
    }

    /// Counts `count` messages that a turn of `nanoseconds` finished.
    pub(crate) fn processed(&self, count: u64, nanoseconds: u64) {
        observe(&self.processing, count, nanoseconds / count.max(1));
    }
}

/// The place in [`ANSWER_BOUNDS_US`] of a time.
fn answer_bucket(nanoseconds: u64) -> usize {
    let eighths = nanoseconds.div_ceil(8000).max(1);
    (eighths.next_power_of_two().trailing_zeros() as usize).min(ANSWER_BUCKETS - 1)
}

fn cell_of(role: Role, endpoint: Endpoint, outcome: usize) -> usize {
    ((role.index() * ENDPOINTS.len() + endpoint.index) * OUTCOMES + outcome.min(OUTCOMES - 1)) * CELLS
}

/// The outcome index of an HTTP status.
pub(crate) fn status_index(status: u16) -> usize {
    STATUSES.iter().position(|known| *known == status).unwrap_or(STATUSES.len() - 1)
}

/// Requests answered in the batch under way; they share one duration, measured once when the batch is done.
#[derive(Debug, Default)]
pub(crate) struct Answered {
    requests: RefCell<Vec<(usize, u32)>>,
    /// What streams brought, with how long it waited before this batch, in nanoseconds.
    streamed: RefCell<Vec<(StreamKind, u64, u32)>>,
}

impl Answered {
    /// Notes one answer.
    pub(crate) fn note(&self, role: Role, endpoint: Endpoint, outcome: usize) {
        let cell = cell_of(role, endpoint, outcome);
        let mut noted = self.requests.borrow_mut();
        match noted.iter_mut().find(|(known, _)| *known == cell) {
            Some((_, count)) => *count += 1,
            None => noted.push((cell, 1)),
        }
    }

    /// Notes `count` messages of a stream that reached their level, having waited so long before this batch.
    pub(crate) fn note_streamed(&self, what: StreamKind, waited_ns: u64, count: u32) {
        let mut noted = self.streamed.borrow_mut();
        // Those that came together mostly end together.
        match noted.last_mut() {
            Some((known, waited, so_far)) if (*known, *waited) == (what, waited_ns) => *so_far += count,
            _ => noted.push((what, waited_ns, count)),
        }
    }

    /// Counts what was noted, as having taken this long: from the read that brought the requests to the moment
    /// their answers were given to the socket.
    pub(crate) fn settle(&self, counters: &FrontCounters, nanoseconds: u64) {
        let mut answers = 0;
        for (what, waited_ns, count) in self.streamed.borrow_mut().drain(..) {
            let cells = &counters.streamed[what as usize * CELLS..];
            observe(cells, u64::from(count), waited_ns.saturating_add(nanoseconds));
        }
        for (cell, count) in self.requests.borrow_mut().drain(..) {
            observe(&counters.durations[cell..], u64::from(count), nanoseconds);
            answers += u64::from(count);
        }
        if answers > 0 {
            add(&counters.answering[answer_bucket(nanoseconds)], answers);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_counted_once_per_request_in_the_bucket_of_its_duration() {
        let counters = FrontCounters::default();
        let answered = Answered::default();
        let endpoint = Endpoint { index: 1 };
        answered.note(Role::Gateway, endpoint, status_index(200));
        answered.note(Role::Gateway, endpoint, status_index(200));
        answered.note(Role::Ingest, endpoint, status_index(503));
        answered.settle(&counters, 20_000_000);
        answered.settle(&counters, 20_000_000);
        let ok = counters.durations(Role::Gateway, endpoint, status_index(200));
        let place = crate::DURATION_BOUNDS.iter().position(|bound| *bound == 0.025).unwrap();
        assert_eq!((ok.count(), ok.buckets[place]), (2, 2));
        assert!((ok.sum_seconds - 0.04).abs() < 1e-9);
        assert_eq!(counters.durations(Role::Ingest, endpoint, status_index(503)).count(), 1);
        assert_eq!(counters.durations(Role::Ingest, endpoint, status_index(200)).count(), 0);
        // 20 ms is above 16.384 and at most 32.768 ms.
        let place = ANSWER_BOUNDS_US.iter().position(|bound| *bound == 32_768).unwrap();
        assert_eq!((counters.answering()[place], counters.answering().iter().sum::<u64>()), (3, 3));
    }

    #[test]
    fn what_a_stream_brought_has_waited_before_the_batch_that_answers_it() {
        let (counters, answered) = (FrontCounters::default(), Answered::default());
        answered.note_streamed(StreamKind::Events, 0, 2);
        answered.note_streamed(StreamKind::Events, 0, 1);
        answered.note_streamed(StreamKind::Messages, 0, 4);
        answered.note_streamed(StreamKind::Events, 2_000_000, 1);
        assert_eq!(answered.streamed.borrow().len(), 3);
        answered.settle(&counters, 1_000_000);
        let [messages, events] =
            [StreamKind::Messages, StreamKind::Events].map(|what| counters.streamed(what));
        assert_eq!((messages.count(), events.count()), (4, 4));
        assert!((messages.sum_seconds - 0.004).abs() < 1e-9 && (events.sum_seconds - 0.006).abs() < 1e-9);
        answered.settle(&counters, 1_000_000);
        assert_eq!(counters.streamed(StreamKind::Events).count(), 4);
    }

    #[test]
    fn a_bound_belongs_to_the_bucket_below_it() {
        for (place, bound) in ANSWER_BOUNDS_US.iter().enumerate() {
            assert_eq!(answer_bucket(bound * 1000), place);
            assert_eq!(answer_bucket(bound * 1000 + 1), place + 1);
        }
        assert_eq!((answer_bucket(0), answer_bucket(u64::MAX)), (0, ANSWER_BOUNDS_US.len()));
    }
}
