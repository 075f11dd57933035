//! The result: a table for people, JSON for machines.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result};
use load::outcome::grouped;
use serde_json::{Value, json};

use crate::contest::{Contest, Match, Side};

/// Prints the table with what it was measured on.
pub fn print(contest: &Contest) {
    let (server, client) = contest.cpus;
    println!("\nServer CPU per message in µs: median (lowest–highest) of {} rounds", contest.plan.rounds);
    println!(
        "of {} s each, interleaved; server on CPU {server}, client on CPU {client}.",
        contest.plan.seconds
    );
    for (name, value) in machine() {
        println!("  {name:<7} {value}");
    }
    println!();
    let head = ["scenario", "tidegate", "peer", "ratio", "goal", "messages/s", "busy: server, client"];
    let rows: Vec<Vec<String>> = contest.matches.iter().map(row).collect();
    let widths: Vec<usize> = (0..head.len())
        .map(|column| {
            let cells = rows.iter().map(|row| row[column].chars().count());
            cells.chain([head[column].chars().count()]).max().unwrap_or(0)
        })
        .collect();
    let line = |cells: &[String]| {
        let padded = cells.iter().zip(&widths).enumerate().map(|(column, (cell, width))| {
            let blank = " ".repeat(width - cell.chars().count());
            if column == 0 { format!("{cell}{blank}") } else { format!("{blank}{cell}") }
        });
        println!("{}", padded.collect::<Vec<_>>().join("  "));
    };
    line(&head.map(str::to_owned));
    rows.iter().for_each(|row| line(row));
    for side in
        contest.matches.iter().flat_map(|contest| &contest.sides).filter(|side| !side.outcome.is_clean())
    {
        let outcome = &side.outcome;
        println!(
            "NOT CLEAN: {}: sent {}, accepted {}, refused {}, failed {}, unanswered {}; {}",
            side.name,
            outcome.sent,
            outcome.accepted,
            outcome.refused,
            outcome.failed,
            outcome.unanswered,
            outcome.first_trouble.as_deref().unwrap_or("")
        );
    }
    println!(
        "\nBusy below 100 % means that this side waited for the other. A lower ratio is better for Tidegate."
    );
}

fn row(contest: &Match) -> Vec<String> {
    let [ours, theirs] = &contest.sides;
    let ratio = median(&ours.cpu_us) / median(&theirs.cpu_us) * 100.0;
    let goal = contest.goal_percent.map_or_else(String::new, |goal| {
        let word = if ratio <= goal { "met" } else { "MISSED" };
        format!("≤ {goal:.0} % {word}")
    });
    let busy =
        |side: &Side| format!("{:.0} % {:.0} %", side.server_busy() * 100.0, side.client_busy() * 100.0);
    vec![
        contest.scenario.to_string(),
        figure(&ours.cpu_us),
        format!("{} {}", theirs.name, figure(&theirs.cpu_us)),
        format!("{ratio:.1} %"),
        goal,
        format!(
            "{} / {}",
            grouped(ours.outcome.per_second() as u64),
            grouped(theirs.outcome.per_second() as u64)
        ),
        format!("{} / {}", busy(ours), busy(theirs)),
    ]
}

impl Side {
    fn server_busy(&self) -> f64 {
        self.server_cpu.as_secs_f64() / self.outcome.elapsed.as_secs_f64().max(1e-9)
    }

    fn client_busy(&self) -> f64 {
        self.outcome.client_cpu.as_secs_f64() / self.outcome.elapsed.as_secs_f64().max(1e-9)
    }

    fn json(&self) -> Value {
        json!({
            "name": self.name,
            "cpu_us_median": median(&self.cpu_us), "cpu_us_rounds": self.cpu_us,
            "server_busy": self.server_busy(), "client_busy": self.client_busy(),
            "outcome": self.outcome.json(),
        })
    }
}

/// Writes every figure.
///
/// # Errors
/// When the file cannot be written.
pub fn write_json(contest: &Contest, path: &Path) -> Result<()> {
    let matches: Vec<Value> = contest
        .matches
        .iter()
        .map(|contest| {
            let [ours, theirs] = &contest.sides;
            json!({
                "scenario": contest.scenario.to_string(),
                "ratio": median(&ours.cpu_us) / median(&theirs.cpu_us),
                "goal": contest.goal_percent.map(|percent| percent / 100.0),
                "sides": [ours.json(), theirs.json()],
            })
        })
        .collect();
    let machine: serde_json::Map<String, Value> =
        machine().into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
    let report = json!({
        "machine": machine, "rounds": contest.plan.rounds, "seconds": contest.plan.seconds, "matches": matches,
    });
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        fs::create_dir_all(folder)?;
    }
    fs::write(path, format!("{report:#}\n"))
        .with_context(|| format!("{} cannot be written", path.display()))?;
    println!("figures: {}", path.display());
    Ok(())
}

/// CPU, cores, kernel, commit.
fn machine() -> Vec<(&'static str, String)> {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let git = |arguments: &[&str]| {
        Command::new("git").args(arguments).output().ok().filter(|out| out.status.success())
    };
    let commit = git(&["rev-parse", "--short=12", "HEAD"])
        .map(|out| String::from_utf8_lossy(&out.stdout).trim().to_owned());
    let is_changed = git(&["status", "--porcelain"]).is_some_and(|out| !out.stdout.is_empty());
    let commit = commit.unwrap_or_else(|| "unknown".to_owned());
    vec![
        ("CPU", model.map_or_else(|| "unknown".to_owned(), |(_, name)| name.to_owned())),
        // Not those that this process may use: it has bound itself to one.
        ("cores", info.lines().filter(|line| line.starts_with("processor")).count().to_string()),
        ("kernel", kernel.trim().to_owned()),
        ("commit", if is_changed { format!("{commit} with changes") } else { commit }),
    ]
}

/// `0.412 (0.408–0.431)`.
fn figure(rounds: &[f64]) -> String {
    let lowest = rounds.iter().copied().fold(f64::INFINITY, f64::min);
    let highest = rounds.iter().copied().fold(0.0, f64::max);
    format!("{:.3} ({lowest:.3}–{highest:.3})", median(rounds))
}

fn median(rounds: &[f64]) -> f64 {
    let mut sorted = rounds.to_vec();
    sorted.sort_by(f64::total_cmp);
    match (sorted.len(), sorted.len() / 2) {
        (0, _) => f64::NAN,
        (len, middle) if len.is_multiple_of(2) => f64::midpoint(sorted[middle - 1], sorted[middle]),
        (_, middle) => sorted[middle],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_is_the_middle_or_between_the_two_middles() {
        assert!((median(&[3.0, 1.0, 2.0]) - 2.0).abs() < 1e-12);
        assert!((median(&[4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < 1e-12);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn figure_shows_the_spread() {
        assert_eq!(figure(&[0.5, 0.25, 1.0]), "0.500 (0.250–1.000)");
    }
}
