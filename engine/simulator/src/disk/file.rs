//! What a file holds: as readers see it, and as a power cut leaves it.

use std::{io, sync::Arc};

use brokers::disk::DiskFile;
use parking_lot::Mutex;

use super::{SECTOR_BYTES, State};

/// A change that is not durable.
#[derive(Clone, Debug)]
enum Change {
    Bytes { at: usize, bytes: Vec<u8> },
    Length(usize),
}

impl Change {
    fn apply(&self, to: &mut Vec<u8>) {
        match self {
            Change::Bytes { at, bytes } => {
                if to.len() < at + bytes.len() {
                    to.resize(at + bytes.len(), 0);
                }
                to[*at..at + bytes.len()].copy_from_slice(bytes);
            }
            Change::Length(length) => to.resize(*length, 0),
        }
    }
}

/// A file's bytes.
#[derive(Debug, Default)]
pub(super) struct Content {
    seen: Vec<u8>,
    durable: Vec<u8>,
    changes: Vec<Change>,
}

impl Content {
    pub(super) fn length(&self) -> u64 {
        self.seen.len() as u64
    }

    pub(super) fn set_length(&mut self, length: usize) {
        self.change(Change::Length(length));
    }

    fn change(&mut self, change: Change) {
        change.apply(&mut self.seen);
        self.changes.push(change);
    }

    pub(super) fn sync(&mut self) {
        for change in self.changes.drain(..) {
            change.apply(&mut self.durable);
        }
    }

    /// Keeps any part of what is not durable; `luck` 0: nothing, 1: all of it.
    pub(super) fn crash(&mut self, random: &mut fastrand::Rng, luck: u8) {
        for change in std::mem::take(&mut self.changes) {
            match (luck, change) {
                (0, _) => {}
                (1, change) => change.apply(&mut self.durable),
                (_, Change::Length(length)) => {
                    if random.bool() {
                        self.durable.resize(length, 0);
                    }
                }
                (_, Change::Bytes { at, bytes }) => {
                    // Sectors are as they lie in the file, not in the write.
                    let mut from = 0;
                    while from < bytes.len() {
                        let upto = (SECTOR_BYTES - (at + from) % SECTOR_BYTES + from).min(bytes.len());
                        if random.bool() {
                            Change::Bytes { at: at + from, bytes: bytes[from..upto].to_vec() }
                                .apply(&mut self.durable);
                        }
                        from = upto;
                    }
                }
            }
        }
        self.seen.clone_from(&self.durable);
    }

    pub(super) fn damage(&mut self, change: impl FnOnce(&mut Vec<u8>)) {
        self.sync();
        change(&mut self.durable);
        self.seen.clone_from(&self.durable);
    }
}

/// An open file.
#[derive(Debug)]
pub(super) struct SimFile {
    pub(super) state: Arc<Mutex<State>>,
    pub(super) file: usize,
    pub(super) writes: bool,
}

impl SimFile {
    fn sync(&self) -> io::Result<()> {
        let mut state = self.state.lock();
        let failed = state.step();
        let off = state.off;
        let content = &mut state.files[self.file];
        match failed {
            Ok(()) => content.sync(),
            // The pages are clean now, and nobody writes them again.
            Err(_) if !off => content.changes.clear(),
            Err(_) => {}
        }
        failed
    }
}

impl DiskFile for SimFile {
    fn read_at(&self, bytes: &mut [u8], position: u64) -> io::Result<usize> {
        let state = self.state.lock();
        if state.off {
            return Err(super::no_power());
        }
        let seen = &state.files[self.file].seen;
        let from = usize::try_from(position).unwrap_or(usize::MAX).min(seen.len());
        let length = bytes.len().min(seen.len() - from);
        bytes[..length].copy_from_slice(&seen[from..from + length]);
        Ok(length)
    }

    fn write_all_at(&self, bytes: &[u8], position: u64) -> io::Result<()> {
        if !self.writes {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let mut state = self.state.lock();
        let at = position as usize;
        state.room_for(self.file, position + bytes.len() as u64)?;
        if let Err(error) = state.step() {
            // A part of it may be written, up to the end of a sector.
            let part = state.random.usize(0..=bytes.len());
            let part = ((at + part) / SECTOR_BYTES * SECTOR_BYTES).saturating_sub(at).min(bytes.len());
            state.files[self.file].change(Change::Bytes { at, bytes: bytes[..part].to_vec() });
            return Err(error);
        }
        let mut at = at;
        if state.misdirect_at.is_some_and(|step| state.steps >= step) && state.files[self.file].length() > 0 {
            state.misdirect_at = None;
            let length = state.files[self.file].length() as usize;
            at = state.random.usize(0..length.saturating_sub(bytes.len()).max(1)) / 8 * 8;
        }
        state.files[self.file].change(Change::Bytes { at, bytes: bytes.to_vec() });
        Ok(())
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        let mut state = self.state.lock();
        state.room_for(self.file, bytes)?;
        state.step()?;
        let length = state.files[self.file].length().max(bytes) as usize;
        state.files[self.file].set_length(length);
        Ok(())
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        let mut state = self.state.lock();
        state.room_for(self.file, bytes)?;
        state.step()?;
        state.files[self.file].set_length(bytes as usize);
        Ok(())
    }

    fn length(&self) -> io::Result<u64> {
        let state = self.state.lock();
        if state.off { Err(super::no_power()) } else { Ok(state.files[self.file].length()) }
    }

    fn sync_data(&self) -> io::Result<()> {
        self.sync()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.sync()
    }
}
