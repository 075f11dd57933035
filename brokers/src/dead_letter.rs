//! What could not be delivered: kept in a log of its own, with the side, its code and its reason.
//!
//! Written by the threads of brokers, never by cores; durable when [`DeadLetters::append`] returns. The folder comes
//! into being with the first one.

use std::{
    collections::{BTreeSet, VecDeque},
    io,
    ops::Range,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use engine_core::{Record, clock};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::{
    delivered::REFUSED_MAX,
    disk::{self, Disk, DiskLock, NotLocked, Open},
    entry,
    log::{Commits, Health, Log, LogConfig, LogError, ShardWriter, Turn, format, offline},
};

/// Bytes of a segment; what was replayed is deleted by segments.
const SEGMENT_BYTES: u64 = 16 << 20;
/// Of 100 bytes, how many are used when it is time to say so.
const NEARLY_FULL: u64 = 80;
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
    /// Its shard and offset in the log, if it was there: a later run still knows that it was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<(usize, u64)>,
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

/// What becomes of another dead letter when there is no room for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenFull {
    /// It is refused: who has it keeps it, and takes nothing more until there is room.
    #[default]
    Refuse,
    /// The oldest give way, replayed or not; their number is counted and said.
    DropOldest,
}

/// How dead letters are kept.
#[derive(Clone, Debug)]
pub struct DeadLetterConfig {
    /// Their folder, which need not exist.
    pub directory: PathBuf,
    /// Bytes of all of them, at most.
    pub bytes_max: u64,
    /// How long one is kept; zero: until it was replayed.
    pub age_max: Duration,
    /// What becomes of another one then.
    pub when_full: WhenFull,
    /// Bytes of a segment: what was replayed is deleted by segments.
    pub segment_bytes: u64,
    /// The disk that the folder is on.
    pub disk: Arc<dyn Disk>,
}

impl DeadLetterConfig {
    /// The defaults, in this folder: a gibibyte, for as long as they are not replayed.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
            bytes_max: 1 << 30,
            age_max: Duration::ZERO,
            when_full: WhenFull::Refuse,
            segment_bytes: SEGMENT_BYTES,
            disk: disk::machine(),
        }
    }
}

/// The dead letters of a process.
#[derive(Debug)]
pub struct DeadLetters {
    config: DeadLetterConfig,
    open: Mutex<Option<Store>>,
    there_at_start: u64,
    count: AtomicU64,
    dropped: AtomicU64,
    bytes: AtomicU64,
    is_nearly_full: AtomicBool,
    cannot_be_opened: AtomicBool,
    /// What earlier runs' brokers refused and nobody has replayed: the side, and the place in the log.
    refused: Vec<(String, usize, u64)>,
    lines: Mutex<Lines>,
}

