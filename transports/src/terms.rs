//! On what terms a message is accepted: how safe it must be before its sender is told, and whether a repeat of it is
//! recognised.

use std::{
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use engine_core::{AckLevel, Reasons, TRACE_FIELD, Traceparent};
use parking_lot::Mutex;

use crate::{
    answer::Refusal,
    grpc::Code,
    guard::{Denied, Guard},
    inject::NotTaken,
};

/// The field, and the metadata key of gRPC, in which a level is asked for.
const ACK: &str = "tidegate-ack";
/// The one in which a sender gives its own id.
const KEY: &str = "idempotency-key";

/// Longest `Idempotency-Key`, in bytes.
const KEY_BYTES_MAX: usize = 255;

/// Which levels there are, and what is promised when nobody asks for one.
#[derive(Debug)]
pub struct AckPolicy {
    /// The level of a request that names none.
    pub default: AckLevel,
    /// Why a level can never be reached with these settings, by level; `None` when it can.
    pub unreachable: [Option<String>; 3],
    /// How long a request waits for its level before it is answered "unknown".
    pub timeout: Duration,
    /// The names of the places a message goes to, by bit of [`engine_core::Rejection`].
    pub sides: Vec<String>,
    /// What stands in the way right now.
    pub gate: Arc<Gate>,
    /// In a process that sends messages on: how the one that accepts them is asked. Its level is the answer's.
    pub far: Option<Far>,
    /// Who may send messages. Open: everybody; the routes of events have a guard of their own beside it.
    pub guard: Guard,
}

/// Another process, which accepts the messages.
#[derive(Clone, Debug, Default)]
pub struct Far {
    /// Its words for what it did not take.
    pub reasons: Arc<Reasons>,
    /// Whether a request that names no level asks it for ours; else it gets its own default.
    pub asks_default: bool,
}

impl AckPolicy {
    /// What a queue in memory can promise: `queued`.
    pub fn queued_only() -> Self {
        let why = |level: &str| {
            Some(format!(
                "the level `{level}` cannot be reached with queue.type = memory; `queued` can. Set QUEUE_TYPE to log for durable, to nats, kafka or composite for delivered"
            ))
        };
        Self {
            default: AckLevel::Queued,
            unreachable: [None, why("durable"), why("delivered")],
            timeout: Duration::from_secs(10),
            sides: Vec::new(),
            gate: Arc::default(),
            far: None,
            guard: Guard::default(),
        }
    }

    /// What a request asks for that has these in its fields `Tidegate-Ack`. `asynchronous`: what else of it asks not to
    /// wait, by the name its sender knows it by.
    ///
    /// # Errors
    /// 400 for two, for a level that there is not, for one that can never be reached with these settings, and for one above
    /// `queued` beside `asynchronous`.
    pub fn ask<'a>(
        &self,
        named: impl IntoIterator<Item = &'a [u8]>,
        asynchronous: Option<&str>,
    ) -> Result<Asked, NotTaken> {
        let named = only(ACK, named)?.map(read_level).transpose()?;
        let level = match (named, asynchronous) {
            (Some(level), Some(what)) if level > AckLevel::Queued => {
                let text = format!(
                    "tidegate-ack: `{}` contradicts {what}, which is answered at `queued`; leave out one of them",
                    level.name()
                );
                return Err(Refusal::new(400, Code::InvalidArgument, text).into());
            }
            (_, Some(_)) => AckLevel::Queued,
            (named, None) => named.unwrap_or(self.default),
        };
        self.reach(level)?;
        let wanted = match (asynchronous, named) {
            (Some(_), _) => Wanted::Asynchronous,
            (None, Some(level)) => Wanted::Level(level),
            (None, None) => Wanted::Default,
        };
        Ok(Asked { wanted, level })
    }

    /// Reads the `Idempotency-Key` of a request with these fields of that name, and with this id in its body, which may be
    /// empty.
    ///
    /// # Errors
    /// 400 for two, for one that is none, and for one that is not the id.
    pub fn read_key<'a>(
        values: impl IntoIterator<Item = &'a [u8]>,
        id: &[u8],
    ) -> Result<Option<Vec<u8>>, NotTaken> {
        let key = only(KEY, values)?.map(read_key).transpose()?;
        agree(key.as_deref(), id)?;
        Ok(key.map(|key| key.to_vec()))
    }

    /// Refuses a level that cannot be honoured at this moment.
    ///
    /// # Errors
    /// 503 with the reason.
    pub fn admit(&self, level: AckLevel) -> Result<(), NotTaken> {
        Ok(Terms::new(self, Some(level), None).admit(self)?)
    }

    /// Refuses a level that can never be reached.
    fn reach(&self, level: AckLevel) -> Result<(), Refusal> {
        match &self.unreachable[level as usize] {
            None => Ok(()),
            Some(why) => Err(Refusal::new(400, Code::FailedPrecondition, format!("tidegate-ack: {why}"))),
        }
    }

    /// The names behind the bits.
    pub fn names(&self, sides: u8) -> String {
        let named = self.sides.iter().enumerate().filter(|(bit, _)| sides & (1 << bit) != 0);
        named.map(|(_, name)| name.as_str()).collect::<Vec<_>>().join(", ")
    }
}

