//! Publishing: pipelined, with one inbox for all acknowledgements.
//!
//! When the connection is lost, an acknowledgement is late, or JetStream refuses for now, the connection is thrown away
//! and everything unacknowledged is sent again in order on a new one, under the same `Nats-Msg-Id`: what had arrived
//! is recognised there (for two minutes, the stream's default) and acknowledged as a duplicate. That id names the record
//! ([`Naming`]). A duplicate that was not sent before is another record under the same name: it is not stored, so it is sent
//! again under a new one, and may then stand behind later ones of its key.
//!
//! A client that reconnects by itself would first send what it still holds, which is the middle of what is unacknowledged:
//! later messages of a key would be stored before earlier ones.
//!
//! With `pack_messages` over 1, what waits to be sent travels several records to a NATS message (see [`super`]).
//!
//! What this cannot order: when JetStream refuses one of many in flight (a full stream), those behind it may already
//! be stored. So after a refusal one is sent at a time until one is taken.

use std::{
    collections::VecDeque,
    hash::{DefaultHasher, Hasher},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Wake, Waker},
    thread,
    time::{Duration, Instant},
};

use async_nats::{Client, HeaderMap, Message, StatusCode, Subscriber, jetstream};
use bytes::{Bytes, BytesMut};
use engine_core::{MetadataPairs, Record};
use futures_util::{FutureExt, StreamExt};
use serde::Deserialize;
use tokio::{runtime::Runtime, sync::Notify};

use super::{Broken, Link, Naming, NatsConfig, PACK_HEADER, connect, naming::Name, stream};
use crate::{
    backoff::Backoff,
    data_message,
    publisher::{Ack, Busy, Publisher, Rejected},
    status::SideStatus,
};

/// Bytes of a pack, at most; never more than half of what the server takes.
const PACK_BYTES_MAX: usize = 256 << 10;
/// How long the server may take to say that the stream is there. Longer, and it counts as gone: it may stand still and
/// keep its connections.
const STILL_THERE_TIMEOUT: Duration = Duration::from_secs(2);
/// How often the stream is looked for.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// A publish that is not acknowledged: one record, or a pack of them.
struct Pending {
    tags: Vec<u64>,
    /// Of the first record; a pack gets its own when it is sent.
    headers: HeaderMap,
    payload: BytesMut,
    /// Over the names.
    digest: [DefaultHasher; 2],
    /// An earlier run can have sent all of it.
    may_be_there: bool,
    /// Ready to be sent, and as it was sent.
    sealed: Option<(HeaderMap, Bytes)>,
    first_sent: Option<Instant>,
    sent: Option<Instant>,
    attempts: u32,
    done: bool,
}

impl Pending {
    fn new(tag: u64, name: &Name, headers: HeaderMap, value: &[u8]) -> Self {
        let mut digest = [DefaultHasher::new(), DefaultHasher::new()];
        digest[1].write_u8(1);
        let mut pending = Self {
            tags: Vec::with_capacity(1),
            headers,
            payload: BytesMut::new(),
            digest,
            may_be_there: true,
            sealed: None,
            first_sent: None,
            sent: None,
            attempts: 0,
            done: false,
        };
        pending.push(tag, name, value);
        pending
    }

    fn push(&mut self, tag: u64, name: &Name, value: &[u8]) {
        if !self.tags.is_empty() {
            self.payload.extend_from_slice(b"\n");
        }
        self.tags.push(tag);
        self.payload.extend_from_slice(value);
        for digest in &mut self.digest {
            digest.write_usize(name.text.len());
            digest.write(name.text.as_bytes());
        }
        self.may_be_there &= name.may_be_there;
    }

    /// Another record has its name.
    fn rename(&mut self) {
        let more = fastrand::u64(..);
        if let Some((headers, _)) = &mut self.sealed
            && let Some(name) = headers.get("Nats-Msg-Id")
        {
            let name = format!("{name}-{more:016x}");
            headers.insert("Nats-Msg-Id", name.as_str());
        }
        (self.attempts, self.may_be_there) = (0, false);
    }

    /// Headers and payload; nothing is added any more.
    fn seal(&mut self) -> (HeaderMap, Bytes) {
        let (headers, payload, tags) = (&mut self.headers, &mut self.payload, &self.tags);
        let digest = &self.digest;
        let sealed = self.sealed.get_or_insert_with(|| {
            let mut headers = std::mem::take(headers);
            if tags.len() > 1 {
                headers = HeaderMap::new();
                // The same records, the same id: a pack that is sent again is recognised.
                let id = format!("pack-{:016x}{:016x}", digest[0].finish(), digest[1].finish());
                headers.insert("Nats-Msg-Id", id.as_str());
                headers.insert(PACK_HEADER, tags.len().to_string());
                headers.insert("schema", data_message::SCHEMA);
            }
            (headers, std::mem::take(payload).freeze())
        });
        sealed.clone()
    }
}

