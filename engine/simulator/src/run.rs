//! A run: one life after the other, each a loop that gives a turn to whatever the seed says, and a last one in which nothing
//! goes wrong and everything has to come to rest.

use std::{cell::RefCell, path::PathBuf, rc::Rc, time::Duration};

use brokers::{
    dead_letter,
    log::{LogError, offline},
};
use engine_core::{
    AckLevel, KEY_OVERRIDE, MetadataWriter, Record, clock::SimulatedClock, key_hash, shard_of,
};

use crate::{
    damage,
    disk::SimDisk,
    ledger::{Ledger, Violation, id_of, number_of, violation},
    plan::{Ending, Fault, Life, Plan, Shape},
    process::{Process, SIDES, WorkedOn, data},
    side::Behind,
    trace::Trace,
};

/// Bytes of the disk when nothing is wrong with it.
const DISK_BYTES: u64 = 64 << 20;
/// When it is at the beginning, in milliseconds of the Unix epoch.
const BEGINNING_MS: u64 = 1_700_000_000_000;
/// Turns in which everything has to come to rest once nothing is wrong.
const REST_TURNS: u32 = 30_000;
/// Messages of the last life.
const LAST_MESSAGES: u32 = 12;
/// The same, in a few runs: more than there are places for.
const LAST_MESSAGES_MANY: u32 = 500;
/// How often in a row the last life has to be seen at rest.
const RESTS: u32 = 8;
/// The same where one side is enough and there is no log: what waits for the slower one is nowhere to be seen.
const RESTS_OF_A_SLOWER_SIDE: u32 = 40;
/// Turns in which an orderly end of the threads has to be over.
const END_TURNS: u32 = 2_000;

/// What a run came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Steps of the scheduler.
    pub steps: u64,
    /// Messages that were sent.
    pub messages: u32,
    /// Senders that were answered.
    pub answered: u64,
    /// How long it was in its own time.
    pub simulated: Duration,
    /// Starts that were refused because of damage, and then repaired.
    pub repairs: u32,
    /// Hash of everything that happened.
    pub hash: u64,
}

/// Why a life did not begin.
enum NoStart {
    /// The power went.
    PowerCut,
    /// Something is broken.
    Broken(Violation),
}

struct World<'a> {
    plan: &'a Plan,
    disk: SimDisk,
    brokers: Vec<Behind>,
    ledger: Ledger,
    clock: SimulatedClock,
    random: fastrand::Rng,
    trace: Trace,
    worked: WorkedOn,
    seen: [usize; 2],
    report: Report,
}

/// Runs a plan on this thread. With `keeps` the steps are kept to be read.
pub fn run(plan: &Plan, keeps: bool) -> (Result<Report, Violation>, Vec<String>) {
    let mut world = World::new(plan, keeps);
    let result = world.run();
    let World { mut report, ledger, clock, trace, .. } = world;
    report.messages = ledger.len();
    report.answered = ledger.answered();
    report.simulated = clock.elapsed();
    report.hash = trace.hash();
    (result.map(|()| report), trace.into_lines())
}

impl<'a> World<'a> {
    fn new(plan: &'a Plan, keeps: bool) -> Self {
        // Everything that is random in the engine comes from this thread's generator.
        fastrand::seed(plan.seed ^ 0x5eed);
        let cores_max = plan.lives.iter().map(|life| life.cores).max().unwrap_or(1);
        Self {
            disk: SimDisk::new(DISK_BYTES, plan.seed),
            brokers: plan.shape.kinds[..plan.shape.queue.brokers()]
                .iter()
                .map(|kind| Behind::new(*kind))
                .collect(),
            ledger: Ledger::new(&plan.shape, cores_max),
            clock: SimulatedClock::start(BEGINNING_MS),
            random: fastrand::Rng::with_seed(plan.seed ^ 0xabad_1dea),
            trace: Trace::new(keeps),
            worked: Rc::new(RefCell::new(Vec::new())),
            seen: [0; 2],
            report: Report::default(),
            plan,
        }
    }
}

