//! The demo's clients: plain and unhurried, as a program of somebody else would be written.
//!
//! HTTP/1.1 is a small keep-alive client on a socket; h2c and gRPC go through the `h2` crate, which shares no code
//! with the server, so that every demo is a test against another implementation, too.

use std::{collections::VecDeque, net::SocketAddr, sync::Arc, sync::Mutex, time::Instant};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use h2::{RecvStream, client::SendRequest};
use hdrhistogram::Histogram;
use http::{HeaderMap, Request, Response};
use prost::Message as _;
use tidegate_proto::diplom::v1::IngestResponse;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};

use crate::{
    h1,
    message::{GRPC_PREFIX_BYTES, Message},
    outcome::new_histogram,
    scenario::{INGEST_PATH, STREAM_PATH, UNARY_PATH},
};

/// Messages that a demo's gRPC stream carries at most.
pub const STREAM_MESSAGES: usize = 64;

/// What one protocol's clients have done so far.
#[derive(Debug)]
pub struct Tally {
    /// Messages sent.
    pub sent: u64,
    /// Messages that the server said it accepted.
    pub accepted: u64,
    /// Time from a request to its answer.
    pub latency_ns: Histogram<u64>,
    /// The level that the JSON answers named.
    pub ack: Option<String>,
    /// What the first answer that was not an acceptance said.
    pub first_trouble: Option<String>,
}

impl Default for Tally {
    fn default() -> Self {
        Self { sent: 0, accepted: 0, latency_ns: new_histogram(), ack: None, first_trouble: None }
    }
}

/// The messages of a burst that are still to be sent, and what became of the others; shared by a burst's tasks.
#[derive(Clone)]
struct Burst {
    waiting: Arc<Mutex<VecDeque<Message>>>,
    tally: Arc<Mutex<Tally>>,
}

impl Burst {
    fn take(&self, count: usize) -> Vec<Message> {
        let mut waiting = self.waiting.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let count = count.min(waiting.len());
        waiting.drain(..count).collect()
    }

    /// Notes the answer to `sent` messages.
    fn note(&self, sent: u64, started: Instant, answer: Result<Answer>) {
        let mut tally = self.tally.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        tally.sent += sent;
        let nanoseconds = u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        match answer {
            Ok(answer) => {
                tally.accepted += answer.accepted;
                tally.latency_ns.saturating_record(nanoseconds);
                if answer.ack.is_some() {
                    tally.ack = answer.ack;
                }
            }
            Err(fault) => {
                tally.first_trouble.get_or_insert_with(|| format!("{fault:#}"));
            }
        }
    }
}

/// What an answer acknowledges.
struct Answer {
    accepted: u64,
    ack: Option<String>,
}

/// One way to send, with its open connections.
pub enum Client {
    /// JSON over HTTP/1.1, one request at a time on each connection.
    Http1(Vec<Http1>),
    /// JSON over HTTP/2.
    H2c(Vec<SendRequest<Bytes>>, Origin),
    /// gRPC, one message a call.
    GrpcUnary(Vec<SendRequest<Bytes>>, Origin),
    /// gRPC, many messages a stream.
    GrpcStream(Vec<SendRequest<Bytes>>, Origin),
}

/// The server's address as requests name it.
#[derive(Clone, Debug)]
pub struct Origin(String);

impl Client {
    /// Opens HTTP/1.1 connections.
    ///
    /// # Errors
    /// When the server cannot be reached.
    pub async fn http1(address: SocketAddr, connections: usize) -> Result<Self> {
        let mut open = Vec::new();
        for _ in 0..connections {
            open.push(Http1::connect(address).await?);
        }
        Ok(Self::Http1(open))
    }

    /// Opens HTTP/2 connections for JSON.
    ///
    /// # Errors
    /// When the server cannot be reached or does not speak HTTP/2.
    pub async fn h2c(address: SocketAddr, connections: usize) -> Result<Self> {
        Ok(Self::H2c(connect_h2(address, connections).await?, Origin(format!("http://{address}"))))
    }

    /// Opens HTTP/2 connections for unary gRPC.
    ///
    /// # Errors
    /// As [`Client::h2c`].
    pub async fn grpc_unary(address: SocketAddr, connections: usize) -> Result<Self> {
        Ok(Self::GrpcUnary(connect_h2(address, connections).await?, Origin(format!("http://{address}"))))
    }

