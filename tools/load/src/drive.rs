//! Drives conversations over sockets: one thread, one epoll, as many connections as wanted.
//!
//! A round of the loop is: wait, then for every socket that is ready read once, let the conversation look at it, let
//! it write what its pace allows, write once. In a closed loop the pace is "whenever an answer makes room"; in an open
//! loop it is a fixed schedule, and a message that could not go out in time still counts its latency from the moment
//! it should have gone, so that a slow server cannot hide behind a client that waits for it.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use rustix::event::{Timespec, epoll};

use crate::{outcome::Outcome, process};

/// One connection's protocol without its socket.
pub trait Conversation {
    /// Writes what comes before the first request.
    fn open(&mut self, out: &mut Vec<u8>);
    /// Whether one more send is allowed now.
    fn is_ready(&self) -> bool;
    /// Sends once, at most `max` messages (there is room: `is_ready`), and returns how many.
    fn send(&mut self, intended_ns: u64, max: u64, out: &mut Vec<u8>) -> u64;
    /// Nothing more will be sent in this run: ends what is open.
    fn finish(&mut self, out: &mut Vec<u8>);
    /// Looks at received bytes; returns how many it has used.
    ///
    /// # Errors
    /// When the peer breaks the protocol; the connection is then given up.
    fn receive(
        &mut self,
        bytes: &[u8],
        now_ns: u64,
        out: &mut Vec<u8>,
        outcome: &mut Outcome,
    ) -> Result<usize>;
    /// Whether anything is under way that will be answered.
    fn is_waiting(&self) -> bool;
    /// The connection is over: counts what was never answered.
    fn close(&mut self, outcome: &mut Outcome);
}

/// When the next message goes out.
#[derive(Clone, Copy, Debug)]
pub enum Pace {
    /// As soon as there is room.
    Closed,
    /// So many a second on a fixed schedule.
    Open {
        /// Messages per second, over all connections.
        per_second: f64,
    },
}

/// When a run stops sending; whichever comes first.
#[derive(Clone, Copy, Debug)]
pub struct Until {
    /// After so many messages.
    pub messages_max: u64,
    /// After so long.
    pub duration: Duration,
    /// How long to wait for answers after the last message.
    pub patience: Duration,
}

impl Until {
    /// A run of so long.
    pub fn elapsed(duration: Duration) -> Self {
        Self { messages_max: u64::MAX, duration, patience: Duration::from_secs(10) }
    }

    /// A run of so many messages.
    pub fn sent(messages_max: u64) -> Self {
        Self { messages_max, duration: Duration::from_secs(3600), patience: Duration::from_secs(10) }
    }
}

/// Read at once from one socket.
const READ_BYTES_MAX: usize = 128 * 1024;
/// A connection that has so much to write does not add to it.
const OUT_BYTES_HIGH: usize = 128 * 1024;
/// Closer to the next scheduled message than this, the loop spins: a sleep would come back too late. Where messages are due
/// more often than that, it would spin for ever and take a core away from the server; there a sleep sends two at once.
const SPIN_NS: u64 = 80_000;

struct Line<C> {
    socket: TcpStream,
    conversation: C,
    /// Received and not yet used: an answer's first part.
    inbox: Vec<u8>,
    out: Vec<u8>,
    out_written: usize,
    watches_writable: bool,
    is_over: bool,
}

/// Open connections to one server, ready for runs.
pub struct Load<C> {
    epoll: rustix::fd::OwnedFd,
    lines: Vec<Line<C>>,
    base: Instant,
    buffer: Vec<u8>,
    next_line: usize,
    progress: Arc<AtomicU64>,
}

