//! The sink of a core: recognises repeats, stores messages or hands them on, works on what comes back.
//!
//! ```text
//!            ┌ memory: worked on at once
//! message ─ window ─┼ log: appended, synced ─(level durable: told)─ worked on ─(outbox: brokers follow)─ delivered
//!            └ direct: to each broker's thread ─ acknowledged ─ delivered
//! ```
//!
//! A message's ticket is kept until the message has reached the level its sender asked for. Where its id has its home on
//! another core, the message waits in the queue until that core has said that nobody else has the id
//! ([`claims`](crate::claims)).

use std::{collections::HashMap, sync::Arc};

use engine_core::{
    AckLevel, Batch, Completions, Doorbell, KIND_PROBE, Outcome, Process, Receipt, Rejection, Sink, Ticket,
    clock,
};

#[cfg(feature = "remote")]
use crate::remote::Forward;
use crate::{
    claims::{Claim, Claims},
    dead_letter::DeadLetters,
    delivery::put_aside,
    direct::Direct,
    entry,
    inbound::InboundPort,
    journal::Journal,
    stored::Stored,
    tap::Tap,
    window::{Id, Seen, Window},
    work::{Fate, Work},
};

/// Messages that come back from brokers and are worked on in one turn of a core.
const INBOUND_BATCH: usize = 256;

/// Where a core's messages go.
#[derive(Debug)]
pub enum Way {
    /// They are worked on at once, and kept nowhere.
    Memory,
    /// To the log, and from there to the workers and the brokers.
    Log(Box<Stored>),
    /// Straight to the brokers' threads.
    Direct(Box<Direct>),
    /// To another process, which does all this.
    #[cfg(feature = "remote")]
    Remote(Box<Forward>),
}

impl Way {
    /// Whether another process accepts the messages, and recognises repeats.
    fn is_remote(&self) -> bool {
        #[cfg(feature = "remote")]
        return matches!(self, Way::Remote(_));
        #[cfg(not(feature = "remote"))]
        false
    }
}

/// How far a core has come with what it works on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The offset behind what it worked on of its shard of the log, if it works on that.
    pub log: Option<u64>,
    /// The offset behind what it wrote to its shard of the journal, if it has one.
    pub journal: Option<u64>,
}

/// Looks at a core between two messages, once per turn: what it computed is just what `Progress` says then.
pub type Onlooker = Box<dyn FnMut(Progress) + Send>;

/// The sink of a core.
pub struct Pipeline<P> {
    way: Way,
    /// Whether messages are worked on as they come, whatever else becomes of them.
    works_at_once: bool,
    window: Window,
    claims: Claims,
    /// Tickets of messages that repeat one under way.
    repeats: HashMap<Id, Vec<Ticket>>,
    /// Repeats of messages of which nobody knows what became of them, and whose senders were told that they are queued: they are
    /// put aside when the process ends, as it does when its log has failed.
    unknown: Vec<Ticket>,
    work: Work<P>,
    inbound: Vec<InboundPort>,
    journal: Option<Journal>,
    onlooker: Option<Onlooker>,
    tap: Option<Tap>,
    /// Where goes what is not finished when the process ends.
    aside: Option<Arc<DeadLetters>>,
    doorbell: Doorbell,
}

impl<P: std::fmt::Debug> std::fmt::Debug for Pipeline<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pipeline").field("way", &self.way).field("work", &self.work).finish_non_exhaustive()
    }
}

/// Why a message went nowhere.
#[derive(Debug)]
pub(crate) enum NotSent {
    /// Not now: it stays in the queue.
    NoRoom,
    /// Not ever.
    Never(Outcome),
}

/// What a sent message came to.
#[derive(Debug)]
pub(crate) struct Decided {
    pub(crate) ticket: Ticket,
    pub(crate) id: Option<Id>,
    pub(crate) outcome: Outcome,
}

impl<P: Process> Pipeline<P> {
    /// The sink of the core with this doorbell.
    pub fn new(
        way: Way,
        works_at_once: bool,
        window: Window,
        claims: Claims,
        work: Work<P>,
        inbound: Vec<InboundPort>,
        doorbell: Doorbell,
    ) -> Self {
        let works_at_once = works_at_once || matches!(way, Way::Memory);
        Self {
            way,
            works_at_once,
            window,
            claims,
            repeats: HashMap::new(),
            unknown: Vec::new(),
            work,
            inbound,
            journal: None,
            onlooker: None,
            tap: None,
            aside: None,
            doorbell,
        }
    }

