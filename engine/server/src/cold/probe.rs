//! `GET /api/v1/trace`: a real message sent to the processor's own port over a fresh connection, with the time of
//! each phase measured. The probe is marked, goes the whole way, and stays out of the business counts.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use http::HeaderValue;
use serde::Serialize;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// Longest a probe may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// The answer of `/api/v1/trace`.
#[derive(Debug, Serialize)]
pub struct Trace {
    success: bool,
    latency: Phases,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// Phase times, in Go's duration notation.
#[derive(Debug, Default, Serialize)]
pub struct Phases {
    dns_lookup: String,
    tcp_connection: String,
    tls_handshake: String,
    server_processing: String,
    total: String,
}

/// The processor that is probed.
#[derive(Clone, Debug)]
pub struct Processor {
    /// Name or address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// The path of its `/enqueue`.
    pub path: String,
    /// What it asks for, if it does.
    pub key: Option<HeaderValue>,
}

impl Processor {
    /// The one of this process.
    pub fn own(address: SocketAddr, key: Option<HeaderValue>) -> Self {
        // The name is looked up although the address is known: what is measured is what a client would meet.
        let host =
            if address.ip().is_unspecified() { "localhost".to_owned() } else { address.ip().to_string() };
        Self { host, port: address.port(), path: "/enqueue".to_owned(), key }
    }

    /// The line of a request's head that has the key, or nothing.
    pub fn key_line(&self) -> String {
        let key = self.key.as_ref().and_then(|key| key.to_str().ok());
        key.map(|key| format!("X-Api-Key: {key}\r\n")).unwrap_or_default()
    }
}

/// Probes a processor; `token` is the process's own secret that marks the message as a probe. Another process does not
/// know it: there the probe is a message like any other.
pub async fn trace(processor: &Processor, token: &str) -> Trace {
    let start = Instant::now();
    let mut latency = Phases { tls_handshake: go_duration(Duration::ZERO), ..Phases::default() };
    let outcome = timeout(PROBE_TIMEOUT, phases(processor, token, &mut latency)).await;
    latency.total = go_duration(start.elapsed());
    for phase in [&mut latency.dns_lookup, &mut latency.tcp_connection, &mut latency.server_processing] {
        if phase.is_empty() {
            *phase = go_duration(Duration::ZERO);
        }
    }
    let error = match outcome {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(error.to_string()),
        Err(_) => Some(format!("no answer within {}", go_duration(PROBE_TIMEOUT))),
    };
    Trace { success: error.is_none(), latency, error }
}

/// A trace that could not even begin.
pub fn unreachable(why: &str) -> Trace {
    let zero = || go_duration(Duration::ZERO);
    let latency = Phases {
        dns_lookup: zero(),
        tcp_connection: zero(),
        tls_handshake: zero(),
        server_processing: zero(),
        total: zero(),
    };
    Trace { success: false, latency, error: Some(why.to_owned()) }
}

async fn phases(processor: &Processor, token: &str, latency: &mut Phases) -> anyhow::Result<()> {
    let Processor { host, port, path, .. } = processor;
    let clock = Instant::now();
    let found: Vec<SocketAddr> = tokio::net::lookup_host((host.as_str(), *port)).await?.collect();
    latency.dns_lookup = go_duration(clock.elapsed());

    let clock = Instant::now();
    let mut stream = TcpStream::connect(found.as_slice()).await?;
    stream.set_nodelay(true)?;
    latency.tcp_connection = go_duration(clock.elapsed());

    let clock = Instant::now();
    let body = serde_json::json!({
        "id": "trace-test",
        "source": "trace-endpoint",
        "payload": "bGF0ZW5jeSBtZWFzdXJlbWVudA==",
        "metadata": {"trace": "true"},
    })
    .to_string();
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nTidegate-Probe: {token}\r\n\
         {}Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        processor.key_line(),
        body.len()
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_buf(&mut answer).await?;
    latency.server_processing = go_duration(clock.elapsed());
    // The rest is read so that the connection ends in order.
    stream.read_to_end(&mut answer).await?;
    let status = answer.split(|byte| *byte == b'\r').next().unwrap_or_default();
    if !status.starts_with(b"HTTP/1.1 202") {
        anyhow::bail!("the processor answered {:?}", String::from_utf8_lossy(status));
    }
    Ok(())
}

/// Go's `time.Duration` notation: `1.2ms`, `350µs`, `2.5s`, `0s`.
pub fn go_duration(duration: Duration) -> String {
    let nanoseconds = duration.as_nanos();
    let (value, unit) = match nanoseconds {
        0 => return "0s".to_owned(),
        1..=999 => return format!("{nanoseconds}ns"),
        1_000..=999_999 => (nanoseconds as f64 / 1e3, "µs"),
        1_000_000..=999_999_999 => (nanoseconds as f64 / 1e6, "ms"),
        _ => (nanoseconds as f64 / 1e9, "s"),
    };
    format!("{value}{unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_go_writes_them() {
        assert_eq!(go_duration(Duration::ZERO), "0s");
        assert_eq!(go_duration(Duration::from_nanos(350)), "350ns");
        assert_eq!(go_duration(Duration::from_nanos(1_500)), "1.5µs");
        assert_eq!(go_duration(Duration::from_micros(1_200)), "1.2ms");
        assert_eq!(go_duration(Duration::from_millis(2_500)), "2.5s");
    }
}
