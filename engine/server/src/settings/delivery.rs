//! The settings of where messages go, as far as they must agree with each other.

use std::{path::PathBuf, sync::Arc, time::Duration};

use brokers::{
    breaker::BreakerConfig,
    dead_letter::{DeadLetterConfig, WhenFull},
    destination::{self, Choice},
    kafka::{KafkaConfig, SPEAKS_TLS},
    log::{Io, LogConfig, Repeats, Sync},
    nats::{NatsConfig, Servers},
    raw_message::MessageValue,
    remote::{RemoteConfig, Target},
    secret::Secret,
};
use engine_core::{AckLevel, PartitionKey};

use super::{
    Auth,
    values::{Problem, Values},
};
use crate::{events::EventShapes, role::Part};

/// One place that messages go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Provider {
    /// Worked on in this process at once; kept nowhere.
    Memory,
    /// The embedded log, and the workers behind it.
    Log,
    /// NATS JetStream.
    Nats,
    /// Kafka.
    Kafka,
}

impl Provider {
    const ALL: [(Provider, &str); 4] = [
        (Provider::Memory, "memory"),
        (Provider::Log, "log"),
        (Provider::Nats, "nats"),
        (Provider::Kafka, "kafka"),
    ];

    /// The name it has in settings, answers and metrics.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(provider, _)| *provider == self).map_or("", |(_, name)| name)
    }

    /// Whether it is outside of this process.
    pub fn is_broker(self) -> bool {
        matches!(self, Provider::Nats | Provider::Kafka)
    }
}

/// Where messages go.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// The word in `queue.type`.
    pub queue_type: String,
    /// The places, in the order of the settings.
    pub providers: Vec<Provider>,
    /// Whether `delivered` needs one of the places only.
    pub best_effort: bool,
    /// The folder of the log; `None` when there is none.
    pub data_directory: Option<PathBuf>,
    /// What a request without a word gets.
    pub ack_default: AckLevel,
    /// Whether that was set, rather than what the queue does by itself.
    pub ack_default_set: bool,
    /// Longest wait for a level.
    pub ack_timeout: Duration,
    /// Whether what comes back is worked on here.
    pub consume: bool,
    /// How long a repeated key is recognised.
    pub idempotency_window: Duration,
    /// How many keys are remembered.
    pub idempotency_entries: usize,
    /// Why levels cannot be reached, by level.
    pub unreachable: [Option<String>; 3],
    /// The log, when there is one.
    pub log: Option<LogConfig>,
    /// NATS, whether it is used or not.
    pub nats: NatsConfig,
    /// Kafka, whether it is used or not.
    pub kafka: KafkaConfig,
    /// How what cannot be delivered is kept; its folder is in the data directory.
    pub dead_letters: DeadLetterConfig,
    /// When a broker counts as out of reach.
    pub breaker: BreakerConfig,
    /// What is a message's key.
    pub partition: PartitionKey,
    /// The process that everything is sent on to, instead of all this.
    pub remote: Option<RemoteConfig>,
}

/// What a record of the log takes beside a message's body, at most.
const MESSAGE_OVERHEAD_BYTES: u64 = 128 << 10;

/// The folder of the log when it has to have one and none is named.
pub const DEFAULT_DIRECTORY: &str = "tidegate-data";

