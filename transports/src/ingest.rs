//! From a request's bytes to a message in the queue: the same for every protocol.

use engine_core::{
    KEY_OVERRIDE, KIND_EVENT, MetadataWriter, Refused, TRACE_KEY, Traceparent,
    schema::{EVENTS, MARK, MARK_TEXT},
};

use crate::{
    answer::Refusal,
    core::Core,
    events::{EVENT_SCHEMA, SCHEMA_KEY, now_ms},
    grpc::Code,
    lane::{Accepted, Incoming},
    message::{
        Class, DataKind, DataMessage, IngestProto, MessageError, decode_data_message, decode_event,
        decode_ingest_json, decode_ingest_proto,
    },
    terms::{Terms, agree},
    waiting::Caller,
};

/// Room for decoded metadata that is kept from message to message.
const METADATA_KEPT_BYTES_MAX: usize = 64 << 10;

impl From<MessageError> for Refusal {
    fn from(error: MessageError) -> Self {
        let code = match error.class() {
            Class::InvalidArgument => Code::InvalidArgument,
            Class::Internal => Code::Internal,
        };
        Refusal::new(400, code, format!("Invalid request body: {error}"))
    }
}

/// Writes pairs the way the engine keeps them and lends them out; `MARK` among them is refused. A trace among them comes
/// before the request's, for whoever sent the message on wrote the first; what is no trace is left out.
pub(crate) fn with_metadata<P: AsRef<[u8]>, T>(
    core: &Core,
    mut trace: Option<Traceparent>,
    pairs: impl Iterator<Item = (P, P)>,
    then: impl FnOnce(&[u8]) -> Result<T, Refusal>,
) -> Result<T, Refusal> {
    let mut bytes = core.metadata.borrow_mut();
    bytes.clear();
    let mut writer = MetadataWriter::new(&mut bytes);
    for (key, value) in pairs {
        if key.as_ref() == MARK {
            let text = "metadata: the key tidegate-schema is Tidegate's own; choose another, or send events to /v1/events";
            return Err(Refusal::new(400, Code::InvalidArgument, text));
        }
        if key.as_ref() == TRACE_KEY {
            trace = Traceparent::read(value.as_ref()).or(trace);
            continue;
        }
        writer.push(key.as_ref(), value.as_ref());
    }
    if let Some(trace) = trace {
        writer.push(TRACE_KEY, trace.as_bytes());
    }
    let outcome = then(&bytes);
    if bytes.capacity() > METADATA_KEPT_BYTES_MAX {
        *bytes = Vec::new();
    }
    outcome
}

/// `POST /api/v1/ingest` and its aliases.
pub(crate) fn ingest_json(
    core: &Core,
    body: &[u8],
    terms: &Terms,
    caller: impl FnOnce() -> Caller,
) -> Result<Accepted, Refusal> {
    let message = decode_ingest_json(body)?;
    with_metadata(core, terms.trace, message.metadata.iter(), |metadata| {
        let incoming = Incoming {
            id: None,
            source: message.source.as_bytes(),
            payload: message.data.as_bytes(),
            metadata,
            timestamp_seconds: None,
            once: false,
        };
        Ok(core.accept(&incoming, 0, terms, caller)?)
    })
}

/// `POST /enqueue`: a message, or an event on its way between processes, which its mark says.
pub(crate) fn enqueue_json(
    core: &Core,
    body: &[u8],
    kind: u8,
    terms: &Terms,
    caller: impl FnOnce() -> Caller,
) -> Result<Accepted, Refusal> {
    // The payload is base64: it is decoded into a buffer that is kept.
    let mut payload = core.inflated.borrow_mut();
    let message = decode_data_message(body, &mut payload)?;
    agree(terms.key.as_deref(), message.id.as_bytes())?;
    let schema = message.metadata.get(MARK_TEXT).map(str::as_bytes).filter(|mark| EVENTS.contains(mark));
    let outcome = match schema {
        Some(schema) => enqueue_event(core, &message, &payload, schema, kind, terms, caller),
        None => {
            let pairs = message.metadata.iter().filter(|(key, _)| *key != MARK_TEXT);
            with_metadata(core, terms.trace, pairs, |metadata| {
                let incoming = Incoming {
                    id: (!message.id.is_empty()).then_some(message.id.as_bytes()),
                    source: message.source.as_bytes(),
                    payload: &payload,
                    metadata,
                    timestamp_seconds: message.timestamp_s,
                    once: false,
                };
                Ok(core.accept(&incoming, kind, terms, caller)?)
            })
        }
    };
    if payload.capacity() > METADATA_KEPT_BYTES_MAX {
        *payload = Vec::new();
    }
    outcome
}