/// Says which levels cannot be honoured at the moment, and why. Written by whoever watches the sinks, read once per
/// request.
#[derive(Debug, Default)]
pub struct Gate {
    shut: AtomicU8,
    reasons: Mutex<[Option<String>; 3]>,
}

impl Gate {
    /// Shuts a level with its reason, or opens it. Says whether that changed anything.
    pub fn set(&self, level: AckLevel, reason: Option<String>) -> bool {
        let mut reasons = self.reasons.lock();
        let place = &mut reasons[level as usize];
        let changed = place.is_some() != reason.is_some();
        let bit = 1 << level as u8;
        // Relaxed: a request that comes a moment before or after is as right.
        if reason.is_some() {
            self.shut.fetch_or(bit, Ordering::Relaxed);
        } else {
            self.shut.fetch_and(!bit, Ordering::Relaxed);
        }
        *place = reason;
        changed
    }

    /// Why the level cannot be honoured now; `None` when it can.
    pub fn reason(&self, level: AckLevel) -> Option<String> {
        let shut = self.shut.load(Ordering::Relaxed) & (1 << level as u8) != 0;
        if shut { self.reasons.lock()[level as usize].clone() } else { None }
    }
}

/// What a route asks for, beside what its caller names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wanted {
    /// What the settings say.
    #[default]
    Default,
    /// This level.
    Level(AckLevel),
    /// The level `queued`, answered without waiting for anything, also where a repeat of the id is recognised: the repeat
    /// is then left out without its sender being told.
    Asynchronous,
}

/// What a request asks for, on the whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// For the way into the engine.
    pub wanted: Wanted,
    /// The level that this comes to.
    pub level: AckLevel,
}

/// The terms of one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Terms {
    pub(crate) level: AckLevel,
    /// Whether the level was named, by the caller or in the settings.
    pub(crate) named: bool,
    /// Whether it was the caller who did.
    pub(crate) asked: bool,
    /// Whether another process accepts the message: that has to be waited for, whatever the level.
    pub(crate) forwarded: bool,
    /// Whether nobody waits for what becomes of the message.
    pub(crate) detached: bool,
    /// The caller's own id.
    pub(crate) key: Option<Rc<[u8]>>,
    /// The trace that the request belongs to.
    pub(crate) trace: Option<Traceparent>,
    /// Why the caller may send no events; only a route that takes events as messages asks.
    pub(crate) no_events: Option<Denied>,
}

impl Terms {
    /// Reads the terms off a request head; `values` gives the values of a field.
    pub(crate) fn read<'a, V: Iterator<Item = &'a [u8]>>(
        policy: &AckPolicy,
        values: impl Fn(&'static str) -> V,
    ) -> Result<Self, Refusal> {
        let field = |name| values(name).next();
        if !policy.guard.is_open() {
            let admitted = policy.guard.admits(field("x-api-key"), field("authorization"));
            admitted.map_err(|denied| Refusal::new(401, Code::Unauthenticated, denied.to_string()))?;
        }
        let terms = Self::new(policy, only(ACK, values(ACK))?.map(read_level).transpose()?, None);
        policy.reach(terms.level)?;
        let key = only(KEY, values(KEY))?.map(read_key).transpose()?;
        Ok(Self { key, trace: Traceparent::of_request(values(TRACE_FIELD)), ..terms })
    }

    /// The terms of a request that names this level, or none.
    pub(crate) fn new(policy: &AckPolicy, level: Option<AckLevel>, key: Option<Rc<[u8]>>) -> Self {
        Self {
            level: level.unwrap_or(policy.default),
            named: level.is_some() || policy.far.as_ref().is_some_and(|far| far.asks_default),
            asked: level.is_some(),
            forwarded: policy.far.is_some(),
            detached: false,
            key,
            trace: None,
            no_events: None,
        }
    }

    /// The same for a route that takes events as messages; `guard` says who may send events.
    pub(crate) fn with_events<'a>(self, guard: &Guard, field: impl Fn(&str) -> Option<&'a [u8]>) -> Self {
        let no_events = match guard.is_open() {
            true => None,
            false => guard.admits(field("x-api-key"), field("authorization")).err(),
        };
        Self { no_events, ..self }
    }

