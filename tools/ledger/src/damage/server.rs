//! One life of the real binary on a data directory, and its tools that look at one.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use ledger::process::{self, Process};
use parking_lot::Mutex;

use crate::{Queue, client::Connection, verdict::Sent};

/// How long a backlog may take.
pub const PATIENCE: Duration = Duration::from_secs(15);
/// Clients that write at once.
pub const CLIENTS: u64 = 16;
/// An address at which nobody listens (RFC 6335: port 1 is assigned, and out of use).
const NOWHERE: &str = "nats://127.0.0.1:1";

/// What all lives have in common.
pub struct Setup {
    /// The binary.
    pub tidegate: PathBuf,
    /// `Log`, or `Nats` with the log as its outbox.
    pub queue: Queue,
    /// Where NATS is, for `Nats`.
    pub nats: Option<String>,
}

/// What one life is given.
#[derive(Clone, Debug)]
pub struct Life<'a> {
    /// The data directory.
    pub directory: &'a Path,
    /// Where its output goes.
    pub output: PathBuf,
    /// Core threads.
    pub cores: usize,
    /// The stream that it delivers to; `None`: nothing is worked on or delivered.
    pub onward: Option<&'a str>,
    /// Further settings.
    pub set: Vec<String>,
}

/// How a start ended.
pub enum Start {
    /// It listens.
    Up(Server),
    /// It ended, and said this last.
    Refused(String),
}

/// A running server.
pub struct Server {
    process: Process,
    output: PathBuf,
}

/// A message that was acknowledged, with its place.
#[derive(Clone, Debug)]
pub struct Kept {
    /// The message; its id is the first word of its payload.
    pub sent: Sent,
    /// Whether its id was its idempotency key.
    pub keyed: bool,
    /// Shard and offset.
    pub place: (u64, u64),
    /// Whether the answer called it a repeat.
    pub duplicate: bool,
}

/// A message of this name and number. Its content names it: ids of messages without a key are the server's.
pub fn message(name: &str, n: u64) -> Sent {
    let id = format!("{name}-{n}");
    let mut random = fastrand::Rng::with_seed(n);
    let length = random.usize(300..700);
    let filling: String = std::iter::repeat_with(|| random.alphanumeric()).take(length).collect();
    Sent { payload: format!("{id} {filling}"), key: format!("key-{}", n % 16), n, id }
}

/// The name in a payload.
pub fn name_of(payload: &str) -> &str {
    payload.split(' ').next().unwrap_or_default()
}

/// The subject of a stream of these tests.
pub fn subject_of(stream: &str) -> String {
    format!("{}.messages", stream.to_lowercase())
}

impl Setup {
    /// Starts a server.
    pub fn start(&self, life: &Life<'_>) -> Result<Start> {
        let port = process::free_port()?;
        let queue = if self.queue == Queue::Nats { "nats" } else { "log" };
        let works = life.onward.is_some() && self.queue == Queue::Log;
        let mut arguments = vec!["run".to_owned(), "--cores".to_owned(), life.cores.to_string()];
        let url = life.onward.and(self.nats.as_deref()).unwrap_or(NOWHERE);
        let stream = life.onward.unwrap_or("NOWHERE");
        let mut set = vec![
            format!("queue.type={queue}"),
            format!("queue.consume={works}"),
            format!("data.directory={}", life.directory.display()),
            // The smallest segments that hold the largest message of these limits.
            "data.segment_bytes=147456".to_owned(),
            "limits.http_body_bytes_max=16384".to_owned(),
            "limits.grpc_message_bytes_max=16384".to_owned(),
            "engine.partition_key=source".to_owned(),
            "timeouts.shutdown=5s".to_owned(),
            format!("nats.url={url}"),
            format!("nats.stream={stream}"),
            format!("nats.subject={}", subject_of(stream)),
            format!("listen.gateway=127.0.0.1:{port}"),
            "metrics.enabled=false".to_owned(),
        ];
        for listener in ["ingest", "processor", "analytics", "grpc"] {
            set.push(format!("listen.{listener}=127.0.0.1:0"));
        }
        set.extend(life.set.iter().cloned());
        for pair in set {
            arguments.extend(["--set".to_owned(), pair]);
        }
        let environment = vec![("NO_COLOR".to_owned(), "1".to_owned())];
        let mut process =
            Process::start("tidegate", &self.tidegate, arguments, environment, &life.output, port)?;
        let output = life.output.join("tidegate.log");
        match process.wait() {
            Ok(()) => Ok(Start::Up(Server { process, output })),
            Err(_) if process.has_ended() => Ok(Start::Refused(last_words(&output))),
            Err(error) => Err(error),
        }
    }

