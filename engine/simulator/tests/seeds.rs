//! Seeds, run as the tool runs them.

use std::collections::BTreeSet;

use simulator::{
    plan::{Fixed, Plan},
    run::{is_repeatable, run},
    search::{search, shrink},
};

/// Seeds of the short run.
const SEEDS: u64 = 20_000;

#[test]
fn no_seed_breaks_a_promise() {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let found = search((0, SEEDS), &Fixed::default(), threads, false, &|_| {});
    println!(
        "{} seeds in {:.1} s: {} steps, {} messages, {} repairs, {:.0} simulated seconds a second",
        found.seeds,
        found.took.as_secs_f64(),
        found.steps,
        found.messages,
        found.repairs,
        found.simulated.as_secs_f64() / found.took.as_secs_f64()
    );
    for (kind, (count, seed)) in &found.broken {
        let (plan, violation) = shrink(&Plan::draw(*seed, &Fixed::default()));
        println!(
            "{kind}: {count} seeds; `tidegate simulate --seed {seed}`, made smaller:\n{plan}{violation}"
        );
    }
    assert!(found.broken.is_empty(), "{:?}", found.broken);
    assert!(found.repairs > 100, "damage is found and repaired: {}", found.repairs);
}

/// Seeds beyond the short run that broke a promise once. When the plan of a seed is drawn in another way they are others.
const ONCE_BROKEN: [u64; 6] = [20_330, 99_830, 132_918, 277_533, 372_319, 532_288];

#[test]
fn seeds_that_broke_a_promise_once_break_none() {
    for seed in ONCE_BROKEN {
        let plan = Plan::draw(seed, &Fixed::default());
        assert!(run(&plan, false).0.is_ok(), "`tidegate simulate --seed {seed}`");
    }
}

#[test]
fn a_seed_is_the_same_run_every_time() {
    let plans = (0..200).map(|seed| Plan::draw(seed, &Fixed::default()));
    assert!(plans.clone().all(|plan| is_repeatable(&plan)));
    // The lines themselves, of one with everything in it.
    let plan = Plan::draw(3, &Fixed::default());
    assert_eq!(run(&plan, true).1, run(&plan, true).1);
    let hashes: BTreeSet<u64> =
        plans.filter_map(|plan| run(&plan, false).0.ok()).map(|report| report.hash).collect();
    assert!(hashes.len() > 150, "other seeds are other runs: {}", hashes.len());
}
