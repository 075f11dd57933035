//! What a message looks like in Kafka. Most are `DataMessage`s in one topic ([`crate::data_message`]); the older
//! systems' events have topics, keys, headers and values of their own, which whoever knows events brings along as
//! [`Shapes`].
//!
//! Every record has a header `schema`. Records of the older systems have none: they are told by what they look like.

use std::{fmt::Debug, time::Duration};

use engine_core::Record;

/// A topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    /// Its name.
    pub name: String,
    /// The setting that names it, for what is said when it cannot be had.
    pub setting: &'static str,
    /// Partitions, when it has to be created.
    pub partitions: i32,
    /// How long its records are kept, when it has to be created; `None`: the broker's default.
    pub retention: Option<Duration>,
}

/// A record on its way to Kafka. Kept and cleared by the publisher.
#[derive(Debug, Default)]
pub struct Outgoing {
    /// Where it goes.
    pub topic: String,
    /// What decides about its partition.
    pub key: Vec<u8>,
    /// `schema` among them.
    pub headers: Vec<(&'static str, Vec<u8>)>,
    /// Its content.
    pub value: Vec<u8>,
    /// The record's own time, in seconds of the Unix epoch; `None`: that of its sending. Kafka's retention goes by it, so an
    /// event's own time, which may be long ago, does not belong here.
    pub time_seconds: Option<i64>,
}

impl Outgoing {
    /// Makes it empty, with its memory kept.
    pub fn clear(&mut self) {
        self.topic.clear();
        self.key.clear();
        self.headers.clear();
        self.value.clear();
        self.time_seconds = None;
    }

    /// Adds a header.
    pub fn header(&mut self, name: &'static str, value: &[u8]) {
        self.headers.push((name, value.to_vec()));
    }
}

/// A record that came from Kafka.
#[derive(Clone, Copy, Debug)]
pub struct Arrived<'a> {
    /// Its key; empty when it has none.
    pub key: &'a [u8],
    /// Its content.
    pub value: &'a [u8],
    /// Its headers.
    pub headers: &'a [(&'a str, &'a [u8])],
    /// Its time, in seconds of the Unix epoch.
    pub timestamp_seconds: i64,
}

impl<'a> Arrived<'a> {
    /// The first value of a header.
    pub fn header(&self, name: &str) -> Option<&'a [u8]> {
        self.headers.iter().find(|(known, _)| *known == name).map(|(_, value)| *value)
    }
}

/// The shapes of events.
pub trait Shapes: Debug + Send + Sync {
    /// The topics they are written to and read from.
    fn topics(&self) -> Vec<Topic>;

    /// Writes a record that has a shape of its own. False: it is a `DataMessage`, and `out` is as it was.
    fn write(&self, record: &Record<'_>, out: &mut Outgoing) -> bool;

    /// Reads one of its shapes and lends the record out; an error says what is wrong with it. `None`: it is none of
    /// these.
    fn read(&self, arrived: &Arrived<'_>, then: &mut dyn FnMut(&Record<'_>)) -> Option<Result<(), String>>;

    /// The topic for what of this topic cannot be worked on; `None`: it is kept among the dead letters here.
    fn dead_letters(&self, topic: &str) -> Option<Topic>;
}
