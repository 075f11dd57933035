//! Bytes of a segment.
//!
//! ```text
//! segment   64-byte header │ record │ record │ … │ zeros to the preallocated end
//! header    magic 8 │ version u32 │ shard u32 │ epoch u64 │ first offset u64 │ created ms u64 │ 0 … │ CRC32C u32
//! record    length u32 │ flags u32 │ offset u64 │ epoch u64 │ appended ms u64 │ key hash u64
//!           │ place in its commit u32 │ payload CRC u32 │ header CRC u32 │ 0 u32 │ payload │ zeros to a multiple of 8
//! ```
//!
//! All numbers are little endian. The epoch is a random number of the run that wrote the segment; both CRCs are seeded
//! with it, and a record counts only with its segment's epoch and the offset that is due: so what an earlier file left
//! in the same blocks never passes for a record.
//!
//! A commit (the records synced together) starts only when the one before is durable. So a valid record with offset `o`
//! at place `p` of its commit proves that everything below `o - p` was durable. That is what tells damage, which
//! stops a start, from a torn tail, which is cut off. A *seal* is a record without payload that takes no offset: it is
//! written when the log falls idle or is closed, and vouches for the last commit. A *gap* stands where a repair found
//! records damaged beyond help: its payload is the offset that follows.

/// Length of a segment's header.
pub const SEGMENT_HEADER_BYTES: usize = 64;
/// Length of a record's header.
pub const RECORD_HEADER_BYTES: usize = 56;
/// Records start at multiples of it.
pub const ALIGNMENT: usize = 8;

const MAGIC: &[u8; 8] = b"TIDESEG1";
const VERSION: u32 = 1;
const SEAL: u32 = 1;
const GAP: u32 = 2;

/// The header of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Whose shard's it is.
    pub shard: u32,
    /// The run that wrote it; not 0.
    pub epoch: u64,
    /// Offset of its first record.
    pub first_offset: u64,
    /// When it was begun, in milliseconds of the Unix epoch.
    pub created_ms: u64,
}

impl SegmentHeader {
    /// Its bytes.
    pub fn encode(&self) -> [u8; SEGMENT_HEADER_BYTES] {
        let mut bytes = [0; SEGMENT_HEADER_BYTES];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.shard.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.epoch.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.first_offset.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.created_ms.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..60]);
        bytes[60..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads it; `None` when it is damaged or none.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.first_chunk::<SEGMENT_HEADER_BYTES>()?;
        let valid = &bytes[..8] == MAGIC
            && number32(bytes, 8) == VERSION
            && number32(bytes, 60) == crc32c::crc32c(&bytes[..60]);
        valid.then(|| Self {
            shard: number32(bytes, 12),
            epoch: number64(bytes, 16),
            first_offset: number64(bytes, 24),
            created_ms: number64(bytes, 32),
        })
    }
}

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A message.
    Message,
    /// Vouches for what stands before it.
    Seal,
    /// Says that offsets are lost.
    Gap,
}

/// The header of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHeader {
    /// Bytes of payload.
    pub payload_bytes: u32,
    /// What it is.
    pub kind: Kind,
    /// Its offset; of a seal, the offset that is due next.
    pub offset: u64,
    /// When it was appended, in milliseconds of the Unix epoch.
    pub appended_ms: u64,
    /// Hash of what the message is partitioned by.
    pub key_hash: u64,
    /// How many records of the same commit come before it.
    pub place: u32,
    payload_crc: u32,
}

impl RecordHeader {
    /// Bytes from this record's start to the next one's.
    pub fn stride(&self) -> usize {
        stride(self.payload_bytes as usize)
    }

    /// Everything below was durable when this record was written.
    pub fn proves_durable(&self) -> u64 {
        self.offset - u64::from(self.place)
    }

    /// Reads the header at the start of `bytes`; `None` when it is damaged, of another epoch, or none.
    pub fn decode(bytes: &[u8], epoch: u64) -> Option<Self> {
        let bytes = bytes.first_chunk::<RECORD_HEADER_BYTES>()?;
        if number64(bytes, 16) != epoch || number32(bytes, 48) != seeded(epoch, &bytes[..48]) {
            return None;
        }
        let header = Self {
            payload_bytes: number32(bytes, 0),
            kind: match number32(bytes, 4) {
                0 => Kind::Message,
                SEAL => Kind::Seal,
                GAP => Kind::Gap,
                _ => return None,
            },
            offset: number64(bytes, 8),
            appended_ms: number64(bytes, 24),
            key_hash: number64(bytes, 32),
            place: number32(bytes, 40),
            payload_crc: number32(bytes, 44),
        };
        (number32(bytes, 52) == 0 && header.offset >= u64::from(header.place)).then_some(header)
    }
}

/// The epoch of the first whole record header in the bytes behind a segment's header; 0 when there is none.
pub fn first_epoch(bytes: Option<&[u8]>) -> u64 {
    let mut rest = bytes.unwrap_or_default();
    while rest.len() >= RECORD_HEADER_BYTES {
        let epoch = number64(rest, 16);
        if epoch != 0 && RecordHeader::decode(rest, epoch).is_some() {
            return epoch;
        }
        rest = &rest[ALIGNMENT..];
    }
    0
}

