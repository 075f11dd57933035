//! Every setting there is: its path, kind, default, variables and what it means. The commented `tidegate.toml`,
//! `config explain`, the environment and the checks are all read off this one table.

/// What a value of a setting may be.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// A list of addresses: `":8080"`, `"127.0.0.1:8080"`, `"[::1]:8080"`, `"8080"`.
    Addresses,
    /// A whole number within bounds.
    Integer {
        /// Smallest value.
        min: u64,
        /// Largest value.
        max: u64,
    },
    /// `true` or `false`.
    Boolean,
    /// One of a few words; the second of a pair is what it is stored as (older spellings map to ours).
    Choice(&'static [(&'static str, &'static str)]),
    /// Any text.
    Text,
    /// Go notation (`15s`, `1m30s`, `100ms`) or a bare number of seconds, within bounds in milliseconds.
    Duration {
        /// Shortest, in milliseconds.
        min_ms: u64,
        /// Longest, in milliseconds.
        max_ms: u64,
    },
}

/// One setting.
#[derive(Debug)]
pub struct Key {
    /// Where it stands in the file: `table.name`.
    pub path: &'static str,
    /// What it may be.
    pub kind: Kind,
    /// The default, written as in the file.
    pub default: &'static str,
    /// The variables of the older systems that name it. `TIDEGATE_<TABLE>_<NAME>` always does, too.
    pub variables: &'static [&'static str],
    /// What it does, with its unit, and what happens at the bound.
    pub text: &'static str,
}

impl Key {
    /// `queue.size` → `TIDEGATE_QUEUE_SIZE`.
    pub fn own_variable(&self) -> String {
        format!("TIDEGATE_{}", self.path.replace('.', "_").to_ascii_uppercase())
    }

    /// The table of the path.
    pub fn table(&self) -> &'static str {
        self.path.split_once('.').map_or("", |(table, _)| table)
    }

    /// The name within the table.
    pub fn name(&self) -> &'static str {
        self.path.split_once('.').map_or(self.path, |(_, name)| name)
    }
}

const fn key(
    path: &'static str,
    kind: Kind,
    default: &'static str,
    variables: &'static [&'static str],
    text: &'static str,
) -> Key {
    Key { path, kind, default, variables, text }
}

const COUNT: Kind = Kind::Integer { min: 1, max: 1 << 32 };
const BYTES: Kind = Kind::Integer { min: 1024, max: 1 << 40 };
const TIMEOUT: Kind = Kind::Duration { min_ms: 1_000, max_ms: 600_000 };