impl<C: Conversation> Load<C> {
    /// Opens the connections and waits until every one may send.
    ///
    /// # Errors
    /// When one cannot be opened or its peer does not speak the protocol.
    pub fn connect(address: SocketAddr, conversations: impl IntoIterator<Item = C>) -> Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let mut lines = Vec::new();
        for conversation in conversations {
            let socket =
                TcpStream::connect(address).with_context(|| format!("no connection to {address}"))?;
            socket.set_nodelay(true)?;
            socket.set_nonblocking(true)?;
            let index = epoll::EventData::new_u64(lines.len() as u64);
            epoll::add(&epoll, &socket, index, epoll::EventFlags::IN)?;
            lines.push(Line {
                socket,
                conversation,
                inbox: Vec::new(),
                out: Vec::new(),
                out_written: 0,
                watches_writable: false,
                is_over: false,
            });
        }
        let buffer = vec![0; READ_BYTES_MAX];
        let mut load =
            Self { epoll, lines, base: Instant::now(), buffer, next_line: 0, progress: Arc::default() };
        load.greet()?;
        Ok(load)
    }

    /// Messages sent so far in the current run, for another thread to look at.
    pub fn progress(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.progress)
    }

    fn greet(&mut self) -> Result<()> {
        let mut outcome = Outcome::default();
        for line in &mut self.lines {
            line.conversation.open(&mut line.out);
            line.write()?;
        }
        let patience = Instant::now() + Duration::from_secs(5);
        while self.lines.iter().any(|line| !line.conversation.is_ready()) {
            if Instant::now() > patience {
                bail!("the server does not answer the opening of a connection (another protocol?)");
            }
            for index in self.wait(Some(Duration::from_millis(100)))? {
                self.turn(index, &mut outcome);
            }
            if let Some(trouble) = outcome.first_trouble {
                bail!("the server ended the connection at once: {trouble}");
            }
            if outcome.closed > 0 {
                bail!("the server closed the connection at once");
            }
        }
        Ok(())
    }

    /// Sends at a pace until an end, waits for the answers, and says what became of the messages.
    ///
    /// # Errors
    /// When epoll fails; a connection that fails is in the counts.
    pub fn run(&mut self, pace: Pace, until: Until) -> Result<Outcome> {
        let mut outcome = Outcome::default();
        let cpu_before = process::own_thread_cpu();
        let start_ns = self.now_ns();
        let end_ns = start_ns.saturating_add(ns(until.duration));
        self.send_phase(pace, until.messages_max, start_ns, end_ns, &mut outcome)?;
        for line in self.lines.iter_mut().filter(|line| !line.is_over) {
            line.conversation.finish(&mut line.out);
        }
        let give_up_ns = self.now_ns().saturating_add(ns(until.patience));
        loop {
            for index in 0..self.lines.len() {
                self.flush(index, false, &mut outcome);
            }
            let is_waiting =
                |line: &Line<C>| !line.is_over && (line.conversation.is_waiting() || line.has_unsent());
            if !self.lines.iter().any(is_waiting) || self.now_ns() > give_up_ns {
                break;
            }
            for index in self.wait(Some(Duration::from_millis(100)))? {
                self.turn(index, &mut outcome);
            }
        }
        for line in &mut self.lines {
            if !line.is_over && line.conversation.is_waiting() {
                outcome.trouble(|| "no answer in time".to_owned());
                line.end(&mut outcome);
            }
        }
        outcome.elapsed = Duration::from_nanos(self.now_ns() - start_ns);
        outcome.client_cpu = process::own_thread_cpu() - cpu_before;
        Ok(outcome)
    }

    fn send_phase(
        &mut self,
        pace: Pace,
        max: u64,
        start_ns: u64,
        end_ns: u64,
        outcome: &mut Outcome,
    ) -> Result<()> {
        match pace {
            Pace::Closed => {
                for index in 0..self.lines.len() {
                    self.fill(index, max, outcome);
                }
                while self.now_ns() < end_ns && outcome.sent < max && self.is_open() {
                    let left = Duration::from_nanos(end_ns.saturating_sub(self.now_ns()));
                    for index in self.wait(Some(left))? {
                        self.turn(index, outcome);
                        self.fill(index, max, outcome);
                    }
                    self.progress.store(outcome.sent, Ordering::Relaxed);
                }
            }
            Pace::Open { per_second } => {
                let gap_ns = 1e9 / per_second;
                let spin_ns = if gap_ns > SPIN_NS as f64 { SPIN_NS } else { 0 };
                loop {
                    let now = self.now_ns();
                    if now >= end_ns || outcome.sent >= max || !self.is_open() {
                        break;
                    }
                    let due = (((now - start_ns) as f64 / gap_ns) as u64 + 1).min(max);
                    while outcome.sent < due {
                        let intended_ns = start_ns + (outcome.sent as f64 * gap_ns) as u64;
                        if !self.send_one(intended_ns, outcome) {
                            break;
                        }
                    }
                    for index in 0..self.lines.len() {
                        self.flush(index, false, outcome);
                    }
                    self.progress.store(outcome.sent, Ordering::Relaxed);
                    let next_ns = start_ns + (outcome.sent.max(due) as f64 * gap_ns) as u64;
                    let idle_ns = next_ns.saturating_sub(self.now_ns());
                    let timeout =
                        if idle_ns < spin_ns { 0 } else { (idle_ns - spin_ns / 2).min(end_ns - now) };
                    for index in self.wait(Some(Duration::from_nanos(timeout)))? {
                        self.turn(index, outcome);
                    }
                }
            }
        }
        Ok(())
    }

    /// One scheduled message on the next connection that has room.
    fn send_one(&mut self, intended_ns: u64, outcome: &mut Outcome) -> bool {
        for _ in 0..self.lines.len() {
            let index = self.next_line;
            self.next_line = (self.next_line + 1) % self.lines.len();
            let line = &mut self.lines[index];
            if !line.is_over && line.out.len() < OUT_BYTES_HIGH && line.conversation.is_ready() {
                outcome.sent += line.conversation.send(intended_ns, 1, &mut line.out);
                return true;
            }
        }
        false
    }

    /// Everything that one connection may send now.
    fn fill(&mut self, index: usize, max: u64, outcome: &mut Outcome) {
        let now = self.now_ns();
        let line = &mut self.lines[index];
        if line.is_over {
            return;
        }
        while outcome.sent < max && line.out.len() < OUT_BYTES_HIGH && line.conversation.is_ready() {
            outcome.sent += line.conversation.send(now, max - outcome.sent, &mut line.out);
        }
        let has_more = outcome.sent < max && line.conversation.is_ready();
        self.flush(index, has_more, outcome);
    }

    /// Reads one connection once and shows it to its conversation.
    fn turn(&mut self, index: usize, outcome: &mut Outcome) {
        let line = &mut self.lines[index];
        if line.is_over {
            return;
        }
        let (count, ended) = match line.socket.read(&mut self.buffer) {
            Ok(0) => (0, Some("closed by the server".to_owned())),
            Ok(count) => (count, None),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => (0, None),
            Err(error) => (0, Some(error.to_string())),
        };
        if count > 0 {
            let now = ns(self.base.elapsed());
            if let Err(fault) = line.receive(&self.buffer[..count], now, outcome) {
                outcome.trouble(|| format!("{fault:#}"));
                line.end(outcome);
            }
        }
        if let Some(why) = ended {
            if line.conversation.is_waiting() {
                outcome.trouble(|| why);
            }
            line.end(outcome);
        }
        self.flush(index, false, outcome);
    }

    /// Writes once; watches for room to write when not all went out, or when there is `more` to say.
    fn flush(&mut self, index: usize, more: bool, outcome: &mut Outcome) {
        let line = &mut self.lines[index];
        if line.is_over {
            return;
        }
        // What the server said before it went is still to be read: a failed write does not end the connection
        // here, the read that follows does.
        if line.write().is_err() {
            line.out.clear();
            line.out_written = 0;
        }
        let wants = more || line.has_unsent();
        if wants != line.watches_writable {
            let mut flags = epoll::EventFlags::IN;
            flags.set(epoll::EventFlags::OUT, wants);
            let data = epoll::EventData::new_u64(index as u64);
            if epoll::modify(&self.epoll, &line.socket, data, flags).is_err() {
                line.end(outcome);
                return;
            }
            line.watches_writable = wants;
        }
    }

    fn wait(&mut self, timeout: Option<Duration>) -> Result<Vec<usize>> {
        let timeout = timeout.map(|timeout| Timespec {
            tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(timeout.subsec_nanos()),
        });
        let mut events = Vec::with_capacity(256);
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(io::Error::from(error).into()),
        }
        Ok(events.iter().map(|event: &epoll::Event| event.data.u64() as usize).collect())
    }

    fn is_open(&self) -> bool {
        self.lines.iter().any(|line| !line.is_over)
    }

    fn now_ns(&self) -> u64 {
        ns(self.base.elapsed())
    }
}

impl<C: Conversation> Line<C> {
    fn receive(&mut self, bytes: &[u8], now_ns: u64, outcome: &mut Outcome) -> Result<()> {
        if self.inbox.is_empty() {
            let used = self.conversation.receive(bytes, now_ns, &mut self.out, outcome)?;
            self.inbox.extend_from_slice(&bytes[used..]);
        } else {
            self.inbox.extend_from_slice(bytes);
            let used = self.conversation.receive(&self.inbox, now_ns, &mut self.out, outcome)?;
            self.inbox.drain(..used);
        }
        Ok(())
    }

    fn write(&mut self) -> io::Result<()> {
        while self.has_unsent() {
            match self.socket.write(&self.out[self.out_written..]) {
                Ok(count) => self.out_written += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.out.clear();
        self.out_written = 0;
        Ok(())
    }

    fn has_unsent(&self) -> bool {
        self.out_written < self.out.len()
    }

    fn end(&mut self, outcome: &mut Outcome) {
        self.is_over = true;
        outcome.closed += 1;
        self.conversation.close(outcome);
        // Best effort: the peer may be gone already.
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
    }
}

fn ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
