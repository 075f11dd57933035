//! What is said at the start: where it listens, what it runs on, and lines to try it with.

use std::{
    fmt,
    io::{self, Write},
    net::SocketAddr,
    time::Duration,
};

use engine_core::AckLevel;
use transports::Role;

use crate::settings::{Delivery, Provider};

/// What there is to say.
#[derive(Debug)]
pub struct Banner<'a> {
    /// Addresses by role, as bound.
    pub listeners: &'a [(Role, SocketAddr)],
    /// `io_uring` or `epoll`.
    pub driver: &'static str,
    /// Core threads.
    pub cores: usize,
    /// Messages in flight at most.
    pub queue_size: usize,
    /// Where messages go.
    pub delivery: &'a Delivery,
    /// Whether there is a live page.
    pub has_page: bool,
    /// Since the process began.
    pub took: Duration,
}

impl Banner<'_> {
    fn port(&self, role: Role) -> Option<u16> {
        self.listeners.iter().find(|(known, _)| *known == role).map(|(_, address)| address.port())
    }

    /// One line for machines.
    pub fn log(&self) {
        let addresses: Vec<String> =
            self.listeners.iter().map(|(role, address)| format!("{}={address}", role.name())).collect();
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            driver = self.driver,
            cores = self.cores,
            queue = self.delivery.queue_type,
            queue_size = self.queue_size,
            ack = self.delivery.ack_default.name(),
            data_directory = self.delivery.data_directory.as_ref().map(|path| path.display().to_string()),
            listeners = addresses.join(" "),
            start_ms = self.took.as_secs_f64() * 1e3,
            "tidegate is ready"
        );
    }

    fn queue(&self) -> String {
        let delivery = self.delivery;
        if let Some(remote) = &delivery.remote {
            return format!("sent on to {} ({})", remote.target, remote.setting);
        }
        let place = |provider: &Provider| match provider {
            Provider::Nats => format!("nats ({})", delivery.nats.servers),
            Provider::Kafka => format!("kafka ({})", delivery.kafka.brokers),
            other => other.name().to_owned(),
        };
        let places = delivery.providers.iter().map(place).collect::<Vec<_>>().join(" and ");
        match (delivery.providers.len(), delivery.best_effort) {
            (1, _) => places,
            (_, true) => format!("{places}, best-effort"),
            (_, false) => format!("{places}, fail-fast"),
        }
    }

    /// A few lines for people.
    pub fn print(&self) {
        // Whoever started it may not be reading.
        let _ = io::stdout().write_all(self.for_people().as_bytes());
    }

    fn for_people(&self) -> String {
        let mut text = String::new();
        // Writing to a text cannot fail.
        let _ = self.write(&mut text);
        text
    }

    fn write(&self, text: &mut impl fmt::Write) -> fmt::Result {
        writeln!(
            text,
            "tidegate {} is ready after {:.0} ms",
            env!("CARGO_PKG_VERSION"),
            self.took.as_secs_f64() * 1e3
        )?;
        for (role, address) in self.listeners {
            let speaks = match role {
                Role::Gateway => "public API: HTTP/1.1, HTTP/2, gRPC",
                Role::Ingest => "ingest service",
                Role::Processor => "processor",
                Role::Analytics => "analytics",
                Role::Grpc => "gRPC",
                Role::Metrics => "Prometheus metrics",
            };
            writeln!(text, "  {:<10} {:<22} {speaks}", role.name(), address.to_string())?;
        }
        writeln!(
            text,
            "  {:<10} {} x {} threads, one front end and one worker each",
            "cores", self.cores, self.driver
        )?;
        writeln!(
            text,
            "  {:<10} {}, {} messages in flight; \"accepted\" means {}",
            "queue",
            self.queue(),
            self.queue_size,
            match self.delivery.ack_default {
                _ if self.delivery.remote.is_some() => "what it says there",
                AckLevel::Queued => "queued: it does not survive a crash",
                AckLevel::Durable =>
                    "durable: on this disk, and fdatasync returned; brokers follow from there",
                AckLevel::Delivered => "delivered: acknowledged by the broker",
            }
        )?;
        if let Some(directory) = &self.delivery.data_directory {
            writeln!(text, "  {:<10} {}", "log", directory.display())?;
        }
        writeln!(text, "\ntry:")?;
        if let Some(port) = self.port(Role::Gateway).or_else(|| self.port(Role::Ingest)) {
            writeln!(
                text,
                "  curl -X POST http://localhost:{port}/ingest -H 'Content-Type: application/json' \
                 -d '{{\"source\":\"test\",\"data\":\"Hello World\",\"metadata\":{{\"type\":\"demo\"}}}}'"
            )?;
            writeln!(text, "  curl http://localhost:{port}/status")?;
            if self.has_page {
                writeln!(text, "  http://localhost:{port}/ in a browser: the live page")?;
            }
        }
        if let Some(port) = self.port(Role::Grpc).or_else(|| self.port(Role::Gateway)) {
            writeln!(
                text,
                "  grpcurl -plaintext -d '{{\"source\":\"test\",\"data\":\"Hello gRPC\"}}' localhost:{port} IngestService/Ingest"
            )?;
        }
        writeln!(text, "stop with Ctrl-C: what was accepted is finished first.\n")
    }
}
