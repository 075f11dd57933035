//! The thread between the cores and the other process.
//!
//! One task holds everything (rings, pool, breaker) and is the only one that decides. Beside it there is a task for
//! each connection, which `h2` needs to move its bytes, and one for each message under way, which waits for its answer.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering, Ordering::Relaxed},
    },
    task::{Wake, Waker},
    thread::{self, JoinHandle},
    time::{Duration, Instant as Clock},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use engine_core::{
    AckLevel, Doorbell, Outcome, Record,
    ring::{Consumer, Producer, ring},
};
use h2::client::{ResponseFuture, SendRequest};
use http::{HeaderValue, Method, Request, header};
use tokio::{
    sync::{
        Notify,
        mpsc::{self, UnboundedReceiver, UnboundedSender},
    },
    time::Instant,
};

use super::{
    RemoteConfig, RemoteStatus,
    answer::{Verdict, reject, wait},
    forward::{Fate, Parcel, RemotePort, UNDER_WAY_MAX},
    pool::{Opened, Pool, open},
};
use crate::{backoff::Backoff, breaker::Breaker, data_message, entry};

/// How often the thread looks at the time when nothing happens.
const TICK: Duration = Duration::from_millis(100);
/// First and longest pause between tries to connect.
const RECONNECT: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// How often a message is sent at most.
const TRIES_MAX: u8 = 2;
/// Longest `Idempotency-Key` that a Tidegate takes.
const KEY_BYTES_MAX: usize = 255;

/// The thread's end towards a core.
struct CoreLink {
    parcels: Consumer<Parcel>,
    fates: Producer<Fate>,
    doorbell: Doorbell,
}

/// A message that is not decided.
struct Flight {
    core: usize,
    tag: u32,
    level: Option<AckLevel>,
    /// `None`: the other side could not recognise it, so it is not sent twice.
    key: Option<HeaderValue>,
    /// Whether its sender gave the id, and so is told of a repeat.
    once: bool,
    body: Bytes,
    tries: u8,
    /// From the first time it was sent.
    sent: Option<Clock>,
}

/// What the tasks tell.
enum Event {
    Opened(Result<Box<Opened>, String>),
    /// A connection has ended, with its error.
    Closed(u64, Option<String>),
    /// A message sent on that connection has come to this.
    Ended(u64, Flight, Verdict),
}

/// Wakes the thread.
struct Bell(Notify);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.notify_one();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.notify_one();
    }
}

/// The running thread.
#[derive(Debug)]
pub struct RemoteThread {
    stop: Arc<AtomicBool>,
    waker: Waker,
    thread: JoinHandle<()>,
}

impl RemoteThread {
    /// Whether it does its work; not after it has panicked.
    pub fn is_running(&self) -> bool {
        !self.thread.is_finished()
    }

    /// Ends it. What is answered within `patience` counts.
    pub fn stop(self, patience: Duration) {
        self.stop.store(true, Ordering::Release);
        self.waker.wake();
        let deadline = Clock::now() + patience;
        while !self.thread.is_finished() && Clock::now() < deadline {
            thread::park_timeout(Duration::from_millis(5));
        }
        if self.thread.is_finished() {
            // A panic of it was printed.
            let _ = self.thread.join();
        }
    }
}

/// Starts the thread; a port for each core. The other process need not be there yet.
///
/// # Errors
/// When the thread cannot be had.
pub fn forward(
    config: RemoteConfig,
    status: Arc<RemoteStatus>,
    doorbells: &[Doorbell],
) -> Result<(RemoteThread, Vec<RemotePort>), String> {
    let bell = Arc::new(Bell(Notify::new()));
    let (mut links, mut ports) = (Vec::new(), Vec::new());
    for doorbell in doorbells {
        let (parcels_out, parcels) = ring(UNDER_WAY_MAX);
        let (fates, fates_in) = ring(UNDER_WAY_MAX);
        links.push(CoreLink { parcels, fates, doorbell: doorbell.clone() });
        let waker = Waker::from(Arc::clone(&bell));
        ports.push(RemotePort { parcels: parcels_out, fates: fates_in, waker });
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("no runtime for the connections to {}: {error}", config.target))?;
    let (stop, waker) = (Arc::new(AtomicBool::new(false)), Waker::from(Arc::clone(&bell)));
    let asked = Arc::clone(&stop);
    let thread = thread::Builder::new()
        .name("remote".to_owned())
        .spawn(move || runtime.block_on(Bridge::new(config, status, links).run(&bell, &asked)))
        .map_err(|error| format!("the thread of the connections cannot be started: {error}"))?;
    Ok((RemoteThread { stop, waker, thread }, ports))
}

