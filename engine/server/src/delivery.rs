//! Puts together where messages go: the log, the brokers' threads, the workers, the sinks of the cores; and watches them.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::Waker,
    thread::{self, JoinHandle},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result};
use brokers::{
    Pipeline, Way,
    dead_letter::DeadLetters,
    delivered::Delivered,
    delivery::{DeliveryPlan, DeliveryThread, DirectPort, deliver_direct, deliver_log},
    direct::{Direct, Misses, Side},
    entry,
    inbound::{InboundPort, InboundThread, consume},
    kafka::{consume::KafkaSource, publish::KafkaPublisher},
    log::{Cursor, Health, Log, LogConfig},
    nats::{consume::NatsSource, publish::NatsPublisher},
    remote::{Forward, RemoteStatus, RemoteThread, forward},
    status::SideStatus,
    stored::{Onward, Stored},
    window::Window,
    work::{Work, WorkCounters, Worked},
};
use engine_core::{AckLevel, Doorbell, shard_of};
use parking_lot::Mutex;
use transports::{AckPolicy, BoxedSink, Far, Gate, SinkMaker};

use crate::{
    events::{self, Parts, Worker},
    settings::{DEFAULT_DIRECTORY, Delivery, Provider, Settings},
};

/// How often the sinks are looked at.
const WATCH: Duration = Duration::from_millis(100);
/// How often consumers' positions are made durable and old segments deleted.
const MAINTAIN: Duration = Duration::from_secs(1);
/// How long a broker may take at the end to acknowledge what is under way.
const PATIENCE: Duration = Duration::from_secs(5);
/// The name of the workers' cursor.
const WORKERS: &str = "workers";
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
    /// The log, if there is one.
    pub log: Option<Log>,
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
    workers: Option<Cursor>,
    outbound: Mutex<Vec<DeliveryThread>>,
    inbound: Mutex<Vec<InboundThread>>,
    remote_thread: Mutex<Option<RemoteThread>>,
    stop: AtomicBool,
    /// What the workers compute from the events, by core.
    pub parts: Parts,
    /// Whether they do.
    analyses: bool,
    /// Messages worked on when that was last looked at, and when they last became more, in milliseconds of the Unix epoch.
    progress: [AtomicU64; 2],
}

/// The folder of the dead letters in a data directory.
pub fn dead_letter_folder(data: &Path) -> PathBuf {
    data.join("dead-letter")
}

