//! The connections to the other process: opened when all that are open are busy, used least-loaded first, closed when
//! they have been idle.

use std::time::Duration;

use bytes::Bytes;
use h2::{
    Ping,
    client::{Builder, Connection, SendRequest},
};
use tokio::{net::TcpStream, time::Instant};

use super::{RemoteConfig, Target, corked::Corked};

/// Streams of a connection that are used at most; the other side may allow fewer.
const STREAMS_MAX: usize = 128;

/// A connection that is used.
struct Member {
    id: u64,
    requests: SendRequest<Bytes>,
    /// Messages on it that are not answered.
    streams: usize,
    idle_since: Instant,
}

/// The connections that may be used. One that leaves answers what it has; nothing more is sent on it.
#[derive(Default)]
pub(super) struct Pool {
    members: Vec<Member>,
    last_id: u64,
}

impl Pool {
    /// A connection joins; its number.
    pub(super) fn join(&mut self, requests: SendRequest<Bytes>) -> u64 {
        self.last_id += 1;
        self.members.push(Member { id: self.last_id, requests, streams: 0, idle_since: Instant::now() });
        self.last_id
    }

    /// Takes a stream of the least busy connection that has one.
    pub(super) fn take(&mut self) -> Option<(u64, SendRequest<Bytes>)> {
        let least = self.members.iter_mut().min_by_key(|member| member.streams)?;
        if least.streams >= STREAMS_MAX.min(least.requests.current_max_send_streams()) {
            return None;
        }
        least.streams += 1;
        Some((least.id, least.requests.clone()))
    }

    /// A stream of that connection has ended.
    pub(super) fn give_back(&mut self, id: u64) {
        if let Some(member) = self.members.iter_mut().find(|member| member.id == id) {
            member.streams -= 1;
            member.idle_since = Instant::now();
        }
    }

    /// Nothing more is sent on that connection; whether it was still used.
    pub(super) fn leave(&mut self, id: u64) -> bool {
        let before = self.members.len();
        self.members.retain(|member| member.id != id);
        self.members.len() < before
    }

    /// Lets go of connections without a message for this long.
    pub(super) fn close_idle(&mut self, idle: Duration) {
        self.members.retain(|member| member.streams > 0 || member.idle_since.elapsed() < idle);
    }

    pub(super) fn len(&self) -> usize {
        self.members.len()
    }
}

/// A connection that the other side has answered on.
pub(super) struct Opened {
    pub(super) requests: SendRequest<Bytes>,
    pub(super) connection: Connection<Corked, Bytes>,
    pub(super) socket: Corked,
}

/// Opens a connection and waits for the other side's first word: a stopped process accepts connections, too.
pub(super) async fn open(config: &RemoteConfig) -> Result<Opened, String> {
    match tokio::time::timeout(config.connect_timeout, greet(&config.target)).await {
        Ok(outcome) => outcome,
        Err(_) => Err("no answer within remote.connect_timeout".to_owned()),
    }
}

async fn greet(target: &Target) -> Result<Opened, String> {
    let socket =
        TcpStream::connect((target.host.as_str(), target.port)).await.map_err(|error| error.to_string())?;
    socket.set_nodelay(true).map_err(|error| error.to_string())?;
    let socket = Corked::new(socket);
    let (requests, mut connection) = Builder::new()
        .enable_push(false)
        .handshake(socket.clone())
        .await
        .map_err(|error| format!("no HTTP/2 there: {error}"))?;
    let mut ping = connection.ping_pong().ok_or("a connection without PING")?;
    tokio::select! {
        pong = ping.ping(Ping::opaque()) => match pong {
            Ok(_) => Ok(Opened { requests, connection, socket }),
            Err(error) => Err(format!("no HTTP/2 there: {error}")),
        },
        ended = socket.drive(&mut connection) => Err(match ended {
            Ok(()) => "it closed the connection at once; does it speak HTTP/2 without TLS?".to_owned(),
            Err(error) => format!("no HTTP/2 there: {error}"),
        }),
    }
}
