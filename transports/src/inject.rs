//! The way from the cold lane into the engine: whole messages, by channel, to a core that takes them as if they had come
//! over one of its connections.
//!
//! For what is not worth a place on the hot lane. A core takes one request at a time from its inbox; a full inbox is
//! answered at once. A request that finds the queue full is refused, unless it is its own messages that fill it: then it
//! waits for them, so a batch may be larger than the queue.

use std::{
    future::poll_fn,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use engine_core::{AckLevel, KIND_EVENT};
use tokio::sync::{mpsc, oneshot};

use crate::{
    answer::{Reached, Refusal},
    core::Core,
    grpc::Code,
    hook::Hook,
    lane::{Accepted, Incoming},
    terms::{Terms, Wanted},
    waiting::Caller,
};

/// Requests that may wait for a core.
const INBOX_MAX: usize = 256;

/// An event from the cold lane.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Injected {
    /// Its id; empty: it gets one.
    pub id: Vec<u8>,
    /// Where it comes from.
    pub source: Vec<u8>,
    /// Its content.
    pub payload: Vec<u8>,
    /// Pairs as [`engine_core::MetadataWriter`] writes them.
    pub metadata: Vec<u8>,
    /// Its time, in seconds of the Unix epoch; `None`: now.
    pub timestamp_seconds: Option<i64>,
    /// Whether a repeat of the id is recognised.
    pub once: bool,
}

impl Injected {
    /// The same as a front end offers it.
    pub(crate) fn incoming(&self) -> Incoming<'_> {
        Incoming {
            id: (!self.id.is_empty()).then_some(&self.id),
            source: &self.source,
            payload: &self.payload,
            metadata: &self.metadata,
            timestamp_seconds: self.timestamp_seconds,
            once: self.once,
        }
    }
}

/// What a message has reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The level.
    pub level: AckLevel,
    /// The shard whose log the offset belongs to.
    pub shard: usize,
    /// Where the log has it, if it does.
    pub offset: Option<u64>,
    /// Whether it repeats an earlier one.
    pub duplicate: bool,
}

impl From<Reached> for Stored {
    fn from(Reached { level, shard, offset, duplicate }: Reached) -> Self {
        Self { level, shard, offset, duplicate }
    }
}

/// Why a message was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotTaken {
    /// HTTP status.
    pub status: u16,
    /// gRPC code.
    pub code: Code,
    /// In words.
    pub text: String,
}

impl From<Refusal> for NotTaken {
    fn from(refusal: Refusal) -> Self {
        Self { status: refusal.status, code: refusal.code, text: refusal.text.into_owned() }
    }
}

/// What became of a message.
pub type Fate = Result<Stored, NotTaken>;

struct Request {
    messages: Vec<Injected>,
    wanted: Wanted,
    reply: oneshot::Sender<Vec<Fate>>,
}

impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Request").field("messages", &self.messages.len()).finish_non_exhaustive()
    }
}

/// The cold lane's end. Clones share it.
#[derive(Clone, Debug)]
pub struct Injector {
    inboxes: Arc<[mpsc::Sender<Request>]>,
    turn: Arc<AtomicUsize>,
}

/// A core's end.
#[derive(Debug)]
pub struct Inbox(mpsc::Receiver<Request>);

/// The way to so many cores.
pub fn injector(cores: usize) -> (Injector, Vec<Inbox>) {
    let (inboxes, receivers): (Vec<_>, Vec<_>) = (0..cores.max(1))
        .map(|_| mpsc::channel(INBOX_MAX))
        .map(|(sender, receiver)| (sender, Inbox(receiver)))
        .unzip();
    (Injector { inboxes: inboxes.into(), turn: Arc::default() }, receivers)
}

impl Injector {
    /// Sends messages and waits for what becomes of each, as far as `wanted` asks for that. In order.
    pub async fn send(&self, messages: Vec<Injected>, wanted: Wanted) -> Vec<Fate> {
        let count = messages.len();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % self.inboxes.len();
        let (reply, fates) = oneshot::channel();
        let refused = |text: &str| {
            let not_taken = NotTaken { status: 503, code: Code::Unavailable, text: text.to_owned() };
            vec![Err(not_taken); count]
        };
        match self.inboxes[turn].try_send(Request { messages, wanted, reply }) {
            Ok(()) => fates.await.unwrap_or_else(|_| refused("Shutting down: nothing more is accepted here")),
            Err(mpsc::error::TrySendError::Full(_)) => {
                refused("Too many requests of this kind are waiting for a core")
            }
            Err(mpsc::error::TrySendError::Closed(_)) => {
                refused("Shutting down: nothing more is accepted here")
            }
        }
    }
}

/// A request that is under way.
struct Open {
    fates: Vec<Option<Fate>>,
    left: usize,
    reply: Option<oneshot::Sender<Vec<Fate>>>,
}

impl Open {
    fn decide(&mut self, place: usize, fate: Fate) {
        self.left -= usize::from(self.fates[place].replace(fate).is_none());
        if self.left == 0
            && let Some(reply) = self.reply.take()
        {
            // Who asked may be gone.
            let _ = reply.send(std::mem::take(&mut self.fates).into_iter().flatten().collect());
        }
    }
}

/// A core's task: takes requests until the cold lane is gone.
pub(crate) async fn serve(core: Rc<Core>, mut inbox: Inbox) {
    let hook = Rc::new(Hook::new(core.clock.now_ms()));
    let mut desk = Desk {
        core,
        hook,
        open: Vec::new(),
        free: Vec::new(),
        slots: Vec::new(),
        free_slots: Vec::new(),
        rest: None,
    };
    poll_fn(|context| desk.poll(&mut inbox, context)).await;
}

