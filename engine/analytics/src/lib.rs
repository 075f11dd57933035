//! Live aggregates over a stream of events.
//!
//! ```text
//! event ─▶ Part::add (on the core of its user)
//!             ├ buckets   counts by minute, hour, day: all events, whatever the bounds
//!             ├ users     profiles, sessions
//!             └ chunks    the latest events in columns ─▶ View ─▶ funnels, filters
//! query ─▶ every core's part, one after the other ─▶ merged
//! ```
//!
//! A user's events are all on one core, so users, sessions and funnels of the cores add up without overlap. Nothing in
//! here knows a runtime, a socket or a clock.

mod buckets;
mod chunk;
mod counted;
mod event;
mod filter;
mod funnel;
mod lendable;
mod names;
mod part;
mod quantiles;
mod reshard;
mod scan;
mod sessions;
mod sketch;
mod snapshot;
mod users;

pub use buckets::{Bucket, DAY_MS, HOUR_MS, MINUTE_MS, Values};
pub use event::{DETAIL_BYTES_MAX, Event, Kind, TIMES_MS};
pub use filter::Filter;
pub use funnel::{STEPS_MAX, Step, funnel};
pub use names::Names;
pub use part::{Bounds, Found, History, Part, View};
pub use quantiles::Quantiles;
pub use reshard::reshard;
pub use scan::{Counted, scan, sessions_begun};
pub use sessions::{GAP_MS, SESSIONS_MAX, Session, Sessions};
pub use sketch::Sketch;
pub use snapshot::{Damage, Snapshot};
pub use users::Profile;
