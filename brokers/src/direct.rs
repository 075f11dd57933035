//! A core's messages on their way straight to the brokers' threads, without a log between.

use std::sync::Arc;

use engine_core::{AckLevel, Completions, Outcome, Record, Rejection, Ticket};

use crate::{
    delivery::DirectPort,
    pipeline::{Decided, NotSent, stored},
    status::SideStatus,
    window::Id,
};

/// A broker as a core sees it.
#[derive(Debug)]
pub struct Side {
    /// Its bit in a rejection.
    pub bit: u8,
    /// The way to its thread.
    pub port: DirectPort,
    /// The way to the thread that lists what it misses, where one side is enough ([`missed`](crate::missed)).
    pub missed: Option<DirectPort>,
    /// How it is.
    pub status: Arc<SideStatus>,
}

/// A message on its way.
#[derive(Debug)]
struct Flight {
    ticket: Option<Ticket>,
    id: Option<Id>,
    /// Sides that have not decided.
    open: u8,
    /// Sides that miss it, and whose miss is not listed yet.
    unlisted: u8,
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
}

impl Direct {
    /// Sends to all these sides.
    pub fn new(sides: Vec<Side>, best_effort: bool) -> Self {
        Self { sides, best_effort, flights: Vec::new(), free: Vec::new(), sent: 0 }
    }

    /// Sends a message, or says that there is no room for it.
    pub(crate) fn send(&mut self, record: &Record<'_>, id: Option<Id>) -> Result<(), NotSent> {
        // Best-effort goes without a side that is out of reach; one that is only slower holds everybody up.
        let goes_without = |side: &Side| self.best_effort && side.missed.is_some() && side.status.is_open();
        let (mut open, mut unlisted) = (0, 0);
        for side in &self.sides {
            let (bits, port) = match &side.missed {
                Some(missed) if goes_without(side) => (&mut unlisted, missed),
                _ => (&mut open, &side.port),
            };
            *bits |= side.bit;
            if !port.has_room() {
                return Err(NotSent::NoRoom);
            }
        }
        if open == 0 {
            return Err(NotSent::NoRoom);
        }
        let flight = Flight { ticket: None, id, open, unlisted, acked: 0, refused: 0 };
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
            let sent = match &mut side.missed {
                Some(missed) if unlisted & side.bit != 0 => {
                    side.status.note_missed();
                    missed.send(self.sent, record)
                }
                _ => side.port.send(self.sent, record),
            };
            if sent.is_err() {
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
            if let Some(missed) = &mut side.missed {
                missed.flush();
            }
        }
    }

    /// Tells those whose message was decided.
    pub(crate) fn poll(
        &mut self,
        done: &mut Completions<'_>,
        decide: &mut impl FnMut(Decided, &mut Completions<'_>),
    ) {
        let Self { sides, best_effort, flights, free, .. } = self;
        for Side { bit, port, missed, .. } in sides {
            port.poll(|ack| {
                let Some(flight) = flights.get_mut(ack.tag as usize) else { return };
                flight.open &= !*bit;
                if ack.accepted {
                    flight.acked |= *bit;
                } else {
                    flight.refused |= *bit;
                }
                flight.settle(ack.tag, *best_effort, free, |decided| decide(decided, done));
            });
            let Some(missed) = missed else { continue };
            missed.poll(|ack| {
                let Some(flight) = flights.get_mut(ack.tag as usize) else { return };
                flight.unlisted &= !*bit;
                flight.settle(ack.tag, *best_effort, free, |decided| decide(decided, done));
            });
        }
    }

    /// The tickets of what is under way: the brokers' threads have the messages.
    pub(crate) fn take_tickets(&mut self) -> impl Iterator<Item = Ticket> {
        self.flights.iter_mut().filter_map(|flight| flight.ticket.take())
    }
}

impl Flight {
    /// Tells the sender when that is due, and gives the place back when nobody has anything to say any more.
    fn settle(&mut self, tag: u32, best_effort: bool, free: &mut Vec<u32>, decide: impl FnOnce(Decided)) {
        let is_decided = self.open == 0 || (best_effort && self.acked != 0);
        if is_decided
            && self.unlisted == 0
            && let Some(ticket) = self.ticket.take()
        {
            let enough = self.acked != 0 && (best_effort || self.refused == 0);
            let outcome = if enough {
                stored(AckLevel::Delivered, None)
            } else {
                Outcome::Rejected(Rejection::Refused { sides: self.refused })
            };
            decide(Decided { ticket, id: self.id, outcome });
        }
        if self.open == 0 && self.unlisted == 0 {
            free.push(tag);
        }
    }
}
