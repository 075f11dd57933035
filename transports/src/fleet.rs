//! The core threads: started, watched and brought home.
//!
//! Each thread runs one loop with its accepting tasks, its connections, its worker and a sweep once a second. The
//! drain goes: stop accepting → finish what is open on the connections → nothing comes from brokers any more → every
//! core says it is quiet → the queues are worked empty → every core says so → the threads end. The two agreements are
//! there because a core works for the others until all of them are done.

use std::{
    cell::RefCell,
    future::poll_fn,
    io,
    net::TcpListener,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use engine_core::{CounterReader, Doorbell, PartitionKey, Shard, SlabConfig, mesh};
use rustix::time::{ClockId, clock_gettime};
use tokio::sync::watch;

use crate::{
    accept,
    cold::ColdSender,
    core::{Beats, Core, Health, Shared},
    counters::{Cause, FrontCounters, Tally},
    driver::{self, Driver},
    events::EventPlan,
    hook::Phase,
    inject::{self, Inbox},
    lane::{AnySink, BoxedSink, Lane},
    limits::Limits,
    listener::Role,
    terms::AckPolicy,
    turns::Turn,
};

/// Makes the sinks of all cores, in order, given their doorbells.
pub type SinkMaker = Box<dyn FnOnce(&[Doorbell]) -> io::Result<Vec<BoxedSink>> + Send>;

/// What the core threads are to do.
pub struct Plan {
    /// Core threads.
    pub cores: usize,
    /// How they wait.
    pub driver: Driver,
    /// Whether each is pinned to its core.
    pub pin: bool,
    /// Sockets by port: as many as there are cores.
    pub listeners: Vec<(Role, Vec<TcpListener>)>,
    /// Bounds of the front ends.
    pub limits: Limits,
    /// Messages in flight over all cores; each core has an even share.
    pub queue_size: usize,
    /// Bytes of large messages in flight over all cores; each core has an even share.
    pub queue_bytes_max: usize,
    /// What keeps messages together.
    pub partition: PartitionKey,
    /// Whether a message without a key goes to the core of its id: where it would go when it comes back from a broker.
    pub route_by_id: bool,
    /// Makes the cores' sinks; a sink with threads of its own rings its core's doorbell when it has finished
    /// something or has room again.
    pub sinks: SinkMaker,
    /// What accepting a message can mean.
    pub acks: AckPolicy,
    /// The bridge to the cold lane.
    pub cold: ColdSender,
    /// Renders `/health`.
    pub health: Arc<dyn Health>,
    /// Marks the messages of our own probe.
    pub probe_token: String,
    /// What serves events.
    pub events: EventPlan,
    /// What the cold lane sends into the engine; as many as there are cores, or none.
    pub inboxes: Vec<Inbox>,
}

impl std::fmt::Debug for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plan")
            .field("cores", &self.cores)
            .field("driver", &self.driver)
            .finish_non_exhaustive()
    }
}

/// How far the shutdown is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Running,
    /// Finish what is open, for at most so long, and go on working on what comes from elsewhere.
    Draining(Duration),
    /// Nothing comes from elsewhere any more: end when all is finished.
    Ending(Duration),
}

/// What one core did, told at its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Farewell {
    /// New messages accepted, as [`engine_core::Snapshot`] counts them, with those that were not decided at the end.
    pub accepted: u64,
    /// Of these, how many came to where they go.
    pub done: u64,
    /// Of these, how many were given up or refused there.
    pub rejected: u64,
    /// Of these, how many were still under way when the time was over.
    pub lost: u64,
    /// Messages that repeated an accepted one.
    pub duplicates: u64,
    /// Messages with the id of an accepted one and another content.
    pub conflicts: u64,
    /// Messages that did not go into the queue.
    pub refused: u64,
    /// Connections that were cut because the time was over.
    pub cut: u64,
}

/// The running core threads.
#[derive(Debug)]
pub struct Fleet {
    stage: watch::Sender<Stage>,
    threads: Vec<JoinHandle<io::Result<Farewell>>>,
    /// What each core's front end counts.
    pub fronts: Vec<Arc<FrontCounters>>,
    /// What each core's engine counts.
    pub engines: Vec<CounterReader>,
    /// Whether their loops turn.
    pub beats: Arc<Beats>,
}

/// What the cores agree on while they drain.
#[derive(Debug, Default)]
struct Agreement {
    quiet: AtomicUsize,
    empty: AtomicUsize,
    /// What was left is put somewhere.
    parted: AtomicUsize,
}

