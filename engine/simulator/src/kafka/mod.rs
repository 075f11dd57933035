//! A Kafka cluster with its clients, by their rules and without sockets, threads or time of their own.
//!
//! ```text
//! KafkaPublisher ─ ModelClient ─ Producer (librdkafka) ─ connection ─ Topics (the brokers)
//! ```
//!
//! ```
//! # use std::{sync::Arc, time::Duration};
//! # use brokers::{Publisher, kafka::publish::KafkaPublisher, status::SideStatus};
//! # use simulator::kafka::{Cluster, config};
//! let cluster = Cluster::new(1);
//! let (config, status) = (config("messages"), Arc::new(SideStatus::new("kafka")));
//! let client = cluster.client(&config, &status);
//! let mut publisher = KafkaPublisher::over(client, config, status).unwrap();
//! let (mut rng, mut acks) = (fastrand::Rng::with_seed(1), Vec::new());
//! let clock = engine_core::clock::SimulatedClock::start(0);
//! while publisher.publish(1, &engine_core::Record::default()).is_err() {
//!     publisher.poll(Duration::ZERO, &mut acks);
//!     clock.advance(Duration::from_secs(1));
//! }
//! while acks.is_empty() {
//!     cluster.step(&mut rng);
//!     publisher.poll(Duration::ZERO, &mut acks);
//! }
//! assert_eq!(cluster.stored("messages").len(), 1);
//! ```
//!
//! Nothing happens by itself: [`Cluster::step`] moves one thing, of all that could be next the one that the seed says.
//! [`Cluster::fault`] breaks something, [`Cluster::heal`] mends everything that mends by itself; records that retention or the
//! deletion of a topic took away are in [`Cluster::ever`].
//!
//! What is left out: compression, transactions, consumers, replicas that lag behind (a record that was acknowledged with
//! `acks=1` is not lost when the leader changes).

mod broker;
mod client;
mod faults;
mod producer;

use std::{
    cell::{RefCell, RefMut},
    collections::VecDeque,
    rc::Rc,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use brokers::{kafka::KafkaConfig, raw_message::MessageValue, status::SideStatus};
use engine_core::PartitionKey;
use rdkafka::error::RDKafkaErrorCode as Code;

use self::{
    broker::{Batch, Refusal, Topics},
    producer::{Producer, Settings},
};
pub use self::{
    broker::{Message, Stored},
    client::ModelClient,
};

/// A cluster. Clones are the same one.
#[derive(Clone, Debug)]
pub struct Cluster(Rc<RefCell<Inside>>);

#[derive(Debug)]
struct Inside {
    topics: Topics,
    nodes: Vec<Node>,
    producers: Vec<Owned>,
    connections: Vec<Connection>,
    next_producer: u64,
    next_id: u64,
    next_request: u64,
    /// Whether clients may ask for the topics' limits (`DESCRIBE_CONFIGS`).
    tells_limits: bool,
    /// `message.max.bytes` of the clients.
    client_message_bytes_max: usize,
}

#[derive(Debug, Default)]
struct Node {
    is_down: bool,
    /// It keeps its connections and does nothing.
    is_stalled: bool,
}

/// A producer that somebody has.
#[derive(Debug)]
struct Owned {
    number: u64,
    producer: Producer,
    connected: Rc<AtomicBool>,
    status: Arc<SideStatus>,
}

/// A connection of a producer to a node. What was sent on it may arrive long after its producer has given it up.
#[derive(Debug)]
struct Connection {
    /// `None`: given up.
    producer: Option<u64>,
    node: usize,
    requests: VecDeque<(u64, Batch)>,
    responses: VecDeque<(u64, Result<(), Refusal>)>,
}

/// What can come next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A producer connects to a node.
    Connect(u64, usize),
    /// A producer gets its id.
    Identify(u64),
    /// A producer hears of a topic.
    Refresh(u64, String),
    /// A producer sends what it has for a partition to a node.
    Send(u64, usize, String, usize),
    /// A producer gives a node up that does not answer.
    GiveUp(u64, usize),
    /// A broker reads and judges a request of this connection.
    Judge(usize),
    /// A response arrives on this connection.
    Respond(usize),
}

impl Cluster {
    /// A cluster of so many nodes.
    pub fn new(nodes: usize) -> Self {
        Self(Rc::new(RefCell::new(Inside {
            topics: Topics::new(nodes.max(1)),
            nodes: (0..nodes.max(1)).map(|_| Node::default()).collect(),
            producers: Vec::new(),
            connections: Vec::new(),
            next_producer: 1,
            next_id: 1,
            next_request: 1,
            tells_limits: true,
            client_message_bytes_max: 256 << 20,
        })))
    }

