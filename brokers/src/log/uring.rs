//! Write and fdatasync as one linked pair of io_uring operations: one system call for a commit.
//!
//! The only unsafe code of this crate: io_uring is handed raw pointers, and the kernel reads through them.
#![allow(unsafe_code)]

use std::{fs::File, io, os::fd::AsRawFd};

use io_uring::{IoUring, opcode, squeue, types};

/// A ring of one commit thread.
pub(super) struct Ring(IoUring);

impl Ring {
    /// A ring, where the kernel allows one.
    pub(super) fn new() -> io::Result<Self> {
        IoUring::new(4).map(Ring)
    }

    /// Writes `bytes` at `position`, and once all of them are written syncs. Returns how many were written; when that
    /// is not all, nothing was synced.
    pub(super) fn write_and_sync(&mut self, file: &File, bytes: &[u8], position: u64) -> io::Result<usize> {
        const WRITE: u64 = 1;
        const SYNC: u64 = 2;
        let descriptor = types::Fd(file.as_raw_fd());
        let length = u32::try_from(bytes.len()).map_err(|_| io::Error::other("a commit over 4 GiB"))?;
        // A short write breaks the link: the sync is cancelled then.
        let write = opcode::Write::new(descriptor, bytes.as_ptr(), length)
            .offset(position)
            .build()
            .flags(squeue::Flags::IO_LINK)
            .user_data(WRITE);
        let sync = opcode::Fsync::new(descriptor).flags(types::FsyncFlags::DATASYNC).build().user_data(SYNC);
        // SAFETY: the file and the bytes are borrowed until this function returns, and it returns only after both
        // completions have come: the kernel is done with them then.
        let pushed = unsafe { self.0.submission().push_multiple(&[write, sync]) };
        pushed.map_err(|_| io::Error::other("the submission queue has room for two"))?;
        let (mut written, mut synced) = (None, None);
        while written.is_none() || synced.is_none() {
            match self.0.submit_and_wait(1) {
                // Interrupted: the operations go on, so we must, too.
                Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                    // Leaving now would free bytes that the kernel may still read.
                    tracing::error!(%error, "io_uring: waiting for a write failed");
                    std::process::abort();
                }
                _ => {}
            }
            for completion in self.0.completion() {
                match completion.user_data() {
                    WRITE => written = Some(completion.result()),
                    _ => synced = Some(completion.result()),
                }
            }
        }
        let written = outcome(written.unwrap_or(-libc_eio()))?;
        if written == bytes.len() {
            outcome(synced.unwrap_or(-libc_eio()))?;
        }
        Ok(written)
    }
}

fn libc_eio() -> i32 {
    rustix::io::Errno::IO.raw_os_error()
}

fn outcome(result: i32) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::from_raw_os_error(-result))
}
