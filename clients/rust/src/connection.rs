//! The connections to the server, taken in turn, and what is measured on them.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use futures_util::future::BoxFuture;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tonic::{
    body::Body,
    transport::{Channel, Uri},
};
use tower::{Service, service_fn};

use crate::{Config, Error};

/// When a connection was opened last, and how long that took.
type Opened = Arc<Mutex<Option<(Instant, Duration)>>>;

/// What one attempt measures; it travels in the request's extensions.
#[derive(Clone, Debug, Default)]
pub(crate) struct Probe(Arc<Mutex<Measured>>);

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Measured {
    /// How long connecting took, if this attempt had to.
    pub(crate) connect: Option<Duration>,
    /// From sending to the answer's head.
    pub(crate) first_byte: Option<Duration>,
}

impl Probe {
    pub(crate) fn measured(&self) -> Measured {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One HTTP/2 connection; it is opened by its first call, and again when it broke.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    channel: Channel,
    opened: Opened,
}

impl Service<http::Request<Body>> for Connection {
    type Response = http::Response<Body>;
    type Error = tonic::transport::Error;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.channel.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let probe = request.extensions().get::<Probe>().cloned();
        let (answer, opened) = (self.channel.call(request), Arc::clone(&self.opened));
        Box::pin(async move {
            let since = Instant::now();
            let outcome = answer.await;
            if let Some(probe) = probe {
                let opened = *opened.lock().unwrap_or_else(PoisonError::into_inner);
                let mut measured = probe.0.lock().unwrap_or_else(PoisonError::into_inner);
                measured.connect = opened.filter(|(at, _)| *at >= since).map(|(_, took)| took);
                measured.first_byte = outcome.is_ok().then(|| since.elapsed());
            }
            outcome
        })
    }
}

/// The connections; so many, and no more.
#[derive(Debug)]
pub(crate) struct Pool {
    connections: Vec<Connection>,
    turn: AtomicUsize,
}

impl Pool {
    pub(crate) fn new(config: &Config) -> Result<Self, Error> {
        let endpoint = config
            .endpoint()?
            .connect_timeout(config.connect_timeout)
            .http2_keep_alive_interval(Duration::from_secs(30))
            .keep_alive_timeout(Duration::from_secs(10));
        let connections = (0..config.connections)
            .map(|_| {
                let opened = Opened::default();
                let note = Arc::clone(&opened);
                let connector = service_fn(move |to: Uri| open(to, Arc::clone(&note)));
                Connection { channel: endpoint.connect_with_connector_lazy(connector), opened }
            })
            .collect();
        Ok(Self { connections, turn: AtomicUsize::new(0) })
    }

    /// The next one in turn.
    pub(crate) fn next(&self) -> Connection {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        self.connections[turn % self.connections.len()].clone()
    }
}

/// There is no connection: what was to go over it was not sent.
#[derive(Debug, thiserror::Error)]
#[error("not connected to {server}: {cause}")]
pub(crate) struct NotConnected {
    server: Uri,
    cause: std::io::Error,
}

async fn open(to: Uri, note: Opened) -> Result<TokioIo<TcpStream>, NotConnected> {
    connect(&to, note).await.map_err(|cause| NotConnected { server: to, cause })
}

async fn connect(to: &Uri, note: Opened) -> std::io::Result<TokioIo<TcpStream>> {
    let since = Instant::now();
    let host = to.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    let port = to.port_u16().unwrap_or(if to.scheme_str() == Some("https") { 443 } else { 80 });
    let stream = TcpStream::connect((host, port)).await?;
    stream.set_nodelay(true)?;
    *note.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), since.elapsed()));
    tracing::debug!(server = %to, connect_us = since.elapsed().as_micros() as u64, "connected");
    Ok(TokioIo::new(stream))
}