/// Takes an event as a route of events would: from whoever may send them, by the same rules, to the core of its user.
fn enqueue_event(
    core: &Core,
    message: &DataMessage<'_>,
    payload: &[u8],
    schema: &[u8],
    kind: u8,
    terms: &Terms,
    caller: impl FnOnce() -> Caller,
) -> Result<Accepted, Refusal> {
    if let Some(denied) = terms.no_events {
        return Err(Refusal::new(401, Code::Unauthenticated, denied.to_string()));
    }
    let judged;
    let plain = if schema == EVENT_SCHEMA { decode_event(payload, now_ms(core)) } else { None };
    let (id, user, payload) = match &plain {
        Some(event) => (event.id, event.user_id, payload),
        None => {
            judged = core.shared.events.rules.judge(schema, payload).map_err(|wrong| {
                Refusal::new(400, Code::InvalidArgument, format!("payload: no event: {wrong}"))
            })?;
            (&judged.id[..], &judged.user[..], judged.payload.as_deref().unwrap_or(payload))
        }
    };
    agree(terms.key.as_deref(), id)?;
    let id = if id.is_empty() { message.id.as_bytes() } else { id };
    let rest = message.metadata.iter().map(|(key, value)| (key.as_bytes(), value.as_bytes()));
    let rest = rest.filter(|(key, _)| ![KEY_OVERRIDE, SCHEMA_KEY, MARK].contains(key));
    let first =
        [(KEY_OVERRIDE, user), (SCHEMA_KEY, schema)].into_iter().filter(|(_, value)| !value.is_empty());
    with_metadata(core, terms.trace, first.chain(rest), |metadata| {
        let incoming = Incoming {
            id: (!id.is_empty()).then_some(id),
            source: message.source.as_bytes(),
            payload,
            metadata,
            timestamp_seconds: message.timestamp_s,
            once: false,
        };
        Ok(core.accept(&incoming, kind | KIND_EVENT, terms, caller)?)
    })
}

/// What a message of a gRPC stream came to.
#[derive(Debug)]
pub(crate) enum Streamed {
    /// It is in the queue, and that is what was asked for.
    Accepted,
    /// It is in the queue; what becomes of it is told later.
    Waits,
    /// There is no room: offer it again later.
    NoRoom,
}

fn incoming<'a>(message: &IngestProto<'a>, metadata: &'a [u8]) -> Incoming<'a> {
    Incoming {
        id: None,
        source: message.source,
        payload: message.data,
        metadata,
        timestamp_seconds: None,
        once: false,
    }
}

/// One protobuf message of a unary call.
pub(crate) fn ingest_proto(
    core: &Core,
    message: &[u8],
    kind: DataKind,
    terms: &Terms,
    caller: impl FnOnce() -> Caller,
) -> Result<Accepted, Refusal> {
    let message = decode_ingest_proto(message, kind)?;
    with_metadata(core, terms.trace, message.metadata.iter(), |metadata| {
        Ok(core.accept(&incoming(&message, metadata), 0, terms, caller)?)
    })
}

/// One protobuf message of a client stream.
pub(crate) fn ingest_proto_streamed(
    core: &Core,
    message: &[u8],
    kind: DataKind,
    terms: &Terms,
    caller: impl FnOnce() -> Caller,
) -> Result<Streamed, Refusal> {
    let message = decode_ingest_proto(message, kind)?;
    with_metadata(core, terms.trace, message.metadata.iter(), |metadata| {
        match core.accept_or_wait(&incoming(&message, metadata), 0, terms, caller) {
            Ok(Accepted::Now(_)) => Ok(Streamed::Accepted),
            Ok(Accepted::Waits(_)) => Ok(Streamed::Waits),
            Err(Refused::QueueFull | Refused::OverBudget) => Ok(Streamed::NoRoom),
            Err(refused) => Err(refused.into()),
        }
    })
}
