//! One connection from accept to close: reads what is there, lets the protocol work on all of it, sends the answers
//! in one write, lets the worker run, waits.
//!
//! ```text
//! wait ─→ receive ─→ protocol (in place) ─→ send once ─→ worker's turn ─→ wait
//!   ▲ readable, writable, an answer of the cold lane, room in the queue, a time limit, the drain
//! ```
//!
//! Nothing is read while an answer waits to be taken: a client that does not read cannot make us buffer more than
//! the answers to one read.

use std::{
    future::{Future, poll_fn},
    io,
    net::SocketAddr,
    pin::pin,
    rc::Rc,
    task::{Context, Poll},
};

use crate::{
    core::Core,
    counters::{Cause, Tally},
    hook::{Hook, Phase},
    listener::Role,
    session_h1::Http1,
    session_h2::Http2,
    socket::Socket,
    turns::Turn,
};

/// RFC 9113 §3.4.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// An output buffer that grew beyond this is given back to the system.
const OUTPUT_KEPT_BYTES_MAX: usize = 1 << 20;

/// How long, and for how many bytes, a closed connection is read on for.
const LINGER: std::time::Duration = std::time::Duration::from_secs(2);
const LINGER_BYTES_MAX: usize = 16 << 20;

/// What is known of a connection from its start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin {
    pub(crate) role: Role,
    pub(crate) peer: SocketAddr,
}

/// The protocol's part of a connection.
enum Protocol {
    /// Not enough bytes to tell.
    Unknown,
    Http1(Box<Http1>),
    Http2(Box<Http2>),
}

/// What a protocol wants next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wants {
    /// More input.
    Input,
    /// An answer of the cold lane before it reads on.
    Answer,
    /// To be closed once its output is sent.
    Close,
}

/// What the connection does after a turn.
enum Next {
    /// Another turn at once; others come first.
    Again,
    Wait {
        read: bool,
        write: bool,
    },
    Close,
}

struct Connection {
    core: Rc<Core>,
    origin: Origin,
    hook: Rc<Hook>,
    socket: Socket,
    protocol: Protocol,
    /// Input that is no whole frame or head yet.
    leftover: Vec<u8>,
    /// Output that the kernel did not take.
    unsent: Vec<u8>,
    closing: bool,
    /// Something arrived in this turn.
    arrived: bool,
    /// The client has said its last.
    ended: bool,
    turn: Turn,
}

/// Serves a connection to its end.
pub(crate) async fn serve(core: Rc<Core>, socket: Socket, origin: Origin) {
    let hook = Rc::new(Hook::new(core.clock.now_ms()));
    hook.drain.set(core.draining.get());
    core.enlist(&hook);
    let mut connection = Connection {
        core: Rc::clone(&core),
        origin,
        hook: Rc::clone(&hook),
        socket,
        protocol: Protocol::Unknown,
        leftover: Vec::new(),
        unsent: Vec::new(),
        closing: false,
        arrived: false,
        ended: false,
        turn: Turn::default(),
    };
    if let Err(error) = connection.run().await {
        tracing::debug!(peer = %origin.peer, %error, "connection ended");
    }
    if let Protocol::Http2(http2) = &mut connection.protocol {
        http2.disconnect();
    }
    drop(connection);
    core.strike(&hook);
    core.dismiss(origin.peer.ip());
}

impl Connection {
    async fn run(&mut self) -> io::Result<()> {
        loop {
            match self.turn()? {
                Next::Again => self.core.turns.give_way(&self.turn).await,
                Next::Wait { read, write } => {
                    // Whoever has the next thing to do at once, such as a stream whose messages the worker just
                    // finished, would never let go of the core while its client keeps up.
                    if !self.wait(read, write).await? {
                        self.core.turns.give_way(&self.turn).await;
                    }
                }
                Next::Close => {
                    self.core.room.leave(&self.hook);
                    self.socket.shutdown_write();
                    if !self.ended && self.hook.expired.get() != Some(Cause::ShutdownTimeout) {
                        // Time over is as good as the end.
                        let _ = monoio::time::timeout(LINGER, self.linger()).await;
                    }
                    return Ok(());
                }
            }
        }
    }

