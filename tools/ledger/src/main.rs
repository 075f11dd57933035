//! The ledger test: a client writes down every acknowledgement while Tidegate and its brokers are killed; afterwards
//! everything acknowledged must be downstream, as it was sent, in the order of its key, and nothing else.

mod client;
mod damage;
mod downstream;
mod faults;
mod group;
mod house;
mod outage;
mod promise;
mod verdict;

use std::{
    collections::HashSet,
    path::PathBuf,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::{
    client::Ledger,
    house::House,
    promise::{End, Evidence},
    verdict::{Found, Verdict, compare},
};

/// The older system's names, which are the defaults.
const STREAM: &str = "DIPLOM_STREAM";
const TOPIC: &str = "diplom-messages";

/// Kills Tidegate and its brokers while messages stream in, and checks that nothing acknowledged is lost.
#[derive(Parser)]
#[command(after_help = "Examples:\n  \
    ledger run --queue log --kills 200\n  \
    ledger run --queue composite --outbox --kills 20 --broker-kills 5 --seed 7\n  \
    ledger run --queue composite --strategy best-effort --level delivered,queued --stops 9 --pauses 3\n  \
    ledger damage --variant killed --only last-segment\n  \
    ledger compare --nats nats://127.0.0.1:4222 --kafka 127.0.0.1:9092")]
struct Cli {
    #[command(subcommand)]
    command: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Kill, restart, compare.
    Run(Run),
    /// Stop one broker for a while under steady load; print what clients noticed and what memory it cost.
    Outage {
        /// Where messages go; the broker that stops is Kafka, where there is one.
        #[command(flatten)]
        run: Run,
        /// How long it is stopped.
        #[arg(long, default_value_t = 60)]
        seconds: u64,
        /// Messages a second, all keys together.
        #[arg(long = "load", default_value_t = 2000)]
        total: u64,
    },
    /// Two processes share a consumer group; one is killed, the other takes over.
    Group {
        /// nats or kafka.
        #[command(flatten)]
        run: Run,
        /// How long both run, and how long the one that is left.
        #[arg(long, default_value_t = 10)]
        seconds: u64,
    },
    /// Damage copies of a real data directory in every way, and print what becomes of each.
    Damage(damage::Damage),
    /// Print which ids a NATS stream and a Kafka topic do not share.
    Compare {
        /// The NATS server.
        #[arg(long)]
        nats: String,
        /// The Kafka brokers.
        #[arg(long)]
        kafka: String,
        /// The stream.
        #[arg(long, default_value = STREAM)]
        stream: String,
        /// The topic.
        #[arg(long, default_value = TOPIC)]
        topic: String,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Queue {
    Log,
    Nats,
    Kafka,
    Composite,
}

#[derive(Args)]
struct Run {
    /// Where messages go.
    #[arg(long, value_enum)]
    queue: Queue,
    /// fail-fast or best-effort, for composite.
    #[arg(long, default_value = "fail-fast")]
    strategy: String,
    /// Keep the durable log in front of the brokers.
    #[arg(long)]
    outbox: bool,
    /// Records in one NATS message, at most.
    #[arg(long, default_value_t = 1)]
    pack: u32,
    /// Kills of Tidegate.
    #[arg(long, default_value_t = 20)]
    kills: u32,
    /// Kills of each broker.
    #[arg(long, default_value_t = 0)]
    broker_kills: u32,
    /// SIGTERMs of Tidegate: a third with all brokers there, a third while one is stopped, a third while one is away.
    #[arg(long, default_value_t = 0)]
    stops: u32,
    /// SIGSTOPs of each broker, for half a second to six.
    #[arg(long, default_value_t = 0)]
    pauses: u32,
    /// What is asked for: durable, delivered, queued, or delivered,queued in turns [default: durable with the log, delivered
    /// with brokers].
    #[arg(long, value_delimiter = ',', value_parser = ["queued", "durable", "delivered"])]
    level: Vec<String>,
    /// Repeats a run's faults; random and printed otherwise.
    #[arg(long)]
    seed: Option<u64>,
    /// Keys, each with a client of its own.
    #[arg(long, default_value_t = 16)]
    keys: u64,
    /// Messages a second of each key, at most: what a quick side takes the slow one has to catch up with.
    #[arg(long, default_value_t = 100)]
    rate: u64,
    /// Shortest time between two kills, in milliseconds.
    #[arg(long, default_value_t = 50)]
    min_ms: u64,
    /// Longest time between two kills, in milliseconds.
    #[arg(long, default_value_t = 2000)]
    max_ms: u64,
    /// The binary.
    #[arg(long, env = "TIDEGATE", default_value = "target/release/tidegate")]
    tidegate: PathBuf,
    /// Where everything is kept; a fresh folder under the temporary one otherwise, removed after a clean run.
    #[arg(long)]
    folder: Option<PathBuf>,
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Action::Run(run) => ledger_test(&run),
        Action::Outage { run, seconds, total } => outage_test(&run, seconds, total),
        Action::Group { run, seconds } => group_test(&run, seconds),
        Action::Damage(damage) => damage::run(&damage),
        Action::Compare { nats, kafka, stream, topic } => compare_sides(&nats, &stream, &kafka, &topic),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("ledger: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn ledger_test(run: &Run) -> Result<bool> {
    let seed = run.seed.unwrap_or_else(|| fastrand::u64(..1 << 32));
    let mut random = fastrand::Rng::with_seed(seed);
    let folder = run
        .folder
        .clone()
        .unwrap_or_else(|| std::env::temp_dir().join(format!("ledger-{}", std::process::id())));
    std::fs::create_dir_all(&folder)?;
    let mut house = House::start(run, &folder, 1, false)?;
    let levels = levels(run);
    println!(
        "ledger: queue {:?}, strategy {}, outbox {}, level {}, {} keys, {} kills, {} stops, of each broker {} kills and {} \
         pauses, seed {seed}, folder {}",
        run.queue,
        run.strategy,
        run.outbox,
        levels.join(" and "),
        run.keys,
        run.kills,
        run.stops,
        run.broker_kills,
        run.pauses,
        folder.display()
    );
    let (ledger, stop) = (Arc::new(Ledger::default()), Arc::new(AtomicBool::new(false)));
    let writers =
        client::writers(&ledger, &[house.engines[0].port], run, &levels, &format!("{seed:x}"), &stop);
    let started = Instant::now();
    let mut ends = faults::inflict(run, &mut house, &mut random, &ledger.life)?;
    // Until everybody has been told once more: all that is under way comes to its end.
    settle(&ledger, &stop, writers);
    let took = started.elapsed();
    let mut clean = ledger.unexpected.lock().is_empty();
    for text in ledger.unexpected.lock().iter().take(5) {
        println!("unexpected answer: {text}");
    }
    let acknowledged = ledger.acknowledged.lock().clone();
    println!(
        "{} acknowledged in {:.0} s; {} sent again: {} not accepted, {} unknown, {} cut off",
        acknowledged.len(),
        took.as_secs_f64(),
        ledger.repeats.load(Relaxed),
        ledger.refused.load(Relaxed),
        ledger.unknown.load(Relaxed),
        ledger.cut.load(Relaxed)
    );
    let sent = ledger.sent.lock().clone();
    if run.queue == Queue::Log || run.outbox {
        for (side, found) in collect(run, &mut house, &acknowledged)? {
            let verdict = compare(&sent, &acknowledged, &found);
            show(side, &verdict);
            clean &= verdict.is_clean();
        }
    } else {
        // Nothing comes later: what the brokers do not have by then is not on its way.
        ends.push(faults::stop(&mut house.engines[0])?);
        clean &= keeps_promises(run, &house, &ledger, &ends)?;
    }
    drop(house);
    if clean && run.folder.is_none() {
        std::fs::remove_dir_all(&folder)?;
    }
    println!("{}", if clean { "clean" } else { "NOT CLEAN" });
    if !clean {
        println!("again: the same command with --seed {seed}");
    }
    Ok(clean)
}

fn outage_test(run: &Run, seconds: u64, rate: u64) -> Result<bool> {
    let folder = std::env::temp_dir().join(format!("ledger-outage-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let house = House::start(run, &folder, 1, false)?;
    // A moment to find its brokers.
    thread::sleep(Duration::from_secs(5));
    let level = levels(run)[0];
    let victim = house.kafka.as_ref().or(house.nats.as_ref()).context("there is no broker to stop")?;
    let (before, during) = outage::run(&house.engines[0], victim, level, rate, seconds)?;
    println!("p99 during / before: {:.2}", during as f64 / before.max(1) as f64);
    let mut same = true;
    if let (Some(nats), Some(kafka)) = (house.nats_url(), house.kafka_brokers()) {
        let deadline = Instant::now() + Duration::from_secs(120);
        loop {
            same = compare_sides(&nats, STREAM, &kafka, TOPIC)?;
            if same || Instant::now() > deadline {
                break;
            }
            thread::sleep(Duration::from_secs(5));
        }
    }
    drop(house);
    std::fs::remove_dir_all(&folder)?;
    Ok(same)
}

fn group_test(run: &Run, seconds: u64) -> Result<bool> {
    let folder = std::env::temp_dir().join(format!("ledger-group-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let clean = group::run(run, &folder, Duration::from_secs(seconds))?;
    if clean {
        std::fs::remove_dir_all(&folder)?;
    }
    println!("{}", if clean { "clean" } else { "NOT CLEAN" });
    Ok(clean)
}

/// The levels that are asked for, in turns.
fn levels(run: &Run) -> Vec<&'static str> {
    let known = ["queued", "durable", "delivered"];
    let asked: Vec<_> =
        run.level.iter().filter_map(|asked| known.into_iter().find(|one| one == asked)).collect();
    match (asked.is_empty(), run.queue) {
        (false, _) => asked,
        (true, Queue::Log) => vec!["durable"],
        (true, _) => vec!["delivered"],
    }
}

/// Whether brokers without a log in front of them have what was promised, and the dead letters what they have not.
fn keeps_promises(run: &Run, house: &House, ledger: &Ledger, ends: &[End]) -> Result<bool> {
    let sent = ledger.sent.lock().clone();
    let (mut clean, mut sides) = (true, Vec::new());
    for (side, found) in read_sides(house)? {
        // The first word is its name: who had no key was given an id.
        let name = |found: Found| Found { id: first_word(&found.payload), ..found };
        let found: Vec<Found> = found.into_iter().map(name).collect();
        // What a side has to have is said by the promise.
        let verdict = compare(&sent, &HashSet::new(), &found);
        show(side, &verdict);
        clean &= verdict.is_clean();
        sides.push((side, found.into_iter().map(|found| found.id).collect()));
    }
    let letters = downstream::dead_letters(&run.tidegate, &house.letters)?;
    let lost: u64 = ends.iter().map(|end| if let End::Stopped { lost } = end { *lost } else { 0 }).sum();
    println!("{} dead letters; the last lines count {lost} messages as lost", letters.len());
    let told = ledger.told.lock();
    let output = std::fs::read_to_string(house.engines[0].output())?;
    let word = |character: char| !character.is_ascii_alphanumeric() && character != '-';
    let ids: HashSet<&str> = told.values().map(|told| told.message_id.as_str()).collect();
    let named = output.split(word).filter(|word| ids.contains(word)).map(str::to_owned).collect();
    let broken = promise::check(&Evidence {
        told: &told,
        sides: &sides,
        letters: &letters,
        named: &named,
        ends,
        best_effort: run.strategy == "best-effort" && run.queue == Queue::Composite,
    });
    broken.print();
    Ok(clean && broken.is_clean())
}

fn first_word(payload: &str) -> String {
    payload.split(' ').next().unwrap_or_default().to_owned()
}

/// Lets every writer finish the message it is at.
fn settle(ledger: &Ledger, stop: &AtomicBool, writers: Vec<thread::JoinHandle<()>>) {
    // Everything may be out of reach for a while; then what was never acknowledged stays so.
    let deadline = Instant::now() + Duration::from_secs(60);
    let goal = ledger.acknowledged.lock().len() + 50;
    while ledger.acknowledged.lock().len() < goal && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(100));
    }
    stop.store(true, Relaxed);
    for writer in writers {
        // A panic of it was printed.
        let _ = writer.join();
    }
}

/// Reads every side until all that was acknowledged is there, or for a minute.
fn collect(
    run: &Run,
    house: &mut House,
    acknowledged: &HashSet<String>,
) -> Result<Vec<(&'static str, Vec<Found>)>> {
    if run.queue == Queue::Log {
        if !house.engines[0].stop()? {
            bail!("tidegate did not end in order");
        }
        return Ok(vec![("log", downstream::log(&run.tidegate, &house.data)?)]);
    }
    let has_all = |found: &[Found]| {
        let ids: HashSet<&str> = found.iter().map(|found| found.id.as_str()).collect();
        acknowledged.iter().all(|id| ids.contains(id.as_str()))
    };
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let sides = read_sides(house)?;
        let complete = sides.iter().all(|(_, found)| has_all(found));
        if complete || Instant::now() > deadline {
            return Ok(sides);
        }
        thread::sleep(Duration::from_millis(500));
    }
}

/// Everything that the brokers have.
fn read_sides(house: &House) -> Result<Vec<(&'static str, Vec<Found>)>> {
    let mut sides = Vec::new();
    if let Some(url) = house.nats_url() {
        sides.push(("nats", downstream::nats(&url, STREAM)?));
    }
    if let Some(brokers) = house.kafka_brokers() {
        sides.push(("kafka", downstream::kafka(&brokers, TOPIC)?));
    }
    Ok(sides)
}

fn show(side: &str, verdict: &Verdict) {
    println!(
        "{side:>6}: {} found, {} acknowledged, missing {}, invented {}, altered {}, out of order {}, duplicates {}",
        verdict.found,
        verdict.acknowledged,
        verdict.missing.len(),
        verdict.invented.len(),
        verdict.altered.len(),
        verdict.disordered.len(),
        verdict.duplicates
    );
    for (what, ids) in [
        ("missing", &verdict.missing),
        ("invented", &verdict.invented),
        ("altered", &verdict.altered),
        ("out of order", &verdict.disordered),
    ] {
        if !ids.is_empty() {
            println!("        {what}: {}", ids.iter().take(5).cloned().collect::<Vec<_>>().join(", "));
        }
    }
}

/// Prints which ids two sides do not share.
fn compare_sides(nats: &str, stream: &str, kafka: &str, topic: &str) -> Result<bool> {
    let ids = |found: Vec<Found>| -> HashSet<String> { found.into_iter().map(|found| found.id).collect() };
    let (left, right) = (ids(downstream::nats(nats, stream)?), ids(downstream::kafka(kafka, topic)?));
    println!("nats {} ids, kafka {} ids", left.len(), right.len());
    for (name, one, other) in [("only in nats", &left, &right), ("only in kafka", &right, &left)] {
        let mut only: Vec<&String> = one.difference(other).collect();
        only.sort();
        println!("{name}: {}", only.len());
        for id in only.iter().take(10) {
            println!("  {id}");
        }
    }
    Ok(left == right)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn every_command_can_be_asked_for() {
        super::Cli::command().debug_assert();
    }
}
