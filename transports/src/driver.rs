//! The one place that knows which kernel interface the core loops wait on.
//!
//! io_uring with `COOP_TASKRUN` (completions wait for our next system call instead of interrupting us: without the
//! flag monoio's ring was 1.7 times slower than epoll), or epoll where the kernel or its policy refuses a ring.

use std::{future::Future, io};

use monoio::{IoUringDriver, LegacyDriver, RuntimeBuilder};

/// What the settings ask for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DriverChoice {
    /// io_uring where it works, else epoll.
    #[default]
    Auto,
    /// io_uring or nothing.
    IoUring,
    /// epoll.
    Epoll,
}

/// What is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    /// io_uring with COOP_TASKRUN.
    IoUring,
    /// epoll.
    Epoll,
}

impl Driver {
    /// The name used in logs.
    pub fn name(self) -> &'static str {
        match self {
            Driver::IoUring => "io_uring",
            Driver::Epoll => "epoll",
        }
    }
}

/// Entries of a core's submission queue. Only readiness polls go through it, one per waiting connection, and they are
/// submitted at every turn of the loop; a full queue is submitted early, nothing is lost.
const RING_ENTRIES: u32 = 1024;

fn ring() -> io_uring::Builder {
    let mut ring = io_uring::IoUring::builder();
    ring.setup_coop_taskrun();
    ring
}

/// Decides by trying: a ring is built and dropped.
///
/// # Errors
/// With [`DriverChoice::IoUring`], what the kernel said; for [`DriverChoice::Auto`] the second value says why it is
/// epoll.
pub fn choose(choice: DriverChoice) -> io::Result<(Driver, Option<io::Error>)> {
    match choice {
        DriverChoice::Epoll => Ok((Driver::Epoll, None)),
        DriverChoice::IoUring => ring().build(RING_ENTRIES).map(|_| (Driver::IoUring, None)),
        DriverChoice::Auto => Ok(match ring().build(RING_ENTRIES) {
            Ok(_) => (Driver::IoUring, None),
            Err(refused) => (Driver::Epoll, Some(refused)),
        }),
    }
}

/// Runs `main` to its end on this thread.
///
/// # Errors
/// When the kernel refuses the ring or the epoll instance.
pub(crate) fn run<T>(driver: Driver, main: impl Future<Output = T>) -> io::Result<T> {
    match driver {
        Driver::IoUring => Ok(RuntimeBuilder::<IoUringDriver>::new()
            .uring_builder(ring())
            .with_entries(RING_ENTRIES)
            .enable_timer()
            .build()?
            .block_on(main)),
        Driver::Epoll => Ok(RuntimeBuilder::<LegacyDriver>::new().enable_timer().build()?.block_on(main)),
    }
}