    /// Reads on without looking, until the client closes: closing a socket with unread input would reset the
    /// connection, and the client might never see the answer that says why (RFC 9112 §9.6).
    async fn linger(&self) -> io::Result<()> {
        let mut left = LINGER_BYTES_MAX;
        loop {
            self.socket.readable().await?;
            match self.socket.receive(&mut self.core.input.borrow_mut()) {
                Ok(0) => return Ok(()),
                Ok(arrived) if arrived > left => return Ok(()),
                Ok(arrived) => left -= arrived,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Waits for whatever comes first; false when that was there already.
    async fn wait(&mut self, read: bool, write: bool) -> io::Result<bool> {
        let Self { core, hook, socket, protocol, .. } = self;
        let deadline = match protocol {
            Protocol::Http2(http2) => http2.next_deadline_ms(),
            _ => None,
        };
        let mut deadline = pin!(async {
            match deadline {
                Some(at) => {
                    let left = at.saturating_sub(core.clock.tick() / 1_000_000);
                    monoio::time::sleep(std::time::Duration::from_millis(left)).await;
                }
                None => std::future::pending().await,
            }
        });
        let mut ready = pin!(async {
            if write {
                socket.writable().await
            } else if read {
                socket.readable().await
            } else {
                std::future::pending().await
            }
        });
        let mut waited = false;
        let mut come = |context: &mut Context<'_>| {
            hook.register(context);
            if hook.expired.get().is_some() || hook.nudged.get() || protocol.wants_drain(hook) {
                return Poll::Ready(Ok(()));
            }
            // While the client takes nothing there is no place for more answers.
            if !write && protocol.poll_answers(context).is_ready() {
                return Poll::Ready(Ok(()));
            }
            if deadline.as_mut().poll(context).is_ready() {
                return Poll::Ready(Ok(()));
            }
            ready.as_mut().poll(context)
        };
        poll_fn(|context| {
            let polled = come(context).map_ok(|()| waited);
            waited = true;
            polled
        })
        .await
    }

    /// Does all that can be done now.
    fn turn(&mut self) -> io::Result<Next> {
        let core = Rc::clone(&self.core);
        let started_ns = core.clock.tick();
        let now_ms = core.clock.now_ms();
        if !self.unsent.is_empty() && !self.send_rest(now_ms)? {
            // While its client takes nothing it takes no room.
            core.room.leave(&self.hook);
            return Ok(match self.hook.expired.get() {
                Some(cause) => self.cut(cause),
                None => Next::Wait { read: false, write: true },
            });
        }
        if self.closing {
            return Ok(Next::Close);
        }
        let mut out = std::mem::take(&mut *core.output.borrow_mut());
        let outcome = self.exchange(&core, now_ms, &mut out);
        let wrote = !out.is_empty();
        core.lane.borrow_mut().shard().show_counts();
        let sent = self.send(&core, &out);
        core.answered.settle(&core.counters, core.clock.tick() - started_ns);
        out.clear();
        if out.capacity() > OUTPUT_KEPT_BYTES_MAX {
            out = Vec::new();
        }
        *core.output.borrow_mut() = out;
        if let Protocol::Http2(http2) = &mut self.protocol {
            core.room.had_its_turn(&self.hook, http2.waits_for_room(), http2.got_room());
        }
        // After the answers are on their way: the worker takes what this read brought.
        core.work();
        sent?;
        let (wants, more) = outcome?;
        self.closing = wants == Wants::Close;
        if !self.unsent.is_empty() {
            self.hook.enter(Phase::Write, now_ms, 0);
            return Ok(Next::Wait { read: false, write: true });
        }
        if self.closing {
            return Ok(Next::Close);
        }
        let more = more
            || match &self.protocol {
                // Bodies may have waited for room in the output; if this turn wrote nothing, they wait for the client.
                Protocol::Http2(http2) => wrote && http2.wants_output(),
                _ => false,
            };
        let (phase, body_bytes) = self.phase();
        // A turn that the sweep asked for is no progress.
        if self.arrived || wrote || phase != self.hook.phase.get() {
            self.hook.enter(phase, now_ms, body_bytes);
        }
        Ok(if more { Next::Again } else { Next::Wait { read: wants == Wants::Input, write: false } })
    }

    /// Lets the protocol act on what happened and on what arrived. Says what it wants, and whether more input is
    /// probably there.
    fn exchange(&mut self, core: &Rc<Core>, now_ms: u64, out: &mut Vec<u8>) -> io::Result<(Wants, bool)> {
        self.arrived = false;
        let nudged = self.hook.nudged.take();
        if let Some(cause) = self.hook.expired.get() {
            core.counters.hit(cause);
            match &mut self.protocol {
                Protocol::Http1(http1) => http1.expire(core, cause, out),
                Protocol::Http2(http2) => http2.expire(cause, out),
                // "A dual port that cannot tell closes without text."
                Protocol::Unknown => {}
            }
            return Ok((Wants::Close, false));
        }
        let mut wants = match &mut self.protocol {
            Protocol::Unknown if self.hook.grace_is_over() => Wants::Close,
            Protocol::Unknown => Wants::Input,
            Protocol::Http1(http1) => {
                http1.resume(core, &self.origin, &self.hook, self.leftover.is_empty(), out)
            }
            Protocol::Http2(http2) => http2.resume(&self.hook, nudged, now_ms, out),
        };
        if wants != Wants::Input {
            return Ok((wants, false));
        }
        let mut input = core.input.borrow_mut();
        let kept = self.leftover.len();
        input[..kept].copy_from_slice(&self.leftover);
        let arrived = match self.socket.receive(&mut input[kept..]) {
            Ok(0) => {
                self.ended = true;
                return Ok((Wants::Close, false));
            }
            Ok(arrived) => arrived,
            // What is left over may be a whole request that waited behind another's answer.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) => return Err(error),
        };
        core.counters.add(Tally::BytesReceived, arrived as u64);
        self.arrived = arrived > 0;
        let filled = kept + arrived;
        let full = filled == input.len();
        let bytes = &input[..filled];
        if let Protocol::Unknown = self.protocol {
            self.recognise(core, bytes);
        }
        let used = match &mut self.protocol {
            Protocol::Unknown => 0,
            Protocol::Http1(http1) => {
                let (used, after) = http1.receive(core, &self.origin, &self.hook, bytes, out);
                wants = after;
                used
            }
            Protocol::Http2(http2) => {
                let (used, after) = http2.receive(core, bytes, now_ms, out);
                wants = after;
                used
            }
        };
        let rest = &bytes[used..];
        if rest.is_empty() {
            // An idle connection holds no buffer.
            self.leftover = Vec::new();
        } else {
            self.leftover.clear();
            self.leftover.extend_from_slice(rest);
        }
        Ok((wants, full && wants == Wants::Input))
    }

    fn recognise(&mut self, core: &Rc<Core>, bytes: &[u8]) {
        let compared = bytes.len().min(PREFACE.len());
        if bytes[..compared] != PREFACE[..compared] {
            self.protocol = Protocol::Http1(Box::new(Http1::new(core, &self.hook)));
        } else if compared == PREFACE.len() {
            self.protocol = Protocol::Http2(Box::new(Http2::new(core, &self.origin, &self.hook)));
        }
    }

    fn phase(&self) -> (Phase, u64) {
        match &self.protocol {
            Protocol::Unknown => (Phase::Preface, 0),
            Protocol::Http1(http1) => http1.phase(),
            Protocol::Http2(http2) => http2.phase(),
        }
    }

    /// Sends the turn's output; what the kernel does not take is kept.
    fn send(&mut self, core: &Core, out: &[u8]) -> io::Result<()> {
        if out.is_empty() {
            return Ok(());
        }
        let sent = self.socket.send(out)?;
        core.counters.add(Tally::BytesSent, sent as u64);
        if sent < out.len() {
            self.unsent = out[sent..].to_vec();
        }
        Ok(())
    }

    /// Sends more of what was kept; true when all is out.
    fn send_rest(&mut self, now_ms: u64) -> io::Result<bool> {
        let sent = self.socket.send(&self.unsent)?;
        self.core.counters.add(Tally::BytesSent, sent as u64);
        if sent == self.unsent.len() {
            self.unsent = Vec::new();
            return Ok(true);
        }
        if sent > 0 {
            self.unsent.drain(..sent);
            self.hook.enter(Phase::Write, now_ms, 0);
        }
        Ok(false)
    }

    /// Ends a connection that takes nothing.
    fn cut(&self, cause: Cause) -> Next {
        self.core.counters.hit(cause);
        Next::Close
    }
}

impl Protocol {
    /// Whether the drain has something for this protocol to do that it has not done.
    fn wants_drain(&self, hook: &Hook) -> bool {
        hook.drain.get()
            && match self {
                Protocol::Unknown => hook.grace_is_over(),
                Protocol::Http1(http1) => http1.wants_drain(hook),
                Protocol::Http2(http2) => http2.wants_drain(hook),
            }
    }

    fn poll_answers(&mut self, context: &mut std::task::Context<'_>) -> Poll<()> {
        match self {
            Protocol::Unknown => Poll::Pending,
            Protocol::Http1(http1) => http1.poll_answers(context),
            Protocol::Http2(http2) => http2.poll_answers(context),
        }
    }
}
