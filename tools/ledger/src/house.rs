//! Tidegate and what it stands in front of.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use ledger::process::{self, Process};

use crate::{Queue, Run, STREAM, downstream};

/// What a test starts, kills and starts again. All of it ends when it is dropped.
pub struct House {
    /// Tidegate, once or more often.
    pub engines: Vec<Process>,
    /// A NATS server with JetStream.
    pub nats: Option<Process>,
    /// A Kafka broker.
    pub kafka: Option<Process>,
    /// The data directory of the first engine.
    pub data: PathBuf,
    /// Where the first engine keeps its dead letters: its data directory, or the default one where it has none.
    pub letters: PathBuf,
}

impl House {
    /// Starts the brokers that the queue needs, and `engines` in front of them.
    pub fn start(run: &Run, folder: &Path, engines: usize, consume: bool) -> Result<Self> {
        let wants = |queue: Queue| run.queue == queue || run.queue == Queue::Composite;
        if run.queue != Queue::Log {
            process::install_services()?;
        }
        let nats = wants(Queue::Nats).then(|| process::nats(folder)).transpose()?;
        let kafka = wants(Queue::Kafka).then(|| process::kafka(folder)).transpose()?;
        let data = folder.join("data");
        let has_log = run.queue == Queue::Log || run.outbox;
        let letters = if has_log { data.clone() } else { folder.join("engine-0/tidegate-data") };
        let mut house = Self { engines: Vec::new(), nats, kafka, data, letters };
        if let Some(url) = house.nats_url() {
            // Tidegate's own would be full at a million messages, and a work queue drops what was acknowledged.
            downstream::create_stream(&url, STREAM, "diplom.*")?;
        }
        for number in 0..engines {
            let engine = house.engine(run, folder, number, consume)?;
            house.engines.push(engine);
        }
        Ok(house)
    }

    fn engine(&self, run: &Run, folder: &Path, number: usize, consume: bool) -> Result<Process> {
        let name = match run.queue {
            Queue::Log => "log",
            Queue::Nats => "nats",
            Queue::Kafka => "kafka",
            Queue::Composite => "composite",
        };
        let port = process::free_port()?;
        let mut environment: Vec<(String, String)> = vec![
            ("QUEUE_TYPE".into(), name.into()),
            ("PARTITION_KEY".into(), "source".into()),
            ("QUEUE_SIZE".into(), "10000".into()),
            ("COMPOSITE_STRATEGY".into(), run.strategy.clone()),
            ("API_PORT".into(), format!("127.0.0.1:{port}")),
            ("INGEST_PORT".into(), "127.0.0.1:0".into()),
            ("PROCESSOR_PORT".into(), "127.0.0.1:0".into()),
            ("TIDEGATE_LISTEN_ANALYTICS".into(), "127.0.0.1:0".into()),
            ("TIDEGATE_LISTEN_GRPC".into(), "127.0.0.1:0".into()),
            ("METRICS_ENABLED".into(), "false".into()),
            ("TIDEGATE_QUEUE_CONSUME".into(), consume.to_string()),
            ("TIDEGATE_NATS_PACK_MESSAGES".into(), run.pack.to_string()),
            // An orderly stop while a broker is away takes as long.
            ("TIDEGATE_TIMEOUTS_SHUTDOWN".into(), "5s".into()),
            ("NO_COLOR".into(), "1".into()),
        ];
        let folder = folder.join(format!("engine-{number}"));
        if run.queue == Queue::Log || run.outbox {
            let data = if number == 0 { self.data.clone() } else { folder.join("data") };
            environment.push(("TIDEGATE_DATA_DIRECTORY".into(), data.display().to_string()));
        }
        environment.extend(self.nats_url().map(|url| ("NATS_URL".into(), url)));
        environment.extend(self.kafka_brokers().map(|brokers| ("KAFKA_BROKERS".into(), brokers)));
        let program = run
            .tidegate
            .canonicalize()
            .with_context(|| format!("{}: build it first", run.tidegate.display()))?;
        let mut engine = Process::start("tidegate", &program, Vec::new(), environment, &folder, port)?;
        engine.wait()?;
        Ok(engine)
    }

    /// Where NATS is.
    pub fn nats_url(&self) -> Option<String> {
        self.nats.as_ref().map(|nats| format!("nats://127.0.0.1:{}", nats.port))
    }

    /// Where Kafka is.
    pub fn kafka_brokers(&self) -> Option<String> {
        self.kafka.as_ref().map(|kafka| format!("127.0.0.1:{}", kafka.port))
    }
}
