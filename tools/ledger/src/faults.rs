//! What is done to the processes of a run, in an order that its seed gives.

use std::{
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use ledger::process::Process;

use crate::{Run, house::House, promise::End};

/// A broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Nats,
    Kafka,
}

/// What stands in the way of an orderly stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meanwhile {
    /// Nothing.
    AllThere,
    /// A broker has SIGSTOP.
    Paused(Side),
    /// A broker is killed, and comes back later.
    Away(Side),
}

/// One thing that is done.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// kill -9 of Tidegate.
    Kill,
    /// SIGTERM to Tidegate.
    Stop(Meanwhile),
    /// kill -9 of a broker.
    KillBroker(Side),
    /// SIGSTOP of a broker, and SIGCONT after so long.
    PauseBroker(Side, Duration),
}

/// The faults of a run.
fn schedule(run: &Run, sides: &[Side], random: &mut fastrand::Rng) -> Vec<Fault> {
    let mut faults = vec![Fault::Kill; run.kills as usize];
    for number in 0..run.stops {
        let meanwhile = match (number % 3, sides) {
            (0, _) | (_, []) => Meanwhile::AllThere,
            (1, sides) => Meanwhile::Paused(sides[random.usize(..sides.len())]),
            (_, sides) => Meanwhile::Away(sides[random.usize(..sides.len())]),
        };
        faults.push(Fault::Stop(meanwhile));
    }
    for side in sides {
        faults.extend(vec![Fault::KillBroker(*side); run.broker_kills as usize]);
        for _ in 0..run.pauses {
            faults.push(Fault::PauseBroker(*side, Duration::from_millis(random.u64(500..6000))));
        }
    }
    random.shuffle(&mut faults);
    faults
}

/// Does all of it; gives how each life of the engine ended, but the last, which goes on.
pub fn inflict(
    run: &Run,
    house: &mut House,
    random: &mut fastrand::Rng,
    life: &AtomicU32,
) -> Result<Vec<End>> {
    let mut sides = Vec::new();
    sides.extend(house.nats.is_some().then_some(Side::Nats));
    sides.extend(house.kafka.is_some().then_some(Side::Kafka));
    let faults = schedule(run, &sides, random);
    let mut ends = Vec::new();
    for (number, fault) in faults.iter().enumerate() {
        thread::sleep(Duration::from_millis(random.u64(run.min_ms..=run.max_ms)));
        match *fault {
            Fault::Kill => {
                house.engines[0].kill();
                ends.push(End::Killed);
                again(&mut house.engines[0], life)?;
            }
            Fault::Stop(meanwhile) => {
                match meanwhile {
                    Meanwhile::AllThere => {}
                    Meanwhile::Paused(side) => broker(house, side)?.pause(),
                    Meanwhile::Away(side) => broker(house, side)?.kill(),
                }
                // Long enough for something to wait, and for a breaker to open now and then.
                thread::sleep(Duration::from_millis(random.u64(0..4000)));
                ends.push(stop(&mut house.engines[0])?);
                match meanwhile {
                    Meanwhile::AllThere => {}
                    Meanwhile::Paused(side) => broker(house, side)?.resume(),
                    Meanwhile::Away(side) => restart(broker(house, side)?)?,
                }
                again(&mut house.engines[0], life)?;
            }
            Fault::KillBroker(side) => restart(broker(house, side)?)?,
            Fault::PauseBroker(side, length) => {
                broker(house, side)?.pause();
                thread::sleep(length);
                broker(house, side)?.resume();
            }
        }
        if (number + 1) % 25 == 0 {
            println!("  {} of {} faults", number + 1, faults.len());
        }
    }
    thread::sleep(Duration::from_secs(1));
    Ok(ends)
}

/// SIGTERM, and what the last line counts as lost.
pub fn stop(engine: &mut Process) -> Result<End> {
    let before = std::fs::metadata(engine.output()).map_or(0, |file| file.len()) as usize;
    // Its exit code is 1 when it has lost something; the line says how much.
    engine.stop()?;
    let output = std::fs::read(engine.output())?;
    let text = String::from_utf8_lossy(&output[before.min(output.len())..]);
    let last = text.lines().rev().find(|line| line.contains(" stopped "));
    let lost = last.and_then(|line| line.split(" lost=").nth(1)?.split(' ').next()?.parse().ok());
    Ok(End::Stopped { lost: lost.unwrap_or(0) })
}

/// The next life.
fn again(engine: &mut Process, life: &AtomicU32) -> Result<()> {
    // Before it can be reached: what it answers is its own.
    life.fetch_add(1, Relaxed);
    engine.again()?;
    engine.wait()
}

fn restart(process: &mut Process) -> Result<()> {
    process.kill();
    process.again()?;
    process.wait()
}

fn broker(house: &mut House, side: Side) -> Result<&mut Process> {
    let process = match side {
        Side::Nats => house.nats.as_mut(),
        Side::Kafka => house.kafka.as_mut(),
    };
    process.context("there is no such broker in this run")
}
