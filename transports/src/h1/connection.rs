//! One connection: requests in, answers out, in order.
//!
//! ```text
//! Head ──complete──→ request() ──now──→ Head
//!   │                    └──later──→ Work ──end──→ Head, or Skip when a refused body is outstanding
//!   └─body missing─→ Body ──complete──→ request()
//! any ──fault, or an answer that closes──→ Closed
//! ```

use super::body::Remaining;
use super::head::{self, FieldTable, Framing, RequestHead, Version};
use super::reply::{Answer, Exchange, Reply, may_have_body, write_fault, write_field, write_status_line};
use super::{Close, Fault, Limits};

/// What the connection asks of the one who serves requests.
pub trait Application {
    /// A head is complete and its body not read yet: say whether to take it. `reply` is for a refusal.
    fn head(&mut self, head: &RequestHead<'_>, reply: Reply<'_>) -> Accept;

    /// The whole request. Only called after [`Accept::Body`] or [`Accept::BodyUpTo`].
    fn request(&mut self, head: &RequestHead<'_>, body: &[u8], reply: Reply<'_>) -> Answer;
}

/// The application's word on a head.
#[derive(Debug)]
#[must_use]
pub enum Accept {
    /// Take a body up to [`Limits::body_bytes_max`].
    Body,
    /// Take a body up to so many bytes, or to the connection's limit if that is lower.
    BodyUpTo(u64),
    /// The request is answered without its body. An outstanding body of at most 64 KiB is skipped; a longer
    /// one, or one whose client still waits for `100 Continue`, closes the connection.
    Refused(Answer),
}

/// What a connection is waiting for, so that the driver can set its timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// For the first byte of a request.
    Idle,
    /// For the rest of a head.
    Head,
    /// For the rest of a body; see [`Connection::body_bytes_received`] for its rate.
    Body,
    /// For our own answer.
    Work,
    /// For nothing: write the output and close.
    Close,
}

/// The server's side of an HTTP/1.1 or 1.0 connection.
#[derive(Debug)]
pub struct Connection {
    limits: Limits,
    state: State,
    draining: bool,
    body_bytes_received: u64,
}

#[derive(Debug)]
enum State {
    Head(Resume),
    Body(Box<Partial>),
    Skip(Remaining),
    Work(Working),
    Closed,
}

/// Where to go on with a head that was incomplete. Parsing it from the start for each byte that trickles in
/// would cost its square; so it is parsed again only when a line ended or the input doubled.
#[derive(Clone, Copy, Debug, Default)]
struct Resume {
    seen: usize,
    parsed: usize,
}

/// A request whose body is still arriving. Memory grows with what arrives, never with what was promised.
#[derive(Debug)]
struct Partial {
    head: Vec<u8>,
    body: Vec<u8>,
    remaining: Remaining,
    body_bytes_max: u64,
}

/// A request that is answered later.
#[derive(Debug)]
struct Working {
    exchange: Exchange,
    sending: Sending,
    /// A refused body that has to be skipped once the answer is out.
    skip: Option<Box<Remaining>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sending {
    NotBegun,
    /// The head says there is no body, or the request was HEAD: body bytes are dropped.
    Nothing,
    Length(u64),
    Chunked,
    /// HTTP/1.0 without a length: the end of the connection is the end of the body.
    UntilClose,
}

enum Step {
    /// A request was answered, or something else is done; go on behind so many bytes.
    Next(usize),
    /// Nothing can be done without more input or an answer; so many bytes were used.
    Wait(usize),
}

/// What is skipped of a refused body before closing is kinder to everybody else.
const SKIP_BYTES_MAX: u64 = 64 * 1024;

impl Connection {
    /// A connection on which nothing has arrived yet.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self { limits, state: State::Head(Resume::default()), draining: false, body_bytes_received: 0 }
    }

