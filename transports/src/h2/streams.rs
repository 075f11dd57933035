//! The table of open streams: slots that are used again, and an index from stream ids to slots.
//!
//! A request allocates nothing once the table has grown to as many streams as the client keeps open. The
//! index is open-addressed with linear probing; a client counts its ids up by two, so half an id spreads
//! perfectly, and whoever picks colliding ids walks at most as far as there are open streams.

use super::block::Block;

/// What a stream has behind it.
pub(super) mod mark {
    /// The client sent END_STREAM: half-closed (remote).
    pub(in super::super) const REMOTE_DONE: u8 = 1;
    /// A final response head is out.
    pub(in super::super) const HEAD_SENT: u8 = 2;
    /// The application has given the end of its response; it may still be queued.
    pub(in super::super) const LOCAL_ENDED: u8 = 4;
    /// Our END_STREAM is out: half-closed (local).
    pub(in super::super) const LOCAL_DONE: u8 = 8;
    /// Stands in line for the connection's window or for room in the output.
    pub(in super::super) const IN_LINE: u8 = 16;
    /// The application had more to send than the queue takes, and waits to be told of room.
    pub(in super::super) const WANTS_ROOM: u8 = 32;
}

/// No `content-length`.
pub(super) const LENGTH_UNKNOWN: u64 = u64::MAX;

/// The protocol's part of an open stream.
pub(super) struct Stream {
    /// 0 while the slot is free or waits to be released.
    pub(super) id: u32,
    pub(super) marks: u8,
    /// What the client lets us send; a smaller SETTINGS_INITIAL_WINDOW_SIZE can take it below zero.
    pub(super) send_window: i32,
    /// What the client may still send. With `pending` and `held` it adds up to our window.
    pub(super) recv_window: i32,
    /// Done with, but not yet given back by a WINDOW_UPDATE.
    pub(super) pending: u32,
    /// In the application's hands.
    pub(super) held: u32,
    /// Body bytes that `content-length` still promises, or `LENGTH_UNKNOWN`.
    pub(super) length_left: u64,
    /// Response bytes that wait. Exists only while there are any.
    pub(super) queue: Option<Box<Queue>>,
}

impl Stream {
    #[inline]
    pub(super) fn is(&self, mark: u8) -> bool {
        self.marks & mark != 0
    }

    pub(super) fn queued_bytes(&self) -> usize {
        self.queue.as_ref().map_or(0, |queue| queue.bytes.len() - queue.sent)
    }
}

/// Response bytes that wait for a window.
pub(super) struct Queue {
    pub(super) bytes: Vec<u8>,
    /// How many of `bytes` are out.
    pub(super) sent: usize,
    pub(super) tail: Tail,
    /// When bytes last left.
    pub(super) progress_ms: u64,
}

/// What follows the queued bytes.
pub(super) enum Tail {
    /// The application has not said yet.
    Open,
    /// END_STREAM.
    End,
    /// Trailers, with END_STREAM.
    Trailers(Block),
}

#[derive(Default)]
pub(super) struct Streams {
    slots: Vec<Stream>,
    free: Vec<u32>,
    /// Id (0: none) and slot; the length is a power of two, at least twice the open streams.
    index: Vec<(u32, u32)>,
    open: usize,
}

impl Streams {
    pub(super) fn open(&self) -> usize {
        self.open
    }

    /// One more than the highest slot ever used.
    pub(super) fn slots(&self) -> usize {
        self.slots.len()
    }

    #[inline]
    pub(super) fn get(&mut self, slot: u32) -> Option<&mut Stream> {
        self.slots.get_mut(slot as usize)
    }

