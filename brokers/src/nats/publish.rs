//! Publishing: pipelined, with one inbox for all acknowledgements.
//!
//! When the connection is lost, an acknowledgement is late, or JetStream refuses for now, the connection is thrown away
//! and everything unacknowledged is sent again in order on a new one, under the same `Nats-Msg-Id`: what had arrived
//! is recognised there (for two minutes, the stream's default) and acknowledged as a duplicate. That id names the record
//! ([`Naming`]), so what is recognised is this record and none beside it.
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
    sync::{Arc, atomic::Ordering},
    task::Waker,
    time::{Duration, Instant},
};

use async_nats::Subject;
use engine_core::{Record, clock};
use serde::Deserialize;

use super::{
    Naming, NatsConfig,
    async_client::AsyncNats,
    client::{Answer, Client, Reply, Runtime, Session, Unsent},
    pending::{PACK_HEAD_BYTES, Pending},
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
/// Bytes that are under way, at most, beside the one message that goes over it: with `nats.in_flight_max` alone the largest
/// messages would take gigabytes.
const IN_FLIGHT_BYTES_MAX: usize = 64 << 20;

/// JetStream's answer to a publish.
#[derive(Deserialize)]
struct PubAck {
    error: Option<PubError>,
}

#[derive(Deserialize)]
struct PubError {
    err_code: Option<u64>,
    #[serde(default)]
    description: String,
}

/// Connections that may end, or not answer, with nothing but one NATS message in flight, until it is the message that is
/// taken for the cause.
const BREAKS_MAX: u32 = 10;

/// The publisher of NATS JetStream.
pub struct NatsPublisher<C: Client = AsyncNats> {
    config: NatsConfig,
    /// The subject of all messages that choose none.
    subject: Subject,
    naming: Naming,
    status: Arc<SideStatus>,
    client: C,
    session: Option<(C::Runtime, C::Session)>,
    /// Oldest first; `first` is the number of the first.
    pending: VecDeque<Pending>,
    first: u64,
    in_flight: usize,
    /// Bytes of all these.
    bytes: usize,
    /// From here on to be sent, counted from the first.
    unsent: usize,
    /// Nothing is sent before.
    hold: Option<Instant>,
    backoff: Backoff,
    /// JetStream refused the last one, or connections end before anything is acknowledged: one at a time.
    careful: bool,
    /// Connections that ended with something in flight since anything was acknowledged.
    breaks: u32,
    value: Vec<u8>,
}

/// Most bytes of a pack's payload that the server and the stream take, as far as is known.
fn payload_bytes_max(session: &impl Session) -> usize {
    session.message_bytes_max().min(session.max_payload()).saturating_sub(PACK_HEAD_BYTES)
}

/// Most bytes of a new pack's payload.
fn pack_bytes_max(session: &impl Session) -> usize {
    PACK_BYTES_MAX.min(session.max_payload() / 2).min(payload_bytes_max(session))
}

impl NatsPublisher {
    /// A publisher; it need not reach a server yet.
    ///
    /// # Errors
    /// What is wrong with the configuration.
    pub fn new(config: NatsConfig, naming: Naming, status: Arc<SideStatus>) -> Result<Self, String> {
        let client = AsyncNats::new(&config, &status);
        Self::over(client, config, naming, status)
    }
}

impl<C: Client> NatsPublisher<C> {
    /// A publisher over this client.
    ///
    /// # Errors
    /// What is wrong with the configuration.
    pub fn over(
        mut client: C,
        config: NatsConfig,
        naming: Naming,
        status: Arc<SideStatus>,
    ) -> Result<Self, String> {
        let session = client.start()?;
        Ok(Self {
            subject: Subject::from(config.subject.as_str()),
            config,
            naming,
            status,
            client,
            session: Some(session),
            pending: VecDeque::new(),
            first: 0,
            in_flight: 0,
            bytes: 0,
            unsent: 0,
            hold: None,
            backoff: Backoff::new(Duration::from_millis(100), Duration::from_secs(5)),
            careful: false,
            breaks: 0,
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
            runtime.end();
        }
    }

    /// Goes back when the connection broke or an acknowledgement is late; connects again after the pause.
    fn keep_session(&mut self, acks: &mut Vec<Ack>) {
        if let Some((_, session)) = &self.session {
            let (is_broken, answers) = (session.is_broken(), session.is_connected());
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
            if is_broken || (late && answers) {
                self.look_for_the_cause(acks);
            }
            if late || is_broken {
                self.go_back(Leave::ForNow);
            }
        }
        if self.session.is_none() && self.hold.is_none_or(|until| clock::now() >= until) {
            match self.client.start() {
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

    /// The connection has ended, or the server answers and does not acknowledge. Whatever the reason, one message does not hold
    /// up all others for ever: when this happens again and again with nothing else in flight, it is refused.
    fn look_for_the_cause(&mut self, acks: &mut Vec<Ack>) {
        let mut in_flight = (0..self.unsent).filter(|place| !self.pending[*place].done);
        let (Some(place), other) = (in_flight.next(), in_flight.next()) else { return };
        self.breaks += 1;
        self.careful |= self.breaks > 1;
        if other.is_some() {
            return;
        }
        let pending = &mut self.pending[place];
        pending.breaks += 1;
        if pending.breaks >= BREAKS_MAX {
            let reason =
                format!("{BREAKS_MAX} connections ended or did not answer with nothing but it in flight");
            // The connection is left in any case.
            let _ = self.refuse(place, "CONNECTION".to_owned(), reason, acks);
        }
    }

    /// Takes an acknowledgement; an error when this connection is to be left.
    fn note(&mut self, reply: &Reply, acks: &mut Vec<Ack>) -> Result<(), Leave> {
        let Some(place) = reply.number.checked_sub(self.first) else { return Ok(()) };
        let place = place as usize;
        let Some(pending) = self.pending.get_mut(place).filter(|pending| !pending.done) else {
            return Ok(());
        };
        let error = match &reply.answer {
            Answer::NoResponders => {
                Some((NO_RESPONDERS, "nobody listens: JetStream is off, or the stream is gone".to_owned()))
            }
            Answer::Json(json) => match serde_json::from_slice::<PubAck>(json) {
                // Also a duplicate: what has its name is this record.
                Ok(PubAck { error: None, .. }) => None,
                Ok(PubAck { error: Some(error), .. }) => {
                    Some((error.err_code.unwrap_or(0), error.description))
                }
                Err(error) => Some((0, format!("an acknowledgement that is none: {error}"))),
            },
        };
        let Some((code, description)) = error else {
            let took = pending.first_sent.filter(|_| place == 0).map(clock::since);
            self.status.note_acknowledged(took);
            self.backoff.reset();
            (self.careful, self.breaks) = (false, 0);
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
        while let Some(done) = self.pending.pop_front_if(|pending| pending.done) {
            // What is between the records of a pack counts with the one before it.
            self.bytes -= done.bytes() + 1;
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
    async fn send(&mut self, session: &mut C::Session, acks: &mut Vec<Ack>) -> Result<(), Leave> {
        if !session.is_connected() {
            return Ok(());
        }
        let last_sent = self.unsent.checked_sub(1).and_then(|place| self.pending.get(place));
        let mut after_one_alone = last_sent.is_some_and(|pending| pending.goes_alone);
        while let Some(pending) = self.pending.get_mut(self.unsent) {
            // The limit is lower than it was when this was packed. What may be stored is sent as it was, to be recognised.
            if pending.len() > 1 && pending.bytes() > payload_bytes_max(session) {
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
            let (mut headers, payload) = pending.seal();
            // Streams and their subjects can be changed at any time: another stream is not where it is promised to be.
            headers.insert("Nats-Expected-Stream", self.config.stream.as_str());
            let subject = pending.subject().clone();
            let number = self.first + place as u64;
            match session.publish(number, subject, headers, payload).await {
                Ok(()) => {}
                // The client judges it by itself, with what the server said when it was connected.
                Err(Unsent::TooLarge(error)) => {
                    let max = session.max_payload();
                    let reason = format!("{error} (the server's max_payload = {max})");
                    self.refuse(place, "MAX_PAYLOAD".to_owned(), reason, acks)?;
                }
                Err(Unsent::Broken(error)) => {
                    self.status.set_trouble(Some(format!("nats.url = {}: {error}", self.config.servers)));
                    return Err(Leave::ForNow);
                }
            }
        }
        Ok(())
    }

    async fn drive(
        &mut self,
        session: &mut C::Session,
        timeout: Duration,
        acks: &mut Vec<Ack>,
    ) -> Result<(), Leave> {
        self.send(session, acks).await?;
        let timeout = if acks.is_empty() { timeout } else { Duration::ZERO };
        if let Some(reply) = session.wait(timeout).await {
            self.note(&reply, acks)?;
        }
        // All that came with it; a few of them, so that the cores are not kept waiting.
        for _ in 0..1024 {
            let Some(reply) = session.next() else { break };
            self.note(&reply, acks)?;
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

impl<C: Client> Publisher for NatsPublisher<C> {
    fn publish(&mut self, tag: u64, record: &Record<'_>) -> Result<(), Busy> {
        let Some((_, session)) = self.session.as_ref().filter(|(_, session)| session.is_connected()) else {
            return Err(Busy);
        };
        let (records_max, bytes_max) = (self.config.pack_messages, pack_bytes_max(session));
        if self.bytes >= IN_FLIGHT_BYTES_MAX {
            return Err(Busy);
        }
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
            self.pending.push_back(Pending::raw(subject, tag, self.naming.name(tag, record), record));
            self.in_flight += 1;
            self.bytes += record.payload.len() + 1;
            return Ok(());
        }
        self.value.clear();
        data_message::write(record, &mut self.value);
        let last = self.pending.back_mut();
        let takes = |last: &&mut Pending| {
            *last.subject() == subject && last.has_room(self.value.len(), records_max, bytes_max)
        };
        if let Some(last) = last.filter(takes) {
            last.push(tag, self.naming.name(tag, record), &self.value);
        } else if is_full {
            return Err(Busy);
        } else {
            self.pending.push_back(Pending::new(
                subject,
                tag,
                self.naming.name(tag, record),
                record,
                &self.value,
            ));
        }
        self.in_flight += 1;
        self.bytes += self.value.len() + 1;
        Ok(())
    }

    fn poll(&mut self, timeout: Duration, acks: &mut Vec<Ack>) {
        self.keep_session(acks);
        let Some((runtime, mut session)) = self.session.take() else {
            let hold = self.hold.map(|until| until.saturating_duration_since(clock::now()));
            self.client.pause(hold.map_or(timeout, |hold| hold.min(timeout)));
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
        self.client.waker()
    }
}

#[cfg(test)]
mod tests;
