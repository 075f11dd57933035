//! What comes back from a broker: taken by a thread of its own, worked on by the cores, acknowledged afterwards.
//!
//! ```text
//! Source (nats, kafka) ─► thread ─ ring per core ─► InboundPort::poll ─► worked on
//!        acknowledge   ◄─────────── ring per core ◄─ done
//! ```
//!
//! A message goes to the core of its key, or of its id: so per-key order holds, and the same message from two sides
//! meets itself. As many are under way as the rings hold; then nothing more is taken. An event is judged before it is handed
//! on, by the rules of the routes that take events: anybody who may write to the broker wrote it.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::Waker,
    thread::{self, JoinHandle},
    time::Duration,
};

use engine_core::{
    Doorbell, KIND_EVENT, PartitionKey, Record, key_hash,
    ring::{Consumer, Producer, ring},
    schema::Judged,
    shard_of,
};

use crate::{
    data_message,
    dead_letter::{Cause, DeadLetters},
    entry,
};

/// Messages on their way to a core and back, at most.
const CAPACITY: usize = 1024;
/// How long the thread waits for the broker at most before it looks at what is done.
const POLL: Duration = Duration::from_millis(50);
/// How often a message that cannot be worked on is tried before it is a dead letter.
const ATTEMPTS_MAX: u32 = 5;