    /// Opens HTTP/2 connections for gRPC streams.
    ///
    /// # Errors
    /// As [`Client::h2c`].
    pub async fn grpc_stream(address: SocketAddr, connections: usize) -> Result<Self> {
        Ok(Self::GrpcStream(connect_h2(address, connections).await?, Origin(format!("http://{address}"))))
    }

    /// Sends all messages and waits for their answers.
    ///
    /// # Errors
    /// Only when a task dies; what the server says is in the tally.
    pub async fn send(&mut self, messages: Vec<Message>, tally: &mut Tally) -> Result<()> {
        let burst = Burst {
            waiting: Arc::new(Mutex::new(messages.into())),
            tally: Arc::new(Mutex::new(std::mem::take(tally))),
        };
        match self {
            Self::Http1(connections) => {
                let mut tasks = JoinSet::new();
                for connection in connections.drain(..) {
                    tasks.spawn(http1_lane(connection, burst.clone()));
                }
                while let Some(connection) = tasks.join_next().await {
                    connections.push(connection?);
                }
            }
            Self::H2c(connections, origin) => in_lanes(connections, 8, origin, &burst, h2c_lane).await?,
            Self::GrpcUnary(connections, origin) => {
                in_lanes(connections, 8, origin, &burst, unary_lane).await?
            }
            Self::GrpcStream(connections, origin) => {
                in_lanes(connections, 2, origin, &burst, stream_lane).await?
            }
        }
        let mut done = burst.tally.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        *tally = std::mem::take(&mut *done);
        Ok(())
    }
}

/// Runs `depth` lanes on each connection until the burst is sent.
async fn in_lanes<F: Future<Output = ()> + Send + 'static>(
    connections: &[SendRequest<Bytes>],
    depth: usize,
    origin: &Origin,
    burst: &Burst,
    lane: impl Fn(SendRequest<Bytes>, Origin, Burst) -> F,
) -> Result<()> {
    let mut tasks = JoinSet::new();
    for connection in connections {
        for _ in 0..depth {
            tasks.spawn(lane(connection.clone(), origin.clone(), burst.clone()));
        }
    }
    while let Some(ended) = tasks.join_next().await {
        ended?;
    }
    Ok(())
}

/// A keep-alive connection.
pub struct Http1 {
    socket: TcpStream,
    authority: String,
    inbox: Vec<u8>,
}

impl Http1 {
    /// Opens one.
    ///
    /// # Errors
    /// When the server cannot be reached.
    pub async fn connect(address: SocketAddr) -> Result<Self> {
        let socket =
            TcpStream::connect(address).await.with_context(|| format!("no connection to {address}"))?;
        socket.set_nodelay(true)?;
        Ok(Self { socket, authority: address.to_string(), inbox: Vec::new() })
    }

    /// A `GET`; returns status and body.
    ///
    /// # Errors
    /// When the connection fails.
    pub async fn get(&mut self, path: &str) -> Result<(u16, Vec<u8>)> {
        let request = format!("GET {path} HTTP/1.1\r\nhost: {}\r\n\r\n", self.authority);
        self.exchange(request.as_bytes()).await
    }

    async fn post(&mut self, message: &Message) -> Result<Answer> {
        let (status, body) =
            self.exchange(&h1::request(&self.authority, INGEST_PATH, &message.json())).await?;
        json_answer(status, &body)
    }

    async fn exchange(&mut self, request: &[u8]) -> Result<(u16, Vec<u8>)> {
        self.socket.write_all(request).await?;
        loop {
            if let Some(end) = memchr::memmem::find(&self.inbox, b"\r\n\r\n") {
                let head = h1::Head::parse(&self.inbox[..end + 4])?;
                let whole = end + 4 + head.content_length;
                if self.inbox.len() >= whole {
                    let body = self.inbox[end + 4..whole].to_vec();
                    self.inbox.drain(..whole);
                    return Ok((head.status, body));
                }
            }
            if self.socket.read_buf(&mut self.inbox).await? == 0 {
                bail!("the server closed the connection without an answer");
            }
        }
    }
}

