//! Length-prefixed messages: one flag byte, four bytes of length, the message.
//!
//! A message that lies whole in a DATA slice is handed on where it lies; only what is split is copied, and
//! only as it arrives: the length prefix is a claim, and no memory is taken on its word.

use super::{Code, Status};

/// Bytes before each message.
pub const PREFIX_BYTES: usize = 5;

/// One message as it was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// Whether it is compressed with the stream's encoding.
    pub compressed: bool,
    /// Its bytes, without the prefix.
    pub bytes: &'a [u8],
}

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Take {
    /// Taken; go on.
    Next,
    /// Taken; come back to the caller before the next one.
    Stop,
    /// Not taken: there is no room for it now. The same message comes again first.
    Hold,
}

/// Why the bytes are no messages. Nothing after it can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// A flag byte other than 0 and 1.
    #[error("invalid gRPC message flag {0}: only 0 and 1 are defined")]
    Flag(u8),
    /// A length over the limit, known from the prefix alone.
    #[error("gRPC message of {length} bytes is larger than the limit of {limit}")]
    TooLarge {
        /// What the prefix says.
        length: usize,
        /// What is allowed.
        limit: usize,
    },
    /// The stream ended inside a prefix or a message.
    #[error("the stream ended inside a gRPC message")]
    Truncated,
}

impl From<FrameError> for Status {
    fn from(error: FrameError) -> Self {
        let code = match error {
            FrameError::TooLarge { .. } => Code::ResourceExhausted,
            FrameError::Flag(_) | FrameError::Truncated => Code::Internal,
        };
        Self::new(code, error.to_string())
    }
}

/// Cuts a stream of DATA slices into messages.
#[derive(Debug)]
pub struct Deframer {
    limit: usize,
    prefix: [u8; PREFIX_BYTES],
    prefix_len: usize,
    /// The start of a message that was split, once its prefix is complete.
    split: Vec<u8>,
}

/// A buffer that one message has blown up beyond this is given back.
const KEPT_BYTES_MAX: usize = 64 * 1024;

