//! Puts together where messages go: the log, the brokers' threads, the workers, the sinks of the cores; and watches them.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::Waker,
    thread::{self, JoinHandle},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result};
use brokers::{
    Pipeline, Way,
    claims::claims,
    dead_letter::{DeadLetterConfig, DeadLetters},
    delivered::Delivered,
    delivery::{DeliveryPlan, DeliveryThread, DirectPort, Unfinished, deliver_direct, deliver_log},
    direct::{Direct, Side},
    inbound::{InboundPort, InboundThread, Judge, consume},
    journal::Journal,
    kafka::{consume::KafkaSource, publish::KafkaPublisher},
    log::{Cursor, Health, Log, LogConfig, Scrub},
    missed::MissedPublisher,
    nats::{Naming, consume::NatsSource, publish::NatsPublisher},
    recall,
    remote::{Forward, RemoteStatus, RemoteThread, forward},
    status::SideStatus,
    stored::{Onward, Stored},
    tap::{Taps, taps},
    window::Window,
    work::{Work, WorkCounters, Worked},
};
use engine_core::{AckLevel, Doorbell};
use parking_lot::Mutex;
use transports::{AckPolicy, BoxedSink, Far, Gate, Guard, SinkMaker};

use crate::{
    events::{self, Parts, Worker},
    settings::{DEFAULT_DIRECTORY, Delivery, Provider, Settings},
    snapshots::{Plan, Snapshots},
};

/// How often the sinks are looked at.
const WATCH: Duration = Duration::from_millis(100);
/// How often consumers' positions are made durable and old segments deleted.
const MAINTAIN: Duration = Duration::from_secs(1);
/// Bytes of the log that are read each time to see whether they are whole: 10 GiB take three hours.
const SCRUB_BYTES: usize = 1 << 20;
/// How long a broker may take at the end to acknowledge what is under way.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a start waits for the brokers' first word, which may be that they are not there.
const FIRST_ANSWER: Duration = Duration::from_secs(1);
/// The name of the workers' cursor.
const WORKERS: &str = "workers";
/// Messages, per core, whose repeats workers recognise that take from a broker what it may bring again after a crash: at least
/// a second of Kafka's, which commits so often. Beyond, the oldest is forgotten, and would be counted twice.
const RECOGNISED_MIN: usize = 1 << 17;
/// Publishes of one core that may be under way to one broker, without a log: the slab bounds them first.
const DIRECT_MAX: usize = 1 << 20;

/// A broker that messages go to.
#[derive(Debug)]
pub struct Broker {
    /// Which.
    pub provider: Provider,
    /// How it is.
    pub status: Arc<SideStatus>,
    /// Its bit in a rejection.
    bit: u8,
    /// How far it has the log's shards.
    delivered: Vec<Arc<Delivered>>,
}

/// Everything behind the cores' queues.
#[derive(Debug)]
pub struct Behind {
    /// What was set.
    pub delivery: Delivery,
    /// Bytes that the cores' queues hold together.
    queue_bytes_max: usize,
    /// The log, if there is one.
    pub log: Option<Log>,
    /// Looks for damage in what it keeps; only the thread that watches has a use for it.
    scrub: Option<Mutex<Scrub>>,
    /// Segments of the log that were found damaged when they were read again.
    pub damaged_segments: AtomicU64,
    /// The brokers.
    pub brokers: Vec<Broker>,
    /// The process that everything is sent on to, if there is one.
    pub remote: Option<Arc<RemoteStatus>>,
    /// What cannot be delivered.
    pub dead_letters: Arc<DeadLetters>,
    /// What stands in the way of a level.
    pub gate: Arc<Gate>,
    /// The log has failed: the process must end.
    pub failed: AtomicBool,
    /// What the workers did, by core.
    work: Vec<Arc<WorkCounters>>,
    /// Messages that came from brokers and were given up.
    given_up: Arc<AtomicU64>,
    /// Messages of earlier runs that waited for the workers when this one began.
    waited_at_start: u64,
    workers: Option<Cursor>,
    outbound: Mutex<Vec<DeliveryThread>>,
    /// What lists the misses of the brokers that go without a log.
    misses: Mutex<Vec<Arc<SideStatus>>>,
    inbound: Mutex<Vec<InboundThread>>,
    remote_thread: Mutex<Option<RemoteThread>>,
    stop: AtomicBool,
    /// Bytes free where the log is, when that was last looked at.
    disk_free: AtomicU64,
    /// What the workers compute from the events, by core.
    pub parts: Parts,
    /// Whether they do.
    analyses: bool,
    /// Messages worked on when that was last looked at, and when they last became more, in milliseconds of the Unix epoch.
    progress: [AtomicU64; 2],
    /// What makes that outlive the process, where there is a place for it.
    pub snapshots: Option<Arc<Snapshots>>,
    /// Where those begin who watch what the cores take; there once the cores are.
    pub taps: OnceLock<Taps>,
    /// What recognises repeats at the workers, by core, until these have it.
    windows: Mutex<Vec<Option<Window>>>,
}

