//! Request bodies that are not whole in the input: counted ones and chunked ones (RFC 9112 §6, §7.1).

use super::head::Framing;
use super::scan::{is_token_byte, value_end};
use super::{Close, Fault, Limits};

/// The part of a body that is still to come.
#[derive(Debug)]
pub(super) enum Remaining {
    Length(u64),
    Chunked(Chunked),
}

impl Remaining {
    /// What `framing` announces; `None` when there is nothing to read.
    pub(super) fn new(framing: Framing) -> Option<Self> {
        match framing {
            Framing::None | Framing::Length(0) => None,
            Framing::Length(length) => Some(Self::Length(length)),
            Framing::Chunked => Some(Self::Chunked(Chunked::default())),
        }
    }

    /// Reads on, giving decoded bytes to `sink`. Returns how much of the input it took and whether the body
    /// is complete; unless it is, all of the input was taken.
    pub(super) fn read(
        &mut self,
        input: &[u8],
        limits: &Limits,
        body_bytes_max: u64,
        mut sink: impl FnMut(&[u8]),
    ) -> Result<(usize, bool), Close> {
        match self {
            Self::Length(left) => {
                let take = usize::try_from(*left).map_or(input.len(), |left| left.min(input.len()));
                sink(&input[..take]);
                *left -= take as u64;
                Ok((take, *left == 0))
            }
            Self::Chunked(chunked) => chunked.read(input, limits, body_bytes_max, sink),
        }
    }
}

/// An incremental decoder of the chunked coding; it may be fed at any cut.
#[derive(Debug, Default)]
pub(super) struct Chunked {
    state: State,
    /// The size being read, then what is left of the chunk's data.
    size: u64,
    digits: u32,
    extension_bytes: usize,
    trailer_bytes: usize,
    trailer_fields: usize,
    decoded: u64,
    /// Bytes of chunk framing and data so far, to say where a fault lies.
    wire: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Size,
    /// Whitespace behind the size, allowed only before an extension.
    SizeSpace,
    Extension,
    SizeLineFeed,
    Data,
    DataReturn,
    DataLineFeed,
    TrailerStart,
    TrailerName,
    TrailerValue,
    TrailerLineFeed,
    LastLineFeed,
    Done,
}

impl Chunked {
    fn read(
        &mut self,
        input: &[u8],
        limits: &Limits,
        body_bytes_max: u64,
        mut sink: impl FnMut(&[u8]),
    ) -> Result<(usize, bool), Close> {
        let start = self.wire;
        let mut at = 0;
        while let Some(&byte) = input.get(at) {
            self.wire = start + at as u64;
            match self.state {
                State::Data => {
                    let rest = &input[at..];
                    let take = usize::try_from(self.size).map_or(rest.len(), |size| size.min(rest.len()));
                    sink(&rest[..take]);
                    self.size -= take as u64;
                    at += take;
                    if self.size == 0 {
                        self.state = State::DataReturn;
                    }
                    continue;
                }
                State::TrailerValue => {
                    let end = value_end(input, at);
                    self.trailer_bytes += end - at;
                    at = end;
                    match input.get(at) {
                        None => {}
                        Some(b'\r') => self.state = State::TrailerLineFeed,
                        Some(_) => return Err(Close::in_body(Fault::TrailerInvalid, start + at as u64)),
                    }
                }
                _ => self.step(byte, limits, body_bytes_max)?,
            }
            // At the input's end this steps past it once, when a trailer value is cut.
            at += 1;
            if self.trailer_bytes > limits.head_bytes_max {
                return Err(self.fault(Fault::TrailersTooLarge));
            }
            if self.state == State::Done {
                self.wire = start + at as u64;
                return Ok((at, true));
            }
        }
        self.wire = start + input.len() as u64;
        Ok((input.len(), false))
    }

    fn fault(&self, fault: Fault) -> Close {
        Close::in_body(fault, self.wire)
    }

