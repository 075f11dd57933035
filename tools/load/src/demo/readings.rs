//! This machine's own readings: the lines of a few files of /proc, read anew at every snapshot.

use std::{fs, io};

use crate::message::Message;

/// Longer lines (one of interrupt counts can be) are left out: a reading is small.
const LINE_BYTES_MAX: usize = 4096;

/// A file of readings: its path, what its messages are about, the unit of most of its numbers.
struct Origin {
    path: &'static str,
    source: &'static str,
    unit: &'static str,
}

const ORIGINS: [Origin; 10] = [
    Origin { path: "/proc/stat", source: "cpu", unit: "ticks" },
    Origin { path: "/proc/loadavg", source: "cpu", unit: "tasks" },
    Origin { path: "/proc/self/sched", source: "cpu", unit: "ms" },
    Origin { path: "/proc/meminfo", source: "memory", unit: "kB" },
    Origin { path: "/proc/vmstat", source: "memory", unit: "pages" },
    Origin { path: "/proc/self/status", source: "memory", unit: "kB" },
    Origin { path: "/proc/diskstats", source: "disk", unit: "sectors" },
    Origin { path: "/proc/self/io", source: "disk", unit: "bytes" },
    Origin { path: "/proc/net/dev", source: "net", unit: "bytes" },
    Origin { path: "/proc/net/snmp", source: "net", unit: "packets" },
];

/// Takes snapshots.
pub struct Readings {
    host: String,
}

impl Readings {
    /// For this machine.
    pub fn new() -> Self {
        let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        Self { host: host.trim().to_owned() }
    }

    /// Reads every file now; one message for each of its lines.
    ///
    /// # Errors
    /// When not one of the files can be read.
    pub fn snapshot(&self) -> io::Result<Vec<Message>> {
        let mut messages = Vec::with_capacity(512);
        let mut fault = None;
        for origin in &ORIGINS {
            // Not every kernel has every file.
            match fs::read(origin.path) {
                Ok(bytes) => self.add(origin, &String::from_utf8_lossy(&bytes), &mut messages),
                Err(error) => fault = Some(error),
            }
        }
        match fault {
            Some(error) if messages.is_empty() => Err(error),
            _ => Ok(messages),
        }
    }

    fn add(&self, origin: &Origin, text: &str, messages: &mut Vec<Message>) {
        let lines = text.lines().filter(|line| !line.trim().is_empty() && line.len() <= LINE_BYTES_MAX);
        messages.extend(lines.map(|line| Message {
            source: origin.source.to_owned(),
            data: line.to_owned(),
            metadata: vec![
                ("host".to_owned(), self.host.clone()),
                ("file".to_owned(), origin.path.to_owned()),
                ("unit".to_owned(), origin.unit.to_owned()),
            ],
        }));
    }
}

impl Default for Readings {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snapshot_has_readings_of_every_source() {
        let messages = Readings::new().snapshot().unwrap();
        for source in ["cpu", "memory", "disk", "net"] {
            assert!(messages.iter().any(|message| message.source == source), "{source}");
        }
        assert!(messages.iter().any(|message| message.data.starts_with("MemTotal:")));
    }

    #[test]
    fn one_line_is_one_message_and_blank_lines_are_none() {
        let mut messages = Vec::new();
        Readings { host: "h".to_owned() }.add(
            &ORIGINS[3],
            "MemTotal: 1 kB\n\n  \nMemFree: 2 kB\n",
            &mut messages,
        );
        assert_eq!(messages.len(), 2);
        assert_eq!(messages[1].data, "MemFree: 2 kB");
        assert_eq!(messages[1].metadata[2].1, "kB");
    }
}