/// The folder of the dead letters in a data directory.
pub fn dead_letter_folder(data: &Path) -> PathBuf {
    data.join("dead-letter")
}

impl Behind {
    /// Opens what the settings name; a broker that cannot be reached does not keep it from starting.
    ///
    /// # Errors
    /// What cannot be opened, with the setting to change.
    pub fn open(settings: &Settings, cores: usize) -> Result<Arc<Self>> {
        let delivery = settings.delivery.clone();
        let log = delivery.log.as_ref().map(|config| open_log(config, cores)).transpose()?;
        let reads_log = delivery.consume && delivery.providers.contains(&Provider::Log);
        let workers = match &log {
            Some(log) if reads_log => Some(log.cursor(WORKERS)?),
            _ => None,
        };
        let shards = log.as_ref().map_or(0, |log| log.shards().last().map_or(0, |last| last + 1));
        let broker = |(place, provider): (usize, &Provider)| Broker {
            provider: *provider,
            status: Arc::new(SideStatus::at(provider.name(), &not_reached(&delivery, *provider))),
            bit: 1 << place,
            delivered: (0..shards).map(|_| Arc::default()).collect(),
        };
        let places = delivery.providers.iter().enumerate().filter(|(_, provider)| provider.is_broker());
        let data = delivery.data_directory.clone().unwrap_or_else(|| PathBuf::from(DEFAULT_DIRECTORY));
        let parts = events::parts(cores, settings.analytics_bounds.unwrap_or_default());
        let analyses = settings.analytics_bounds.is_some();
        let mut windows: Vec<Option<Window>> = (0..cores).map(|_| None).collect();
        let snapshots = snapshots(settings, &log, &workers, &parts, &mut windows)?;
        let lags = log.as_ref().map(Log::lags).unwrap_or_default();
        let waits = lags.iter().find(|(consumer, _)| consumer == WORKERS).map_or(0, |(_, lag)| *lag);
        // Some of it may be done by now.
        let waited_at_start = waits + snapshots.as_ref().map_or(0, |snapshots| snapshots.worked);
        Ok(Arc::new(Self {
            waited_at_start,
            parts,
            analyses,
            progress: Default::default(),
            snapshots,
            taps: OnceLock::new(),
            windows: Mutex::new(windows),
            brokers: places.map(broker).collect(),
            dead_letters: DeadLetters::kept(DeadLetterConfig {
                directory: dead_letter_folder(&data),
                ..delivery.dead_letters.clone()
            }),
            queue_bytes_max: settings.queue_bytes_max,
            scrub: log.clone().map(|log| Mutex::new(Scrub::new(log))),
            damaged_segments: AtomicU64::new(0),
            log,
            gate: Arc::default(),
            failed: AtomicBool::new(false),
            work: (0..cores).map(|_| Arc::default()).collect(),
            given_up: Arc::default(),
            workers,
            remote: delivery.remote.is_some().then(Arc::default),
            remote_thread: Mutex::default(),
            outbound: Mutex::default(),
            misses: Mutex::default(),
            inbound: Mutex::default(),
            stop: AtomicBool::new(false),
            disk_free: AtomicU64::new(u64::MAX),
            delivery,
        }))
    }

