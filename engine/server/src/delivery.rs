//! Puts together where messages go: the log, the workers, the sinks of the cores; and watches them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use brokers::{
    Pipeline, Way,
    log::{Cursor, Health, Log, LogConfig},
    stored::Stored,
    window::Window,
    work::{Work, WorkCounters, Worked},
};
use engine_core::{AckLevel, Doorbell, Prefix};
use transports::{AckPolicy, BoxedSink, Gate, SinkMaker};

use crate::settings::{Delivery, Provider, Settings};

/// How often the sinks are looked at.
const WATCH: Duration = Duration::from_millis(100);
/// How often consumers' positions are made durable and old segments deleted.
const MAINTAIN: Duration = Duration::from_secs(1);
/// The name of the workers' cursor.
const WORKERS: &str = "workers";

/// Everything behind the cores' queues.
#[derive(Debug)]
pub struct Behind {
    /// What was set.
    pub delivery: Delivery,
    /// The log, if there is one.
    pub log: Option<Log>,
    /// What the workers did, by core.
    work: Vec<Arc<WorkCounters>>,
    /// What stands in the way of a level.
    pub gate: Arc<Gate>,
    /// The log has failed: the process must end.
    pub failed: AtomicBool,
    workers: Option<Cursor>,
    stop: AtomicBool,
}

impl Behind {
    /// Opens what the settings name; a broker that cannot be reached does not keep it from starting.
    ///
    /// # Errors
    /// What cannot be opened, with the setting to change.
    pub fn open(settings: &Settings, cores: usize) -> Result<Arc<Self>> {
        let delivery = settings.delivery.clone();
        if let Some(broker) = delivery.providers.iter().find(|provider| provider.is_broker()) {
            bail!(
                "queue.type = {}: this build cannot deliver to {} yet, only to memory and log",
                delivery.queue_type,
                broker.name()
            );
        }
        let log = delivery.log.as_ref().map(|config| open_log(config, cores)).transpose()?;
        let reads_log = delivery.consume && delivery.providers.contains(&Provider::Log);
        let workers = match &log {
            Some(log) if reads_log => Some(log.cursor(WORKERS)?),
            _ => None,
        };
        if let Some(log) = &log {
            for consumer in log.absent_consumers() {
                tracing::warn!(
                    consumer,
                    "has a place in the log and takes no part in this run: what it has not passed is kept for it; \
                     delete its file in data.directory/cursors to let go of that"
                );
            }
        }
        Ok(Arc::new(Self {
            delivery,
            log,
            work: (0..cores).map(|_| Arc::default()).collect(),
            gate: Arc::default(),
            failed: AtomicBool::new(false),
            workers,
            stop: AtomicBool::new(false),
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
        }
    }

    /// Makes the cores' sinks.
    pub fn sinks(self: &Arc<Self>, cores: usize) -> SinkMaker {
        let behind = Arc::clone(self);
        Arc::new(move |core, doorbell| behind.sink(core, cores, doorbell))
    }

    fn sink(&self, core: usize, cores: usize, doorbell: Doorbell) -> std::io::Result<BoxedSink> {
        let delivery = &self.delivery;
        let share = delivery.idempotency_entries.div_ceil(cores);
        let window = Window::new(share, delivery.idempotency_window);
        let sides = delivery.providers.len();
        let (entries, age) = (share, delivery.idempotency_window);
        let work = Work::new(Prefix, sides, entries, age, Arc::clone(&self.work[core]));
        let works_at_once = delivery.consume && delivery.providers.contains(&Provider::Memory);
        let way = match &self.log {
            None => Way::Memory,
            Some(log) => {
                let bell = doorbell.clone();
                let writer =
                    log.writer(core, Arc::new(move || bell.ring())).map_err(std::io::Error::other)?;
                Way::Log(Box::new(Stored::new(log, core, writer, self.workers.clone(), None)))
            }
        };
        // A backlog from before is worked on without waiting for a message.
        doorbell.ring();
        Ok(Box::new(Pipeline::new(way, works_at_once, window, work, doorbell)))
    }

    /// Watches the sinks until [`stop`](Self::stop): says to the front ends what cannot be honoured.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn watch(self: &Arc<Self>) -> Result<JoinHandle<()>> {
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
        let mut log_trouble = None;
        if let Some(log) = &self.log {
            for shard in log.shards() {
                match log.health(shard) {
                    Health::Writing => {}
                    Health::Full(why) => log_trouble = Some(why),
                    Health::Failed(why) => {
                        self.failed.store(true, Ordering::Release);
                        log_trouble = Some(why);
                        break;
                    }
                }
            }
            for level in [AckLevel::Durable, AckLevel::Delivered] {
                self.set_gate(level, log_trouble.clone());
            }
        }
    }

    fn set_gate(&self, level: AckLevel, reason: Option<String>) {
        let why = reason.clone().unwrap_or_default();
        if self.gate.set(level, reason) && self.delivery.unreachable[level as usize].is_none() {
            if why.is_empty() {
                tracing::info!(level = level.name(), "this ack level can be honoured again");
            } else {
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

    /// Ends the watching, with the consumers' positions written.
    pub fn stop(&self, watcher: JoinHandle<()>) {
        self.stop.store(true, Ordering::Release);
        watcher.thread().unpark();
        // A panic of it was printed.
        let _ = watcher.join();
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
