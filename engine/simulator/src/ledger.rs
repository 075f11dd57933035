//! What was promised to the senders, what became of it, and whether that is the same.

use std::{collections::BTreeMap, fmt, time::Duration};

use engine_core::{AckLevel, Outcome, Record, Rejection, Snapshot};

use crate::plan::Shape;

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which promise: the same words for the same kind.
    pub kind: &'static str,
    /// What happened.
    pub detail: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind, self.detail)
    }
}

/// A promise that was broken, of this kind.
pub fn violation<T>(kind: &'static str, detail: impl Into<String>) -> Result<T, Violation> {
    Err(Violation { kind, detail: detail.into() })
}

/// A message, which may be sent several times.
#[derive(Clone, Debug)]
pub struct Message {
    /// Whether its id is its sender's.
    pub once: bool,
    /// What it is partitioned by.
    pub key: u32,
    /// Bytes of its payload behind its number.
    filler: usize,
    /// The strongest that was promised, and where it is.
    promised: Option<AckLevel>,
    places: Vec<(usize, u64)>,
    /// Its place among all sendings, when it was first accepted.
    accepted_at: u32,
    /// Times it was sent.
    sent: u32,
    /// Times it may be stored: those that were not refused and not said to be repeats.
    stored_max: u32,
    /// The life in which it was sent first, and last.
    first_life: usize,
    last_life: usize,
    /// Answered `queued` in this life and not known to have come anywhere.
    queued_in: Option<usize>,
    /// When it was accepted first.
    first_at: Moment,
    /// It was promised to be durable, and is remembered from this moment on or from a later one.
    remembered_at: Option<Moment>,
    worked: u32,
    /// By broker.
    stored: [u32; 2],
    /// By broker: among the dead letters. The third is of no broker.
    put_aside: [bool; 3],
    /// Some broker has refused it, or lost it with its connection: what comes behind it need not wait.
    was_refused: bool,
}

/// In the simulated time, and among the messages with an id.
type Moment = (Duration, u64);

/// One time that a message was sent.
#[derive(Clone, Debug)]
struct Sending {
    number: u32,
    level: AckLevel,
    life: usize,
    target: usize,
    at: Moment,
    /// The sender has to be told that it is a repeat.
    is_known: bool,
    open: bool,
}

/// All promises.
#[derive(Debug)]
pub struct Ledger {
    shape: Shape,
    messages: Vec<Message>,
    sendings: Vec<Sending>,
    /// Messages with an id so far.
    ids: u64,
    /// Lives that ended without a word, by number.
    crashes: Vec<usize>,
    /// Offsets that a repair has said to be lost, by shard.
    lost: Vec<(usize, u64, u64)>,
    /// The order in which first ones came, by place (workers, brokers), key, home core and life.
    order: BTreeMap<(usize, u32, usize, usize), u32>,
    homes: Vec<usize>,
    /// Nothing is known of clocks any more, so of ages.
    pub clock_jumped: bool,
    /// The disk was damaged, so that windows and counts may be of anything.
    pub damaged: bool,
    cores_max: usize,
    answered: u64,
    /// Messages that orderly stops have said to be lost.
    said_lost: u64,
}

/// The bytes of a message's payload.
fn payload(number: u32, filler: usize) -> Vec<u8> {
    let mut bytes = format!("{number:08}").into_bytes();
    bytes.extend((0..filler).map(|at| (number as usize * 31 + at * 7) as u8));
    bytes
}

/// The number of a message, by its payload.
pub fn number_of(record: &Record<'_>) -> Option<u32> {
    std::str::from_utf8(record.payload.get(..8)?).ok()?.parse().ok()
}

impl Ledger {
    /// Nothing was promised.
    pub fn new(shape: &Shape, cores_max: usize) -> Self {
        Self {
            shape: shape.clone(),
            messages: Vec::new(),
            sendings: Vec::new(),
            ids: 0,
            crashes: Vec::new(),
            lost: Vec::new(),
            order: BTreeMap::new(),
            homes: Vec::new(),
            clock_jumped: false,
            damaged: false,
            cores_max,
            answered: 0,
            said_lost: 0,
        }
    }

