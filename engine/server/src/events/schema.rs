//! Which of the schemas of events a record has.

use engine_core::{
    KIND_EVENT, Record,
    schema::{self, EVENTS},
};

/// The older system's events, as their JSON.
pub(super) const LEGACY_SCHEMA: &[u8] = EVENTS[1];
/// The producer service's events, as their JSON.
pub(super) const PRODUCER_SCHEMA: &[u8] = EVENTS[2];

/// The schema of a record, if it is an event.
pub(super) fn schema<'a>(record: &Record<'a>) -> Option<&'a [u8]> {
    if record.kind & KIND_EVENT == 0 { None } else { schema::at_start(record.metadata) }
}