    /// What accepting a message can mean.
    pub fn acks(&self) -> AckPolicy {
        AckPolicy {
            default: self.delivery.ack_default,
            unreachable: self.delivery.unreachable.clone(),
            timeout: self.delivery.ack_timeout,
            sides: self.delivery.providers.iter().map(|provider| provider.name().to_owned()).collect(),
            gate: Arc::clone(&self.gate),
            far: self.remote.as_ref().map(|remote| Far {
                reasons: Arc::clone(&remote.reasons),
                asks_default: self.delivery.ack_default_set,
            }),
            guard: Guard::default(),
        }
    }

    /// Whether a message may come to be worked on from several places, and so has to meet itself on one core.
    pub fn route_by_id(&self) -> bool {
        sides_read(&self.delivery) > 1
    }

    /// Makes the cores' sinks, and starts the brokers' threads.
    pub fn sinks(self: &Arc<Self>) -> SinkMaker {
        let behind = Arc::clone(self);
        Box::new(move |doorbells| behind.make_sinks(doorbells).map_err(io::Error::other))
    }

    fn make_sinks(&self, doorbells: &[Doorbell]) -> Result<Vec<BoxedSink>, String> {
        let mut ways = match &self.log {
            _ if self.remote.is_some() => self.send_on(doorbells)?,
            Some(log) => self.through_the_log(log, doorbells)?,
            None if self.brokers.is_empty() => doorbells.iter().map(|_| Way::Memory).collect(),
            None => self.straight(doorbells)?,
        };
        let mut inbound: Vec<Vec<InboundPort>> = doorbells.iter().map(|_| Vec::new()).collect();
        if self.delivery.consume {
            for broker in &self.brokers {
                for (core, port) in self.take_from(broker, doorbells)?.into_iter().enumerate() {
                    inbound[core].push(port);
                }
            }
        }
        let works_at_once = self.delivery.consume && self.delivery.providers.contains(&Provider::Memory);
        let (entries, age) = (self.delivery.idempotency_entries, self.delivery.idempotency_window);
        let windows = recall::windows(self.log.as_ref(), doorbells.len(), entries, age);
        let recall = windows.into_iter().zip(claims(doorbells));
        let mut journals = self.journals(doorbells)?;
        let (ends, taps) = taps(doorbells, events::event_type);
        // Sinks are made once.
        let _ = self.taps.set(ends);
        let sinks = ways.drain(..).zip(inbound).zip(recall).zip(taps).zip(doorbells).enumerate();
        let sinks = sinks.map(|(core, ((((way, inbound), (window, claims)), tap), doorbell))| -> BoxedSink {
            let counters = Arc::clone(&self.work[core]);
            let worker = Worker::new(self.analyses.then(|| Arc::clone(&self.parts[core])));
            let work = Work::new(worker, self.windows.lock()[core].take(), counters);
            // A backlog from before is worked on without waiting for a message.
            doorbell.ring();
            let pipeline = Pipeline::new(way, works_at_once, window, claims, work, inbound, doorbell.clone());
            let onlooker = self.snapshots.as_ref().map(|snapshots| snapshots.onlooker(core));
            let aside = Some(Arc::clone(&self.dead_letters));
            Box::new(pipeline.journal(journals[core].take()).onlooker(onlooker).tap(Some(tap)).aside(aside))
        });
        let sinks = sinks.collect();
        if let Some(snapshots) = &self.snapshots {
            snapshots.start(doorbells).map_err(|error| format!("{error:#}"))?;
        }
        self.await_brokers();
        if let Some(log) = &self.log {
            for consumer in log.absent_consumers() {
                tracing::warn!(
                    consumer,
                    "has a place in the log and takes no part in this run: what it has not passed is kept for it; \
                     delete its file in data.directory/cursors to let go of that"
                );
            }
        }
        Ok(sinks)
    }