/// The log that they are in.
#[derive(Debug)]
struct Store {
    log: Log,
    writer: ShardWriter,
    commits: Commits,
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
        Self::kept(DeadLetterConfig::new(directory))
    }

    /// The same, kept in this way.
    pub fn kept(config: DeadLetterConfig) -> Arc<Self> {
        let (mut there, mut refused) = (0, VecDeque::new());
        if config.disk.exists(&config.directory)
            && let Err(error) = list(&*config.disk, &config.directory, |letter| {
                there += 1;
                if let Some((shard, offset)) = letter.cause.place {
                    refused.push_back((letter.cause.side.clone(), shard, offset));
                    if refused.len() > REFUSED_MAX {
                        refused.pop_front();
                    }
                }
                true
            })
        {
            let path = config.directory.display();
            tracing::warn!(%path, %error, "the dead letters of earlier runs cannot be read, and are not counted");
        }
        Arc::new(Self {
            config,
            open: Mutex::new(None),
            there_at_start: there,
            count: AtomicU64::new(there),
            dropped: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            is_nearly_full: AtomicBool::new(false),
            cannot_be_opened: AtomicBool::new(false),
            refused: refused.into(),
            lines: Mutex::default(),
        })
    }

    /// Where they lie; the folder need not exist.
    pub fn directory(&self) -> &Path {
        &self.config.directory
    }

    /// How they are kept.
    pub fn config(&self) -> &DeadLetterConfig {
        &self.config
    }

    /// The offsets of a shard that this side refused in earlier runs.
    pub(crate) fn refused(&self, side: &str, shard: usize) -> impl Iterator<Item = u64> {
        let of =
            move |(by, of, offset): &(String, usize, u64)| (by == side && *of == shard).then_some(*offset);
        self.refused.iter().filter_map(of)
    }

    /// Of these, those that were in the folder when this process started.
    pub fn there_at_start(&self) -> u64 {
        self.there_at_start
    }

    /// How many this run has deleted before they were replayed: they were too old, or gave way to newer ones.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Bytes that they take, as of the last [`maintain`](Self::maintain).
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
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
        let Cause { side, code, reason, attempts, .. } = cause;
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
        self.append_all(1, |_| (cause, *record)).1
    }

    /// Keeps `count` messages, which `letter` gives by number, with one sync. Returns how many of them, from the first on, are
    /// kept and durable, and why the others are not.
    pub fn append_all<'a>(
        &self,
        count: usize,
        letter: impl Fn(usize) -> (&'a Cause, Record<'a>),
    ) -> (usize, Result<(), String>) {
        let mut open = self.open.lock();
        let mut kept = 0;
        while kept < count {
            match self.append_some(&mut open, kept..count, &letter) {
                Ok(more) => kept += more,
                Err(why) => return (kept, Err(why)),
            }
        }
        (kept, Ok(()))
    }

    /// Keeps as many as a batch takes, and at least one.
    fn append_some<'a>(
        &self,
        open: &mut Option<Store>,
        numbers: Range<usize>,
        letter: &impl Fn(usize) -> (&'a Cause, Record<'a>),
    ) -> Result<usize, String> {
        let store = self.opened(open)?;
        let (mut batch_bytes, mut appended, mut bytes) = (0, 0, Vec::new());
        for number in numbers.clone() {
            let (cause, record) = letter(number);
            bytes.clear();
            let head = serde_json::to_vec(cause).map_err(|error| error.to_string())?;
            bytes.extend_from_slice(&(head.len() as u32).to_le_bytes());
            bytes.extend_from_slice(&head);
            entry::encode(&record, &mut bytes);
            let stride = format::stride(bytes.len());
            if !self.make_room(store, batch_bytes + stride) {
                if appended > 0 {
                    break;
                }
                return Err(self.full_text(store));
            }
            match store.writer.append(record.key_hash, |out| out.extend_from_slice(&bytes)) {
                Ok(_) => {}
                Err(_) if appended > 0 => break,
                Err(pushback) => {
                    let path = self.config.directory.display();
                    return Err(format!("dead letters in {path} cannot be written: {pushback:?}"));
                }
            }
            batch_bytes += stride;
            appended += 1;
        }
        // A dead letter is rare enough to be written by whoever has it.
        store.writer.commit();
        let turn = store.commits.turn(false);
        if turn != Turn::Committed {
            let why = format!("{:?}", store.writer.health());
            // Whether they are there is unknown: the next one begins with what is.
            *open = None;
            return Err(why);
        }
        for number in numbers.take(appended) {
            let (cause, record) = letter(number);
            self.count.fetch_add(1, Ordering::Relaxed);
            self.say(cause, &record, "data.directory/dead-letter");
        }
        Ok(appended)
    }

    /// Whether there is room for a batch of so many bytes, by letting go of what was replayed and, where that is the policy, of
    /// the oldest.
    fn make_room(&self, store: &mut Store, bytes: usize) -> bool {
        loop {
            if store.commits.has_room(bytes) {
                return true;
            }
            let let_go = self.let_go(store, self.config.when_full == WhenFull::DropOldest);
            if !matches!(let_go, Ok(true)) {
                return false;
            }
        }
    }

    fn full_text(&self, store: &Store) -> String {
        let why = match store.writer.health() {
            // Its own limit, which the log calls by the name that this setting has there.
            Health::Full(_) if store.log.bytes() + self.config.segment_bytes > self.config.bytes_max => {
                String::new()
            }
            Health::Full(why) | Health::Failed(why) => format!(": {why}"),
            Health::Writing => String::new(),
        };
        format!(
            "the dead letters in {} are full (dead_letter.bytes_max = {}){why}; replay them with `tidegate dlq replay`, \
             raise dead_letter.bytes_max, or set dead_letter.when_full = drop_oldest",
            self.config.directory.display(),
            self.config.bytes_max
        )
    }

    /// Deletes the oldest segment if all of it was replayed, or whatever is in it when it has to give way. Says whether it did.
    fn let_go(&self, store: &Store, gives_way: bool) -> Result<bool, LogError> {
        let (disk, directory) = (&*self.config.disk, &self.config.directory);
        let Some((first, next, next_began_ms)) = store.log.oldest_segment(0) else { return Ok(false) };
        let replayed = replayed_upto(disk, directory)?;
        let alone = replayed_alone(disk, directory)?;
        let left = (first.max(replayed)..next).filter(|offset| !alone.contains(offset)).count() as u64;
        let age = Duration::from_millis(clock::wall_ms().saturating_sub(next_began_ms));
        let is_old = !self.config.age_max.is_zero() && age > self.config.age_max;
        if left > 0 && !is_old && !gives_way {
            return Ok(false);
        }
        store.log.delete_oldest_segment(0)?;
        if left > 0 {
            self.dropped.fetch_add(left, Ordering::Relaxed);
            let why = if is_old { "dead_letter.retention" } else { "dead_letter.when_full = drop_oldest" };
            tracing::warn!(
                letters = left,
                setting = why,
                "dead letters were deleted that nobody had replayed"
            );
        }
        Ok(true)
    }

    /// Deletes what was replayed or is too old, and says when the room is nearly used up. To be called about once a second.
    pub fn maintain(&self) {
        let mut open = self.open.lock();
        if open.is_none() && !self.config.disk.exists(&self.config.directory) {
            return;
        }
        // What cannot be opened is said once, and by whoever has a dead letter; looking through it every second helps nobody.
        if open.is_none() && self.cannot_be_opened.load(Ordering::Relaxed) {
            return;
        }
        let store = match self.opened(&mut open) {
            Ok(store) => store,
            Err(error) => {
                self.cannot_be_opened.store(true, Ordering::Relaxed);
                tracing::error!(error, "the dead letters cannot be opened; nothing of them is deleted");
                return;
            }
        };
        loop {
            match self.let_go(store, false) {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    tracing::warn!(%error, "old dead letters cannot be deleted");
                    break;
                }
            }
        }
        let bytes = store.log.bytes();
        self.bytes.store(bytes, Ordering::Relaxed);
        let is_nearly_full = bytes.saturating_mul(100) >= self.config.bytes_max.saturating_mul(NEARLY_FULL);
        if is_nearly_full && !self.is_nearly_full.swap(is_nearly_full, Ordering::Relaxed) {
            tracing::warn!(
                bytes,
                bytes_max = self.config.bytes_max,
                when_full = ?self.config.when_full,
                "the dead letters have nearly used up their room (dead_letter.bytes_max); `tidegate dlq replay` makes some"
            );
        }
        self.is_nearly_full.store(is_nearly_full, Ordering::Relaxed);
    }

    fn opened<'a>(&self, open: &'a mut Option<Store>) -> Result<&'a mut Store, String> {
        if open.is_none() {
            *open = Some(self.start().map_err(|error| error.to_string())?);
        }
        open.as_mut().ok_or_else(|| "not open".to_owned())
    }

    fn start(&self) -> Result<Store, LogError> {
        let DeadLetterConfig { directory, bytes_max, segment_bytes, disk, .. } = &self.config;
        let config = LogConfig {
            segment_bytes: *segment_bytes,
            bytes_max: *bytes_max,
            // What may go is decided here.
            retention_bytes: u64::MAX,
            retention_age: Duration::MAX,
            disk: Arc::clone(disk),
            ..LogConfig::new(directory, 1)
        };
        let (log, _) = Log::open(config)?;
        let (writer, commits) = log.writer_apart(0, Arc::new(|| {}))?;
        Ok(Store { log, writer, commits })
    }
}

