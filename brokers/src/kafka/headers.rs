//! Reading a record's headers.

use std::panic::{AssertUnwindSafe, catch_unwind};

use rdkafka::message::{Headers, Message};

/// The names and values of a record's headers; `None` when a name is not UTF-8.
///
/// rdkafka 0.39 panics there, and has no other way to read them ("`Headers::get`", an `unwrap` on `to_str`). Anybody who may
/// write to the topic can write such a name, and a panic would end this thread, again and again after every start.
pub(super) fn headers<M: Message>(message: &M) -> Option<Vec<(&str, &[u8])>> {
    let read = || {
        let headers = message.headers().into_iter().flat_map(Headers::iter);
        headers.map(|header| (header.key, header.value.unwrap_or_default())).collect()
    };
    // Nothing is changed by what panics: it reads.
    catch_unwind(AssertUnwindSafe(read)).ok()
}