    /// Waits until every broker has answered or is seen not to, a moment at most: the cores begin to serve behind this, and
    /// nobody is refused only because a broker that is there was not asked yet.
    fn await_brokers(&self) {
        let deadline = Instant::now() + FIRST_ANSWER;
        while self.brokers.iter().any(|broker| !broker.status.is_known()) && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
        self.look();
    }

    /// The cores' ends of the journal, if there is one.
    fn journals(&self, doorbells: &[Doorbell]) -> Result<Vec<Option<Journal>>, String> {
        let of = |(core, doorbell): (usize, &Doorbell)| {
            let Some((snapshots, log)) = self.snapshots.as_ref().and_then(|all| Some((all, all.journal()?)))
            else {
                return Ok(None);
            };
            let bell = doorbell.clone();
            let missed = Arc::clone(&snapshots.counts.journal_missed);
            let journal = Journal::new(log, core, Arc::new(move || bell.ring()), events::is_event, missed);
            journal.map(Some).map_err(|error| error.to_string())
        };
        doorbells.iter().enumerate().map(of).collect()
    }

    /// Log first; the brokers follow.
    fn through_the_log(&self, log: &Log, doorbells: &[Doorbell]) -> Result<Vec<Way>, String> {
        let mut wakers: Vec<Waker> = Vec::new();
        for broker in &self.brokers {
            let plan = self.plan(broker);
            let status = Arc::clone(&broker.status);
            let (nats, kafka) = (self.delivery.nats.clone(), self.delivery.kafka.clone());
            let thread = match broker.provider {
                Provider::Nats => {
                    let ends = log.shards().into_iter().map(|shard| (shard, log.durable_upto(shard)));
                    let naming = Naming::Log { log: log.id().to_owned(), shards: ends.collect() };
                    deliver_log(plan, log, &broker.delivered, doorbells, || {
                        NatsPublisher::new(nats, naming, status)
                    })
                }
                _ => deliver_log(plan, log, &broker.delivered, doorbells, || {
                    KafkaPublisher::new(kafka, status)
                }),
            }?;
            wakers.push(thread.waker());
            self.outbound.lock().push(thread);
        }
        let mut ways = Vec::new();
        for (core, doorbell) in doorbells.iter().enumerate() {
            let (bell, wakers) = (doorbell.clone(), wakers.clone());
            let on_progress = Arc::new(move || {
                bell.ring();
                wakers.iter().for_each(Waker::wake_by_ref);
            });
            let writer = log.writer(core, on_progress).map_err(|error| error.to_string())?;
            let sides = self.brokers.iter().map(|broker| (broker.bit, broker.delivered.clone()));
            let composite = self.delivery.queue_type == "composite";
            let onward = (composite || !self.brokers.is_empty()).then(|| Onward {
                sides: sides.collect(),
                best_effort: self.delivery.best_effort,
                log_is_a_side: self.delivery.providers.contains(&Provider::Log),
            });
            ways.push(Way::Log(Box::new(Stored::new(log, core, writer, self.workers.clone(), onward))));
        }
        Ok(ways)
    }

