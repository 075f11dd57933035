//! What to load a server with: a protocol, how many connections, how much at once.

use std::{
    fmt,
    net::SocketAddr,
    sync::{Arc, atomic::AtomicU64},
};

use anyhow::{Result, bail};

use crate::{
    drive::{Load, Pace, Until},
    events::Events,
    h1, h2,
    message::Message,
    outcome::Outcome,
};

/// Path of the JSON route.
pub const INGEST_PATH: &str = "/api/v1/ingest";
/// Path of the unary gRPC method.
pub const UNARY_PATH: &str = "/diplom.v1.IngestService/Ingest";
/// Path of the client-streaming gRPC method.
pub const STREAM_PATH: &str = "/diplom.v1.IngestService/IngestStream";

/// Path of the event stream.
pub const EVENT_STREAM_PATH: &str = "/analytics.v1.EventIngestionService/StreamEvents";

/// How a message travels.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Protocol {
    /// HTTP/1.1 with JSON.
    H1,
    /// HTTP/2 by prior knowledge with JSON.
    H2c,
    /// gRPC, one message a call.
    GrpcUnary,
    /// gRPC client streaming.
    GrpcStream,
    /// Events on a stream, each answered; `in_flight` is how many of a stream may wait for their answer.
    EventStream,
}

/// A load.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// How a message travels.
    pub protocol: Protocol,
    /// Connections.
    pub connections: usize,
    /// Requests, or streams, under way on each.
    pub in_flight: usize,
    /// Streaming: messages in a DATA frame.
    pub frame_messages: usize,
    /// Streaming: messages on a stream before it is ended and the next opened.
    pub stream_messages: u64,
    /// What is sent.
    pub message: Message,
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (connections, in_flight) = (self.connections, self.in_flight);
        match self.protocol {
            Protocol::H1 if in_flight == 1 => write!(f, "HTTP/1.1 JSON, {connections} connections"),
            Protocol::H1 => write!(f, "HTTP/1.1 JSON, {connections} connections, {in_flight} pipelined"),
            Protocol::H2c => write!(f, "h2c JSON {connections}×{in_flight}"),
            Protocol::GrpcUnary => write!(f, "gRPC unary {connections}×{in_flight}"),
            Protocol::GrpcStream => {
                let streams = connections * in_flight;
                write!(f, "gRPC stream, {streams} streams, {} per frame", self.frame_messages)
            }
            Protocol::EventStream => {
                write!(f, "StreamEvents, {connections} streams, {} per frame", self.frame_messages)
            }
        }
    }
}

/// Connections of any protocol, ready for runs.
pub enum Connected {
    /// HTTP/1.1.
    H1(Load<h1::Pipeline>),
    /// One request per stream.
    Unary(Load<h2::Unary>),
    /// Many messages per stream.
    Streaming(Load<h2::Streaming>),
    /// Events on one stream.
    Events(Load<h2::EventStreaming>),
}

impl Scenario {
    /// Opens the connections.
    ///
    /// # Errors
    /// When the server cannot be reached or the scenario makes no sense.
    pub fn connect(&self, address: SocketAddr) -> Result<Connected> {
        if self.connections == 0 || self.in_flight == 0 {
            bail!("at least one connection with one request in flight");
        }
        let authority = address.to_string();
        let json = || self.message.json();
        let many = 0..self.connections;
        Ok(match self.protocol {
            Protocol::H1 => {
                let request = h1::request(&authority, INGEST_PATH, &json());
                let depth = self.in_flight;
                Connected::H1(Load::connect(
                    address,
                    many.map(|_| h1::Pipeline::new(request.clone(), depth)),
                )?)
            }
            Protocol::H2c => self.unary(address, h2::Call::json(&authority, INGEST_PATH, &json()))?,
            Protocol::GrpcUnary => {
                self.unary(address, h2::Call::grpc(&authority, UNARY_PATH, &self.message.grpc()))?
            }
            Protocol::GrpcStream => {
                let message = self.message.grpc();
                let conversation = || {
                    let Self { frame_messages, stream_messages, in_flight, .. } = *self;
                    h2::Streaming::new(
                        &authority,
                        STREAM_PATH,
                        &message,
                        frame_messages,
                        stream_messages,
                        in_flight,
                    )
                };
                let conversations = many.map(|_| conversation()).collect::<Result<Vec<_>>>()?;
                Connected::Streaming(Load::connect(address, conversations)?)
            }
            Protocol::EventStream => {
                let conversation = || {
                    let (frame, in_flight) = (self.frame_messages, self.in_flight);
                    h2::EventStreaming::new(
                        &authority,
                        EVENT_STREAM_PATH,
                        Events::next_run(),
                        frame,
                        in_flight,
                    )
                };
                let conversations = many.map(|_| conversation()).collect::<Result<Vec<_>>>()?;
                Connected::Events(Load::connect(address, conversations)?)
            }
        })
    }

    fn unary(&self, address: SocketAddr, call: h2::Call) -> Result<Connected> {
        let conversations = (0..self.connections).map(|_| h2::Unary::new(call.clone(), self.in_flight));
        Ok(Connected::Unary(Load::connect(address, conversations)?))
    }
}

impl Connected {
    /// Messages sent so far in the current run; see [`Load::progress`].
    pub fn progress(&self) -> Arc<AtomicU64> {
        match self {
            Self::H1(load) => load.progress(),
            Self::Unary(load) => load.progress(),
            Self::Streaming(load) => load.progress(),
            Self::Events(load) => load.progress(),
        }
    }

    /// Runs once; see [`Load::run`].
    ///
    /// # Errors
    /// When epoll fails.
    pub fn run(&mut self, pace: Pace, until: Until) -> Result<Outcome> {
        match self {
            Self::H1(load) => load.run(pace, until),
            Self::Unary(load) => load.run(pace, until),
            Self::Streaming(load) => load.run(pace, until),
            Self::Events(load) => load.run(pace, until),
        }
    }
}
