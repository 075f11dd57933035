//! Requests that wait for what becomes of their message.
//!
//! A message whose sender waits carries a token. The engine hands the token back with the outcome; here it leads to
//! the connection and the stream. There is at most one entry per slot of the core's slab: a message has one slot, and
//! an entry leaves with its answer.

use std::{borrow::Cow, mem, num::NonZeroU64, rc::Rc};

use engine_core::Outcome;

use crate::hook::Hook;

/// The id that a message goes by, ours or the caller's own. Most are short, and need no allocation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum MessageId {
    /// In place, with its length.
    Short(u8, [u8; MessageId::SHORT_BYTES_MAX]),
    /// Elsewhere.
    Long(Rc<[u8]>),
}

impl From<&[u8]> for MessageId {
    #[inline]
    fn from(id: &[u8]) -> Self {
        let mut bytes = [0; MessageId::SHORT_BYTES_MAX];
        match bytes.get_mut(..id.len()) {
            Some(place) => {
                place.copy_from_slice(id);
                MessageId::Short(id.len() as u8, bytes)
            }
            None => MessageId::Long(id.into()),
        }
    }
}

impl MessageId {
    const SHORT_BYTES_MAX: usize = 46;

    /// The id as it was given.
    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            MessageId::Short(length, bytes) => &bytes[..usize::from(*length)],
            MessageId::Long(id) => id,
        }
    }

    /// The id as text. Ours are ASCII, and so are keys; an id from a JSON body was UTF-8 there.
    pub(crate) fn text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(self.bytes())
    }
}

/// Who waits.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    pub(crate) hook: Rc<Hook>,
    /// The stream; 0 over HTTP/1.1.
    pub(crate) stream: u32,
    /// Which of the stream's messages.
    pub(crate) place: u32,
}

/// What became of a message that somebody waited for.
#[derive(Clone, Debug)]
pub(crate) struct Settled {
    pub(crate) stream: u32,
    pub(crate) place: u32,
    pub(crate) id: MessageId,
    /// The core that worked on it, whose log an offset belongs to.
    pub(crate) shard: usize,
    /// When it was put into the queue, on the core's clock.
    pub(crate) since_ns: u64,
    /// `None`: it took too long, nothing is known.
    pub(crate) outcome: Option<Outcome>,
}

#[derive(Debug)]
struct Entry {
    generation: u32,
    since_ns: u64,
    waits: Option<Waits>,
}

/// Who waits, for which message, on which core.
type Waits = (Caller, MessageId, usize);

/// The waiting requests of one core.
#[derive(Debug, Default)]
pub(crate) struct WaitingRoom {
    entries: Vec<Entry>,
    free: Vec<u32>,
}

impl WaitingRoom {
    /// A token for a caller; it becomes invalid with [`settle`](Self::settle), [`forget`](Self::forget) or its time.
    pub(crate) fn enter(&mut self, caller: Caller, id: MessageId, shard: usize, now_ns: u64) -> NonZeroU64 {
        let waits = Some((caller, id, shard));
        let index = match self.free.pop() {
            Some(index) => {
                let entry = &mut self.entries[index as usize];
                *entry = Entry { generation: entry.generation, since_ns: now_ns, waits };
                index
            }
            None => {
                self.entries.push(Entry { generation: 1, since_ns: now_ns, waits });
                // As many as a slab has slots, which are numbered in 32 bits.
                (self.entries.len() - 1) as u32
            }
        };
        let token = u64::from(self.entries[index as usize].generation) << 32 | u64::from(index);
        // A generation is never 0.
        NonZeroU64::new(token).unwrap_or(NonZeroU64::MIN)
    }

    /// Tells whoever waits for the token.
    pub(crate) fn settle(&mut self, token: u64, outcome: Outcome) {
        if let Some((since_ns, (caller, id, shard))) = self.leave(token) {
            tell(caller, id, shard, since_ns, Some(outcome));
        }
    }

