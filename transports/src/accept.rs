//! Accepting connections on one socket of one core.

use std::{
    future::Future,
    net::SocketAddr,
    os::fd::{AsRawFd, BorrowedFd},
    pin::pin,
    rc::Rc,
    time::Duration,
};

use monoio::net::{TcpListener, TcpStream};
use rustix::{
    io::Errno,
    net::{SocketFlags, acceptfrom_with},
};

use crate::{
    connection::{Origin, serve},
    core::Core,
    counters::Cause,
    listener::Role,
    select::first,
    socket::Socket,
};

/// How long accepting pauses when the system has no descriptor or memory left. Trying again at once would be a busy
/// loop: the connection stays in the backlog and the socket stays ready.
const PAUSE: Duration = Duration::from_millis(100);

/// Connections taken before the others have a turn.
const BURST: usize = 64;

/// Accepts until `stop` resolves; what is in the backlog then is still taken, so that nobody who was let in is reset.
pub(crate) async fn run(core: Rc<Core>, listener: TcpListener, role: Role, stop: impl Future<Output = ()>) {
    let mut stop = pin!(stop);
    loop {
        let ready = first(listener.readable(false), stop.as_mut()).await;
        let stopping = ready.is_none();
        if accept_burst(&core, &listener, role, if stopping { usize::MAX } else { BURST }).is_err() {
            core.counters.hit(Cause::AcceptFailed);
            if !stopping {
                monoio::time::sleep(PAUSE).await;
            }
        }
        if stopping {
            return;
        }
    }
}

#[allow(unsafe_code)]
fn accept_burst(core: &Rc<Core>, listener: &TcpListener, role: Role, most: usize) -> Result<(), Errno> {
    // SAFETY: `listener` owns the descriptor and is borrowed for the whole of this function.
    let socket = unsafe { BorrowedFd::borrow_raw(listener.as_raw_fd()) };
    for _ in 0..most {
        let (accepted, address) = match acceptfrom_with(socket, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)
        {
            Ok(accepted) => accepted,
            Err(Errno::AGAIN) => return Ok(()),
            // The client was gone before it was accepted, or a signal came.
            Err(Errno::CONNABORTED | Errno::INTR) => continue,
            Err(error) => return Err(error),
        };
        let peer = address.and_then(|address| SocketAddr::try_from(address).ok());
        let peer = peer.unwrap_or_else(|| SocketAddr::from(([0, 0, 0, 0], 0)));
        if let Err(cause) = core.admit(peer.ip()) {
            // Dropping it closes it: the cheapest answer there is.
            core.counters.hit(cause);
            continue;
        }
        let Ok(stream) = TcpStream::from_std(accepted.into()) else {
            core.dismiss(peer.ip());
            return Err(Errno::NOMEM);
        };
        monoio::spawn(serve(Rc::clone(core), Socket::new(stream), Origin { role, peer }));
    }
    Ok(())
}