struct Bridge {
    config: Arc<RemoteConfig>,
    status: Arc<RemoteStatus>,
    links: Vec<CoreLink>,
    /// Whose messages are next.
    turn: usize,
    /// To be sent again, before anything else.
    again: VecDeque<Flight>,
    /// Sent and not decided.
    on_the_wire: usize,
    pool: Pool,
    opening: bool,
    /// Whether the other side answers is not known: connect to find out.
    unsure: bool,
    connect_after: Instant,
    backoff: Backoff,
    breaker: Breaker,
    trouble: Option<String>,
    sender: UnboundedSender<Event>,
    events: UnboundedReceiver<Event>,
}

impl Bridge {
    fn new(config: RemoteConfig, status: Arc<RemoteStatus>, links: Vec<CoreLink>) -> Self {
        // Bounded by the messages on the wire and the connections.
        let (sender, events) = mpsc::unbounded_channel();
        Self {
            status,
            links,
            turn: 0,
            again: VecDeque::new(),
            on_the_wire: 0,
            pool: Pool::default(),
            opening: false,
            unsure: true,
            connect_after: Instant::now(),
            backoff: Backoff::new(RECONNECT.0, RECONNECT.1),
            breaker: Breaker::new(config.breaker, Clock::now()),
            config: Arc::new(config),
            trouble: None,
            sender,
            events,
        }
    }

    async fn run(mut self, bell: &Bell, stop: &AtomicBool) {
        loop {
            self.offer();
            self.connect();
            self.publish();
            self.watch();
            let idle = self.on_the_wire == 0 && self.again.is_empty();
            if stop.load(Ordering::Acquire) && idle && self.links.iter().all(|link| link.parcels.is_empty()) {
                return;
            }
            tokio::select! {
                event = self.events.recv() => if let Some(event) = event { self.note(event) },
                () = bell.0.notified() => {}
                () = tokio::time::sleep(TICK) => self.pool.close_idle(self.config.idle),
            }
            while let Ok(event) = self.events.try_recv() {
                self.note(event);
            }
        }
    }

    /// Sends what waits, as far as there are streams for it. The connections write it when this task rests.
    fn offer(&mut self) {
        while self.waits() {
            let Some((id, requests)) = self.pool.take() else { return };
            let Some(flight) = self.next() else {
                self.pool.give_back(id);
                return;
            };
            self.send(id, requests, flight);
        }
    }

    fn waits(&self) -> bool {
        !self.again.is_empty() || self.links.iter().any(|link| !link.parcels.is_empty())
    }

    fn next(&mut self) -> Option<Flight> {
        if let Some(flight) = self.again.pop_front() {
            return Some(flight);
        }
        let cores = self.links.len();
        for _ in 0..cores {
            self.turn = (self.turn + 1) % cores;
            if let Some(parcel) = self.links[self.turn].parcels.pop()
                && let Some(flight) = Flight::new(self.turn, parcel)
            {
                return Some(flight);
            }
        }
        None
    }

    fn send(&mut self, id: u64, mut requests: SendRequest<Bytes>, mut flight: Flight) {
        let response = match begin(&mut requests, &self.config, &flight) {
            Ok(response) => response,
            Err(_) => {
                // The connection takes nothing more (GOAWAY, or it broke): nothing of this was sent.
                self.unsure |= self.pool.leave(id);
                self.again.push_front(flight);
                return;
            }
        };
        flight.tries += 1;
        let sent = *flight.sent.get_or_insert_with(Clock::now);
        self.on_the_wire += 1;
        self.status.requests.fetch_add(1, Relaxed);
        let (events, deadline) = (self.sender.clone(), Instant::from_std(sent) + self.config.answer_timeout);
        tokio::spawn(async move {
            let verdict = wait(response, deadline).await;
            // The bridge outlives what it waits for, except at its end.
            let _ = events.send(Event::Ended(id, flight, verdict));
        });
    }

    /// Opens a connection where one is missing: something waits and all are busy, or it is not known how the other
    /// side is.
    fn connect(&mut self) {
        let wanted = self.unsure || self.waits();
        if !wanted
            || self.opening
            || self.pool.len() >= self.config.connections_max
            || Instant::now() < self.connect_after
        {
            return;
        }
        self.opening = true;
        let (config, events) = (Arc::clone(&self.config), self.sender.clone());
        tokio::spawn(async move {
            let _ = events.send(Event::Opened(open(&config).await.map(Box::new)));
        });
    }