/// JetStream's answer to a publish.
#[derive(Deserialize)]
struct PubAck {
    error: Option<PubError>,
    /// The stream has a message with this `Nats-Msg-Id`, and did not store this one.
    #[serde(default)]
    duplicate: bool,
}

#[derive(Deserialize)]
struct PubError {
    err_code: Option<u64>,
    #[serde(default)]
    description: String,
}

/// The publisher of NATS JetStream.
pub struct NatsPublisher {
    config: NatsConfig,
    naming: Naming,
    status: Arc<SideStatus>,
    session: Option<(Runtime, Session)>,
    bell: Arc<Bell>,
    /// Oldest first; `first` is the number of the first.
    pending: VecDeque<Pending>,
    first: u64,
    in_flight: usize,
    /// From here on to be sent, counted from the first.
    unsent: usize,
    /// Nothing is sent before.
    hold: Option<Instant>,
    backoff: Backoff,
    /// JetStream refused the last one: one at a time.
    careful: bool,
    refused: Vec<Ack>,
    value: Vec<u8>,
}

/// A connection, from the first try until it breaks. Its tasks end with its runtime.
struct Session {
    link: Arc<Link>,
    client: Client,
    replies: Subscriber,
    inbox: String,
    /// The stream is there.
    ready: Arc<AtomicBool>,
}

impl Session {
    fn start(
        config: &NatsConfig,
        status: &Arc<SideStatus>,
        wake: &Arc<Notify>,
    ) -> Result<(Runtime, Self), String> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| format!("nats: no runtime: {error}"))?;
        let link = Arc::new(Link { wake: Arc::clone(wake), ..Link::default() });
        let (client, replies, inbox) = runtime.block_on(async {
            let client = connect(config, status, &link, Broken::StayBroken).await?;
            let inbox = client.new_inbox();
            let replies = client.subscribe(format!("{inbox}.*")).await.map_err(|error| error.to_string())?;
            Ok::<_, String>((client, replies, inbox))
        })?;
        let ready = Arc::new(AtomicBool::new(false));
        runtime.spawn(keep_stream(
            client.clone(),
            config.clone(),
            Arc::clone(status),
            Arc::clone(&link),
            Arc::clone(&ready),
        ));
        Ok((runtime, Self { link, client, replies, inbox, ready }))
    }

    fn is_connected(&self) -> bool {
        self.link.connected.load(Ordering::Acquire) && self.ready.load(Ordering::Acquire)
    }
}

struct Bell {
    wake: Arc<Notify>,
    rung: AtomicBool,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.rung.swap(true, Ordering::AcqRel) {
            self.wake.notify_one();
        }
    }
}

impl NatsPublisher {
    /// A publisher; it need not reach a server yet.
    ///
    /// # Errors
    /// What is wrong with the configuration.
    pub fn new(config: NatsConfig, naming: Naming, status: Arc<SideStatus>) -> Result<Self, String> {
        let wake = Arc::new(Notify::new());
        let session = Session::start(&config, &status, &wake)?;
        Ok(Self {
            config,
            naming,
            status,
            session: Some(session),
            bell: Arc::new(Bell { wake, rung: AtomicBool::new(false) }),
            pending: VecDeque::new(),
            first: 0,
            in_flight: 0,
            unsent: 0,
            hold: None,
            backoff: Backoff::new(Duration::from_millis(100), Duration::from_secs(5)),
            careful: false,
            refused: Vec::new(),
            value: Vec::new(),
        })
    }

    /// Everything unacknowledged is to be sent again, after a pause, on a new connection.
    fn go_back(&mut self) {
        self.unsent = 0;
        self.hold = Some(Instant::now() + self.backoff.next_pause());
        if let Some((runtime, _)) = self.session.take() {
            runtime.shutdown_background();
        }
    }

    /// Goes back when the connection broke or an acknowledgement is late; connects again after the pause.
    fn keep_session(&mut self) {
        if let Some((_, session)) = &self.session {
            let oldest = self.pending.iter().find(|pending| !pending.done);
            let late = oldest
                .and_then(|pending| pending.sent)
                .is_some_and(|sent| sent.elapsed() > self.config.ack_timeout)
                && self.unsent > 0;
            if late {
                self.status.set_trouble(Some(format!(
                    "nats.stream = {} at {}: no acknowledgement for {} ms",
                    self.config.stream,
                    self.config.servers,
                    self.config.ack_timeout.as_millis()
                )));
            }
            if late || session.link.broke.load(Ordering::Acquire) {
                self.go_back();
            }
        }
        if self.session.is_none() && self.hold.is_none_or(|until| Instant::now() >= until) {
            match Session::start(&self.config, &self.status, &self.bell.wake) {
                Ok(session) => {
                    self.hold = None;
                    self.session = Some(session);
                }
                Err(error) => {
                    self.status.set_trouble(Some(error));
                    self.hold = Some(Instant::now() + self.backoff.next_pause());
                }
            }
        }
    }