/// Fills the aggregates with what was worked on before the start, as far as the log still holds it. What comes behind
/// is worked on anew, and so counted, in this run.
fn remember_events(log: &Log, workers: &Cursor, parts: &Parts) {
    let started = Instant::now();
    let mut count = 0_u64;
    for shard in log.shards() {
        let upto = workers.position(shard);
        let mut reader = log.reader(shard, log.first_offset(shard));
        let read = reader.read(usize::MAX, |offset, _, bytes| {
            if offset >= upto {
                return false;
            }
            if let Ok(record) = entry::decode(bytes) {
                // As it was routed when it came, or would be with the cores of today.
                let core = shard_of(record.key_hash, parts.len());
                let counted = Worker::new(Some(Arc::clone(&parts[core]))).analyse(&record);
                count += u64::from(counted == Some(true));
            }
            true
        });
        if let Err(error) = read {
            tracing::warn!(shard, %error, "what was counted before the start is not known in full");
        }
    }
    if count > 0 {
        tracing::info!(messages = count, took = ?started.elapsed(), "the aggregates were computed anew from the log");
    }
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
            status: Arc::new(SideStatus::new(provider.name())),
            bit: 1 << place,
            delivered: (0..shards).map(|_| Arc::default()).collect(),
        };
        let places = delivery.providers.iter().enumerate().filter(|(_, provider)| provider.is_broker());
        let data = delivery.data_directory.clone().unwrap_or_else(|| PathBuf::from(DEFAULT_DIRECTORY));
        let parts = events::parts(cores, settings.analytics_bounds.unwrap_or_default());
        let analyses = settings.analytics_bounds.is_some();
        if let (Some(log), Some(workers), true) = (&log, &workers, analyses) {
            remember_events(log, workers, &parts);
        }
        Ok(Arc::new(Self {
            parts,
            analyses,
            progress: Default::default(),
            brokers: places.map(broker).collect(),
            dead_letters: DeadLetters::new(dead_letter_folder(&data)),
            log,
            gate: Arc::default(),
            failed: AtomicBool::new(false),
            work: (0..cores).map(|_| Arc::default()).collect(),
            workers,
            remote: delivery.remote.is_some().then(Arc::default),
            remote_thread: Mutex::default(),
            outbound: Mutex::default(),
            inbound: Mutex::default(),
            stop: AtomicBool::new(false),
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
        }
    }

    /// Places that messages are worked on from.
    fn sides_read(&self) -> usize {
        if self.delivery.consume { self.delivery.providers.len() } else { 0 }
    }

    /// Whether a message may come to be worked on from several places, and so has to meet itself on one core.
    pub fn route_by_id(&self) -> bool {
        self.sides_read() > 1
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
        let share = self.delivery.idempotency_entries.div_ceil(doorbells.len());
        let age = self.delivery.idempotency_window;
        let sinks = ways.drain(..).zip(inbound).zip(doorbells).enumerate();
        let sinks = sinks.map(|(core, ((way, inbound), doorbell))| -> BoxedSink {
            let counters = Arc::clone(&self.work[core]);
            let worker = Worker::new(self.analyses.then(|| Arc::clone(&self.parts[core])));
            let work = Work::new(worker, self.sides_read(), share, age, counters);
            let mut window = Window::new(share, age);
            if let Some(log) = &self.log
                && let Err(error) = Stored::fill_window(log, core, &mut window, share, age)
            {
                tracing::warn!(core, %error, "repeats of what an earlier run kept are not recognised");
            }
            // A backlog from before is worked on without waiting for a message.
            doorbell.ring();
            Box::new(Pipeline::new(way, works_at_once, window, work, inbound, doorbell.clone()))
        });
        let sinks = sinks.collect();
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

    /// Log first; the brokers follow.
    fn through_the_log(&self, log: &Log, doorbells: &[Doorbell]) -> Result<Vec<Way>, String> {
        let mut wakers: Vec<Waker> = Vec::new();
        for broker in &self.brokers {
            let plan = self.plan(broker);
            let status = Arc::clone(&broker.status);
            let (nats, kafka) = (self.delivery.nats.clone(), self.delivery.kafka.clone());
            let thread = match broker.provider {
                Provider::Nats => {
                    deliver_log(plan, log, &broker.delivered, doorbells, || NatsPublisher::new(nats, status))
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
            let sides = self.brokers.iter().map(|broker| (broker.bit, Arc::clone(&broker.delivered[core])));
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
        let misses =
            Misses::start(Arc::clone(&self.dead_letters)).map_err(|error| format!("no thread: {error}"))?;
        let mut sides: Vec<Vec<Side>> = doorbells.iter().map(|_| Vec::new()).collect();
        for broker in &self.brokers {
            let plan = self.plan(broker);
            let status = Arc::clone(&broker.status);
            let (nats, kafka) = (self.delivery.nats.clone(), self.delivery.kafka.clone());
            let (thread, ports): (DeliveryThread, Vec<DirectPort>) = match broker.provider {
                Provider::Nats => {
                    deliver_direct(plan, doorbells, DIRECT_MAX, || NatsPublisher::new(nats, status))
                }
                _ => deliver_direct(plan, doorbells, DIRECT_MAX, || KafkaPublisher::new(kafka, status)),
            }?;
            self.outbound.lock().push(thread);
            for (core, port) in ports.into_iter().enumerate() {
                sides[core].push(Side { bit: broker.bit, port, status: Arc::clone(&broker.status) });
            }
        }
        // A single broker is a composite of one: nothing can be missed that another has.
        let best_effort = self.delivery.best_effort && self.brokers.len() > 1;
        let way = |sides| Way::Direct(Box::new(Direct::new(sides, best_effort, misses.clone())));
        Ok(sides.into_iter().map(way).collect())
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
        let (thread, ports) = match broker.provider {
            Provider::Nats => consume(name, doorbells, partition, letters, || NatsSource::new(nats, status)),
            _ => consume(name, doorbells, partition, letters, move || KafkaSource::new(&kafka, status)),
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
        if let Some(remote) = &self.remote {
            // Whatever level is asked for, it is the other process's.
            let trouble = remote.side.is_open().then(|| remote.side.trouble().unwrap_or_default());
            for level in AckLevel::ALL {
                self.gate.set(level, trouble.clone());
            }
            return;
        }
        let durable = self.log_trouble();
        let delivered = durable.clone().or_else(|| self.broker_trouble());
        self.set_gate(AckLevel::Durable, durable);
        self.set_gate(AckLevel::Delivered, delivered);
    }

    fn log_trouble(&self) -> Option<String> {
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
        (!enough).then(|| away.iter().map(name).collect::<Vec<_>>().join("; "))
    }

    fn set_gate(&self, level: AckLevel, reason: Option<String>) {
        let why = reason.clone();
        let changed = self.gate.set(level, reason);
        if !changed || self.delivery.unreachable[level as usize].is_some() {
            return;
        }
        match why {
            None => tracing::info!(level = level.name(), "this ack level can be honoured"),
            Some(why) => {
                tracing::warn!(
                    level = level.name(),
                    why,
                    "this ack level cannot be honoured; who asks for it is refused"
                );
            }
        }
    }

    fn maintain(&self) {
        if let Some(log) = &self.log
            && let Err(error) = log.maintain()
        {
            tracing::error!(%error, "the log cannot be tidied up; nothing is deleted meanwhile");
        }
    }

    /// Takes nothing more from brokers; while the cores still work.
    pub fn stop_consuming(&self) {
        for thread in self.inbound.lock().drain(..) {
            thread.stop();
        }
    }

    /// Ends the brokers' threads and the watching, with the consumers' positions written.
    pub fn stop(&self, watcher: JoinHandle<()>) {
        for thread in self.outbound.lock().drain(..) {
            thread.stop(PATIENCE);
        }
        if let Some(thread) = self.remote_thread.lock().take() {
            thread.stop(PATIENCE);
        }
        self.stop.store(true, Ordering::Release);
        watcher.thread().unpark();
        // A panic of it was printed.
        let _ = watcher.join();
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
        self.work.iter().map(|counters| counters.read()).fold(Worked::default(), |sum, one| Worked {
            processed: sum.processed + one.processed,
            failed: sum.failed + one.failed,
            repeated: sum.repeated + one.repeated,
        })
    }

    /// Messages in the log that a consumer has not passed: they are kept for the next start.
    pub fn kept(&self) -> u64 {
        let lags = self.log.as_ref().map(Log::lags).unwrap_or_default();
        lags.iter().map(|(_, lag)| *lag).max().unwrap_or(0)
    }
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