/// Agrees to everything when its thread ends. After an orderly end all others have passed already.
struct Absence(Arc<Agreement>);

impl Drop for Absence {
    fn drop(&mut self) {
        self.0.quiet.fetch_add(1, Ordering::AcqRel);
        self.0.empty.fetch_add(1, Ordering::AcqRel);
        self.0.parted.fetch_add(1, Ordering::AcqRel);
    }
}

/// Descriptors that are kept back from connections: listeners, the ring, files of the process.
const RESERVED_DESCRIPTORS: usize = 64;

impl Fleet {
    /// Starts the threads; they accept connections when this returns.
    ///
    /// # Errors
    /// When a thread cannot be started, or a sink cannot be made.
    ///
    /// # Panics
    /// When a listener has fewer sockets than there are cores.
    pub fn start(plan: Plan) -> io::Result<Fleet> {
        let cores = plan.cores.max(1);
        let share = |all: usize| all.div_ceil(cores);
        // Every core takes at least one message of the largest size, or such a message would wait for ever.
        let largest = plan.limits.http_body_bytes_max.max(plan.limits.grpc_message_bytes_max) + (64 << 10);
        let slots = u32::try_from(share(plan.queue_size)).unwrap_or(u32::MAX);
        let ports = mesh(cores, &SlabConfig::new(slots, share(plan.queue_bytes_max).max(largest)));
        let connections_max = match plan.limits.connections_max {
            0 => descriptors_max().saturating_sub(RESERVED_DESCRIPTORS).max(1),
            max => max,
        };
        let beats = Arc::new(Beats::new(plan.cores));
        let shared = Arc::new(Shared {
            limits: plan.limits,
            health: plan.health,
            beats: Arc::clone(&beats),
            cold: plan.cold,
            acks: plan.acks,
            probe_token: plan.probe_token,
            events: plan.events,
            connections: AtomicUsize::new(0),
            connections_max,
            by_address: parking_lot::Mutex::default(),
        });
        let (stage, watched) = watch::channel(Stage::Running);
        let agreement = Arc::new(Agreement::default());
        let mut listeners: Vec<(Role, std::vec::IntoIter<TcpListener>)> =
            plan.listeners.into_iter().map(|(role, sockets)| (role, sockets.into_iter())).collect();
        let mut fleet = Fleet { stage, threads: Vec::new(), fronts: Vec::new(), engines: Vec::new(), beats };
        let doorbells: Vec<Doorbell> = ports.iter().map(engine_core::Port::doorbell).collect();
        let mut sinks = (plan.sinks)(&doorbells)?.into_iter();
        let mut inboxes = plan.inboxes.into_iter();
        for (number, port) in ports.into_iter().enumerate() {
            let sockets = listeners.iter_mut().filter_map(|(role, sockets)| Some((*role, sockets.next()?)));
            let counters = Arc::new(FrontCounters::default());
            let sink = sinks.next().ok_or_else(|| io::Error::other("fewer sinks than cores"))?;
            let shard = Shard::new(port, AnySink(sink));
            fleet.fronts.push(Arc::clone(&counters));
            fleet.engines.push(shard.counters());
            let seat = Seat {
                cores,
                pin: plan.pin.then_some(number),
                sockets: sockets.collect(),
                shared: Arc::clone(&shared),
                counters,
                shard,
                partition: plan.partition.clone(),
                route_by_id: plan.route_by_id,
                stage: watched.clone(),
                agreement: Arc::clone(&agreement),
                inbox: inboxes.next(),
            };
            let driver = plan.driver;
            let thread = thread::Builder::new().name(format!("core-{number}"));
            fleet.threads.push(thread.spawn(move || seat.occupy(driver))?);
        }
        Ok(fleet)
    }

    /// Begins the drain: no connection is taken any more, and open requests may take `timeout`. The cores go on working
    /// on what consumers of brokers hand them until [`join`](Fleet::join).
    pub fn drain(&self, timeout: Duration) {
        self.stage.send_replace(Stage::Draining(timeout));
    }

    /// Whether a core thread has ended, which before a drain means that it failed.
    pub fn has_ended(&self) -> bool {
        self.threads.iter().any(JoinHandle::is_finished)
    }

