//! What the publisher needs of a Kafka client, so that it runs over librdkafka ([`super::librdkafka`]) and, in the
//! simulator, over a model of it and of the brokers.

use std::{sync::atomic::AtomicBool, task::Waker, time::Duration};

use rdkafka::{
    error::{KafkaError, RDKafkaErrorCode},
    message::OwnedMessage,
    producer::BaseRecord,
};

use super::shape::Topic;

/// A record on its way to the client, with its partition; its opaque is the publisher's number for it.
pub type Outgoing<'a> = BaseRecord<'a, [u8], [u8], usize>;

/// What became of a record, by the publisher's number for it.
#[derive(Debug)]
pub enum Event {
    /// The broker has it, as far as `kafka.acks` says.
    Acknowledged(usize),
    /// It did not get through; it comes back as it was given.
    Failed(usize, RDKafkaErrorCode, Box<OwnedMessage>),
    /// Somebody used the waker.
    Woken,
}

/// What the brokers said when they were asked for a topic.
#[derive(Clone, Debug)]
pub struct Metadata {
    /// The numbers and addresses of the nodes that they know of.
    pub nodes: Vec<(i32, String)>,
    /// The topics that were asked for: how many partitions each has, or what is wrong with it.
    pub topics: Vec<(String, Result<usize, RDKafkaErrorCode>)>,
}

/// A Kafka client with one producer at a time. Used by one thread.
pub trait Client {
    /// Makes the producer anew, with batches of so many messages and bytes at most (before compression; a single message
    /// that is larger is a batch all the same). The one before is dropped with all that it still holds.
    ///
    /// # Errors
    /// What is wrong with the configuration.
    fn renew(&mut self, batch_messages: usize, batch_bytes: usize) -> Result<(), String>;

    /// Gives a record to the producer, which copies it. Does not wait.
    ///
    /// # Errors
    /// When the producer does not take it; it then says no more of it.
    fn send(&mut self, record: Outgoing<'_>) -> Result<(), KafkaError>;

    /// Has the producer give back what it has not sent, also what it put back into its queue to send it again.
    fn purge(&mut self);

    /// What became of a record, of any producer of this client; waits for it.
    fn next(&mut self, timeout: Duration) -> Option<Event>;

    /// Asks the brokers for a topic; waits for the answer.
    ///
    /// # Errors
    /// When none of them answers.
    fn ask(&self, topic: &str, timeout: Duration) -> Result<Metadata, KafkaError>;

    /// Makes topics that are not there, as [`super::topics::create`] does.
    ///
    /// # Errors
    /// The first that cannot be had, with the setting to look at.
    fn create(&self, topics: &[Topic]) -> Result<Vec<bool>, String>;

    /// The least `max.message.bytes` of these topics, as far as the brokers tell; waits for the answer.
    fn message_bytes_max(&self, topics: &[Topic]) -> Option<usize>;

    /// Whether the brokers answer: set by the publisher, and taken back by the client when it has lost all of them.
    fn connected(&self) -> &AtomicBool;

    /// Ends a [`next`](Self::next) that waits.
    fn waker(&self) -> Waker;
}