    /// Straight to the brokers.
    fn straight(&self, doorbells: &[Doorbell]) -> Result<Vec<Way>, String> {
        // A single broker is a composite of one: nothing can be missed that another has.
        let best_effort = self.delivery.best_effort && self.brokers.len() > 1;
        let bounds = (DIRECT_MAX, (self.queue_bytes_max / doorbells.len()).max(1));
        let mut sides: Vec<Vec<Side>> = doorbells.iter().map(|_| Vec::new()).collect();
        for broker in &self.brokers {
            let plan = self.plan(broker);
            let status = Arc::clone(&broker.status);
            let (nats, kafka) = (self.delivery.nats.clone(), self.delivery.kafka.clone());
            let (thread, ports): (DeliveryThread, Vec<DirectPort>) = match broker.provider {
                Provider::Nats => deliver_direct(plan, doorbells, bounds, || {
                    NatsPublisher::new(nats, Naming::of_this_run(), status)
                }),
                _ => deliver_direct(plan, doorbells, bounds, || KafkaPublisher::new(kafka, status)),
            }?;
            self.outbound.lock().push(thread);
            let mut missed =
                if best_effort { self.list_misses(broker, doorbells, bounds)? } else { Vec::new() };
            missed.reverse();
            for (core, port) in ports.into_iter().enumerate() {
                let (missed, status) = (missed.pop(), Arc::clone(&broker.status));
                sides[core].push(Side { bit: broker.bit, port, missed, status });
            }
        }
        let way = |sides| Way::Direct(Box::new(Direct::new(sides, best_effort)));
        Ok(sides.into_iter().map(way).collect())
    }

    /// What lists what a broker misses while it is out of reach and another has it: the cores' ways there.
    fn list_misses(
        &self,
        broker: &Broker,
        doorbells: &[Doorbell],
        bounds: (usize, usize),
    ) -> Result<Vec<DirectPort>, String> {
        let name = broker.provider.name();
        let status = Arc::new(SideStatus::new(name));
        self.misses.lock().push(Arc::clone(&status));
        let plan = DeliveryPlan {
            status: Arc::clone(&status),
            breaker: self.delivery.breaker,
            dead_letters: Arc::clone(&self.dead_letters),
        };
        let letters = Arc::clone(&self.dead_letters);
        let (thread, ports) =
            deliver_direct(plan, doorbells, bounds, move || Ok(MissedPublisher::new(letters, name, status)))?;
        self.outbound.lock().push(thread);
        Ok(ports)
    }

    /// To another process.
    fn send_on(&self, doorbells: &[Doorbell]) -> Result<Vec<Way>, String> {
        let (Some(config), Some(status)) = (&self.delivery.remote, &self.remote) else {
            return Ok(Vec::new());
        };
        let (thread, ports) = forward(config.clone(), Arc::clone(status), doorbells)?;
        *self.remote_thread.lock() = Some(thread);
        Ok(ports.into_iter().map(|port| Way::Remote(Box::new(Forward::new(port)))).collect())
    }

    fn take_from(&self, broker: &Broker, doorbells: &[Doorbell]) -> Result<Vec<InboundPort>, String> {
        let (name, status) = (broker.provider.name(), Arc::clone(&broker.status));
        let (partition, letters) = (self.delivery.partition.clone(), Arc::clone(&self.dead_letters));
        let (nats, kafka) = (self.delivery.nats.clone(), self.delivery.kafka.clone());
        let judge: Judge = Arc::new(events::judge_record);
        let given_up = Arc::clone(&self.given_up);
        let (thread, ports) = match broker.provider {
            Provider::Nats => consume(name, doorbells, partition, judge, letters, given_up, || {
                NatsSource::new(nats, status)
            }),
            _ => consume(name, doorbells, partition, judge, letters, given_up, move || {
                KafkaSource::new(&kafka, status)
            }),
        }?;
        self.inbound.lock().push(thread);
        Ok(ports)
    }

    fn plan(&self, broker: &Broker) -> DeliveryPlan {
        DeliveryPlan {
            status: Arc::clone(&broker.status),
            breaker: self.delivery.breaker,
            dead_letters: Arc::clone(&self.dead_letters),
        }
    }

