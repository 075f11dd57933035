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
    /// A text for nobody's eyes: it is never shown, neither in answers nor in errors.
    Secret,
    /// NATS servers; what they are shown as user and password is a secret.
    NatsServers,
    /// Kafka's bootstrap brokers; a user has no place in them.
    KafkaBrokers,
    /// A URL of another process; a user has no place in it.
    Url,
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

    /// Every variable that names it, its own last.
    pub fn all_variables(&self) -> Vec<String> {
        let others = self.variables.iter().map(|name| (*name).to_owned());
        others.chain([self.own_variable()]).collect()
    }

    /// Whether its value may hold a secret, so that no error quotes it.
    pub fn may_be_secret(&self) -> bool {
        matches!(self.kind, Kind::Secret | Kind::NatsServers | Kind::KafkaBrokers | Kind::Url)
    }

    /// Whether of several variables that differ the first named wins; otherwise that is an error.
    pub fn first_variable_wins(&self) -> bool {
        self.path == "kafka.brokers" || self.path.starts_with("kafka.topic")
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
        &["PROCESSOR_PORT", "HTTP_PORT"],
        "The processor: /enqueue, and the queue's and workers' own /stats.",
    ),
    key(
        "listen.analytics",
        Kind::Addresses,
        r#"[":8083"]"#,
        &["HTTP_PORT"],
        "The older analytics service: /analytics/summary.",
    ),
    key(
        "listen.grpc",
        Kind::Addresses,
        r#"[":50051", ":50052", ":50053"]"#,
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
        "listen.port_offset",
        Kind::Integer { min: 0, max: 60_000 },
        "0",
        &[],
        "Added to the number of every port above, so that a further process on this machine has ports of its own.",
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
        "A further path under which metrics are served, such as /numbers; /metrics always answers.",
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
        "Where accepted messages go: `memory` (worked on in this process, gone with it), `log` (the embedded durable log, then the workers), `nats` (JetStream), `kafka`, or `composite` (several at once, see [composite]). With nats, kafka and composite the workers work on what comes back from the broker.",
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
        "queue.consume",
        Kind::Boolean,
        "true",
        &[],
        "Whether this process works on what the log or the brokers hold. `false`: it only takes messages in; so do, if this is not set and only brokers are behind them, the roles api-gateway, grpc-gateway, ingest, grpc-server, producer, producer-service and highload-microservice.",
    ),
    key(
        "ack.default",
        Kind::Choice(&[
            ("auto", "auto"),
            ("queued", "queued"),
            ("durable", "durable"),
            ("delivered", "delivered"),
        ]),
        r#""auto""#,
        &[],
        "What `accepted` means for a request without a Tidegate-Ack header. auto: queued for memory; durable wherever there is a data.directory, also in front of nats, kafka and composite, so that an outage refuses nothing; delivered for these without one.",
    ),
    key(
        "ack.timeout",
        TIMEOUT,
        "\"10s\"",
        &[],
        "How long a request waits for its level. Then: 504 (DEADLINE_EXCEEDED), unknown; the same Idempotency-Key asks again.",
    ),
    key(
        "idempotency.window",
        Kind::Duration { min_ms: 1_000, max_ms: 7 * 86_400_000 },
        "\"10m\"",
        &[],
        "How long a repeated Idempotency-Key is recognised.",
    ),
    key(
        "idempotency.entries",
        Kind::Integer { min: 16, max: 1 << 28 },
        "100000",
        &[],
        "How many keys are remembered, over all cores (about 100 bytes each, twice that where the partition key belongs to another core than the key; with a log 56 bytes on the disk). More: the oldest is forgotten first.",
    ),
    key(
        "data.directory",
        Kind::Text,
        r#""""#,
        &[],
        "Where the durable log lives. Empty: none, except that queue.type = log takes ./tidegate-data. Set with nats, kafka or composite it is an outbox: messages are durable here first, and follow to the brokers when these can be reached.",
    ),
    key(
        "data.segment_bytes",
        Kind::Integer { min: 1 << 16, max: 1 << 34 },
        "67108864",
        &[],
        "Length of a log segment; two a core are preallocated.",
    ),
    key(
        "data.bytes_max",
        Kind::Integer { min: 1 << 22, max: 1 << 50 },
        "10737418240",
        &[],
        "Bytes of the log, over all cores. Full of what the slowest consumer still needs: 503 before accepting, nothing is dropped.",
    ),
    key(
        "data.retention_bytes",
        Kind::Integer { min: 0, max: 1 << 50 },
        "1073741824",
        &[],
        "Bytes of segments that every consumer has passed which are kept all the same, for tidegate replay.",
    ),
    key(
        "data.retention",
        Kind::Duration { min_ms: 0, max_ms: 3650 * 86_400_000 },
        "\"24h\"",
        &[],
        "How long such segments are kept at most.",
    ),
    key(
        "data.io",
        Kind::Choice(&[("auto", "auto"), ("io_uring", "io_uring"), ("blocking", "blocking")]),
        r#""auto""#,
        &[],
        "How the log writes: io_uring, pwrite and fdatasync (blocking), or auto (io_uring where the kernel allows it).",
    ),
    key(
        "dead_letter.bytes_max",
        Kind::Integer { min: 64 << 20, max: 1 << 50 },
        "1073741824",
        &[],
        "Bytes of the messages that could not be delivered. What was replayed is deleted, by 16 MiB.",
    ),
    key(
        "dead_letter.retention",
        Kind::Duration { min_ms: 0, max_ms: 3650 * 86_400_000 },
        r#""0s""#,
        &[],
        "How long such a message is kept, replayed or not; 0s: until it was replayed.",
    ),
    key(
        "dead_letter.when_full",
        Kind::Choice(&[("refuse", "refuse"), ("drop_oldest", "drop_oldest")]),
        r#""refuse""#,
        &[],
        "Full: refuse (the broker's other messages wait until there is room) or drop_oldest (the oldest are deleted, counted and named in number).",
    ),
    key(
        "remote.ingest_url",
        Kind::Url,
        r#""""#,
        &["INGEST_URL"],
        "Another Tidegate (http://host:port) that the roles api-gateway, grpc-gateway, producer-service and highload-microservice send every message on to, over HTTP/2. Its answer is theirs. Empty: remote.processor_url, else they work on messages themselves.",
    ),
    key(
        "remote.processor_url",
        Kind::Url,
        r#""""#,
        &["PROCESSOR_URL"],
        "The same for the roles ingest, producer and grpc-server, and for the ones above when remote.ingest_url is empty. The role all has its processor in itself and asks nobody.",
    ),
    key(
        "remote.api_key",
        Kind::Secret,
        r#""""#,
        &[],
        "What is shown to the other process as x-api-key, with every message. Empty: the first of this process's own keys or tokens, if it has any.",
    ),
    key(
        "remote.connections_max",
        Kind::Integer { min: 1, max: 10_000 },
        "200",
        &[],
        "Connections to the other process, opened when all that are open are busy with 128 messages each. All busy: messages wait in the queue.",
    ),
    key(
        "remote.connect_timeout",
        TIMEOUT,
        "\"2s\"",
        &[],
        "How long opening a connection to the other process may take, up to its first word. Then: 503, not accepted.",
    ),
    key(
        "remote.answer_timeout",
        TIMEOUT,
        "\"5s\"",
        &[],
        "How long the other process may take to answer a message. Then: 504, unknown; the same Idempotency-Key asks again.",
    ),
    key(
        "remote.idle",
        TIMEOUT,
        "\"90s\"",
        &[],
        "How long a connection to the other process stays open without a message.",
    ),
    key(
        "nats.url",
        Kind::NatsServers,
        r#""nats://localhost:4222""#,
        &["NATS_URL"],
        "NATS servers, separated by commas; user and password as nats://user:password@host:port.",
    ),
    key(
        "nats.stream",
        Kind::Text,
        r#""DIPLOM_STREAM""#,
        &[],
        "The JetStream stream; created if absent, never altered.",
    ),
    key(
        "nats.subject",
        Kind::Text,
        r#""diplom.messages""#,
        &[],
        "The subject that messages are published on.",
    ),
    key(
        "nats.subject_template",
        Kind::Text,
        r#""""#,
        &[],
        "Lets a message's content choose its subject: a name with one field in braces, {source} or the name of a metadata key, such as orders.{region}. Only subjects of nats.subjects_allowed are taken; every other message goes to nats.subject. Empty: all of them do.",
    ),
    key(
        "nats.subjects_allowed",
        Kind::Text,
        r#""""#,
        &[],
        "Subjects that nats.subject_template may come to, separated by commas. The stream must cover them; one that is created here does.",
    ),
    key(
        "nats.value",
        Kind::Choice(&[("data_message", "data_message"), ("raw", "raw")]),
        r#""data_message""#,
        &[],
        "What a NATS message holds. data_message: the older systems' JSON with the payload in base64. raw: the payload as it came, all else in headers (docs/records.md). Both are read, whatever this says.",
    ),
    key(
        "nats.consumer",
        Kind::Text,
        r#""messages-consumer""#,
        &[],
        "The durable pull consumer; processes with the same one share the work.",
    ),
    key(
        "nats.in_flight_max",
        Kind::Integer { min: 1, max: 1_000_000 },
        "1024",
        &[],
        "Publishes that wait for JetStream's acknowledgement. Full: messages wait in the queue.",
    ),
    key(
        "nats.pack_messages",
        Kind::Integer { min: 1, max: 1024 },
        "1",
        &[],
        "Records that travel in one NATS message at most, when several wait; 1 is off. Packs are lines of JSON under the header Tidegate-Pack; consumers of the older systems do not know them.",
    ),
    key(
        "nats.ack_timeout",
        TIMEOUT,
        "\"5s\"",
        &[],
        "How long JetStream may take to acknowledge before everything unacknowledged is sent again, in order, under the same Nats-Msg-Id.",
    ),
    key(
        "kafka.brokers",
        Kind::KafkaBrokers,
        r#""localhost:9092""#,
        &["KAFKA_BROKERS", "KAFKA_BROKER_LIST"],
        "Bootstrap brokers, separated by commas; of two variables that differ the first named here wins.",
    ),
    key(
        "kafka.topic",
        Kind::Text,
        r#""diplom-messages""#,
        &["DIPLOM_KAFKA_TOPIC", "KAFKA_TOPIC"],
        "The topic of messages; created if absent and allowed (3 partitions), never altered. KAFKA_TOPIC names one topic for messages and all events; the other variables win.",
    ),
    key(
        "kafka.topic_template",
        Kind::Text,
        r#""""#,
        &[],
        "Lets a message's content choose its topic: a name with one field in braces, {source} or the name of a metadata key, such as orders-{region}. Only topics of kafka.topics_allowed are taken; every other message goes to kafka.topic. Empty: all of them do.",
    ),
    key(
        "kafka.topics_allowed",
        Kind::Text,
        r#""""#,
        &[],
        "Topics that kafka.topic_template may come to, separated by commas; created and read like kafka.topic.",
    ),
    key(
        "kafka.value",
        Kind::Choice(&[("data_message", "data_message"), ("raw", "raw")]),
        r#""data_message""#,
        &[],
        "What a message's record holds. data_message: the older systems' JSON with the payload in base64. raw: the payload as it came, all else in headers (docs/records.md). Both are read, whatever this says.",
    ),
    key(
        "kafka.topic_analytics",
        Kind::Text,
        r#""analytics-events""#,
        &["KAFKA_TOPIC_EVENTS", "KAFKA_TOPIC"],
        "The topic of the analytics platform's events, keyed by user; created like kafka.topic (7 days). What cannot be worked on goes to a topic of this name with -dlq.",
    ),
    key(
        "kafka.topic_producer",
        Kind::Text,
        r#""events""#,
        &["PRODUCER_KAFKA_TOPIC", "KAFKA_TOPIC"],
        "The topic of the producer service's events, keyed by event id; created like kafka.topic. What cannot be worked on goes to a topic of this name with -dlq.",
    ),
    key(
        "kafka.consumer_group",
        Kind::Text,
        r#""processor-group""#,
        &["KAFKA_CONSUMER_GROUP", "CONSUMER_GROUP_ID"],
        "The consumer group; processes in the same one share the partitions. The roles consumer (analytics-consumer-group, CONSUMER_GROUP_ID) and analytics (analytics-service-group) have groups of their own, so that each has every event; KAFKA_CONSUMER_GROUP is not theirs.",
    ),
    key(
        "kafka.client_id",
        Kind::Text,
        r#""tidegate""#,
        &["KAFKA_CLIENT_ID"],
        "How this client calls itself.",
    ),
    key(
        "kafka.acks",
        Kind::Choice(&[("all", "all"), ("-1", "all"), ("1", "1"), ("0", "0")]),
        r#""all""#,
        &["KAFKA_REQUIRED_ACKS"],
        "Acknowledgements a publish waits for. With less than all the level `delivered` cannot be promised, and is not.",
    ),
    key(
        "kafka.compression",
        Kind::Choice(&[
            ("none", "none"),
            ("gzip", "gzip"),
            ("snappy", "snappy"),
            ("lz4", "lz4"),
            ("zstd", "zstd"),
        ]),
        r#""snappy""#,
        &["KAFKA_COMPRESSION"],
        "Compression of batches.",
    ),
    key(
        "kafka.linger",
        Kind::Duration { min_ms: 0, max_ms: 10_000 },
        "\"5ms\"",
        &["KAFKA_BATCH_TIMEOUT"],
        "How long a batch waits for more messages.",
    ),
    key(
        "kafka.batch_messages",
        Kind::Integer { min: 1, max: 1_000_000 },
        "10000",
        &["KAFKA_BATCH_SIZE"],
        "Most messages of a batch.",
    ),
    key(
        "kafka.retry_backoff",
        Kind::Duration { min_ms: 1, max_ms: 30_000 },
        "\"100ms\"",
        &["KAFKA_RETRY_BACKOFF"],
        "First pause before a publish is tried again; it doubles up to a second. What may pass by itself is retried for ever.",
    ),
    key(
        "kafka.in_flight_max",
        Kind::Integer { min: 1, max: 10_000_000 },
        "100000",
        &[],
        "Publishes that wait for Kafka's acknowledgement. Full: messages wait in the queue.",
    ),
    key(
        "kafka.security_protocol",
        Kind::Choice(&[
            ("plaintext", "plaintext"),
            ("ssl", "ssl"),
            ("sasl_plaintext", "sasl_plaintext"),
            ("sasl_ssl", "sasl_ssl"),
        ]),
        r#""plaintext""#,
        &[],
        "How to speak to the brokers; all but plaintext need a build with --features kafka-tls (`tidegate config check` says which this is).",
    ),
    key("kafka.sasl_mechanism", Kind::Text, r#""""#, &[], "PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512."),
    key("kafka.sasl_username", Kind::Secret, r#""""#, &[], "User for SASL."),
    key("kafka.sasl_password", Kind::Secret, r#""""#, &[], "Password for SASL; never printed."),
    key(
        "kafka.ssl_ca_location",
        Kind::Text,
        r#""""#,
        &[],
        "File with the certificate authorities; empty: the system's.",
    ),
    key(
        "composite.providers",
        Kind::Text,
        r#""nats,kafka""#,
        &["COMPOSITE_PROVIDERS"],
        "Where messages go with queue.type = composite: any of memory, log, nats and kafka, separated by commas.",
    ),
    key(
        "composite.strategy",
        Kind::Choice(&[("fail-fast", "fail-fast"), ("best-effort", "best-effort")]),
        r#""fail-fast""#,
        &["COMPOSITE_STRATEGY"],
        "fail-fast: delivered means all have it. best-effort: delivered means at least one has it; the others follow from the outbox (data.directory), or what they missed is among the dead letters.",
    ),
    key(
        "breaker.failures",
        Kind::Integer { min: 1, max: 1_000_000 },
        "5",
        &[],
        "Failures in a row after which a broker counts as out of reach: requests that need it are refused at once.",
    ),
    key(
        "breaker.stall",
        Kind::Duration { min_ms: 100, max_ms: 600_000 },
        "\"3s\"",
        &[],
        "Time without an acknowledgement, while some are due, after which it counts as out of reach.",
    ),
    key(
        "breaker.pause",
        Kind::Duration { min_ms: 10, max_ms: 600_000 },
        "\"1s\"",
        &[],
        "Pause before it is tried again; doubles up to 30 s with full jitter.",
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
        "analytics.enabled",
        Kind::Boolean,
        "true",
        &[],
        "Whether events are added up as they come. Without it they are taken and delivered, and queries find nothing.",
    ),
    key(
        "analytics.events_max",
        Kind::Integer { min: 8192, max: 1_000_000_000 },
        "2097152",
        &[],
        "The latest events that funnels, filters and users' lists look at, over all cores; about 100 bytes each, and what each is about. Longer ones keep fewer: they take 512 bytes each on average at most. Counts see all.",
    ),
    key(
        "analytics.users_max",
        Kind::Integer { min: 1024, max: 1_000_000_000 },
        "1048576",
        &[],
        "Users with a profile, over all cores; some 400 bytes each. Further ones are counted by estimate (1.6 % standard error) and are in no funnel.",
    ),
    key(
        "analytics.snapshot_interval",
        Kind::Duration { min_ms: 0, max_ms: 86_400_000 },
        "\"60s\"",
        &[],
        "How often the aggregates are written to data.directory/snapshots, if they have changed; also at an orderly end. The last two of each core are kept. A start reads the newest and what came since from the log; with a broker, what came since is kept in data.directory/journal, of a quarter of data.bytes_max at most. 0: never, and a start computes everything anew from what the log still holds.",
    ),
    key(
        "live.viewers_max",
        Kind::Integer { min: 0, max: 10_000 },
        "64",
        &[],
        "Viewers that the live page at / may have at a time, each a stream of some kilobytes a second; more are answered 503. 0: there is no page.",
    ),
    key(
        "auth.api_keys",
        Kind::Secret,
        r#""""#,
        &["API_KEYS"],
        "API keys (x-api-key), separated by commas; auth.scope says what asks for one. With auth.tokens empty, too, everybody may ask; health never asks for one.",
    ),
    key(
        "auth.tokens",
        Kind::Secret,
        r#""""#,
        &["AUTH_TOKENS"],
        "Bearer tokens (authorization: Bearer …), separated by commas; as good as API keys.",
    ),
    key(
        "auth.scope",
        Kind::Choice(&[("events", "events"), ("all", "all")]),
        r#""events""#,
        &["AUTH_SCOPE"],
        "What asks for a key or token, if there are any: `events` (analytics.v1 and /v1/**), or `all` (every route, RPC and port but health, readiness and the files of the live page, which hold no data). `all` without a key is an error.",
    ),
    key(
        "auth.reflection",
        Kind::Choice(&[("open", "open"), ("key", "key"), ("closed", "key")]),
        r#""open""#,
        &["AUTH_REFLECTION"],
        "Whether gRPC reflection asks for a key: `open` (never, whatever auth.scope says) or `key` (also written `closed`). `key` without a key is an error.",
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

/// The settings that a word names: one by its path, or those that a variable is about.
pub fn named(word: &str) -> Vec<&'static Key> {
    let is_about = |key: &&Key| {
        key.path == word || key.all_variables().iter().any(|names| names.split('+').any(|name| name == word))
    };
    KEYS.iter().filter(is_about).collect()
}

/// The path, or in capitals the variable, that `wrong` was most likely meant to be.
pub fn nearest(wrong: &str) -> &'static str {
    let paths = KEYS.iter().map(|key| key.path);
    let variables = KEYS.iter().flat_map(|key| key.variables.iter().copied());
    paths
        .chain(variables)
        .max_by(|a, b| strsim::jaro_winkler(wrong, a).total_cmp(&strsim::jaro_winkler(wrong, b)))
        .unwrap_or_default()
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
