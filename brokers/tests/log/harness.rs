//! A log in a folder of its own, and what the tests ask of it.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use brokers::log::{Io, Log, LogConfig, LogError, OnProgress, Recovery, ShardWriter};

/// Longest a condition may take to come true.
const PATIENCE: Duration = Duration::from_secs(30);

/// A folder that goes with the test.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("tidegate-log-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// One shard with segments of 64 KiB.
    pub(crate) fn config(&self) -> LogConfig {
        LogConfig { segment_bytes: 64 << 10, io: Io::Blocking, ..LogConfig::new(&self.0, 1) }
    }

    pub(crate) fn open(&self) -> Result<(Log, Recovery), LogError> {
        Log::open(self.config())
    }

    /// The segment files of shard 0.
    pub(crate) fn segments(&self) -> Vec<PathBuf> {
        let mut paths: Vec<PathBuf> =
            fs::read_dir(self.0.join("shard-000")).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "segment"));
        paths.sort();
        paths
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // A failing test has said enough.
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[track_caller]
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "never came true: {what}");
        thread::yield_now();
    }
}

pub(crate) fn nothing() -> OnProgress {
    Arc::new(|| {})
}

pub(crate) fn writer(log: &Log) -> ShardWriter {
    log.writer(0, nothing()).unwrap()
}

/// Appends payloads in one commit and waits until it is durable.
pub(crate) fn append(writer: &mut ShardWriter, payloads: &[&str]) {
    for payload in payloads {
        writer.append(7, |out| out.extend_from_slice(payload.as_bytes())).unwrap();
    }
    let upto = writer.next_offset();
    eventually("the commit is durable", || {
        writer.commit();
        writer.durable_upto() >= upto
    });
}

/// Everything that can be read from an offset on.
pub(crate) fn read_from(log: &Log, from: u64) -> Vec<(u64, String)> {
    let mut reader = log.reader(0, from);
    let mut found = Vec::new();
    loop {
        let read = reader.read(1 << 10, |offset, _, payload| {
            found.push((offset, String::from_utf8(payload.to_vec()).unwrap()));
            true
        });
        if read.unwrap() == 0 {
            return found;
        }
    }
}

pub(crate) fn read(log: &Log) -> Vec<(u64, String)> {
    read_from(log, log.first_offset(0))
}