impl Delivery {
    pub(super) fn read(values: &Values, part: Part, auth: &Auth) -> Result<Self, Problem> {
        let remote = remote(values, part, auth)?;
        if remote.is_some() {
            return Self::of_a_forwarder(values, remote);
        }
        let queue_type = values.text("queue.type");
        let providers = match Provider::ALL.iter().find(|(_, name)| *name == queue_type) {
            Some((provider, _)) => vec![*provider],
            None => composite(values)?,
        };
        if providers.contains(&Provider::Kafka) {
            can_speak(values)?;
        }
        for (provider, path) in [(Provider::Nats, "nats.url"), (Provider::Kafka, "kafka.brokers")] {
            if let Some(variable) = values.left_empty(path).filter(|_| providers.contains(&provider)) {
                let text =
                    format!("{variable} is set and empty; name a server there, or unset it for the default");
                return Err(values.problem(path, &text));
            }
        }
        let best_effort = values.text("composite.strategy") == "best-effort";
        let directory = values.text("data.directory");
        let data_directory = match directory.as_str() {
            "" if providers.contains(&Provider::Log) => Some(PathBuf::from(DEFAULT_DIRECTORY)),
            "" => None,
            directory => Some(PathBuf::from(directory)),
        };
        // A folder that a queue in memory would not use is a misunderstanding about what is safe.
        if data_directory.is_some() && providers == [Provider::Memory] {
            return Err(values.problem(
                "data.directory",
                "queue.type = memory keeps nothing; set QUEUE_TYPE=log, or unset data.directory",
            ));
        }
        let brokers_only = providers.iter().all(|provider| provider.is_broker());
        let leaves_work = part.only_takes_in() && brokers_only && values.is_default("queue.consume");
        let mut delivery = Self {
            queue_type,
            providers,
            best_effort,
            data_directory,
            ack_default: AckLevel::Queued,
            ack_default_set: values.text("ack.default") != "auto",
            ack_timeout: values.time("ack.timeout"),
            consume: values.truth("queue.consume") && !leaves_work,
            idempotency_window: values.time("idempotency.window"),
            idempotency_entries: values.number("idempotency.entries"),
            unreachable: [None, None, None],
            log: None,
            nats: nats(values)?,
            kafka: kafka(values)?,
            dead_letters: dead_letters(values),
            breaker: breaker(values),
            partition: PartitionKey::from_setting(&values.text("engine.partition_key")),
            remote: None,
        };
        delivery.log = delivery.log_config(values)?;
        let acks = values.text("kafka.acks");
        let unreachable = delivery.unreachable(&acks);
        delivery.ack_default = match AckLevel::from_name(values.text("ack.default").as_bytes()) {
            Some(level) => {
                if let Some(why) = &unreachable[level as usize] {
                    return Err(values.problem("ack.default", why));
                }
                level
            }
            None => delivery.automatic_level(&unreachable),
        };
        delivery.unreachable = unreachable;
        Ok(delivery)
    }

    /// A process that keeps and works on nothing. The queue's settings are the other process's affair: the older
    /// systems give all of theirs the same ones.
    fn of_a_forwarder(values: &Values, remote: Option<RemoteConfig>) -> Result<Self, Problem> {
        if let Some(remote) = &remote
            && !values.text("data.directory").is_empty()
        {
            return Err(values.problem(
                "data.directory",
                &format!(
                    "nothing is kept here: {} sends every message on to {}, which answers for it; unset one of the two",
                    remote.setting, remote.target
                ),
            ));
        }
        Ok(Self {
            queue_type: "remote".to_owned(),
            providers: Vec::new(),
            best_effort: false,
            data_directory: None,
            // Else it is the other process's, whose answer says which.
            ack_default: AckLevel::from_name(values.text("ack.default").as_bytes()).unwrap_or_default(),
            ack_default_set: values.text("ack.default") != "auto",
            ack_timeout: values.time("ack.timeout"),
            consume: false,
            idempotency_window: values.time("idempotency.window"),
            idempotency_entries: values.number("idempotency.entries"),
            unreachable: [None, None, None],
            log: None,
            nats: nats(values)?,
            kafka: kafka(values)?,
            dead_letters: dead_letters(values),
            breaker: breaker(values),
            partition: PartitionKey::from_setting(&values.text("engine.partition_key")),
            remote,
        })
    }

    fn log_config(&self, values: &Values) -> Result<Option<LogConfig>, Problem> {
        let Some(directory) = &self.data_directory else { return Ok(None) };
        let config = LogConfig {
            directory: directory.clone(),
            // The binary knows how many cores there are.
            shards: 0,
            segment_bytes: values.number("data.segment_bytes") as u64,
            bytes_max: values.number("data.bytes_max") as u64,
            retention_bytes: values.number("data.retention_bytes") as u64,
            retention_age: values.time("data.retention"),
            io: match values.text("data.io").as_str() {
                "io_uring" => Io::IoUring,
                "blocking" => Io::Blocking,
                _ => Io::Auto,
            },
            sync: Sync::Fdatasync,
            repeats: Some(Repeats { entries: self.idempotency_entries, age: self.idempotency_window }),
            disk: brokers::disk::machine(),
        };
        let largest = values
            .number("limits.http_body_bytes_max")
            .max(values.number("limits.grpc_message_bytes_max")) as u64;
        if config.segment_bytes < largest + MESSAGE_OVERHEAD_BYTES {
            return Err(values.problem(
                "data.segment_bytes",
                &format!(
                    "a segment of {} bytes cannot hold the largest message (limits.http_body_bytes_max, limits.grpc_message_bytes_max: {largest} bytes); give at least {}",
                    config.segment_bytes,
                    largest + MESSAGE_OVERHEAD_BYTES
                ),
            ));
        }
        if config.bytes_max < 4 * config.segment_bytes {
            return Err(values.problem(
                "data.bytes_max",
                "is less than four segments (data.segment_bytes): the one in use and the next one of each core need room",
            ));
        }
        Ok(Some(config))
    }