    fn step(&mut self, byte: u8, limits: &Limits, body_bytes_max: u64) -> Result<(), Close> {
        self.state = match (self.state, byte) {
            (State::Size, digit) if digit.is_ascii_hexdigit() => {
                if self.digits == 16 {
                    return Err(self.fault(Fault::ChunkSizeTooLong));
                }
                let value = match digit {
                    b'0'..=b'9' => digit - b'0',
                    _ => (digit | 0x20) - b'a' + 10,
                };
                self.digits += 1;
                self.size = self.size << 4 | u64::from(value);
                State::Size
            }
            (State::Size, _) if self.digits == 0 => return Err(self.fault(Fault::ChunkSizeInvalid)),
            (State::Size, b'\r') => State::SizeLineFeed,
            (State::Size | State::SizeSpace, b';') => self.extension(limits)?,
            // RFC 9112 §7.1.1 grants "bad whitespace" before an extension and nowhere else.
            (State::Size | State::SizeSpace, b' ' | b'\t') => {
                self.extension(limits)?;
                State::SizeSpace
            }
            (State::Size, b'\n') => return Err(self.fault(Fault::ChunkLineEnding)),
            (State::Size, _) => return Err(self.fault(Fault::ChunkSizeInvalid)),
            (State::SizeSpace, _) => return Err(self.fault(Fault::ChunkLineEnding)),
            (State::Extension, b'\r') => State::SizeLineFeed,
            // CVE-2025-55315: a bare LF here ends the line for some parsers and not for others.
            (State::Extension, byte) if (byte < 0x20 && byte != b'\t') || byte == 0x7f => {
                return Err(self.fault(Fault::ChunkExtensionByte));
            }
            (State::Extension, _) => self.extension(limits)?,
            (State::SizeLineFeed, b'\n') => {
                self.digits = 0;
                match self.decoded.checked_add(self.size) {
                    _ if self.size == 0 => State::TrailerStart,
                    Some(total) if total <= body_bytes_max => {
                        self.decoded = total;
                        State::Data
                    }
                    _ => return Err(self.fault(Fault::BodyTooLarge)),
                }
            }
            (State::SizeLineFeed, _) => return Err(self.fault(Fault::ChunkLineEnding)),
            (State::DataReturn, b'\r') => State::DataLineFeed,
            (State::DataLineFeed, b'\n') => State::Size,
            (State::DataReturn | State::DataLineFeed, _) => return Err(self.fault(Fault::ChunkDataEnding)),
            (State::TrailerStart, b'\r') => State::LastLineFeed,
            (State::TrailerStart, byte) if is_token_byte(byte) => {
                self.trailer_fields += 1;
                self.trailer_bytes += 1;
                if self.trailer_fields > limits.fields_max {
                    return Err(self.fault(Fault::TrailersTooLarge));
                }
                State::TrailerName
            }
            (State::TrailerName, b':') => State::TrailerValue,
            (State::TrailerName, byte) if is_token_byte(byte) => {
                self.trailer_bytes += 1;
                State::TrailerName
            }
            (State::TrailerLineFeed, b'\n') => State::TrailerStart,
            (State::LastLineFeed, b'\n') => State::Done,
            _ => return Err(self.fault(Fault::TrailerInvalid)),
        };
        Ok(())
    }

