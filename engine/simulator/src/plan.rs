//! What a run is to be: drawn from a seed, and small enough to be made smaller piece by piece.

use std::{fmt, time::Duration};

/// Where messages go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queue {
    /// Worked on at once, kept nowhere.
    Memory,
    /// The log, and from there to the workers.
    Log,
    /// One broker.
    Broker,
    /// Two brokers.
    Brokers,
    /// The log and a broker.
    LogAndBroker,
}

impl Queue {
    /// All of them.
    pub const ALL: [Queue; 5] =
        [Queue::Memory, Queue::Log, Queue::Broker, Queue::Brokers, Queue::LogAndBroker];

    /// How many brokers there are.
    pub fn brokers(self) -> usize {
        match self {
            Queue::Memory | Queue::Log => 0,
            Queue::Broker | Queue::LogAndBroker => 1,
            Queue::Brokers => 2,
        }
    }

    /// Whether the log is a place to be delivered to.
    pub fn log_is_a_side(self) -> bool {
        matches!(self, Queue::Log | Queue::LogAndBroker)
    }
}

/// What the broker behind a side is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One that has no rules but to store what it takes.
    Plain,
    /// NATS with JetStream, under the production publisher.
    Nats,
    /// A Kafka cluster, under the production publisher.
    Kafka,
}

/// What holds for all lives of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Where messages go.
    pub queue: Queue,
    /// What the brokers are.
    pub kinds: [Kind; 2],
    /// Whether brokers follow the log.
    pub outbox: bool,
    /// Whether one side is enough.
    pub best_effort: bool,
    /// Bytes of a segment.
    pub segment_bytes: u64,
    /// Bytes of the log at most.
    pub log_bytes_max: u64,
    /// Bytes of consumed segments that are kept.
    pub retention_bytes: u64,
    /// Messages that the windows hold.
    pub window_entries: usize,
    /// For how long.
    pub window_age: Duration,
    /// Keys that messages are partitioned by.
    pub keys: u32,
    /// Longest payload in bytes.
    pub payload_bytes_max: usize,
    /// Of 100 messages, how many have an id of their sender's.
    pub with_id: u8,
}

impl Shape {
    /// Whether there is a log.
    pub fn has_log(&self) -> bool {
        self.queue.log_is_a_side() || (self.outbox && self.queue.brokers() > 0)
    }
}

/// How a life ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The process is killed.
    Kill,
    /// The power goes, at this step of the disk or when the life's steps are over.
    PowerCut(u64),
    /// An orderly stop, with so many turns of patience.
    Stop(u32),
}

/// Something that goes wrong in a life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A step of the disk fails.
    DiskError(u64),
    /// The disk has so many bytes left.
    DiskFull(u64),
    /// The disk has room again.
    DiskRoom,
    /// A broker is away.
    BrokerDown(usize),
    /// A broker takes everything and says nothing.
    BrokerSilent(usize),
    /// A broker is there again.
    BrokerUp(usize),
    /// A broker refuses for ever every message of this number modulo 16; one with rules breaks one of its cases.
    BrokerRefuses(usize, u32),
    /// The wall clock is set, by this many seconds.
    ClockJump(i64),
    /// The lock of the data directory is deleted.
    LockDeleted,
    /// A write, from this step of the disk on, lands in another place of its file.
    DiskMisdirects(u64),
}

/// What happens to the disk between two lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// A bit of a segment is flipped; which segment and which bit by these numbers.
    BitOfSegment(u32, u32),
    /// A segment is cut to a part of its length.
    CutSegment(u32, u32),
    /// A segment is emptied.
    EmptySegment(u32),
    /// A segment is gone.
    LoseSegment(u32),
    /// The last segment of a shard is gone.
    LoseLastSegment(u32),
    /// The last segment of a shard is cut.
    CutLastSegment(u32, u32),
    /// The page that holds the end of what was written is zeros.
    ZeroLastPage(u32),
    /// Two segments have each other's names.
    SwapSegments(u32, u32),
    /// A cursor's bit is flipped.
    BitOfCursor(u32, u32),
    /// A cursor is gone.
    LoseCursor(u32),
    /// A bit of a shard's manifest is flipped.
    BitOfManifest(u32, u32),
    /// A shard's manifest is emptied.
    EmptyManifest(u32),
    /// A shard's manifest is gone.
    LoseManifest(u32),
}

/// One life of the process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Life {
    /// Cores it has.
    pub cores: usize,
    /// Messages that are sent in it.
    pub messages: u32,
    /// Steps of the scheduler.
    pub steps: u32,
    /// What goes wrong, at which step.
    pub faults: Vec<(u32, Fault)>,
    /// How it ends.
    pub ending: Ending,
    /// What happens to the disk behind it.
    pub damage: Option<Damage>,
}

/// A run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Decides everything that the rest leaves open.
    pub seed: u64,
    /// What holds for all lives.
    pub shape: Shape,
    /// The lives, one after the other. Behind them comes one in which nothing goes wrong.
    pub lives: Vec<Life>,
}

/// What is not drawn: somebody's settings, as far as they decide what can go wrong. Sizes are the simulator's own, small
/// enough for things to be full.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fixed {
    /// Where messages go.
    pub queue: Option<Queue>,
    /// What the brokers are.
    pub kinds: Option<[Kind; 2]>,
    /// Whether brokers follow the log.
    pub outbox: Option<bool>,
    /// Whether one side is enough.
    pub best_effort: Option<bool>,
    /// How long ids are recognised.
    pub window_age: Option<Duration>,
    /// Cores.
    pub cores: Option<usize>,
}

