//! An HTTP/2 client that does as it is told: the `h2` crate without anything above it.

use std::{net::SocketAddr, time::Duration};

use bytes::{BufMut, Bytes};
use h2::{
    RecvStream, SendStream,
    client::{ResponseFuture, SendRequest},
};
use http::{HeaderMap, Method, Request, StatusCode};
use tokio::{net::TcpStream, time::timeout};

use super::PATIENCE;

/// One connection.
#[derive(Clone, Debug)]
pub(crate) struct H2Peer {
    requests: SendRequest<Bytes>,
    authority: String,
}

/// One answer with its trailers.
#[derive(Debug)]
pub(crate) struct H2Answer {
    pub(crate) status: StatusCode,
    pub(crate) head: HeaderMap,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: HeaderMap,
}

impl H2Answer {
    /// `grpc-status`, from trailers or a trailers-only head.
    pub(crate) fn grpc_status(&self) -> Option<u32> {
        self.grpc_field("grpc-status")?.parse().ok()
    }

    /// `grpc-message`, decoded.
    pub(crate) fn grpc_message(&self) -> String {
        percent_decoded(self.grpc_field("grpc-message").unwrap_or_default())
    }

    pub(crate) fn grpc_field(&self, name: &str) -> Option<&str> {
        self.trailers.get(name).or_else(|| self.head.get(name))?.to_str().ok()
    }
}

/// Undoes the encoding of `grpc-message`.
pub(crate) fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let coded = (*first == b'%')
            .then(|| {
                after.get(..2).and_then(|two| u8::from_str_radix(std::str::from_utf8(two).ok()?, 16).ok())
            })
            .flatten();
        match coded {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8(bytes).unwrap()
}

/// A gRPC message with its prefix.
pub(crate) fn framed(flag: u8, message: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(5 + message.len());
    bytes.put_u8(flag);
    bytes.put_u32(u32::try_from(message.len()).unwrap());
    bytes.put_slice(message);
    bytes
}

/// Waits no longer than any test has patience for.
pub(crate) async fn patiently<T>(future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.expect("an answer in time")
}

impl H2Peer {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let socket = TcpStream::connect(address).await.unwrap();
        socket.set_nodelay(true).unwrap();
        let (requests, connection) = h2::client::Builder::new()
            // Until the server's SETTINGS are there, RFC 9113 §6.5.2 sets no limit and this crate takes that
            // literally; what it opens beyond the server's limit is refused (§5.1.2).
            .initial_max_send_streams(100)
            .initial_window_size(1 << 20)
            .initial_connection_window_size(8 << 20)
            .handshake(socket)
            .await
            .unwrap();
        // Ends with the connection; how it ended is seen by the streams.
        tokio::spawn(async move { drop(connection.await) });
        Self { requests, authority: address.to_string() }
    }

    /// Opens a stream.
    pub(crate) async fn open(
        &mut self,
        method: Method,
        path: &str,
        fields: &[(&str, &str)],
        end: bool,
    ) -> Result<(ResponseFuture, SendStream<Bytes>), h2::Error> {
        let mut request = Request::builder().method(method).uri(format!("http://{}{path}", self.authority));
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let mut requests = patiently(self.requests.clone().ready()).await?;
        requests.send_request(request.body(()).unwrap(), end)
    }

    /// Asks and reads the answer; what is not taken before the answer ends is not sent.
    pub(crate) async fn ask(
        &mut self,
        method: Method,
        path: &str,
        fields: &[(&str, &str)],
        body: &[u8],
    ) -> Result<H2Answer, h2::Error> {
        let (answer, stream) = self.open(method, path, fields, body.is_empty()).await?;
        if body.is_empty() {
            return read(answer).await;
        }
        let body = Bytes::copy_from_slice(body);
        let sending = tokio::spawn(async move { drop(send_all(stream, body, true).await) });
        let answer = read(answer).await;
        sending.abort();
        answer
    }

    /// POST of JSON.
    pub(crate) async fn post(&mut self, path: &str, body: &[u8]) -> Result<H2Answer, h2::Error> {
        self.ask(Method::POST, path, &[("content-type", "application/json")], body).await
    }

    /// A gRPC call with a body as it is.
    pub(crate) async fn call(
        &mut self,
        path: &str,
        fields: &[(&str, &str)],
        body: &[u8],
    ) -> Result<H2Answer, h2::Error> {
        let mut all = vec![("content-type", "application/grpc"), ("te", "trailers")];
        all.extend_from_slice(fields);
        self.ask(Method::POST, path, &all, body).await
    }
}

/// Sends as the peer's window allows.
pub(crate) async fn send_all(
    mut stream: SendStream<Bytes>,
    mut body: Bytes,
    end: bool,
) -> Result<SendStream<Bytes>, h2::Error> {
    while !body.is_empty() {
        stream.reserve_capacity(body.len());
        while stream.capacity() == 0 {
            match std::future::poll_fn(|context| stream.poll_capacity(context)).await {
                Some(capacity) => drop(capacity?),
                // The peer has ended the stream.
                None => return Ok(stream),
            }
        }
        let piece = body.split_to(stream.capacity().min(body.len()));
        stream.send_data(piece, end && body.is_empty())?;
    }
    Ok(stream)
}

/// Reads a whole answer.
pub(crate) async fn read(answer: ResponseFuture) -> Result<H2Answer, h2::Error> {
    let (head, mut stream) = timeout(PATIENCE, answer).await.expect("an answer in time")?.into_parts();
    let body = timeout(PATIENCE, read_body(&mut stream)).await.expect("a body in time")?;
    let trailers = timeout(PATIENCE, stream.trailers()).await.expect("trailers in time")?.unwrap_or_default();
    Ok(H2Answer { status: head.status, head: head.headers, body, trailers })
}

async fn read_body(stream: &mut RecvStream) -> Result<Vec<u8>, h2::Error> {
    let mut body = Vec::new();
    while let Some(data) = stream.data().await {
        let data = data?;
        body.extend_from_slice(&data);
        stream.flow_control().release_capacity(data.len())?;
    }
    Ok(body)
}

/// Runs a future on a runtime of two threads.
pub(crate) fn on_runtime<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let outcome = runtime.block_on(future);
    runtime.shutdown_timeout(Duration::from_secs(1));
    outcome
}
