//! NATS JetStream: acknowledged publishes ([`publish`]) and the durable pull consumer ([`consume`]).
//!
//! Stream and consumer are the older ingest system's; they are created if absent and never altered. Two settings of a new
//! stream differ from those there, which lost messages: a full stream refuses (`discard: new`) instead
//! of dropping its oldest, and a message is delivered again until it was worked on (no `max_deliver`).
//!
//! A *pack* is a NATS message that carries several records (`nats.pack_messages`, off by default): its header
//! `Tidegate-Pack` says how many, its payload is their JSON values, one to a line, in order. It is published and acknowledged as
//! one; `Nats-Msg-Id` is a digest of the records' names. One that is refused is taken apart ([`pending`]). Consumers of the
//! older systems do not know packs.

pub mod async_client;
pub mod client;
pub mod consume;
mod naming;
mod pending;
pub mod publish;
mod servers;
mod verdict;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_nats::{
    Client, ConnectOptions, Event,
    jetstream::{
        self,
        context::GetStreamErrorKind,
        stream::{DiscardPolicy, RetentionPolicy, StorageType, Stream},
    },
};
use tokio::sync::Notify;

pub use self::{naming::Naming, servers::Servers};
use crate::{destination::Choice, raw_message::MessageValue, status::SideStatus};

/// How to reach NATS, and what to do there.
#[derive(Clone, Debug)]
pub struct NatsConfig {
    /// The servers, and the login for them.
    pub servers: Servers,
    /// The stream.
    pub stream: String,
    /// The subject that messages are published on.
    pub subject: String,
    /// Subjects that messages choose by what they hold, instead of that one.
    pub subject_choice: Option<Choice>,
    /// What is written there. Both are read, by the message's `schema`.
    pub value: MessageValue,
    /// The durable consumer.
    pub consumer: String,
    /// Publishes that may wait for their acknowledgement.
    pub in_flight_max: usize,
    /// Records in one NATS message, at most; 1 is off.
    pub pack_messages: usize,
    /// How long an acknowledgement may take before everything unacknowledged is sent again.
    pub ack_timeout: Duration,
}

/// Says how many records a pack carries.
pub const PACK_HEADER: &str = "Tidegate-Pack";

/// Age and number of a new stream's messages: the older system's.
const AGE_MAX: Duration = Duration::from_secs(24 * 3600);
const MESSAGES_MAX: i64 = 1_000_000;

/// What a connection's events come to.
#[derive(Debug, Default)]
struct Link {
    connected: AtomicBool,
    /// There was a connection, and it broke.
    broke: AtomicBool,
    wake: Arc<Notify>,
}

impl Link {
    fn note(&self, event: &Event) {
        match event {
            Event::Connected => self.connected.store(true, Ordering::Release),
            Event::Disconnected | Event::Closed => {
                self.connected.store(false, Ordering::Release);
                self.broke.store(true, Ordering::Release);
            }
            _ => {}
        }
        self.wake.notify_one();
    }
}

/// What becomes of a connection that breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Broken {
    /// The client makes a new one by itself.
    Reconnect,
    /// The client is left to be dropped: what it still holds is never sent.
    StayBroken,
}

/// How long a client that is to be dropped waits for that.
const NEVER: Duration = Duration::from_secs(24 * 3600);

/// Connects, and goes on trying for ever when there is nobody.
async fn connect(
    config: &NatsConfig,
    status: &Arc<SideStatus>,
    link: &Arc<Link>,
    broken: Broken,
) -> Result<Client, String> {
    let (events, told, servers) = (Arc::clone(link), Arc::clone(status), config.servers.clone());
    let once = Arc::clone(link);
    let options = ConnectOptions::new()
        .name("tidegate")
        .retry_on_initial_connect()
        .max_reconnects(None)
        .client_capacity(config.in_flight_max.max(1024))
        // Full jitter on a bound that doubles to 2 s.
        .reconnect_delay_callback(move |attempt| {
            let was_there = once.connected.load(Ordering::Acquire) || once.broke.load(Ordering::Acquire);
            if broken == Broken::StayBroken && was_there {
                return NEVER;
            }
            let bound = 50_u64 << attempt.min(6);
            Duration::from_millis(fastrand::u64(0..=bound.min(2000)))
        })
        .event_callback(move |event| {
            events.note(&event);
            if let Event::ClientError(_) | Event::ServerError(_) | Event::Disconnected = event {
                let event = servers.hide_in(event.to_string());
                told.set_trouble(Some(format!("nats.url = {servers}: {event} (look at NATS_URL)")));
            }
            async {}
        });
    let connected = config.servers.log_in(options).connect(config.servers.addresses()).await;
    connected.map_err(|error| {
        let error = config.servers.hide_in(error.to_string());
        format!("nats.url = {}: {error}; give it as nats://host:port", config.servers)
    })
}

