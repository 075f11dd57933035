//! `-health-check`: asks the server of this machine how it is, for a container image without a shell. One dash, as the
//! older producer service's image calls it.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use transports::Role;

use crate::{role::Part, settings::Settings};

/// Longest wait for a connection, and for the answer.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Asks `/health` of the listener that this part opens first.
///
/// # Errors
/// Why it is not healthy.
pub fn ask(settings: &Settings, part: Part) -> Result<()> {
    let role = part.listeners().first().copied().unwrap_or(Role::Gateway);
    let addresses = match role {
        Role::Gateway => &settings.gateway,
        Role::Ingest => &settings.ingest,
        Role::Processor => &settings.processor,
        Role::Analytics => &settings.analytics,
        Role::Grpc => &settings.grpc,
        Role::Metrics => &settings.metrics,
    };
    let address =
        addresses.first().with_context(|| format!("no address for the {} listener", role.name()))?;
    let address = reachable(*address);
    let mut socket = TcpStream::connect_timeout(&address, TIMEOUT).with_context(|| format!("{address}"))?;
    socket.set_read_timeout(Some(TIMEOUT))?;
    socket.set_write_timeout(Some(TIMEOUT))?;
    socket.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = [0; 12];
    socket.read_exact(&mut answer).with_context(|| format!("{address} does not answer"))?;
    if answer != *b"HTTP/1.1 200" {
        bail!("{address} answers {}", String::from_utf8_lossy(&answer));
    }
    Ok(())
}

/// Where an address that is listened on can be reached from here: every interface has IPv4's loopback among it.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = if address.ip().is_unspecified() { Ipv4Addr::LOCALHOST.into() } else { address.ip() };
    SocketAddr::new(ip, address.port())
}
