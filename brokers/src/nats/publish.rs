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
//! What a refusal judges ([`super::verdict`]) decides what changes before that. A pack that is refused is sent again in
//! halves, each alone, and only a record that was refused alone is [`Rejected`]. So that this is rare, the stream's
//! `max_msg_size` is read before anything is packed, and packs are kept below it.
//!
//! What this cannot order: when JetStream refuses one of many in flight (a full stream, a pack), those behind it may
//! already be stored. So after a refusal one is sent at a time until one is taken.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Wake, Waker},
    thread,
    time::{Duration, Instant},
};

use async_nats::{Client, Message, StatusCode, Subject, Subscriber, client::PublishErrorKind, jetstream};
use engine_core::{Record, clock};
use futures_util::{FutureExt, StreamExt};
use serde::Deserialize;
use tokio::{runtime::Runtime, sync::Notify};

use super::{
    Broken, Link, Naming, NatsConfig, connect,
    pending::{PACK_HEAD_BYTES, Pending},
    stream,
    verdict::{NO_RESPONDERS, Verdict, verdict},
};
use crate::{
    backoff::Backoff,
    data_message,
    publisher::{Ack, Busy, Publisher, Rejected},
    raw_message::MessageValue,
    status::SideStatus,
};

/// Bytes of a pack, at most; never more than half of what the server takes.
const PACK_BYTES_MAX: usize = 256 << 10;
/// How long the server may take to say that the stream is there. Longer, and it counts as gone: it may stand still and
/// keep its connections.
const STILL_THERE_TIMEOUT: Duration = Duration::from_secs(2);
/// How often the stream is looked for.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

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
    /// The subject of all messages that choose none.
    subject: Subject,
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
    value: Vec<u8>,
}

/// A connection, from the first try until it breaks. Its tasks end with its runtime.
struct Session {
    link: Arc<Link>,
    client: Client,
    replies: Subscriber,
    inbox: String,
    found: Arc<Found>,
}

/// What is known of the stream.
struct Found {
    /// It is there.
    ready: AtomicBool,
    /// Its `max_msg_size`: most bytes of a message with its headers.
    message_bytes_max: AtomicUsize,
}

