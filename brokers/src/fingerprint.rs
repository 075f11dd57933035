//! What a message is recognised by: a keyed hash of its id and one of its content.
//!
//! The key is random and secret: nobody outside can choose two ids that are taken for one. With a log it is the log's own and
//! as old as that (see [`log::keys`](crate::log)), so that what was recognised before a restart is recognised after it; the
//! hashes are therefore the same in every version and on every machine: SipHash-1-3 of bytes and of nothing that a compiler lays out.

use std::{fmt, hash::Hasher};

use siphasher::{
    sip::SipHasher13,
    sip128::{Hasher128, SipHasher13 as SipHasher13Of128},
};

/// The key of the hashes. It is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct HashKey([u8; HashKey::BYTES]);

impl HashKey {
    /// Its length.
    pub(crate) const BYTES: usize = 16;

    /// A new one.
    ///
    /// # Panics
    /// When the kernel has no random bytes, which is on none that this runs on.
    pub fn random() -> Self {
        let mut bytes = [0; Self::BYTES];
        let filled = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
        assert_eq!(filled, Ok(Self::BYTES), "random bytes of the kernel");
        Self(bytes)
    }

    pub(crate) fn from_bytes(bytes: [u8; Self::BYTES]) -> Self {
        Self(bytes)
    }

    /// For the file that keeps it.
    pub(crate) fn expose(&self) -> &[u8; Self::BYTES] {
        &self.0
    }

    /// Tells this key from others, and says nothing of it.
    pub(crate) fn check(&self) -> u64 {
        self.hash(b"which key", &[])
    }

    /// The hash of bytes and of numbers behind them.
    pub(crate) fn hash(&self, bytes: &[u8], numbers: &[u64]) -> u64 {
        let mut hasher = SipHasher13::new_with_key(&self.0);
        hasher.write(&(bytes.len() as u64).to_le_bytes());
        hasher.write(bytes);
        for number in numbers {
            hasher.write(&number.to_le_bytes());
        }
        hasher.finish()
    }

    /// The longer hash of an id: [`Fingerprint::id`].
    pub(crate) fn id(&self, id: &[u8]) -> u128 {
        let mut hasher = SipHasher13Of128::new_with_key(&self.0);
        hasher.write(id);
        hasher.finish128().as_u128() & Fingerprint::ID_MASK
    }
}

impl fmt::Debug for HashKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HashKey(set)")
    }
}

/// What a message is recognised by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fingerprint {
    /// The keyed hash of its id: 112 bits.
    pub id: u128,
    /// The keyed hash of its content.
    pub content: u64,
    /// What decides on which core the id is at home: [`key_hash`] of it.
    pub home: u64,
}

impl Fingerprint {
    /// Bits of a hash of an id.
    pub(crate) const ID_BITS: u32 = 112;
    pub(crate) const ID_MASK: u128 = (1 << Self::ID_BITS) - 1;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_and_numbers_are_not_taken_for_each_other() {
        let key = HashKey::random();
        let hashes = [
            key.hash(b"", &[]),
            key.hash(b"", &[0]),
            key.hash(&[0; 8], &[]),
            key.hash(b"a", &[1, 2]),
            key.hash(b"a", &[2, 1]),
        ];
        for (place, hash) in hashes.iter().enumerate() {
            assert!(!hashes[..place].contains(hash), "{place}");
        }
        assert_ne!(key.check(), HashKey::random().check());
    }
}