    /// The terms of a request that came through the cold lane.
    pub(crate) fn of(policy: &AckPolicy, wanted: Wanted) -> Self {
        match wanted {
            Wanted::Default => Self::new(policy, None, None),
            Wanted::Level(level) => Self::new(policy, Some(level), None),
            Wanted::Asynchronous => Self::new(policy, None, None).asynchronous(),
        }
    }

    /// The same for a route that is answered without waiting.
    pub(crate) fn asynchronous(self) -> Self {
        // What is sent on may be refused there, so it is waited for.
        Self { level: AckLevel::Queued, detached: !self.forwarded, ..self }
    }

    /// Whether the caller has named a level that has to be waited for.
    pub(crate) fn insists(&self) -> bool {
        self.asked && self.level > AckLevel::Queued
    }

    /// Answered as soon as it is in the queue.
    pub(crate) fn immediate() -> Self {
        Self {
            level: AckLevel::Queued,
            named: false,
            asked: false,
            forwarded: false,
            detached: false,
            key: None,
            trace: None,
            no_events: None,
        }
    }

    /// Whether the answer has to wait for what becomes of the message.
    #[inline]
    pub(crate) fn waits(&self) -> bool {
        self.level != AckLevel::Queued || self.key.is_some() || self.forwarded
    }

    /// Refuses while the level cannot be honoured.
    #[inline]
    pub(crate) fn admit(&self, policy: &AckPolicy) -> Result<(), Refusal> {
        if policy.gate.shut.load(Ordering::Relaxed) == 0 {
            return Ok(());
        }
        match policy.gate.reason(self.level) {
            None => Ok(()),
            Some(reason) if self.forwarded => {
                Err(Refusal::new(503, Code::Unavailable, format!("not accepted: {reason}")))
            }
            Some(reason) => {
                let text = format!("not accepted: `{}` cannot be honoured now: {reason}", self.level.name());
                Err(Refusal::new(503, Code::Unavailable, text))
            }
        }
    }
}

/// The value of a field that says one thing: of two, whoever reads the other understands another request.
fn only<'a>(
    name: &'static str,
    values: impl IntoIterator<Item = &'a [u8]>,
) -> Result<Option<&'a [u8]>, Refusal> {
    let mut values = values.into_iter();
    let first = values.next();
    match values.next() {
        None => Ok(first),
        Some(_) => {
            let text = format!("{name}: it stands more than once; leave out all but one");
            Err(Refusal::new(400, Code::InvalidArgument, text))
        }
    }
}

/// Refuses a message that has an `Idempotency-Key` and another id in its body: it has one, and a repeat is recognised by
/// that.
pub(crate) fn agree(key: Option<&[u8]>, id: &[u8]) -> Result<(), Refusal> {
    if agrees(key, id) {
        return Ok(());
    }
    let text = "idempotency-key: the body has another id, and a message has one; leave out either, or give both the same value";
    Err(Refusal::new(400, Code::InvalidArgument, text))
}

/// Whether that is not so.
pub(crate) fn agrees(key: Option<&[u8]>, id: &[u8]) -> bool {
    id.is_empty() || key.is_none_or(|key| is_key_of(key, id))
}

/// The level that a `Tidegate-Ack` names.
fn read_level(named: &[u8]) -> Result<AckLevel, Refusal> {
    AckLevel::from_name(named).ok_or_else(|| {
        let named = String::from_utf8_lossy(named);
        let text = format!("tidegate-ack: there is no level `{named}`; give queued, durable or delivered");
        Refusal::new(400, Code::InvalidArgument, text)
    })
}

/// The value of an `Idempotency-Key`: visible ASCII, as it is or in quotes (draft-ietf-httpapi-idempotency-key-header:
/// a structured-field string).
fn read_key(value: &[u8]) -> Result<Rc<[u8]>, Refusal> {
    let bare = without_quotes(value);
    if bare.is_empty() || bare.len() > KEY_BYTES_MAX || !bare.iter().all(u8::is_ascii_graphic) {
        let text =
            format!("idempotency-key: expected 1 to {KEY_BYTES_MAX} visible ASCII characters without blanks");
        return Err(Refusal::new(400, Code::InvalidArgument, text));
    }
    Ok(bare.into())
}

fn without_quotes(value: &[u8]) -> &[u8] {
    value.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\"")).unwrap_or(value)
}

