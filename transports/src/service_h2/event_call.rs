//! A request for an event route, and what the parts of its answer share.

use std::{rc::Rc, time::Duration};

use super::bridge::ColdHead;
use crate::{
    events::EventHead,
    grpc::{Encoding, PREFIX_BYTES},
    routes::Endpoint,
};

/// A request for an event route.
#[derive(Debug)]
pub(crate) struct EventCall {
    pub(super) head: EventHead,
    pub(super) encoding: Encoding,
    pub(super) timeout: Option<Duration>,
    /// Whether a batch comes as lines of JSON.
    pub(super) lines: bool,
    /// The same head for the cold lane.
    pub(super) cold: Rc<ColdHead>,
}

impl EventCall {
    pub(super) fn endpoint(&self) -> Endpoint {
        self.head.endpoint
    }
}

/// Fills in the length of a gRPC message whose prefix stands at `start`.
pub(super) fn set_length(out: &mut [u8], start: usize) {
    let length = (out.len() - start - PREFIX_BYTES) as u32;
    if let Some(place) = out.get_mut(start + 1..start + PREFIX_BYTES) {
        place.copy_from_slice(&length.to_be_bytes());
    }
}