/// Shows every dead letter that was not replayed, oldest first, until `each` says `false`; a server may be at work there
/// meanwhile. A folder that does not exist holds none. Returns the places that are damaged, and are not shown.
///
/// # Errors
/// When the folder cannot be read.
pub fn list(
    disk: &dyn Disk,
    directory: &Path,
    mut each: impl FnMut(&Letter<'_>) -> bool,
) -> Result<Vec<String>, LogError> {
    if !disk.exists(directory) {
        return Ok(Vec::new());
    }
    let replayed = replayed_upto(disk, directory)?;
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

/// The offset below which all were replayed.
fn replayed_upto(disk: &dyn Disk, directory: &Path) -> Result<u64, LogError> {
    let cursors = offline::cursors(disk, directory)?;
    let replayed = cursors.iter().find(|(name, _)| name == REPLAYED);
    Ok(replayed.and_then(|(_, positions)| positions.get(&0).copied()).unwrap_or(0))
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
            place: None,
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
        let cause =
            Cause { side: "nats".into(), code: "X".into(), reason: "x".into(), attempts: 1, place: None };
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

    /// Dead letters in segments of 4 KiB, five of them at most; and one of them, of about 1 KiB.
    fn few(
        name: &str,
        when_full: WhenFull,
    ) -> (PathBuf, Arc<DeadLetters>, impl Fn(&DeadLetters) -> Result<(), String>) {
        let folder = std::env::temp_dir().join(format!("tidegate-dead-{name}-{}", std::process::id()));
        let config = DeadLetterConfig {
            bytes_max: 5 * 4096,
            segment_bytes: 4096,
            when_full,
            ..DeadLetterConfig::new(&folder)
        };
        let cause =
            Cause { side: "nats".into(), code: "X".into(), reason: "x".into(), attempts: 1, place: None };
        let append = move |letters: &DeadLetters| {
            letters.append(&cause, &Record { payload: &[7; 1000], ..Record::default() })
        };
        (folder.clone(), DeadLetters::kept(config), append)
    }

    #[test]
    fn full_of_what_nobody_has_replayed_it_refuses_and_takes_more_when_that_is_done() {
        let (folder, letters, append) = few("full", WhenFull::Refuse);
        let kept = std::iter::repeat_with(|| append(&letters)).take_while(Result::is_ok).count() as u64;
        assert!((9..=20).contains(&kept), "{kept}");
        let why = append(&letters).unwrap_err();
        assert!(why.contains("dead_letter.bytes_max = 20480") && why.contains("when_full"), "{why}");
        assert!(!why.contains("data."), "only its own settings are named: {why}");
        letters.maintain();
        assert!(letters.bytes() > 4 * 4096 && letters.dropped() == 0);
        mark_replayed(&Machine, &folder, kept).unwrap();
        append(&letters).unwrap();
        letters.maintain();
        assert!(letters.bytes() <= 3 * 4096, "what was replayed is deleted: {}", letters.bytes());
        assert_eq!(letters.dropped(), 0);
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn where_that_is_the_policy_the_oldest_give_way_and_are_counted() {
        let (folder, letters, append) = few("drop", WhenFull::DropOldest);
        for _ in 0..100 {
            append(&letters).unwrap();
        }
        let mut listed = Vec::new();
        list(&Machine, &folder, |letter| {
            listed.push(letter.offset);
            true
        })
        .unwrap();
        assert_eq!(listed.last(), Some(&99), "the newest are there");
        assert_eq!(letters.dropped() + listed.len() as u64, 100, "the others are counted");
        letters.maintain();
        assert!(letters.bytes() <= 5 * 4096);
        fs::remove_dir_all(folder).unwrap();
    }
}
