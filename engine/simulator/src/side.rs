//! What is behind a side: a broker without rules, or a model of a real one under its production publisher.

use std::sync::Arc;

use brokers::{
    Publisher, data_message,
    kafka::publish::KafkaPublisher,
    log::Log,
    nats::{Naming, publish::NatsPublisher},
    status::SideStatus,
};
use engine_core::Record;

use crate::{
    broker::PlainBroker,
    kafka::{self, Cluster},
    ledger::number_of,
    nats::{self, Server},
    plan::Kind,
};

/// The stream and the topic.
const NAME: &str = "messages";

/// A broker. It outlives the processes that publish to it.
#[derive(Debug)]
pub enum Behind {
    /// One without rules.
    Plain(PlainBroker),
    /// NATS with JetStream.
    Nats(Server),
    /// A Kafka cluster.
    Kafka(Cluster),
}

/// What a broker did in a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Did {
    /// In words.
    pub what: String,
    /// The number of the message that it refused for ever.
    pub refused: Option<u32>,
}

impl Behind {
    /// One of this kind.
    pub fn new(kind: Kind) -> Self {
        match kind {
            Kind::Plain => Self::Plain(PlainBroker::default()),
            Kind::Nats => Self::Nats(Server::default()),
            Kind::Kafka => Self::Kafka(Cluster::new(2)),
        }
    }

    /// A publisher of a process.
    ///
    /// # Errors
    /// When its client cannot be made.
    pub fn publisher(
        &self,
        log: Option<&Log>,
        status: &Arc<SideStatus>,
    ) -> Result<Box<dyn Publisher>, String> {
        let status = Arc::clone(status);
        Ok(match self {
            Self::Plain(broker) => Box::new(broker.publisher()),
            Self::Nats(server) => {
                let naming = match log {
                    Some(log) => {
                        let ends = log.shards().into_iter().map(|shard| (shard, log.durable_upto(shard)));
                        Naming::Log { log: log.id().to_owned(), shards: ends.collect() }
                    }
                    None => Naming::of_this_run(),
                };
                let config = nats::config(NAME, NAME);
                let client = server.client(&config, &status);
                Box::new(NatsPublisher::over(client, config, naming, status)?)
            }
            Self::Kafka(cluster) => {
                let config = kafka::config(NAME);
                let client = cluster.client(&config, &status);
                Box::new(KafkaPublisher::over(client, config, status)?)
            }
        })
    }

    /// Moves one thing.
    pub fn step(&self, random: &mut fastrand::Rng) -> Did {
        let mut refused = None;
        let what = match self {
            Self::Plain(broker) => {
                let mut number = 0;
                let did = broker.step(|record| {
                    number = number_of(record).unwrap_or(0);
                    number
                });
                refused = (did == "refuses").then_some(number);
                did.to_owned()
            }
            Self::Nats(server) => format!("{:?}", server.step(random)),
            Self::Kafka(cluster) => format!("{:?}", cluster.step(random)),
        };
        Did { what, refused }
    }

    /// How many messages were ever stored.
    pub fn stored(&self) -> usize {
        match self {
            Self::Plain(broker) => broker.stored(),
            Self::Nats(server) => server.ever_count(),
            Self::Kafka(cluster) => cluster.ever_count(),
        }
    }

    /// Gives those from number `from` on to `each`.
    pub fn each_stored(&self, from: usize, mut each: impl FnMut(&Record<'_>)) {
        // What is no message is seen as one without a number.
        let mut read = |value: &[u8]| {
            if data_message::read(value, |record| each(record)).is_err() {
                each(&Record { payload: value, ..Record::default() });
            }
        };
        match self {
            Self::Plain(broker) => broker.each_stored(from, each),
            Self::Nats(server) => {
                server.ever_since(from).iter().for_each(|stored| read(&stored.message.payload))
            }
            Self::Kafka(cluster) => {
                cluster.ever_since(from).iter().for_each(|stored| read(&stored.message.value))
            }
        }
    }

    /// It goes away.
    pub fn go_down(&self, random: &mut fastrand::Rng) {
        match self {
            Self::Plain(broker) => broker.go_down(),
            Self::Nats(server) => server.down(random.usize(0..4)),
            Self::Kafka(cluster) => (0..2).for_each(|node| cluster.down(node, random.usize(0..4))),
        }
    }

    /// It takes everything, or nothing, and says nothing.
    pub fn fall_silent(&self) {
        match self {
            Self::Plain(broker) => broker.fall_silent(),
            Self::Nats(server) => server.stall(true),
            Self::Kafka(cluster) => (0..2).for_each(|node| cluster.stall(node, true)),
        }
    }

    /// It is there again.
    pub fn come_up(&self) {
        match self {
            Self::Plain(broker) => broker.come_up(),
            Self::Nats(server) => {
                server.stall(false);
                server.up();
            }
            Self::Kafka(cluster) => (0..2).for_each(|node| {
                cluster.stall(node, false);
                cluster.up(node);
            }),
        }
    }

    /// Breaks one of its own rules' cases: a deleted topic, another limit, a stream taken over … ; or refuses some messages.
    pub fn refuse(&self, number: u32, random: &mut fastrand::Rng) -> String {
        match self {
            Self::Plain(broker) => {
                broker.refuse(Some(number));
                format!("refuses those that are {number} modulo 16")
            }
            Self::Nats(server) => server.fault(random),
            Self::Kafka(cluster) => cluster.fault(random),
        }
    }

    /// All is well again.
    pub fn heal(&self) {
        match self {
            Self::Plain(broker) => {
                broker.come_up();
                broker.refuse(None);
            }
            Self::Nats(server) => server.heal(),
            Self::Kafka(cluster) => cluster.heal(),
        }
    }

    /// Whether it keeps the order of a key whatever goes wrong.
    pub fn keeps_order(&self) -> bool {
        matches!(self, Self::Plain(_))
    }
}