    /// Runs one of the binary's tools; whether it was content, and all that it said.
    pub fn tool(&self, arguments: &[&str]) -> Result<(bool, String)> {
        let output = Command::new(&self.tidegate).args(arguments).output().context("the binary's tools")?;
        let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        Ok((output.status.success(), said.concat()))
    }

    /// How far the consumers of a directory are behind, all together; `None` when they cannot be asked.
    pub fn behind(&self, directory: &Path) -> Result<Option<u64>> {
        let (_, said) = self.tool(&["log", "stat", "--directory", &directory.display().to_string()])?;
        let lags = said.lines().filter_map(|line| line.strip_prefix("consumer ")?.split_once(": "));
        let lags = lags.filter_map(|(_, rest)| rest.split(' ').next()?.parse::<u64>().ok());
        Ok(lags.reduce(|all, lag| all + lag))
    }

    /// Waits until no consumer is behind; how far they are when there is no patience left.
    pub fn settle(&self, directory: &Path) -> Result<u64> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.behind(directory)? {
                Some(0) => return Ok(0),
                behind if Instant::now() > deadline => return Ok(behind.unwrap_or(u64::MAX)),
                _ => thread::sleep(Duration::from_millis(100)),
            }
        }
    }
}

impl Server {
    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.process.port
    }

    /// Whether it has ended by itself; then its last words.
    pub fn ended(&mut self) -> Option<String> {
        self.process.has_ended().then(|| last_words(&self.output))
    }

    /// SIGKILL.
    pub fn kill(mut self) {
        self.process.kill();
    }

    /// SIGTERM; gives the number in the last line that says how many messages the workers processed, if there is one.
    pub fn stop(mut self) -> Result<Option<u64>> {
        // A failure is a code, and the last line says why; what is missing is found by looking.
        self.process.stop()?;
        let text = std::fs::read_to_string(&self.output)?;
        let last = text.lines().rev().find(|line| line.contains(" stopped "));
        let field = last.and_then(|line| line.split(" processed=").nth(1)?.split(' ').next());
        Ok(field.and_then(|number| number.parse().ok()))
    }

    /// Sends messages, those with `true` under a key, by several clients at once: what was acknowledged. A client ends when a
    /// message of its is not taken.
    pub fn send_all(&self, messages: &[(Sent, bool)]) -> Vec<Kept> {
        let (next, kept) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
        thread::scope(|scope| {
            for _ in 0..CLIENTS {
                scope.spawn(|| {
                    let mut connection = Connection::new(self.port());
                    while let Some((sent, keyed)) = messages.get(next.fetch_add(1, Relaxed)) {
                        let Some(answer) = Self::send(&mut connection, sent, *keyed) else { break };
                        kept.lock().push(answer);
                    }
                });
            }
        });
        kept.into_inner()
    }

    /// Sends a message durably until it is taken; `None` when it is not.
    pub fn send(connection: &mut Connection, sent: &Sent, keyed: bool) -> Option<Kept> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some((200, text)) = connection.ask(sent, keyed.then_some(sent.id.as_str()), "durable") {
                let answer: serde_json::Value = serde_json::from_str(&text).ok()?;
                let place = (answer["shard"].as_u64()?, answer["offset"].as_u64()?);
                let duplicate = answer["duplicate"].as_bool().unwrap_or(false);
                return Some(Kept { sent: sent.clone(), keyed, place, duplicate });
            }
            thread::sleep(Duration::from_millis(20));
        }
        None
    }
}

/// What it said before it ended: the line that names an error, the last one otherwise.
fn last_words(output: &Path) -> String {
    let text = std::fs::read_to_string(output).unwrap_or_default();
    let mut lines = text.lines().rev().filter(|line| !line.trim().is_empty());
    let last = lines.clone().next().unwrap_or("nothing").to_owned();
    let is_error = |line: &&str| line.starts_with("tidegate: ") || line.contains(" ERROR ");
    lines.find(is_error).map_or(last, str::to_owned)
}

/// The names of messages.
pub fn names<'a>(kept: impl IntoIterator<Item = &'a Kept>) -> HashSet<String> {
    kept.into_iter().map(|kept| kept.sent.id.clone()).collect()
}