    /// Watches the sinks until [`stop`](Self::stop): says to the front ends what cannot be honoured.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn watch(self: &Arc<Self>) -> Result<JoinHandle<()>> {
        self.look_at_the_disk();
        self.look();
        let behind = Arc::clone(self);
        let thread = thread::Builder::new().name("watch".to_owned()).spawn(move || {
            let mut maintained = Instant::now();
            while !behind.stop.load(Ordering::Acquire) {
                behind.look();
                if maintained.elapsed() >= MAINTAIN {
                    maintained = Instant::now();
                    behind.maintain();
                }
                thread::park_timeout(WATCH);
            }
            behind.maintain();
        });
        thread.context("the thread that watches the sinks cannot be started")
    }

    fn look(&self) {
        let worked = self.worked().processed;
        if self.progress[0].swap(worked, Ordering::Relaxed) != worked {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            self.progress[1].store(u64::try_from(now.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
        }
        for level in AckLevel::ALL {
            self.trouble_of(level);
        }
    }

    /// Why a level cannot be honoured at this moment; from now on the gate says the same.
    pub fn trouble_of(&self, level: AckLevel) -> Option<String> {
        let trouble = self.find_trouble(level);
        if self.remote.is_some() {
            self.gate.set(level, trouble.clone());
        } else {
            self.set_gate(level, trouble.clone());
        }
        trouble
    }

    fn find_trouble(&self, level: AckLevel) -> Option<String> {
        if let Some(remote) = &self.remote {
            // Whatever level is asked for, it is the other process's.
            return remote.side.is_open().then(|| remote.side.trouble().unwrap_or_default());
        }
        match level {
            AckLevel::Queued => None,
            AckLevel::Durable => self.log_trouble(),
            AckLevel::Delivered => self.log_trouble().or_else(|| self.broker_trouble()),
        }
    }

    /// What keeps the log from writing. A log that has failed ends the process.
    pub fn log_trouble(&self) -> Option<String> {
        let log = self.log.as_ref()?;
        let mut trouble = None;
        for shard in log.shards() {
            match log.health(shard) {
                Health::Writing => {}
                Health::Full(why) => trouble = Some(why),
                Health::Failed(why) => {
                    self.failed.store(true, Ordering::Release);
                    return Some(why);
                }
            }
        }
        trouble
    }

    /// Names of brokers' threads that have ended by themselves: nothing goes there or comes from there any more.
    pub fn lost_threads(&self) -> Vec<&'static str> {
        let mut lost = Vec::new();
        if self.outbound.lock().iter().any(|thread| !thread.is_running()) {
            lost.push("publish");
        }
        if self.inbound.lock().iter().any(|thread| !thread.is_running()) {
            lost.push("consume");
        }
        if self.remote_thread.lock().as_ref().is_some_and(|thread| !thread.is_running()) {
            lost.push("remote");
        }
        lost
    }

    /// Why `delivered` cannot be honoured, by the strategy.
    fn broker_trouble(&self) -> Option<String> {
        let away: Vec<&Broker> = self.brokers.iter().filter(|broker| broker.status.is_open()).collect();
        let log_is_a_side = self.delivery.providers.contains(&Provider::Log);
        let enough = if self.delivery.best_effort {
            log_is_a_side || away.len() < self.brokers.len() || self.brokers.is_empty()
        } else {
            away.is_empty()
        };
        let name = |broker: &&Broker| {
            let trouble = broker.status.trouble().unwrap_or_else(|| "out of reach".to_owned());
            format!("{}: {trouble}", broker.status.name)
        };
        if !enough {
            return Some(away.iter().map(name).collect::<Vec<_>>().join("; "));
        }
        // One side is enough, if what the others miss can be listed.
        let is_stuck = |listing: &&Arc<SideStatus>| {
            listing.is_known()
                && listing.is_open()
                && away.iter().any(|side| side.status.name == listing.name)
        };
        self.misses.lock().iter().find(is_stuck).and_then(|listing| listing.trouble())
    }

    fn set_gate(&self, level: AckLevel, reason: Option<String>) {
        let why = reason.clone();
        let changed = self.gate.set(level, reason);
        if !changed || self.delivery.unreachable[level as usize].is_some() {
            return;
        }
        match why {
            None => tracing::info!(ack = level.name(), "this ack level can be honoured"),
            Some(why) => {
                tracing::warn!(
                    ack = level.name(),
                    why,
                    "this ack level cannot be honoured; who asks for it is refused"
                );
            }
        }
    }

    fn maintain(&self) {
        self.look_at_the_disk();
        self.dead_letters.maintain();
        if let Some(log) = &self.log
            && let Err(error) = log.maintain()
        {
            tracing::error!(%error, "the log cannot be tidied up; nothing is deleted meanwhile");
        }
        if let Some(scrub) = &self.scrub {
            let mut scrub = scrub.lock();
            if let Some(error) = scrub.look(SCRUB_BYTES) {
                tracing::error!(%error, "a check of what the log keeps has found damage");
            }
            self.damaged_segments.store(scrub.damaged() as u64, Ordering::Relaxed);
        }
    }

    /// Takes nothing more from brokers; while the cores still work.
    pub fn stop_consuming(&self) {
        for thread in self.inbound.lock().drain(..) {
            thread.stop();
        }
    }

    /// Writes down what the workers have computed, when the cores have ended.
    pub fn keep_numbers(&self) {
        if let Some(snapshots) = &self.snapshots {
            snapshots.finish();
        }
    }

    /// Ends the brokers' threads and the watching, with the consumers' positions written.
    ///
    /// What the brokers have not acknowledged by then is put aside, if it is not in the log.
    pub fn stop(&self, watcher: JoinHandle<()>) -> Unfinished {
        let mut unfinished = Unfinished::default();
        for thread in self.outbound.lock().drain(..) {
            let left = thread.stop(PATIENCE);
            unfinished.put_aside += left.put_aside;
            unfinished.lost += left.lost;
        }
        if let Some(thread) = self.remote_thread.lock().take() {
            thread.stop(PATIENCE);
        }
        self.stop.store(true, Ordering::Release);
        watcher.thread().unpark();
        // A panic of it was printed.
        let _ = watcher.join();
        unfinished
    }

    /// Whether the workers add events up.
    pub fn analyses(&self) -> bool {
        self.analyses
    }

    /// When the workers last did something, to a tenth of a second.
    pub fn last_worked(&self) -> Option<SystemTime> {
        let ms = self.progress[1].load(Ordering::Relaxed);
        (ms != 0).then(|| UNIX_EPOCH + Duration::from_millis(ms))
    }

    /// What the workers did, over all cores.
    pub fn worked(&self) -> Worked {
        let given_up = self.given_up.load(Ordering::Relaxed);
        let at_start = self.snapshots.as_ref().map_or(0, |snapshots| snapshots.worked);
        let no_core = Worked { processed: at_start, failed: given_up, ..Worked::default() };
        self.work.iter().map(|counters| counters.read()).fold(no_core, |sum, one| Worked {
            processed: sum.processed + one.processed,
            failed: sum.failed + one.failed,
            failed_attempts: sum.failed_attempts + one.failed_attempts,
            repeated: sum.repeated + one.repeated,
        })
    }

    /// Bytes free on the disk of the data directory, and how many another segment needs; `None` without one. Looked at once
    /// a second.
    pub fn disk(&self) -> Option<(u64, u64)> {
        let config = self.delivery.log.as_ref()?;
        Some((self.disk_free.load(Ordering::Relaxed), config.segment_bytes))
    }

    fn look_at_the_disk(&self) {
        if let Some(directory) = &self.delivery.data_directory
            && let Ok(disk) = rustix::fs::statvfs(directory)
        {
            self.disk_free.store(disk.f_bavail.saturating_mul(disk.f_frsize), Ordering::Relaxed);
        }
    }

    /// Messages that wait for the workers outside of the cores' queues: in the log, or at brokers as these last told;
    /// where nobody works on messages here, for the slowest broker.
    pub fn waits_elsewhere(&self) -> u64 {
        if !self.delivery.consume {
            return self.kept();
        }
        let lags = self.log.as_ref().map(Log::lags).unwrap_or_default();
        if let Some((_, lag)) = lags.iter().find(|(consumer, _)| consumer == WORKERS) {
            return *lag;
        }
        if self.delivery.providers.iter().any(|provider| !provider.is_broker()) {
            return 0;
        }
        // Each of several has the same messages.
        self.brokers.iter().map(|broker| broker.status.lag.load(Ordering::Relaxed)).max().unwrap_or(0)
    }

    /// Where everything that comes to the workers is accepted here, and nobody else has a hand in it: how many of earlier runs
    /// there were. What waits is then what was accepted and is not worked on, however it is read.
    pub fn all_is_accepted_here(&self) -> Option<u64> {
        let only_here = self.delivery.consume
            && self.remote.is_none()
            && self.delivery.providers.iter().all(|provider| !provider.is_broker());
        only_here.then_some(self.waited_at_start)
    }

    /// Messages in the log that a consumer has not passed: they are kept for the next start.
    pub fn kept(&self) -> u64 {
        let lags = self.log.as_ref().map(Log::lags).unwrap_or_default();
        lags.iter().map(|(_, lag)| *lag).max().unwrap_or(0)
    }
}

