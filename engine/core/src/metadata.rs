//! A message's metadata as one run of bytes: pairs of a key and a value, in the order they came.
//!
//! ```text
//! ┌ key length, u32 LE ┬ value length, u32 LE ┬ key ┬ value ┐ … repeated to the end of the bytes
//! ```
//!
//! The front end writes the run while it parses, the slab copies it whole, and whoever wants a pair
//! walks it. Nothing is looked up by key on the hot path, so there is no index.

/// Appends pairs to a buffer that the caller keeps and clears.
#[derive(Debug)]
pub struct MetadataWriter<'a> {
    bytes: &'a mut Vec<u8>,
}

impl<'a> MetadataWriter<'a> {
    /// Writes behind whatever `bytes` holds already.
    pub fn new(bytes: &'a mut Vec<u8>) -> Self {
        Self { bytes }
    }

    /// Appends one pair.
    ///
    /// # Panics
    /// When the key or the value is longer than 4 GiB; limits on a request's size come long before.
    #[inline]
    pub fn push(&mut self, key: &[u8], value: &[u8]) {
        let lengths = (u32::try_from(key.len()), u32::try_from(value.len()));
        let (Ok(key_bytes), Ok(value_bytes)) = lengths else { panic!("a metadata pair over 4 GiB") };
        self.bytes.reserve(8 + key.len() + value.len());
        self.bytes.extend_from_slice(&key_bytes.to_le_bytes());
        self.bytes.extend_from_slice(&value_bytes.to_le_bytes());
        self.bytes.extend_from_slice(key);
        self.bytes.extend_from_slice(value);
    }
}

/// Walks the pairs of a run. Bytes that no writer made end the walk early; they never panic.
#[derive(Clone, Debug)]
pub struct MetadataPairs<'a> {
    rest: &'a [u8],
}

impl<'a> MetadataPairs<'a> {
    /// Walks `bytes` from their start.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }
}

impl<'a> Iterator for MetadataPairs<'a> {
    type Item = (&'a [u8], &'a [u8]);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let rest = std::mem::take(&mut self.rest); // stays empty on a malformed run: the walk is fused
        let (key_bytes, rest) = rest.split_first_chunk::<4>()?;
        let (value_bytes, rest) = rest.split_first_chunk::<4>()?;
        let (key, rest) = rest.split_at_checked(u32::from_le_bytes(*key_bytes) as usize)?;
        let (value, rest) = rest.split_at_checked(u32::from_le_bytes(*value_bytes) as usize)?;
        self.rest = rest;
        Some((key, value))
    }
}

impl std::iter::FusedIterator for MetadataPairs<'_> {}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn encoded(pairs: &[(&[u8], &[u8])]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut writer = MetadataWriter::new(&mut bytes);
        pairs.iter().for_each(|(key, value)| writer.push(key, value));
        bytes
    }

    #[test]
    fn pairs_come_back_in_order_empty_and_repeated_ones_too() {
        let pairs: [(&[u8], &[u8]); 4] = [(b"region", b"eu"), (b"", b""), (b"region", b"us"), (b"k", b"")];
        let bytes = encoded(&pairs);
        assert_eq!(MetadataPairs::new(&bytes).collect::<Vec<_>>(), pairs);
        assert_eq!(MetadataPairs::new(&[]).count(), 0);
    }

    #[test]
    fn encoding_is_the_documented_one() {
        assert_eq!(encoded(&[(b"ab", b"c")]), b"\x02\0\0\0\x01\0\0\0abc");
    }

    #[test]
    fn every_truncation_and_every_flipped_byte_ends_the_walk_without_panic() {
        let bytes = encoded(&[(b"key", b"value"), (b"other", b"thing")]);
        for length in 0..bytes.len() {
            assert!(MetadataPairs::new(&bytes[..length]).count() <= 1);
        }
        for position in 0..bytes.len() {
            for flip in [1, 0x80, 0xff] {
                let mut broken = bytes.clone();
                broken[position] ^= flip;
                assert!(MetadataPairs::new(&broken).count() <= bytes.len() / 8);
            }
        }
    }
}