/// Whether an `Idempotency-Key` stands for this id of a body: it is the same, or what one Tidegate sends another for an id
/// that does not fit the field (base64url without padding).
fn is_key_of(key: &[u8], id: &[u8]) -> bool {
    key == without_quotes(id) || URL_SAFE_NO_PAD.encode(id).as_bytes() == key
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(fields: &[(&str, &str)]) -> Result<Terms, Refusal> {
        let values = |name: &'static str| {
            fields.iter().filter(move |(key, _)| *key == name).map(|(_, value)| value.as_bytes())
        };
        Terms::read(
            &AckPolicy { unreachable: [None, None, Some("no broker".into())], ..AckPolicy::queued_only() },
            values,
        )
    }

    #[test]
    fn without_a_word_the_default_holds() {
        let terms = read(&[]).unwrap();
        assert!(terms.level == AckLevel::Queued && !terms.waits());
    }

    #[test]
    fn who_has_no_key_is_refused_before_anything_else() {
        let policy = AckPolicy { guard: Guard::new("one", ""), ..AckPolicy::queued_only() };
        let read = |key: Option<&'static [u8]>| {
            let value = move |name| match name {
                "x-api-key" => key,
                "tidegate-ack" => Some(&b"safe"[..]),
                _ => None,
            };
            Terms::read(&policy, |name| value(name).into_iter())
        };
        for key in [None, Some(&b"two"[..])] {
            let refusal = read(key).unwrap_err();
            assert_eq!((refusal.status, refusal.code), (401, Code::Unauthenticated));
        }
        assert_eq!(read(Some(b"one")).unwrap_err().status, 400);
    }

    #[test]
    fn what_is_sent_on_is_waited_for_at_every_level() {
        let policy = AckPolicy { far: Some(Far::default()), ..AckPolicy::queued_only() };
        let unnamed = Terms::new(&policy, None, None);
        assert!(unnamed.waits() && !unnamed.named);
        let queued = Terms::new(&policy, Some(AckLevel::Queued), None);
        assert!(queued.waits() && queued.named);
    }

    #[test]
    fn a_level_out_of_reach_is_refused_with_the_reason() {
        assert_eq!(read(&[("tidegate-ack", "durable")]).unwrap().level, AckLevel::Durable);
        let refusal = read(&[("tidegate-ack", "delivered")]).unwrap_err();
        assert!(refusal.status == 400 && refusal.text.contains("no broker"), "{refusal:?}");
        assert!(read(&[("tidegate-ack", "safe")]).unwrap_err().text.contains("`safe`"));
    }

    #[test]
    fn what_does_not_wait_goes_with_no_level_that_has_to_be_waited_for() {
        let policy = AckPolicy {
            unreachable: [None, None, None],
            default: AckLevel::Durable,
            ..AckPolicy::queued_only()
        };
        let ask = |named: Option<&'static str>, what| policy.ask(named.map(str::as_bytes), what);
        let of = |wanted, level| Ok(Asked { wanted, level });
        assert_eq!(ask(None, None), of(Wanted::Default, AckLevel::Durable));
        assert_eq!(ask(Some("delivered"), None), of(Wanted::Level(AckLevel::Delivered), AckLevel::Delivered));
        for named in [None, Some("queued")] {
            assert_eq!(ask(named, Some("options.async")), of(Wanted::Asynchronous, AckLevel::Queued));
        }
        let why = ask(Some("durable"), Some("options.async")).unwrap_err();
        assert!(why.status == 400 && why.text.contains("`durable` contradicts options.async"), "{why:?}");
    }

    #[test]
    fn a_key_stands_with_or_without_quotes() {
        for value in ["\"order-17\"", "order-17"] {
            assert_eq!(read(&[("idempotency-key", value)]).unwrap().key.as_deref(), Some(&b"order-17"[..]));
        }
        for value in ["", "\"\"", "two words", "\u{fc}"] {
            assert_eq!(read(&[("idempotency-key", value)]).unwrap_err().status, 400, "{value:?}");
        }
        assert!(read(&[("idempotency-key", &"x".repeat(256))]).is_err());
    }

    #[test]
    fn a_shut_level_is_refused_and_the_others_are_not() {
        let policy = AckPolicy::queued_only();
        assert!(policy.gate.set(AckLevel::Durable, Some("the disk is full".into())));
        let terms = |level| Terms { level, ..Terms::immediate() };
        assert!(terms(AckLevel::Queued).admit(&policy).is_ok());
        let refusal = terms(AckLevel::Durable).admit(&policy).unwrap_err();
        assert!(refusal.status == 503 && refusal.text.contains("the disk is full"));
        assert!(policy.gate.set(AckLevel::Durable, None));
        assert!(terms(AckLevel::Durable).admit(&policy).is_ok());
    }
}
