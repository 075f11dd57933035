//! Response header blocks, encoded once and sent many times.
//!
//! Fields are static-table references where the table has them, and literals that enter no table
//! otherwise. So a block means the same on every connection at every time, and no encoder table exists that
//! a client's SETTINGS_HEADER_TABLE_SIZE could ask memory for.

use super::frame::{FrameHeader, HEADER_BYTES, flag, kind};
use super::hpack::{huffman, integer, static_table};

/// The header block of a response or of its trailers.
///
/// ```
/// use transports::h2::Block;
/// let head = Block::new(200).field("content-type", "application/grpc");
/// let trailers = Block::trailers().field("grpc-status", "0");
/// # assert!(head.status() == Some(200) && trailers.status().is_none());
/// ```
#[derive(Clone, Debug)]
pub struct Block {
    /// A whole HEADERS frame: nine bytes of header (stream and END_STREAM are filled in when it is sent), then
    /// the block.
    frame: Vec<u8>,
    status: u16,
}

impl Block {
    /// The head of a response. A status of 1xx makes it an interim one (RFC 9113 §8.1).
    pub fn new(status: u16) -> Self {
        let mut block = Block { frame: Vec::with_capacity(64), status };
        block.restart(status);
        block
    }

    /// Trailers: no `:status`.
    pub fn trailers() -> Self {
        let mut block = Block { frame: Vec::with_capacity(64), status: 0 };
        block.restart(0);
        block
    }

    /// Starts over with another status (0: trailers), keeping the memory.
    pub fn restart(&mut self, status: u16) {
        self.frame.clear();
        self.frame.extend_from_slice(&[0; HEADER_BYTES]);
        self.status = status;
        if status != 0 {
            let status = status.clamp(100, 999);
            let digits =
                [b'0' + (status / 100) as u8, b'0' + (status / 10 % 10) as u8, b'0' + (status % 10) as u8];
            self.write(b":status", &digits);
        }
        self.seal();
    }

    /// Adds a field; see [`Block::push`].
    #[must_use]
    pub fn field(mut self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
        self.push(name.as_ref(), value.as_ref());
        self
    }

    /// Adds a field. What RFC 9113 §8.2 forbids never leaves: names go out in lower case, connection-specific
    /// fields (and pseudo-fields) are dropped, control characters in a value become spaces, and blanks around it go.
    pub fn push(&mut self, name: &[u8], value: &[u8]) {
        let lower;
        let name = if name.iter().any(u8::is_ascii_uppercase) {
            lower = name.to_ascii_lowercase();
            &lower
        } else {
            name
        };
        let connection_specific = matches!(
            name,
            b"connection" | b"keep-alive" | b"proxy-connection" | b"transfer-encoding" | b"upgrade"
        );
        if connection_specific || name.is_empty() || name.starts_with(b":") {
            return;
        }
        let clean;
        let value = if value.iter().any(u8::is_ascii_control) {
            clean = value
                .iter()
                .map(|&byte| if byte.is_ascii_control() { b' ' } else { byte })
                .collect::<Vec<_>>();
            &clean
        } else {
            value
        };
        self.write(name, value.trim_ascii());
        self.seal();
    }

    /// Becomes a copy of another block, keeping the memory.
    pub fn copy_from(&mut self, other: &Block) {
        self.frame.clear();
        self.frame.extend_from_slice(&other.frame);
        self.status = other.status;
    }

    /// Adds a number under a name that was encoded before: the fast way for what differs from answer to answer.
    #[inline]
    pub fn push_number(&mut self, name: &FieldName, number: u64) {
        self.frame.extend_from_slice(&name.0);
        let mut digits = itoa::Buffer::new();
        let digits = digits.format(number).as_bytes();
        // RFC 7541 §5.2: at most 20 digits, so the length is one byte; plain, as that needs no table.
        self.frame.push(digits.len() as u8);
        self.frame.extend_from_slice(digits);
        self.seal();
    }

    /// Adds a text under a name that was encoded before, without asking whether Huffman coding would make it shorter.
    /// Control characters become blanks.
    #[inline]
    pub fn push_text(&mut self, name: &FieldName, text: &[u8]) {
        self.frame.extend_from_slice(&name.0);
        // RFC 7541 §5.2: plain.
        integer::write(7, 0x00, text.len(), &mut self.frame);
        self.frame.extend(text.iter().map(|byte| if byte.is_ascii_control() { b' ' } else { *byte }));
        self.seal();
    }

    /// The status, if this is not trailers.
    pub fn status(&self) -> Option<u16> {
        (self.status != 0).then_some(self.status)
    }

    pub(super) fn is_interim(&self) -> bool {
        (100..200).contains(&self.status)
    }

    /// The encoded fields without frame header.
    pub(super) fn fields(&self) -> &[u8] {
        self.frame.get(HEADER_BYTES..).unwrap_or_default()
    }

    /// A whole HEADERS frame for stream 0 without END_STREAM.
    #[inline]
    pub(super) fn frame(&self) -> &[u8] {
        &self.frame
    }

