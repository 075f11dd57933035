//! The client that is never killed: sends, repeats until it is told, and writes down what it was told.

use std::{
    collections::{HashMap, HashSet},
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use crate::{Run, verdict::Sent};

/// Longest wait for an answer.
const TIMEOUT: Duration = Duration::from_secs(20);
/// Pause before the same message is sent again.
const PAUSE: Duration = Duration::from_millis(20);

/// What was sent and what was acknowledged.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Every message, whatever became of it.
    pub sent: Mutex<Vec<Sent>>,
    /// Ids acknowledged at the level asked for.
    pub acknowledged: Mutex<HashSet<String>>,
    /// What was said of each of these.
    pub told: Mutex<HashMap<String, Told>>,
    /// How often the first engine was started again.
    pub life: Arc<AtomicU32>,
    /// Messages sent once more.
    pub repeats: AtomicU64,
    /// Answers by what they mean: not accepted (503), unknown (504), cut.
    pub refused: AtomicU64,
    /// As above.
    pub unknown: AtomicU64,
    /// As above.
    pub cut: AtomicU64,
    /// Answers that nobody may get: a bug.
    pub unexpected: Mutex<Vec<String>>,
}

/// What an acknowledgement said, and who said it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// queued, durable or delivered, as it was asked for.
    pub level: &'static str,
    /// Which life of the engine.
    pub life: u32,
    /// The message's id as the engine has it.
    pub message_id: String,
}

/// What an answer says.
pub enum Answer {
    /// Acknowledged, under this id.
    Yes(String),
    /// 503 or 429.
    NotAccepted,
    /// 504.
    Unknown,
    /// Something else.
    Other(String),
}

/// A connection that is kept while it works.
pub struct Connection {
    port: u16,
    stream: Option<BufReader<TcpStream>>,
    lives: Arc<AtomicU32>,
    /// The life of the engine that it goes to.
    life: u32,
}

impl Connection {
    /// To this port, when it is needed.
    pub fn new(port: u16) -> Self {
        Self::to_lives(port, Arc::default())
    }

    /// The same, to an engine whose lives are counted.
    pub fn to_lives(port: u16, lives: Arc<AtomicU32>) -> Self {
        Self { port, stream: None, lives, life: 0 }
    }

    /// Posts a message under its id as key; `None` when the connection was cut.
    pub fn post(&mut self, sent: &Sent, level: &str) -> Option<Answer> {
        self.post_under(sent, Some(&sent.id), level)
    }

