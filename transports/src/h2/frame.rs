//! Frames (RFC 9113 §4 and §6): the nine-byte header, types, flags, settings, and the small frames we send.

use super::error::ErrorCode;

/// What a client sends first (RFC 9113 §3.4).
pub const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Bytes of a frame header.
pub const HEADER_BYTES: usize = 9;

/// Frame types.
pub mod kind {
    /// §6.1
    pub const DATA: u8 = 0x0;
    /// §6.2
    pub const HEADERS: u8 = 0x1;
    /// §6.3
    pub const PRIORITY: u8 = 0x2;
    /// §6.4
    pub const RST_STREAM: u8 = 0x3;
    /// §6.5
    pub const SETTINGS: u8 = 0x4;
    /// §6.6
    pub const PUSH_PROMISE: u8 = 0x5;
    /// §6.7
    pub const PING: u8 = 0x6;
    /// §6.8
    pub const GOAWAY: u8 = 0x7;
    /// §6.9
    pub const WINDOW_UPDATE: u8 = 0x8;
    /// §6.10
    pub const CONTINUATION: u8 = 0x9;
}

/// Frame flags.
pub mod flag {
    /// SETTINGS, PING
    pub const ACK: u8 = 0x1;
    /// DATA, HEADERS
    pub const END_STREAM: u8 = 0x1;
    /// HEADERS, CONTINUATION
    pub const END_HEADERS: u8 = 0x4;
    /// DATA, HEADERS
    pub const PADDED: u8 = 0x8;
    /// HEADERS
    pub const PRIORITY: u8 = 0x20;
}

/// Settings (§6.5.2).
pub mod setting {
    /// The HPACK decoder's table.
    pub const HEADER_TABLE_SIZE: u16 = 0x1;
    /// Whether a client takes pushes.
    pub const ENABLE_PUSH: u16 = 0x2;
    /// Streams at once.
    pub const MAX_CONCURRENT_STREAMS: u16 = 0x3;
    /// A stream's window at its start.
    pub const INITIAL_WINDOW_SIZE: u16 = 0x4;
    /// The largest frame payload.
    pub const MAX_FRAME_SIZE: u16 = 0x5;
    /// The largest header list, as advice.
    pub const MAX_HEADER_LIST_SIZE: u16 = 0x6;
}

/// A frame header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// Payload bytes, 24 bits.
    pub len: u32,
    /// See [`kind`].
    pub kind: u8,
    /// See [`flag`].
    pub flags: u8,
    /// 31 bits; 0 is the connection.
    pub stream: u32,
}

impl FrameHeader {
    /// Reads a header; the reserved bit is ignored (§4.1).
    #[inline]
    pub fn parse(bytes: &[u8; HEADER_BYTES]) -> Self {
        let [l0, l1, l2, kind, flags, s0, s1, s2, s3] = *bytes;
        FrameHeader {
            len: u32::from_be_bytes([0, l0, l1, l2]),
            kind,
            flags,
            stream: u32::from_be_bytes([s0, s1, s2, s3]) & 0x7fff_ffff,
        }
    }

    /// The nine bytes.
    #[inline]
    pub fn encode(self) -> [u8; HEADER_BYTES] {
        let [_, l0, l1, l2] = self.len.to_be_bytes();
        let [s0, s1, s2, s3] = self.stream.to_be_bytes();
        [l0, l1, l2, self.kind, self.flags, s0, s1, s2, s3]
    }

    /// Whether a flag is set.
    #[inline]
    pub fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// RFC 9113 §6.4.
pub fn write_rst_stream(stream: u32, code: ErrorCode, out: &mut Vec<u8>) {
    out.extend_from_slice(&FrameHeader { len: 4, kind: kind::RST_STREAM, flags: 0, stream }.encode());
    out.extend_from_slice(&code.0.to_be_bytes());
}

/// RFC 9113 §6.9.
pub fn write_window_update(stream: u32, increment: u32, out: &mut Vec<u8>) {
    out.extend_from_slice(&FrameHeader { len: 4, kind: kind::WINDOW_UPDATE, flags: 0, stream }.encode());
    out.extend_from_slice(&increment.to_be_bytes());
}

/// RFC 9113 §6.7.
pub fn write_ping_ack(opaque: &[u8; 8], out: &mut Vec<u8>) {
    out.extend_from_slice(&FrameHeader { len: 8, kind: kind::PING, flags: flag::ACK, stream: 0 }.encode());
    out.extend_from_slice(opaque);
}

/// RFC 9113 §6.8. At most 256 bytes of `debug` are sent.
pub fn write_goaway(last_stream: u32, code: ErrorCode, debug: &str, out: &mut Vec<u8>) {
    let debug = debug.as_bytes();
    let debug = debug.get(..256).unwrap_or(debug);
    let len = 8 + debug.len() as u32;
    out.extend_from_slice(&FrameHeader { len, kind: kind::GOAWAY, flags: 0, stream: 0 }.encode());
    out.extend_from_slice(&last_stream.to_be_bytes());
    out.extend_from_slice(&code.0.to_be_bytes());
    out.extend_from_slice(debug);
}

/// RFC 9113 §6.5.
pub fn write_settings(entries: &[(u16, u32)], out: &mut Vec<u8>) {
    let len = entries.len() as u32 * 6;
    out.extend_from_slice(&FrameHeader { len, kind: kind::SETTINGS, flags: 0, stream: 0 }.encode());
    for (id, value) in entries {
        out.extend_from_slice(&id.to_be_bytes());
        out.extend_from_slice(&value.to_be_bytes());
    }
}

/// RFC 9113 §6.5.3.
pub fn write_settings_ack(out: &mut Vec<u8>) {
    out.extend_from_slice(
        &FrameHeader { len: 0, kind: kind::SETTINGS, flags: flag::ACK, stream: 0 }.encode(),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_survives_the_round_trip() {
        let header = FrameHeader { len: 0x01_02_03, kind: 9, flags: 0x25, stream: 0x7fff_fffe };
        assert_eq!(header.encode(), [1, 2, 3, 9, 0x25, 0x7f, 0xff, 0xff, 0xfe]);
        assert_eq!(FrameHeader::parse(&header.encode()), header);
    }

    #[test]
    fn reserved_bit_is_ignored() {
        assert_eq!(FrameHeader::parse(&[0, 0, 0, 0, 0, 0x80, 0, 0, 1]).stream, 1);
    }

    #[test]
    fn goaway_debug_is_bounded() {
        let mut out = Vec::new();
        write_goaway(1, ErrorCode::NO_ERROR, &"x".repeat(1000), &mut out);
        assert_eq!(out.len(), 9 + 8 + 256);
    }
}
