//! Tidegate without sockets, disks, brokers and time: the same code in a world that one seed decides.

pub mod kafka;
pub mod nats;
#[cfg(test)]
mod seeds;