/// What is said of a broker before its first word.
fn not_reached(delivery: &Delivery, provider: Provider) -> String {
    match provider {
        Provider::Nats => format!("nats.url = {}: not reached yet", delivery.nats.servers),
        Provider::Kafka => format!("kafka.brokers = {}: not reached yet", delivery.kafka.brokers),
        Provider::Memory | Provider::Log => "not reached yet".to_owned(),
    }
}

/// Places that messages are worked on from.
fn sides_read(delivery: &Delivery) -> usize {
    if delivery.consume { delivery.providers.len() } else { 0 }
}

/// Makes the windows that the workers need, and the aggregates what they were.
fn snapshots(
    settings: &Settings,
    log: &Option<Log>,
    workers: &Option<Cursor>,
    parts: &Parts,
    windows: &mut [Option<Window>],
) -> Result<Option<Arc<Snapshots>>> {
    let delivery = &settings.delivery;
    let interval = settings.analytics_snapshot_interval;
    let consumes = delivery.consume && delivery.providers.iter().any(|provider| provider.is_broker());
    let bounds = settings.analytics_bounds.filter(|_| delivery.consume);
    let journal = delivery.log.as_ref().filter(|_| consumes && bounds.is_some());
    let keeps_journal = journal.is_some() && !interval.is_zero();
    let mut entries = delivery.idempotency_entries.div_ceil(windows.len());
    if keeps_journal {
        entries = entries.max(RECOGNISED_MIN);
    }
    if sides_read(delivery) > 1 || keeps_journal {
        windows.fill_with(|| Some(Window::new(entries, delivery.idempotency_window)));
    }
    let (Some(_), Some(data)) = (bounds, &delivery.data_directory) else {
        if consumes && bounds.is_some() {
            tracing::info!(
                "there is no data.directory: the numbers computed from events begin anew with every start"
            );
        }
        return Ok(None);
    };
    let plan = Plan {
        data,
        interval,
        parts,
        bounds: parts.first().map(|part| part.lock().bounds()).unwrap_or_default(),
        log: log.clone().zip(workers.clone()),
        journal,
        windows,
        entries,
    };
    Snapshots::open(plan).map(Some)
}

fn open_log(config: &LogConfig, cores: usize) -> Result<Log> {
    let started = Instant::now();
    let (log, recovery) = Log::open(LogConfig { shards: cores, ..config.clone() })?;
    let messages: u64 = recovery
        .shards
        .iter()
        .map(|shard| shard.next_offset - shard.first_offset.min(shard.next_offset))
        .sum();
    tracing::info!(
        directory = %config.directory.display(),
        messages,
        took_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
        "the log is open"
    );
    for shard in recovery.shards.iter().filter(|shard| shard.torn_bytes > 0) {
        tracing::warn!(
            shard = shard.shard,
            bytes = shard.torn_bytes,
            next_offset = shard.next_offset,
            "cut off a torn tail: the end of a commit that was never acknowledged as durable"
        );
    }
    Ok(log)
}