    /// Whether another core has this id; `None`: it is not known yet, and is asked for all of the batch that need it.
    fn is_taken(&mut self, id: Id, batch: &Batch<'_>) -> Option<bool> {
        let Self { window, claims, .. } = self;
        if !claims.is_away(id) || window.knows(id) {
            return Some(false);
        }
        match claims.verdict(id) {
            Claim::Granted => Some(false),
            Claim::Refused => Some(true),
            Claim::Waits => None,
            Claim::None => {
                for view in batch.views() {
                    let record = view.record();
                    let id = window.id(&record);
                    if record.once && claims.is_away(id) && !window.knows(id) {
                        claims.make(id);
                    }
                }
                None
            }
        }
    }

    /// With a journal of what is worked on and is not in the log.
    #[must_use]
    pub fn journal(mut self, journal: Option<Journal>) -> Self {
        self.journal = journal;
        self
    }

    /// With somebody who looks on.
    #[must_use]
    pub fn onlooker(mut self, onlooker: Option<Onlooker>) -> Self {
        self.onlooker = onlooker;
        self
    }

    /// With a place for what is not finished when the process ends.
    #[must_use]
    pub fn aside(mut self, aside: Option<Arc<DeadLetters>>) -> Self {
        self.aside = aside;
        self
    }

    /// Puts aside what these tickets stand for, and completes those that could be.
    fn put_aside(&self, left: Vec<(Ticket, Box<[u8]>)>, mut complete: impl FnMut(Ticket, Outcome)) {
        let Some(dead_letters) = self.aside.as_deref().filter(|_| !left.is_empty()) else { return };
        let (tickets, entries): (Vec<_>, Vec<_>) = left.into_iter().unzip();
        let unfinished = put_aside(dead_letters, "queue", &entries);
        let kept = usize::try_from(unfinished.put_aside).unwrap_or(usize::MAX);
        tickets.into_iter().take(kept).for_each(|ticket| complete(ticket, Outcome::Failed));
    }

    /// With a place for those who watch what it takes.
    #[must_use]
    pub fn tap(mut self, tap: Option<Tap>) -> Self {
        self.tap = tap;
        self
    }

    /// Takes what came back from brokers.
    fn take_inbound(&mut self) {
        let Self { work, inbound, journal, doorbell, .. } = self;
        let Some(journal) = journal else {
            for port in inbound {
                if port.poll(INBOUND_BATCH, |record| (work.attempt(record) != Fate::Failed, 0))
                    >= INBOUND_BATCH
                {
                    doorbell.ring();
                }
                port.tell(0);
            }
            return;
        };
        for port in &mut *inbound {
            let mut taken = 0;
            while taken < INBOUND_BATCH && !journal.is_busy() {
                let came = port.poll(1, |record| {
                    let fate = work.attempt(record);
                    if fate == Fate::Processed {
                        journal.append(record);
                    }
                    // A repeat may be of one that is not synced yet.
                    (fate != Fate::Failed, journal.next_offset())
                });
                if came == 0 {
                    break;
                }
                taken += came;
            }
            if taken >= INBOUND_BATCH {
                doorbell.ring();
            }
        }
        journal.commit();
        let settled_upto = journal.settled_upto();
        inbound.iter_mut().for_each(|port| port.tell(settled_upto));
    }

    /// A repeat of a message that has come to `outcome`.
    fn repeat(&mut self, ticket: Ticket, level: AckLevel, outcome: Outcome) -> Option<(Ticket, Outcome)> {
        let mut receipt = match outcome {
            Outcome::Stored(receipt) => receipt,
            // Worked on, and kept nowhere.
            Outcome::Processed => Receipt::new(AckLevel::Queued, None),
            Outcome::Failed | Outcome::Rejected(_) => return Some((ticket, outcome)),
        };
        receipt.duplicate = true;
        if level > receipt.level
            && let Some(offset) = receipt.offset()
            && let Way::Log(stored) = &mut self.way
        {
            // Durable then, and now asked to be delivered.
            stored.await_delivery(receipt.shard(), offset, ticket);
            return None;
        }
        Some((ticket, Outcome::Stored(receipt)))
    }
}

