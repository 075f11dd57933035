//! gRPC answers as they go over HTTP/2: prepared blocks, statuses, the one message of a unary answer.

use std::time::Duration;

use engine_core::AckLevel;

use crate::{
    answer::{Reached, Refusal},
    grpc::{ACCEPT_ENCODING, Code, Detail, Message, PREFIX_BYTES, Status, encode_details, encode_message},
    h2::{Block, FieldName, Replies, StreamId},
    message_id::MESSAGE_ID_BYTES,
};

/// A unary answer that needs no waiting: prefix, `message_id`, `status`.
pub(crate) const UNARY_BYTES: usize = PREFIX_BYTES + 2 + MESSAGE_ID_BYTES + 2 + "accepted".len();

pub(crate) fn unary_answer(id: &[u8; MESSAGE_ID_BYTES]) -> [u8; UNARY_BYTES] {
    let mut answer = [0; UNARY_BYTES];
    answer[4] = (UNARY_BYTES - PREFIX_BYTES) as u8;
    answer[5] = 0x0a;
    answer[6] = MESSAGE_ID_BYTES as u8;
    answer[7..7 + MESSAGE_ID_BYTES].copy_from_slice(id);
    answer[7 + MESSAGE_ID_BYTES] = 0x12;
    answer[8 + MESSAGE_ID_BYTES] = "accepted".len() as u8;
    answer[9 + MESSAGE_ID_BYTES..].copy_from_slice(b"accepted");
    answer
}

/// The pre-encoded blocks of gRPC answers; they carry no date, so they are made once.
#[derive(Debug)]
pub(crate) struct GrpcBlocks {
    /// The head of an answer that carries a message, by level.
    pub(crate) heads: [Block; 3],
    /// The same where nothing was taken, which an older system says in its message.
    pub(crate) bare_head: Block,
    /// Trailers of a success.
    pub(crate) ok: Block,
    shard: FieldName,
    offset: FieldName,
    /// The name of the field that gives a request's id back.
    pub(crate) request_id: FieldName,
}

impl GrpcBlocks {
    pub(crate) fn new() -> Self {
        Self {
            heads: AckLevel::ALL.map(|level| {
                Block::new(200).field("content-type", "application/grpc").field("tidegate-ack", level.name())
            }),
            bare_head: Block::new(200).field("content-type", "application/grpc"),
            ok: Block::trailers().field("grpc-status", "0"),
            shard: FieldName::new("tidegate-shard"),
            offset: FieldName::new("tidegate-offset"),
            request_id: FieldName::new("x-request-id"),
        }
    }

    /// Makes `block` the head of an answer that says what was reached.
    pub(crate) fn write_head(&self, block: &mut Block, reached: &Reached) {
        block.copy_from(&self.heads[reached.level as usize]);
        self.push_place(block, reached);
    }

    /// Adds what an answer says of one message beside its level, over gRPC and HTTP.
    pub(crate) fn push_place(&self, block: &mut Block, reached: &Reached) {
        if let Some(offset) = reached.offset {
            block.push_number(&self.shard, reached.shard as u64);
            block.push_number(&self.offset, offset);
        }
        if reached.duplicate {
            block.push(b"tidegate-duplicate", b"true");
        }
    }
}

/// Fields that say what was reached where the answer's body does not.
pub(crate) fn push_reached(block: &mut Block, reached: &Reached) {
    block.push(b"tidegate-ack", reached.level.name().as_bytes());
    if let Some(offset) = reached.offset {
        block.push(b"tidegate-shard", itoa::Buffer::new().format(reached.shard).as_bytes());
        block.push(b"tidegate-offset", itoa::Buffer::new().format(offset).as_bytes());
    }
    if reached.duplicate {
        block.push(b"tidegate-duplicate", b"true");
    }
}

/// Whether a content type is gRPC with protobuf messages.
pub(crate) fn is_grpc(content_type: Option<&[u8]>) -> bool {
    let Some(rest) = content_type.and_then(|value| value.strip_prefix(b"application/grpc")) else {
        return false;
    };
    rest.is_empty() || rest.starts_with(b";") || rest.starts_with(b"+proto")
}

/// Fields of a gRPC status, in trailers or in a trailers-only head.
pub(crate) fn push_status(block: &mut Block, status: &Status, retry: bool) {
    block.push(b"grpc-status", status.code.digits().as_bytes());
    if !status.message.is_empty() {
        let mut message = Vec::with_capacity(status.message.len());
        encode_message(&mut message, &status.message);
        block.push(b"grpc-message", &message);
    }
    let details = match status.code {
        Code::ResourceExhausted | Code::Unavailable if retry => {
            Some(Detail::RetryInfo(Duration::from_secs(1)))
        }
        Code::InvalidArgument => Some(Detail::BadRequest { field: "", description: &status.message }),
        _ => None,
    };
    if let Some(detail) = details {
        let mut value = Vec::new();
        encode_details(&mut value, status, &[detail]);
        block.push(b"grpc-status-details-bin", &value);
    }
}

/// Writes a status as a trailers-only answer.
pub(crate) fn fail(id: StreamId, status: &Status, retry: bool, replies: &mut Replies<'_>) {
    let mut block = Block::new(200).field("content-type", "application/grpc");
    if status.code == Code::Unimplemented {
        block.push(b"grpc-accept-encoding", ACCEPT_ENCODING.as_bytes());
    }
    push_status(&mut block, status, retry);
    replies.head(id, &block, true);
}

/// Why a gRPC call fails, and whether the same call may succeed later.
pub(crate) struct Failure {
    pub(crate) status: Status,
    pub(crate) retry: bool,
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Failure {
            retry: refusal.retry_after_seconds().is_some(),
            status: Status::new(refusal.code, refusal.text),
        }
    }
}

impl<S: Into<Status>> From<S> for Failure {
    fn from(status: S) -> Self {
        Failure { status: status.into(), retry: false }
    }
}

/// The message, when `data` is exactly one with its prefix.
pub(crate) fn whole_message(data: &[u8]) -> Option<Message<'_>> {
    let (prefix, bytes) = data.split_first_chunk::<PREFIX_BYTES>()?;
    let [flag, length @ ..] = *prefix;
    let whole = flag <= 1 && u32::from_be_bytes(length) as usize == bytes.len();
    whole.then_some(Message { compressed: flag == 1, bytes })
}
