//! What the publisher needs of a NATS client, so that it runs over async-nats ([`super::async_client`]) and, in the
//! simulator, over a model of it and of the server.

use std::{future::Future, task::Waker, time::Duration};

use async_nats::{HeaderMap, Subject};
use bytes::Bytes;

/// The answer to a publish.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The publisher's number for it.
    pub number: u64,
    /// What was said.
    pub answer: Answer,
}

/// What is said to a publish.
#[derive(Clone, Debug)]
pub enum Answer {
    /// Nobody listens on the subject (status 503).
    NoResponders,
    /// JetStream's JSON.
    Json(Bytes),
}

/// A publish that was not sent.
#[derive(Clone, Debug)]
pub enum Unsent {
    /// The client judges it by itself: with its headers it is over the server's `max_payload`, in words.
    TooLarge(String),
    /// The connection does not take it, in words.
    Broken(String),
}

/// Starts connections, one after the other. Used by one thread.
pub trait Client {
    /// What runs a connection.
    type Runtime: Runtime;
    /// A connection.
    type Session: Session;

    /// Starts a connection; it need not reach a server yet.
    ///
    /// # Errors
    /// What is wrong with the configuration.
    fn start(&mut self) -> Result<(Self::Runtime, Self::Session), String>;

    /// Waits without a connection.
    fn pause(&mut self, time: Duration);

    /// Ends a [`Session::wait`] that waits.
    fn waker(&self) -> Waker;
}

/// What runs a connection.
pub trait Runtime {
    /// Runs a future to its end, and meanwhile what the connection has to do.
    fn block_on<F: Future>(&self, future: F) -> F::Output;

    /// Ends the connection, with all that it still holds, without waiting.
    fn end(self);
}

/// A connection, from the first try until it breaks. It never connects again by itself.
pub trait Session {
    /// Whether the server answers and the stream is there.
    fn is_connected(&self) -> bool;

    /// Whether there was a connection, and it broke.
    fn is_broken(&self) -> bool;

    /// The server's `max_payload`: most bytes of a message with its headers.
    fn max_payload(&self) -> usize;

    /// The stream's `max_msg_size`, which counts the same; the largest number when it has none.
    fn message_bytes_max(&self) -> usize;

    /// Sends a publish; its [`Reply`] has this number.
    fn publish(
        &mut self,
        number: u64,
        subject: Subject,
        headers: HeaderMap,
        payload: Bytes,
    ) -> impl Future<Output = Result<(), Unsent>>;

    /// Waits for the next reply, the waker or the end of `timeout`.
    fn wait(&mut self, timeout: Duration) -> impl Future<Output = Option<Reply>>;

    /// The next reply that is there.
    fn next(&mut self) -> Option<Reply>;
}