    /// Takes an acknowledgement; an error when this connection is to be left.
    fn note(&mut self, message: &Message, acks: &mut Vec<Ack>) -> Result<(), Leave> {
        let number = message.subject.rsplit('.').next().and_then(|number| number.parse::<u64>().ok());
        let Some(place) = number.and_then(|number| number.checked_sub(self.first)) else {
            return Ok(());
        };
        let Some(pending) = self.pending.get_mut(place as usize).filter(|pending| !pending.done) else {
            return Ok(());
        };
        let error = if message.status == Some(StatusCode::NO_RESPONDERS) {
            Some((0, "nobody listens: JetStream is off, or the stream is gone".to_owned()))
        } else {
            match serde_json::from_slice::<PubAck>(&message.payload) {
                Ok(PubAck { error: None, duplicate: true })
                    if pending.attempts <= 1 && !pending.may_be_there =>
                {
                    // Not stored, and no resend of ours.
                    self.status.retries.fetch_add(1, Ordering::Relaxed);
                    tracing::error!(
                        stream = self.config.stream,
                        "JetStream has another message under a record's name; it is sent again under a new one"
                    );
                    pending.rename();
                    return Err(Leave);
                }
                Ok(PubAck { error: None, .. }) => None,
                Ok(PubAck { error: Some(error), .. }) => {
                    Some((error.err_code.unwrap_or(0), error.description))
                }
                Err(error) => Some((0, format!("an acknowledgement that is none: {error}"))),
            }
        };
        let outcome = match error {
            None => {
                let took = pending.first_sent.filter(|_| place == 0).map(|sent| sent.elapsed());
                self.status.note_acknowledged(took);
                self.backoff.reset();
                self.careful = false;
                Ok(())
            }
            Some((code, reason)) if is_permanent(code) => {
                Err(Rejected { code: code.to_string(), reason, attempts: pending.attempts })
            }
            Some((code, reason)) => {
                let text = format!("nats.stream = {}: {reason} (code {code})", self.config.stream);
                self.status.set_trouble(Some(text));
                self.careful = true;
                return Err(Leave);
            }
        };
        pending.done = true;
        self.in_flight -= pending.tags.len();
        acks.extend(pending.tags.drain(..).map(|tag| Ack { tag, outcome: outcome.clone() }));
        while self.pending.front().is_some_and(|pending| pending.done) {
            self.pending.pop_front();
            self.first += 1;
            self.unsent = self.unsent.saturating_sub(1);
        }
        Ok(())
    }

    /// Sends what is to be sent.
    async fn send(&mut self, session: &Session) -> Result<(), Leave> {
        if !session.is_connected() {
            return Ok(());
        }
        while let Some(pending) = self.pending.get_mut(self.unsent) {
            if self.careful && self.unsent > 0 {
                break;
            }
            if !pending.done {
                if pending.attempts > 0 {
                    self.status.retries.fetch_add(1, Ordering::Relaxed);
                }
                pending.attempts += 1;
                let now = Instant::now();
                pending.first_sent.get_or_insert(now);
                pending.sent = Some(now);
                let reply = format!("{}.{}", session.inbox, self.first + self.unsent as u64);
                let (headers, payload) = pending.seal();
                let subject = self.config.subject.clone();
                let sent = session.client.publish_with_reply_and_headers(subject, reply, headers, payload);
                if let Err(error) = sent.await {
                    self.status.set_trouble(Some(format!("nats.url = {}: {error}", self.config.servers)));
                    return Err(Leave);
                }
            }
            self.unsent += 1;
        }
        Ok(())
    }

    async fn drive(
        &mut self,
        session: &mut Session,
        timeout: Duration,
        acks: &mut Vec<Ack>,
    ) -> Result<(), Leave> {
        self.send(session).await?;
        let timeout = if acks.is_empty() { timeout } else { Duration::ZERO };
        let message = tokio::select! {
            message = session.replies.next() => message,
            () = self.bell.wake.notified() => None,
            () = tokio::time::sleep(timeout) => None,
        };
        self.bell.rung.store(false, Ordering::Release);
        if let Some(message) = message {
            self.note(&message, acks)?;
        }
        // All that came with it; a few of them, so that the cores are not kept waiting.
        for _ in 0..1024 {
            let Some(Some(message)) = session.replies.next().now_or_never() else { break };
            self.note(&message, acks)?;
        }
        Ok(())
    }
}

/// This connection is to be left.
struct Leave;

