//! Runs many seeds and counts what they found.
use std::collections::BTreeMap;
fn main() {
    let mut arguments = std::env::args().skip(1).map(|text| text.parse::<u64>().unwrap());
    let (from, count) = (arguments.next().unwrap_or(0), arguments.next().unwrap_or(1000));
    let started = std::time::Instant::now();
    let mut kinds: BTreeMap<&str, (u64, u64, String)> = BTreeMap::new();
    let (mut steps, mut simulated, mut messages, mut answered, mut repairs) = (0, 0.0, 0u64, 0, 0u64);
    for seed in from..from + count {
        let plan = simulator::plan::Plan::draw(seed, &Default::default());
        match simulator::run::run(&plan, count == 1).0 {
            Ok(report) => {
                steps += report.steps;
                simulated += report.simulated.as_secs_f64();
                messages += u64::from(report.messages);
                answered += report.answered;
                repairs += u64::from(report.repairs);
            }
            Err(violation) => {
                let entry = kinds.entry(violation.kind).or_insert((0, seed, violation.detail));
                entry.0 += 1;
            }
        }
    }
    println!(
        "{count} seeds in {:?}: {steps} steps, {simulated:.0} s simulated, {messages} messages, {answered} answered, {repairs} repairs",
        started.elapsed()
    );
    for (kind, (count, first, detail)) in kinds {
        println!("{count:6} {kind}: seed {first}: {detail}");
    }
    if count == 1 {
        let (_, lines) = simulator::run::run(&simulator::plan::Plan::draw(from, &Default::default()), true);
        print!("{}", simulator::plan::Plan::draw(from, &Default::default()));
        for line in lines {
            println!("{line}");
        }
    }
}
