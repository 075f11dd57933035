//! Listening sockets: one per address and core, sharing the port through `SO_REUSEPORT`.

use std::{
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener},
    time::{Duration, Instant},
};

use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};

/// What a port stands for; the same routes are served on all of them, but each answers `/stats` and `/health` as
/// itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// 8080: the public API.
    Gateway,
    /// 8081: ingestion.
    Ingest,
    /// 8082: the processor.
    Processor,
    /// 8083: the older analytics service.
    Analytics,
    /// 50051 to 50053: gRPC.
    Grpc,
    /// 9090: metrics.
    Metrics,
}

impl Role {
    /// Every role, in the order of [`Role::index`].
    pub const ALL: [Role; 6] =
        [Role::Gateway, Role::Ingest, Role::Processor, Role::Analytics, Role::Grpc, Role::Metrics];

    /// Position in [`Role::ALL`].
    pub fn index(self) -> usize {
        self as usize
    }

    /// The name used in logs, settings and labels.
    pub fn name(self) -> &'static str {
        match self {
            Role::Gateway => "gateway",
            Role::Ingest => "ingest",
            Role::Processor => "processor",
            Role::Analytics => "analytics",
            Role::Grpc => "grpc",
            Role::Metrics => "metrics",
        }
    }
}

/// Connections that may wait to be accepted, per socket.
const BACKLOG: i32 = 4096;

/// Binds `address` once for each of `cores`.
///
/// The first socket decides the port (an address with port 0 takes a free one); the others join it. An unspecified
/// IPv6 address also takes IPv4, and falls back to IPv4 alone on a machine without IPv6.
///
/// # Errors
/// What the system said to `bind` or `listen`, for example `AddrInUse`.
pub fn bind(address: SocketAddr, cores: usize) -> io::Result<Vec<TcpListener>> {
    let first = open_first(address);
    let first = match first {
        Err(error) if address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) && no_ipv6(&error) => {
            open_first(SocketAddr::from(([0, 0, 0, 0], address.port())))?
        }
        other => other?,
    };
    let address = first.local_addr()?;
    let others = (1..cores).map(|_| open(address, true));
    std::iter::once(Ok(first)).chain(others).collect()
}

/// How long a port may stay taken by a process that was killed.
const HANDOVER: Duration = Duration::from_millis(1500);

/// The socket that decides whether the port is ours. A port that the kernel picks is; one that was asked for is tried
/// without SO_REUSEPORT first: with it, a second Tidegate (or another process of the same user) would silently share
/// the port, and half the messages would go elsewhere.
fn open_first(address: SocketAddr) -> io::Result<TcpListener> {
    if address.port() != 0 {
        let deadline = Instant::now() + HANDOVER;
        // The kernel closes the sockets of a killed process's rings a moment after the process is gone: whoever is
        // restarted at once finds the port still taken.
        while let Err(error) = open(address, false).map(drop) {
            if error.kind() != io::ErrorKind::AddrInUse || Instant::now() >= deadline {
                return Err(error);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    open(address, true)
}

fn no_ipv6(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::AddrNotAvailable | io::ErrorKind::Unsupported)
        || error.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error())
}

fn open(address: SocketAddr, shared: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(address.ip() != IpAddr::V6(Ipv6Addr::UNSPECIFIED))?;
    }
    // A restarted server must not wait for the old connections' TIME_WAIT.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    // Linux hands this down to accepted connections: one system call saved for each.
    socket.set_tcp_nodelay(true)?;
    // Handed down, too: a peer that vanished from an open stream is noticed after two minutes.
    socket.set_tcp_keepalive(
        &TcpKeepalive::new().with_time(Duration::from_secs(60)).with_interval(Duration::from_secs(15)),
    )?;
    socket.bind(&address.into())?;
    if shared {
        socket.set_nonblocking(true)?;
        socket.listen(BACKLOG)?;
    }
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_core_gets_a_socket_on_the_same_free_port() {
        let sockets = bind(([127, 0, 0, 1], 0).into(), 3).unwrap();
        let ports: Vec<u16> = sockets.iter().map(|socket| socket.local_addr().unwrap().port()).collect();
        assert_eq!(ports.len(), 3);
        assert!(ports[0] != 0 && ports.iter().all(|port| *port == ports[0]));
    }

    #[test]
    fn a_taken_port_is_an_error_even_for_the_same_program() {
        let first = bind(([127, 0, 0, 1], 0).into(), 2).unwrap();
        let again = bind(first[0].local_addr().unwrap(), 2);
        assert_eq!(again.unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }
}