    /// Reads requests from `input`, calls `app` for each and appends what is to be sent to `out`. Returns how
    /// many bytes were used; the driver drops those, keeps the rest at the front of the next input, and
    /// calls again at once when some but not all were used and the connection is not
    /// [pending](Self::is_pending) (at most [`Limits::pipelined_max`] requests are answered in a call).
    ///
    /// `date` is the current date as [`http_date`](super::http_date) writes it.
    ///
    /// # Errors
    /// The client broke the protocol. The error answer, where one can still be given, is already in `out`;
    /// send it and close. Later calls use up their input without looking at it.
    pub fn receive<A: Application>(
        &mut self,
        input: &[u8],
        date: &[u8; 29],
        app: &mut A,
        out: &mut Vec<u8>,
    ) -> Result<usize, Close> {
        let mut table = FieldTable::new();
        let mut used = 0;
        for _ in 0..self.limits.pipelined_max.max(1) {
            if used == input.len() {
                break;
            }
            let rest = &input[used..];
            let step = match &mut self.state {
                State::Head(_) => self.read_head(rest, date, app, out, &mut table),
                State::Body(_) => self.read_body(rest, date, app, out, &mut table),
                State::Skip(_) => self.skip_body(rest),
                State::Work(_) => Ok(Step::Wait(0)),
                State::Closed => Ok(Step::Wait(rest.len())),
            };
            match step {
                Ok(Step::Next(bytes)) => used += bytes,
                Ok(Step::Wait(bytes)) => return Ok(used + bytes),
                Err(close) => {
                    // A fault in a refused body comes behind its answer; a second one would be taken for
                    // the answer to the next request.
                    if !matches!(self.state, State::Skip(_)) {
                        write_fault(out, date, &close);
                    }
                    self.state = State::Closed;
                    return Err(close);
                }
            }
        }
        Ok(used)
    }

    /// Whether a request waits for its answer: nothing is parsed until it is complete.
    #[must_use]
    pub fn is_pending(&self) -> bool {
        matches!(self.state, State::Work(_))
    }

    /// What the driver's timer is about. [`Waiting::Idle`] also stands when requests that were not looked at
    /// are left in the input.
    #[must_use]
    pub fn waiting_for(&self) -> Waiting {
        match &self.state {
            State::Head(resume) if resume.seen == 0 => Waiting::Idle,
            State::Head(_) => Waiting::Head,
            State::Body(_) | State::Skip(_) => Waiting::Body,
            State::Work(_) => Waiting::Work,
            State::Closed => Waiting::Close,
        }
    }

    /// Bytes of the current (or last) request's body, after chunked decoding.
    #[must_use]
    pub fn body_bytes_received(&self) -> u64 {
        self.body_bytes_received
    }

    /// Whether the connection is to be closed once the output is written.
    #[must_use]
    pub fn should_close(&self) -> bool {
        matches!(self.state, State::Closed)
    }

    /// The process is draining: the next answer says `Connection: close` and is the last. An idle
    /// connection may be closed at once.
    pub fn close_after_current(&mut self) {
        self.draining = true;
    }

    /// Gives a pending request its whole answer, as [`Application::request`] would have.
    /// Returns whether one was pending and not begun; otherwise `write` is not called.
    pub fn answer(
        &mut self,
        date: &[u8; 29],
        out: &mut Vec<u8>,
        write: impl FnOnce(Reply<'_>) -> Answer,
    ) -> bool {
        let State::Work(work) = &mut self.state else { return false };
        if work.sending != Sending::NotBegun {
            return false;
        }
        work.exchange.persistent &= !self.draining;
        let answer = write(Reply { out, date, exchange: work.exchange });
        if !answer.later {
            work.exchange.persistent = answer.persistent;
            self.answered();
        }
        true
    }

    /// Begins the answer to a pending request. Without a length the body goes out in chunks, or on HTTP/1.0
    /// until the connection closes. Does nothing when no request is pending or its answer was begun.
    pub fn begin_response<'f>(
        &mut self,
        status: u16,
        fields: impl IntoIterator<Item = (&'f [u8], &'f [u8])>,
        content_length: Option<u64>,
        date: &[u8; 29],
        out: &mut Vec<u8>,
    ) {
        let State::Work(work) = &mut self.state else { return };
        if work.sending != Sending::NotBegun {
            return;
        }
        let exchange = &mut work.exchange;
        exchange.persistent &= !self.draining;
        write_status_line(out, status);
        for (name, value) in fields {
            write_field(out, name, value);
        }
        out.extend_from_slice(b"Date: ");
        out.extend_from_slice(date);
        work.sending = match content_length {
            _ if !may_have_body(status) => Sending::Nothing,
            Some(length) => {
                out.extend_from_slice(b"\r\nContent-Length: ");
                out.extend_from_slice(itoa::Buffer::new().format(length).as_bytes());
                if exchange.head_only { Sending::Nothing } else { Sending::Length(length) }
            }
            None if exchange.head_only => Sending::Nothing,
            None if exchange.http10 => {
                exchange.persistent = false;
                Sending::UntilClose
            }
            None => {
                out.extend_from_slice(b"\r\nTransfer-Encoding: chunked");
                Sending::Chunked
            }
        };
        out.extend_from_slice(exchange.connection_field());
    }