    /// A client for a publisher with these settings.
    pub fn client(&self, config: &KafkaConfig, status: &Arc<SideStatus>) -> ModelClient {
        ModelClient::new(self.clone(), config, status)
    }

    fn inside(&self) -> RefMut<'_, Inside> {
        self.0.borrow_mut()
    }

    /// Does one thing, of all that could be next; `None` when there is nothing to do.
    pub fn step(&self, rng: &mut fastrand::Rng) -> Option<Step> {
        let mut inside = self.inside();
        let mut steps = inside.steps();
        if steps.is_empty() {
            return None;
        }
        let step = steps.swap_remove(rng.usize(..steps.len()));
        inside.take(&step);
        Some(step)
    }

    /// Sends a batch to the leader of its partition without a client, with its producer's id, epoch and sequence; an error
    /// has the code and the places of the records that are named.
    ///
    /// # Errors
    /// What a broker says to it.
    pub fn produce(
        &self,
        (topic, partition): (&str, usize),
        sender: Option<((u64, u16), u64)>,
        messages: Vec<Message>,
    ) -> Result<(), (Code, Vec<usize>)> {
        let mut inside = self.inside();
        let leader = inside.truth(topic).and_then(|(_, leaders)| leaders.get(partition).copied());
        let batch = Batch {
            producer: sender.map(|(producer, _)| producer),
            sequence: sender.map_or(0, |(_, sequence)| sequence),
            topic: topic.to_owned(),
            partition,
            messages: messages.into_iter().map(Rc::new).collect(),
            acks_all: true,
        };
        let answer = inside.topics.produce(leader.unwrap_or_default(), &batch);
        answer.map_err(|refusal| (refusal.code, refusal.named))
    }

    /// What a topic holds now, by partition and in order.
    pub fn stored(&self, topic: &str) -> Vec<Stored> {
        let inside = self.inside();
        let Some(topic) = inside.topics.topics.get(topic) else { return Vec::new() };
        let partitions = topic.partitions.iter().enumerate();
        let records = partitions.flat_map(|(partition, of)| {
            let records = of.records.iter().enumerate();
            records.map(move |(place, message)| Stored {
                partition,
                offset: of.first + place as u64,
                message: Rc::clone(message),
            })
        });
        records.collect()
    }

    /// Everything that was ever stored, also what is gone again, in the order in which it was stored.
    pub fn ever(&self) -> Vec<Stored> {
        self.ever_since(0)
    }

    /// The same from this place on.
    pub fn ever_since(&self, place: usize) -> Vec<Stored> {
        self.inside().topics.ever.get(place..).unwrap_or_default().to_vec()
    }

    /// How many that are.
    pub fn ever_count(&self) -> usize {
        self.inside().topics.ever.len()
    }

    /// The topics that are there.
    pub fn topics(&self) -> Vec<String> {
        self.inside().topics.topics.keys().cloned().collect()
    }
}

impl Inside {
    fn nodes(&self) -> usize {
        self.nodes.len()
    }

    /// Whether anybody answers.
    fn answers(&self) -> bool {
        (0..self.nodes()).any(|node| self.works(node))
    }

    fn works(&self, node: usize) -> bool {
        !self.nodes[node].is_down && !self.nodes[node].is_stalled
    }

    /// A topic's id and the leaders of its partitions.
    fn truth(&self, topic: &str) -> Option<(u64, Vec<usize>)> {
        let topic = self.topics.topics.get(topic)?;
        Some((topic.id, topic.partitions.iter().map(|partition| partition.leader).collect()))
    }

    fn add_producer(
        &mut self,
        settings: Settings,
        connected: Rc<AtomicBool>,
        status: Arc<SideStatus>,
    ) -> u64 {
        let number = self.next_producer;
        self.next_producer += 1;
        self.producers.push(Owned { number, producer: Producer::new(settings), connected, status });
        number
    }

    fn producer(&mut self, number: u64) -> Option<&mut Producer> {
        let owned = self.producers.iter_mut().find(|owned| owned.number == number);
        owned.map(|owned| &mut owned.producer)
    }

    /// Its connections close behind what was sent.
    fn drop_producer(&mut self, number: u64) {
        self.producers.retain(|owned| owned.number != number);
        for connection in self.connections.iter_mut().filter(|one| one.producer == Some(number)) {
            connection.producer = None;
        }
    }

