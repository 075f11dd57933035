//! Events collected and sent together; each sender learns what became of its own.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use prost::Message;
use tidegate_proto::analytics::v1::{Event, IngestEventsResponse, ValidationError};
use tokio::{
    sync::{mpsc, oneshot},
    task::{JoinHandle, JoinSet},
    time::Instant,
};

use crate::{CallOptions, Client, Error, events::new_id};

/// Most events of one call (the server's bound).
const EVENTS_MAX: usize = 1000;
/// Bytes at which a batch is sent though it has room for more events; the server takes 10 MiB.
const BATCH_BYTES_MAX: usize = 4 << 20;

/// When a batch is sent, and how many events may wait.
#[derive(Clone, Debug)]
pub struct BatchConfig {
    /// Events of a batch, 1 to 1,000; default 500.
    pub events_max: usize,
    /// The longest an event waits for others; default 20 ms.
    pub delay_max: Duration,
    /// Events that may wait for their batch; default 10,000. Full: `send` waits, `try_send` gives the event back.
    pub queue_events: usize,
    /// Batches under way at once; default 2. More: collected events wait.
    pub in_flight_max: usize,
    /// Options of each call.
    pub options: CallOptions,
}

impl Default for BatchConfig {
    fn default() -> Self {
        Self {
            events_max: 500,
            delay_max: Duration::from_millis(20),
            queue_events: 10_000,
            in_flight_max: 2,
            options: CallOptions::new(),
        }
    }
}

/// What became of an event.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Fate {
    /// It is stored; or it was before, under the same id.
    Stored {
        /// Its id.
        id: String,
    },
    /// It was not taken: what is wrong with it, or why the server could not.
    NotTaken {
        /// Its id.
        id: String,
        /// Field by field.
        errors: Vec<ValidationError>,
    },
    /// Its batch failed; the error says whether it was refused or is unknown.
    BatchFailed {
        /// Its id: send it again with this one.
        id: String,
        /// Why.
        error: String,
    },
}

/// The promise to say what became of an event.
#[derive(Debug)]
pub struct Receipt(oneshot::Receiver<Fate>);

impl Receipt {
    /// Waits for the event's fate.
    ///
    /// # Errors
    ///
    /// [`Error::Closed`] when the runtime ended before it was known.
    pub async fn fate(self) -> Result<Fate, Error> {
        self.0.await.map_err(|_| Error::Closed)
    }
}

struct Waiting {
    event: Event,
    sender: oneshot::Sender<Fate>,
}

/// Collects events. When it is dropped, what it holds is still sent; [`Batcher::close`] waits for that.
#[derive(Debug)]
pub struct Batcher {
    queue: mpsc::Sender<Waiting>,
    worker: JoinHandle<()>,
}

impl Batcher {
    /// Starts collecting, on the present tokio runtime.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] when a bound is wrong.
    pub fn new(client: Client, config: BatchConfig) -> Result<Self, Error> {
        if !(1..=EVENTS_MAX).contains(&config.events_max) {
            return Err(Error::config(
                "events_max",
                format!("expected 1 to {EVENTS_MAX}, not {}", config.events_max),
            ));
        }
        if config.queue_events == 0 || config.in_flight_max == 0 {
            return Err(Error::config("queue_events, in_flight_max", "expected at least 1"));
        }
        let (queue, events) = mpsc::channel(config.queue_events);
        Ok(Self { queue, worker: tokio::spawn(work(client, config, events)) })
    }

    /// Puts an event into the queue; waits for room. Without an id it gets one.
    ///
    /// # Errors
    ///
    /// [`Error::Closed`] when the worker has ended.
    pub async fn send(&self, event: Event) -> Result<Receipt, Error> {
        let (waiting, receipt) = waiting(event);
        self.queue.send(waiting).await.map_err(|_| Error::Closed)?;
        Ok(receipt)
    }

    /// Puts an event into the queue, if there is room.
    ///
    /// # Errors
    ///
    /// The event, when there is none.
    pub fn try_send(&self, event: Event) -> Result<Receipt, Box<Event>> {
        let (waiting, receipt) = waiting(event);
        match self.queue.try_send(waiting) {
            Ok(()) => Ok(receipt),
            Err(mpsc::error::TrySendError::Full(back) | mpsc::error::TrySendError::Closed(back)) => {
                Err(Box::new(back.event))
            }
        }
    }

    /// Sends what is left and waits until the fate of every event is known.
    ///
    /// # Errors
    ///
    /// [`Error::Closed`] when the runtime ended before.
    pub async fn close(self) -> Result<(), Error> {
        drop(self.queue);
        self.worker.await.map_err(|_| Error::Closed)
    }
}