    /// Messages so far.
    pub fn len(&self) -> u32 {
        self.messages.len() as u32
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Answers so far.
    pub fn answered(&self) -> u64 {
        self.answered
    }

    /// A new message. Returns its number.
    pub fn create(&mut self, once: bool, key: u32, filler: usize, life: usize, home: usize) -> u32 {
        self.messages.push(Message {
            once,
            key,
            filler,
            promised: None,
            places: Vec::new(),
            accepted_at: 0,
            sent: 0,
            stored_max: 0,
            first_life: life,
            last_life: life,
            queued_in: None,
            first_at: (Duration::ZERO, 0),
            remembered_at: None,
            worked: 0,
            stored: [0; 2],
            put_aside: [false; 3],
            was_refused: false,
        });
        self.homes.push(home);
        self.len() - 1
    }

    /// A message, to be sent.
    pub fn message(&self, number: u32) -> (&Message, Vec<u8>) {
        let message = &self.messages[number as usize];
        (message, payload(number, message.filler))
    }

    /// Of the messages with an id, one of the last `among`.
    pub fn one_with_id(&self, random: &mut fastrand::Rng, among: usize) -> Option<u32> {
        let numbers = self.messages.iter().enumerate().rev();
        let with_id: Vec<u32> =
            numbers.filter(|(_, message)| message.once).map(|(at, _)| at as u32).take(among).collect();
        (!with_id.is_empty()).then(|| with_id[random.usize(0..with_id.len())])
    }

    /// The token of the next message that is accepted.
    pub fn next_token(&self) -> u64 {
        self.sendings.len() as u64 + 1
    }

    /// A message was accepted into the queue.
    pub fn accept(
        &mut self,
        number: u32,
        level: AckLevel,
        life: usize,
        (home, target): (usize, usize),
        now: Duration,
    ) {
        let share = self.shape.window_entries.div_ceil(self.cores_max) as u64;
        let at = (now, self.ids);
        let (clock_jumped, damaged, age) = (self.clock_jumped, self.damaged, self.shape.window_age);
        let message = &mut self.messages[number as usize];
        message.sent += 1;
        if message.sent == 1 {
            message.accepted_at = self.sendings.len() as u32;
            message.first_at = at;
            message.first_life = life;
            self.homes[number as usize] = home;
        }
        message.stored_max += 1;
        message.last_life = life;
        let is_known = message.remembered_at.is_some_and(|(since, count)| {
            // Half of it: a repeat is looked up when its core comes to it, not when it is accepted into the queue.
            !clock_jumped && !damaged && now - since < age / 2 && at.1 - count + 1 < share
        });
        if message.once {
            self.ids += 1;
        }
        if level == AckLevel::Queued {
            message.queued_in = Some(life);
        }
        self.sendings.push(Sending { number, level, life, target, at, is_known, open: true });
    }

    /// What a sender was told.
    ///
    /// # Errors
    /// When that was not true.
    pub fn answer(&mut self, token: u64, outcome: Outcome) -> Result<(), Violation> {
        let Some(sending) = self.sendings.get_mut(token as usize - 1).filter(|sending| sending.open) else {
            return violation("answered twice", format!("token {token}: {outcome:?}"));
        };
        sending.open = false;
        self.answered += 1;
        let Sending { number, level, target, at, is_known, .. } = *sending;
        let message = &mut self.messages[number as usize];
        match outcome {
            Outcome::Stored(receipt) if receipt.duplicate => {
                message.stored_max -= 1;
                if !message.once || message.sent < 2 {
                    return violation("a first message is said to be a repeat", format!("message {number}"));
                }
            }
            Outcome::Stored(receipt) => {
                if is_known {
                    return violation(
                        "a repeat was taken twice",
                        format!("message {number}, the second time as {outcome:?}"),
                    );
                }
                message.places.extend(receipt.offset().map(|offset| (target, offset)));
            }
            Outcome::Processed => {}
            Outcome::Failed | Outcome::Rejected(Rejection::Conflict) => message.stored_max -= 1,
            Outcome::Rejected(_) => {}
        }
        if matches!(outcome, Outcome::Stored(_) | Outcome::Processed) {
            if message.queued_in == Some(sending.life) {
                message.queued_in = None;
            }
            // Who asked for less was told less, whatever is known now.
            let reached = match outcome {
                Outcome::Stored(receipt) => receipt.level.min(level),
                _ => AckLevel::Queued,
            };
            message.promised = message.promised.max(Some(reached));
            if reached >= AckLevel::Durable && self.shape.has_log() {
                match outcome {
                    // The window remembers it from when it first came, which is not known better than this.
                    Outcome::Stored(receipt) if receipt.duplicate => {
                        message.remembered_at.get_or_insert(message.first_at);
                    }
                    _ => message.remembered_at = Some(at),
                }
            }
            if reached == AckLevel::Delivered {
                return self.is_delivered(number);
            }
        }
        Ok(())
    }

    fn is_delivered(&self, number: u32) -> Result<(), Violation> {
        let message = &self.messages[number as usize];
        let brokers = self.shape.queue.brokers();
        let has = message.stored[..brokers].iter().filter(|count| **count > 0).count();
        let enough = if self.shape.best_effort {
            has > 0 || self.shape.queue.log_is_a_side() || brokers == 0
        } else {
            has == brokers
        };
        if enough {
            return Ok(());
        }
        violation("delivered and not there", format!("message {number}: {message:?}"))
    }

    /// The process of this life has ended. Without a word: nobody who waits is answered any more.
    pub fn end_life(&mut self, life: usize, crashed: bool) {
        if crashed {
            self.crashes.push(life);
        }
        for sending in &mut self.sendings {
            if sending.life == life {
                sending.open = false;
            }
        }
        if crashed {
            for message in &mut self.messages {
                if message.queued_in == Some(life) {
                    message.queued_in = None;
                }
            }
        }
    }

    /// Everything that was accepted in this life has come to an end: whoever waited was told, and the counters add up.
    ///
    /// # Errors
    /// When somebody was not told, or a count is not what was sent.
    pub fn check_finished(&self, life: usize, counts: &Snapshot) -> Result<(), Violation> {
        let sendings = self.sendings.iter().filter(|sending| sending.life == life);
        let waits = |sending: &&Sending| sending.open && sending.level != AckLevel::Queued;
        if let Some(Sending { number, level, .. }) = sendings.clone().find(waits) {
            return violation("never answered", format!("message {number}, which was to be {level:?}"));
        }
        let sent = sendings.count() as u64;
        let Snapshot { accepted, done, rejected, duplicates, conflicts, .. } = *counts;
        let adds_up = accepted + duplicates + conflicts == sent
            && done + rejected == accepted
            && counts.processed + counts.failed == sent
            && (counts.undecided, counts.queue_depth) == (0, 0);
        if adds_up {
            Ok(())
        } else {
            violation("the counters do not add up", format!("{sent} sent, {counts:?}"))
        }
    }

    /// At the end of an orderly stop: what was answered `queued` went somewhere, but for so many that are said to be lost.
    ///
    /// # Errors
    /// When a message is in no such place.
    pub fn check_stop(&mut self, life: usize, said_lost: u64) -> Result<(), Violation> {
        self.said_lost += said_lost;
        if self.shape.has_log() {
            // What is in the log is kept for the next life; its last check is the end's.
            let queued = self.messages.iter_mut().filter(|message| message.queued_in == Some(life));
            // Where they are is not known, so neither is whether a repair has lost them.
            queued.filter(|_| said_lost == 0 && !self.damaged).for_each(|message| {
                message.promised = message.promised.max(Some(AckLevel::Durable));
            });
            return Ok(());
        }
        let mut lost = 0;
        for (number, message) in self.messages.iter().enumerate() {
            if message.queued_in != Some(life) {
                continue;
            }
            let brokers = self.shape.queue.brokers();
            let somewhere = message.worked > 0
                || message.put_aside.contains(&true)
                || message.stored[..brokers].iter().any(|count| *count > 0);
            if !somewhere {
                lost += 1;
            }
            if lost > said_lost {
                return violation(
                    "dropped at an orderly stop and not counted",
                    format!("message {number}, {said_lost} are said to be lost: {message:?}"),
                );
            }
        }
        Ok(())
    }

    /// The disk was damaged: of what was only answered `queued` it is not known where it is, so not whether that is lost.
    pub fn note_damage(&mut self) {
        self.damaged = true;
        for message in self.messages.iter_mut().filter(|message| message.places.is_empty()) {
            message.promised = message.promised.min(Some(AckLevel::Queued));
        }
    }

    /// A repair says that these offsets of a shard are lost.
    pub fn note_lost(&mut self, shard: usize, from: u64, upto: u64) {
        self.lost.push((shard, from, upto));
    }

    /// The message of a record, when it is one that was sent and is unchanged.
    fn look_up(&mut self, record: &Record<'_>, place: &str) -> Result<u32, Violation> {
        let known = number_of(record).filter(|number| (*number as usize) < self.messages.len());
        let Some(number) = known else {
            return violation(
                "invented",
                format!("{place}: {:?}", record.payload.escape_ascii().to_string()),
            );
        };
        let (message, payload) = self.message(number);
        let id = id_of(number, message.once);
        if record.payload != payload || record.id != id.as_bytes() || record.once != message.once {
            return violation("altered", format!("{place}: message {number}"));
        }
        if message.sent == 0 {
            return violation("invented", format!("{place}: message {number} was refused"));
        }
        Ok(number)
    }

    fn check_order(&mut self, place: usize, number: u32) -> Result<(), Violation> {
        let message = &self.messages[number as usize];
        // One that was sent several times may come by any of them, one that was refused comes late if it comes at all, and a
        // damaged log comes in any order.
        if message.sent > 1 || message.was_refused || self.damaged {
            return Ok(());
        }
        let key = (place, message.key, self.homes[number as usize], message.first_life);
        let accepted_at = message.accepted_at;
        let last = self.order.entry(key).or_insert(accepted_at);
        if accepted_at < *last {
            let sooner = self.sendings[*last as usize].number;
            return violation(
                "out of order",
                format!("place {place}: message {number} behind {sooner} of the same key"),
            );
        }
        *last = accepted_at;
        Ok(())
    }

    /// A consumer's position could not be written: what it has passed comes again.
    pub fn note_position_lost(&mut self, life: usize) {
        self.crashes.push(life);
    }

    /// A message was worked on.
    ///
    /// # Errors
    /// When it is none, or comes too often, or in another order than it was sent.
    pub fn note_worked(&mut self, record: &Record<'_>) -> Result<(), Violation> {
        let number = self.look_up(record, "workers")?;
        let crashes = self.crashes.iter();
        let message = &mut self.messages[number as usize];
        message.worked += 1;
        let crashes = crashes.filter(|life| **life >= message.first_life).count() as u32;
        if message.worked > message.stored_max * (1 + crashes) && !self.damaged {
            return violation("worked on too often", format!("message {number}: {message:?}"));
        }
        if message.worked == 1 { self.check_order(0, number) } else { Ok(()) }
    }

    /// A broker stored a message.
    ///
    /// # Errors
    /// As for [`note_worked`](Self::note_worked), but for how often.
    pub fn note_stored(
        &mut self,
        broker: usize,
        record: &Record<'_>,
        keeps_order: bool,
    ) -> Result<(), Violation> {
        // That a sender knows the id is not told to brokers.
        let once = number_of(record)
            .and_then(|number| self.messages.get(number as usize))
            .is_some_and(|message| message.once);
        let number = self.look_up(&Record { once, ..*record }, "broker")?;
        let stored = &mut self.messages[number as usize].stored[broker];
        *stored += 1;
        if *stored == 1 && keeps_order { self.check_order(1 + broker, number) } else { Ok(()) }
    }

    /// A broker has refused a message.
    pub fn note_refused(&mut self, number: u32) {
        if let Some(message) = self.messages.get_mut(number as usize) {
            message.was_refused = true;
        }
    }

    /// What is among the dead letters, by side.
    pub fn note_dead_letter(&mut self, side: Option<usize>, record: &Record<'_>) -> Result<(), Violation> {
        let number = self.look_up(record, "dead letters")?;
        self.messages[number as usize].put_aside[side.unwrap_or(2)] = true;
        Ok(())
    }

    /// When nothing is wrong any more and everything has come to rest: what was promised is there.
    ///
    /// # Errors
    /// The first promise that was broken.
    pub fn check_end(&self) -> Result<(), Violation> {
        let Shape { queue, best_effort, .. } = self.shape;
        let mut missing = 0;
        for (number, message) in self.messages.iter().enumerate() {
            let Some(level) = message.promised else { continue };
            let is_said_lost = |(shard, offset): &(usize, u64)| {
                let in_range =
                    |(of, from, upto): &(usize, u64, u64)| of == shard && (*from..*upto).contains(offset);
                self.lost.iter().any(in_range)
            };
            if level == AckLevel::Queued || message.places.iter().any(is_said_lost) {
                continue;
            }
            let detail = || format!("message {number}, promised {level:?}: {message:?}");
            if queue.log_is_a_side() && message.worked == 0 && !message.put_aside[2] {
                return violation("acknowledged and never worked on", detail());
            }
            for broker in 0..queue.brokers() {
                let there = message.stored[broker] > 0 || message.put_aside[broker] || message.put_aside[2];
                let is_kept = self.shape.has_log();
                // Without the log a kill takes along what a slower side was not done with.
                let was_killed =
                    !is_kept && best_effort && self.crashes.iter().any(|life| *life >= message.first_life);
                if !there && !was_killed && (is_kept || level == AckLevel::Delivered) {
                    missing += 1;
                }
                if missing > self.said_lost {
                    let kind = if best_effort {
                        "missed by a side and not listed"
                    } else {
                        "acknowledged and not at a broker"
                    };
                    return violation(kind, detail());
                }
            }
        }
        Ok(())
    }
}

/// The id of a message.
pub fn id_of(number: u32, once: bool) -> String {
    format!("{}{number}", if once { "m" } else { "g" })
}
