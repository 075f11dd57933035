//! Runs seeds until one breaks a promise, panics or hangs, for `make simulate-mutants`: says which, and what became of it.
//! Arguments: the first seed, and the one behind the last.

use std::{
    io::Write,
    panic::{self, AssertUnwindSafe},
    process,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use simulator::{
    plan::{Fixed, Plan},
    run::run,
};

/// How long a seed may take. Most take a few milliseconds.
const PATIENCE: Duration = Duration::from_secs(20);

fn main() {
    let mut arguments = std::env::args().skip(1).filter_map(|text| text.parse().ok());
    let (first, end) = (arguments.next().unwrap_or(0), arguments.next().unwrap_or(100_000));
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let next = AtomicU64::new(first);
    let found: Mutex<Option<(u64, String)>> = Mutex::new(None);
    let running: Vec<Mutex<Option<(u64, Instant)>>> = (0..threads).map(|_| Mutex::new(None)).collect();
    let note = |seed: u64, kind: String| {
        let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
        if found.as_ref().is_none_or(|(first, _)| seed < *first) {
            *found = Some((seed, kind));
        }
        // What comes behind it is of no interest, what was begun before it is.
        next.store(end, Relaxed);
    };
    // A panic is a result.
    panic::set_hook(Box::new(|_| {}));
    thread::scope(|scope| {
        let workers: Vec<_> = running
            .iter()
            .map(|running| {
                scope.spawn(|| {
                    loop {
                        let seed = next.fetch_add(1, Relaxed);
                        if seed >= end {
                            return;
                        }
                        *running.lock().unwrap_or_else(PoisonError::into_inner) =
                            Some((seed, Instant::now()));
                        let plan = Plan::draw(seed, &Fixed::default());
                        match panic::catch_unwind(AssertUnwindSafe(|| run(&plan, false).0)) {
                            Ok(Ok(_)) => {}
                            Ok(Err(violation)) => note(seed, violation.kind.to_owned()),
                            Err(why) => note(seed, format!("panics: {}", text_of(&*why))),
                        }
                        *running.lock().unwrap_or_else(PoisonError::into_inner) = None;
                    }
                })
            })
            .collect();
        while workers.iter().any(|worker| !worker.is_finished()) {
            thread::sleep(Duration::from_millis(5));
            for running in &running {
                let since = *running.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some((seed, since)) = since
                    && since.elapsed() > PATIENCE
                {
                    note(seed, "hangs".to_owned());
                    // The thread cannot be ended alone.
                    let found = found.lock().unwrap_or_else(PoisonError::into_inner).take();
                    say(found);
                    process::exit(0);
                }
            }
        }
    });
    say(found.into_inner().unwrap_or_else(PoisonError::into_inner));
}

fn say(found: Option<(u64, String)>) {
    match found {
        Some((seed, kind)) => println!("{seed} {kind}"),
        None => println!("all pass"),
    }
    let _ = std::io::stdout().flush();
}

fn text_of(why: &(dyn std::any::Any + Send)) -> String {
    let text = why.downcast_ref::<String>().cloned();
    let text = text.or_else(|| why.downcast_ref::<&str>().map(|text| (*text).to_owned()));
    text.unwrap_or_default().lines().next().unwrap_or_default().to_owned()
}