impl Found {
    fn note(&self, stream: &jetstream::stream::Stream) {
        // -1 is none.
        let limit = usize::try_from(stream.cached_info().config.max_message_size);
        let limit = limit.ok().filter(|limit| *limit > 0);
        self.message_bytes_max.store(limit.unwrap_or(usize::MAX), Ordering::Release);
    }
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
        let found = Arc::new(Found {
            ready: AtomicBool::new(false),
            message_bytes_max: AtomicUsize::new(usize::MAX),
        });
        runtime.spawn(keep_stream(
            client.clone(),
            config.clone(),
            Arc::clone(status),
            Arc::clone(&link),
            Arc::clone(&found),
        ));
        Ok((runtime, Self { link, client, replies, inbox, found }))
    }

    fn is_connected(&self) -> bool {
        self.link.connected.load(Ordering::Acquire) && self.found.ready.load(Ordering::Acquire)
    }

    /// Most bytes of a new pack's payload.
    fn pack_bytes_max(&self) -> usize {
        PACK_BYTES_MAX.min(self.client.max_payload() / 2).min(self.payload_bytes_max())
    }

    /// Most bytes of a pack's payload that the server and the stream take, as far as is known.
    fn payload_bytes_max(&self) -> usize {
        let stream = self.found.message_bytes_max.load(Ordering::Acquire);
        stream.min(self.client.max_payload()).saturating_sub(PACK_HEAD_BYTES)
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
            subject: Subject::from(config.subject.as_str()),
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
            value: Vec::new(),
        })
    }

    /// Everything unacknowledged is to be sent again, after a pause, on a new connection.
    fn go_back(&mut self, leave: Leave) {
        let pause = match leave {
            Leave::ForNow => self.backoff.next_pause(),
            Leave::AtOnce => Duration::ZERO,
        };
        self.unsent = 0;
        self.hold = Some(clock::now() + pause);
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
                .is_some_and(|sent| clock::since(sent) > self.config.ack_timeout)
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
                self.go_back(Leave::ForNow);
            }
        }
        if self.session.is_none() && self.hold.is_none_or(|until| clock::now() >= until) {
            match Session::start(&self.config, &self.status, &self.bell.wake) {
                Ok(session) => {
                    self.hold = None;
                    self.session = Some(session);
                }
                Err(error) => {
                    self.status.set_trouble(Some(error));
                    self.hold = Some(clock::now() + self.backoff.next_pause());
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
        let place = place as usize;
        let Some(pending) = self.pending.get_mut(place).filter(|pending| !pending.done) else {
            return Ok(());
        };
        let error = if message.status == Some(StatusCode::NO_RESPONDERS) {
            Some((NO_RESPONDERS, "nobody listens: JetStream is off, or the stream is gone".to_owned()))
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
                    return Err(Leave::ForNow);
                }
                Ok(PubAck { error: None, .. }) => None,
                Ok(PubAck { error: Some(error), .. }) => {
                    Some((error.err_code.unwrap_or(0), error.description))
                }
                Err(error) => Some((0, format!("an acknowledgement that is none: {error}"))),
            }
        };
        let Some((code, description)) = error else {
            let took = pending.first_sent.filter(|_| place == 0).map(|sent| clock::since(sent));
            self.status.note_acknowledged(took);
            self.backoff.reset();
            self.careful = false;
            self.settle(place, &Ok(()), acks);
            return Ok(());
        };
        match verdict(code, &description) {
            (Verdict::Message, mend) => {
                self.refuse(place, code.to_string(), format!("{description}; {mend}"), acks)
            }
            (Verdict::Stream | Verdict::Server, mend) => {
                let text =
                    format!("nats.stream = {}: {description} (code {code}; {mend})", self.config.stream);
                self.status.set_trouble(Some(text));
                self.careful = true;
                Err(Leave::ForNow)
            }
        }
    }

    /// The publish at this place is decided.
    fn settle(&mut self, place: usize, outcome: &Result<(), Rejected>, acks: &mut Vec<Ack>) {
        let Some(pending) = self.pending.get_mut(place) else { return };
        pending.done = true;
        self.in_flight -= pending.len();
        acks.extend(pending.take_tags().map(|tag| Ack { tag, outcome: outcome.clone() }));
        while self.pending.front().is_some_and(|pending| pending.done) {
            self.pending.pop_front();
            self.first += 1;
            self.unsent = self.unsent.saturating_sub(1);
        }
    }

    /// The NATS message at this place is refused, for one of its records if it has several. An error when it was taken
    /// apart: what is in flight has other numbers then.
    fn refuse(
        &mut self,
        place: usize,
        code: String,
        reason: String,
        acks: &mut Vec<Ack>,
    ) -> Result<(), Leave> {
        let Some(pending) = self.pending.get(place) else { return Ok(()) };
        if pending.len() == 1 {
            let rejected = Rejected { code, reason, attempts: pending.attempts };
            self.settle(place, &Err(rejected), acks);
            return Ok(());
        }
        let records = pending.len();
        tracing::warn!(
            stream = self.config.stream,
            records,
            "NATS refused a pack for one of its records ({reason}); it is sent again in halves"
        );
        self.status.retries.fetch_add(1, Ordering::Relaxed);
        self.halve(place);
        Err(Leave::AtOnce)
    }

    /// Takes the pack at this place apart; it is not in flight, or its connection is left.
    fn halve(&mut self, place: usize) {
        if let Some(pack) = self.pending.remove(place) {
            let [one, other] = pack.halve();
            self.pending.insert(place, other);
            self.pending.insert(place, one);
        }
    }

    /// Sends what is to be sent.
    async fn send(&mut self, session: &Session, acks: &mut Vec<Ack>) -> Result<(), Leave> {
        if !session.is_connected() {
            return Ok(());
        }
        let last_sent = self.unsent.checked_sub(1).and_then(|place| self.pending.get(place));
        let mut after_one_alone = last_sent.is_some_and(|pending| pending.goes_alone);
        while let Some(pending) = self.pending.get_mut(self.unsent) {
            // The limit is lower than it was when this was packed. What may be stored is sent as it was, to be recognised.
            if pending.len() > 1 && pending.bytes() > session.payload_bytes_max() {
                if pending.attempts == 0 && !pending.may_be_there {
                    self.halve(self.unsent);
                    continue;
                }
                pending.goes_alone = true;
            }
            // Nothing behind one that may be refused is stored before it.
            if self.unsent > 0 && (self.careful || pending.goes_alone || after_one_alone) {
                break;
            }
            after_one_alone = pending.goes_alone;
            let place = self.unsent;
            self.unsent += 1;
            if pending.done {
                continue;
            }
            if pending.attempts > 0 {
                self.status.retries.fetch_add(1, Ordering::Relaxed);
            }
            pending.attempts += 1;
            let now = clock::now();
            pending.first_sent.get_or_insert(now);
            pending.sent = Some(now);
            let reply = format!("{}.{}", session.inbox, self.first + place as u64);
            let (mut headers, payload) = pending.seal();
            // Streams and their subjects can be changed at any time: another stream is not where it is promised to be.
            headers.insert("Nats-Expected-Stream", self.config.stream.as_str());
            let subject = pending.subject().clone();
            match session.client.publish_with_reply_and_headers(subject, reply, headers, payload).await {
                Ok(()) => {}
                // The client judges it by itself, with what the server said when it was connected.
                Err(error) if error.kind() == PublishErrorKind::MaxPayloadExceeded => {
                    let max = session.client.max_payload();
                    let reason = format!("{error} (the server's max_payload = {max})");
                    self.refuse(place, "MAX_PAYLOAD".to_owned(), reason, acks)?;
                }
                Err(error) => {
                    self.status.set_trouble(Some(format!("nats.url = {}: {error}", self.config.servers)));
                    return Err(Leave::ForNow);
                }
            }
        }
        Ok(())
    }

    async fn drive(
        &mut self,
        session: &mut Session,
        timeout: Duration,
        acks: &mut Vec<Ack>,
    ) -> Result<(), Leave> {
        self.send(session, acks).await?;
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
enum Leave {
    /// What comes next is what was refused or lost: after a pause.
    ForNow,
    /// What comes next is something else: without one.
    AtOnce,
}

impl Publisher for NatsPublisher {
    fn publish(&mut self, tag: u64, record: &Record<'_>) -> Result<(), Busy> {
        let Some((_, session)) = self.session.as_ref().filter(|(_, session)| session.is_connected()) else {
            return Err(Busy);
        };
        let (records_max, bytes_max) = (self.config.pack_messages, session.pack_bytes_max());
        let is_full = self.pending.len() >= self.config.in_flight_max;
        if is_full && !self.pending.back().is_some_and(|last| last.has_room(0, records_max, bytes_max)) {
            return Err(Busy);
        }
        let chosen = self.config.subject_choice.as_ref().and_then(|choice| choice.of(record));
        let subject = chosen.map_or_else(|| self.subject.clone(), Subject::from);
        if self.config.value == MessageValue::Raw {
            if is_full {
                return Err(Busy);
            }
            self.pending.push_back(Pending::raw(subject, tag, self.naming.name(tag), record));
            self.in_flight += 1;
            return Ok(());
        }
        self.value.clear();
        data_message::write(record, &mut self.value);
        let last = self.pending.back_mut();
        let takes = |last: &&mut Pending| {
            *last.subject() == subject && last.has_room(self.value.len(), records_max, bytes_max)
        };
        if let Some(last) = last.filter(takes) {
            last.push(tag, self.naming.name(tag), &self.value);
        } else if is_full {
            return Err(Busy);
        } else {
            self.pending.push_back(Pending::new(subject, tag, self.naming.name(tag), record, &self.value));
        }
        self.in_flight += 1;
        Ok(())
    }

    fn poll(&mut self, timeout: Duration, acks: &mut Vec<Ack>) {
        self.keep_session();
        let Some((runtime, mut session)) = self.session.take() else {
            let hold = self.hold.map(|until| until.saturating_duration_since(clock::now()));
            thread::sleep(hold.map_or(timeout, |hold| hold.min(timeout)));
            self.bell.rung.store(false, Ordering::Release);
            return;
        };
        let driven = runtime.block_on(self.drive(&mut session, timeout, acks));
        self.session = Some((runtime, session));
        if let Err(leave) = driven {
            self.go_back(leave);
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

/// Looks for the stream until it is there, and once a second whether it still is.
async fn keep_stream(
    client: Client,
    config: NatsConfig,
    status: Arc<SideStatus>,
    link: Arc<Link>,
    found: Arc<Found>,
) {
    let context = jetstream::new(client);
    loop {
        if link.connected.load(Ordering::Acquire) && !found.ready.load(Ordering::Acquire) {
            match stream(&context, &config).await {
                Ok(stream) => {
                    found.note(&stream);
                    found.ready.store(true, Ordering::Release);
                    link.wake.notify_one();
                }
                Err(error) => status.set_trouble(Some(error)),
            }
        } else if link.connected.load(Ordering::Acquire) {
            let look = tokio::time::timeout(STILL_THERE_TIMEOUT, context.get_stream(&config.stream));
            let trouble = match look.await {
                Ok(Ok(stream)) => {
                    found.note(&stream);
                    config.not_covered(&stream.cached_info().config.subjects)
                }
                Ok(Err(error)) => Some(error.to_string()),
                Err(_) => Some(format!("no answer for {} ms", STILL_THERE_TIMEOUT.as_millis())),
            };
            if let Some(why) = trouble {
                found.ready.store(false, Ordering::Release);
                status.set_trouble(Some(format!(
                    "nats.stream = {} at {}: {why}",
                    config.stream, config.servers
                )));
                link.wake.notify_one();
            }
        }
        tokio::time::sleep(if found.ready.load(Ordering::Acquire) { LOOK_AGAIN } else { LOOK_AGAIN / 5 })
            .await;
    }
}

#[cfg(test)]
mod tests;
