//! What can be wrong with a request, and what is said about it before the connection closes.

use std::fmt;

/// Why a request was refused by the protocol itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[allow(missing_docs, reason = "each variant is described by its text in `describe`")]
pub enum Fault {
    MethodNotToken,
    RequestLineSpacing,
    TargetByte,
    TargetForm,
    VersionSyntax,
    VersionUnsupported,
    ConnectUnsupported,
    RequestLineTooLong,
    HeadTooLarge,
    TooManyFields,
    BareLineFeed,
    BareCarriageReturn,
    ControlByte,
    FieldNameEmpty,
    FieldNameByte,
    SpaceBeforeColon,
    FoldedLine,
    ColonMissing,
    HostMissing,
    HostRepeated,
    HostInvalid,
    LengthInvalid,
    LengthOverflow,
    LengthRepeated,
    LengthWithTransferEncoding,
    TransferEncodingRepeated,
    TransferEncodingInvalid,
    TransferEncodingUnknown,
    TransferEncodingOnHttp10,
    ExpectationUnknown,
    BodyTooLarge,
    ChunkSizeInvalid,
    ChunkSizeTooLong,
    ChunkLineEnding,
    ChunkExtensionByte,
    ChunkExtensionsTooLong,
    ChunkDataEnding,
    TrailerInvalid,
    TrailersTooLarge,
    Timeout,
    NoRoom,
}

impl Fault {
    /// The status of the error answer.
    #[must_use]
    pub fn status(self) -> u16 {
        self.describe().0
    }

    /// A short name for the metric's `reason` label.
    #[must_use]
    pub fn reason(self) -> &'static str {
        self.describe().1
    }

    /// What is wrong, in words; plain ASCII without quotes, so it may stand in a JSON string.
    #[must_use]
    pub fn text(self) -> &'static str {
        self.describe().2
    }

    /// The `code` member of the error answer.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self.status() {
            413 | 503 => "RESOURCE_EXHAUSTED",
            500.. => "UNIMPLEMENTED",
            _ => "INVALID_ARGUMENT",
        }
    }

    fn describe(self) -> (u16, &'static str, &'static str) {
        match self {
            Self::MethodNotToken => (400, "method", "the method is not a token"),
            Self::RequestLineSpacing => {
                (400, "request_line", "the request line is not method, one space, target, one space, version")
            }
            Self::TargetByte => (400, "target", "the request target holds a byte that no URI may hold"),
            Self::TargetForm => {
                (400, "target", "the request target is neither a path, an http URI nor OPTIONS *")
            }
            Self::VersionSyntax => (400, "version", "the version is not HTTP/digit.digit followed by CR LF"),
            Self::VersionUnsupported => (505, "version", "only HTTP/1.0 and HTTP/1.1 are spoken here"),
            Self::ConnectUnsupported => (501, "method", "CONNECT is not implemented"),
            Self::RequestLineTooLong => (414, "request_line_bytes", "the request line is too long"),
            Self::HeadTooLarge => (431, "head_bytes", "the request head is too large"),
            Self::TooManyFields => (431, "fields", "the request head has too many fields"),
            Self::BareLineFeed => (400, "bare_lf", "a line feed without a carriage return before it"),
            Self::BareCarriageReturn => (400, "bare_cr", "a carriage return without a line feed after it"),
            Self::ControlByte => (400, "control_byte", "a control byte in a field value"),
            Self::FieldNameEmpty => (400, "field_name", "a field without a name"),
            Self::FieldNameByte => (400, "field_name", "a field name that is not a token"),
            Self::SpaceBeforeColon => (400, "field_name", "whitespace between a field name and its colon"),
            Self::FoldedLine => (400, "folded_line", "a line that begins with whitespace (obsolete folding)"),
            Self::ColonMissing => (400, "field_name", "a field line without a colon"),
            Self::HostMissing => (400, "host", "HTTP/1.1 requires a Host field"),
            Self::HostRepeated => (400, "host", "more than one Host field"),
            Self::HostInvalid => (400, "host", "the host is not a name or address with an optional port"),
            Self::LengthInvalid => (400, "content_length", "Content-Length is not a plain decimal number"),
            Self::LengthOverflow => (400, "content_length", "Content-Length is larger than any message"),
            Self::LengthRepeated => (400, "content_length", "more than one Content-Length field"),
            Self::LengthWithTransferEncoding => {
                (400, "framing", "both Content-Length and Transfer-Encoding are present")
            }
            Self::TransferEncodingRepeated => {
                (400, "transfer_encoding", "more than one Transfer-Encoding field")
            }
            Self::TransferEncodingInvalid => {
                (400, "transfer_encoding", "Transfer-Encoding is not a list that ends in one chunked")
            }
            Self::TransferEncodingUnknown => {
                (501, "transfer_encoding", "only the transfer coding chunked is implemented")
            }
            Self::TransferEncodingOnHttp10 => {
                (400, "transfer_encoding", "Transfer-Encoding on an HTTP/1.0 request")
            }
            Self::ExpectationUnknown => {
                (417, "expect", "the only expectation that can be met is 100-continue")
            }
            Self::BodyTooLarge => (413, "body_bytes", "the request body is too large"),
            Self::ChunkSizeInvalid => (400, "chunk_size", "a chunk size that is not a hexadecimal number"),
            Self::ChunkSizeTooLong => (400, "chunk_size", "a chunk size of more than 16 digits"),
            Self::ChunkLineEnding => (400, "chunk_line", "a chunk size line that does not end in CR LF"),
            Self::ChunkExtensionByte => (400, "chunk_extension", "a control byte in a chunk extension"),
            Self::ChunkExtensionsTooLong => (400, "chunk_extension", "chunk extensions are too long"),
            Self::ChunkDataEnding => (400, "chunk_data", "chunk data that is not followed by CR LF"),
            Self::TrailerInvalid => (400, "trailer", "a trailer line that is not a valid field"),
            Self::TrailersTooLarge => (431, "trailer", "the trailer section is too large"),
            Self::Timeout => (408, "timeout", "the request did not arrive in time"),
            Self::NoRoom => (503, "body_room", "too many large bodies are arriving at once"),
        }
    }
}

/// Which part of the request a [`Close`] counts its bytes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The first byte of the request line is byte 0.
    Head,
    /// The first byte behind the head is byte 0; chunk framing is counted.
    Body,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Head => "head",
            Self::Body => "body",
        })
    }
}

/// The connection must be closed once the output is written; the error answer is already in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}, at byte {at} of the request {place}", fault.text())]
pub struct Close {
    /// What was wrong.
    pub fault: Fault,
    /// Where it was found.
    pub at: u64,
    /// What `at` is counted in.
    pub place: Place,
}

impl Close {
    pub(super) fn in_head(fault: Fault, at: usize) -> Self {
        Self { fault, at: at as u64, place: Place::Head }
    }

    pub(super) fn in_body(fault: Fault, at: u64) -> Self {
        Self { fault, at, place: Place::Body }
    }
}