    /// Sends the next bytes of a begun answer's body. What would exceed the promised length is dropped: it
    /// would be read as the next answer.
    pub fn body(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        let State::Work(work) = &mut self.state else { return };
        match &mut work.sending {
            Sending::NotBegun | Sending::Nothing => {}
            Sending::UntilClose => out.extend_from_slice(bytes),
            Sending::Length(left) => {
                let take = usize::try_from(*left).map_or(bytes.len(), |left| left.min(bytes.len()));
                debug_assert_eq!(take, bytes.len(), "a body longer than its Content-Length");
                out.extend_from_slice(&bytes[..take]);
                *left -= take as u64;
            }
            // An empty chunk would be the last one.
            Sending::Chunked if bytes.is_empty() => {}
            Sending::Chunked => {
                out.extend_from_slice(format!("{:x}\r\n", bytes.len()).as_bytes());
                out.extend_from_slice(bytes);
                out.extend_from_slice(b"\r\n");
            }
        }
    }

    /// Ends a begun answer; call [`Self::receive`] with the rest of the input afterwards.
    pub fn end(&mut self, out: &mut Vec<u8>) {
        let State::Work(work) = &mut self.state else { return };
        match work.sending {
            Sending::NotBegun => return,
            Sending::Nothing | Sending::Length(0) => {}
            // The client must not wait for bytes that never come, nor take the next answer for them.
            Sending::Length(_) | Sending::UntilClose => work.exchange.persistent = false,
            Sending::Chunked => out.extend_from_slice(b"0\r\n\r\n"),
        }
        self.answered();
    }

    /// Gives an answer up: the connection closes without the body's end, so the client sees that it is cut.
    pub fn abort(&mut self) {
        self.state = State::Closed;
    }

    /// The driver's timer ran out. A request that has begun to arrive is answered with 408; an idle
    /// connection, or one whose refused body is being skipped, has no question open and closes without a word.
    pub fn time_out(&mut self, date: &[u8; 29], out: &mut Vec<u8>) {
        let close = match &self.state {
            State::Head(resume) if resume.seen > 0 => Some(Close::in_head(Fault::Timeout, resume.seen)),
            State::Body(_) => Some(Close::in_body(Fault::Timeout, self.body_bytes_received)),
            _ => None,
        };
        if let Some(close) = close {
            write_fault(out, date, &close);
        }
        self.state = State::Closed;
    }

    /// Bytes of memory that a body takes which is still arriving.
    pub fn body_bytes_held(&self) -> usize {
        match &self.state {
            State::Body(partial) => partial.body.capacity(),
            _ => 0,
        }
    }

    /// There is no room for the rest of a body: it is answered with 503.
    pub fn refuse_body(&mut self, date: &[u8; 29], out: &mut Vec<u8>) {
        write_fault(out, date, &Close::in_body(Fault::NoRoom, self.body_bytes_received));
        self.state = State::Closed;
    }

    fn read_head<A: Application>(
        &mut self,
        input: &[u8],
        date: &[u8; 29],
        app: &mut A,
        out: &mut Vec<u8>,
        table: &mut FieldTable,
    ) -> Result<Step, Close> {
        if let State::Head(resume) = &mut self.state
            && resume.must_wait(input, &self.limits)
        {
            return Ok(Step::Wait(0));
        }
        let Some((head, head_end)) = head::parse(input, &self.limits, table)? else {
            self.state = State::Head(Resume { seen: input.len(), parsed: input.len() });
            return Ok(Step::Wait(0));
        };
        self.state = State::Head(Resume::default());
        let rest = &input[head_end..];
        self.body_bytes_received = 0;
        let exchange = Exchange {
            head_only: head.method() == b"HEAD",
            http10: head.version() == Version::Http10,
            persistent: head.persistent && !self.draining,
        };

        // RFC 9110 §10.1.1: after a refusal the client may send the body or not, and we could not tell.
        let unsure = head.expects_continue && rest.is_empty() && Remaining::new(head.framing).is_some();
        let too_long = matches!(head.framing, Framing::Length(length) if length > SKIP_BYTES_MAX);
        let refusal = Exchange { persistent: exchange.persistent && !unsure && !too_long, ..exchange };
        let body_bytes_max = match app.head(&head, Reply { out: &mut *out, date, exchange: refusal }) {
            Accept::Body => self.limits.body_bytes_max as u64,
            Accept::BodyUpTo(bytes) => bytes.min(self.limits.body_bytes_max as u64),
            Accept::Refused(answer) => {
                self.settle(answer, exchange, Remaining::new(head.framing));
                return Ok(Step::Next(head_end));
            }
        };

        let (body, remaining) = match head.framing {
            Framing::None => (&[][..], None),
            Framing::Length(length) if length > body_bytes_max => {
                return Err(Close::in_head(Fault::BodyTooLarge, head_end));
            }
            Framing::Length(length) => {
                match usize::try_from(length).ok().and_then(|length| rest.get(..length)) {
                    Some(body) => (body, None),
                    None => (&[][..], Some(Remaining::Length(length))),
                }
            }
            Framing::Chunked => (&[][..], Remaining::new(Framing::Chunked)),
        };
        if let Some(mut remaining) = remaining {
            let mut body = Vec::new();
            let (took, complete) =
                remaining.read(rest, &self.limits, body_bytes_max, |bytes| body.extend_from_slice(bytes))?;
            self.body_bytes_received = body.len() as u64;
            if complete {
                let answer = app.request(&head, &body, Reply { out, date, exchange });
                self.settle(answer, exchange, None);
                return Ok(Step::Next(head_end + took));
            }
            if head.expects_continue && rest.is_empty() {
                out.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
            }
            let head = input[..head_end].to_vec();
            self.state = State::Body(Box::new(Partial { head, body, remaining, body_bytes_max }));
            return Ok(Step::Wait(head_end + took));
        }
        self.body_bytes_received = body.len() as u64;
        let answer = app.request(&head, body, Reply { out, date, exchange });
        self.settle(answer, exchange, None);
        Ok(Step::Next(head_end + body.len()))
    }

