//! How the events of a request are taken.

use engine_core::Traceparent;
use transports::Wanted;

/// How events are taken.
#[derive(Clone, Debug, Default)]
pub(super) struct Handling {
    /// What was asked for.
    pub(super) wanted: Wanted,
    /// `async`, `batch`: headers in Kafka.
    pub(super) how: Option<&'static str>,
    /// What a repeat of the one event of a request is recognised by when it has no id.
    pub(super) key: Option<String>,
    /// The trace that its events belong to.
    pub(super) trace: Option<Traceparent>,
}
