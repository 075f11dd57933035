//! What the log does when its disk fails at a step of which it could go on as if nothing had been.
#![allow(clippy::unwrap_used, reason = "a test may panic, in its common part too")]

use std::sync::Arc;

use brokers::log::{Log, LogConfig, Turn};
use simulator::{disk::SimDisk, process::data};

#[test]
fn a_sync_that_fails_while_nothing_is_written_ends_the_writing_too() {
    let disk = SimDisk::new(1 << 20, 1);
    let config =
        LogConfig { segment_bytes: 16 << 10, disk: Arc::new(disk.clone()), ..LogConfig::new(data(), 1) };
    let (log, _) = Log::open(config).unwrap();
    let (mut writer, mut commits) = log.writer_apart(0, Arc::new(|| {})).unwrap();
    writer.append(0, |out| out.extend_from_slice(b"one")).unwrap();
    writer.commit();
    assert_eq!(commits.turn(false), Turn::Committed);
    disk.fail_once_at(1);
    assert_eq!(commits.turn(true), Turn::Ended);
    assert!(writer.has_failed());
    assert!(writer.append(0, |out| out.extend_from_slice(b"two")).is_err());
}
