//! Request header blocks seen before, and what they came to.
//!
//! A client sends the same head again and again, and once its encoder's table has settled the same few bytes
//! stand for it. A block that left the dynamic table as it was means the same until the table changes, so
//! decoding, validation and classification are done once for it. Every change of the table is a new epoch
//! and makes older entries worthless.

/// Longer blocks are rare and would cost more memory than time.
const BLOCK_BYTES_MAX: usize = 512;
const ENTRIES_MAX: usize = 8;

struct Entry<H> {
    block: Vec<u8>,
    epoch: u32,
    /// Since the hand last passed (second-chance replacement), so that blocks which never repeat do not
    /// drive out those which do.
    hit: bool,
    known: Known<H>,
}

/// What a header block came to.
pub(super) struct Known<H> {
    pub(super) head: H,
    pub(super) content_length: Option<u64>,
}

pub(super) struct Memo<H> {
    entries: Vec<Entry<H>>,
    /// The entry of the last hit, which is looked at first.
    recent: usize,
    hand: usize,
    epoch: u32,
}

impl<H> Memo<H> {
    pub(super) fn new() -> Self {
        Memo { entries: Vec::new(), recent: 0, hand: 0, epoch: 0 }
    }

    /// The dynamic table changed.
    pub(super) fn next_epoch(&mut self) {
        match self.epoch.checked_add(1) {
            Some(epoch) => self.epoch = epoch,
            None => self.forget(),
        }
    }

    pub(super) fn forget(&mut self) {
        *self = Memo::new();
    }

    #[inline]
    pub(super) fn find(&mut self, block: &[u8]) -> Option<&Known<H>> {
        let is_it = |entry: &Entry<H>| entry.epoch == self.epoch && entry.block == block;
        if !self.entries.get(self.recent).is_some_and(is_it) {
            self.recent = self.entries.iter().position(is_it)?;
        }
        let entry = self.entries.get_mut(self.recent)?;
        entry.hit = true;
        Some(&entry.known)
    }

    /// Keeps what `block` came to, unless it is too long; then it comes back.
    pub(super) fn keep(&mut self, block: &[u8], known: Known<H>) -> Result<&Known<H>, Known<H>> {
        if block.len() > BLOCK_BYTES_MAX {
            return Err(known);
        }
        let place = if self.entries.len() < ENTRIES_MAX {
            self.entries.push(Entry { block: block.to_vec(), epoch: self.epoch, hit: false, known });
            self.entries.len() - 1
        } else {
            let place = self.victim();
            let entry = &mut self.entries[place];
            entry.block.clear();
            entry.block.extend_from_slice(block);
            entry.epoch = self.epoch;
            entry.hit = false;
            entry.known = known;
            place
        };
        Ok(&self.entries[place].known)
    }

    fn victim(&mut self) -> usize {
        // One round clears every mark, so the second finds a victim at the latest.
        for _ in 0..=ENTRIES_MAX {
            self.hand = (self.hand + 1) % ENTRIES_MAX;
            let entry = &mut self.entries[self.hand];
            if !entry.hit || entry.epoch != self.epoch {
                break;
            }
            entry.hit = false;
        }
        self.hand
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keep(memo: &mut Memo<u32>, block: &[u8], head: u32) -> bool {
        memo.keep(block, Known { head, content_length: None }).is_ok()
    }

    fn find(memo: &mut Memo<u32>, block: &[u8]) -> Option<u32> {
        memo.find(block).map(|known| known.head)
    }

    #[test]
    fn what_was_kept_is_found() {
        let mut memo = Memo::new();
        assert_eq!(find(&mut memo, b"a"), None);
        assert!(keep(&mut memo, b"a", 1));
        assert!(keep(&mut memo, b"b", 2));
        assert_eq!(find(&mut memo, b"a"), Some(1));
        assert_eq!(find(&mut memo, b"b"), Some(2));
        assert_eq!(find(&mut memo, b"ab"), None);
    }

    #[test]
    fn a_new_epoch_forgets() {
        let mut memo = Memo::new();
        keep(&mut memo, b"a", 1);
        memo.next_epoch();
        assert_eq!(find(&mut memo, b"a"), None);
        keep(&mut memo, b"a", 2);
        assert_eq!(find(&mut memo, b"a"), Some(2));
    }

    #[test]
    fn long_blocks_are_not_kept() {
        let mut memo = Memo::new();
        assert!(!keep(&mut memo, &[0; 513], 1));
        assert!(keep(&mut memo, &[0; 512], 1));
    }

    #[test]
    fn blocks_that_repeat_outlive_those_that_do_not() {
        let mut memo = Memo::new();
        keep(&mut memo, b"often", 0);
        for n in 1..1000u32 {
            assert_eq!(find(&mut memo, b"often"), Some(0));
            keep(&mut memo, &n.to_be_bytes(), n);
            assert!(memo.entries.len() <= ENTRIES_MAX);
        }
    }
}
