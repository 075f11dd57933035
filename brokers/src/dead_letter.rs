//! What could not be delivered: kept in a log of its own, with the side, its code and its reason.
//!
//! Written by the threads of brokers, never by cores; durable when [`DeadLetters::append`] returns. The folder comes
//! into being with the first one.

use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use engine_core::{Record, clock};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::{
    disk::{self, Disk, DiskLock, NotLocked, Open},
    entry,
    log::{Commits, Log, LogConfig, LogError, ShardWriter, Turn, format, offline},
};

/// Bytes of dead letters, at most: beyond it the one who has another keeps it and tries again.
const BYTES_MAX: u64 = 1 << 30;
const SEGMENT_BYTES: u64 = 16 << 20;
/// Lines of the log that tell of dead letters, in a second.
const LINES_A_SECOND: u32 = 10;
/// The cursor of what was replayed, all below it.
const REPLAYED: &str = "replayed";
/// The file that is locked while somebody replays.
const REPLAY_LOCK: &str = "replay.lock";
/// The file that names those which were replayed alone, an offset to a line.
const REPLAYED_ALONE: &str = "replayed-alone";
/// Digits of an offset in it: as many as the largest has.
const OFFSET_DIGITS: usize = 20;

/// Why a message is here.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Cause {
    /// Where it could not go: `nats`, `kafka`, `workers`.
    pub side: String,
    /// The side's code.
    pub code: String,
    /// In words.
    pub reason: String,
    /// How often it was tried.
    pub attempts: u32,
}

/// A dead letter, as it lies there.
#[derive(Debug)]
pub struct Letter<'a> {
    /// Its number: they are counted from 0, and none is used twice.
    pub offset: u64,
    /// When it came here, in milliseconds of the Unix epoch.
    pub at_ms: u64,
    /// Why.
    pub cause: Cause,
    /// The message.
    pub record: Record<'a>,
}

/// The dead letters of a process.
#[derive(Debug)]
pub struct DeadLetters {
    disk: Arc<dyn Disk>,
    directory: PathBuf,
    open: Mutex<Option<(ShardWriter, Commits)>>,
    count: AtomicU64,
    lines: Mutex<Lines>,
}

/// Lines of the log of one second.
#[derive(Debug, Default)]
struct Lines {
    since: Option<Instant>,
    said: u32,
    /// Dead letters that had no line.
    unsaid: u64,
}

impl DeadLetters {
    /// In this folder, which need not exist. What an earlier run put there counts, until it is replayed.
    pub fn new(directory: impl Into<PathBuf>) -> Arc<Self> {
        Self::on(disk::machine(), directory)
    }

    /// The same on another disk.
    pub fn on(disk: Arc<dyn Disk>, directory: impl Into<PathBuf>) -> Arc<Self> {
        let directory = directory.into();
        let mut there = 0;
        if disk.exists(&directory)
            && let Err(error) = list(&*disk, &directory, |_| {
                there += 1;
                true
            })
        {
            let path = directory.display();
            tracing::warn!(%path, %error, "the dead letters of earlier runs cannot be read, and are not counted");
        }
        let (open, count, lines) = (Mutex::new(None), AtomicU64::new(there), Mutex::default());
        Arc::new(Self { disk, directory, open, count, lines })
    }

    /// Where they lie; the folder need not exist.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Says that a message was put aside; at most so many lines a second, and with the next one how many had none.
    fn say(&self, cause: &Cause, record: &Record<'_>, to: &str) {
        let mut lines = self.lines.lock();
        if lines.since.is_none_or(|since| clock::since(since) >= Duration::from_secs(1)) {
            (lines.since, lines.said) = (Some(clock::now()), 0);
        }
        if lines.said >= LINES_A_SECOND {
            lines.unsaid += 1;
            return;
        }
        lines.said += 1;
        let without_a_line = std::mem::take(&mut lines.unsaid);
        drop(lines);
        let Cause { side, code, reason, attempts } = cause;
        let id = String::from_utf8_lossy(record.id);
        tracing::warn!(%id, side, code, reason, attempts, to, without_a_line, "a message is a dead letter");
    }

    /// How many messages are put aside: those in the folder when this process started, and what it has put aside since, here
    /// or in a broker's topic for them.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Counts a message that a broker has put aside, in a topic of its own.
    pub fn count_elsewhere(&self, cause: &Cause, record: &Record<'_>) {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.say(cause, record, "a topic of the broker");
    }

