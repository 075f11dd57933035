//! HTTP/2 frames: their nine bytes of header, and the few that are written.

/// Length of a frame's header.
pub const HEADER_BYTES: usize = 9;

/// Largest payload that needs no SETTINGS to agree on it.
pub const PAYLOAD_BYTES_MAX: usize = 16_384;

/// Frame types (RFC 9113 §6).
pub mod kind {
    /// Payload of a request or answer.
    pub const DATA: u8 = 0;
    /// Opens a stream, or ends it with trailers.
    pub const HEADERS: u8 = 1;
    /// Ends a stream at once.
    pub const RST_STREAM: u8 = 3;
    /// Parameters of the connection.
    pub const SETTINGS: u8 = 4;
    /// A promise, which this client forbids.
    pub const PUSH_PROMISE: u8 = 5;
    /// Asks for a sign of life.
    pub const PING: u8 = 6;
    /// Announces the end of the connection.
    pub const GOAWAY: u8 = 7;
    /// Gives back a part of a window.
    pub const WINDOW_UPDATE: u8 = 8;
    /// More of a header block.
    pub const CONTINUATION: u8 = 9;
}

/// Frame flags.
pub mod flag {
    /// The last frame of this side on its stream.
    pub const END_STREAM: u8 = 0x1;
    /// SETTINGS or PING: the answer to one.
    pub const ACK: u8 = 0x1;
    /// The header block is complete.
    pub const END_HEADERS: u8 = 0x4;
    /// The payload starts with a length of padding.
    pub const PADDED: u8 = 0x8;
    /// HEADERS: five bytes of priority come first.
    pub const PRIORITY: u8 = 0x20;
}

/// A frame's header.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Header {
    /// Length of the payload.
    pub len: usize,
    /// One of [`kind`].
    pub kind: u8,
    /// Bits of [`flag`].
    pub flags: u8,
    /// The stream, 0 for the connection.
    pub stream: u32,
}

impl Header {
    /// Reads the first nine bytes of `bytes`, if they are there.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let [a, b, c, kind, flags, s0, s1, s2, s3] = *bytes.first_chunk::<HEADER_BYTES>()?;
        let stream = u32::from_be_bytes([s0, s1, s2, s3]) & 0x7fff_ffff;
        Some(Self { len: u32::from_be_bytes([0, a, b, c]) as usize, kind, flags, stream })
    }

    /// As bytes.
    pub fn encode(self) -> [u8; HEADER_BYTES] {
        let [_, a, b, c] = (self.len as u32).to_be_bytes();
        let [s0, s1, s2, s3] = self.stream.to_be_bytes();
        [a, b, c, self.kind, self.flags, s0, s1, s2, s3]
    }
}

/// Writes a whole frame.
pub fn write(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    out.extend_from_slice(&Header { len: payload.len(), kind, flags, stream }.encode());
    out.extend_from_slice(payload);
}

/// Writes a WINDOW_UPDATE.
pub fn write_window_update(out: &mut Vec<u8>, stream: u32, increment: u32) {
    write(out, kind::WINDOW_UPDATE, 0, stream, &increment.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_survives_the_round_trip() {
        let header =
            Header { len: 0x01_02_03, kind: kind::DATA, flags: flag::END_STREAM, stream: 0x7fff_fffd };
        assert_eq!(Header::parse(&header.encode()), Some(header));
        assert_eq!(Header::parse(&header.encode()[..8]), None);
    }

    #[test]
    fn reserved_bit_of_the_stream_is_ignored() {
        assert_eq!(Header::parse(&[0, 0, 0, 6, 0, 0x80, 0, 0, 1]).unwrap().stream, 1);
    }
}
