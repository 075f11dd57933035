//! An event as the aggregates see it, borrowed from whatever it was decoded from.

use serde::{Deserialize, Serialize};

/// What an event is about (`analytics.v1.EventType`, by number).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[repr(u8)]
pub enum Kind {
    /// Not said.
    #[default]
    Unspecified = 0,
    /// What a user did.
    User = 1,
    /// Money.
    Transaction = 2,
    /// What a system reports.
    System = 3,
    /// Anything else, by name.
    Custom = 4,
}

/// Longest detail that is kept with an event, in bytes. Of a longer one nothing is, for half of it says something else.
pub const DETAIL_BYTES_MAX: usize = 4096;

/// The times that events have: the years 1 to 9999, as protobuf's `Timestamp` has them. Sums and differences of them fit.
pub const TIMES_MS: std::ops::RangeInclusive<i64> = -62_135_596_800_000..=253_402_300_799_999;

/// An event.
#[derive(Clone, Copy, Debug, Default)]
pub struct Event<'a> {
    /// Its id. It and the properties are only kept: whoever reads them sees them as far as they are UTF-8.
    pub id: &'a [u8],
    /// Whose it is; empty for nobody's, which is counted and belongs to no profile.
    pub user: &'a str,
    /// Its session; empty: sessions are cut by gaps.
    pub session: &'a str,
    /// What it is about.
    pub kind: Kind,
    /// What it is called and counted under: `EVENT_TYPE_USER`, `page_view`.
    pub name: &'a str,
    /// Where it comes from.
    pub source: &'a str,
    /// When it happened, in milliseconds of the Unix epoch; what is outside [`TIMES_MS`] counts as its end.
    pub timestamp_ms: i64,
    /// What it earned, in millionths of a currency unit; negative for a refund. `None`: it is no transaction.
    pub amount_micros: Option<i64>,
    /// Whether it reports an error.
    pub is_error: bool,
    /// Named values, each added up under its name.
    pub metrics: &'a [(&'a str, f64)],
    /// Free pairs that filters can ask for.
    pub properties: &'a [(&'a [u8], &'a [u8])],
    /// What else it says, in the caller's form; only kept, up to [`DETAIL_BYTES_MAX`]. Empty: nothing.
    pub detail: &'a [u8],
}