    /// Nobody waits for this token any more.
    pub(crate) fn forget(&mut self, token: NonZeroU64) {
        drop(self.leave(token.get()));
    }

    /// Tells those who have waited since before `before_ns` that nothing is known; returns how many.
    pub(crate) fn expire(&mut self, before_ns: u64) -> usize {
        let mut expired = 0;
        for index in 0..self.entries.len() {
            let entry = &self.entries[index];
            if entry.waits.is_some() && entry.since_ns < before_ns {
                let token = u64::from(entry.generation) << 32 | index as u64;
                if let Some((since_ns, (caller, id, shard))) = self.leave(token) {
                    tell(caller, id, shard, since_ns, None);
                    expired += 1;
                }
            }
        }
        expired
    }

    /// How many wait.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    fn leave(&mut self, token: u64) -> Option<(u64, Waits)> {
        let (index, generation) = (token as u32, (token >> 32) as u32);
        let entry = self.entries.get_mut(index as usize).filter(|entry| entry.generation == generation)?;
        let waits = mem::take(&mut entry.waits)?;
        // A wrap is harmless: four thousand million requests later nobody holds the old token.
        entry.generation = entry.generation.checked_add(1).unwrap_or(1);
        self.free.push(index);
        Some((entry.since_ns, waits))
    }
}

fn tell(caller: Caller, id: MessageId, shard: usize, since_ns: u64, outcome: Option<Outcome>) {
    let Caller { hook, stream, place } = caller;
    hook.settled.borrow_mut().push(Settled { stream, place, id, shard, since_ns, outcome });
    // One wake for all that come together.
    if !hook.nudged.replace(true) {
        hook.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room() -> (WaitingRoom, Rc<Hook>) {
        (WaitingRoom::default(), Rc::new(Hook::new(0)))
    }

    fn enter(room: &mut WaitingRoom, hook: &Rc<Hook>, stream: u32, now_ns: u64) -> NonZeroU64 {
        let caller = Caller { hook: Rc::clone(hook), stream, place: 0 };
        room.enter(caller, b"id"[..].into(), 3, now_ns)
    }

    #[test]
    fn an_id_comes_back_as_it_was_however_long() {
        for length in [0, 1, 36, 46, 47, 255] {
            let id = vec![b'x'; length];
            assert_eq!(MessageId::from(id.as_slice()).bytes(), id);
        }
    }

    #[test]
    fn a_token_leads_to_its_stream_once() {
        let (mut room, hook) = room();
        let first = enter(&mut room, &hook, 1, 0);
        let second = enter(&mut room, &hook, 3, 0);
        room.settle(second.get(), Outcome::Processed);
        room.settle(second.get(), Outcome::Failed);
        let settled: Vec<(u32, Option<Outcome>)> =
            hook.settled.borrow_mut().drain(..).map(|settled| (settled.stream, settled.outcome)).collect();
        assert_eq!(settled, [(3, Some(Outcome::Processed))]);
        assert!(hook.nudged.get() && room.len() == 1);
        room.forget(first);
        room.settle(first.get(), Outcome::Processed);
        assert!(hook.settled.borrow().is_empty() && room.len() == 0);
    }

    #[test]
    fn a_place_taken_again_does_not_answer_to_its_old_token() {
        let (mut room, hook) = room();
        let old = enter(&mut room, &hook, 1, 0);
        room.forget(old);
        let new = enter(&mut room, &hook, 5, 0);
        assert_ne!(old, new);
        room.settle(old.get(), Outcome::Processed);
        assert!(hook.settled.borrow().is_empty());
    }

    #[test]
    fn who_waits_too_long_is_told_that_nothing_is_known() {
        let (mut room, hook) = room();
        let old = enter(&mut room, &hook, 1, 100);
        enter(&mut room, &hook, 3, 200);
        assert_eq!(room.expire(200), 1);
        assert_eq!(hook.settled.borrow()[0].outcome, None);
        room.settle(old.get(), Outcome::Processed);
        assert_eq!((hook.settled.borrow().len(), room.len()), (1, 1));
    }
}