    fn read_body<A: Application>(
        &mut self,
        input: &[u8],
        date: &[u8; 29],
        app: &mut A,
        out: &mut Vec<u8>,
        table: &mut FieldTable,
    ) -> Result<Step, Close> {
        let State::Body(partial) = &mut self.state else { return Ok(Step::Wait(0)) };
        let Partial { body, remaining, body_bytes_max, .. } = &mut **partial;
        let (took, complete) =
            remaining.read(input, &self.limits, *body_bytes_max, |bytes| body.extend_from_slice(bytes))?;
        self.body_bytes_received = body.len() as u64;
        if !complete {
            return Ok(Step::Wait(took));
        }
        let State::Body(partial) = std::mem::replace(&mut self.state, State::Closed) else {
            return Ok(Step::Wait(took));
        };
        // The copy was valid when it was made; parsing it again is cheaper than keeping its spans alive.
        let Some((head, _)) = head::parse(&partial.head, &self.limits, table)? else {
            return Ok(Step::Wait(took));
        };
        let exchange = Exchange {
            head_only: head.method() == b"HEAD",
            http10: head.version() == Version::Http10,
            persistent: head.persistent && !self.draining,
        };
        let answer = app.request(&head, &partial.body, Reply { out, date, exchange });
        self.settle(answer, exchange, None);
        Ok(Step::Next(took))
    }

    fn skip_body(&mut self, input: &[u8]) -> Result<Step, Close> {
        let State::Skip(remaining) = &mut self.state else { return Ok(Step::Wait(0)) };
        let mut skipped = 0;
        let (took, complete) =
            remaining.read(input, &self.limits, SKIP_BYTES_MAX, |bytes| skipped += bytes.len() as u64)?;
        self.body_bytes_received += skipped;
        if !complete {
            return Ok(Step::Wait(took));
        }
        self.state = State::Head(Resume::default());
        Ok(Step::Next(took))
    }

    /// Takes the application's answer to a request whose unread body is `outstanding`.
    fn settle(&mut self, answer: Answer, exchange: Exchange, outstanding: Option<Remaining>) {
        let exchange = Exchange { persistent: answer.persistent, ..exchange };
        if answer.later {
            let skip = outstanding.map(Box::new);
            self.state = State::Work(Working { exchange, sending: Sending::NotBegun, skip });
        } else {
            self.state = State::after(exchange.persistent, outstanding);
        }
    }

    /// The pending answer is complete.
    fn answered(&mut self) {
        if let State::Work(work) = &mut self.state {
            let outstanding = work.skip.take().map(|remaining| *remaining);
            self.state = State::after(work.exchange.persistent, outstanding);
        }
    }
}

impl State {
    fn after(persistent: bool, outstanding: Option<Remaining>) -> Self {
        match outstanding {
            _ if !persistent => Self::Closed,
            Some(remaining) => Self::Skip(remaining),
            None => Self::Head(Resume::default()),
        }
    }
}

impl Resume {
    /// Whether parsing again would find the same head incomplete; looks only at the new bytes.
    fn must_wait(&mut self, input: &[u8], limits: &Limits) -> bool {
        if self.parsed == 0 {
            return false;
        }
        let fresh = input.get(self.seen..).unwrap_or_default();
        let line_ended = memchr::memchr(b'\n', fresh).is_some();
        let crossed = |limit: usize| self.parsed <= limit && input.len() > limit;
        if line_ended
            || input.len() / 2 >= self.parsed
            || crossed(limits.head_bytes_max)
            || crossed(limits.request_line_bytes_max)
        {
            return false;
        }
        self.seen = input.len();
        true
    }
}