    /// The same under another key, or without one.
    fn post_under(&mut self, sent: &Sent, key: Option<&str>, level: &str) -> Option<Answer> {
        let (status, text) = self.ask(sent, key, level)?;
        Some(match status {
            200 if text.contains(&format!(r#""ack":"{level}""#)) || text.contains(r#""ack":"delivered""#) => {
                let answer: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
                Answer::Yes(answer["messageId"].as_str().unwrap_or_default().to_owned())
            }
            503 | 429 => Answer::NotAccepted,
            504 => Answer::Unknown,
            _ => Answer::Other(format!("{status} {text}")),
        })
    }

    /// Posts a message, under an idempotency key or without one, and gives status and body of the answer; `None` when the
    /// connection was cut.
    pub fn ask(&mut self, sent: &Sent, key: Option<&str>, level: &str) -> Option<(u16, String)> {
        let answer = self.exchange(sent, key, level);
        if answer.is_none() {
            self.stream = None;
        }
        answer
    }

    fn exchange(&mut self, sent: &Sent, key: Option<&str>, level: &str) -> Option<(u16, String)> {
        if self.stream.is_none() {
            let stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
            stream.set_read_timeout(Some(TIMEOUT)).ok()?;
            stream.set_nodelay(true).ok()?;
            // It goes to this life or to none: a life that ended since then answers nothing on it.
            self.life = self.lives.load(Relaxed);
            self.stream = Some(BufReader::new(stream));
        }
        let stream = self.stream.as_mut()?;
        let body = serde_json::json!({"source": sent.key, "data": sent.payload, "metadata": {"n": sent.n}})
            .to_string();
        let key = key.map_or_else(String::new, |key| format!("Idempotency-Key: {key}\r\n"));
        let request = format!(
            "POST /api/v1/ingest HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
             {key}Tidegate-Ack: {level}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.get_mut().write_all(request.as_bytes()).ok()?;
        let (mut status, mut length, mut line) = (0_u16, 0_usize, String::new());
        loop {
            line.clear();
            if stream.read_line(&mut line).ok()? == 0 {
                return None;
            }
            let text = line.trim_end();
            if text.is_empty() {
                break;
            }
            if let Some(rest) = text.strip_prefix("HTTP/1.1 ") {
                status = rest.get(..3)?.parse().ok()?;
            } else if let Some((name, value)) = text.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse().ok()?;
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).ok()?;
        Some((status, String::from_utf8_lossy(&body).into_owned()))
    }
}

/// The content of a message: its name, and a filling of any length up to a few hundred bytes, the same every time. A
/// message without a key is known by its name.
fn payload(id: &str, key: u64, n: u64) -> String {
    let mut random = fastrand::Rng::with_seed(key << 32 ^ n);
    let length = random.usize(1..400);
    let filling: String = std::iter::repeat_with(|| random.alphanumeric()).take(length).collect();
    format!("{id} {filling}")
}

/// Sends until told to stop, each key's messages one after the other. The levels take turns from key to key. What asks for
/// `queued` has no idempotency key, because with one it would wait for the broker; so it is not sent again when it is not
/// known what became of it.
pub fn writers(
    ledger: &Arc<Ledger>,
    ports: &[u16],
    run: &Run,
    levels: &[&'static str],
    prefix: &str,
    stop: &Arc<AtomicBool>,
) -> Vec<JoinHandle<()>> {
    let gap = Duration::from_secs_f64(1.0 / run.rate.max(1) as f64);
    let writer = |key: u64| {
        let (ledger, stop, prefix) = (Arc::clone(ledger), Arc::clone(stop), prefix.to_owned());
        let ports = ports.to_vec();
        let level = levels[key as usize % levels.len()];
        let is_keyed = level != "queued";
        thread::spawn(move || {
            let mut turn = key as usize;
            let mut connection = Connection::to_lives(ports[turn % ports.len()], Arc::clone(&ledger.life));
            let mut due = Instant::now();
            for n in 1.. {
                if stop.load(Relaxed) {
                    return;
                }
                thread::sleep(due.saturating_duration_since(Instant::now()));
                // What an outage cost is not made up for.
                due = Instant::now().max(due) + gap;
                let name = format!("key-{key}");
                let id = format!("{prefix}-{key}-{n}");
                let sent = Sent { payload: payload(&id, key, n), id, key: name, n };
                ledger.sent.lock().push(sent.clone());
                loop {
                    let answer = connection.post_under(&sent, is_keyed.then_some(&sent.id), level);
                    let is_unknown = matches!(answer, None | Some(Answer::Unknown));
                    match answer {
                        Some(Answer::Yes(message_id)) => {
                            let told = Told { level, life: connection.life, message_id };
                            ledger.told.lock().insert(sent.id.clone(), told);
                            ledger.acknowledged.lock().insert(sent.id.clone());
                            break;
                        }
                        Some(Answer::NotAccepted) => ledger.refused.fetch_add(1, Relaxed),
                        Some(Answer::Unknown) => ledger.unknown.fetch_add(1, Relaxed),
                        Some(Answer::Other(text)) => {
                            ledger.unexpected.lock().push(text);
                            return;
                        }
                        None => {
                            // The next process, where there are several.
                            turn += 1;
                            connection =
                                Connection::to_lives(ports[turn % ports.len()], Arc::clone(&ledger.life));
                            ledger.cut.fetch_add(1, Relaxed)
                        }
                    };
                    if is_unknown && !is_keyed {
                        break;
                    }
                    ledger.repeats.fetch_add(1, Relaxed);
                    // After the end a message that was never acknowledged may stay so.
                    if stop.load(Relaxed) {
                        return;
                    }
                    thread::sleep(PAUSE);
                }
            }
        })
    };
    (0..run.keys).map(writer).collect()
}
