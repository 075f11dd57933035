//! A fleet on a free port, a sink behind a gate, and clients.

use std::{
    future::Future,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use bytes::{BufMut, Bytes};
use engine_core::{AckLevel, Batch, Completions, Doorbell, Outcome, PartitionKey, Sink, Ticket};
use h2::{
    SendStream,
    client::{ResponseFuture, SendRequest},
};
use http::{HeaderMap, Request, StatusCode};
use parking_lot::Mutex;
use serde_json::Value;
use transports::{
    AckPolicy, BoxedSink, DriverChoice, EventPlan, EventRules, Examined, Farewell, Fleet, Guard, Health,
    Limits, Plan, Role, SinkMaker, Tally, bind, choose,
    cold::{ColdReceiver, bridge},
    facade::{Draft, Facade},
    inject::NotTaken,
};

/// Longest a condition may take to come true; only a broken fleet takes that long.
const PATIENCE: Duration = Duration::from_secs(30);

/// Asks again and again until `condition` gives something.
#[track_caller]
pub(crate) fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(Instant::now() < deadline, "never came true: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// As [`eventually`], where the runtime has to go on meanwhile.
pub(crate) async fn eventually_meanwhile(what: &str, condition: impl FnMut() -> bool) {
    eventually_within(PATIENCE, what, condition).await;
}

/// As [`eventually_meanwhile`], where something else would make it come true after a longer time.
pub(crate) async fn eventually_within(patience: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + patience;
    while !condition() {
        assert!(Instant::now() < deadline, "never came true: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// A message as it reached a core's worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Worked {
    pub(crate) core: usize,
    pub(crate) id: String,
    pub(crate) source: String,
    pub(crate) payload: Vec<u8>,
    pub(crate) metadata: Vec<(String, String)>,
    pub(crate) timestamp_seconds: i64,
}

impl Worked {
    /// The value of a metadata key.
    pub(crate) fn metadata(&self, key: &str) -> Option<&str> {
        self.metadata.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }
}

/// What stands between the queue and the sinks of all cores.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    open: AtomicBool,
    worked: Mutex<Vec<Worked>>,
}

impl Gate {
    pub(crate) fn set(&self, open: bool) {
        self.open.store(open, Ordering::Release);
    }

    /// Everything that went through, in the order of each core.
    pub(crate) fn worked(&self) -> Vec<Worked> {
        self.worked.lock().clone()
    }
}

struct GatedSink {
    core: usize,
    gate: Arc<Gate>,
}

impl Sink for GatedSink {
    fn submit(&mut self, batch: &mut Batch<'_>) {
        if !self.gate.open.load(Ordering::Acquire) {
            return;
        }
        while let Some(ticket) = batch.take() {
            let record = batch.read(&ticket);
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            let worked = Worked {
                core: self.core,
                id: text(record.id()),
                source: text(record.source()),
                payload: record.payload().to_vec(),
                metadata: record.metadata().map(|(key, value)| (text(key), text(value))).collect(),
                timestamp_seconds: record.timestamp_seconds(),
            };
            self.gate.worked.lock().push(worked);
            batch.complete(ticket, Outcome::Processed);
        }
    }

    fn poll(&mut self, _done: &mut Completions<'_>) {}
}

/// Keeps every message until the test says what became of it.
#[derive(Default)]
pub(crate) struct Verdicts {
    next: Mutex<Vec<Outcome>>,
    doorbells: Mutex<Vec<Doorbell>>,
    held: std::sync::atomic::AtomicUsize,
}

impl Verdicts {
    /// Messages that wait for a verdict.
    pub(crate) fn held(&self) -> usize {
        self.held.load(Ordering::Acquire)
    }

    /// Verdicts that the sink has not heard yet.
    pub(crate) fn unheard(&self) -> usize {
        self.next.lock().len()
    }

    /// The oldest message of core 0 came to this.
    pub(crate) fn say(&self, outcome: Outcome) {
        self.say_of_many(1, outcome);
    }

    /// The oldest messages of core 0 came to this.
    pub(crate) fn say_of_many(&self, count: usize, outcome: Outcome) {
        self.next.lock().extend(std::iter::repeat_n(outcome, count));
        self.doorbells.lock().iter().for_each(Doorbell::ring);
    }
}

pub(crate) struct HoldingSink {
    verdicts: Arc<Verdicts>,
    held: std::collections::VecDeque<Ticket>,
}

impl HoldingSink {
    pub(crate) fn new(verdicts: &Arc<Verdicts>, doorbell: Doorbell) -> Self {
        verdicts.doorbells.lock().push(doorbell);
        Self { verdicts: Arc::clone(verdicts), held: Default::default() }
    }
}

impl Sink for HoldingSink {
    fn submit(&mut self, batch: &mut Batch<'_>) {
        while let Some(ticket) = batch.take() {
            self.held.push_back(ticket);
            self.verdicts.held.fetch_add(1, Ordering::AcqRel);
        }
    }

    fn poll(&mut self, done: &mut Completions<'_>) {
        for outcome in self.verdicts.next.lock().drain(..) {
            let ticket = self.held.pop_front().expect("a verdict on a message that is held");
            done.complete(ticket, outcome);
            self.verdicts.held.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

struct AlwaysHealthy;

impl Health for AlwaysHealthy {
    fn report(&self, _role: Role) -> (u16, Vec<u8>) {
        (200, br#"{"healthy":true}"#.to_vec())
    }

    fn fields(&self) -> &'static [(&'static str, &'static str)] {
        &[("x-frame-options", "DENY")]
    }

    fn liveness(&self, stalled: &[usize]) -> (u16, Vec<u8>) {
        (if stalled.is_empty() { 200 } else { 503 }, b"{}".to_vec())
    }
}

/// Rules without a general decoder: what is not plain is no event.
struct NothingIsGood;

impl EventRules for NothingIsGood {
    fn examine(&self, _event: &[u8], at: &str) -> Examined {
        Examined::Broken(at.to_owned())
    }

    fn judge(&self, _schema: &[u8], _event: &[u8]) -> Result<engine_core::schema::Judged, String> {
        Err("it is not plain".to_owned())
    }
}

/// No older system's routes: all of them are the cold lane's.
impl Facade for NothingIsGood {
    fn read(&self, _route: usize, _body: &[u8], _unix_ms: u64, _draft: &mut Draft) -> bool {
        false
    }

    fn status(&self, _route: usize) -> u16 {
        200
    }

    fn fields(&self, _route: usize) -> &[(&'static str, &'static str)] {
        &[]
    }

    fn stored(&self, _route: usize, _id: &[u8], _took_ns: u64) {}

    fn refuse(&self, _route: usize, _id: &str, why: &NotTaken, _out: &mut Vec<u8>) -> u16 {
        why.status
    }
}

/// A running fleet.
pub(crate) struct TestFleet {
    fleet: Option<Fleet>,
    pub(crate) address: SocketAddr,
    pub(crate) gate: Arc<Gate>,
    cold: Mutex<ColdReceiver>,
}

impl TestFleet {
    /// With the gate shut.
    pub(crate) fn shut(cores: usize, queue_size: usize, partition: PartitionKey) -> Self {
        let gate = Arc::new(Gate::default());
        let behind = Arc::clone(&gate);
        let sink = move |doorbells: &[Doorbell]| {
            let sink = |core| -> BoxedSink { Box::new(GatedSink { core, gate: Arc::clone(&behind) }) };
            Ok((0..doorbells.len()).map(sink).collect())
        };
        Self::with(cores, queue_size, partition, AckPolicy::queued_only(), gate, Box::new(sink))
    }

    /// One core, every level, and a sink that waits for the test's verdicts.
    pub(crate) fn holding(default: AckLevel, timeout: Duration) -> (Self, Arc<Verdicts>) {
        Self::holding_so_many(100, default, timeout)
    }

    /// As [`TestFleet::holding`], with a queue of this size.
    pub(crate) fn holding_so_many(
        queue_size: usize,
        default: AckLevel,
        timeout: Duration,
    ) -> (Self, Arc<Verdicts>) {
        let acks = AckPolicy {
            default,
            unreachable: [None, None, None],
            timeout,
            sides: vec!["nats".to_owned(), "kafka".to_owned()],
            ..AckPolicy::queued_only()
        };
        let verdicts = Arc::new(Verdicts::default());
        let behind = Arc::clone(&verdicts);
        let sink = move |doorbells: &[Doorbell]| {
            let sink =
                |doorbell: &Doorbell| -> BoxedSink { Box::new(HoldingSink::new(&behind, doorbell.clone())) };
            Ok(doorbells.iter().map(sink).collect())
        };
        let fleet = Self::with(1, queue_size, PartitionKey::Arrival, acks, Arc::default(), Box::new(sink));
        (fleet, verdicts)
    }

    fn with(
        cores: usize,
        queue_size: usize,
        partition: PartitionKey,
        acks: AckPolicy,
        gate: Arc<Gate>,
        sinks: SinkMaker,
    ) -> Self {
        let sockets = bind(([127, 0, 0, 1], 0).into(), cores).unwrap();
        let address = sockets[0].local_addr().unwrap();
        let (driver, _) = choose(DriverChoice::Auto).unwrap();
        let (cold, calls) = bridge(16);
        let fleet = Fleet::start(Plan {
            cores,
            driver,
            pin: false,
            listeners: vec![(Role::Gateway, sockets)],
            limits: Limits::default(),
            queue_size,
            queue_bytes_max: 256 << 20,
            partition,
            route_by_id: false,
            sinks,
            acks,
            cold,
            health: Arc::new(AlwaysHealthy),
            probe_token: "the test's own".to_owned(),
            events: EventPlan {
                guard: Guard::default(),
                node: "test".into(),
                rules: Arc::new(NothingIsGood),
                facade: Arc::new(NothingIsGood),
            },
            inboxes: Vec::new(),
        })
        .unwrap();
        Self { fleet: Some(fleet), address, gate, cold: Mutex::new(calls) }
    }

    /// With the gate open.
    pub(crate) fn open(cores: usize, partition: PartitionKey) -> Self {
        let fleet = Self::shut(cores, 10_000, partition);
        fleet.gate.set(true);
        fleet
    }

    /// The path of the next request that the cold lane was asked for; nobody answers it.
    pub(crate) fn passed_on(&self) -> Option<String> {
        let call = self.cold.lock().try_recv().ok()?;
        Some(call.request.uri().path().to_owned())
    }

    /// A front-end count over all cores.
    pub(crate) fn tally(&self, tally: Tally) -> u64 {
        self.fleet.as_ref().unwrap().fronts.iter().map(|front| front.tally(tally)).sum()
    }

    /// Opens the gate and lets the core have a turn: a sink has no doorbell of its own here.
    pub(crate) fn open_the_gate(&self) {
        self.gate.set(true);
        self.turn();
    }

    /// Any request gives its core a turn.
    pub(crate) fn turn(&self) {
        assert_eq!(exchange(self.address, "GET /livez HTTP/1.1\r\nHost: localhost\r\n").status, 200);
    }

    /// Waits until `count` messages were worked on.
    #[track_caller]
    pub(crate) fn worked(&self, count: usize) -> Vec<Worked> {
        let accepted = self.tally(Tally::MessagesQueued);
        assert_eq!(accepted, count as u64, "accepted");
        eventually("all messages are worked on", || {
            let worked = self.gate.worked();
            if worked.len() == count {
                return Some(worked);
            }
            self.turn();
            None
        })
    }

    /// Drains and ends it.
    pub(crate) fn end(mut self, timeout: Duration) -> Farewell {
        let fleet = self.fleet.take().unwrap();
        fleet.drain(timeout);
        fleet.join().unwrap()
    }
}

impl Drop for TestFleet {
    fn drop(&mut self) {
        if let Some(fleet) = self.fleet.take() {
            self.gate.set(true);
            fleet.drain(Duration::from_secs(1));
            // A failing test has said enough.
            let _ = fleet.join();
        }
    }
}

/// An HTTP/1.1 answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

/// Sends a head (without its empty line) on a connection of its own.
pub(crate) fn exchange(address: SocketAddr, head: &str) -> Answer {
    exchange_with(address, head, b"")
}

/// POST of a body on a connection of its own.
pub(crate) fn post(address: SocketAddr, path: &str, body: &[u8]) -> Answer {
    post_with(address, path, "", body)
}

/// POST with further header lines.
pub(crate) fn post_with(address: SocketAddr, path: &str, fields: &str, body: &[u8]) -> Answer {
    let head =
        format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n{fields}", body.len());
    exchange_with(address, &head, body)
}

fn exchange_with(address: SocketAddr, head: &str, body: &[u8]) -> Answer {
    let mut socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.write_all(format!("{head}Connection: close\r\n\r\n").as_bytes()).unwrap();
    socket.write_all(body).unwrap();
    let mut reader = BufReader::new(socket);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert_ne!(reader.read_line(&mut head).unwrap(), 0, "a whole head: {head:?}");
    }
    let mut body = Vec::new();
    reader.read_to_end(&mut body).unwrap();
    Answer { status: head["HTTP/1.1 ".len()..][..3].parse().unwrap(), head, body }
}

/// A gRPC message with its prefix.
pub(crate) fn framed(flag: u8, message: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(5 + message.len());
    bytes.put_u8(flag);
    bytes.put_u32(u32::try_from(message.len()).unwrap());
    bytes.put_slice(message);
    bytes
}

/// An HTTP/2 answer.
#[derive(Debug)]
pub(crate) struct H2Answer {
    pub(crate) status: StatusCode,
    pub(crate) head: HeaderMap,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: HeaderMap,
}

impl H2Answer {
    /// A field of the trailers, or of a trailers-only head.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.trailers.get(name).or_else(|| self.head.get(name))?.to_str().ok()
    }
}

/// An HTTP/2 connection.
pub(crate) struct H2Peer {
    pub(crate) requests: SendRequest<Bytes>,
    pings: h2::PingPong,
    address: SocketAddr,
}

impl H2Peer {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let socket = tokio::net::TcpStream::connect(address).await.unwrap();
        socket.set_nodelay(true).unwrap();
        let (requests, mut connection) = h2::client::handshake(socket).await.unwrap();
        let pings = connection.ping_pong().unwrap();
        // Ends with the connection; its streams tell how.
        tokio::spawn(async move { drop(connection.await) });
        Self { requests, pings, address }
    }

    /// Opens a POST.
    pub(crate) async fn open(&self, path: &str, content_type: &str) -> (ResponseFuture, SendStream<Bytes>) {
        self.open_with(path, content_type, &[]).await
    }

    /// Opens a POST with further fields.
    pub(crate) async fn open_with(
        &self,
        path: &str,
        content_type: &str,
        fields: &[(&str, &str)],
    ) -> (ResponseFuture, SendStream<Bytes>) {
        let mut request = Request::post(format!("http://{}{path}", self.address))
            .header("content-type", content_type)
            .header("te", "trailers");
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let request = request.body(()).unwrap();
        let mut requests = self.requests.clone().ready().await.unwrap();
        requests.send_request(request, false).unwrap()
    }

    /// POST of a whole body.
    pub(crate) async fn post(&self, path: &str, content_type: &str, body: &[u8]) -> H2Answer {
        let (answer, stream) = self.open(path, content_type).await;
        let body = Bytes::copy_from_slice(body);
        let sending = tokio::spawn(async move { drop(send(stream, body, true).await) });
        let answer = read(answer).await.unwrap();
        sending.abort();
        answer
    }

    /// A round trip: what the peer had to say to all that was sent before is here when it is over.
    pub(crate) async fn round_trip(&mut self) {
        patiently(self.pings.ping(h2::Ping::opaque())).await.unwrap();
    }
}

/// Waits no longer than a test has patience for.
pub(crate) async fn patiently<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("in time")
}

/// Sends as the peer's window allows.
pub(crate) async fn send(
    mut stream: SendStream<Bytes>,
    mut body: Bytes,
    end: bool,
) -> Result<SendStream<Bytes>, h2::Error> {
    while !body.is_empty() {
        stream.reserve_capacity(body.len());
        while stream.capacity() == 0 {
            match std::future::poll_fn(|context| stream.poll_capacity(context)).await {
                Some(capacity) => drop(capacity?),
                None => return Ok(stream),
            }
        }
        let piece = body.split_to(stream.capacity().min(body.len()));
        stream.send_data(piece, end && body.is_empty())?;
    }
    Ok(stream)
}

/// Reads a whole answer.
pub(crate) async fn read(answer: ResponseFuture) -> Result<H2Answer, h2::Error> {
    let (head, mut stream) = patiently(answer).await?.into_parts();
    let mut body = Vec::new();
    while let Some(data) = patiently(stream.data()).await {
        let data = data?;
        body.extend_from_slice(&data);
        stream.flow_control().release_capacity(data.len())?;
    }
    let trailers = patiently(stream.trailers()).await?.unwrap_or_default();
    Ok(H2Answer { status: head.status, head: head.headers, body, trailers })
}

/// Runs a future on this thread.
pub(crate) fn on_runtime<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}
