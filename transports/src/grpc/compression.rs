//! Compressed messages: what may be used and how it is undone, within bounds.

use std::io::Read;

use flate2::bufread::MultiGzDecoder;

use super::{Code, Message, Status};

/// The value of `grpc-accept-encoding`.
pub const ACCEPT_ENCODING: &str = "identity,gzip";

/// What a stream's compressed messages are compressed with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encoding {
    /// Nothing; no message may be flagged as compressed.
    #[default]
    Identity,
    /// gzip (RFC 1952).
    Gzip,
}

impl Encoding {
    /// Reads `grpc-encoding`; absent means identity.
    ///
    /// # Errors
    /// `UNIMPLEMENTED` for any other encoding; the answer carries [`ACCEPT_ENCODING`].
    pub fn from_field(value: Option<&[u8]>) -> Result<Self, Status> {
        match value {
            None | Some(b"identity") => Ok(Self::Identity),
            Some(b"gzip") => Ok(Self::Gzip),
            Some(other) => {
                let name: String = other.escape_ascii().take(32).map(char::from).collect();
                let message = format!("grpc-encoding {name} is not supported, only {ACCEPT_ENCODING}");
                Err(Status::new(Code::Unimplemented, message))
            }
        }
    }
}

/// Undoes compression into one buffer that is used again and again.
#[derive(Debug)]
pub struct Inflater {
    limit: usize,
    buffer: Vec<u8>,
}

/// How many times larger than its wire form a message may be.
const RATIO_MAX: usize = 100;
/// A buffer that one message has blown up beyond this is given back with the next.
const KEPT_BYTES_MAX: usize = 64 * 1024;

impl Inflater {
    /// For messages of up to `limit` bytes after decompression.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { limit, buffer: Vec::new() }
    }

    /// The plain bytes of `message`: borrowed from it unless it is compressed.
    ///
    /// # Errors
    /// `INTERNAL` when it is flagged but the stream has no encoding, or when it is no gzip;
    /// `RESOURCE_EXHAUSTED` when it grows over the limit or by more than 100 times.
    pub fn plain<'a>(&'a mut self, message: Message<'a>, encoding: Encoding) -> Result<&'a [u8], Status> {
        if !message.compressed {
            return Ok(message.bytes);
        }
        if encoding == Encoding::Identity {
            return Err(Status::new(Code::Internal, "compressed flag set without grpc-encoding"));
        }
        self.buffer.clear();
        if self.buffer.capacity() > KEPT_BYTES_MAX {
            self.buffer = Vec::new();
        }
        let by_ratio = message.bytes.len().saturating_mul(RATIO_MAX);
        let bound = self.limit.min(by_ratio);
        // Reading one byte more than is allowed tells "all of it" from "too much"; reading to the end is what
        // makes the decoder compare its checksum.
        let mut bounded = MultiGzDecoder::new(message.bytes).take((bound as u64).saturating_add(1));
        if let Err(error) = bounded.read_to_end(&mut self.buffer) {
            return Err(Status::new(Code::Internal, format!("gzip message cannot be decoded: {error}")));
        }
        if self.buffer.len() > bound {
            let message = if bound == self.limit {
                format!("gRPC message is larger than the limit of {} bytes once decompressed", self.limit)
            } else {
                format!("gRPC message grows by more than {RATIO_MAX} times when decompressed")
            };
            return Err(Status::new(Code::ResourceExhausted, message));
        }
        Ok(&self.buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Compression, write::GzEncoder};
    use std::io::Write;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn plain(limit: usize, bytes: &[u8]) -> Result<Vec<u8>, Code> {
        Inflater::new(limit)
            .plain(Message { compressed: true, bytes }, Encoding::Gzip)
            .map(<[u8]>::to_vec)
            .map_err(|status| status.code)
    }

    #[test]
    fn gzip_is_undone_and_plain_passes_through() {
        let text = b"hello hello hello".repeat(20);
        assert_eq!(plain(1000, &gzip(&text)).unwrap(), text);
        assert_eq!(plain(1000, &gzip(b"")).unwrap(), b"");
        let message = Message { compressed: false, bytes: b"as it is" };
        assert_eq!(Inflater::new(1).plain(message, Encoding::Gzip).unwrap(), b"as it is");
    }

    #[test]
    fn a_buffer_is_used_again() {
        let mut inflater = Inflater::new(1000);
        for text in [&b"first message"[..], b"second", b""] {
            let wire = gzip(text);
            let message = Message { compressed: true, bytes: &wire };
            assert_eq!(inflater.plain(message, Encoding::Gzip).unwrap(), text);
        }
    }

    #[test]
    fn undecodable_data_is_internal() {
        let good = gzip(b"hello");
        let mut bad_sum = good.clone();
        let sum_at = bad_sum.len() - 8;
        bad_sum[sum_at] ^= 1;
        let trailing = [&good[..], b"x"].concat();
        for bad in [&b""[..], b"hello", &good[..good.len() - 1], &good[..12], &bad_sum, &trailing] {
            assert_eq!(plain(1000, bad), Err(Code::Internal), "{bad:x?}");
        }
    }

    #[test]
    fn flag_without_encoding_is_internal() {
        let message = Message { compressed: true, bytes: b"x" };
        assert_eq!(Inflater::new(10).plain(message, Encoding::Identity).unwrap_err().code, Code::Internal);
    }

    #[test]
    fn size_and_ratio_are_bounded() {
        let noise: Vec<u8> = (0..5000u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
        let wire = gzip(&noise);
        assert!(plain(noise.len(), &wire).is_ok());
        assert_eq!(plain(noise.len() - 1, &wire), Err(Code::ResourceExhausted));
        let bomb = gzip(&vec![0; 10_000_000]);
        assert!(bomb.len() < 20_000);
        assert_eq!(plain(100_000_000, &bomb), Err(Code::ResourceExhausted));
    }

    #[test]
    fn only_identity_and_gzip_are_encodings() {
        assert_eq!(Encoding::from_field(None), Ok(Encoding::Identity));
        assert_eq!(Encoding::from_field(Some(b"identity")), Ok(Encoding::Identity));
        assert_eq!(Encoding::from_field(Some(b"gzip")), Ok(Encoding::Gzip));
        for other in [&b"deflate"[..], b"snappy", b"GZIP", b"", b"gzip,identity", b"\xff\n"] {
            assert_eq!(Encoding::from_field(Some(other)).unwrap_err().code, Code::Unimplemented);
        }
    }
}
