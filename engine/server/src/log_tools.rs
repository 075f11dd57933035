//! `tidegate log …`: the durable log from outside, whether a server runs on it or not.

use std::{
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result};
use base64::{Engine, engine::general_purpose::STANDARD};
use brokers::{
    disk::Machine,
    entry,
    log::offline::{self, Verdict},
};
use engine_core::MetadataPairs;
use serde_json::{Map, Value, json};

use crate::{
    cli::{LogAction, LogArguments},
    printable::Printable,
};

/// Does what was asked.
pub fn run(action: &LogAction, default: PathBuf) -> Result<ExitCode> {
    let directory = |log: &LogArguments| -> Result<PathBuf> {
        let directory = log.directory.clone().unwrap_or(default);
        if !directory.is_dir() {
            anyhow::bail!("there is no log in {}; name one with --directory DIR", directory.display());
        }
        Ok(directory)
    };
    match action {
        LogAction::Verify(log) => verify(&directory(log)?),
        LogAction::Dump { log, json, shard } => {
            let mut out = BufWriter::new(io::stdout().lock());
            dump(&directory(log)?, *json, *shard, &mut out).map(|()| ExitCode::SUCCESS)
        }
        LogAction::Stat(log) => stat(&directory(log)?),
        LogAction::Repair { log, salvage } => repair(&directory(log)?, salvage),
    }
}

fn verify(directory: &Path) -> Result<ExitCode> {
    let reports = offline::verify(&Machine, directory)?;
    let mut damaged = 0;
    for report in &reports {
        let path = report.path.display();
        let offsets = format!("offsets {} to {}", report.first_offset, report.next_offset);
        match report.verdict {
            Verdict::Whole => {
                writeln!(io::stdout(), "whole    {path}  {offsets}, {} messages", report.records)?
            }
            Verdict::TornTail { position, bytes } => writeln!(
                io::stdout(),
                "torn     {path}  {offsets}; {bytes} bytes from byte {position} on are the unfinished end of a commit, which the next start cuts off"
            )?,
            Verdict::Damaged { position, offset, resumes } => {
                damaged += 1;
                let behind =
                    resumes.map_or_else(String::new, |offset| format!(", whole again at offset {offset}"));
                writeln!(
                    io::stdout(),
                    "DAMAGED  {path}  {offsets}; offset {offset} at byte {position} is damaged{behind}"
                )?;
            }
        }
    }
    writeln!(io::stdout(), "{} segments, {damaged} damaged", reports.len())?;
    if damaged > 0 {
        writeln!(
            io::stdout(),
            "`tidegate log repair --salvage DIR` copies them aside and keeps what is whole"
        )?;
    }
    Ok(if damaged == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn dump(directory: &Path, as_json: bool, shard: Option<usize>, out: &mut impl Write) -> Result<()> {
    let mut outcome = Ok(());
    offline::dump(&Machine, directory, shard, |dumped| {
        outcome = write_message(&dumped, as_json, out);
        outcome.is_ok()
    })?;
    outcome?;
    Ok(out.flush()?)
}

fn write_message(dumped: &offline::Dumped<'_>, as_json: bool, out: &mut impl Write) -> Result<()> {
    let record = entry::decode(dumped.payload)
        .with_context(|| format!("shard {} offset {}", dumped.shard, dumped.offset))?;
    let text = String::from_utf8_lossy;
    if !as_json {
        writeln!(
            out,
            "{}:{}  {}  {}  {}  {}",
            dumped.shard,
            dumped.offset,
            time(dumped.appended_ms),
            Printable(record.id),
            Printable(record.source),
            record.payload.escape_ascii()
        )?;
        return Ok(());
    }
    let metadata: Map<String, Value> = MetadataPairs::new(record.metadata)
        .map(|(key, value)| (text(key).into_owned(), json!(text(value))))
        .collect();
    let line = json!({
        "shard": dumped.shard,
        "offset": dumped.offset,
        "appended_ms": dumped.appended_ms,
        "id": text(record.id),
        "timestamp": record.timestamp_seconds,
        "source": text(record.source),
        "payload": STANDARD.encode(record.payload),
        "metadata": metadata,
    });
    writeln!(out, "{line}")?;
    Ok(())
}

fn time(unix_ms: u64) -> String {
    humantime::format_rfc3339_millis(SystemTime::UNIX_EPOCH + Duration::from_millis(unix_ms)).to_string()
}

fn stat(directory: &Path) -> Result<ExitCode> {
    let reports = offline::verify(&Machine, directory)?;
    let mut shard = None;
    for report in &reports {
        if shard != Some(report.shard) {
            shard = Some(report.shard);
            writeln!(io::stdout(), "shard {}", report.shard)?;
        }
        writeln!(
            io::stdout(),
            "  offsets {:>12} to {:>12}  {:>12} bytes  {}",
            report.first_offset,
            report.next_offset,
            report.bytes,
            report.path.display()
        )?;
    }
    let next = |shard: usize| {
        reports
            .iter()
            .filter(|report| report.shard == shard)
            .map(|report| report.next_offset)
            .max()
            .unwrap_or(0)
    };
    for (consumer, positions) in offline::cursors(&Machine, directory)? {
        let lag: u64 = positions.iter().map(|(shard, position)| next(*shard).saturating_sub(*position)).sum();
        let places: Vec<String> =
            positions.iter().map(|(shard, position)| format!("shard {shard} at {position}")).collect();
        writeln!(io::stdout(), "consumer {consumer}: {lag} behind ({})", places.join(", "))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn repair(directory: &Path, salvage: &Path) -> Result<ExitCode> {
    let repaired = offline::repair(&Machine, directory, salvage)?;
    if repaired.is_empty() {
        writeln!(io::stdout(), "nothing is damaged")?;
    }
    for one in &repaired {
        writeln!(
            io::stdout(),
            "{}: {} messages kept; as it was: {}",
            one.path.display(),
            one.kept,
            one.copy.display()
        )?;
        for (from, to) in &one.lost {
            writeln!(
                io::stdout(),
                "  lost: shard {} offsets {from} to {} ({} messages)",
                one.shard,
                to - 1,
                to - from
            )?;
        }
        if one.open_end {
            writeln!(
                io::stdout(),
                "  it was the last segment: messages behind its last whole one, if there were any, are lost, too"
            )?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