impl World<'_> {
    fn run(&mut self) -> Result<(), Violation> {
        for (number, life) in self.plan.lives.iter().enumerate() {
            // Of each life alone: what a shorter plan leaves out does not change the rest.
            self.random = fastrand::Rng::with_seed(self.plan.seed ^ (number as u64 + 1) << 32);
            self.live(number, life)?;
            if life.faults.iter().any(|(_, fault)| matches!(fault, Fault::DiskMisdirects(_))) {
                // Again, for those that came since.
                self.ledger.note_damage();
            }
            if let Some(kind) = life.damage {
                let done = damage::apply(&self.disk, kind);
                self.trace.add(format_args!("damage {kind:?}: {done:?}"));
                if done.is_some() {
                    self.ledger.note_damage();
                }
            }
        }
        self.random = fastrand::Rng::with_seed(self.plan.seed ^ 0xf1a1);
        self.last_life()
    }

    fn shape(&self) -> &Shape {
        &self.plan.shape
    }

    fn live(&mut self, number: usize, life: &Life) -> Result<(), Violation> {
        self.trace.add(format_args!("life {number} of {} cores", life.cores));
        if let Ending::PowerCut(step) = life.ending
            && step != u64::MAX
        {
            self.disk.cut_power_at(step);
        }
        let mut process = match self.start(life.cores) {
            Ok(process) => process,
            Err(NoStart::PowerCut) => return self.crash(number, None),
            Err(NoStart::Broken(violation)) => return Err(violation),
        };
        let mut faults = life.faults.iter().peekable();
        let mut left = life.messages;
        for step in 0..life.steps {
            while let Some((_, fault)) = faults.next_if(|(at, _)| *at <= step) {
                self.fault(*fault);
            }
            let sends = left > 0 && self.random.u32(0..life.steps - step) < left;
            if sends {
                left -= 1;
                self.send(&mut process, number, true)?;
            }
            self.turn(&mut process)?;
            if self.disk.is_off() {
                return self.crash(number, Some(process));
            }
        }
        match life.ending {
            Ending::Kill => {
                self.trace.add(format_args!("killed"));
                drop(process);
                self.disk.process_ended();
                self.ledger.end_life(number, true);
                self.look_at_dead_letters()
            }
            Ending::PowerCut(_) => {
                self.disk.power_off();
                self.crash(number, Some(process))
            }
            Ending::Stop(patience) => self.stop(process, number, patience),
        }
    }

    fn crash(&mut self, number: usize, process: Option<Process>) -> Result<(), Violation> {
        self.trace.add(format_args!("the power is cut"));
        drop(process);
        self.worked.borrow_mut().clear();
        self.disk.power_on();
        self.ledger.end_life(number, true);
        self.look_at_dead_letters()
    }

    /// Starts a process; repairs the log first when its damage is what keeps it from that.
    fn start(&mut self, cores: usize) -> Result<Process, NoStart> {
        for attempt in 0..4 {
            let started = Process::start(&self.disk, self.shape(), cores, &self.brokers, &self.worked);
            let error = match started {
                Ok(process) => return Ok(process),
                Err(error) => error,
            };
            self.trace.add(format_args!("no start: {error}"));
            if self.disk.is_off() {
                return Err(NoStart::PowerCut);
            }
            self.disk.process_ended();
            match error {
                LogError::Damaged { .. } | LogError::Missing { .. } if self.ledger.damaged => {
                    self.repair().map_err(NoStart::Broken)?
                }
                LogError::Io { .. } if attempt < 3 => {
                    self.disk.heal();
                    self.disk.set_capacity(DISK_BYTES);
                }
                _ => {
                    let broken = Violation { kind: "no start without damage", detail: error.to_string() };
                    return Err(NoStart::Broken(broken));
                }
            }
        }
        let detail = "it was repaired, and refuses to start".to_owned();
        Err(NoStart::Broken(Violation { kind: "no start after a repair", detail }))
    }

    fn repair(&mut self) -> Result<(), Violation> {
        self.report.repairs += 1;
        let salvage = PathBuf::from(format!("salvage-{}", self.report.repairs));
        self.disk.heal();
        self.disk.set_capacity(DISK_BYTES);
        match offline::repair(&self.disk, &data(), &salvage) {
            Ok(repaired) => {
                for segment in repaired {
                    self.trace.add(format_args!("repaired {segment:?}"));
                    for (from, upto) in segment.lost {
                        self.ledger.note_lost(segment.shard, from, upto);
                    }
                }
                Ok(())
            }
            Err(error) => violation("no repair", error.to_string()),
        }
    }

    /// A message, or with `repeats` perhaps one that was sent before, is sent to some core.
    fn send(&mut self, process: &mut Process, life: usize, repeats: bool) -> Result<(), Violation> {
        let cores = process.shards.len();
        let home = self.random.usize(0..cores);
        let repeated = (self.random.u8(0..4) == 0 && repeats)
            .then(|| self.ledger.one_with_id(&mut self.random, 20))
            .flatten();
        let number = match repeated {
            Some(number) => number,
            None => {
                let shape = &self.plan.shape;
                let once = self.random.u8(0..100) < shape.with_id;
                let filler = self.random.usize(0..=shape.payload_bytes_max);
                let key = self.random.u32(0..shape.keys);
                self.ledger.create(once, key, filler, life, home)
            }
        };
        let shape = self.shape();
        let mut levels = vec![AckLevel::Queued];
        if shape.has_log() {
            levels.push(AckLevel::Durable);
        }
        if shape.queue.brokers() > 0 {
            levels.push(AckLevel::Delivered);
        }
        let level = match repeated {
            // Who asks for no more is not told whether it is a repeat.
            Some(_) => levels[levels.len() - 1],
            None => levels[self.random.usize(0..levels.len())],
        };
        let (message, payload) = self.ledger.message(number);
        let (id, key) = (id_of(number, message.once), format!("k{}", message.key));
        let mut metadata = Vec::new();
        MetadataWriter::new(&mut metadata).push(KEY_OVERRIDE, key.as_bytes());
        let hash = key_hash(key.as_bytes());
        let target = shard_of(hash, cores);
        let once = message.once;
        let token = match level {
            AckLevel::Queued => 0,
            _ => self.ledger.next_token(),
        };
        let record = Record {
            id: id.as_bytes(),
            source: b"simulator",
            payload: &payload,
            metadata: &metadata,
            timestamp_seconds: 1_700_000_000,
            key_hash: hash,
            level,
            level_named: true,
            once,
            reply_token: token,
            ..Record::default()
        };
        let accepted = process.shards[home].submit(target, &record);
        self.trace.add(format_args!("send {number} to {home} for {target} as {level:?}: {accepted:?}"));
        if accepted.is_ok() {
            self.ledger.accept(number, level, life, (home, target), self.clock.elapsed());
        }
        Ok(())
    }

    /// Something gets a turn.
    fn turn(&mut self, process: &mut Process) -> Result<(), Violation> {
        self.report.steps += 1;
        match self.random.u8(0..16) {
            0..=5 => {
                let core = self.random.usize(0..process.shards.len());
                self.poll(process, core)?;
            }
            6..=9 if !process.commits.is_empty() => {
                let core = self.random.usize(0..process.commits.len());
                let idle = self.random.u8(0..6) == 0;
                let turn = process.commit(core, idle);
                self.trace.add(format_args!("commit {core}: {turn:?}"));
            }
            10..=11 if !process.deliveries.is_empty() => {
                let side = self.random.usize(0..process.deliveries.len());
                process.deliveries[side].turn(false, Duration::ZERO);
                self.trace.add(format_args!("deliver {side}"));
            }
            12..=13 if !self.brokers.is_empty() => {
                let side = self.random.usize(0..self.brokers.len());
                // One with rules has a step for each thing on the wire.
                let steps = if self.brokers[side].keeps_order() { 1 } else { self.random.u8(1..8) };
                for _ in 0..steps {
                    let did = self.step_broker(side);
                    self.trace.add(format_args!("broker {side} {did}"));
                }
            }
            14 => {
                if self.random.u8(0..4) == 0
                    && let Some(log) = &process.log
                {
                    let maintained = log.maintain().is_ok();
                    let lags = log.lags();
                    self.trace.add(format_args!(
                        "maintained: {maintained}, {} bytes, behind: {lags:?}",
                        log.bytes()
                    ));
                }
            }
            15 => {
                let by = Duration::from_millis(self.random.u64(0..400));
                self.clock.advance(by);
            }
            _ => {}
        }
        self.clock.advance(Duration::from_micros(self.random.u64(0..500)));
        self.look()
    }

    fn step_broker(&mut self, side: usize) -> String {
        let did = self.brokers[side].step(&mut self.random);
        if let Some(number) = did.refused {
            self.ledger.note_refused(number);
        }
        did.what
    }

    fn poll(&mut self, process: &mut Process, core: usize) -> Result<(), Violation> {
        let shard = &mut process.shards[core];
        let moved = shard.poll();
        let replies: Vec<_> = shard.take_replies().collect();
        self.trace.add(format_args!("poll {core}: {moved} moved"));
        self.look()?;
        // The power went within the turn: nobody hears what it would have said.
        if self.disk.is_off() {
            return Ok(());
        }
        for reply in replies {
            self.trace.add(format_args!("answer {}: {:?}", reply.token, reply.outcome));
            self.ledger.answer(reply.token, reply.outcome)?;
        }
        Ok(())
    }

    /// Notes what was worked on and stored.
    fn look(&mut self) -> Result<(), Violation> {
        let worked = std::mem::take(&mut *self.worked.borrow_mut());
        for entry in worked {
            if let Ok(record) = brokers::entry::decode(&entry) {
                self.trace.add(format_args!("worked on {:?}", number_of(&record)));
                self.ledger.note_worked(&record)?;
            }
        }
        for (side, broker) in self.brokers.iter().enumerate() {
            let from = self.seen[side];
            if broker.stored() == from {
                continue;
            }
            self.seen[side] = broker.stored();
            let mut noted = Ok(());
            let ledger = &mut self.ledger;
            broker.each_stored(from, |record| {
                if noted.is_ok() {
                    noted = ledger.note_stored(side, record, broker.keeps_order());
                }
            });
            noted?;
        }
        Ok(())
    }

    fn look_at_dead_letters(&mut self) -> Result<(), Violation> {
        self.look()?;
        let mut noted = Ok(());
        let ledger = &mut self.ledger;
        let listed = dead_letter::list(&self.disk, &data().join("dead-letter"), |letter| {
            let side = SIDES.iter().position(|name| *name == letter.cause.side);
            noted = ledger.note_dead_letter(side, &letter.record);
            noted.is_ok()
        });
        if let Err(error) = listed {
            self.trace.add(format_args!("the dead letters cannot be read: {error}"));
        }
        noted
    }

    fn fault(&mut self, fault: Fault) {
        self.trace.add(format_args!("fault {fault:?}"));
        match fault {
            Fault::DiskError(steps) => self.disk.fail_once_at(steps),
            Fault::DiskFull(left) => self.disk.set_capacity(self.disk.used() + left),
            Fault::DiskRoom => self.disk.set_capacity(DISK_BYTES),
            Fault::BrokerDown(side) => self.brokers[side].go_down(&mut self.random),
            Fault::BrokerSilent(side) => self.brokers[side].fall_silent(),
            Fault::BrokerUp(side) => self.brokers[side].come_up(),
            Fault::BrokerRefuses(side, number) => {
                let what = self.brokers[side].refuse(number, &mut self.random);
                self.trace.add(format_args!("broker {side}: {what}"));
            }
            Fault::ClockJump(seconds) => {
                self.ledger.clock_jumped = true;
                let wall = engine_core::clock::wall_ms().saturating_add_signed(seconds * 1000);
                self.clock.set_wall_ms(wall);
            }
            Fault::DiskMisdirects(steps) => {
                self.disk.misdirect_once_at(steps);
                self.ledger.note_damage();
            }
            Fault::LockDeleted => {
                let lock = data().join("LOCK");
                if self.disk.paths().contains(&lock) {
                    self.disk.lose(&lock);
                }
            }
        }
    }

    /// An orderly stop, as the binary does it: nothing new, the cores finish, then the log, then the brokers' threads.
    fn stop(&mut self, mut process: Process, number: usize, patience: u32) -> Result<(), Violation> {
        self.trace.add(format_args!("stopping"));
        for shard in &mut process.shards {
            shard.begin_drain();
        }
        for _ in 0..patience {
            if process.shards.iter().all(|shard| shard.in_flight() == 0) {
                break;
            }
            self.turn(&mut process)?;
            if self.disk.is_off() {
                return self.crash(number, Some(process));
            }
        }
        if process.shards.iter().all(|shard| shard.in_flight() == 0) {
            let counts = process.shards.iter().map(|shard| shard.counters().snapshot()).sum();
            self.ledger.check_finished(number, &counts)?;
        }
        let mut lost = 0;
        for shard in &mut process.shards {
            shard.abandon();
        }
        for shard in &mut process.shards {
            shard.settle();
            lost += shard.in_flight() as u64;
            let counts = shard.counters().snapshot();
            self.trace.add(format_args!("core {} ends: {counts:?}", shard.core()));
        }
        process.shards.clear();
        for core in 0..process.commits.len() {
            for _ in 0..END_TURNS {
                if process.commit(core, false).is_none() {
                    break;
                }
            }
        }
        self.look()?;
        for _ in 0..patience {
            let mut going = false;
            for side in 0..process.deliveries.len() {
                going |= process.deliveries[side].turn(true, Duration::ZERO);
                if side < self.brokers.len() {
                    self.step_broker(side);
                }
            }
            self.clock.advance(Duration::from_millis(10));
            self.look()?;
            if !going {
                break;
            }
        }
        for delivery in process.deliveries.drain(..) {
            lost += delivery.end().lost;
        }
        self.trace.add(format_args!("stopped, {lost} lost"));
        if let Some(log) = &process.log
            && let Err(error) = log.maintain()
        {
            self.trace.add(format_args!("positions cannot be written: {error}"));
            self.ledger.note_position_lost(number);
        }
        drop(process);
        if self.disk.is_off() {
            return self.crash(number, None);
        }
        self.disk.process_ended();
        self.look_at_dead_letters()?;
        self.ledger.check_stop(number, lost)?;
        self.ledger.end_life(number, false);
        Ok(())
    }

    /// Nothing goes wrong any more: all that was promised has to come true.
    fn last_life(&mut self) -> Result<(), Violation> {
        self.disk.heal();
        self.disk.set_capacity(DISK_BYTES);
        for broker in &self.brokers {
            broker.heal();
        }
        let cores = self.plan.lives.last().map_or(1, |life| life.cores);
        self.trace.add(format_args!("the last life, of {cores} cores"));
        let mut process = match self.start(cores) {
            Ok(process) => process,
            Err(NoStart::PowerCut) => return violation("no start without damage", "the disk has no power"),
            Err(NoStart::Broken(violation)) => return Err(violation),
        };
        // Nothing is in its way, so all of it has to be answered.
        let are_many = self.random.u8(0..32) == 0;
        let mut left = if are_many { LAST_MESSAGES_MANY } else { LAST_MESSAGES };
        let shape = self.shape();
        let enough = if shape.best_effort && !shape.has_log() { RESTS_OF_A_SLOWER_SIDE } else { RESTS };
        let mut rests = 0;
        for turn in 0..REST_TURNS {
            if left > 0 && self.random.bool() {
                left -= 1;
                // Among many one waits in the queue for longer than the shortest window lasts.
                self.send(&mut process, self.plan.lives.len(), !are_many)?;
            }
            // A rest that is only seen from time to time is one, too.
            if turn % 16 == 0 {
                rests = if left == 0 && process.is_at_rest() { rests + 1 } else { 0 };
            }
            // What another side has already may still be on its way to a slower one.
            if rests >= enough {
                self.look_at_dead_letters()?;
                return self.ledger.check_end();
            }
            self.turn(&mut process)?;
        }
        let lags = process.log.as_ref().map(brokers::log::Log::lags);
        let in_flight: Vec<usize> = process.shards.iter().map(engine_core::Shard::in_flight).collect();
        let troubles: Vec<_> = process.statuses.iter().map(|status| status.trouble()).collect();
        violation("stuck", format!("behind: {lags:?}, in flight: {in_flight:?}, brokers: {troubles:?}"))
    }
}

/// Runs a plan twice and says whether both did the same.
pub fn is_repeatable(plan: &Plan) -> bool {
    let hash = |()| run(plan, false).0.map(|report| report.hash).map_err(|violation| violation.detail);
    hash(()) == hash(())
}

/// The disk as a run leaves it, to be looked at.
pub fn disk_after(plan: &Plan) -> SimDisk {
    let mut world = World::new(plan, false);
    // What became of it is not asked.
    let _ = world.run();
    world.disk.heal();
    world.disk
}