/// The stream; made if it is not there.
async fn stream(context: &jetstream::Context, config: &NatsConfig) -> Result<Stream, String> {
    let named = |error: String| format!("nats.stream = {} at {}: {error}", config.stream, config.servers);
    match context.get_stream(&config.stream).await {
        Ok(found) => {
            let has = &found.cached_info().config;
            if let Some(text) = config.not_covered(&has.subjects) {
                return Err(named(text));
            }
            if has.retention != RetentionPolicy::WorkQueue || has.discard != DiscardPolicy::New {
                tracing::warn!(
                    stream = config.stream,
                    retention = ?has.retention,
                    discard = ?has.discard,
                    "the stream is used as it is; a new one would be a work queue that refuses when it is full"
                );
            }
            Ok(found)
        }
        Err(error) if is_missing(&error) => {
            let made = context.create_stream(config.new_stream()).await;
            made.map_err(|error| named(format!("it does not exist and cannot be created: {error}")))?;
            tracing::info!(stream = config.stream, "the stream was not there and was created");
            context.get_stream(&config.stream).await.map_err(|error| named(error.to_string()))
        }
        Err(error) => Err(named(format!("{error} (is JetStream on? nats-server -js)"))),
    }
}

fn is_missing(error: &jetstream::context::GetStreamError) -> bool {
    const STREAM_NOT_FOUND: u64 = 10059;
    matches!(error.kind(), GetStreamErrorKind::JetStream(error) if error.error_code().0 == STREAM_NOT_FOUND)
}

impl NatsConfig {
    /// All that is published on.
    fn subjects(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.subject.as_str()).chain(self.subject_choice.iter().flat_map(Choice::allowed))
    }

    /// The stream that is made where there is none.
    pub fn new_stream(&self) -> jetstream::stream::Config {
        jetstream::stream::Config {
            name: self.stream.clone(),
            subjects: self.new_subjects(),
            retention: RetentionPolicy::WorkQueue,
            storage: StorageType::File,
            max_age: AGE_MAX,
            max_messages: MESSAGES_MAX,
            discard: DiscardPolicy::New,
            ..Default::default()
        }
    }

    /// What is published on and not taken by a stream with these subjects, in words.
    pub fn not_covered(&self, subjects: &[String]) -> Option<String> {
        let subject = self.subjects().find(|subject| !covers(subjects, subject))?;
        let setting = if subject == self.subject { "nats.subject" } else { "nats.subjects_allowed" };
        Some(format!("its subjects ({}) do not cover {setting} = {subject}", subjects.join(", ")))
    }

    /// The subjects of a new stream.
    fn new_subjects(&self) -> Vec<String> {
        let mut subjects = vec![siblings(&self.subject)];
        for subject in self.subjects() {
            if !covers(&subjects, subject) {
                subjects.push(subject.to_owned());
            }
        }
        subjects
    }
}

/// Whether one of a stream's subjects takes a message on this one: `*` is one token, `>` one or more at the end.
pub fn covers(subjects: &[String], subject: &str) -> bool {
    subjects.iter().any(|pattern| {
        let (mut wanted, mut given) = (pattern.split('.'), subject.split('.'));
        loop {
            match (wanted.next(), given.next()) {
                (Some(">"), Some(_)) | (None, None) => return true,
                (Some(token), Some(found)) if token == "*" || token == found => {}
                _ => return false,
            }
        }
    })
}

/// `diplom.messages` → `diplom.*`, as the older system's stream has it.
fn siblings(subject: &str) -> String {
    subject.rsplit_once('.').map_or_else(|| subject.to_owned(), |(first, _)| format!("{first}.*"))
}

#[cfg(test)]
mod tests {
    use super::covers;

    #[test]
    fn a_subject_is_covered_token_by_token() {
        for (pattern, subject, is_covered) in [
            ("a.*", "a.b", true),
            ("a.*", "a", false),
            ("a.*", "a.b.c", false),
            ("a.>", "a.b.c", true),
            ("a.>", "a", false),
            (">", "a", true),
            ("a.b", "a.b", true),
            ("a.b", "a.bc", false),
            ("*.b", "a.b", true),
        ] {
            assert_eq!(
                covers(&["x".to_owned(), pattern.to_owned()], subject),
                is_covered,
                "{pattern} {subject}"
            );
        }
    }
}