    fn note(&mut self, event: Event) {
        match event {
            Event::Opened(outcome) => self.opened(outcome),
            Event::Closed(id, error) => {
                if self.pool.leave(id) {
                    // It was in use or could have been: whether the other side is still there has to be seen.
                    self.unsure = true;
                    tracing::debug!(target = %self.config.target, error, "a connection has ended");
                }
            }
            Event::Ended(id, flight, verdict) => {
                self.on_the_wire -= 1;
                self.pool.give_back(id);
                self.ended(id, flight, verdict);
            }
        }
    }

    fn opened(&mut self, outcome: Result<Box<Opened>, String>) {
        self.opening = false;
        match outcome {
            Ok(opened) => {
                let Opened { requests, mut connection, socket } = *opened;
                self.unsure = false;
                self.backoff.reset();
                self.breaker.succeed();
                self.trouble = None;
                self.status.connections_opened.fetch_add(1, Relaxed);
                let (id, events) = (self.pool.join(requests), self.sender.clone());
                tokio::spawn(async move {
                    let error = socket.drive(&mut connection).await.err();
                    let _ = events.send(Event::Closed(id, error));
                });
            }
            Err(error) => {
                self.breaker.fail(Clock::now());
                self.connect_after = Instant::now() + self.backoff.next_pause();
                let trouble = format!("{} = {}: {error}", self.config.setting, self.config.target);
                if self.pool.len() == 0 {
                    self.unsure = true;
                    self.refuse_waiting(&trouble);
                }
                self.trouble = Some(trouble);
            }
        }
    }

    /// There is no way to the other side: nobody is kept waiting for one.
    fn refuse_waiting(&mut self, trouble: &str) {
        while let Some(flight) = self.next() {
            let outcome = match flight.tries {
                0 => reject(&self.status, 503, &format!("not accepted: {trouble}"), Some("UNAVAILABLE")),
                _ => self.unknown(&format!("the connection was lost after it was sent, and then {trouble}")),
            };
            self.settle(&flight, outcome);
        }
    }

    fn unknown(&self, why: &str) -> Outcome {
        let text = format!("unknown: {why}; it may be stored, send it again with the same Idempotency-Key");
        reject(&self.status, 504, &text, Some("DEADLINE_EXCEEDED"))
    }

    fn ended(&mut self, id: u64, mut flight: Flight, verdict: Verdict) {
        match verdict {
            Verdict::Answered(answered) => {
                self.breaker.succeed();
                self.trouble = None;
                let RemoteConfig { target, setting, .. } = &*self.config;
                let outcome = answered.outcome(&target.to_string(), setting, &self.status, flight.once);
                if matches!(outcome, Outcome::Stored(_)) {
                    self.status.side.note_acknowledged(flight.sent.map(|sent| sent.elapsed()));
                }
                self.settle(&flight, outcome);
            }
            Verdict::NotTaken => {
                // As if it had not been sent; on this connection nothing more is. One that refuses everything is not
                // asked in a loop: the pause is short, and the message's own time runs on.
                if self.pool.leave(id) {
                    self.connect_after = Instant::now() + self.backoff.next_pause();
                }
                flight.tries -= 1;
                self.again.push_back(flight);
            }
            Verdict::Lost(_) if flight.tries < TRIES_MAX && flight.key.is_some() => {
                self.status.side.retries.fetch_add(1, Relaxed);
                self.unsure |= self.pool.leave(id);
                self.again.push_back(flight);
            }
            Verdict::Lost(error) => {
                self.unsure |= self.pool.leave(id);
                let outcome =
                    self.unknown(&format!("the connection to {} was lost ({error})", self.config.target));
                self.settle(&flight, outcome);
            }
            Verdict::Late => {
                // It may be that nobody reads on this connection any more: a new one will tell.
                self.unsure |= self.pool.leave(id);
                let outcome = self
                    .unknown(&format!("{} did not answer within remote.answer_timeout", self.config.target));
                self.settle(&flight, outcome);
            }
        }
    }

    fn settle(&mut self, flight: &Flight, outcome: Outcome) {
        let staged = self.links[flight.core].fates.stage(Fate { tag: flight.tag, outcome });
        debug_assert!(staged.is_ok(), "the ring holds as many as may be under way");
    }

    /// Tells the cores, once for all that came together.
    fn publish(&mut self) {
        for link in &mut self.links {
            if link.fates.staged() > 0 {
                link.fates.publish();
                link.doorbell.ring();
            }
        }
    }