/// The table, in the order of the file.
pub const KEYS: &[Key] = &[
    key(
        "listen.gateway",
        Kind::Addresses,
        r#"[":8080"]"#,
        &["API_PORT", "SERVER_ADDRESS", "SERVER_HOST+SERVER_PORT"],
        "The public API. Every port speaks HTTP/1.1, HTTP/2 (prior knowledge) and gRPC; several addresses are all bound.",
    ),
    key(
        "listen.ingest",
        Kind::Addresses,
        r#"[":8081"]"#,
        &["INGEST_PORT", "HTTP_PORT"],
        "The ingest service.",
    ),
    key(
        "listen.processor",
        Kind::Addresses,
        r#"[":8082"]"#,
        &["PROCESSOR_PORT"],
        "The processor: /enqueue, and the queue's and workers' own /stats.",
    ),
    key(
        "listen.grpc",
        Kind::Addresses,
        r#"[":50051", ":50052"]"#,
        &["GRPC_PORT"],
        "gRPC; every service on every address.",
    ),
    key(
        "listen.metrics",
        Kind::Addresses,
        r#"[":9090"]"#,
        &["METRICS_PORT"],
        "A port for Prometheus alone (/metrics is on every other port, too). Taken? A warning, never an end.",
    ),
    key(
        "metrics.enabled",
        Kind::Boolean,
        "true",
        &["METRICS_ENABLED", "PROMETHEUS_ENABLED"],
        "Whether the metrics port is opened.",
    ),
    key(
        "metrics.path",
        Kind::Text,
        r#""/metrics""#,
        &["METRICS_PATH", "PROMETHEUS_PATH"],
        "A further path under which metrics are served; /metrics always answers.",
    ),
    key(
        "engine.cores",
        Kind::Integer { min: 0, max: 1024 },
        "0",
        &["PROCESSOR_WORKERS"],
        "Core threads, each with a front end and a worker of its own; 0 takes every core, more than the machine has is cut to that.",
    ),
    key(
        "engine.driver",
        Kind::Choice(&[("auto", "auto"), ("io_uring", "io_uring"), ("epoll", "epoll")]),
        r#""auto""#,
        &[],
        "How the core loops wait: io_uring, epoll, or auto (io_uring where the kernel allows it, else epoll; the log says which).",
    ),
    key("engine.pin", Kind::Boolean, "true", &[], "Pin each core thread to its core."),
    key(
        "engine.partition_key",
        Kind::Text,
        r#""""#,
        &["PARTITION_KEY"],
        "What keeps messages together: empty (they stay on the core they arrive at), `source`, or the name of a metadata key. One key is always worked on by one core, in order.",
    ),
    key(
        "queue.type",
        Kind::Choice(&[
            ("memory", "memory"),
            ("log", "log"),
            ("nats", "nats"),
            ("kafka", "kafka"),
            ("composite", "composite"),
        ]),
        r#""memory""#,
        &["QUEUE_TYPE"],
        "Where accepted messages go. This build has `memory`; the others are refused at the start rather than imitated.",
    ),
    key(
        "queue.size",
        Kind::Integer { min: 1, max: 16_777_216 },
        "1000",
        &["QUEUE_SIZE"],
        "Messages accepted and not yet processed, over all cores. Full: HTTP 503 with Retry-After, gRPC RESOURCE_EXHAUSTED, a stream's window is withheld.",
    ),
    key(
        "queue.bytes_max",
        BYTES,
        "268435456",
        &[],
        "Bytes of messages that may be in the queue, over all cores; each core takes at least one message of the largest size. Full: as queue.size.",
    ),
    key(
        "limits.http_body_bytes_max",
        BYTES,
        "10485760",
        &[],
        "Largest HTTP body. Larger: 413 (HTTP/1.1: before it is read; HTTP/2: up to 16 MiB are dropped first).",
    ),
    key(
        "limits.grpc_message_bytes_max",
        BYTES,
        "10485760",
        &[],
        "Largest gRPC message, after decompression. Larger: RESOURCE_EXHAUSTED from its length prefix alone.",
    ),
    key(
        "limits.header_list_bytes_max",
        Kind::Integer { min: 1024, max: 1_048_576 },
        "16384",
        &["SERVER_MAX_HEADER_BYTES"],
        "Largest header list (names + values + 32 each). Larger: 431.",
    ),
    key(
        "limits.header_fields_max",
        Kind::Integer { min: 8, max: 10_000 },
        "100",
        &[],
        "Most header fields of a request. More: 431.",
    ),
    key(
        "limits.concurrent_streams_max",
        Kind::Integer { min: 1, max: 1000 },
        "128",
        &[],
        "HTTP/2 streams open at once on one connection. More: REFUSED_STREAM.",
    ),
    key(
        "limits.frame_bytes_max",
        Kind::Integer { min: 16_384, max: 1_048_576 },
        "16384",
        &[],
        "Largest HTTP/2 frame we let a client send.",
    ),
    key(
        "limits.connections_max",
        Kind::Integer { min: 0, max: 10_000_000 },
        "0",
        &[],
        "Connections in all; 0 derives it from the limit on open files, less a reserve. More: closed at once, counted.",
    ),
    key(
        "limits.connections_per_address_max",
        COUNT,
        "256",
        &[],
        "Connections of one client address; loopback is exempt (sidecars and load tests come from there). More: closed at once, counted.",
    ),
    key(
        "timeouts.preface",
        TIMEOUT,
        "\"5s\"",
        &[],
        "From the connection to the first bytes that tell the protocol, and to the client's SETTINGS.",
    ),
    key("timeouts.header", TIMEOUT, "\"10s\"", &[], "For a whole request head."),
    key(
        "timeouts.body_idle",
        TIMEOUT,
        "\"30s\"",
        &["SERVER_READ_TIMEOUT"],
        "Between two pieces of a body; a body slower than 1 KiB/s over this time is cut, too.",
    ),
    key(
        "timeouts.write",
        TIMEOUT,
        "\"30s\"",
        &["SERVER_WRITE_TIMEOUT"],
        "A client that takes nothing of its answer for this long is cut.",
    ),
    key(
        "timeouts.idle",
        TIMEOUT,
        "\"120s\"",
        &["SERVER_IDLE_TIMEOUT"],
        "A connection with nothing to do for this long is closed.",
    ),
    key(
        "timeouts.shutdown",
        TIMEOUT,
        "\"30s\"",
        &["SERVER_SHUTDOWN_TIMEOUT"],
        "After SIGTERM, how long open requests may take to end before their connections are cut.",
    ),
    key(
        "log.level",
        Kind::Choice(&[
            ("error", "error"),
            ("warn", "warn"),
            ("info", "info"),
            ("debug", "debug"),
            ("trace", "trace"),
        ]),
        r#""info""#,
        &["LOG_LEVEL"],
        "How much is logged.",
    ),
    key(
        "log.format",
        Kind::Choice(&[("human", "human"), ("text", "human"), ("json", "json")]),
        r#""human""#,
        &["LOG_FORMAT"],
        "Lines for people, or one JSON object a line.",
    ),
];

/// The setting at `path`.
pub fn find(path: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.path == path)
}

/// The path that `wrong` was most likely meant to be.
pub fn nearest(wrong: &str) -> &'static str {
    KEYS.iter()
        .max_by(|a, b| strsim::jaro_winkler(wrong, a.path).total_cmp(&strsim::jaro_winkler(wrong, b.path)))
        .map_or("", |key| key.path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_key_finds_its_neighbour() {
        assert_eq!(nearest("queue.sise"), "queue.size");
        assert_eq!(nearest("queue_size"), "queue.size");
        assert_eq!(nearest("log.levle"), "log.level");
    }
}