/// Says whether a record that claims to be an event is one: what it says of itself, or what is wrong with it, in words.
pub type Judge = Arc<dyn Fn(&Record<'_>) -> Result<Judged, String> + Send + Sync>;

/// The code of what every attempt at came to nothing.
const PROCESSING_FAILED: &str = "PROCESSING_FAILED";

/// A broker to take messages from. Driven by one thread of its own.
pub trait Source {
    /// Takes what has come, at most `max`, waiting at most `timeout` for the first: a tag and the message for each.
    fn take(&mut self, max: usize, timeout: Duration, each: &mut dyn FnMut(u64, Taken<'_>));

    /// The message with this tag was worked on.
    fn done(&mut self, tag: u64);

    /// The message with this tag cannot be worked on. Whether it was put aside at the broker; else it becomes a dead
    /// letter here. [`done`](Source::done) follows.
    fn refuse(&mut self, _tag: u64, _reason: &str) -> bool {
        false
    }

    /// After [`done`](Source::done) of all that came together.
    fn flush(&mut self) {}

    /// Records that it has taken and not handed on: it hands them on first, and waits for no others then.
    fn left(&self) -> usize {
        0
    }

    /// Before it ends: waits a little until the broker knows what was worked on.
    fn finish(&mut self) {}

    /// Ends a wait in [`take`](Source::take); cheap while none waits.
    fn waker(&self) -> Waker;

    /// Its name, for dead letters.
    fn name(&self) -> &str;
}

/// What came from a broker.
#[derive(Debug)]
pub enum Taken<'a> {
    /// A message.
    Message(&'a Record<'a>),
    /// Bytes that are none.
    Malformed {
        /// What is wrong with them.
        reason: String,
        /// The bytes.
        value: &'a [u8],
    },
}

/// For a [`Source`]: hands on a value that is a `DataMessage`, or should be one.
pub fn take_data_message(tag: u64, value: &[u8], each: &mut dyn FnMut(u64, Taken<'_>)) {
    if let Err(reason) = data_message::read(value, |record| each(tag, Taken::Message(record))) {
        each(tag, Taken::Malformed { reason, value });
    }
}

#[derive(Debug)]
struct Parcel {
    tag: u64,
    attempts: u32,
    entry: Box<[u8]>,
}

#[derive(Debug)]
struct Done {
    parcel: Parcel,
    processed: bool,
}

/// A core's end.
pub struct InboundPort {
    parcels: Consumer<Parcel>,
    done: Producer<Done>,
    /// Worked on, and not told before the journal has come to this offset; oldest first. As many as the ring holds.
    waiting: VecDeque<(u64, Done)>,
    waker: Waker,
}

impl std::fmt::Debug for InboundPort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("InboundPort")
    }
}

impl InboundPort {
    /// Gives at most `max` messages to `each`, which says whether they were worked on, and how far the journal has to have
    /// come before their broker is told; returns how many there were.
    pub fn poll(&mut self, max: usize, mut each: impl FnMut(&Record<'_>) -> (bool, u64)) -> usize {
        let waiting = &mut self.waiting;
        self.parcels.take(max, |parcel| {
            let (processed, upto) = entry::decode(&parcel.entry).map_or((false, 0), |record| each(&record));
            waiting.push_back((upto, Done { parcel, processed }));
        })
    }

    /// Tells what need not wait any longer: the journal is settled up to here.
    pub fn tell(&mut self, settled_upto: u64) {
        let mut told = false;
        while self.waiting.front().is_some_and(|(upto, _)| *upto <= settled_upto)
            && let Some((_, done)) = self.waiting.pop_front()
        {
            let staged = self.done.stage(done);
            debug_assert!(staged.is_ok(), "the ring back holds as many as the ring there");
            told = true;
        }
        if told {
            self.done.publish();
            self.waker.wake_by_ref();
        }
    }
}

struct Link {
    parcels: Producer<Parcel>,
    done: Consumer<Done>,
    doorbell: Doorbell,
    /// On their way there or back.
    under_way: usize,
}

/// A running consumer thread.
#[derive(Debug)]
pub struct InboundThread {
    stop: Arc<AtomicBool>,
    waker: Waker,
    thread: JoinHandle<()>,
}

impl InboundThread {
    /// Whether it does its work; not after it has panicked.
    pub fn is_running(&self) -> bool {
        !self.thread.is_finished()
    }

    /// Takes nothing more, waits for what the cores have, and ends.
    pub fn stop(self) {
        self.stop.store(true, Ordering::Release);
        self.waker.wake();
        // A panic of it was printed.
        let _ = self.thread.join();
    }
}

/// Takes messages for these cores. `given_up` counts those that come to nothing, once each.
///
/// # Errors
/// When the source or the thread cannot be had.
pub fn consume<S: Source>(
    name: &str,
    doorbells: &[Doorbell],
    partition: PartitionKey,
    judge: Judge,
    dead_letters: Arc<DeadLetters>,
    given_up: Arc<AtomicU64>,
    source: impl FnOnce() -> Result<S, String> + Send + 'static,
) -> Result<(InboundThread, Vec<InboundPort>), String> {
    let (mut links, mut halves) = (Vec::new(), Vec::new());
    for doorbell in doorbells {
        let (parcels_out, parcels) = ring(CAPACITY);
        let (done_out, done) = ring(CAPACITY);
        links.push(Link { parcels: parcels_out, done, doorbell: doorbell.clone(), under_way: 0 });
        halves.push((parcels, done_out));
    }
    let stop = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&stop);
    let (sender, made) = std::sync::mpsc::channel();
    let thread = thread::Builder::new()
        .name(format!("{name}-in"))
        .spawn(move || match source() {
            Ok(source) => {
                // The starter waits for it.
                let _ = sender.send(Ok(source.waker()));
                let put_aside = Aside { dead_letters: &dead_letters, given_up: &given_up };
                run(source, links, &partition, &judge, &put_aside, &asked);
            }
            Err(error) => {
                let _ = sender.send(Err(error));
            }
        })
        .map_err(|error| format!("a consumer's thread cannot be started: {error}"))?;
    let waker = made.recv().map_err(|_| "a consumer's thread has ended at once".to_owned())??;
    let port =
        |(parcels, done)| InboundPort { parcels, done, waiting: VecDeque::new(), waker: waker.clone() };
    let ports = halves.into_iter().map(port).collect();
    Ok((InboundThread { stop, waker, thread }, ports))
}

fn run<S: Source>(
    mut source: S,
    mut links: Vec<Link>,
    partition: &PartitionKey,
    judge: &Judge,
    aside: &Aside<'_>,
    stop: &AtomicBool,
) {
    let cores = links.len();
    // Failed once, to be tried again.
    let mut again: Vec<(usize, Parcel)> = Vec::new();
    loop {
        let stopping = stop.load(Ordering::Acquire);
        let room =
            links.iter().map(|link| CAPACITY - link.under_way).min().unwrap_or(0).saturating_sub(again.len());
        let under_way: usize = links.iter().map(|link| link.under_way).sum();
        let is_over = under_way == 0 && source.left() == 0;
        if stopping && (is_over || links.iter().any(|link| link.done.is_abandoned())) {
            return source.finish();
        }
        for (core, parcel) in again.drain(..) {
            let staged = links[core].parcels.stage(parcel);
            debug_assert!(staged.is_ok(), "room was kept for it");
            links[core].under_way += 1;
        }
        let mut malformed: Vec<Unfit> = Vec::new();
        let name = source.name().to_owned();
        let most = if stopping { room.min(source.left()) } else { room };
        source.take(most, POLL, &mut |tag, taken| match taken {
            Taken::Message(record) => {
                let mut bytes = Vec::new();
                let is_event = record.kind & KIND_EVENT != 0;
                let judged = if is_event { judge(record).map(Some) } else { Ok(None) };
                let hash = match judged {
                    Ok(judged) => admit(record, judged, partition, &mut bytes),
                    Err(reason) => {
                        entry::encode(record, &mut bytes);
                        return malformed.push(Unfit { tag, code: "INVALID_EVENT", reason, entry: bytes });
                    }
                };
                let link = &mut links[shard_of(hash, cores)];
                let staged = link.parcels.stage(Parcel { tag, attempts: 1, entry: bytes.into() });
                debug_assert!(staged.is_ok(), "no more is taken than there is room for");
                link.under_way += 1;
            }
            Taken::Malformed { reason, value } => {
                let record = Record { source: name.as_bytes(), payload: value, ..Record::default() };
                let mut entry = Vec::new();
                entry::encode(&record, &mut entry);
                malformed.push(Unfit { tag, code: "MALFORMED", reason, entry });
            }
        });
        for Unfit { tag, code, reason, entry } in malformed {
            aside.put(&mut source, tag, code, &reason, 1, &entry);
        }
        for (core, link) in links.iter_mut().enumerate() {
            if link.parcels.staged() > 0 {
                link.parcels.publish();
                link.doorbell.ring();
            }
            link.under_way -= link.done.take(usize::MAX, |done| {
                let Parcel { tag, attempts, entry } = done.parcel;
                if done.processed {
                    source.done(tag);
                } else if attempts < ATTEMPTS_MAX {
                    again.push((core, Parcel { tag, attempts: attempts + 1, entry }));
                } else {
                    let reason = "the processing step gave it up";
                    aside.put(&mut source, tag, PROCESSING_FAILED, reason, attempts, &entry);
                }
            });
        }
        source.flush();
    }
}

/// What cannot be worked on.
struct Unfit {
    tag: u64,
    code: &'static str,
    reason: String,
    /// As [`entry`] writes it.
    entry: Vec<u8>,
}

/// Writes a record as it goes to its core, and returns the hash that says which: an event's is its user's, whatever key its
/// sender gave it, so that all of a user's events are on one core.
fn admit(record: &Record<'_>, judged: Option<Judged>, partition: &PartitionKey, out: &mut Vec<u8>) -> u64 {
    let Judged { id, user, payload } = judged.unwrap_or_default();
    let id = if id.is_empty() { record.id } else { &id };
    let key =
        if user.is_empty() { partition.of(record.source, record.metadata).unwrap_or(id) } else { &user };
    let hash = key_hash(key);
    let payload = payload.as_deref().unwrap_or(record.payload);
    entry::encode(&Record { key_hash: hash, id, payload, ..*record }, out);
    hash
}

/// Where what comes to nothing is put.
struct Aside<'a> {
    dead_letters: &'a DeadLetters,
    given_up: &'a AtomicU64,
}

impl Aside<'_> {
    /// Puts a message aside, at the broker or here, and tells the broker that it is done with.
    fn put<S: Source>(
        &self,
        source: &mut S,
        tag: u64,
        code: &str,
        reason: &str,
        attempts: u32,
        bytes: &[u8],
    ) {
        let side = if code == PROCESSING_FAILED { "workers" } else { source.name() };
        let cause = Cause {
            side: side.to_owned(),
            code: code.to_owned(),
            reason: reason.to_owned(),
            attempts,
            place: None,
        };
        if let Ok(record) = entry::decode(bytes) {
            if source.refuse(tag, reason) {
                self.dead_letters.count_elsewhere(&cause, &record);
            } else {
                while let Err(error) = self.dead_letters.append(&cause, &record) {
                    tracing::error!(
                        error,
                        "a dead letter cannot be kept; trying again, what comes behind it waits"
                    );
                    thread::sleep(Duration::from_secs(1));
                }
            }
        }
        self.given_up.fetch_add(1, Ordering::Relaxed);
        source.done(tag);
    }
}
