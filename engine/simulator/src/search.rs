//! Many seeds, on all cores of the machine; and the smallest plan that still breaks the promise that one of them broke.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use crate::{
    ledger::Violation,
    plan::{Fixed, Plan},
    run::run,
};

/// What a search came to.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// Seeds that were run.
    pub seeds: u64,
    /// Steps of all of them.
    pub steps: u64,
    /// Messages that were sent.
    pub messages: u64,
    /// Starts that were refused because of damage, and then repaired.
    pub repairs: u64,
    /// Their own time.
    pub simulated: Duration,
    /// Ours.
    pub took: Duration,
    /// By kind of broken promise: how many seeds, and the first of them.
    pub broken: BTreeMap<&'static str, (u64, u64)>,
}

/// Runs `count` seeds from `first` on with so many threads; with `stops` the first one that breaks a promise is the last.
/// `progress` is called about once a second with how many are done.
pub fn search(
    (first, count): (u64, u64),
    fixed: &Fixed,
    threads: usize,
    stops: bool,
    progress: &(dyn Fn(u64) + Sync),
) -> Found {
    let (next, stopped) = (AtomicU64::new(0), AtomicBool::new(false));
    let (all, began) = (Mutex::new(Found::default()), Instant::now());
    thread::scope(|scope| {
        let work = || {
            let mut found = Found::default();
            while !stopped.load(Ordering::Relaxed) {
                let at = next.fetch_add(1, Ordering::Relaxed);
                if at >= count {
                    break;
                }
                found.note(first + at, fixed);
                if stops && !found.broken.is_empty() {
                    stopped.store(true, Ordering::Relaxed);
                }
            }
            // A thread that panicked has said so.
            all.lock().unwrap_or_else(std::sync::PoisonError::into_inner).add(found);
        };
        let workers: Vec<_> = (0..threads.max(1)).map(|_| scope.spawn(work)).collect();
        let mut told = Instant::now();
        while workers.iter().any(|worker| !worker.is_finished()) {
            thread::park_timeout(Duration::from_millis(20));
            if told.elapsed() >= Duration::from_secs(1) {
                told = Instant::now();
                progress(next.load(Ordering::Relaxed).min(count));
            }
        }
    });
    let mut all = all.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    all.took = began.elapsed();
    all
}

impl Found {
    fn note(&mut self, seed: u64, fixed: &Fixed) {
        let plan = Plan::draw(seed, fixed);
        self.seeds += 1;
        match run(&plan, false).0 {
            Ok(report) => {
                self.steps += report.steps;
                self.messages += u64::from(report.messages);
                self.repairs += u64::from(report.repairs);
                self.simulated += report.simulated;
            }
            Err(Violation { kind, .. }) => {
                let (count, first) = self.broken.entry(kind).or_insert((0, seed));
                *count += 1;
                *first = seed.min(*first);
            }
        }
    }

    fn add(&mut self, other: Found) {
        self.seeds += other.seeds;
        self.steps += other.steps;
        self.messages += other.messages;
        self.repairs += other.repairs;
        self.simulated += other.simulated;
        for (kind, (more, seed)) in other.broken {
            let (count, first) = self.broken.entry(kind).or_insert((0, seed));
            *count += more;
            *first = seed.min(*first);
        }
    }
}

/// Makes a plan that breaks a promise smaller, as long as it breaks the same: fewer lives, faults, messages, steps and cores.
pub fn shrink(plan: &Plan) -> (Plan, Violation) {
    let Err(mut violation) = run(plan, false).0 else {
        return (plan.clone(), Violation { kind: "none", detail: String::new() });
    };
    let mut plan = plan.clone();
    loop {
        let smaller = smaller_ones(&plan).into_iter().find_map(|smaller| {
            let again = run(&smaller, false).0.err().filter(|again| again.kind == violation.kind)?;
            Some((smaller, again))
        });
        match smaller {
            Some((smaller, again)) => (plan, violation) = (smaller, again),
            None => return (plan, violation),
        }
    }
}

/// Plans with one thing less, those with the most less first.
fn smaller_ones(plan: &Plan) -> Vec<Plan> {
    let mut all = Vec::new();
    let mut add = |change: &dyn Fn(&mut Plan)| {
        let mut smaller = plan.clone();
        change(&mut smaller);
        if smaller != *plan {
            all.push(smaller);
        }
    };
    for at in 0..plan.lives.len() {
        if plan.lives.len() > 1 {
            add(&|plan| {
                plan.lives.remove(at);
            });
        }
    }
    for (at, life) in plan.lives.iter().enumerate() {
        for fault in 0..life.faults.len() {
            add(&|plan| {
                plan.lives[at].faults.remove(fault);
            });
        }
        add(&|plan| plan.lives[at].damage = None);
        add(&|plan| plan.lives[at].messages /= 2);
        add(&|plan| plan.lives[at].messages = plan.lives[at].messages.saturating_sub(1));
        add(&|plan| plan.lives[at].steps /= 2);
        add(&|plan| plan.lives[at].steps = plan.lives[at].steps * 7 / 8);
        add(&|plan| plan.lives[at].cores = 1);
    }
    add(&|plan| plan.shape.keys = 1);
    add(&|plan| plan.shape.payload_bytes_max = 0);
    add(&|plan| plan.shape.with_id = 0);
    all
}
