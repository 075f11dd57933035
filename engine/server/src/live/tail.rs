//! The tail on the page: the latest messages as the cores take them, those with a text in them, as server-sent events.
//! Nothing is looked at before somebody asks for this stream ([`brokers::tap`] says what it costs then).

use std::{collections::VecDeque, convert::Infallible, sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::{RawQuery, State},
    response::{IntoResponse, Response},
};
use brokers::tap::{COPIED_PER_SECOND_MAX, Glimpse, Seen, Watched};
use bytes::Bytes;
use futures_util::stream;
use http::{
    HeaderMap, StatusCode,
    header::{CACHE_CONTROL, CONTENT_TYPE},
};
use serde::Serialize;
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Instant, Interval, MissedTickBehavior, interval},
};
use tonic::Code;

use super::{ENDING, Live, admitted, feed, payload::Payload, refusal};

/// Those who watch at a time: each has a core search every message.
pub const WATCHERS_MAX: usize = 4;
/// Bytes of the text that is searched for.
const TEXT_BYTES_MAX: usize = 256;
/// How often the cores' rings are emptied: often enough for a second's copies.
const PERIOD: Duration = Duration::from_millis(200);
/// A stream on which nothing was said for this long says that it is there.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// A stream's first word.
#[derive(Debug, Serialize)]
struct Opened<'a> {
    /// Messages are those with this text in them; empty: all.
    contains: &'a str,
    cores: usize,
    copied_per_second_max: u32,
    /// Whether payloads are shown: only where there are keys, and so to somebody who has one.
    payloads: bool,
    /// Messages that were looked at since the start, because somebody watched.
    looked_at_before: u64,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct Counts {
    cores: usize,
    looked_at: u64,
    matched: u64,
    shown: u64,
}

#[derive(Debug, Serialize)]
struct Shown {
    at_ms: u64,
    core: usize,
    kind: &'static str,
    /// Empty for what is no event.
    event_type: String,
    id: String,
    source: String,
    /// The level that was asked for, or is the default.
    level: &'static str,
    metadata: Vec<(String, String)>,
    /// Whether one of these texts goes on, or there is more metadata.
    is_cut: bool,
    payload_bytes: usize,
    payload: Option<Payload>,
}

impl Shown {
    fn new(core: usize, glimpse: &Glimpse, has_payload: bool) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self {
            at_ms: glimpse.at_ms,
            core,
            kind: if glimpse.is_event { "event" } else { "message" },
            event_type: text(glimpse.event_type()),
            id: text(glimpse.id()),
            source: text(glimpse.source()),
            level: glimpse.level.name(),
            metadata: glimpse.metadata().map(|(key, value)| (text(key), text(value))).collect(),
            is_cut: glimpse.is_cut,
            payload_bytes: glimpse.payload_bytes,
            payload: has_payload.then(|| Payload::new(glimpse.payload(), glimpse.payload_bytes)),
        }
    }
}

/// The text that is asked for.
fn text(query: Option<&str>) -> String {
    let query = query.unwrap_or_default();
    let mut pairs = form_urlencoded::parse(query.as_bytes());
    pairs.find(|(name, _)| name == "contains").map(|(_, value)| value.into_owned()).unwrap_or_default()
}

/// The stream of messages.
pub(super) async fn watch(
    State(live): State<Arc<Live>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    if let Err(refused) = admitted(&live, &headers) {
        return *refused;
    }
    let unavailable = |text: &str| refusal(StatusCode::SERVICE_UNAVAILABLE, Code::Unavailable, text);
    if live.house.is_draining() {
        return unavailable(ENDING);
    }
    let contains = text(query.as_deref());
    if contains.len() > TEXT_BYTES_MAX {
        let text = format!("contains: at most {TEXT_BYTES_MAX} bytes, not {}", contains.len());
        return refusal(StatusCode::BAD_REQUEST, Code::InvalidArgument, &text);
    }
    let Ok(place) = Arc::clone(&live.tails).try_acquire_owned() else {
        return unavailable(&format!("{WATCHERS_MAX} watch messages, which is the bound: close one"));
    };
    let payloads = !live.platform.guard.is_open();
    let taps = live.house.behind.taps.get();
    let looked_at_before = taps.map_or(0, brokers::tap::Taps::looked_at);
    let Some(watched) = taps.and_then(|taps| taps.open(contains.as_bytes(), payloads)) else {
        return unavailable("a core's loop stands still: /livez says which");
    };
    let opened = Opened {
        contains: &contains,
        cores: live.house.cores.len(),
        copied_per_second_max: COPIED_PER_SECOND_MAX,
        payloads,
        looked_at_before,
    };
    let mut turns = interval(PERIOD);
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let tail = Tail {
        backlog: VecDeque::from([feed::frame("opened", None, &opened)]),
        live,
        watched,
        payloads,
        turns,
        told: None,
        told_at: Instant::now(),
        ended: false,
        _place: place,
    };
    let frames = stream::unfold(tail, async |mut tail| {
        tail.next().await.map(|bytes| (Ok::<_, Infallible>(bytes), tail))
    });
    let fields = [(CONTENT_TYPE, "text/event-stream"), (CACHE_CONTROL, "no-store")];
    (fields, Body::from_stream(frames)).into_response()
}

/// One watcher's stream.
#[derive(Debug)]
struct Tail {
    live: Arc<Live>,
    watched: Watched,
    payloads: bool,
    turns: Interval,
    /// At most what the cores' rings hold.
    backlog: VecDeque<Bytes>,
    told: Option<Counts>,
    told_at: Instant,
    ended: bool,
    /// Given back with the stream.
    _place: OwnedSemaphorePermit,
}

impl Tail {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(bytes) = self.backlog.pop_front() {
                return Some(bytes);
            }
            if self.ended {
                return None;
            }
            tokio::select! {
                _ = self.turns.tick() => self.look(),
                () = self.live.house.until_draining() => {
                    self.ended = true;
                    return Some(feed::frame("ending", None, &ENDING));
                }
            }
        }
    }

    fn look(&mut self) {
        let Self { watched, backlog, payloads, .. } = self;
        let mut shown = Vec::new();
        watched.take(|core, glimpse| shown.push(Shown::new(core, &glimpse, *payloads)));
        // They come core by core.
        shown.sort_by_key(|shown| shown.at_ms);
        backlog.extend(shown.iter().map(|shown| feed::frame("message", None, shown)));
        let Seen { cores, looked_at, matched, copied } = self.watched.seen();
        let counts = Counts { cores, looked_at, matched, shown: copied };
        // Also where nothing is new: the client shall not take that for the end, and that it has gone is seen in writing.
        if self.told.as_ref() != Some(&counts) || self.told_at.elapsed() > HEARTBEAT {
            self.backlog.push_back(feed::frame("counts", None, &counts));
            (self.told, self.told_at) = (Some(counts), Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_what_the_query_says() {
        assert_eq!(text(Some("a=b&contains=k%3Dv+w")), "k=v w");
        assert_eq!((text(Some("contains")), text(None)), (String::new(), String::new()));
    }
}
