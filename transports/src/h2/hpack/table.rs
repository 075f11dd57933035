//! The decoder's dynamic table (RFC 7541 §2.3.2, §4).
//!
//! Entries lie one behind the other in one buffer: new ones at its end, the oldest at its start. When the
//! dead part at the start is larger than the living part, that is moved to the front. So the buffer stays
//! within about twice the table's size, and an insert costs no allocation once it has grown.

use std::collections::VecDeque;

use super::list::FIELD_OVERHEAD;

struct Entry {
    start: u32,
    name_len: u32,
    value_len: u32,
}

impl Entry {
    fn size(&self) -> usize {
        self.name_len as usize + self.value_len as usize + FIELD_OVERHEAD
    }
}

pub(super) struct DynamicTable {
    bytes: Vec<u8>,
    /// Newest first: index 62 is the front.
    entries: VecDeque<Entry>,
    size: usize,
    size_max: usize,
}

impl DynamicTable {
    pub(super) fn new(size_max: usize) -> Self {
        DynamicTable { bytes: Vec::new(), entries: VecDeque::new(), size: 0, size_max }
    }

    /// The name and value at `index`, counted from 0 for the newest.
    pub(super) fn get(&self, index: u32) -> Option<(&[u8], &[u8])> {
        let entry = self.entries.get(index as usize)?;
        let bytes = self.bytes.get(entry.start as usize..)?;
        let (name, rest) = bytes.split_at_checked(entry.name_len as usize)?;
        Some((name, rest.get(..entry.value_len as usize)?))
    }

    /// RFC 7541 §4.4: an entry larger than the table empties it and is not an error.
    pub(super) fn insert(&mut self, name: &[u8], value: &[u8]) {
        let size = name.len() + value.len() + FIELD_OVERHEAD;
        if size > self.size_max {
            self.evict_to(0);
            return;
        }
        self.evict_to(self.size_max - size);
        let live_from = self.entries.back().map_or(self.bytes.len(), |oldest| oldest.start as usize);
        if live_from > (self.bytes.len() - live_from).max(256) {
            self.bytes.drain(..live_from);
            for entry in &mut self.entries {
                entry.start -= live_from as u32;
            }
        }
        let start = self.bytes.len() as u32;
        self.bytes.extend_from_slice(name);
        self.bytes.extend_from_slice(value);
        self.entries.push_front(Entry { start, name_len: name.len() as u32, value_len: value.len() as u32 });
        self.size += size;
    }

    /// RFC 7541 §4.3: a smaller table evicts at once.
    pub(super) fn resize(&mut self, size_max: usize) {
        self.size_max = size_max;
        self.evict_to(size_max);
    }

    fn evict_to(&mut self, size: usize) {
        while self.size > size {
            let Some(oldest) = self.entries.pop_back() else { break };
            self.size -= oldest.size();
        }
        if self.entries.is_empty() {
            self.bytes.clear();
        }
    }

    /// Gives spare memory back; the entries stay.
    pub(super) fn shrink(&mut self) {
        self.bytes.shrink_to_fit();
        self.entries.shrink_to_fit();
    }

    #[cfg(test)]
    pub(super) fn size(&self) -> usize {
        self.size
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn oldest_goes_first() {
        let mut table = DynamicTable::new(100);
        table.insert(b"a", b"1");
        table.insert(b"b", b"2");
        table.insert(b"c", b"3");
        assert_eq!(table.size(), 68);
        assert_eq!(table.get(0), Some((&b"c"[..], &b"3"[..])));
        assert_eq!(table.get(1), Some((&b"b"[..], &b"2"[..])));
        assert_eq!(table.get(2), None);
    }

    #[test]
    fn too_large_an_entry_empties_the_table() {
        let mut table = DynamicTable::new(100);
        table.insert(b"a", b"1");
        table.insert(b"b", &[b'x'; 100]);
        assert_eq!((table.len(), table.size()), (0, 0));
    }

    #[test]
    fn resize_evicts() {
        let mut table = DynamicTable::new(100);
        table.insert(b"a", b"1");
        table.insert(b"b", b"2");
        table.resize(40);
        assert_eq!(table.len(), 1);
        assert_eq!(table.get(0), Some((&b"b"[..], &b"2"[..])));
        table.resize(0);
        assert_eq!(table.len(), 0);
        table.insert(b"c", b"3");
        assert_eq!(table.len(), 0);
    }

    #[test]
    fn many_inserts_stay_within_twice_the_size() {
        let mut table = DynamicTable::new(4096);
        for n in 0..10_000u32 {
            let value = vec![b'v'; (n % 200) as usize];
            table.insert(&n.to_be_bytes(), &value);
            assert_eq!(table.get(0), Some((&n.to_be_bytes()[..], &value[..])));
            assert!(table.size() <= 4096);
            assert!(table.bytes.len() <= 2 * 4096 + 512, "{}", table.bytes.len());
            let last = table.len() as u32 - 1;
            assert_eq!(
                table.get(last).map(|(name, _)| name.to_vec()),
                Some((n - last).to_be_bytes().to_vec())
            );
        }
    }
}
