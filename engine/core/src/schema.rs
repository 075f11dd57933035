//! What says that a record is an event, and of which schema: inside the process a bit of its kind
//! ([`KIND_EVENT`](crate::KIND_EVENT)), which no sender can set; where there is only metadata, as in a `DataMessage`, the
//! reserved key [`MARK`].
//!
//! | At | Read as an event |
//! | --- | --- |
//! | `POST /enqueue` | what has the mark, when its sender may send events and it is one by every rule |
//! | a broker | what has the mark, or no mark and the schema of an event under `schema`, when it is one by every rule |
//! | the other routes | nothing: the mark is refused, `schema` is an entry like any other |

use crate::{KEY_OVERRIDE, MetadataPairs};

/// The metadata key that says what a record is. Reserved: Tidegate writes it beside the metadata of events, and of messages whose
/// own `schema` names one, and takes it off again.
pub const MARK: &[u8] = MARK_TEXT.as_bytes();

/// [`MARK`] as text.
pub const MARK_TEXT: &str = "tidegate-schema";

/// The metadata key under which the schema of an event stands; in a message it is an entry like any other.
pub const SCHEMA_KEY: &[u8] = b"schema";

/// The schemas of events: those of `analytics.v1`, of the older analytics system, and of the producer service.
pub const EVENTS: [&[u8]; 3] = [b"analytics.v1.Event", b"analytics.Event", b"producer.Event"];

/// The schema that metadata names at its start, if it is one of an event: looking further would cost every message.
pub fn at_start(metadata: &[u8]) -> Option<&[u8]> {
    let mut pairs = MetadataPairs::new(metadata);
    let (name, value) = match pairs.next()? {
        (KEY_OVERRIDE, _) => pairs.next()?,
        first => first,
    };
    (name == SCHEMA_KEY && EVENTS.contains(&value)).then_some(value)
}

/// What an event says of itself, once it was found to be one by every rule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Judged {
    /// Its own id; empty where it has none.
    pub id: Vec<u8>,
    /// Whose it is, which keeps it together with the user's other events; empty for nobody's.
    pub user: Vec<u8>,
    /// Other bytes that say the same plainly, where the payload does not.
    pub payload: Option<Vec<u8>>,
}
