//! A client of `analytics.v1`: events as it sends them, and a stream whose answers are read one by one.

use bytes::Bytes;
use h2::{RecvStream, SendStream};
use http::HeaderMap;
use prost::Message;
use tidegate_proto::analytics::v1::{
    Event, EventType, IngestEventRequest, IngestEventsRequest, StreamConfig, StreamEventsRequest,
    StreamEventsResponse, stream_events_request::Request, stream_events_response::Response,
};

use crate::harness::{H2Peer, framed, patiently, send};

pub(crate) const EVENT: &str = "/analytics.v1.EventIngestionService/IngestEvent";
pub(crate) const EVENTS: &str = "/analytics.v1.EventIngestionService/IngestEvents";
pub(crate) const STREAM: &str = "/analytics.v1.EventIngestionService/StreamEvents";
pub(crate) const GRPC: &str = "application/grpc";

/// A good event.
pub(crate) fn event(id: &str) -> Event {
    Event {
        id: id.to_owned(),
        user_id: "u".to_owned(),
        event_type: EventType::User.into(),
        ..Event::default()
    }
}

/// Events with these ids: the message of a batch, framed.
pub(crate) fn batch(ids: impl IntoIterator<Item = String>) -> Vec<u8> {
    let events = ids.into_iter().map(|id| event(&id)).collect();
    framed(0, &IngestEventsRequest { events, options: None }.encode_to_vec())
}

/// The message of a unary call, framed.
pub(crate) fn unary(id: &str) -> Vec<u8> {
    framed(0, &IngestEventRequest { event: Some(event(id)), options: None }.encode_to_vec())
}

/// An event of a stream, not framed.
pub(crate) fn streamed(id: &str) -> Vec<u8> {
    StreamEventsRequest { request: Some(Request::Event(event(id))) }.encode_to_vec()
}

/// Events of a stream, framed.
pub(crate) fn many(ids: impl IntoIterator<Item = String>) -> Bytes {
    ids.into_iter().flat_map(|id| framed(0, &streamed(&id))).collect::<Vec<u8>>().into()
}

/// What a stream wants, framed.
pub(crate) fn config(batch_size: i32, flush_interval_ms: i64) -> Vec<u8> {
    let flush_interval = Some(prost_types::Duration {
        seconds: flush_interval_ms / 1000,
        nanos: i32::try_from(flush_interval_ms % 1000).unwrap() * 1_000_000,
    });
    let config = Request::Config(StreamConfig { batch_size, flush_interval });
    framed(0, &StreamEventsRequest { request: Some(config) }.encode_to_vec())
}

/// What a stream's client is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// An event was taken or not: its id, what is said of it.
    Event(String, bool, String),
    /// How the stream is: how many wait, what is said.
    Status(i32, String),
}

impl Told {
    /// A stored event.
    pub(crate) fn stored(id: &str) -> Self {
        Told::Event(id.to_owned(), true, "accepted".to_owned())
    }

    /// A status.
    pub(crate) fn status(pending: i32, text: &str) -> Self {
        Told::Status(pending, text.to_owned())
    }
}

/// The answers of a stream.
pub(crate) struct Answers {
    pub(crate) head: HeaderMap,
    body: RecvStream,
    read: Vec<u8>,
}

/// How a stream ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct End {
    pub(crate) code: String,
    pub(crate) text: String,
}

/// Opens a stream; its head comes at once.
pub(crate) async fn open(peer: &H2Peer, fields: &[(&str, &str)]) -> (SendStream<Bytes>, Answers) {
    let (answer, stream) = peer.open_with(STREAM, GRPC, fields).await;
    let (head, body) = patiently(answer).await.unwrap().into_parts();
    (stream, Answers { head: head.headers, body, read: Vec::new() })
}

impl Answers {
    /// The next answer; `None` at the end.
    pub(crate) async fn next(&mut self) -> Option<Told> {
        loop {
            if let Some(prefix) = self.read.first_chunk::<5>() {
                assert_eq!(prefix[0], 0, "not compressed");
                let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize;
                if let Some(message) = self.read.get(5..5 + length) {
                    let response = StreamEventsResponse::decode(message).unwrap().response.unwrap();
                    self.read.drain(..5 + length);
                    return Some(match response {
                        Response::EventResponse(of) => Told::Event(of.event_id, of.success, of.message),
                        Response::Status(status) => Told::Status(status.pending_events, status.message),
                    });
                }
            }
            let data = patiently(self.body.data()).await;
            let Some(data) = data else {
                assert!(self.read.is_empty(), "half an answer at the end: {:?}", self.read);
                return None;
            };
            let data = data.unwrap();
            self.body.flow_control().release_capacity(data.len()).unwrap();
            self.read.extend_from_slice(&data);
        }
    }

    /// All answers to the end, and how it ended.
    pub(crate) async fn rest(&mut self) -> (Vec<Told>, End) {
        let mut all = Vec::new();
        while let Some(told) = self.next().await {
            all.push(told);
        }
        let trailers = patiently(self.body.trailers()).await.unwrap();
        let trailers = trailers.unwrap_or_else(|| self.head.clone());
        let field = |name| trailers.get(name).map_or("", |value| value.to_str().unwrap()).to_owned();
        (all, End { code: field("grpc-status"), text: field("grpc-message").replace("%20", " ") })
    }

    /// The ids of all events that were answered, in the order of the answers, and how it ended.
    pub(crate) async fn ids(&mut self) -> (Vec<String>, End) {
        let (all, end) = self.rest().await;
        let ids = all.into_iter().filter_map(|told| match told {
            Told::Event(id, stored, text) => {
                assert!(stored, "{id}: {text}");
                Some(id)
            }
            Told::Status(..) => None,
        });
        (ids.collect(), end)
    }
}

/// Sends all of this and ends the stream.
pub(crate) async fn send_and_end(stream: SendStream<Bytes>, body: impl Into<Bytes>) {
    let body = body.into();
    let mut stream = patiently(send(stream, body, false)).await.unwrap();
    // A stream that failed meanwhile needs no end.
    let _ = stream.send_data(Bytes::new(), true);
}

/// A stream that has said all of this, and ends.
pub(crate) async fn told(peer: &H2Peer, body: impl Into<Bytes>) -> (Vec<Told>, End) {
    told_with(peer, &[], body).await
}

/// As [`told`], with further fields in the request.
pub(crate) async fn told_with(
    peer: &H2Peer,
    fields: &[(&str, &str)],
    body: impl Into<Bytes>,
) -> (Vec<Told>, End) {
    let (stream, mut answers) = open(peer, fields).await;
    send_and_end(stream, body).await;
    answers.rest().await
}
