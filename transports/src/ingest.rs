//! From a request's bytes to a message in the queue: the same for every protocol.

use engine_core::{MetadataWriter, Refused};

use crate::{
    answer::Refusal,
    core::Core,
    grpc::Code,
    lane::{Accepted, Incoming},
    message::{
        Class, DataKind, IngestProto, MessageError, decode_data_message, decode_ingest_json,
        decode_ingest_proto,
    },
    terms::{Terms, is_key_of},
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

/// Writes pairs the way the engine keeps them and lends them out.
pub(crate) fn with_metadata<P: AsRef<[u8]>, T>(
    core: &Core,
    pairs: impl Iterator<Item = (P, P)>,
    then: impl FnOnce(&[u8]) -> T,
) -> T {
    let mut bytes = core.metadata.borrow_mut();
    bytes.clear();
    let mut writer = MetadataWriter::new(&mut bytes);
    for (key, value) in pairs {
        writer.push(key.as_ref(), value.as_ref());
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
    with_metadata(core, message.metadata.iter(), |metadata| {
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

/// `POST /enqueue`.
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
    if let Some(key) = &terms.key
        && !message.id.is_empty()
        && !is_key_of(key, message.id.as_bytes())
    {
        let text = "idempotency-key: the body has another id, and a message has one; leave out either, or give both the same value";
        return Err(Refusal::new(400, Code::InvalidArgument, text));
    }
    let outcome = with_metadata(core, message.metadata.iter(), |metadata| {
        let incoming = Incoming {
            id: (!message.id.is_empty()).then_some(message.id.as_bytes()),
            source: message.source.as_bytes(),
            payload: &payload,
            metadata,
            timestamp_seconds: message.timestamp_s,
            once: false,
        };
        core.accept(&incoming, kind, terms, caller)
    });
    if payload.capacity() > METADATA_KEPT_BYTES_MAX {
        *payload = Vec::new();
    }
    Ok(outcome?)
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
    with_metadata(core, message.metadata.iter(), |metadata| {
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
    with_metadata(core, message.metadata.iter(), |metadata| {
        match core.accept_or_wait(&incoming(&message, metadata), terms, caller) {
            Ok(Accepted::Now(_)) => Ok(Streamed::Accepted),
            Ok(Accepted::Waits(_)) => Ok(Streamed::Waits),
            Err(Refused::QueueFull | Refused::OverBudget) => Ok(Streamed::NoRoom),
            Err(refused) => Err(refused.into()),
        }
    })
}