impl Plan {
    /// The plan of a seed.
    pub fn draw(seed: u64, fixed: &Fixed) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let shape = draw_shape(&mut random, fixed);
        let lives = (0..random.usize(1..=4)).map(|_| {
            let life = draw_life(&mut random, &shape);
            Life { cores: fixed.cores.unwrap_or(life.cores), ..life }
        });
        let mut lives: Vec<Life> = lives.collect();
        // Drawn beside the rest, which stays what it was.
        let mut beside = fastrand::Rng::with_seed(seed ^ 0x0d15_c0fa);
        for life in &mut lives {
            if life.damage.is_some() && beside.u8(0..4) == 0 {
                life.damage = Some(draw_damage_of_manifest(&mut beside));
            }
            if shape.has_log() && beside.u8(0..32) == 0 && life.is_alone_with_its_disk() {
                let fault = Fault::DiskMisdirects(beside.u64(1..100));
                life.faults.push((beside.u32(0..life.steps), fault));
                life.faults.sort_by_key(|(step, _)| *step);
            }
        }
        Self { seed, shape, lives }
    }
}

impl Life {
    /// Whether a fault of the disk's in it is the only one of its kind: two at once are more than the log claims to notice.
    fn is_alone_with_its_disk(&self) -> bool {
        self.damage.is_none() && !matches!(self.ending, Ending::PowerCut(_))
    }
}

fn draw_damage_of_manifest(random: &mut fastrand::Rng) -> Damage {
    let (which, how) = (random.u32(..), random.u32(..));
    match random.u8(0..3) {
        0 => Damage::BitOfManifest(which, how),
        1 => Damage::EmptyManifest(which),
        _ => Damage::LoseManifest(which),
    }
}

fn draw_shape(random: &mut fastrand::Rng, fixed: &Fixed) -> Shape {
    let drawn = Queue::ALL[random.usize(0..Queue::ALL.len())];
    let queue = fixed.queue.unwrap_or(drawn);
    let (outbox, best_effort) = (random.bool(), random.bool());
    let mut kinds = random.fork();
    let segment_bytes = [2048, 4096, 16_384][random.usize(0..3)];
    Shape {
        queue,
        kinds: fixed.kinds.unwrap_or_else(|| {
            std::array::from_fn(|_| [Kind::Plain, Kind::Plain, Kind::Nats, Kind::Kafka][kinds.usize(0..4)])
        }),
        outbox: fixed.outbox.unwrap_or(outbox) || queue == Queue::LogAndBroker,
        best_effort: fixed.best_effort.unwrap_or(best_effort),
        segment_bytes,
        log_bytes_max: segment_bytes * random.u64(8..64),
        retention_bytes: segment_bytes * random.u64(1..6),
        window_entries: [16, 64, 512][random.usize(0..3)],
        window_age: {
            let drawn = Duration::from_secs([5, 60, 600][random.usize(0..3)]);
            fixed.window_age.unwrap_or(drawn)
        },
        keys: random.u32(1..8),
        payload_bytes_max: [16, 200, 900][random.usize(0..3)],
        with_id: [0, 20, 60, 100][random.usize(0..4)],
    }
}

fn draw_life(random: &mut fastrand::Rng, shape: &Shape) -> Life {
    let steps = random.u32(50..600);
    let messages = random.u32(0..60);
    let mut faults = Vec::new();
    for _ in 0..random.usize(0..4) {
        faults.push((random.u32(0..steps), draw_fault(random, shape)));
    }
    faults.sort_by_key(|(step, _)| *step);
    let ending = match random.u8(0..4) {
        0 => Ending::Kill,
        1 => Ending::PowerCut(random.u64(1..400)),
        2 => Ending::PowerCut(u64::MAX),
        _ => Ending::Stop(random.u32(20..400)),
    };
    // A power cut and a disk that loses what it had synced just before are two faults at once, which the log does not claim
    // to tell from a torn write: see its manifest.
    let damage = random.u8(0..6) == 0 && shape.has_log() && !matches!(ending, Ending::PowerCut(_));
    let damage = damage.then(|| draw_damage(random));
    Life { cores: random.usize(1..=4), messages, steps, faults, ending, damage }
}

fn draw_fault(random: &mut fastrand::Rng, shape: &Shape) -> Fault {
    let brokers = shape.queue.brokers();
    let broker = if brokers > 0 { random.usize(0..brokers) } else { 0 };
    match random.u8(0..if brokers > 0 { 9 } else { 5 }) {
        0 => Fault::DiskError(random.u64(1..100)),
        1 => Fault::DiskFull(random.u64(0..4 * shape.segment_bytes)),
        2 => Fault::DiskRoom,
        3 => Fault::ClockJump(random.i64(-100_000..100_000)),
        4 => Fault::LockDeleted,
        5 => Fault::BrokerDown(broker),
        6 => Fault::BrokerSilent(broker),
        7 => Fault::BrokerUp(broker),
        _ => Fault::BrokerRefuses(broker, random.u32(0..16)),
    }
}

fn draw_damage(random: &mut fastrand::Rng) -> Damage {
    let (which, how) = (random.u32(..), random.u32(..));
    match random.u8(0..10) {
        0 => Damage::BitOfSegment(which, how),
        1 => Damage::CutSegment(which, how),
        2 => Damage::EmptySegment(which),
        3 => Damage::LoseSegment(which),
        4 => Damage::LoseLastSegment(which),
        5 => Damage::CutLastSegment(which, how),
        6 => Damage::ZeroLastPage(which),
        7 => Damage::SwapSegments(which, how),
        8 => Damage::BitOfCursor(which, how),
        _ => Damage::LoseCursor(which),
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {}: {:?}", self.seed, self.shape)?;
        for (number, life) in self.lives.iter().enumerate() {
            writeln!(f, "life {number}: {life:?}")?;
        }
        Ok(())
    }
}