impl<P: Process> Sink for Pipeline<P> {
    fn submit(&mut self, batch: &mut Batch<'_>) {
        let mut now = None;
        let is_watched = self.tap.as_ref().is_some_and(Tap::is_watched);
        self.claims.take_verdicts();
        while let Some(view) = batch.peek() {
            let record = view.record();
            let mut known = None;
            if record.once && !self.way.is_remote() {
                let key = self.window.id(&record);
                match self.is_taken(key, batch) {
                    Some(false) => {}
                    Some(true) => {
                        if let Some(ticket) = batch.take() {
                            batch.complete(ticket, Outcome::Rejected(Rejection::Conflict));
                        }
                        continue;
                    }
                    None => break,
                }
                let content = self.window.content(&record);
                let seen = self.window.look_for(key, content, *now.get_or_insert_with(clock::now));
                let level = record.level;
                match seen {
                    Seen::New => known = Some((key, content)),
                    Seen::UnderWay => {
                        self.repeats.entry(key).or_default().extend(batch.take());
                        continue;
                    }
                    Seen::Conflict => {
                        if let Some(ticket) = batch.take() {
                            batch.complete(ticket, Outcome::Rejected(Rejection::Conflict));
                        }
                        continue;
                    }
                    Seen::Done(outcome) => {
                        if let Some(ticket) = batch.take()
                            && let Some((ticket, outcome)) = self.repeat(ticket, level, outcome)
                        {
                            batch.complete(ticket, outcome);
                        }
                        continue;
                    }
                }
            }
            let id = known.map(|(id, _)| id);
            let probe = record.kind & KIND_PROBE != 0;
            let sent = match &mut self.way {
                Way::Memory => Ok(()),
                _ if probe => Ok(()),
                Way::Log(stored) => stored.append(&record, known),
                Way::Direct(direct) => direct.send(&record, id),
                #[cfg(feature = "remote")]
                Way::Remote(forward) => forward.send(&record),
            };
            if let Err(refused) = sent {
                if let Some(id) = id {
                    // It comes again, as if for the first time.
                    self.window.decide(id, Outcome::Failed);
                    match refused {
                        NotSent::NoRoom => self.claims.give_back(id),
                        NotSent::Never(_) => self.claims.settle(id, false),
                    }
                }
                match refused {
                    NotSent::NoRoom => break,
                    NotSent::Never(outcome) => {
                        if let Some(ticket) = batch.take() {
                            batch.complete(ticket, outcome);
                        }
                        continue;
                    }
                }
            }
            let fate = (self.works_at_once && !probe).then(|| self.work.work(&record));
            if let (Some(Fate::Processed), Some(journal)) = (fate, &mut self.journal) {
                journal.append(&record);
            }
            if is_watched
                && !probe
                && let Some(tap) = &mut self.tap
            {
                tap.see(&record, *now.get_or_insert_with(clock::now));
            }
            let Some(ticket) = batch.take() else { break };
            match &mut self.way {
                Way::Log(stored) if !probe => stored.keep(ticket, id),
                Way::Direct(direct) if !probe => direct.keep(ticket),
                #[cfg(feature = "remote")]
                Way::Remote(forward) if !probe => forward.keep(ticket),
                _ => {
                    let outcome =
                        if fate == Some(Fate::Failed) { Outcome::Failed } else { Outcome::Processed };
                    if let Some(id) = id {
                        self.window.decide(id, outcome);
                        self.claims.settle(id, fate != Some(Fate::Failed));
                    }
                    batch.complete(ticket, outcome);
                }
            }
        }
        self.claims.flush();
        match &mut self.way {
            Way::Memory => {}
            Way::Log(stored) => stored.commit(),
            Way::Direct(direct) => direct.flush(),
            #[cfg(feature = "remote")]
            Way::Remote(forward) => forward.flush(),
        }
    }