fn json_answer(status: u16, body: &[u8]) -> Result<Answer> {
    let value: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    if status != 200 || value["status"] != "accepted" {
        bail!("HTTP {status}: {}", String::from_utf8_lossy(body).trim());
    }
    Ok(Answer { accepted: 1, ack: value["ack"].as_str().map(str::to_owned) })
}

async fn http1_lane(mut connection: Http1, burst: Burst) -> Http1 {
    while let Some(message) = burst.take(1).pop() {
        let started = Instant::now();
        let answer = connection.post(&message).await;
        burst.note(1, started, answer);
    }
    connection
}

async fn connect_h2(address: SocketAddr, connections: usize) -> Result<Vec<SendRequest<Bytes>>> {
    let mut open = Vec::new();
    for _ in 0..connections {
        let socket =
            TcpStream::connect(address).await.with_context(|| format!("no connection to {address}"))?;
        socket.set_nodelay(true)?;
        let (sender, connection) = h2::client::handshake(socket).await?;
        // It ends with the server; who waits for an answer then hears of it.
        tokio::spawn(async move {
            let _ = connection.await;
        });
        open.push(sender);
    }
    Ok(open)
}

async fn h2c_lane(connection: SendRequest<Bytes>, origin: Origin, burst: Burst) {
    while let Some(message) = burst.take(1).pop() {
        let started = Instant::now();
        let answer = async {
            let request = Request::post(format!("{}{INGEST_PATH}", origin.0))
                .header("content-type", "application/json");
            let (response, mut body) =
                connection.clone().ready().await?.send_request(request.body(())?, false)?;
            body.send_data(message.json().into(), true)?;
            let (status, body, _) = collect(response.await?).await?;
            json_answer(status, &body)
        };
        let answer = answer.await;
        burst.note(1, started, answer);
    }
}

async fn unary_lane(connection: SendRequest<Bytes>, origin: Origin, burst: Burst) {
    while let Some(message) = burst.take(1).pop() {
        let started = Instant::now();
        let answer = grpc(&connection, &origin, UNARY_PATH, std::slice::from_ref(&message)).await.and_then(
            |response| {
                if response.status != "accepted" {
                    bail!("a status of {:?}", response.status);
                }
                Ok(Answer { accepted: 1, ack: None })
            },
        );
        burst.note(1, started, answer);
    }
}

async fn stream_lane(connection: SendRequest<Bytes>, origin: Origin, burst: Burst) {
    loop {
        let messages = burst.take(STREAM_MESSAGES);
        if messages.is_empty() {
            break;
        }
        let started = Instant::now();
        let answer = grpc(&connection, &origin, STREAM_PATH, &messages).await.and_then(|response| {
            let count = response.message_id.strip_prefix("batch-").and_then(|count| count.parse().ok());
            let accepted = count.with_context(|| format!("no count in {:?}", response.message_id))?;
            Ok(Answer { accepted, ack: None })
        });
        burst.note(messages.len() as u64, started, answer);
    }
}

/// One gRPC call with any number of messages.
async fn grpc(
    connection: &SendRequest<Bytes>,
    origin: &Origin,
    path: &str,
    messages: &[Message],
) -> Result<IngestResponse> {
    let request = Request::post(format!("{}{path}", origin.0))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    let (response, mut body) = connection.clone().ready().await?.send_request(request.body(())?, false)?;
    for message in messages {
        body.send_data(message.grpc().into(), false)?;
    }
    body.send_data(Bytes::new(), true)?;
    let (status, body, trailers) = collect(response.await?).await?;
    let text =
        |name: &str| trailers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("missing").to_owned();
    if status != 200 || text("grpc-status") != "0" {
        bail!("HTTP {status}, grpc-status {}: {}", text("grpc-status"), text("grpc-message"));
    }
    Ok(IngestResponse::decode(body.get(GRPC_PREFIX_BYTES..).context("an answer without a message")?)?)
}

/// Status, body and trailers of an answer; an answer that is only trailers has them in its headers.
async fn collect(response: Response<RecvStream>) -> Result<(u16, Vec<u8>, HeaderMap)> {
    let (head, mut body) = response.into_parts();
    let mut bytes = Vec::new();
    while let Some(part) = body.data().await {
        let part = part?;
        body.flow_control().release_capacity(part.len())?;
        bytes.extend_from_slice(&part);
    }
    Ok((head.status.as_u16(), bytes, body.trailers().await?.unwrap_or(head.headers)))
}