    fn steps(&mut self) -> Vec<Step> {
        self.connections.retain(|one| one.producer.is_some() || !one.requests.is_empty());
        let mut steps = Vec::new();
        let answers = self.answers();
        for Owned { number, producer, .. } in &self.producers {
            if answers {
                steps.extend(producer.wants_id().then_some(Step::Identify(*number)));
                steps.extend(producer.stale_topics().map(|topic| Step::Refresh(*number, topic.to_owned())));
            }
            for node in 0..self.nodes() {
                let has =
                    self.connections.iter().any(|one| one.producer == Some(*number) && one.node == node);
                if !has {
                    steps.extend(self.works(node).then_some(Step::Connect(*number, node)));
                    continue;
                }
                let ready = producer.ready(node);
                steps.extend(
                    ready.map(|(topic, partition)| Step::Send(*number, node, topic.to_owned(), partition)),
                );
                steps.extend(producer.is_late(node).then_some(Step::GiveUp(*number, node)));
            }
        }
        for (place, connection) in self.connections.iter().enumerate() {
            if !connection.requests.is_empty() && self.works(connection.node) {
                steps.push(Step::Judge(place));
            }
            if !connection.responses.is_empty() {
                steps.push(Step::Respond(place));
            }
        }
        steps
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Connect(number, node) => self.connections.push(Connection {
                producer: Some(*number),
                node: *node,
                requests: VecDeque::new(),
                responses: VecDeque::new(),
            }),
            Step::Identify(number) => {
                let id = self.next_id;
                self.next_id += 1;
                if let Some(producer) = self.producer(*number) {
                    producer.give_id(id);
                }
            }
            Step::Refresh(number, topic) => {
                let truth = self.truth(topic);
                if let Some(producer) = self.producer(*number) {
                    producer.learn(topic, truth);
                }
            }
            Step::Send(number, node, topic, partition) => {
                let burst = self.producer(*number).map_or(0, |one| one.burst(*node, topic, *partition));
                for _ in 0..burst {
                    self.send(*number, *node, topic, *partition);
                }
            }
            Step::GiveUp(number, node) => {
                self.part(*number, *node);
            }
            Step::Judge(place) => {
                let connection = &mut self.connections[*place];
                if let Some((request, batch)) = connection.requests.pop_front() {
                    let answer = self.topics.produce(connection.node, &batch);
                    if connection.producer.is_some() {
                        connection.responses.push_back((request, answer));
                    }
                }
            }
            Step::Respond(place) => {
                let connection = &mut self.connections[*place];
                let (producer, response) = (connection.producer, connection.responses.pop_front());
                if let Some((producer, (request, answer))) = producer.zip(response)
                    && let Some(producer) = self.producer(producer)
                {
                    producer.answer(request, answer);
                }
            }
        }
    }

    /// A producer sends a batch.
    fn send(&mut self, number: u64, node: usize, topic: &str, partition: usize) {
        let request = self.next_request;
        self.next_request += 1;
        let producer = self.producer(number);
        let batch = producer.and_then(|one| one.make_batch(request, node, topic, partition));
        let connection =
            self.connections.iter_mut().find(|one| one.producer == Some(number) && one.node == node);
        if let Some((connection, batch)) = connection.zip(batch) {
            connection.requests.push_back((request, batch));
        }
    }

    /// A producer and its connection to a node part; what was sent may still arrive.
    fn part(&mut self, number: u64, node: usize) {
        for connection in &mut self.connections {
            if connection.producer == Some(number) && connection.node == node {
                connection.producer = None;
                connection.responses.clear();
            }
        }
        if let Some(producer) = self.producer(number) {
            producer.lose_connection(node);
        }
    }
}

/// Settings of a publisher as a new configuration file has them, for a topic.
pub fn config(topic: &str) -> KafkaConfig {
    KafkaConfig {
        brokers: "model:9092".into(),
        topic: topic.into(),
        topic_choice: None,
        value: MessageValue::DataMessage,
        shapes: None,
        consumer_group: "model".into(),
        client_id: "model".into(),
        acks: "all".into(),
        compression: "none".into(),
        linger: Duration::from_millis(5),
        batch_messages: 1000,
        retry_backoff: Duration::from_millis(100),
        in_flight_max: 10_000,
        partition: PartitionKey::default(),
        security_protocol: "plaintext".into(),
        sasl_mechanism: String::new(),
        sasl_username: Default::default(),
        sasl_password: Default::default(),
        ssl_ca_location: String::new(),
    }
}

#[cfg(test)]
mod tests;