    /// Waits for the threads and adds their farewells up. Behind [`drain`](Fleet::drain), when no consumer hands the cores
    /// anything any more.
    ///
    /// # Errors
    /// When a core's loop could not be set up, or its thread panicked.
    pub fn join(self) -> io::Result<Farewell> {
        self.stage.send_modify(|stage| {
            if let Stage::Draining(timeout) = *stage {
                *stage = Stage::Ending(timeout);
            }
        });
        let mut all = Farewell::default();
        for thread in self.threads {
            let one = thread.join().map_err(|_| io::Error::other("a core thread panicked"))??;
            all.accepted += one.accepted;
            all.done += one.done;
            all.rejected += one.rejected;
            all.duplicates += one.duplicates;
            all.conflicts += one.conflicts;
            all.refused += one.refused;
            all.lost += one.lost;
            all.cut += one.cut;
        }
        Ok(all)
    }
}

fn descriptors_max() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current.and_then(|current| usize::try_from(current).ok()).unwrap_or(1 << 20)
}

/// What a core thread takes with it.
struct Seat {
    cores: usize,
    pin: Option<usize>,
    sockets: Vec<(Role, TcpListener)>,
    shared: Arc<Shared>,
    counters: Arc<FrontCounters>,
    shard: Shard<AnySink>,
    partition: PartitionKey,
    route_by_id: bool,
    stage: watch::Receiver<Stage>,
    agreement: Arc<Agreement>,
    inbox: Option<Inbox>,
}

impl Seat {
    fn occupy(self, driver: Driver) -> io::Result<Farewell> {
        if let Some(number) = self.pin {
            let cores = core_affinity::get_core_ids().unwrap_or_default();
            let pinned = cores
                .get(number % cores.len().max(1))
                .is_some_and(|core| core_affinity::set_for_current(*core));
            if !pinned {
                tracing::warn!(
                    core = number,
                    "this thread could not be pinned; engine.pin = false avoids the attempt"
                );
            }
        }
        // Whatever happens to this thread, the others must not wait for it for ever.
        let _absence = Absence(Arc::clone(&self.agreement));
        driver::run(driver, self.run())?
    }

    async fn run(self) -> io::Result<Farewell> {
        let Seat {
            cores,
            sockets,
            shared,
            counters,
            shard,
            partition,
            route_by_id,
            mut stage,
            agreement,
            inbox,
            ..
        } = self;
        let core = Rc::new(Core::new(shared, Lane::new(shard, partition, route_by_id), counters));
        let accepting = Rc::new(RefCell::new(sockets.len()));
        for (role, socket) in sockets {
            let listener = monoio::net::TcpListener::from_std(socket)?;
            let (core, stage, accepting) = (Rc::clone(&core), stage.clone(), Rc::clone(&accepting));
            monoio::spawn(async move {
                accept::run(core, listener, role, until_drain(stage)).await;
                *accepting.borrow_mut() -= 1;
            });
        }
        monoio::spawn({
            let core = Rc::clone(&core);
            async move { core.turns.usher().await }
        });
        let worker = monoio::spawn(work(Rc::clone(&core)));
        let sweeper = monoio::spawn(sweep(Rc::clone(&core)));
        let desk = inbox.map(|inbox| monoio::spawn(inject::serve(Rc::clone(&core), inbox)));

        let timeout = until_drain_begins(&mut stage).await;
        drain_connections(&core, &accepting, timeout).await;
        // An error: whoever could say so is gone.
        let _ = stage.wait_for(|stage| matches!(stage, Stage::Ending(_))).await;
        agree(&agreement.quiet, cores).await;
        core.lane.borrow_mut().shard().begin_drain();
        let deadline = monoio::time::Instant::now() + timeout;
        while core.lane.borrow_mut().shard().in_flight() > 0 && monoio::time::Instant::now() < deadline {
            core.work();
            monoio::time::sleep(Duration::from_millis(1)).await;
        }
        agree(&agreement.empty, cores).await;
        drop((worker, sweeper, desk));
        core.work();
        core.lane.borrow_mut().shard().abandon();
        agree(&agreement.parted, cores).await;
        let mut lane = core.lane.borrow_mut();
        lane.shard().settle();
        let counts = lane.shard().counters().snapshot();
        Ok(Farewell {
            accepted: counts.accepted + counts.undecided,
            done: counts.done,
            rejected: counts.rejected,
            duplicates: counts.duplicates,
            conflicts: counts.conflicts,
            refused: core.counters.tally(Tally::MessagesRefused),
            lost: lane.shard().in_flight() as u64,
            cut: core.counters.hits(Cause::ShutdownTimeout),
        })
    }
}