impl Publisher for NatsPublisher {
    fn publish(&mut self, tag: u64, record: &Record<'_>) -> Result<(), Busy> {
        if !self.is_connected() {
            return Err(Busy);
        }
        let has_room = self.pending.len() < self.config.in_flight_max;
        let joins = |last: &Pending| last.sealed.is_none() && last.tags.len() < self.config.pack_messages;
        if !has_room && !self.pending.back().is_some_and(joins) {
            return Err(Busy);
        }
        self.value.clear();
        data_message::write(record, &mut self.value);
        let name = self.naming.name(tag);
        let max = self.session.as_ref().map_or(usize::MAX, |(_, session)| session.client.max_payload());
        if let Some(last) = self.pending.back_mut()
            && last.sealed.is_none()
            && last.tags.len() < self.config.pack_messages
            && last.payload.len() + self.value.len() < PACK_BYTES_MAX.min(max / 2)
        {
            last.push(tag, &name, &self.value);
            self.in_flight += 1;
            return Ok(());
        }
        if self.pending.len() >= self.config.in_flight_max {
            return Err(Busy);
        }
        let text = String::from_utf8_lossy;
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Msg-Id", name.text.as_str());
        headers.insert("message_id", &*header_value(&text(record.id)));
        headers.insert("source", &*header_value(&text(record.source)));
        headers.insert("schema", data_message::SCHEMA);
        if let Some((_, value)) =
            MetadataPairs::new(record.metadata).find(|(name, _)| *name == b"traceparent")
        {
            headers.insert("traceparent", &*header_value(&text(value)));
        }
        self.in_flight += 1;
        let bytes = self.value.len() + name.text.len() + record.id.len() + record.source.len() + 160;
        if bytes > max {
            let reason = format!("{bytes} bytes with headers are over the server's max_payload = {max}");
            let rejected = Rejected { code: "MAX_PAYLOAD".to_owned(), reason, attempts: 1 };
            self.refused.push(Ack { tag, outcome: Err(rejected) });
            return Ok(());
        }
        self.pending.push_back(Pending::new(tag, &name, headers, &self.value));
        Ok(())
    }

    fn poll(&mut self, timeout: Duration, acks: &mut Vec<Ack>) {
        self.in_flight -= self.refused.len();
        acks.append(&mut self.refused);
        self.keep_session();
        let Some((runtime, mut session)) = self.session.take() else {
            let hold = self.hold.map(|until| until.saturating_duration_since(Instant::now()));
            thread::sleep(hold.map_or(timeout, |hold| hold.min(timeout)));
            self.bell.rung.store(false, Ordering::Release);
            return;
        };
        let driven = runtime.block_on(self.drive(&mut session, timeout, acks));
        self.session = Some((runtime, session));
        if let Err(Leave) = driven {
            self.go_back();
        }
    }

    fn in_flight(&self) -> usize {
        self.in_flight
    }

    fn is_connected(&self) -> bool {
        self.session.as_ref().is_some_and(|(_, session)| session.is_connected())
    }

    fn waker(&self) -> Waker {
        Waker::from(Arc::clone(&self.bell))
    }
}

/// Header values are one line.
fn header_value(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// What another try cannot change: error codes of nats-server (server/errors.json).
fn is_permanent(code: u64) -> bool {
    const MESSAGE_EXCEEDS_MAXIMUM: u64 = 10054;
    code == MESSAGE_EXCEEDS_MAXIMUM
}

/// Looks for the stream until it is there, and once a second whether it still is.
async fn keep_stream(
    client: Client,
    config: NatsConfig,
    status: Arc<SideStatus>,
    link: Arc<Link>,
    ready: Arc<AtomicBool>,
) {
    let context = jetstream::new(client);
    loop {
        if link.connected.load(Ordering::Acquire) && !ready.load(Ordering::Acquire) {
            match stream(&context, &config).await {
                Ok(_) => {
                    ready.store(true, Ordering::Release);
                    link.wake.notify_one();
                }
                Err(error) => status.set_trouble(Some(error)),
            }
        } else if link.connected.load(Ordering::Acquire) {
            let look = tokio::time::timeout(STILL_THERE_TIMEOUT, context.get_stream(&config.stream));
            let trouble = match look.await {
                Ok(Ok(_)) => None,
                Ok(Err(error)) => Some(error.to_string()),
                Err(_) => Some(format!("no answer for {} ms", STILL_THERE_TIMEOUT.as_millis())),
            };
            if let Some(why) = trouble {
                ready.store(false, Ordering::Release);
                status.set_trouble(Some(format!(
                    "nats.stream = {} at {}: {why}",
                    config.stream, config.servers
                )));
                link.wake.notify_one();
            }
        }
        tokio::time::sleep(if ready.load(Ordering::Acquire) { LOOK_AGAIN } else { LOOK_AGAIN / 5 }).await;
    }
}
