//! A Tidegate process of our own: started on free ports, asked to stop, its last words kept.

use std::{
    cell::Cell,
    collections::HashMap,
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::process;

/// How long a start may take; the server itself needs well under a second.
const START_PATIENCE: Duration = Duration::from_secs(10);
/// How long a stop may take.
const STOP_PATIENCE: Duration = Duration::from_secs(20);

/// A running server. Dropping it kills it; [`Server::stop`] is the friendly way.
pub struct Server {
    child: Child,
    lines: Receiver<String>,
    listeners: HashMap<String, SocketAddr>,
    /// A second SIGTERM would mean "end at once".
    is_told: Cell<bool>,
}

/// How a server ended.
#[derive(Debug)]
pub struct End {
    /// Its exit status.
    pub status: ExitStatus,
    /// Its last log line.
    pub last_line: String,
}

impl Server {
    /// Starts the program on free ports of the loopback interface and waits until it is ready.
    ///
    /// # Errors
    /// When it cannot be started or does not become ready; with what it said.
    pub fn start(program: &Path, arguments: &[&str]) -> Result<Self> {
        let mut command = Command::new(program);
        for part in ["gateway", "ingest", "processor", "analytics", "grpc"] {
            command.arg("--set").arg(format!("listen.{part}=127.0.0.1:0"));
        }
        command.args(["--set", "metrics.enabled=false", "--log-format", "json"]).args(arguments);
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("{} cannot be started", program.display()))?;
        let Some(stderr) = child.stderr.take() else { bail!("the server's log cannot be read") };
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let mut server = Self { child, lines, listeners: HashMap::new(), is_told: Cell::new(false) };
        server.listeners = server.wait_until_ready()?;
        Ok(server)
    }

    fn wait_until_ready(&self) -> Result<HashMap<String, SocketAddr>> {
        let deadline = Instant::now() + START_PATIENCE;
        let mut said = String::new();
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    if let Some(listeners) = ready_listeners(&line) {
                        return Ok(listeners);
                    }
                    said.push_str(&line);
                    said.push('\n');
                }
                Err(RecvTimeoutError::Timeout) => {
                    bail!("the server is not ready after {START_PATIENCE:?}; it said:\n{said}")
                }
                Err(RecvTimeoutError::Disconnected) => {
                    bail!("the server ended before it was ready; it said:\n{said}")
                }
            }
        }
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where a part listens: `gateway`, `ingest`, `processor`, `grpc`.
    ///
    /// # Errors
    /// When the server did not name it.
    pub fn address(&self, part: &str) -> Result<SocketAddr> {
        self.listeners.get(part).copied().with_context(|| format!("the server names no listener `{part}`"))
    }

    /// CPU time used so far.
    ///
    /// # Errors
    /// When it is gone.
    pub fn cpu_time(&self) -> Result<Duration> {
        process::cpu_time(self.pid()).context("the server is gone")
    }

    /// Sends SIGTERM, once.
    ///
    /// # Errors
    /// When it is gone.
    pub fn terminate(&self) -> Result<()> {
        if self.is_told.replace(true) {
            return Ok(());
        }
        process::terminate(self.pid()).context("the server cannot be signalled")
    }

    /// Sends SIGTERM unless that was done, and waits for the end.
    ///
    /// # Errors
    /// When it does not end; it is then killed.
    pub fn stop(mut self) -> Result<End> {
        // It may have ended by itself: then its exit status says so.
        let _ = self.terminate();
        let deadline = Instant::now() + STOP_PATIENCE;
        let mut last_line = String::new();
        // The log ends when the process does.
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => last_line = line,
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => bail!("the server did not stop within {STOP_PATIENCE:?}"),
            }
        }
        Ok(End { status: self.child.wait()?, last_line })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // After `stop` it is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl End {
    /// A count of the last line: `accepted`, `processed`, `lost`.
    pub fn count(&self, name: &str) -> Option<u64> {
        field(&serde_json::from_str(&self.last_line).ok()?, name)?.as_u64()
    }
}

/// A field of a JSON log line, wherever the logger puts an event's fields.
fn field<'a>(line: &'a Value, name: &str) -> Option<&'a Value> {
    line.get(name).or_else(|| line.get("fields")?.get(name))
}

/// The listeners of the line that says "ready": `gateway=127.0.0.1:41234 ingest=…`.
fn ready_listeners(line: &str) -> Option<HashMap<String, SocketAddr>> {
    let line: Value = serde_json::from_str(line).ok()?;
    if field(&line, "message")?.as_str()? != "tidegate is ready" {
        return None;
    }
    let pairs = field(&line, "listeners")?.as_str()?.split_ascii_whitespace();
    pairs
        .map(|pair| pair.split_once('=').and_then(|(name, at)| Some((name.to_owned(), at.parse().ok()?))))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_line_names_the_listeners() {
        let line = r#"{"level":"INFO","message":"tidegate is ready","listeners":"gateway=127.0.0.1:4 grpc=[::1]:5"}"#;
        let listeners = ready_listeners(line).unwrap();
        assert_eq!(listeners["gateway"], "127.0.0.1:4".parse().unwrap());
        assert_eq!(listeners["grpc"].port(), 5);
        let nested = r#"{"fields":{"message":"tidegate is ready","listeners":"gateway=127.0.0.1:4"}}"#;
        assert_eq!(ready_listeners(nested).unwrap().len(), 1);
    }

    #[test]
    fn other_lines_are_not_the_ready_line() {
        assert!(ready_listeners(r#"{"message":"draining"}"#).is_none());
        assert!(ready_listeners("tidegate is ready").is_none());
    }
}