    /// Counts one byte of an extension. The sum is kept over all chunks: a long extension on each one-byte
    /// chunk is the same attack.
    fn extension(&mut self, limits: &Limits) -> Result<State, Close> {
        self.extension_bytes += 1;
        if self.extension_bytes > limits.chunk_extension_bytes_max {
            return Err(self.fault(Fault::ChunkExtensionsTooLong));
        }
        Ok(State::Extension)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Decodes in pieces of `step` bytes: the body and how much of the input belonged to it.
    fn decode(input: &[u8], step: usize) -> Result<(Vec<u8>, usize), Fault> {
        let mut chunked = Remaining::Chunked(Chunked::default());
        let mut body = Vec::new();
        let mut taken = 0;
        for piece in input.chunks(step) {
            let (took, done) = chunked
                .read(piece, &Limits::default(), 1000, |bytes| body.extend_from_slice(bytes))
                .map_err(|close| close.fault)?;
            taken += took;
            if done {
                return Ok((body, taken));
            }
            assert_eq!(took, piece.len());
        }
        panic!("incomplete: {input:?}");
    }

    fn everywhere(input: &str) -> Result<(Vec<u8>, usize), Fault> {
        let whole = decode(input.as_bytes(), usize::MAX);
        for step in 1..input.len() {
            assert_eq!(decode(input.as_bytes(), step), whole, "{input:?} in steps of {step}");
        }
        whole
    }

    #[test]
    fn chunks_are_joined_wherever_they_are_cut() {
        for (input, body) in [
            ("5\r\nhello\r\n0\r\n\r\n", "hello"),
            ("5\r\nhello\r\n006\r\n world\r\n0\r\n\r\n", "hello world"),
            ("A;x=1;y=\"z\"\r\n0123456789\r\n0;last\r\n\r\n", "0123456789"),
            ("1 ;x\r\na\r\n0\r\n\r\n", "a"),
            ("0\r\n\r\n", ""),
            ("0000000000000001\r\na\r\n0\r\nX-Sum: 1\r\nY:\r\n\r\n", "a"),
        ] {
            assert_eq!(everywhere(input), Ok((body.into(), input.len())), "{input:?}");
            let followed = format!("{input}GET");
            assert_eq!(decode(followed.as_bytes(), usize::MAX), Ok((body.into(), input.len())), "{input:?}");
        }
    }

    #[test]
    fn malformed_chunks_are_refused_wherever_they_are_cut() {
        let long_extension = format!("1;{}\r\na\r\n0\r\n\r\n", "x".repeat(1024));
        let many_extensions = format!("{}0\r\n\r\n", "1;abcdefg\r\na\r\n".repeat(129));
        let many_trailers = format!("0\r\n{}\r\n", "a:\r\n".repeat(101));
        let long_trailer = format!("0\r\na: {}\r\n\r\n", "x".repeat(16 * 1024));
        for (input, fault) in [
            ("0x1\r\na\r\n", Fault::ChunkSizeInvalid),
            ("0_2e\r\n", Fault::ChunkSizeInvalid),
            ("+1\r\na\r\n", Fault::ChunkSizeInvalid),
            ("-1\r\n", Fault::ChunkSizeInvalid),
            (" 1\r\na\r\n", Fault::ChunkSizeInvalid),
            ("\r\n", Fault::ChunkSizeInvalid),
            (";x\r\n", Fault::ChunkSizeInvalid),
            ("g\r\n", Fault::ChunkSizeInvalid),
            ("00000000000000001\r\na\r\n", Fault::ChunkSizeTooLong),
            ("ffffffffffffffff\r\n", Fault::BodyTooLarge),
            ("3e9\r\n", Fault::BodyTooLarge),
            ("1\na\r\n", Fault::ChunkLineEnding),
            ("1\ra\r\n", Fault::ChunkLineEnding),
            ("1 \r\na\r\n", Fault::ChunkLineEnding),
            ("1 1\r\na\r\n", Fault::ChunkLineEnding),
            ("1;x\na\r\n", Fault::ChunkExtensionByte),
            ("1;x\0\r\na\r\n", Fault::ChunkExtensionByte),
            ("1;x\ry\r\na\r\n", Fault::ChunkLineEnding),
            ("1\r\nab\r\n", Fault::ChunkDataEnding),
            ("1\r\na\n", Fault::ChunkDataEnding),
            ("1\r\na\rb", Fault::ChunkDataEnding),
            ("0\r\na b: c\r\n\r\n", Fault::TrailerInvalid),
            ("0\r\na : c\r\n\r\n", Fault::TrailerInvalid),
            ("0\r\n: c\r\n\r\n", Fault::TrailerInvalid),
            ("0\r\n a: c\r\n\r\n", Fault::TrailerInvalid),
            ("0\r\na: c\n\r\n", Fault::TrailerInvalid),
            ("0\r\na: c\0\r\n\r\n", Fault::TrailerInvalid),
            ("0\r\na\r\n\r\n", Fault::TrailerInvalid),
            ("0\r\n\n", Fault::TrailerInvalid),
            ("0\r\n\rx", Fault::TrailerInvalid),
            (&long_extension, Fault::ChunkExtensionsTooLong),
            (&many_extensions, Fault::ChunkExtensionsTooLong),
            (&many_trailers, Fault::TrailersTooLarge),
            (&long_trailer, Fault::TrailersTooLarge),
        ] {
            let steps = if input.len() > 100 { vec![1, 7, usize::MAX] } else { (1..=input.len()).collect() };
            for step in steps {
                assert_eq!(decode(input.as_bytes(), step), Err(fault), "{input:?} in steps of {step}");
            }
        }
    }

    #[test]
    fn size_limit_counts_all_chunks() {
        let input = "1f4\r\n".to_owned() + &"x".repeat(500) + "\r\n1f5\r\n";
        assert_eq!(decode(input.as_bytes(), usize::MAX), Err(Fault::BodyTooLarge));
    }
}
