//! Decoders for what the hot routes take in: JSON bodies and protobuf messages.
//!
//! They borrow from the body and allocate only where a text has to change on its way (an escape in a JSON
//! string). A message is validated whole before a caller sees any of it, so nothing malformed is ever half
//! enqueued, and its sizes are known before a slot is taken for it.

mod answer;
mod data_message;
mod encode;
mod error;
mod event;
mod event_answer;
mod event_json;
mod event_request;
mod ingest_json;
mod json;
mod pairs;
mod protobuf;
mod shape;
mod strict;
mod wire;

pub use answer::{write_error, write_json_text};
pub use data_message::{DataMessage, decode_data_message};
pub use error::{Class, MessageError};
pub use event::{
    About, EVENT_AHEAD_MS_MAX, EVENT_ID_CHARS_MAX, EVENT_NAME_BYTES_MAX, EventProto, Metrics, decode_event,
    read_event,
};
pub use event_answer::{
    NotTaken, Stamp, encode_event_response, encode_events_response, encode_stream_status, encode_streamed,
    encode_streamed_response, write_event_response, write_events_response,
};
pub use event_json::{transcode_event, transcode_events, transcode_lines};
pub use event_request::{StreamedRequest, event_of_request, events_of_request, read_streamed};
pub use ingest_json::{IngestJson, decode_ingest_json};
pub use pairs::{Pairs, PairsIter};
pub use protobuf::{
    DataKind, IngestProto, MetadataIter, MetadataProto, decode_ingest_proto, encode_ingest_response,
};
pub use strict::check_json;

/// How deep a JSON document may nest; its outermost object is depth 1.
pub const JSON_DEPTH_MAX: usize = 64;

/// How many metadata pairs one message may carry. A pair costs a few bytes on the wire and many times that
/// in memory, so the body limit alone would not bound it.
pub const METADATA_PAIRS_MAX: usize = 1024;