/// Resolves when the drain begins, or its sender is gone.
async fn until_drain(mut stage: watch::Receiver<Stage>) {
    until_drain_begins(&mut stage).await;
}

async fn until_drain_begins(stage: &mut watch::Receiver<Stage>) -> Duration {
    match stage.wait_for(|stage| *stage != Stage::Running).await.as_deref() {
        Ok(Stage::Draining(timeout) | Stage::Ending(timeout)) => *timeout,
        Ok(Stage::Running) | Err(_) => Duration::ZERO,
    }
}

/// Says that this core has come so far, and waits until all have; meanwhile the worker task goes on.
async fn agree(count: &AtomicUsize, cores: usize) {
    count.fetch_add(1, Ordering::AcqRel);
    while count.load(Ordering::Acquire) < cores {
        monoio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// The worker as a task: runs when another core, or a sink's thread, rings this core's doorbell. What this core's own
/// connections bring is worked on right behind their answers.
async fn work(core: Rc<Core>) {
    let turn = Turn::default();
    loop {
        poll_fn(|context| core.lane.borrow_mut().shard().poll_work(context.waker())).await;
        core.clock.tick();
        core.work();
        // Connections have their turn between two batches.
        core.turns.give_way(&turn).await;
    }
}

/// Processor time of this thread.
fn thread_cpu() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
}

/// Once a second: the date, how busy the core was, and the time limits of all connections.
async fn sweep(core: Rc<Core>) {
    let mut before = (Instant::now(), thread_cpu());
    loop {
        monoio::time::sleep(Duration::from_secs(1)).await;
        core.beat();
        let now = (Instant::now(), thread_cpu());
        core.counters.note_cpu(now.1, now.1.saturating_sub(before.1), now.0 - before.0);
        before = now;
        core.refresh_date();
        core.expire_waiting();
        let now_ms = core.clock.now_ms();
        let limits = &core.shared.limits;
        for hook in core.hooks.borrow().iter() {
            let waited = Duration::from_millis(now_ms.saturating_sub(hook.since_ms.get()));
            let expired = match hook.phase.get() {
                Phase::Preface => (waited > limits.preface_timeout).then_some(Cause::PrefaceTimeout),
                Phase::Head => (waited > limits.header_timeout).then_some(Cause::HeaderTimeout),
                Phase::Write => (waited > limits.write_timeout).then_some(Cause::WriteTimeout),
                Phase::Idle => {
                    // Once, a second or two after the last request: give back what an idle connection needs not.
                    hook.nudged.set((1..2).contains(&waited.as_secs()));
                    (waited > limits.idle_timeout).then_some(Cause::IdleTimeout)
                }
                Phase::Work => None,
                Phase::Window => {
                    hook.nudged.set(true);
                    None
                }
                Phase::Body => {
                    let (start_ms, start_bytes) = hook.body_start.get();
                    let span = Duration::from_millis(now_ms.saturating_sub(start_ms));
                    let bytes = hook.body_bytes.get().saturating_sub(start_bytes);
                    let creeps = span > limits.body_idle_timeout && bytes / span.as_secs().max(1) < 1024;
                    (waited > limits.body_idle_timeout || creeps).then_some(Cause::BodyTimeout)
                }
            };
            if hook.nudged.get() {
                hook.wake();
            }
            if hook.drain.get() {
                hook.drain_ticks.set(hook.drain_ticks.get() + 1);
                hook.wake();
            }
            if let Some(cause) = expired {
                hook.expired.set(Some(cause));
                hook.wake();
            }
        }
    }
}

/// Lets every connection finish what is open; those that do not in time are cut.
async fn drain_connections(core: &Rc<Core>, accepting: &RefCell<usize>, timeout: Duration) {
    core.draining.set(true);
    for hook in core.hooks.borrow().iter() {
        hook.drain.set(true);
        hook.wake();
    }
    let deadline = monoio::time::Instant::now() + timeout;
    let mut cutting = false;
    while *accepting.borrow() > 0 || !core.hooks.borrow().is_empty() {
        if !cutting && monoio::time::Instant::now() >= deadline {
            cutting = true;
            for hook in core.hooks.borrow().iter() {
                hook.expired.set(Some(Cause::ShutdownTimeout));
                hook.wake();
            }
        }
        monoio::time::sleep(Duration::from_millis(1)).await;
    }
}
