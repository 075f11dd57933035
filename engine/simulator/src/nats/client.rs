//! The model in the place of async-nats, as the publisher sees it.

use std::{
    collections::VecDeque,
    future::Future,
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use async_nats::{HeaderMap, Subject};
use brokers::{
    nats::{
        NatsConfig,
        client::{Answer, Client, Reply, Runtime, Session, Unsent},
    },
    status::SideStatus,
};
use bytes::Bytes;
use engine_core::clock;

use super::{Look, Message, Request, Response, Server};

/// How long the server may take to say that the stream is there, and how often it is asked: as in the client of production.
const STILL_THERE_TIMEOUT: Duration = Duration::from_secs(2);
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// How long async-nats waits for an answer of JetStream's.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// A client of a [`Server`]. Nothing waits: what it has not heard yet comes with later calls.
pub struct ModelClient {
    server: Server,
    config: NatsConfig,
    status: Arc<SideStatus>,
}

impl ModelClient {
    pub(super) fn new(server: Server, config: &NatsConfig, status: &Arc<SideStatus>) -> Self {
        Self { server, config: config.clone(), status: Arc::clone(status) }
    }
}

impl Client for ModelClient {
    type Runtime = ModelRuntime;
    type Session = ModelSession;

    fn start(&mut self) -> Result<(Self::Runtime, Self::Session), String> {
        Ok((
            ModelRuntime,
            ModelSession {
                connection: self.server.inside().connect(),
                server: self.server.clone(),
                config: self.config.clone(),
                status: Arc::clone(&self.status),
                is_ready: false,
                message_bytes_max: usize::MAX,
                looking: None,
                look_at: clock::now(),
                replies: VecDeque::new(),
            },
        ))
    }

    fn pause(&mut self, _time: Duration) {}

    fn waker(&self) -> Waker {
        Waker::noop().clone()
    }
}

/// Runs futures that never wait.
pub struct ModelRuntime;

impl Runtime for ModelRuntime {
    fn block_on<F: Future>(&self, future: F) -> F::Output {
        match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(output) => output,
            Poll::Pending => unreachable!("a session of the model never waits"),
        }
    }

    fn end(self) {}
}

/// A connection, and what is known of the stream.
pub struct ModelSession {
    server: Server,
    connection: u64,
    config: NatsConfig,
    status: Arc<SideStatus>,
    is_ready: bool,
    message_bytes_max: usize,
    /// Since when the stream is looked for.
    looking: Option<Instant>,
    look_at: Instant,
    replies: VecDeque<Reply>,
}

impl Drop for ModelSession {
    fn drop(&mut self) {
        self.server.inside().leave(self.connection);
    }
}

impl ModelSession {
    fn is_open(&self) -> bool {
        self.server.inside().connection(self.connection).is_some_and(|one| one.is_open)
    }

    /// Takes what came, and looks for the stream: what the client's own tasks do.
    fn turn(&mut self) {
        loop {
            let response = self.server.inside().received(self.connection);
            match response {
                Some(Response::Reply(number, answer)) => self.replies.push_back(Reply { number, answer }),
                Some(Response::Look(look)) => self.found(look),
                Some(Response::Made(true)) => {
                    self.server.inside().send(self.connection, Request::Look(self.config.stream.clone()));
                }
                Some(Response::Made(false)) => {
                    self.miss("it does not exist and cannot be created".to_owned());
                }
                None => break,
            }
        }
        if !self.is_open() {
            return;
        }
        let patience = if self.is_ready { STILL_THERE_TIMEOUT } else { REQUEST_TIMEOUT };
        if self.looking.is_some_and(|since| clock::since(since) > patience) {
            self.miss(format!("no answer for {} ms", patience.as_millis()));
        }
        if self.looking.is_none() && clock::now() >= self.look_at {
            self.looking = Some(clock::now());
            self.server.inside().send(self.connection, Request::Look(self.config.stream.clone()));
        }
    }

    fn found(&mut self, look: Look) {
        if self.looking.take().is_none() {
            return;
        }
        match look {
            Look::NoAnswer => self.miss("no responders (is JetStream on? nats-server -js)".to_owned()),
            Look::Missing if self.is_ready => self.miss("stream not found".to_owned()),
            Look::Missing => {
                let wanted = self.config.new_stream();
                let limits = super::Limits {
                    messages: usize::try_from(wanted.max_messages).ok(),
                    ..super::Limits::default()
                };
                let make = Request::Make(wanted.name, wanted.subjects, limits);
                self.server.inside().send(self.connection, make);
                self.looking = Some(clock::now());
            }
            Look::Found { subjects, message_bytes_max } => {
                self.message_bytes_max = message_bytes_max.unwrap_or(usize::MAX);
                match self.config.not_covered(&subjects) {
                    Some(why) => self.miss(why),
                    None => {
                        self.is_ready = true;
                        self.look_at = clock::now() + LOOK_AGAIN;
                    }
                }
            }
        }
    }

    fn miss(&mut self, why: String) {
        self.looking = None;
        self.look_at = clock::now() + LOOK_AGAIN / 5;
        self.is_ready = false;
        self.status.set_trouble(Some(format!("nats.stream = {}: {why}", self.config.stream)));
    }
}

impl Session for ModelSession {
    fn is_connected(&self) -> bool {
        self.is_open() && self.is_ready
    }

    fn is_broken(&self) -> bool {
        self.server.inside().connection(self.connection).is_some_and(|one| one.was_open && !one.is_open)
    }

    fn max_payload(&self) -> usize {
        self.server.inside().connection(self.connection).map_or(0, |one| one.max_payload)
    }

    fn message_bytes_max(&self) -> usize {
        self.message_bytes_max
    }

    async fn publish(
        &mut self,
        number: u64,
        subject: Subject,
        headers: HeaderMap,
        payload: Bytes,
    ) -> Result<(), Unsent> {
        let mut lines: Vec<(String, String)> = Vec::new();
        for (name, values) in headers.iter() {
            lines.extend(values.iter().map(|value| (name.to_string(), value.as_str().to_owned())));
        }
        lines.sort_by(|(one, _), (other, _)| one.cmp(other));
        let message = Message { subject: subject.to_string(), headers: lines, payload };
        let (bytes, most) = (message.bytes(), self.max_payload());
        if bytes > most {
            return Err(Unsent::TooLarge(format!("message of {bytes} bytes")));
        }
        self.server.inside().send(self.connection, Request::Publish(number, message));
        Ok(())
    }

    async fn wait(&mut self, _timeout: Duration) -> Option<Reply> {
        self.turn();
        self.replies.pop_front()
    }

    fn next(&mut self) -> Option<Reply> {
        self.replies.pop_front()
    }
}

/// JetStream's answer to a publish.
pub(super) fn answer(stream: &str, outcome: &super::Outcome) -> Answer {
    let json = match outcome {
        Ok((sequence, false)) => serde_json::json!({ "stream": stream, "seq": sequence }),
        Ok((sequence, true)) => serde_json::json!({ "stream": stream, "seq": sequence, "duplicate": true }),
        Err((code, description)) => serde_json::json!({
            "error": { "code": 400, "err_code": code, "description": description },
            "stream": stream,
            "seq": 0,
        }),
    };
    Answer::Json(json.to_string().into())
}