/// What a core keeps of the requests that are under way: as many messages as its slab has slots.
struct Desk {
    core: Rc<Core>,
    hook: Rc<Hook>,
    open: Vec<Open>,
    free: Vec<usize>,
    /// By the number a waiting message is told apart by: its request, its place in that.
    slots: Vec<(usize, usize)>,
    free_slots: Vec<u32>,
    /// What of a request waits for room.
    rest: Option<Rest>,
}

/// The messages of a request that are not in the queue yet.
struct Rest {
    request: usize,
    wanted: Wanted,
    messages: std::iter::Peekable<std::iter::Enumerate<std::vec::IntoIter<Injected>>>,
}

impl Desk {
    fn poll(&mut self, inbox: &mut Inbox, context: &mut Context<'_>) -> Poll<()> {
        self.hook.register(context);
        loop {
            self.settle();
            if let Some(rest) = self.rest.take() {
                let before = rest.messages.len();
                self.go_on(rest);
                let left = self.rest.as_ref().map_or(0, |rest| rest.messages.len());
                self.core.room.had_its_turn(&self.hook, left > 0, left < before);
                self.core.work();
                if self.rest.is_some() && self.hook.settled.borrow().is_empty() && !self.hook.nudged.get() {
                    return Poll::Pending;
                }
                continue;
            }
            match inbox.0.poll_recv(context) {
                Poll::Ready(Some(request)) => {
                    self.take(request);
                    self.core.work();
                }
                Poll::Ready(None) => return Poll::Ready(()),
                Poll::Pending if self.hook.settled.borrow().is_empty() => return Poll::Pending,
                Poll::Pending => {}
            }
        }
    }

    fn settle(&mut self) {
        self.hook.nudged.set(false);
        let settled = std::mem::take(&mut *self.hook.settled.borrow_mut());
        for settled in settled {
            let Some((request, place)) = self.slots.get(settled.stream as usize).copied() else { continue };
            self.free_slots.push(settled.stream);
            let fate = Reached::of(&settled, &self.core.shared.acks);
            let fate = fate.map(Stored::from);
            self.decide(request, place, fate.map_err(NotTaken::from));
        }
    }

    fn decide(&mut self, request: usize, place: usize, fate: Fate) {
        let open = &mut self.open[request];
        open.decide(place, fate);
        if open.left == 0 {
            self.free.push(request);
        }
    }

    fn take(&mut self, request: Request) {
        let Request { messages, wanted, reply } = request;
        let count = messages.len();
        let open = Open { fates: (0..count).map(|_| None).collect(), left: count, reply: Some(reply) };
        if count == 0 {
            if let Some(reply) = open.reply {
                // Who asked may be gone.
                let _ = reply.send(Vec::new());
            }
            return;
        }
        let number = match self.free.pop() {
            Some(number) => {
                self.open[number] = open;
                number
            }
            None => {
                self.open.push(open);
                self.open.len() - 1
            }
        };
        let messages = messages.into_iter().enumerate().peekable();
        self.go_on(Rest { request: number, wanted, messages });
    }

    /// Puts messages of a request into the queue, as many as there is room for.
    fn go_on(&mut self, mut rest: Rest) {
        let request = rest.request;
        while let Some((place, message)) = rest.messages.peek() {
            let place = *place;
            match self.accept(message, rest.wanted, (request, place)) {
                Ok(None) => {}
                Ok(Some(stored)) => self.decide(request, place, Ok(stored)),
                Err(refusal) => {
                    let decided = self.open[request].fates.iter().filter(|fate| fate.is_some()).count();
                    let full = refusal.code == Code::ResourceExhausted;
                    if full && decided < place {
                        // Its own messages are under way.
                        self.rest = Some(rest);
                        return;
                    }
                    self.decide(request, place, Err(refusal.into()));
                }
            }
            rest.messages.next();
        }
    }

    /// Puts a message into the queue; `None`: what becomes of it is told later.
    fn accept(
        &mut self,
        message: &Injected,
        wanted: Wanted,
        place: (usize, usize),
    ) -> Result<Option<Stored>, Refusal> {
        let policy = &self.core.shared.acks;
        let terms = Terms::of(policy, wanted);
        if let Some(why) = &policy.unreachable[terms.level as usize] {
            return Err(Refusal::new(400, Code::FailedPrecondition, format!("ack level: {why}")));
        }
        terms.admit(policy)?;
        let slot = self.free_slots.pop().unwrap_or(self.slots.len() as u32);
        let hook = Rc::clone(&self.hook);
        let accepted = self.core.accept(&message.incoming(), KIND_EVENT, &terms, || Caller {
            hook,
            stream: slot,
            place: 0,
        });
        match accepted {
            Ok(Accepted::Waits(_)) => {
                match self.slots.get_mut(slot as usize) {
                    Some(known) => *known = place,
                    None => self.slots.push(place),
                }
                Ok(None)
            }
            Ok(Accepted::Now(_)) => {
                self.keep(slot);
                Ok(Some(Reached::QUEUED.into()))
            }
            Err(refused) => {
                self.keep(slot);
                Err(refused.into())
            }
        }
    }

    /// A number that was not needed.
    fn keep(&mut self, slot: u32) {
        if (slot as usize) < self.slots.len() {
            self.free_slots.push(slot);
        }
    }
}