    /// The level that this queue keeps through an outage: `durable` wherever there is a log, also in front of a broker,
    /// which may then be away without anybody being refused; `delivered` where the broker is all there is.
    fn automatic_level(&self, unreachable: &[Option<String>; 3]) -> AckLevel {
        let wanted = match self.queue_type.as_str() {
            "memory" => AckLevel::Queued,
            _ if self.has_log() => AckLevel::Durable,
            _ => AckLevel::Delivered,
        };
        if unreachable[wanted as usize].is_none() { wanted } else { AckLevel::Queued }
    }

    /// Why a level can never be reached, by level.
    pub fn unreachable(&self, kafka_acks: &str) -> [Option<String>; 3] {
        let queue_type = &self.queue_type;
        let durable = self.data_directory.is_none().then(|| {
            format!("the level `durable` cannot be reached with queue.type = {queue_type} and no data.directory; set data.directory (or QUEUE_TYPE=log)")
        });
        let brokers = self.providers.iter().any(|provider| provider.is_broker());
        let weak_kafka = self.providers.contains(&Provider::Kafka) && kafka_acks != "all";
        let log_is_a_side = self.queue_type == "composite" && self.providers.contains(&Provider::Log);
        let delivered = if !(brokers || log_is_a_side) {
            let mend = match queue_type.as_str() {
                "composite" => "put nats, kafka or log among composite.providers",
                _ => "set QUEUE_TYPE to nats, kafka or composite",
            };
            Some(format!(
                "the level `delivered` cannot be reached with queue.type = {queue_type}: there is no broker; {mend}"
            ))
        } else if weak_kafka {
            Some(format!(
                "the level `delivered` cannot be promised with kafka.acks = {kafka_acks}; set KAFKA_REQUIRED_ACKS=all"
            ))
        } else {
            None
        };
        [None, durable, delivered]
    }

    /// Whether anything is kept in the log.
    pub fn has_log(&self) -> bool {
        self.data_directory.is_some()
    }
}

/// The process that this part sends messages on to.
fn remote(values: &Values, part: Part, auth: &Auth) -> Result<Option<RemoteConfig>, Problem> {
    let set = part.sends_on_to().iter().find(|path| !values.text(path).is_empty());
    let Some(setting) = set else { return Ok(None) };
    Ok(Some(RemoteConfig {
        target: Target::parse(&values.text(setting)).map_err(|wrong| values.problem(setting, &wrong))?,
        setting,
        key: auth.key_for_remote(values)?,
        connections_max: values.number("remote.connections_max"),
        connect_timeout: values.time("remote.connect_timeout"),
        answer_timeout: values.time("remote.answer_timeout"),
        idle: values.time("remote.idle"),
        breaker: breaker(values),
    }))
}

fn dead_letters(values: &Values) -> DeadLetterConfig {
    DeadLetterConfig {
        bytes_max: values.number("dead_letter.bytes_max") as u64,
        age_max: values.time("dead_letter.retention"),
        when_full: match values.text("dead_letter.when_full").as_str() {
            "drop_oldest" => WhenFull::DropOldest,
            _ => WhenFull::Refuse,
        },
        // The folder is the data directory's, whatever that is.
        ..DeadLetterConfig::new(PathBuf::new())
    }
}

fn breaker(values: &Values) -> BreakerConfig {
    BreakerConfig {
        failures: u32::try_from(values.number("breaker.failures")).unwrap_or(u32::MAX),
        stall: values.time("breaker.stall"),
        pause: values.time("breaker.pause"),
    }
}

fn nats(values: &Values) -> Result<NatsConfig, Problem> {
    let servers = Servers::parse(&values.text("nats.url"));
    let subject = destination::SUBJECTS.check(&values.text("nats.subject"));
    subject.map_err(|wrong| values.problem("nats.subject", &wrong))?;
    if values.text("nats.value") == "raw" && values.number("nats.pack_messages") > 1 {
        let text = "nats.value = raw has no packs: a payload may hold any byte; set it to 1";
        return Err(values.problem("nats.pack_messages", text));
    }
    Ok(NatsConfig {
        servers: servers.map_err(|wrong| values.problem("nats.url", &wrong))?,
        stream: values.text("nats.stream"),
        subject: values.text("nats.subject"),
        subject_choice: choice(
            values,
            destination::SUBJECTS,
            "nats.subject_template",
            "nats.subjects_allowed",
        )?,
        value: message_value(values, "nats.value"),
        consumer: values.text("nats.consumer"),
        in_flight_max: values.number("nats.in_flight_max"),
        pack_messages: values.number("nats.pack_messages"),
        ack_timeout: values.time("nats.ack_timeout"),
    })
}

