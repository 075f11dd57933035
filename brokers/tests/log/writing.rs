//! Appending, syncing, reading.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use brokers::log::{Io, Log, LogConfig, LogError, Pushback};

use crate::harness::{Folder, append, eventually, nothing, read, read_from, writer};

#[test]
fn what_is_appended_is_read_in_order_over_many_segments() {
    for io in [Io::Blocking, Io::IoUring] {
        let folder = Folder::new();
        let (log, _) = Log::open(LogConfig { io, ..folder.config() }).unwrap();
        let Ok(mut writer) = log.writer(0, nothing()) else {
            assert!(io == Io::IoUring && std::env::var("CI").is_err());
            println!("skipped, because the kernel gives no ring");
            return;
        };
        let payloads: Vec<String> = (0..3000).map(|n| format!("{n}-{}", "x".repeat(n % 300))).collect();
        for chunk in payloads.chunks(70) {
            append(&mut writer, &chunk.iter().map(String::as_str).collect::<Vec<_>>());
        }
        assert!(folder.segments().len() > 5);
        let found = read(&log);
        assert_eq!(found.len(), payloads.len());
        for (at, (offset, payload)) in found.iter().enumerate() {
            assert_eq!((*offset, payload), (at as u64, &payloads[at]));
        }
        assert_eq!(read_from(&log, 2500)[0], (2500, payloads[2500].clone()));
    }
}

#[test]
fn an_offset_is_durable_only_behind_its_commit() {
    let folder = Folder::new();
    let (log, _) = folder.open().unwrap();
    let progress = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&progress);
    let on_progress = Arc::new(move || {
        counted.fetch_add(1, Ordering::AcqRel);
    });
    let mut writer = log.writer(0, on_progress).unwrap();
    let offset = writer.append(0, |out| out.extend_from_slice(b"one")).unwrap();
    assert_eq!((offset, writer.durable_upto()), (0, 0));
    assert!(read(&log).is_empty());
    writer.commit();
    eventually("it is durable", || writer.durable_upto() == 1);
    eventually("the core is told", || progress.load(Ordering::Acquire) == 1);
    assert_eq!(read(&log), [(0, "one".to_owned())]);
}

#[test]
fn a_record_longer_than_a_chunk_is_read_whole() {
    let folder = Folder::new();
    let config = LogConfig { segment_bytes: 4 << 20, ..folder.config() };
    let (log, _) = Log::open(config).unwrap();
    let mut writer = writer(&log);
    let long = "y".repeat(1_500_000);
    append(&mut writer, &["before", &long, "behind"]);
    append(&mut writer, &[&long]);
    let found = read(&log);
    assert_eq!(
        found.iter().map(|(_, payload)| payload.len()).collect::<Vec<_>>(),
        [6, 1_500_000, 6, 1_500_000]
    );
}

#[test]
fn a_record_longer_than_a_segment_is_refused_and_the_rest_goes_on() {
    let folder = Folder::new();
    let (log, _) = folder.open().unwrap();
    let mut writer = writer(&log);
    let long = vec![0; 70 << 10];
    assert_eq!(writer.append(0, |out| out.extend_from_slice(&long)), Err(Pushback::TooLong));
    append(&mut writer, &["short"]);
    assert_eq!(read(&log), [(0, "short".to_owned())]);
}

#[test]
fn a_second_process_is_kept_out() {
    let folder = Folder::new();
    let (_log, _) = folder.open().unwrap();
    let error = folder.open().unwrap_err();
    assert!(matches!(error, LogError::Locked { .. }));
    let text = error.to_string();
    assert!(text.contains("data.directory") && text.contains(&std::process::id().to_string()), "{text}");
}

#[test]
fn a_reader_resumes_where_it_was_told_to_stop() {
    let folder = Folder::new();
    let (log, _) = folder.open().unwrap();
    let mut writer = writer(&log);
    append(&mut writer, &["a", "b", "c"]);
    let mut reader = log.reader(0, 0);
    let mut seen = Vec::new();
    let read = reader.read(1 << 20, |offset, _, _| {
        seen.push(offset);
        offset < 1
    });
    assert_eq!((read.unwrap(), reader.offset(), seen.as_slice()), (1, 1, &[0, 1][..]));
    assert_eq!(reader.read(1 << 20, |_, _, payload| payload != b"z").unwrap(), 2);
}