    pub(super) fn peek(&self, slot: u32) -> Option<&Stream> {
        self.slots.get(slot as usize)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Stream> {
        self.slots.iter().filter(|stream| stream.id != 0)
    }

    #[inline]
    pub(super) fn find(&self, id: u32) -> Option<u32> {
        let mask = self.index.len().checked_sub(1)?;
        let mut place = home(id, mask);
        loop {
            let (found, slot) = self.index[place];
            if found == 0 {
                return None;
            }
            if found == id {
                return Some(slot);
            }
            place = (place + 1) & mask;
        }
    }

    /// Takes a slot for a stream that is not in the table. `stream.id` is not 0.
    #[inline]
    pub(super) fn insert(&mut self, stream: Stream) -> u32 {
        if (self.open + 1) * 2 > self.index.len() {
            self.grow_index();
        }
        self.open += 1;
        let id = stream.id;
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slots[slot as usize] = stream;
                slot
            }
            None => {
                self.slots.push(stream);
                (self.slots.len() - 1) as u32
            }
        };
        self.put(id, slot);
        slot
    }

    /// Takes a stream out of the index. Its slot stays taken until [`Streams::release`], so that whatever else
    /// is kept by slot can be cleared away first.
    #[inline]
    pub(super) fn remove(&mut self, slot: u32) {
        let Some(stream) = self.slots.get_mut(slot as usize) else { return };
        let id = std::mem::take(&mut stream.id);
        if id == 0 {
            return;
        }
        stream.queue = None;
        self.open -= 1;
        let mask = self.index.len() - 1;
        let mut hole = home(id, mask);
        while self.index[hole].0 != id {
            hole = (hole + 1) & mask;
        }
        // Entries behind move up unless that would put them before their home.
        let mut place = hole;
        loop {
            place = (place + 1) & mask;
            let entry = self.index[place];
            if entry.0 == 0 {
                break;
            }
            let from_home = place.wrapping_sub(home(entry.0, mask)) & mask;
            let from_hole = place.wrapping_sub(hole) & mask;
            if from_home >= from_hole {
                self.index[hole] = entry;
                hole = place;
            }
        }
        self.index[hole] = (0, 0);
    }

    #[inline]
    pub(super) fn release(&mut self, slot: u32) {
        self.free.push(slot);
    }

    /// Gives the memory back when no stream is open.
    pub(super) fn shrink(&mut self) {
        if self.free.len() == self.slots.len() {
            *self = Streams::default();
        }
    }

    #[inline]
    fn put(&mut self, id: u32, slot: u32) {
        let mask = self.index.len() - 1;
        let mut place = home(id, mask);
        while self.index[place].0 != 0 {
            place = (place + 1) & mask;
        }
        self.index[place] = (id, slot);
    }

    #[cold]
    fn grow_index(&mut self) {
        let len = (self.index.len() * 2).max(8);
        let old = std::mem::replace(&mut self.index, vec![(0, 0); len]);
        for (id, slot) in old {
            if id != 0 {
                self.put(id, slot);
            }
        }
    }
}

#[inline]
fn home(id: u32, mask: usize) -> usize {
    (id >> 1) as usize & mask
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn stream(id: u32) -> Stream {
        Stream {
            id,
            marks: 0,
            send_window: 0,
            recv_window: 0,
            pending: 0,
            held: 0,
            length_left: LENGTH_UNKNOWN,
            queue: None,
        }
    }

    #[test]
    fn agrees_with_a_map() {
        let mut random = fastrand::Rng::with_seed(7);
        let mut streams = Streams::default();
        let mut map = HashMap::new();
        let mut next = 1;
        for _ in 0..20_000 {
            if map.len() < 100 && random.bool() {
                // Ids that collide now and then.
                next += 2 * random.u32(1..4) * if random.u8(..) == 0 { 128 } else { 1 };
                map.insert(next, streams.insert(stream(next)));
            } else if let Some(&id) = map.keys().nth(random.usize(..map.len().max(1))) {
                let slot = map.remove(&id).unwrap();
                streams.remove(slot);
                streams.release(slot);
                assert_eq!(streams.find(id), None);
            }
            assert_eq!(streams.open(), map.len());
            for (&id, &slot) in &map {
                assert_eq!(streams.find(id), Some(slot));
                assert_eq!(streams.get(slot).unwrap().id, id);
            }
        }
        assert!(streams.slots() <= 100);
    }

    #[test]
    fn a_removed_slot_is_not_used_before_its_release() {
        let mut streams = Streams::default();
        let first = streams.insert(stream(1));
        streams.remove(first);
        assert_ne!(streams.insert(stream(3)), first);
        streams.release(first);
        assert_eq!(streams.insert(stream(5)), first);
    }
}
