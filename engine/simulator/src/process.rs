//! One life of the process: the cores, the log's and the brokers' threads, each a thing to be given turns.

use std::{
    cell::RefCell,
    path::PathBuf,
    rc::Rc,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use brokers::{
    Pipeline, Publisher, Way,
    breaker::BreakerConfig,
    claims::claims,
    dead_letter::{DeadLetterConfig, DeadLetters},
    delivered::Delivered,
    delivery::{Delivery, DeliveryPlan, deliver_direct_apart, deliver_log_apart},
    direct::{Direct, Side},
    log::{Commits, Io, Log, LogConfig, LogError, Repeats, Sync, Turn},
    missed::MissedPublisher,
    recall,
    status::SideStatus,
    stored::{Onward, Stored},
    work::{Work, WorkCounters},
};
use engine_core::{Doorbell, Outcome, Process as Step, Record, Shard, SlabConfig, mesh};

use crate::{disk::SimDisk, plan::Shape, side::Behind};

/// Messages that a core's slab holds.
const SLOTS: u32 = 64;
const SLAB_BYTES: usize = 64 << 10;
/// Messages of a core under way to a broker, without a log.
const DIRECT_MAX: usize = 64;
/// Bytes of these.
const DIRECT_BYTES_MAX: usize = 16 << 10;

/// The names of the brokers' sides.
pub const SIDES: [&str; 2] = ["nats", "kafka"];

/// What the workers have worked on since that was last looked at, as log entries.
pub type WorkedOn = Rc<RefCell<Vec<Box<[u8]>>>>;

/// A processing step that notes what it works on.
#[derive(Debug)]
pub struct Recorder(WorkedOn);

impl Step for Recorder {
    fn process(&mut self, record: &Record<'_>, _result: &mut Vec<u8>) -> Outcome {
        let mut bytes = Vec::new();
        brokers::entry::encode(record, &mut bytes);
        self.0.borrow_mut().push(bytes.into());
        Outcome::Processed
    }
}

/// A process that runs.
#[derive(Debug)]
pub struct Process {
    /// By core.
    pub shards: Vec<Shard<Pipeline<Recorder>>>,
    /// The writing of the log, by core.
    pub commits: Vec<Commits>,
    /// Whether that has ended, by core.
    pub ended: Vec<bool>,
    /// By broker; behind them those that list misses.
    pub deliveries: Vec<Delivery<Box<dyn Publisher>>>,
    /// The log.
    pub log: Option<Log>,
    /// The dead letters.
    pub dead_letters: Arc<DeadLetters>,
    /// By broker.
    pub statuses: Vec<Arc<SideStatus>>,
}

/// The data directory.
pub fn data() -> PathBuf {
    PathBuf::from("data")
}

/// The log's settings.
pub fn log_config(disk: &SimDisk, shape: &Shape, cores: usize) -> LogConfig {
    LogConfig {
        segment_bytes: shape.segment_bytes,
        bytes_max: shape.log_bytes_max,
        retention_bytes: shape.retention_bytes,
        retention_age: Duration::from_secs(86_400),
        io: Io::Blocking,
        sync: Sync::Fdatasync,
        repeats: Some(Repeats { entries: shape.window_entries, age: shape.window_age }),
        disk: Arc::new(disk.clone()),
        ..LogConfig::new(data(), cores)
    }
}

impl Process {
    /// Starts one.
    ///
    /// # Errors
    /// When the log cannot be opened.
    pub fn start(
        disk: &SimDisk,
        shape: &Shape,
        cores: usize,
        brokers: &[Behind],
        worked: &WorkedOn,
    ) -> Result<Self, LogError> {
        let log = if shape.has_log() { Some(Log::open(log_config(disk, shape, cores))?.0) } else { None };
        let slab = SlabConfig::new(SLOTS, SLAB_BYTES);
        let ports = mesh(cores, &slab);
        let doorbells: Vec<Doorbell> = ports.iter().map(engine_core::Port::doorbell).collect();
        let dead_letters = DeadLetters::kept(DeadLetterConfig {
            segment_bytes: shape.segment_bytes,
            disk: Arc::new(disk.clone()),
            ..DeadLetterConfig::new(data().join("dead-letter"))
        });
        let workers = match &log {
            Some(log) if shape.queue.log_is_a_side() => Some(log.cursor("workers")?),
            _ => None,
        };
        let statuses: Vec<Arc<SideStatus>> =
            SIDES[..brokers.len()].iter().map(|name| Arc::new(SideStatus::new(name))).collect();
        let plan = |side: usize| DeliveryPlan {
            status: Arc::clone(&statuses[side]),
            breaker: BreakerConfig::default(),
            dead_letters: Arc::clone(&dead_letters),
        };
        let (mut ways, mut commits, mut deliveries) = (Vec::new(), Vec::new(), Vec::new());
        if let Some(log) = &log {
            let shards = log.shards().last().map_or(0, |last| last + 1);
            let mut delivered: Vec<Vec<Arc<Delivered>>> = Vec::new();
            for (side, broker) in brokers.iter().enumerate() {
                let ends: Vec<Arc<Delivered>> = (0..shards).map(|_| Arc::default()).collect();
                let publisher = broker.publisher(Some(log), &statuses[side]).map_err(other)?;
                deliveries
                    .push(deliver_log_apart(plan(side), log, &ends, &doorbells, publisher).map_err(other)?);
                delivered.push(ends);
            }
            for (core, doorbell) in doorbells.iter().enumerate() {
                let bell = doorbell.clone();
                let (writer, commit) = log.writer_apart(core, Arc::new(move || bell.ring()))?;
                commits.push(commit);
                let sides = delivered.iter().enumerate();
                let onward = (!brokers.is_empty() || shape.queue.log_is_a_side()).then(|| Onward {
                    sides: sides.map(|(side, ends)| (1 << side, ends.clone())).collect(),
                    best_effort: shape.best_effort,
                    log_is_a_side: shape.queue.log_is_a_side(),
                });
                let onward = onward.filter(|_| !brokers.is_empty());
                ways.push(Way::Log(Box::new(Stored::new(log, core, writer, workers.clone(), onward))));
            }
        } else if brokers.is_empty() {
            ways.extend(doorbells.iter().map(|_| Way::Memory));
        } else {
            let best_effort = shape.best_effort && brokers.len() > 1;
            let bounds = (DIRECT_MAX, DIRECT_BYTES_MAX);
            let mut listers = Vec::new();
            let mut sides: Vec<Vec<Side>> = doorbells.iter().map(|_| Vec::new()).collect();
            for (side, broker) in brokers.iter().enumerate() {
                let publisher = broker.publisher(None, &statuses[side]).map_err(other)?;
                let (delivery, ports) = deliver_direct_apart(plan(side), &doorbells, bounds, publisher);
                deliveries.push(delivery);
                let mut missed = Vec::new();
                if best_effort {
                    let status = Arc::new(SideStatus::new(SIDES[side]));
                    let letters = Arc::clone(&dead_letters);
                    let lister: Box<dyn Publisher> =
                        Box::new(MissedPublisher::new(letters, SIDES[side], Arc::clone(&status)));
                    let plan = DeliveryPlan { status, ..plan(side) };
                    let (delivery, ports) = deliver_direct_apart(plan, &doorbells, bounds, lister);
                    listers.push(delivery);
                    missed = ports;
                    missed.reverse();
                }
                for (core, port) in ports.into_iter().enumerate() {
                    let status = Arc::clone(&statuses[side]);
                    sides[core].push(Side { bit: 1 << side, port, missed: missed.pop(), status });
                }
            }
            deliveries.append(&mut listers);
            let way = |sides| Way::Direct(Box::new(Direct::new(sides, best_effort)));
            ways.extend(sides.into_iter().map(way));
        }
        let windows = recall::windows(log.as_ref(), cores, shape.window_entries, shape.window_age);
        let parts = ports.into_iter().zip(ways).zip(windows).zip(claims(&doorbells)).zip(&doorbells);
        let shards = parts.map(|((((port, way), window), claims), doorbell)| {
            let work = Work::new(Recorder(Rc::clone(worked)), None, Arc::<WorkCounters>::default());
            doorbell.ring();
            let pipeline = Pipeline::new(way, false, window, claims, work, Vec::new(), doorbell.clone());
            Shard::new(port, pipeline.aside(Some(Arc::clone(&dead_letters))))
        });
        let shards = shards.collect();
        Ok(Self {
            shards,
            ended: vec![false; commits.len()],
            commits,
            deliveries,
            log,
            dead_letters,
            statuses,
        })
    }

    /// A turn of the log's writing of a core.
    pub fn commit(&mut self, core: usize, idle: bool) -> Option<Turn> {
        if self.ended[core] {
            return None;
        }
        let turn = self.commits[core].turn(idle);
        self.ended[core] = turn == Turn::Ended;
        Some(turn)
    }

    /// Whether everything that was accepted has come to an end, and every consumer has passed all of the log.
    pub fn is_at_rest(&self) -> bool {
        self.shards.iter().all(|shard| shard.in_flight() == 0)
            && self.statuses.iter().all(|status| status.in_flight.load(Relaxed) == 0)
            && self.log.as_ref().is_none_or(|log| log.lags().iter().all(|(_, lag)| *lag == 0))
    }
}

fn other(error: String) -> LogError {
    LogError::Io { action: "set up", path: data(), error: std::io::Error::other(error) }
}