    fn watch(&mut self) {
        self.breaker.tick(self.on_the_wire, Clock::now());
        let (side, open) = (&self.status.side, self.breaker.is_open());
        side.in_flight.store(self.on_the_wire as u64, Relaxed);
        side.half_open.store(self.breaker.is_half_open(), Relaxed);
        self.status.connections.store(self.pool.len() as u64, Relaxed);
        if open {
            let silent = || format!("{} = {}: it does not answer", self.config.setting, self.config.target);
            side.set_trouble(Some(self.trouble.clone().unwrap_or_else(silent)));
        } else if !self.breaker.is_half_open() {
            side.set_trouble(None);
        }
        side.set_open(open);
    }
}

impl Flight {
    /// `None` for bytes that are no message, which no core sends.
    fn new(core: usize, parcel: Parcel) -> Option<Self> {
        let record = entry::decode(&parcel.entry).ok()?;
        let mut body = Vec::with_capacity(parcel.entry.len() * 3 / 2 + 64);
        data_message::write(&record, &mut body);
        Some(Self {
            core,
            tag: parcel.tag,
            level: parcel.level,
            // With a key the other side answers when it is done with the message: no sooner than `queued` is asked for.
            key: key(&record).filter(|_| record.once || parcel.level != Some(AckLevel::Queued)),
            once: record.once,
            body: body.into(),
            tries: 0,
            sent: None,
        })
    }
}

/// The `Idempotency-Key`: the id, when its sender wants repeats recognised or when it is one that Tidegate gave out,
/// which is unique. Any other id may stand on several messages. The other side goes by the id in the body, the field
/// only says that a repeat is to be recognised; so an id that does not fit the field is coded there.
fn key(record: &Record<'_>) -> Option<HeaderValue> {
    if !record.once && !is_given_out(record.id) {
        return None;
    }
    if !record.id.is_empty() && record.id.len() <= KEY_BYTES_MAX && record.id.iter().all(u8::is_ascii_graphic)
    {
        return HeaderValue::from_bytes(record.id).ok();
    }
    let coded = URL_SAFE_NO_PAD.encode(record.id);
    (!coded.is_empty() && coded.len() <= KEY_BYTES_MAX).then(|| HeaderValue::try_from(coded).ok())?
}

/// Whether an id has the form of those that Tidegate gives out: a UUID of version 7 (RFC 9562 §5.7).
fn is_given_out(id: &[u8]) -> bool {
    id.len() == 36
        && id.iter().enumerate().all(|(place, byte)| match place {
            8 | 13 | 18 | 23 => *byte == b'-',
            14 => *byte == b'7',
            _ => byte.is_ascii_hexdigit(),
        })
}

/// Hands a message to a connection.
fn begin(
    requests: &mut SendRequest<Bytes>,
    config: &RemoteConfig,
    flight: &Flight,
) -> Result<ResponseFuture, h2::Error> {
    let mut request = Request::new(());
    *request.method_mut() = Method::POST;
    *request.uri_mut() = config.target.enqueue.clone();
    let fields = request.headers_mut();
    fields.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    fields.insert(header::CONTENT_LENGTH, HeaderValue::from(flight.body.len()));
    if let Some(level) = flight.level {
        fields.insert("tidegate-ack", HeaderValue::from_static(level.name()));
    }
    if let Some(key) = &flight.key {
        fields.insert("idempotency-key", key.clone());
    }
    if let Some(key) = &config.key {
        fields.insert("x-api-key", key.clone());
    }
    let (response, mut stream) = requests.send_request(request, false)?;
    // What the other side's window does not let through yet waits in `h2`: a copy of what is in the slab.
    stream.send_data(flight.body.clone(), true)?;
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_of_any_characters_has_a_key() {
        let key = |id: &[u8]| key(&Record { id, once: true, ..Record::default() });
        assert_eq!(key(b"order-17").unwrap(), "order-17");
        assert!(key("zwei W\u{f6}rter".as_bytes()).is_some());
        assert!(key(&[b'x'; 256]).is_none() && key(b"").is_none());
    }

    #[test]
    fn an_id_that_may_stand_on_several_messages_is_no_key() {
        let key = |id: &[u8]| key(&Record { id, ..Record::default() });
        assert!(key(b"trace-test").is_none());
        assert!(key(b"01890a5d-ac96-774b-bcce-b302099a8057").is_some());
        assert!(key(b"01890a5d-ac96-474b-bcce-b302099a8057").is_none());
    }
}
