//! Making bytes durable: written in full, then synced, each checked.

use std::io;

use super::{Io, Sync, uring::Ring};
use crate::disk::DiskFile;

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
    pub(super) fn commit(
        &mut self,
        file: &dyn DiskFile,
        bytes: &[u8],
        position: u64,
        sync: Sync,
    ) -> io::Result<()> {
        let written = match (self, file.as_file()) {
            (Committer::Ring(ring), Some(file)) if sync == Sync::Fdatasync => {
                ring.write_and_sync(file, bytes, position)?
            }
            _ => 0,
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
