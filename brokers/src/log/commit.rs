//! Making bytes durable: written in full, then synced, each checked.

use std::{fs::File, io, os::unix::fs::FileExt};

use super::{Io, Sync, uring::Ring};

/// How one commit thread writes.
pub(super) enum Committer {
    Ring(Box<Ring>),
    Blocking,
}

impl Committer {
    /// The way that was asked for; `Auto` takes a ring where the kernel gives one.
    pub(super) fn new(io: Io) -> io::Result<Self> {
        match io {
            Io::Blocking => Ok(Committer::Blocking),
            Io::IoUring => Ring::new().map(|ring| Committer::Ring(Box::new(ring))),
            Io::Auto => Ok(Ring::new().map_or(Committer::Blocking, |ring| Committer::Ring(Box::new(ring)))),
        }
    }

    /// Writes all of `bytes` at `position` and makes them durable.
    pub(super) fn commit(&mut self, file: &File, bytes: &[u8], position: u64, sync: Sync) -> io::Result<()> {
        let written = match self {
            _ if sync == Sync::Omitted => 0,
            Committer::Blocking => 0,
            Committer::Ring(ring) => ring.write_and_sync(file, bytes, position)?,
        };
        if written == bytes.len() {
            return Ok(());
        }
        // The rest of a short write; or all of it.
        file.write_all_at(&bytes[written..], position + written as u64)?;
        if sync == Sync::Fdatasync {
            file.sync_data()?;
        }
        Ok(())
    }
}