    /// Keeps a message; it is durable when this returns.
    ///
    /// # Errors
    /// When it cannot be kept: the caller still has it.
    pub fn append(&self, cause: &Cause, record: &Record<'_>) -> Result<(), String> {
        let mut open = self.open.lock();
        if open.is_none() {
            *open = Some(self.start().map_err(|error| error.to_string())?);
        }
        let Some((writer, commits)) = &mut *open else { return Err("not open".to_owned()) };
        let mut letter = Vec::new();
        let head = serde_json::to_vec(cause).map_err(|error| error.to_string())?;
        letter.extend_from_slice(&(head.len() as u32).to_le_bytes());
        letter.extend_from_slice(&head);
        entry::encode(record, &mut letter);
        if !commits.has_room(format::stride(letter.len())) {
            return Err(format!("{:?}", writer.health()));
        }
        let appended = writer.append(record.key_hash, |out| out.extend_from_slice(&letter));
        let offset = appended.map_err(|pushback| {
            format!("dead letters in {} cannot be written: {pushback:?}", self.directory.display())
        })?;
        // A dead letter is rare enough to be written by whoever has it.
        writer.commit();
        let turn = commits.turn(false);
        if turn != Turn::Committed || writer.durable_upto() <= offset {
            let why = format!("{:?}", writer.health());
            // Whether it is there is unknown: the next one begins with what is.
            *open = None;
            return Err(why);
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        self.say(cause, record, "data.directory/dead-letter");
        Ok(())
    }

    fn start(&self) -> Result<(ShardWriter, Commits), LogError> {
        let config = LogConfig {
            segment_bytes: SEGMENT_BYTES,
            bytes_max: BYTES_MAX,
            retention_bytes: BYTES_MAX,
            disk: Arc::clone(&self.disk),
            ..LogConfig::new(&self.directory, 1)
        };
        let (log, _) = Log::open(config)?;
        log.writer_apart(0, Arc::new(|| {}))
    }
}

/// Shows every dead letter that was not replayed, oldest first, until `each` says `false`; a server may be at work there
/// meanwhile. A folder that does not exist holds none.
///
/// # Errors
/// When the folder cannot be read.
pub fn list(
    disk: &dyn Disk,
    directory: &Path,
    mut each: impl FnMut(&Letter<'_>) -> bool,
) -> Result<(), LogError> {
    if !disk.exists(directory) {
        return Ok(());
    }
    let replayed = offline::cursors(disk, directory)?
        .into_iter()
        .find(|(name, _)| name == REPLAYED)
        .and_then(|(_, positions)| positions.get(&0).copied())
        .unwrap_or(0);
    let alone = replayed_alone(disk, directory)?;
    offline::dump(disk, directory, None, |dumped| {
        if dumped.offset < replayed || alone.contains(&dumped.offset) {
            return true;
        }
        let Some((cause, record)) = decode(dumped.payload) else { return true };
        each(&Letter { offset: dumped.offset, at_ms: dumped.appended_ms, cause, record })
    })
}

/// Notes that all dead letters below `upto` were replayed.
///
/// # Errors
/// When it cannot be written.
pub fn mark_replayed(disk: &dyn Disk, directory: &Path, upto: u64) -> Result<(), LogError> {
    offline::advance_cursor(disk, directory, REPLAYED, 0, upto)?;
    // Those above were replayed alone and stay so; a file that only names what the cursor has passed is of no use.
    if replayed_alone(disk, directory)?.iter().all(|offset| *offset < upto) {
        let path = directory.join(REPLAYED_ALONE);
        match disk.remove(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(LogError::io("delete", &path)(error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Notes that one dead letter was replayed, whatever becomes of those before it. It is durable when this returns. The file
/// grows by a line for each: it is bounded by what the dead letters themselves are.
///
/// # Errors
/// When it cannot be written.
pub fn mark_one_replayed(disk: &dyn Disk, directory: &Path, offset: u64) -> Result<(), LogError> {
    let path = directory.join(REPLAYED_ALONE);
    let written = || -> io::Result<()> {
        let file = disk.open(&path, Open::Create)?;
        // All lines are as long, and begin anew: what a crash has cut is no offset, and does not make one with what follows.
        file.write_all_at(format!("\n{offset:0OFFSET_DIGITS$}\n").as_bytes(), file.length()?)?;
        file.sync_all()?;
        disk.sync_folder(directory)
    };
    written().map_err(LogError::io("write", &path))
}

/// The turn of the one who replays the letters of a folder, in whatever process; it ends when this is dropped.
#[derive(Debug)]
pub struct ReplayTurn(#[expect(dead_code, reason = "its lock goes with it")] Box<dyn DiskLock>);

/// Takes the turn to replay; `None`: somebody else has it, and would send the same letters.
///
/// # Errors
/// When the folder cannot be written to.
pub fn take_turn(disk: &dyn Disk, directory: &Path) -> io::Result<Option<ReplayTurn>> {
    let owner = format!("process {}\n", std::process::id());
    match disk.lock(&directory.join(REPLAY_LOCK), &owner) {
        Ok(lock) => Ok(Some(ReplayTurn(lock))),
        Err(NotLocked::Taken(_)) => Ok(None),
        Err(NotLocked::Io(error)) => Err(error),
    }
}

/// The offsets of those that were replayed alone.
fn replayed_alone(disk: &dyn Disk, directory: &Path) -> Result<BTreeSet<u64>, LogError> {
    let path = directory.join(REPLAYED_ALONE);
    match disk::read(disk, &path) {
        Ok(bytes) => {
            let text = String::from_utf8_lossy(&bytes);
            let whole = text.lines().filter(|line| line.len() == OFFSET_DIGITS);
            Ok(whole.filter_map(|line| line.parse().ok()).collect())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeSet::new()),
        Err(error) => Err(LogError::io("read", &path)(error)),
    }
}

fn decode(payload: &[u8]) -> Option<(Cause, Record<'_>)> {
    let (length, rest) = payload.split_first_chunk::<4>()?;
    let (head, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
    Some((serde_json::from_slice(head).ok()?, entry::decode(rest).ok()?))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::disk::Machine;

    #[test]
    fn a_dead_letter_is_listed_until_it_was_replayed() {
        let folder = std::env::temp_dir().join(format!("tidegate-dead-{}", std::process::id()));
        let letters = DeadLetters::new(&folder);
        assert!(!folder.exists());
        let cause = Cause {
            side: "kafka".into(),
            code: "MSG_SIZE_TOO_LARGE".into(),
            reason: "too large".into(),
            attempts: 1,
        };
        for id in [b"a", b"b"] {
            letters.append(&cause, &Record { id, payload: b"x", ..Record::default() }).unwrap();
        }
        assert_eq!(letters.count(), 2);
        drop(letters);
        let listed = || {
            let mut found = Vec::new();
            list(&Machine, &folder, |letter| {
                found.push((letter.offset, letter.cause.code.clone(), letter.record.id.to_vec()));
                true
            })
            .unwrap();
            found
        };
        assert_eq!(listed().len(), 2);
        mark_replayed(&Machine, &folder, 1).unwrap();
        assert_eq!(listed(), [(1, "MSG_SIZE_TOO_LARGE".to_owned(), b"b".to_vec())]);
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_dead_letter_that_was_replayed_alone_is_not_listed_and_those_around_it_are() {
        let folder = std::env::temp_dir().join(format!("tidegate-dead-alone-{}", std::process::id()));
        let listed = || {
            let mut found = Vec::new();
            list(&Machine, &folder, |letter| {
                found.push(letter.offset);
                true
            })
            .unwrap();
            found
        };
        assert_eq!(listed(), [0; 0], "there is no folder yet");
        let letters = DeadLetters::new(&folder);
        let cause = Cause { side: "nats".into(), code: "X".into(), reason: "x".into(), attempts: 1 };
        for _ in 0..4 {
            letters.append(&cause, &Record { payload: b"x", ..Record::default() }).unwrap();
        }
        mark_one_replayed(&Machine, &folder, 2).unwrap();
        assert_eq!(listed(), [0, 1, 3]);
        // A crash has cut the line.
        let path = folder.join(REPLAYED_ALONE);
        fs::write(&path, "\n00000000000000000002\n0000000").unwrap();
        mark_one_replayed(&Machine, &folder, 3).unwrap();
        assert_eq!(listed(), [0, 1]);
        fs::write(&path, "\n00000000000000000002\n0000000").unwrap();
        mark_replayed(&Machine, &folder, 2).unwrap();
        assert_eq!(listed(), [3]);
        mark_replayed(&Machine, &folder, 3).unwrap();
        assert!(!path.exists() && listed() == [3]);
        fs::remove_dir_all(folder).unwrap();
    }
}