impl Deframer {
    /// For messages of up to `limit` bytes each, prefix not counted.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { limit, prefix: [0; PREFIX_BYTES], prefix_len: 0, split: Vec::new() }
    }

    /// Reads `data` and gives each complete message to `each`. Returns how many bytes were used: all of them,
    /// unless `each` stopped. Then the caller keeps the rest and feeds it again, first of all, when it can go
    /// on; a message that was split and is held is kept here and comes again even with no data.
    ///
    /// # Errors
    /// The data are no messages. Messages before the bad one were given to `each`.
    pub fn feed(
        &mut self,
        data: &[u8],
        mut each: impl FnMut(Message<'_>) -> Take,
    ) -> Result<usize, FrameError> {
        let mut rest = data;
        loop {
            if self.prefix_len == 0 {
                // The usual case: the prefix, and mostly the message too, lie in one piece.
                let Some((prefix, after)) = rest.split_first_chunk::<PREFIX_BYTES>() else {
                    self.prefix[..rest.len()].copy_from_slice(rest);
                    self.prefix_len = rest.len();
                    return Ok(data.len());
                };
                let (compressed, length) = self.read_prefix(*prefix)?;
                match after.split_at_checked(length) {
                    Some((bytes, after)) => match each(Message { compressed, bytes }) {
                        Take::Next => rest = after,
                        Take::Stop => return Ok(data.len() - after.len()),
                        Take::Hold => return Ok(data.len() - rest.len()),
                    },
                    None => {
                        self.prefix = *prefix;
                        self.prefix_len = PREFIX_BYTES;
                        self.split.extend_from_slice(after);
                        return Ok(data.len());
                    }
                }
                continue;
            }
            if self.prefix_len < PREFIX_BYTES {
                let take = rest.len().min(PREFIX_BYTES - self.prefix_len);
                self.prefix[self.prefix_len..self.prefix_len + take].copy_from_slice(&rest[..take]);
                self.prefix_len += take;
                rest = &rest[take..];
                // A bad flag is bad at once, whether or not the length ever comes.
                self.read_prefix(self.prefix_so_far())?;
                if self.prefix_len < PREFIX_BYTES {
                    return Ok(data.len());
                }
            }
            let (compressed, length) = self.read_prefix(self.prefix)?;
            let take = rest.len().min(length - self.split.len().min(length));
            self.split.extend_from_slice(&rest[..take]);
            rest = &rest[take..];
            if self.split.len() < length {
                return Ok(data.len());
            }
            let verdict = each(Message { compressed, bytes: &self.split });
            if verdict == Take::Hold {
                return Ok(data.len() - rest.len());
            }
            self.prefix_len = 0;
            self.split.clear();
            if self.split.capacity() > KEPT_BYTES_MAX {
                self.split = Vec::new();
            }
            if verdict == Take::Stop {
                return Ok(data.len() - rest.len());
            }
        }
    }

    /// The stream has ended.
    ///
    /// # Errors
    /// It ended inside a message. (A message that is held was complete, and is no error.)
    pub fn finish(&self) -> Result<(), FrameError> {
        if self.prefix_len == 0 || self.is_holding() { Ok(()) } else { Err(FrameError::Truncated) }
    }

    /// Whether a complete message is kept that `each` would not take.
    #[must_use]
    pub fn is_holding(&self) -> bool {
        self.prefix_len == PREFIX_BYTES
            && self.read_prefix(self.prefix).is_ok_and(|(_, length)| self.split.len() == length)
    }

    /// Bytes of memory that this holds for a split message.
    #[must_use]
    pub fn buffered_bytes(&self) -> usize {
        self.split.capacity()
    }

    fn prefix_so_far(&self) -> [u8; PREFIX_BYTES] {
        let mut prefix = [0; PREFIX_BYTES];
        prefix[..self.prefix_len].copy_from_slice(&self.prefix[..self.prefix_len]);
        prefix
    }

    #[inline]
    fn read_prefix(&self, prefix: [u8; PREFIX_BYTES]) -> Result<(bool, usize), FrameError> {
        let [flag, length @ ..] = prefix;
        if flag > 1 {
            return Err(FrameError::Flag(flag));
        }
        let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        if length > self.limit {
            return Err(FrameError::TooLarge { length, limit: self.limit });
        }
        Ok((flag == 1, length))
    }
}

