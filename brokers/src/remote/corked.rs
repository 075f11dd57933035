//! A socket that is written to once per turn of its connection. `h2` flushes after every DATA frame of 256 bytes or
//! more, which would be a system call for each message; here its writes are gathered, and go out together when the
//! connection has done all that it can do for now.

use std::{
    future::poll_fn,
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes, BytesMut};
use h2::client::Connection;
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

/// Bytes that are gathered before they go out all the same. What is gathered is at most this and one frame more.
const GATHERED_MAX: usize = 128 << 10;

struct Inner {
    socket: TcpStream,
    gathered: BytesMut,
}

impl Inner {
    /// Writes what was gathered, as far as the socket takes it.
    fn drain(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.gathered.is_empty() {
            let written = ready!(Pin::new(&mut self.socket).poll_write(context, &self.gathered))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.gathered.advance(written);
        }
        Poll::Ready(Ok(()))
    }

    /// Whether more may be gathered.
    fn make_room(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.gathered.len() < GATHERED_MAX { Poll::Ready(Ok(())) } else { self.drain(context) }
    }
}

/// The socket. `h2` has one of these, who drives the connection another; both run in the same task.
#[derive(Clone)]
pub(super) struct Corked(Arc<Mutex<Inner>>);

impl Corked {
    pub(super) fn new(socket: TcpStream) -> Self {
        Self(Arc::new(Mutex::new(Inner { socket, gathered: BytesMut::new() })))
    }

    /// Moves a connection that writes here, until it ends.
    pub(super) async fn drive(&self, connection: &mut Connection<Corked, Bytes>) -> Result<(), String> {
        poll_fn(|context| {
            let ended = Pin::new(&mut *connection).poll(context);
            if let Poll::Ready(Err(error)) = self.0.lock().drain(context) {
                return Poll::Ready(Err(error.to_string()));
            }
            ended.map_err(|error| error.to_string())
        })
        .await
    }
}

impl AsyncRead for Corked {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.lock().socket).poll_read(context, into)
    }
}

impl AsyncWrite for Corked {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut inner = self.0.lock();
        ready!(inner.make_room(context))?;
        inner.gathered.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut inner = self.0.lock();
        ready!(inner.make_room(context))?;
        slices.iter().for_each(|slice| inner.gathered.extend_from_slice(slice));
        Poll::Ready(Ok(slices.iter().map(|slice| slice.len()).sum()))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // At the end of the turn, by whoever drives.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.0.lock();
        ready!(inner.drain(context))?;
        Pin::new(&mut inner.socket).poll_shutdown(context)
    }
}