    fn poll(&mut self, done: &mut Completions<'_>) {
        let Self { way, work, window, claims, repeats, unknown, .. } = self;
        claims.judge(window);
        let mut answered: Vec<(Ticket, AckLevel, Outcome)> = Vec::new();
        let mut decide = |decided: Decided, done: &mut Completions<'_>| {
            if let Some(id) = decided.id {
                window.decide(id, decided.outcome);
                claims.settle(id, matches!(decided.outcome, Outcome::Processed | Outcome::Stored(_)));
                for ticket in repeats.remove(&id).unwrap_or_default() {
                    let level = done.read(&ticket).level();
                    if level == AckLevel::Queued && decided.outcome == Outcome::Rejected(Rejection::Unknown) {
                        unknown.push(ticket);
                    } else {
                        answered.push((ticket, level, decided.outcome));
                    }
                }
            }
            done.complete(decided.ticket, decided.outcome);
        };
        match way {
            Way::Memory => {}
            Way::Log(stored) => {
                if stored.poll(work, done, &mut decide) {
                    // There is more of a backlog than one turn's worth.
                    self.doorbell.ring();
                }
            }
            Way::Direct(direct) => direct.poll(done, &mut decide),
            #[cfg(feature = "remote")]
            Way::Remote(forward) => forward.poll(done, &mut decide),
        }
        for (ticket, level, outcome) in answered {
            if let Some((ticket, outcome)) = self.repeat(ticket, level, outcome) {
                done.complete(ticket, outcome);
            }
        }
        self.claims.flush();
        if self.claims.take_verdicts() {
            // What waited for them is offered in the next turn.
            self.doorbell.ring();
        }
        self.take_inbound();
        self.work.publish();
        if let Some(tap) = &mut self.tap {
            tap.attend();
        }
        if let Some(onlooker) = &mut self.onlooker {
            let log = match &self.way {
                Way::Log(stored) => stored.worked_upto(),
                _ => None,
            };
            onlooker(Progress { log, journal: self.journal.as_ref().map(Journal::next_offset) });
        }
    }

    fn abandon(&mut self, left: &mut Batch<'_>) {
        let mut taken = Vec::new();
        while let Some(ticket) = left.take() {
            let view = left.read(&ticket);
            if view.record().kind & KIND_PROBE != 0 {
                // Our own, and nobody's message.
                left.complete(ticket, Outcome::Processed);
                continue;
            }
            let mut bytes = Vec::new();
            entry::encode(&view.record(), &mut bytes);
            taken.push((ticket, bytes.into()));
        }
        self.put_aside(taken, |ticket, outcome| left.complete(ticket, outcome));
    }

    fn part(&mut self, done: &mut Completions<'_>) {
        let mut left = Vec::new();
        let mut unsafe_ones = |ticket: Ticket, done: &Completions<'_>| {
            let mut bytes = Vec::new();
            entry::encode(&done.read(&ticket).record(), &mut bytes);
            left.push((ticket, bytes.into()));
        };
        for ticket in self.unknown.drain(..) {
            unsafe_ones(ticket, done);
        }
        match &mut self.way {
            Way::Memory => {}
            Way::Log(stored) => stored.part(done, &mut unsafe_ones),
            // The brokers' threads have the messages, and finish them or put them aside.
            Way::Direct(direct) => {
                for ticket in direct.take_tickets() {
                    done.complete(ticket, Outcome::Rejected(Rejection::Unknown));
                }
            }
            #[cfg(feature = "remote")]
            Way::Remote(forward) => {
                for ticket in forward.take_tickets() {
                    unsafe_ones(ticket, done);
                }
            }
        }
        self.put_aside(left, |ticket, outcome| done.complete(ticket, outcome));
        for ticket in self.repeats.drain().flat_map(|(_, tickets)| tickets) {
            done.complete(ticket, Outcome::Rejected(Rejection::Unknown));
        }
    }
}

/// Stored at this level, at this offset.
pub(crate) fn stored(level: AckLevel, offset: Option<u64>) -> Outcome {
    Outcome::Stored(Receipt::new(level, offset))
}

/// Of this shard of the log, which need not be the core's own.
pub(crate) fn in_shard(receipt: Receipt, shard: usize) -> Receipt {
    u32::try_from(shard).map_or(receipt, |shard| receipt.in_shard(shard))
}
