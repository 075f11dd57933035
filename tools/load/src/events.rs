//! Events as a load client sends them: one written form, and in it the places of its id and its user, which are other
//! digits each time.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicU64, Ordering},
    time::{SystemTime, UNIX_EPOCH},
};

use tidegate_proto::analytics::v1::{
    Event, EventType, StreamEventsRequest, UserEvent, event::EventData, stream_events_request::Request,
};

use crate::message;

/// Digits of an id and of a user.
const DIGITS: usize = 18;
/// Events of one run before their ids meet the next run's.
const RUN_EVENTS: u64 = 10_000_000_000;
/// Users whose events are sent.
static USERS: AtomicU64 = AtomicU64::new(10_000);
/// Counts the runs of this process; two processes that start in different seconds share no ids for a day.
static RUNS: AtomicU64 = AtomicU64::new(0);

/// From now on events are of so many users.
pub fn set_users(users: u64) {
    USERS.store(users.max(1), Ordering::Relaxed);
}

/// Writes events, each with an id of its own.
#[derive(Clone, Debug)]
pub struct Events {
    frame: Vec<u8>,
    id_at: usize,
    user_at: usize,
    users: u64,
    next: u64,
}

impl Events {
    /// Events with ids that no other ones of this process have.
    pub fn next_run() -> Self {
        let second = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() % 86_400);
        let run = second * 1000 + RUNS.fetch_add(1, Ordering::Relaxed) % 1000;
        Self::new(run, USERS.load(Ordering::Relaxed))
    }

    fn new(run: u64, users: u64) -> Self {
        let digits = |letter: &str| format!("{letter}{}", "0".repeat(DIGITS));
        let event = Event {
            id: digits("e"),
            user_id: digits("u"),
            session_id: "session-1".to_owned(),
            event_type: EventType::User.into(),
            source: "web".to_owned(),
            properties: HashMap::from([("country".to_owned(), "DE".to_owned())]),
            event_data: Some(EventData::UserEvent(UserEvent {
                action: "click".to_owned(),
                page_url: "/products/17".to_owned(),
                ..UserEvent::default()
            })),
            ..Event::default()
        };
        let frame = message::frame(&StreamEventsRequest { request: Some(Request::Event(event)) });
        let find = |letter: u8| {
            let wanted = [&[letter][..], &[b'0'; DIGITS]].concat();
            frame.windows(wanted.len()).position(|window| window == wanted).map_or(0, |at| at + 1)
        };
        let (id_at, user_at) = (find(b'e'), find(b'u'));
        Self { id_at, user_at, users: users.max(1), next: run * RUN_EVENTS, frame }
    }

    /// Bytes of an event with its prefix.
    pub fn frame_bytes(&self) -> usize {
        self.frame.len()
    }

    /// Appends the next event as a message of `StreamEvents`.
    pub fn write(&mut self, out: &mut Vec<u8>) {
        write_digits(&mut self.frame[self.id_at..self.id_at + DIGITS], self.next);
        // Spread over the users, not in their order.
        let user = self.next.wrapping_mul(0x9e37_79b9_7f4a_7c15) % self.users;
        write_digits(&mut self.frame[self.user_at..self.user_at + DIGITS], user);
        self.next += 1;
        out.extend_from_slice(&self.frame);
    }
}

fn write_digits(place: &mut [u8], mut number: u64) {
    for digit in place.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    #[test]
    fn every_event_has_an_id_of_its_own_and_one_of_the_users() {
        let mut events = Events::new(7, 3);
        let mut ids = std::collections::HashSet::new();
        for _ in 0..100 {
            let mut out = Vec::new();
            events.write(&mut out);
            let request = StreamEventsRequest::decode(&out[message::GRPC_PREFIX_BYTES..]).unwrap();
            let Some(Request::Event(event)) = request.request else { panic!("no event") };
            assert!(event.id.starts_with("e000000070") && ids.insert(event.id));
            assert!(event.user_id.len() == 1 + DIGITS && event.user_id[1..].parse::<u64>().unwrap() < 3);
        }
    }
}