    fn write(&mut self, name: &[u8], value: &[u8]) {
        // RFC 7541 §6.1 and §6.2.2.
        match static_table::find(name, value) {
            static_table::Found::Field(index) => {
                integer::write(7, 0x80, index as usize, &mut self.frame);
                return;
            }
            static_table::Found::Name(index) => integer::write(4, 0x00, index as usize, &mut self.frame),
            static_table::Found::Nothing => {
                self.frame.push(0x00);
                write_string(name, &mut self.frame);
            }
        }
        write_string(value, &mut self.frame);
    }

    fn seal(&mut self) {
        let len = (self.frame.len() - HEADER_BYTES) as u32;
        let header = FrameHeader { len, kind: kind::HEADERS, flags: flag::END_HEADERS, stream: 0 }.encode();
        if let Some(start) = self.frame.first_chunk_mut() {
            *start = header;
        }
    }
}

/// The name of a field that enters no table, encoded once.
#[derive(Clone, Debug)]
pub struct FieldName(Box<[u8]>);

impl FieldName {
    /// Encodes a name in lower case that the static table does not have (RFC 7541 §6.2.2).
    pub fn new(name: &'static str) -> Self {
        debug_assert!(matches!(static_table::find(name.as_bytes(), b""), static_table::Found::Nothing));
        let mut encoded = vec![0x00];
        write_string(name.as_bytes(), &mut encoded);
        Self(encoded.into())
    }
}

impl FieldName {
    /// `content-length`, by its place in the static table (RFC 7541 §6.2.2, appendix A).
    pub fn content_length() -> Self {
        const CONTENT_LENGTH: usize = 28;
        let mut encoded = Vec::new();
        integer::write(4, 0x00, CONTENT_LENGTH, &mut encoded);
        Self(encoded.into())
    }
}

/// RFC 7541 §5.2: whichever is shorter.
fn write_string(string: &[u8], out: &mut Vec<u8>) {
    let encoded_len = huffman::encoded_len(string);
    if encoded_len < string.len() {
        integer::write(7, 0x80, encoded_len, out);
        huffman::encode(string, out);
    } else {
        integer::write(7, 0x00, string.len(), out);
        out.extend_from_slice(string);
    }
}

#[cfg(test)]
mod tests {
    use super::super::hpack::{Decoder, HeaderList};
    use super::*;

    fn decoded(block: &Block) -> Vec<(String, String)> {
        let mut list = HeaderList::default();
        let decoded = Decoder::new(4096).decode(block.fields(), &mut list, 16_384, 100).unwrap();
        assert!(!decoded.table_changed);
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        list.fields().map(|(name, value)| (text(name), text(value))).collect()
    }

    fn pair(name: &str, value: &str) -> (String, String) {
        (name.to_owned(), value.to_owned())
    }

    #[test]
    fn a_number_under_an_encoded_name_reads_as_any_field() {
        let mut block = Block::new(503);
        block.copy_from(&Block::new(200).field("content-type", "application/grpc"));
        block.push_number(&FieldName::content_length(), 7);
        block.push_number(&FieldName::new("tidegate-offset"), u64::MAX);
        let fields = decoded(&block);
        assert_eq!(fields[2], ("content-length".to_owned(), "7".to_owned()));
        assert_eq!(fields[3], ("tidegate-offset".to_owned(), u64::MAX.to_string()));
        assert_eq!((block.status(), fields.len()), (Some(200), 4));
    }

    #[test]
    fn fields_come_out_as_they_went_in() {
        let block = Block::new(418).field("Content-Type", "text/plain").field("x-id", [0xe9, b'1']);
        let mut list = HeaderList::default();
        Decoder::new(4096).decode(block.fields(), &mut list, 16_384, 100).unwrap();
        let fields: Vec<_> = list.fields().collect();
        assert_eq!(
            fields,
            [(&b":status"[..], &b"418"[..]), (b"content-type", b"text/plain"), (b"x-id", &[0xe9, b'1'])]
        );
    }

    #[test]
    fn common_status_is_one_byte() {
        assert_eq!(Block::new(200).fields(), [0x88]);
        assert_eq!(Block::new(404).fields(), [0x8d]);
    }

    #[test]
    fn nothing_enters_the_dynamic_table() {
        // `decoded` asserts that the table stays as it was.
        let block = Block::new(200).field("server", "tidegate").field("grpc-status", "0");
        assert_eq!(decoded(&block).len(), 3);
    }

    #[test]
    fn forbidden_fields_never_leave() {
        let block = Block::trailers()
            .field("Connection", "close")
            .field("transfer-encoding", "chunked")
            .field(":status", "500")
            .field("", "x")
            .field("x", " a\r\nb: c ");
        assert_eq!(decoded(&block), [pair("x", "a  b: c")]);
    }

    #[test]
    fn frame_header_holds_the_length() {
        let block = Block::new(200).field("x", "y".repeat(300));
        let header = FrameHeader::parse(block.frame().first_chunk().unwrap());
        assert_eq!(header.len as usize, block.fields().len());
        assert_eq!((header.kind, header.flags, header.stream), (kind::HEADERS, flag::END_HEADERS, 0));
    }
}
