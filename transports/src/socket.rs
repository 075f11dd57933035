//! Reading and writing a ready socket, in line.
//!
//! The runtime is asked one thing only: "tell me when this socket can be read (or written)". The bytes themselves
//! move by plain non-blocking `recv` and `send` on the spot. That buys three things over owned-buffer operations:
//! one read buffer serves every connection of a core (an idle connection owns none), a wait can be dropped at any
//! time without losing bytes, and an answer leaves at once instead of at the next submission.
#![allow(unsafe_code)]

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
};

use monoio::net::TcpStream;
use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown};

/// A connected socket of this core.
#[derive(Debug)]
pub(crate) struct Socket {
    stream: TcpStream,
}

impl Socket {
    /// Wraps an accepted connection.
    pub(crate) fn new(stream: TcpStream) -> Self {
        Self { stream }
    }

    fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: `self.stream` owns the descriptor and is borrowed for as long as the returned value lives, so the
        // descriptor stays open and is not reused meanwhile.
        unsafe { BorrowedFd::borrow_raw(self.stream.as_raw_fd()) }
    }

    /// Takes what has arrived, at most `buffer.len()` bytes; 0 is the end of the stream, `WouldBlock` is nothing yet.
    pub(crate) fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match recv(self.fd(), &mut *buffer, RecvFlags::DONTWAIT) {
                Ok((length, _)) => return Ok(length),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Sends from the start of `bytes`; returns how many the kernel took, 0 when it takes none now.
    pub(crate) fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        let mut sent = 0;
        while sent < bytes.len() {
            match send(self.fd(), &bytes[sent..], SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(0) => break,
                Ok(length) => sent += length,
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(sent)
    }

    /// Says "no more from us" while the peer may still be sending.
    pub(crate) fn shutdown_write(&self) {
        // A peer that is gone already is no news.
        let _ = shutdown(self.fd(), Shutdown::Write);
    }

    /// Resolves when something can be read, or the peer has closed.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        self.stream.readable(false).await
    }

    /// Resolves when something can be written.
    pub(crate) async fn writable(&self) -> io::Result<()> {
        self.stream.writable(false).await
    }
}