/// Bytes of a record with so much payload.
pub fn stride(payload_bytes: usize) -> usize {
    (RECORD_HEADER_BYTES + payload_bytes).next_multiple_of(ALIGNMENT)
}

/// Appends a record whose payload `encode` writes.
pub fn append(
    out: &mut Vec<u8>,
    epoch: u64,
    (offset, place): (u64, u32),
    appended_ms: u64,
    key_hash: u64,
    encode: impl FnOnce(&mut Vec<u8>),
) {
    append_record(out, epoch, (offset, place), 0, appended_ms, key_hash, encode);
}

/// Appends a seal.
pub fn append_seal(out: &mut Vec<u8>, epoch: u64, next_offset: u64, now_ms: u64) {
    append_record(out, epoch, (next_offset, 0), SEAL, now_ms, 0, |_| {});
}

/// Appends a gap: the offsets from `offset` to before `resumes` are lost.
pub fn append_gap(out: &mut Vec<u8>, epoch: u64, offset: u64, resumes: u64, now_ms: u64) {
    let resumes = resumes.to_le_bytes();
    append_record(out, epoch, (offset, 0), GAP, now_ms, 0, |out| out.extend_from_slice(&resumes));
}

/// The offset behind a record.
pub fn next_offset(header: &RecordHeader, payload: &[u8]) -> u64 {
    match header.kind {
        Kind::Message => header.offset + 1,
        Kind::Seal => header.offset,
        Kind::Gap => number64(payload, 0).max(header.offset),
    }
}

fn append_record(
    out: &mut Vec<u8>,
    epoch: u64,
    (offset, place): (u64, u32),
    flags: u32,
    appended_ms: u64,
    key_hash: u64,
    encode: impl FnOnce(&mut Vec<u8>),
) {
    let start = out.len();
    out.extend_from_slice(&[0; RECORD_HEADER_BYTES]);
    encode(out);
    let payload_start = start + RECORD_HEADER_BYTES;
    let payload_bytes = out.len() - payload_start;
    let payload_crc = seeded(epoch, &out[payload_start..]);
    let header = &mut out[start..payload_start];
    // A record is bounded by a segment, which is far below 4 GiB of payload.
    header[..4].copy_from_slice(&(payload_bytes as u32).to_le_bytes());
    header[4..8].copy_from_slice(&flags.to_le_bytes());
    header[8..16].copy_from_slice(&offset.to_le_bytes());
    header[16..24].copy_from_slice(&epoch.to_le_bytes());
    header[24..32].copy_from_slice(&appended_ms.to_le_bytes());
    header[32..40].copy_from_slice(&key_hash.to_le_bytes());
    header[40..44].copy_from_slice(&place.to_le_bytes());
    header[44..48].copy_from_slice(&payload_crc.to_le_bytes());
    let crc = seeded(epoch, &header[..48]);
    header[48..52].copy_from_slice(&crc.to_le_bytes());
    out.resize(start + stride(payload_bytes), 0);
}

/// What stands at a place of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found<'a> {
    /// A whole, valid record.
    Record(RecordHeader, &'a [u8]),
    /// A valid header whose payload is not in the bytes: read more, this many in all.
    Partial(usize),
    /// A valid header whose payload or padding is damaged.
    BadPayload(RecordHeader),
    /// No valid header.
    Nothing,
}

/// Looks at the start of `bytes`.
pub fn look(bytes: &[u8], epoch: u64) -> Found<'_> {
    let Some(header) = RecordHeader::decode(bytes, epoch) else { return Found::Nothing };
    let stride = header.stride();
    if bytes.len() < stride {
        return Found::Partial(stride);
    }
    let (payload, padding) = bytes[RECORD_HEADER_BYTES..stride].split_at(header.payload_bytes as usize);
    if seeded(epoch, payload) != header.payload_crc || padding.iter().any(|byte| *byte != 0) {
        return Found::BadPayload(header);
    }
    Found::Record(header, payload)
}

/// CRC32C (RFC 3720 §B.4) continued from a checksum of the epoch.
fn seeded(epoch: u64, bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&epoch.to_le_bytes()), bytes)
}

fn number32(bytes: &[u8], at: usize) -> u32 {
    bytes[at..].first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

fn number64(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).unwrap_or_default().first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_of_a_record_shows() {
        let mut bytes = Vec::new();
        append(&mut bytes, 77, (5, 2), 1000, 9, |out| out.extend_from_slice(b"hello"));
        assert_eq!(bytes.len(), stride(5));
        let Found::Record(header, payload) = look(&bytes, 77) else { panic!("a record") };
        assert_eq!((header.offset, header.proves_durable(), payload), (5, 3, &b"hello"[..]));
        assert_eq!(look(&bytes, 78), Found::Nothing);
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(!matches!(look(&bytes, 77), Found::Record(..)), "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn every_flipped_bit_of_a_segments_header_shows() {
        let header = SegmentHeader { shard: 3, epoch: 9, first_offset: 100, created_ms: 5 };
        let mut bytes = header.encode();
        assert_eq!(SegmentHeader::decode(&bytes), Some(header));
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(SegmentHeader::decode(&bytes), None, "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }
}
