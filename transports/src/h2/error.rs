//! What can go wrong, and how far it reaches (RFC 9113 §5.4).

use std::fmt;

use super::hpack::CompressionError;
use super::stream_id::StreamId;

/// An error code of RFC 9113 §7. Unknown codes are kept as they came.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ErrorCode(pub u32);

impl ErrorCode {
    /// Graceful: nothing went wrong.
    pub const NO_ERROR: Self = ErrorCode(0x0);
    /// The peer broke the protocol in a way that has no code of its own.
    pub const PROTOCOL_ERROR: Self = ErrorCode(0x1);
    /// Our own fault.
    pub const INTERNAL_ERROR: Self = ErrorCode(0x2);
    /// A flow-control window was passed.
    pub const FLOW_CONTROL_ERROR: Self = ErrorCode(0x3);
    /// SETTINGS were not acknowledged in time.
    pub const SETTINGS_TIMEOUT: Self = ErrorCode(0x4);
    /// A frame on a stream that is half-closed or closed.
    pub const STREAM_CLOSED: Self = ErrorCode(0x5);
    /// A frame of a size that its type does not allow.
    pub const FRAME_SIZE_ERROR: Self = ErrorCode(0x6);
    /// The stream was not processed at all and may be tried again.
    pub const REFUSED_STREAM: Self = ErrorCode(0x7);
    /// The stream is no longer wanted.
    pub const CANCEL: Self = ErrorCode(0x8);
    /// HPACK is out of step.
    pub const COMPRESSION_ERROR: Self = ErrorCode(0x9);
    /// A CONNECT tunnel broke.
    pub const CONNECT_ERROR: Self = ErrorCode(0xa);
    /// The peer spends our time without working.
    pub const ENHANCE_YOUR_CALM: Self = ErrorCode(0xb);
    /// TLS below what RFC 9113 §9.2 asks.
    pub const INADEQUATE_SECURITY: Self = ErrorCode(0xc);
    /// Use HTTP/1.1.
    pub const HTTP_1_1_REQUIRED: Self = ErrorCode(0xd);

    fn name(self) -> Option<&'static str> {
        const NAMES: [&str; 14] = [
            "NO_ERROR",
            "PROTOCOL_ERROR",
            "INTERNAL_ERROR",
            "FLOW_CONTROL_ERROR",
            "SETTINGS_TIMEOUT",
            "STREAM_CLOSED",
            "FRAME_SIZE_ERROR",
            "REFUSED_STREAM",
            "CANCEL",
            "COMPRESSION_ERROR",
            "CONNECT_ERROR",
            "ENHANCE_YOUR_CALM",
            "INADEQUATE_SECURITY",
            "HTTP_1_1_REQUIRED",
        ];
        NAMES.get(self.0 as usize).copied()
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "{:#x}", self.0),
        }
    }
}

impl fmt::Debug for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The connection is over (RFC 9113 §5.4.1): write what is in the output, which ends with GOAWAY, and close.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {reason}")]
#[non_exhaustive]
pub struct ConnectionError {
    /// What the GOAWAY says.
    pub code: ErrorCode,
    /// A short constant text, fit for a log line and for the label of a metric; GOAWAY carries it too.
    pub reason: &'static str,
}

impl ConnectionError {
    pub(super) const fn new(code: ErrorCode, reason: &'static str) -> Self {
        ConnectionError { code, reason }
    }

    pub(super) const fn protocol(reason: &'static str) -> Self {
        Self::new(ErrorCode::PROTOCOL_ERROR, reason)
    }

    pub(super) const fn frame_size(reason: &'static str) -> Self {
        Self::new(ErrorCode::FRAME_SIZE_ERROR, reason)
    }

    pub(super) const fn calm(reason: &'static str) -> Self {
        Self::new(ErrorCode::ENHANCE_YOUR_CALM, reason)
    }
}

impl From<CompressionError> for ConnectionError {
    fn from(error: CompressionError) -> Self {
        Self::new(ErrorCode::COMPRESSION_ERROR, error.0)
    }
}

/// Why one stream was reset before its time (RFC 9113 §5.4.2); its neighbours are unharmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reset {
    /// What RST_STREAM said or says.
    pub code: ErrorCode,
    /// Whether the client sent the RST_STREAM (or went away), rather than broke a rule.
    pub by_client: bool,
    /// A short constant text, fit for the label of a metric.
    pub reason: &'static str,
}

/// An error with its scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    Connection(ConnectionError),
    Stream(StreamId, ErrorCode, &'static str),
}

impl From<ConnectionError> for Fault {
    fn from(error: ConnectionError) -> Self {
        Fault::Connection(error)
    }
}

impl From<CompressionError> for Fault {
    fn from(error: CompressionError) -> Self {
        Fault::Connection(error.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_the_names_of_the_rfc() {
        assert_eq!(ErrorCode::ENHANCE_YOUR_CALM.to_string(), "ENHANCE_YOUR_CALM");
        assert_eq!(ErrorCode::HTTP_1_1_REQUIRED.to_string(), "HTTP_1_1_REQUIRED");
        assert_eq!(ErrorCode(0xff).to_string(), "0xff");
    }
}
