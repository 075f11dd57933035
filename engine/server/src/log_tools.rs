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
            dump(&directory(log)?, *json, *shard, &mut out)
        }
        LogAction::Stat(log) => stat(&directory(log)?),
        LogAction::Repair { log, salvage } => repair(&directory(log)?, salvage),
    }
}

fn verify(directory: &Path) -> Result<ExitCode> {
    let verified = offline::verify(&Machine, directory)?;
    let mut damaged = 0;
    for report in &verified.segments {
        let path = report.path.display();
        let offsets = if report.next_offset > report.first_offset {
            format!("offsets {} to {}", report.first_offset, report.next_offset - 1)
        } else {
            format!("begins at offset {}", report.first_offset)
        };
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
            Verdict::Misplaced { shard, first_offset } => {
                damaged += 1;
                writeln!(
                    io::stdout(),
                    "DAMAGED  {path}  it is the segment of shard {shard} that begins at offset {first_offset}"
                )?;
            }
        }
    }
    for offline::Missing { shard, from, upto, what } in &verified.missing {
        let offsets = if upto > from {
            format!("offsets {from} to {}", upto - 1)
        } else {
            format!("from offset {from} on")
        };
        writeln!(io::stdout(), "MISSING  shard {shard}, {offsets}: {what}")?;
    }
    let (segments, missing) = (verified.segments.len(), verified.missing.len());
    writeln!(io::stdout(), "{segments} segments, {damaged} damaged, {missing} missing")?;
    if !verified.is_whole() {
        writeln!(
            io::stdout(),
            "`tidegate log repair --salvage DIR` copies them aside and keeps what is whole"
        )?;
    }
    Ok(if verified.is_whole() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn dump(directory: &Path, as_json: bool, shard: Option<usize>, out: &mut impl Write) -> Result<ExitCode> {
    let mut outcome = Ok(());
    let unread = offline::dump(&Machine, directory, shard, |dumped| {
        outcome = write_message(&dumped, as_json, out);
        outcome.is_ok()
    })?;
    outcome?;
    out.flush()?;
    Ok(tell_unread(&unread))
}

/// Says what could not be read, and gives the exit code for it.
pub(crate) fn tell_unread(places: &[String]) -> ExitCode {
    if places.is_empty() {
        return ExitCode::SUCCESS;
    }
    // Nobody may be reading; the exit code says it, too.
    for place in places {
        let _ = writeln!(io::stderr(), "damaged, and not read: {place}");
    }
    let _ = writeln!(io::stderr(), "`tidegate log verify` says more");
    ExitCode::FAILURE
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
    let reports = offline::verify(&Machine, directory)?.segments;
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
        let path = one.path.display();
        match &one.copy {
            Some(copy) => {
                let copy = copy.display();
                writeln!(io::stdout(), "{path}: {} messages kept; as it was: {copy}", one.kept)?;
            }
            None => writeln!(io::stdout(), "{path}: something of it is gone")?,
        }
        for (from, to) in &one.lost {
            writeln!(
                io::stdout(),
                "  lost: shard {} offsets {from} to {} ({} messages)",
                one.shard,
                to - 1,
                to - from
            )?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
