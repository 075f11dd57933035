//! Why a message was refused.

/// A message that cannot be taken, with the place where it went wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MessageError {
    /// The body is no JSON, or not of the shape asked for.
    #[error("{what} at line {line}, column {column}{}", Pointer(pointer))]
    Json {
        /// What is wrong.
        what: String,
        /// The JSON pointer (RFC 6901) of the value it is wrong with; empty for the document.
        pointer: String,
        /// The line, from 1.
        line: usize,
        /// The column in bytes, from 1.
        column: usize,
    },
    /// The body is not UTF-8 and so no JSON (RFC 8259 §8.1).
    #[error("invalid UTF-8 at byte {at}")]
    NotUtf8 {
        /// The offset of the first bad byte.
        at: usize,
    },
    /// The bytes are no protobuf message.
    #[error("invalid protobuf: {what} at byte {at}")]
    Protobuf {
        /// What is wrong.
        what: &'static str,
        /// The offset from the start of the message.
        at: usize,
    },
    /// Protobuf groups nest deeper than any decoder has to follow.
    #[error("groups nested deeper than 100 at byte {at}")]
    TooDeep {
        /// The offset from the start of the message.
        at: usize,
    },
    /// A protobuf string is not UTF-8.
    #[error("invalid UTF-8 in {field} at byte {at}")]
    ProtobufText {
        /// The field's name.
        field: &'static str,
        /// The offset from the start of the message.
        at: usize,
    },
    /// More than [`METADATA_PAIRS_MAX`](super::METADATA_PAIRS_MAX) pairs.
    #[error("metadata has more than {} keys", super::METADATA_PAIRS_MAX)]
    TooManyPairs,
}

/// Whose fault an error is, as the answer's code says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// 400, `INVALID_ARGUMENT`: the caller sent a wrong value.
    InvalidArgument,
    /// `INTERNAL`: the bytes do not even make a message; gRPC answers so by custom.
    Internal,
}

impl MessageError {
    /// Which code answers it.
    #[must_use]
    pub fn class(&self) -> Class {
        match self {
            Self::Protobuf { .. } => Class::Internal,
            _ => Class::InvalidArgument,
        }
    }

    /// The JSON pointer of the offending value; for protobuf its field's name, as BadRequest wants it. Empty
    /// when it is the message as a whole.
    #[must_use]
    pub fn pointer(&self) -> &str {
        match self {
            Self::Json { pointer, .. } => pointer,
            Self::ProtobufText { field, .. } => field,
            Self::TooManyPairs => "/metadata",
            Self::NotUtf8 { .. } | Self::Protobuf { .. } | Self::TooDeep { .. } => "",
        }
    }
}

/// ` (at /a/b)`, or nothing for the document.
struct Pointer<'a>(&'a str);

impl std::fmt::Display for Pointer<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(f, " (at {})", self.0) }
    }
}
