//! A core's messages on their way straight to the brokers' threads, without a log between.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use engine_core::{AckLevel, Completions, Outcome, Record, Rejection, Ticket};

use crate::{
    dead_letter::{Cause, DeadLetters},
    delivery::DirectPort,
    entry,
    pipeline::{Decided, NotSent, stored},
    status::SideStatus,
    window::Id,
};

/// Messages that wait to be noted as missed. More: counted, and not listed.
const MISSES_MAX: usize = 10_000;

/// A broker as a core sees it.
#[derive(Debug)]
pub struct Side {
    /// Its bit in a rejection.
    pub bit: u8,
    /// The way to its thread.
    pub port: DirectPort,
    /// How it is.
    pub status: Arc<SideStatus>,
}

/// Notes what a side missed while it was out of reach, for the dead letters. Clones share it.
#[derive(Clone, Debug)]
pub struct Misses(Sender<Miss>);

/// The side that missed it, and the message.
type Miss = (String, Box<[u8]>);

/// Writes down what was missed.
#[derive(Debug)]
pub struct MissNotes {
    receiver: Receiver<Miss>,
    dead_letters: Arc<DeadLetters>,
}

impl MissNotes {
    /// Writes down what waits. Says whether there was something.
    pub fn turn(&mut self) -> bool {
        let mut any = false;
        while let Ok(miss) = self.receiver.try_recv() {
            self.write(miss);
            any = true;
        }
        any
    }

    fn write(&self, (side, bytes): Miss) {
        let Ok(record) = entry::decode(&bytes) else { return };
        let cause = Cause {
            reason: format!(
                "{side} was out of reach, another side has it (composite.strategy = best-effort)"
            ),
            side,
            code: "MISSED".to_owned(),
            attempts: 0,
        };
        if let Err(error) = self.dead_letters.append(&cause, &record) {
            let id = String::from_utf8_lossy(record.id);
            tracing::error!(%id, side = cause.side, error, "what a side missed cannot be noted");
        }
    }
}

impl Misses {
    /// Starts the thread that writes them down.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(dead_letters: Arc<DeadLetters>) -> std::io::Result<Self> {
        let (misses, notes) = Self::apart(dead_letters, MISSES_MAX);
        std::thread::Builder::new().name("misses".to_owned()).spawn(move || {
            while let Ok(miss) = notes.receiver.recv() {
                notes.write(miss);
            }
        })?;
        Ok(misses)
    }

    /// The same for who takes the turns himself; so many may wait.
    pub fn apart(dead_letters: Arc<DeadLetters>, waiting_max: usize) -> (Self, MissNotes) {
        let (sender, receiver) = bounded(waiting_max);
        (Self(sender), MissNotes { receiver, dead_letters })
    }

    fn note(&self, status: &SideStatus, record: &Record<'_>) {
        status.missed.fetch_add(1, Relaxed);
        let mut bytes = Vec::new();
        entry::encode(record, &mut bytes);
        if let Err(TrySendError::Full((side, _))) = self.0.try_send((status.name.clone(), bytes.into())) {
            let id = String::from_utf8_lossy(record.id);
            tracing::error!(%id, side, "what a side missed is not noted: too many wait to be");
        }
    }
}

/// A message on its way.
#[derive(Debug)]
struct Flight {
    ticket: Option<Ticket>,
    id: Option<Id>,
    /// Sides that have not decided.
    open: u8,
    /// Sides that have it.
    acked: u8,
    /// Sides that refuse it.
    refused: u8,
}

/// The direct part of a core's sink.
#[derive(Debug)]
pub struct Direct {
    sides: Vec<Side>,
    best_effort: bool,
    flights: Vec<Flight>,
    free: Vec<u32>,
    /// The flight that was sent last and whose ticket comes next.
    sent: u32,
    misses: Misses,
}

impl Direct {
    /// Sends to all these sides.
    pub fn new(sides: Vec<Side>, best_effort: bool, misses: Misses) -> Self {
        Self { sides, best_effort, flights: Vec::new(), free: Vec::new(), sent: 0, misses }
    }

    /// Sends a message, or says that there is no room for it.
    pub(crate) fn send(&mut self, record: &Record<'_>, id: Option<Id>) -> Result<(), NotSent> {
        // Best-effort goes without a side that is out of reach; one that is only slower holds everybody up.
        let takes = |side: &&Side| !(self.best_effort && side.status.is_open());
        let open = self.sides.iter().filter(takes).fold(0, |open, side| open | side.bit);
        let room = self.sides.iter().filter(takes).all(|side| side.port.has_room());
        if open == 0 || !room {
            return Err(NotSent::NoRoom);
        }
        let flight = Flight { ticket: None, id, open, acked: 0, refused: 0 };
        self.sent = match self.free.pop() {
            Some(place) => {
                self.flights[place as usize] = flight;
                place
            }
            None => {
                self.flights.push(flight);
                // A flight has a place in a port, and those are counted in 32 bits.
                (self.flights.len() - 1) as u32
            }
        };
        for side in &mut self.sides {
            if open & side.bit == 0 {
                self.misses.note(&side.status, record);
            } else if side.port.send(self.sent, record).is_err() {
                // There was room a moment ago, and nobody else sends here.
                return Err(NotSent::NoRoom);
            }
        }
        Ok(())
    }

    pub(crate) fn keep(&mut self, ticket: Ticket) {
        self.flights[self.sent as usize].ticket = Some(ticket);
    }

    pub(crate) fn flush(&mut self) {
        for side in &mut self.sides {
            side.port.flush();
        }
    }

    /// Tells those whose message was decided.
    pub(crate) fn poll(
        &mut self,
        done: &mut Completions<'_>,
        decide: &mut impl FnMut(Decided, &mut Completions<'_>),
    ) {
        let Self { sides, best_effort, flights, free, .. } = self;
        for side in sides {
            let bit = side.bit;
            side.port.poll(|ack| {
                let Some(flight) = flights.get_mut(ack.tag as usize) else { return };
                flight.open &= !bit;
                if ack.accepted {
                    flight.acked |= bit;
                } else {
                    flight.refused |= bit;
                }
                if (flight.open == 0 || (*best_effort && flight.acked != 0))
                    && let Some(ticket) = flight.ticket.take()
                {
                    let enough = flight.acked != 0 && (*best_effort || flight.refused == 0);
                    let outcome = if enough {
                        stored(AckLevel::Delivered, None)
                    } else {
                        Outcome::Rejected(Rejection::Refused { sides: flight.refused })
                    };
                    decide(Decided { ticket, id: flight.id, outcome }, done);
                }
                if flight.open == 0 {
                    free.push(ack.tag);
                }
            });
        }
    }
}
