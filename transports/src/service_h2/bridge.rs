//! The bridge of an HTTP/2 stream to the cold lane and back.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri};
use tokio::sync::mpsc;

use super::{Service, Stream, refuse};
use crate::{
    answer::Refusal,
    cold::{Arrival, ColdAnswer, ColdBody, ColdCall, ColdEvent, ColdHold, PieceSender},
    counters::{Cause, Tally},
    grpc::{Code, Status},
    grpc_answer::{fail, is_grpc},
    h2::{Block, ErrorCode, Replies, RequestHead, StreamId},
};

/// The head of a request for the cold lane.
#[derive(Debug)]
pub(crate) struct ColdHead {
    pub(super) method: Method,
    uri: Uri,
    headers: HeaderMap,
    pub(super) grpc: bool,
}

/// A call the cold lane works on.
pub(crate) struct Cold {
    hold: ColdHold,
    pub(super) body: Option<PieceSender>,
    pub(super) begun: bool,
    grpc: bool,
    head_only: bool,
    /// Bytes of its answer that were queued and not yet given back as credit.
    owed: usize,
}

impl Service {
    /// Passes a request to the cold lane: with its whole body, or for gRPC with one that is still arriving.
    pub(super) fn pass_on(
        &mut self,
        id: StreamId,
        head: &ColdHead,
        whole: Option<Bytes>,
        replies: &mut Replies<'_>,
    ) -> Stream {
        let (sender, _) = self.events.get_or_insert_with(mpsc::unbounded_channel);
        let (body, pieces) = match whole {
            Some(bytes) => (ColdBody::whole(bytes), None),
            None => {
                let (pieces, body) = ColdBody::pieces(id.get(), sender.clone());
                (body, Some(pieces))
            }
        };
        let mut request = Request::new(body);
        *request.method_mut() = head.method.clone();
        *request.uri_mut() = head.uri.clone();
        *request.headers_mut() = head.headers.clone();
        *request.version_mut() = http::Version::HTTP_2;
        request.extensions_mut().insert(Arrival { role: self.origin.role, peer: self.origin.peer });
        let (answer, hold) = ColdAnswer::new(id.get(), sender.clone());
        if self.core.shared.cold.try_send(ColdCall { request, answer }).is_err() {
            self.core.counters.hit(Cause::ColdLaneFull);
            let text = "Too many requests wait for an answer of this kind";
            if head.grpc {
                fail(id, &Status::new(Code::Unavailable, text), true, replies);
            } else {
                refuse(id, &Refusal::new(503, Code::Unavailable, text), &self.core.date.get(), replies);
            }
            return Stream::Answered;
        }
        self.core.counters.add(Tally::ColdCalls, 1);
        self.cold_streams += 1;
        let head_only = head.method == Method::HEAD;
        Stream::Cold(Box::new(Cold { hold, body: pieces, begun: false, grpc: head.grpc, head_only, owed: 0 }))
    }

    /// Puts an event of the cold lane into its stream.
    pub(crate) fn answer(
        &mut self,
        id: StreamId,
        stream: &mut Stream,
        event: ColdEvent,
        replies: &mut Replies<'_>,
    ) {
        let Stream::Cold(cold) = &mut *stream else { return };
        let done = match event {
            ColdEvent::Head(parts, ends) => {
                let mut block = Block::new(parts.status.as_u16());
                for (name, value) in &parts.headers {
                    // RFC 9113 §8.2.2: these speak of a connection, and HTTP/2 has its own.
                    if !matches!(name.as_str(), "connection" | "keep-alive" | "transfer-encoding" | "upgrade")
                    {
                        block.push(name.as_str().as_bytes(), value.as_bytes());
                    }
                }
                if !cold.grpc {
                    block.push(b"date", &self.core.date.get());
                }
                let ends = ends || cold.head_only;
                replies.head(id, &block, ends);
                cold.begun = true;
                ends
            }
            ColdEvent::Data(bytes) => {
                // The credit is no larger than the stream's queue, so it always takes all.
                let taken = replies.data(id, &bytes, false);
                cold.owed += bytes.len();
                if taken < bytes.len() {
                    replies.reset(id, ErrorCode::INTERNAL_ERROR);
                }
                taken < bytes.len()
            }
            ColdEvent::End(trailers) => {
                match trailers {
                    Some(trailers) => {
                        let mut block = Block::trailers();
                        for (name, value) in &trailers {
                            block.push(name.as_str().as_bytes(), value.as_bytes());
                        }
                        replies.trailers(id, &block);
                    }
                    None => {
                        let _nothing = replies.data(id, &[], true);
                    }
                }
                true
            }
            ColdEvent::Failed => {
                let text = "The request could not be answered";
                match (cold.begun, cold.grpc) {
                    (true, _) => replies.reset(id, ErrorCode::INTERNAL_ERROR),
                    (false, true) => fail(id, &Status::new(Code::Internal, text), false, replies),
                    (false, false) => {
                        refuse(id, &Refusal::new(500, Code::Internal, text), &self.core.date.get(), replies);
                    }
                }
                true
            }
            ColdEvent::Taken(bytes) => {
                replies.credit(id, bytes);
                false
            }
        };
        if done {
            let before = std::mem::replace(stream, Stream::Answered);
            self.forget(id, &before);
        }
    }

    /// Whether bytes of a stream's answer are on their way whose credit was not given back.
    pub(crate) fn owes_credit(stream: &Stream) -> bool {
        matches!(stream, Stream::Cold(cold) if cold.owed > 0)
    }

    /// Gives credit back for all but the `queued` bytes.
    pub(crate) fn credit_sent(stream: &mut Stream, queued: usize) {
        if let Stream::Cold(cold) = stream {
            let sent = cold.owed.saturating_sub(queued);
            cold.owed -= sent;
            cold.hold.sent(sent);
        }
    }
}

/// Reads the head of a request for the cold lane.
pub(super) fn cold_head(head: &RequestHead<'_>) -> Result<ColdHead, http::Error> {
    let mut headers = HeaderMap::new();
    for (name, value) in head.fields() {
        headers.append(HeaderName::from_bytes(name)?, HeaderValue::from_bytes(value)?);
    }
    if let Some(authority) = head.authority() {
        headers.entry(http::header::HOST).or_insert(HeaderValue::from_bytes(authority)?);
    }
    Ok(ColdHead {
        method: Method::from_bytes(head.method())?,
        uri: Uri::try_from(head.path())?,
        grpc: is_grpc(head.field(b"content-type")),
        headers,
    })
}