/// The prefix of an uncompressed message; `None` when four bytes cannot hold its length.
#[must_use]
pub fn encode_prefix(length: usize) -> Option<[u8; PREFIX_BYTES]> {
    let [a, b, c, d] = u32::try_from(length).ok()?.to_be_bytes();
    Some([0, a, b, c, d])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(flag: u8, bytes: &[u8]) -> Vec<u8> {
        let mut frame = encode_prefix(bytes.len()).unwrap().to_vec();
        frame[0] = flag;
        frame.extend_from_slice(bytes);
        frame
    }

    fn three() -> (Vec<u8>, Vec<(bool, Vec<u8>)>) {
        let messages = vec![(false, b"hello".to_vec()), (false, Vec::new()), (true, vec![7; 300])];
        let wire = messages.iter().flat_map(|(flag, bytes)| frame(u8::from(*flag), bytes)).collect();
        (wire, messages)
    }

    #[test]
    fn messages_come_whole_wherever_the_data_is_cut() {
        let (wire, messages) = three();
        for step in 1..=wire.len() {
            let mut deframer = Deframer::new(300);
            let mut got = Vec::new();
            for piece in wire.chunks(step) {
                let used = deframer.feed(piece, |message| {
                    got.push((message.compressed, message.bytes.to_vec()));
                    Take::Next
                });
                assert_eq!(used, Ok(piece.len()));
            }
            assert_eq!(got, messages, "steps of {step}");
            assert_eq!(deframer.finish(), Ok(()));
        }
    }

    #[test]
    fn whole_messages_are_not_copied() {
        let (wire, _) = three();
        let mut deframer = Deframer::new(300);
        let within = wire.as_ptr_range();
        deframer
            .feed(&wire, |message| {
                assert!(message.bytes.is_empty() || within.contains(&message.bytes.as_ptr()));
                Take::Next
            })
            .unwrap();
        assert_eq!(deframer.buffered_bytes(), 0);
    }

    #[test]
    fn a_stopped_or_held_reading_resumes_without_loss() {
        let (wire, messages) = three();
        for step in [1, 2, 5, 9, 10, 11, 100, wire.len()] {
            let mut deframer = Deframer::new(300);
            let mut got = Vec::new();
            let mut calls = 0;
            let mut kept: Vec<u8> = Vec::new();
            let mut pieces = wire.chunks(step);
            loop {
                let piece = pieces.next();
                kept.extend_from_slice(piece.unwrap_or_default());
                let used = deframer
                    .feed(&kept, |message| {
                        calls += 1;
                        if calls % 3 != 0 {
                            return Take::Hold;
                        }
                        got.push((message.compressed, message.bytes.to_vec()));
                        if calls % 2 == 0 { Take::Stop } else { Take::Next }
                    })
                    .unwrap();
                kept.drain(..used);
                if piece.is_none() && kept.is_empty() && !deframer.is_holding() {
                    break;
                }
            }
            assert_eq!(got, messages, "steps of {step}");
            assert_eq!(deframer.finish(), Ok(()));
        }
    }

    #[test]
    fn a_held_split_message_comes_again_without_data() {
        let mut deframer = Deframer::new(10);
        let wire = frame(0, b"abc");
        deframer.feed(&wire[..6], |_| Take::Next).unwrap();
        assert_eq!(deframer.feed(&wire[6..], |_| Take::Hold), Ok(2));
        assert!(deframer.is_holding());
        assert_eq!(deframer.finish(), Ok(()));
        let mut got = Vec::new();
        deframer
            .feed(&[], |message| {
                got = message.bytes.to_vec();
                Take::Next
            })
            .unwrap();
        assert_eq!(got, b"abc");
        assert!(!deframer.is_holding());
    }

    #[test]
    fn flags_above_one_are_refused_from_the_first_byte() {
        for flag in [2, 3, 128, 255] {
            let mut deframer = Deframer::new(10);
            let refused = deframer.feed(&frame(flag, b"a"), |_| Take::Next);
            assert_eq!(refused, Err(FrameError::Flag(flag)));
            let mut deframer = Deframer::new(10);
            let split =
                deframer.feed(&[flag], |_| Take::Next).and_then(|_| deframer.feed(&[0], |_| Take::Next));
            assert_eq!(split, Err(FrameError::Flag(flag)));
            assert_eq!(Status::from(FrameError::Flag(flag)).code, Code::Internal);
        }
    }

    #[test]
    fn a_large_length_is_refused_from_the_prefix_alone() {
        let mut deframer = Deframer::new(1000);
        let refused = deframer.feed(&[0, 0, 0, 3, 0xe9], |_| Take::Next).unwrap_err();
        assert_eq!(refused, FrameError::TooLarge { length: 1001, limit: 1000 });
        assert_eq!(Status::from(refused).code, Code::ResourceExhausted);
        assert_eq!(deframer.buffered_bytes(), 0);
        let mut deframer = Deframer::new(usize::MAX);
        assert_eq!(deframer.feed(&[0, 255, 255, 255, 255, 1], |_| Take::Next), Ok(6));
        assert!(deframer.buffered_bytes() < 100, "no allocation from the prefix");
    }

    #[test]
    fn an_end_inside_a_message_is_an_error() {
        let wire = frame(0, b"ab");
        for cut in 1..wire.len() {
            let mut deframer = Deframer::new(10);
            deframer.feed(&wire[..cut], |_| Take::Next).unwrap();
            assert_eq!(deframer.finish(), Err(FrameError::Truncated), "cut at {cut}");
        }
    }

    #[test]
    fn a_large_split_message_gives_its_buffer_back() {
        let wire = frame(0, &vec![1; 200_000]);
        let mut deframer = Deframer::new(200_000);
        for piece in wire.chunks(16_384) {
            deframer.feed(piece, |_| Take::Next).unwrap();
        }
        assert_eq!(deframer.buffered_bytes(), 0);
    }
}