fn waiting(mut event: Event) -> (Waiting, Receipt) {
    // Answers name events by their ids.
    if event.id.is_empty() {
        event.id = new_id();
    }
    let (sender, receiver) = oneshot::channel();
    (Waiting { event, sender }, Receipt(receiver))
}

/// Collects batches until the queue is closed and empty.
async fn work(client: Client, config: BatchConfig, mut events: mpsc::Receiver<Waiting>) {
    let mut under_way = JoinSet::new();
    let mut next = events.recv().await;
    while let Some(first) = next.take() {
        let deadline = Instant::now() + config.delay_max;
        let mut ids = HashSet::from([first.event.id.clone()]);
        let mut bytes = first.event.encoded_len();
        let mut batch = vec![first];
        // One that does not fit any more begins the next batch.
        while batch.len() < config.events_max && bytes < BATCH_BYTES_MAX {
            match tokio::time::timeout_at(deadline, events.recv()).await {
                Ok(Some(waiting)) => {
                    let length = waiting.event.encoded_len();
                    // An answer names events by their ids: the same one twice would be told apart by nobody.
                    if bytes + length > BATCH_BYTES_MAX || !ids.insert(waiting.event.id.clone()) {
                        next = Some(waiting);
                        break;
                    }
                    bytes += length;
                    batch.push(waiting);
                }
                Ok(None) | Err(_) => break,
            }
        }
        while under_way.len() >= config.in_flight_max {
            under_way.join_next().await;
        }
        under_way.spawn(send(client.clone(), config.options.clone(), batch));
        if next.is_none() {
            next = events.recv().await;
        }
    }
    while under_way.join_next().await.is_some() {}
}

async fn send(client: Client, options: CallOptions, batch: Vec<Waiting>) {
    let (events, senders): (Vec<Event>, Vec<_>) =
        batch.into_iter().map(|waiting| (waiting.event, waiting.sender)).unzip();
    let ids: Vec<String> = events.iter().map(|event| event.id.clone()).collect();
    let fates = match client.ingest_events(events, &options).await {
        Ok(answer) => fates(ids, answer.message),
        Err(error) => {
            let error = error.to_string();
            ids.into_iter().map(|id| Fate::BatchFailed { id, error: error.clone() }).collect()
        }
    };
    for (sender, fate) in senders.into_iter().zip(fates) {
        // Who dropped the receipt does not want to know.
        let _ = sender.send(fate);
    }
}

/// Each event's fate: an error stands under its place (`events[3].user_id`) or its id.
fn fates(ids: Vec<String>, answer: IngestEventsResponse) -> Vec<Fate> {
    let failed: HashSet<String> = answer.failed_event_ids.into_iter().collect();
    let mut by_place: HashMap<usize, Vec<ValidationError>> = HashMap::new();
    let mut by_id: HashMap<String, Vec<ValidationError>> = HashMap::new();
    for error in answer.validation_errors {
        match place(&error.field) {
            Some(place) => by_place.entry(place).or_default().push(error),
            None => by_id.entry(error.field.clone()).or_default().push(error),
        }
    }
    let fate = |(number, id): (usize, String)| {
        if !failed.contains(&id) {
            return Fate::Stored { id };
        }
        let mut errors = by_place.remove(&number).unwrap_or_default();
        errors.extend(by_id.remove(&id).into_iter().flatten());
        Fate::NotTaken { id, errors }
    };
    ids.into_iter().enumerate().map(fate).collect()
}

fn place(field: &str) -> Option<usize> {
    field.strip_prefix("events[")?.split_once(']')?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(field: &str) -> ValidationError {
        ValidationError { field: field.to_owned(), ..ValidationError::default() }
    }

    #[test]
    fn errors_find_their_event_by_place_or_id() {
        let answer = IngestEventsResponse {
            failed_event_ids: vec!["b".into(), "c".into()],
            validation_errors: vec![error("events[1].user_id"), error("c"), error("events[1].event_type")],
            ..IngestEventsResponse::default()
        };
        let found = fates(vec!["a".into(), "b".into(), "c".into()], answer);
        let wrong = vec![error("events[1].user_id"), error("events[1].event_type")];
        assert_eq!(found[0], Fate::Stored { id: "a".into() });
        assert_eq!(found[1], Fate::NotTaken { id: "b".into(), errors: wrong });
        assert_eq!(found[2], Fate::NotTaken { id: "c".into(), errors: vec![error("c")] });
    }
}
