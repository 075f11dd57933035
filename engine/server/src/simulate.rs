//! `tidegate simulate`: the engine in a world that a seed decides, with everybody's settings or with somebody's own.

use std::{
    io::{self, IsTerminal, Write},
    process::ExitCode,
    thread,
};

use anyhow::{Result, bail};
use simulator::{
    ledger::Violation,
    plan::{Fixed, Kind, Plan, Queue},
    run::run,
    search::{Found, search, shrink},
};

use crate::{
    cli::SimulateArguments,
    settings::{Provider, Settings},
};

/// Runs the seeds that were asked for; the exit code is 0 when no promise was broken.
///
/// # Errors
/// Settings that cannot be simulated.
pub fn simulate(arguments: &SimulateArguments, settings: Option<&Settings>) -> Result<ExitCode> {
    let fixed = settings.map(fixed).transpose()?.unwrap_or_default();
    match arguments.seed {
        Some(seed) => one(seed, &fixed, arguments.trace),
        None => many(arguments, &fixed),
    }
}

/// One seed, step by step if that was asked for; made smaller if it breaks a promise.
fn one(seed: u64, fixed: &Fixed, trace: bool) -> Result<ExitCode> {
    let mut out = io::stdout().lock();
    let plan = Plan::draw(seed, fixed);
    write!(out, "{plan}")?;
    let (result, lines) = run(&plan, trace);
    for line in lines {
        writeln!(out, "  {line}")?;
    }
    match result {
        Ok(report) => {
            writeln!(
                out,
                "no promise was broken: {} steps, {} messages, {} answers, {} repairs, {:.1} s simulated; trace {:016x}",
                report.steps,
                report.messages,
                report.answered,
                report.repairs,
                report.simulated.as_secs_f64(),
                report.hash
            )?;
            Ok(ExitCode::SUCCESS)
        }
        Err(violation) => {
            writeln!(out, "BROKEN  {violation}")?;
            let (smaller, Violation { kind, detail }) = shrink(&plan);
            writeln!(out, "made smaller:\n{smaller}BROKEN  {kind}: {detail}")?;
            Ok(ExitCode::FAILURE)
        }
    }
}

fn many(arguments: &SimulateArguments, fixed: &Fixed) -> Result<ExitCode> {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let shows_progress = io::stderr().is_terminal();
    let progress = |done: u64| {
        if shows_progress {
            // Nobody may be reading.
            let _ = write!(io::stderr(), "\r{done} of {} seeds", arguments.seeds);
        }
    };
    let found = search((arguments.from, arguments.seeds), fixed, threads, arguments.stop, &progress);
    if shows_progress {
        let _ = writeln!(io::stderr());
    }
    let Found { seeds, steps, messages, repairs, simulated, took, broken } = &found;
    let rate = simulated.as_secs_f64() / took.as_secs_f64().max(1e-9);
    let mut out = io::stdout().lock();
    writeln!(
        out,
        "{seeds} seeds in {:.1} s: {steps} steps, {messages} messages, {repairs} repairs, {rate:.0} simulated seconds a second",
        took.as_secs_f64()
    )?;
    for (kind, (count, seed)) in broken {
        let (smaller, violation) = shrink(&Plan::draw(*seed, fixed));
        writeln!(
            out,
            "BROKEN  {kind}: {count} seeds; `tidegate simulate --seed {seed}` repeats the first, made smaller:"
        )?;
        writeln!(out, "{smaller}{violation}")?;
    }
    if broken.is_empty() {
        writeln!(out, "no promise was broken")?;
        return Ok(ExitCode::SUCCESS);
    }
    Ok(ExitCode::FAILURE)
}

/// What of somebody's settings decides what can go wrong.
fn fixed(settings: &Settings) -> Result<Fixed> {
    let delivery = &settings.delivery;
    if delivery.remote.is_some() {
        bail!(
            "remote.processor_url, remote.ingest_url: what is sent on to another process is not simulated; unset it"
        );
    }
    let has_log = delivery.providers.contains(&Provider::Log);
    let kinds = delivery.providers.iter().filter_map(|provider| match provider {
        Provider::Nats => Some(Kind::Nats),
        Provider::Kafka => Some(Kind::Kafka),
        Provider::Memory | Provider::Log => None,
    });
    let kinds: Vec<Kind> = kinds.collect();
    let queue = match (has_log, kinds.len()) {
        (false, 0) => Queue::Memory,
        (true, 0) => Queue::Log,
        (false, 1) => Queue::Broker,
        (false, _) => Queue::Brokers,
        (true, 1) => Queue::LogAndBroker,
        (true, _) => {
            bail!("composite.providers: the log and two brokers together are not simulated; name two of them")
        }
    };
    Ok(Fixed {
        queue: Some(queue),
        kinds: Some([0, 1].map(|side| kinds.get(side).copied().unwrap_or(Kind::Plain))),
        outbox: Some(delivery.log.is_some()),
        best_effort: Some(delivery.best_effort),
        window_age: Some(delivery.idempotency_window),
        cores: (settings.cores > 0).then_some(settings.cores.min(8)),
    })
}