/// The topics, and so the shapes, of everything that goes to Kafka.
pub(super) fn kafka_topics(values: &Values) -> EventShapes {
    EventShapes {
        messages: values.text("kafka.topic"),
        analytics: values.text("kafka.topic_analytics"),
        producer: values.text("kafka.topic_producer"),
    }
}

/// Where messages go by what they hold, if anywhere but where all go.
fn choice(
    values: &Values,
    kind: destination::Kind,
    template: &'static str,
    allowed: &str,
) -> Result<Option<Choice>, Problem> {
    let (pattern, names) = (values.text(template), values.text(allowed));
    if pattern.is_empty() && names.is_empty() {
        return Ok(None);
    }
    let choice = Choice::parse(kind, &pattern, &names);
    choice.map(Some).map_err(|wrong| values.problem(template, &wrong))
}

fn message_value(values: &Values, path: &str) -> MessageValue {
    match values.text(path).as_str() {
        "raw" => MessageValue::Raw,
        _ => MessageValue::DataMessage,
    }
}

fn kafka(values: &Values) -> Result<KafkaConfig, Problem> {
    let text = |name: &str| values.text(&format!("kafka.{name}"));
    for path in ["kafka.topic", "kafka.topic_analytics", "kafka.topic_producer"] {
        let topic = destination::TOPICS.check(&values.text(path));
        topic.map_err(|wrong| values.problem(path, &wrong))?;
    }
    Ok(KafkaConfig {
        topic_choice: choice(values, destination::TOPICS, "kafka.topic_template", "kafka.topics_allowed")?,
        brokers: text("brokers"),
        topic: text("topic"),
        value: message_value(values, "kafka.value"),
        shapes: Some(Arc::new(kafka_topics(values))),
        consumer_group: text("consumer_group"),
        client_id: text("client_id"),
        acks: text("acks"),
        compression: text("compression"),
        linger: values.time("kafka.linger"),
        batch_messages: values.number("kafka.batch_messages"),
        retry_backoff: values.time("kafka.retry_backoff"),
        in_flight_max: values.number("kafka.in_flight_max"),
        partition: PartitionKey::from_setting(&values.text("engine.partition_key")),
        security_protocol: text("security_protocol"),
        sasl_mechanism: text("sasl_mechanism"),
        sasl_username: Secret::new(&text("sasl_username")),
        sasl_password: Secret::new(&text("sasl_password")),
        ssl_ca_location: text("ssl_ca_location"),
    })
}

/// Whether this binary can speak with Kafka as it is asked to, and knows enough for it.
fn can_speak(values: &Values) -> Result<(), Problem> {
    let path = "kafka.security_protocol";
    let protocol = values.text(path);
    if protocol != "plaintext" && !SPEAKS_TLS {
        let text = format!(
            "{protocol} is more than this binary can do, which was built without TLS and SASL towards Kafka; build it with `cargo build --release --features kafka-tls`, or `make release`"
        );
        return Err(values.problem(path, &text));
    }
    if !protocol.starts_with("sasl") {
        return Ok(());
    }
    let mechanism = values.text("kafka.sasl_mechanism");
    if !["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"].contains(&mechanism.as_str()) {
        return Err(values.problem("kafka.sasl_mechanism", "give PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512"));
    }
    for path in ["kafka.sasl_username", "kafka.sasl_password"] {
        if values.text(path).is_empty() {
            return Err(values.problem(path, &format!("kafka.security_protocol = {protocol} needs one")));
        }
    }
    Ok(())
}

/// The providers of a composite.
fn composite(values: &Values) -> Result<Vec<Provider>, Problem> {
    let path = "composite.providers";
    let mut providers = Vec::new();
    for name in values.text(path).split(',').map(str::trim).filter(|name| !name.is_empty()) {
        let Some((provider, _)) = Provider::ALL.iter().find(|(_, known)| *known == name) else {
            return Err(values.problem(
                path,
                &format!("there is no provider `{name}`; give any of memory, log, nats, kafka"),
            ));
        };
        if providers.contains(provider) {
            return Err(values.problem(path, &format!("`{name}` is named twice")));
        }
        providers.push(*provider);
    }
    if providers.is_empty() {
        return Err(values.problem(path, "names no provider; give any of memory, log, nats, kafka"));
    }
    Ok(providers)
}
