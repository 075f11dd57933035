//! `analytics.v1.EventIngestionService`.

use std::{
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use engine_core::{AckLevel, TRACE_FIELD, Traceparent, schema::Judged};
use futures_util::FutureExt;
use prost::Message;
use tidegate_proto::analytics::v1::{
    Event, HealthResponse, IngestEventRequest, IngestEventResponse, IngestEventsRequest,
    IngestEventsResponse, IngestMetadata, IngestOptions, StreamEventsRequest, StreamEventsResponse,
    StreamStatus, ValidationError, event_ingestion_service_server::EventIngestionService,
    stream_events_request, stream_events_response,
};
use tidegate_proto::wrong_value;
use tokio::sync::mpsc;
use tokio_stream::{Stream, StreamExt, wrappers::ReceiverStream};
use tonic::{
    Code, Request, Response, Status, Streaming,
    metadata::{AsciiMetadataValue, MetadataMap},
};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};
use transports::{
    AckPolicy, Asked, EventRules, Examined,
    events::place_of,
    grpc,
    inject::{Fate, NotTaken, Stored},
};

use super::{
    Platform,
    calendar::now_ms,
    handling::Handling,
    reached::{ACK, Reached},
    record::{judge, record},
    validate::check,
};

/// Events of a batch.
pub(super) const BATCH_MAX: usize = 1000;
/// The longest wait that a caller may allow, in seconds.
pub(super) const TIMEOUT_SECONDS_MAX: i32 = 300;
/// The wait of a caller that says nothing, in seconds.
const TIMEOUT_SECONDS: u64 = 30;
/// Events of a stream that are sent into the engine together.
const STREAM_BATCH: usize = 100;

/// The metadata key, and the field, of a caller's own key.
pub(super) const KEY: &str = "idempotency-key";

/// The trace that a call belongs to.
pub(super) fn trace_of_call(metadata: &MetadataMap) -> Option<Traceparent> {
    Traceparent::of_request(metadata.get_all(TRACE_FIELD).iter().map(AsciiMetadataValue::as_bytes))
}

/// The lower of two levels, as far as there are any.
pub(super) fn lower(one: Option<AckLevel>, other: Option<AckLevel>) -> Option<AckLevel> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

/// What became of an event.
enum Ended {
    /// `None`: it was only looked at.
    Stored {
        id: String,
        stored: Option<Stored>,
    },
    Invalid {
        id: String,
        errors: Vec<ValidationError>,
    },
    Refused {
        id: String,
        why: NotTaken,
    },
}

pub(super) fn status_of(why: &NotTaken) -> Status {
    Status::new(Code::from_i32(why.code.number().into()), why.text.clone())
}

/// `INVALID_ARGUMENT` with `google.rpc.BadRequest`.
pub(super) fn invalid(errors: &[ValidationError]) -> Status {
    let violations: Vec<FieldViolation> =
        errors.iter().map(|error| FieldViolation::new(error.field.clone(), error.message.clone())).collect();
    let first =
        errors.first().map_or_else(String::new, |error| format!("{}: {}", error.field, error.message));
    Status::with_error_details(Code::InvalidArgument, first, ErrorDetails::with_bad_request(violations))
}

fn ingested(node: &str, since: Instant) -> Option<IngestMetadata> {
    Some(IngestMetadata {
        processed_at: Some(SystemTime::now().into()),
        processing_node: node.to_owned(),
        processing_time: prost_types::Duration::try_from(since.elapsed()).ok(),
    })
}

fn response(
    node: &str,
    ended: Ended,
    options: Option<&IngestOptions>,
    since: Instant,
) -> IngestEventResponse {
    let metadata = ingested(node, since);
    match ended {
        Ended::Stored { id, stored } => IngestEventResponse {
            success: true,
            event_id: id,
            message: match options {
                _ if stored.is_some_and(|stored| stored.duplicate) => "duplicate",
                Some(options) if options.validate_only => "valid",
                Some(options) if options.r#async => "queued",
                _ => "accepted",
            }
            .to_owned(),
            validation_errors: Vec::new(),
            metadata,
        },
        Ended::Invalid { id, errors } => IngestEventResponse {
            success: false,
            event_id: id,
            message: "invalid".to_owned(),
            validation_errors: errors,
            metadata,
        },
        Ended::Refused { id, why } => IngestEventResponse {
            success: false,
            event_id: id,
            message: why.text,
            validation_errors: Vec::new(),
            metadata,
        },
    }
}

/// Judges the events of streams that the hot lane finds not plain.
#[derive(Debug)]
pub struct Rules {
    node: Arc<str>,
}

impl Rules {
    /// The rules of [`super::validate`]; `node` is what this process calls itself.
    pub fn new(node: Arc<str>) -> Self {
        Self { node }
    }
}

impl EventRules for Rules {
    fn examine(&self, event: &[u8], at: &str) -> Examined {
        let since = Instant::now();
        let ended = match Event::decode(event) {
            Ok(event) => {
                let errors = check(&event, at, now_ms());
                if errors.is_empty() {
                    return Examined::Good(event.encode_to_vec());
                }
                Ended::Invalid { id: event.id, errors }
            }
            Err(error) => {
                let error = error.to_string();
                let Some(text) = wrong_value(&error) else { return Examined::Broken(error) };
                let wrong = ValidationError {
                    field: at.to_owned(),
                    message: text.to_owned(),
                    code: "INVALID".to_owned(),
                };
                Ended::Invalid { id: readable_id(event), errors: vec![wrong] }
            }
        };
        Examined::Bad(response(&self.node, ended, None, since).encode_to_vec())
    }

    fn judge(&self, schema: &[u8], event: &[u8]) -> Result<Judged, String> {
        judge(schema, event)
    }
}

/// The id of an event that cannot be decoded, for its answer; empty when it cannot be read either.
fn readable_id(event: &[u8]) -> String {
    #[derive(Clone, PartialEq, Message)]
    struct Id {
        #[prost(string, tag = "1")]
        id: String,
    }
    Id::decode(event).map(|event| event.id).unwrap_or_default()
}

impl Platform {
    /// What a request asks for, by its metadata and by what of it asks not to wait.
    pub(super) fn ask(&self, metadata: &MetadataMap, asynchronous: Option<&str>) -> Result<Asked, Status> {
        let named = metadata.get_all(ACK).iter().map(AsciiMetadataValue::as_bytes);
        self.acks.ask(named, asynchronous).map_err(|why| status_of(&why))
    }

    /// How the events of a stream are to be taken, and the level that this comes to. A stream whose level cannot be
    /// honoured now is not begun.
    pub(super) fn handling_of_stream(&self, metadata: &MetadataMap) -> Result<(Handling, AckLevel), Status> {
        let handling = self.handling(metadata, None, false)?;
        let level = self.ask(metadata, None)?.level;
        self.acks.admit(level).map_err(|why| status_of(&why))?;
        Ok((handling, level))
    }

    /// How the events of a request are to be taken.
    fn handling(
        &self,
        metadata: &MetadataMap,
        options: Option<&IngestOptions>,
        is_batch: bool,
    ) -> Result<Handling, Status> {
        let seconds = options.map_or(0, |options| options.timeout_seconds);
        if !(0..=TIMEOUT_SECONDS_MAX).contains(&seconds) {
            return Err(invalid(&[ValidationError {
                field: "options.timeout_seconds".to_owned(),
                message: format!("expected 0 to {TIMEOUT_SECONDS_MAX}, not {seconds}"),
                code: "OUT_OF_RANGE".to_owned(),
            }]));
        }
        let is_async = options.is_some_and(|options| options.r#async);
        let asked = self.ask(metadata, is_async.then_some("options.async"))?;
        Ok(Handling {
            wanted: asked.wanted,
            how: match (is_batch, is_async) {
                (true, _) => Some("batch"),
                (false, true) => Some("async"),
                (false, false) => None,
            },
            key: None,
            trace: trace_of_call(metadata),
        })
    }

    /// Checks events and sends the good ones. In order.
    async fn take(
        &self,
        events: &[Event],
        at: impl Fn(usize) -> String,
        options: Option<&IngestOptions>,
        handling: &Handling,
    ) -> Vec<Ended> {
        let now_ms = now_ms();
        let mut ended = Vec::with_capacity(events.len());
        let (mut sent, mut places) = (Vec::new(), Vec::new());
        for (place, event) in events.iter().enumerate() {
            let errors = check(event, &at(place), now_ms);
            let ours = || handling.key.clone().unwrap_or_else(|| uuid::Uuid::now_v7().to_string());
            let id = if event.id.is_empty() { ours() } else { event.id.clone() };
            if !errors.is_empty() {
                ended.push(Ended::Invalid { id, errors });
                continue;
            }
            if !options.is_some_and(|options| options.validate_only) {
                sent.push(record(event, id.clone(), handling));
                places.push(place);
            }
            ended.push(Ended::Stored { id, stored: None });
        }
        if sent.is_empty() {
            return ended;
        }
        let fates = self.injector.send(sent, handling.wanted).await;
        for (place, fate) in places.into_iter().zip(fates) {
            let Ended::Stored { id, .. } = &ended[place] else { continue };
            let id = id.clone();
            ended[place] = match fate {
                Fate::Ok(stored) => Ended::Stored { id, stored: Some(stored) },
                Fate::Err(why) => Ended::Refused { id, why },
            };
        }
        ended
    }
}

impl Platform {
    /// Answers a stream's events in order, as they come.
    pub(super) fn answer_stream(
        &self,
        requests: impl Stream<Item = Result<StreamEventsRequest, Status>> + Send + 'static,
        handling: Handling,
    ) -> ReceiverStream<Result<StreamEventsResponse, Status>> {
        // A client that does not read its answers is not read from either.
        let (sender, answers) = mpsc::channel(2 * STREAM_BATCH);
        let platform = self.clone();
        tokio::spawn(async move {
            // Who asked may be gone: that is the end, too.
            let _ = platform.work_on_stream(Box::pin(requests), &handling, &sender).await;
        });
        ReceiverStream::new(answers)
    }

    async fn work_on_stream(
        &self,
        mut requests: Pin<Box<dyn Stream<Item = Result<StreamEventsRequest, Status>> + Send>>,
        handling: &Handling,
        sender: &mpsc::Sender<Result<StreamEventsResponse, Status>>,
    ) -> Result<(), mpsc::error::SendError<Result<StreamEventsResponse, Status>>> {
        let answer = |response| Ok(StreamEventsResponse { response: Some(response) });
        let status = |message: String| {
            answer(stream_events_response::Response::Status(StreamStatus {
                connected: true,
                pending_events: 0,
                message,
            }))
        };
        let mut number = 0_usize;
        let mut next = requests.next().await;
        while let Some(first) = next.take() {
            // What has come already goes along.
            let (mut events, mut configured, mut trouble) = (Vec::new(), false, None);
            let mut come = Some(first);
            while let Some(message) = come.take() {
                match message.map(|message| message.request) {
                    Ok(Some(stream_events_request::Request::Event(event))) => events.push(event),
                    Ok(Some(stream_events_request::Request::Config(_))) => configured = true,
                    Ok(None) => {}
                    Err(status) => trouble = Some(status),
                }
                if events.len() < STREAM_BATCH && !configured && trouble.is_none() {
                    come = requests.next().now_or_never().flatten();
                }
            }
            let since = Instant::now();
            let base = number;
            number += events.len();
            for ended in self.take(&events, |place| format!("events[{}]", base + place), None, handling).await
            {
                let response = response(&self.node, ended, None, since);
                sender.send(answer(stream_events_response::Response::EventResponse(response))).await?;
            }
            if let Some(trouble) = trouble {
                return sender.send(Err(trouble)).await;
            }
            if configured {
                sender.send(status("configured".to_owned())).await?;
            }
            next = requests.next().await;
        }
        sender.send(status(format!("end of stream: {number} events"))).await
    }
}

/// The wait that the caller allows, which was found to be in range.
fn timeout(options: Option<&IngestOptions>) -> Duration {
    let seconds = options.map_or(0, |options| options.timeout_seconds);
    Duration::from_secs(if seconds == 0 { TIMEOUT_SECONDS } else { seconds.unsigned_abs().into() })
}

async fn in_time<T>(options: Option<&IngestOptions>, work: impl Future<Output = T>) -> Result<T, Status> {
    let unknown = "unknown: not answered within timeout_seconds, it may still be stored; send it again with the same id";
    tokio::time::timeout(timeout(options), work).await.map_err(|_| Status::deadline_exceeded(unknown))
}

#[tonic::async_trait]
impl EventIngestionService for Platform {
    type StreamEventsStream = Pin<Box<dyn Stream<Item = Result<StreamEventsResponse, Status>> + Send>>;

    async fn ingest_event(
        &self,
        request: Request<IngestEventRequest>,
    ) -> Result<Response<IngestEventResponse>, Status> {
        let since = Instant::now();
        let (metadata, _, IngestEventRequest { event, options }) = request.into_parts();
        let options = options.as_ref();
        let mut handling = self.handling(&metadata, options, false)?;
        let id = event.as_ref().map_or("", |event| &event.id);
        let keys = metadata.get_all(KEY).iter().map(AsciiMetadataValue::as_bytes);
        let key = AckPolicy::read_key(keys, id.as_bytes()).map_err(|why| status_of(&why))?;
        handling.key = key.and_then(|key| String::from_utf8(key).ok());
        let event = event.ok_or_else(|| {
            invalid(&[ValidationError {
                field: "event".to_owned(),
                message: "expected an event".to_owned(),
                code: "REQUIRED".to_owned(),
            }])
        })?;
        let validate_only = options.is_some_and(|options| options.validate_only);
        let taken = self.take(std::slice::from_ref(&event), |_| "event".to_owned(), options, &handling);
        match in_time(options, taken).await?.pop() {
            Some(Ended::Invalid { errors, .. }) if !validate_only => Err(invalid(&errors)),
            Some(Ended::Refused { why, .. }) => Err(status_of(&why)),
            Some(ended) => {
                let stored = if let Ended::Stored { stored, .. } = &ended { *stored } else { None };
                let mut answer = Response::new(response(&self.node, ended, options, since));
                if let Some(stored) = &stored {
                    Reached::by(stored).tell(&mut answer);
                }
                Ok(answer)
            }
            None => Err(Status::internal("an event without a fate")),
        }
    }

    async fn ingest_events(
        &self,
        request: Request<IngestEventsRequest>,
    ) -> Result<Response<IngestEventsResponse>, Status> {
        let since = Instant::now();
        let (metadata, _, IngestEventsRequest { events, options }) = request.into_parts();
        let options = options.as_ref();
        let handling = self.handling(&metadata, options, true)?;
        if events.is_empty() || events.len() > BATCH_MAX {
            return Err(invalid(&[ValidationError {
                field: "events".to_owned(),
                message: format!("expected 1 to {BATCH_MAX} events, not {}", events.len()),
                code: "OUT_OF_RANGE".to_owned(),
            }]));
        }
        let mut answer = IngestEventsResponse::default();
        let taken = self.take(&events, |place| format!("events[{place}]"), options, &handling);
        let ended = in_time(options, taken).await?;
        // Nothing was taken, and not for what the events are: the caller has to try again.
        if let Some(Ended::Refused { why, .. }) = ended.first()
            && ended.iter().all(|ended| matches!(ended, Ended::Refused { .. }))
        {
            let named = |text: &str| format!("{}: {text}", place_of(0, why.code));
            let text =
                if why.code == grpc::Code::AlreadyExists { named(&why.text) } else { why.text.clone() };
            return Err(status_of(&NotTaken { text, ..why.clone() }));
        }
        let mut lowest: Option<AckLevel> = None;
        for (place, ended) in ended.into_iter().enumerate() {
            match ended {
                Ended::Stored { stored, .. } => {
                    answer.processed_count += 1;
                    lowest = lower(lowest, stored.map(|stored| stored.level));
                }
                Ended::Invalid { id, errors } => {
                    answer.failed_event_ids.push(id);
                    answer.validation_errors.extend(errors);
                }
                Ended::Refused { id, why } => {
                    let error = ValidationError {
                        field: place_of(place, why.code),
                        message: why.text,
                        code: why.code.name().to_owned(),
                    };
                    answer.failed_event_ids.push(id);
                    answer.validation_errors.push(error);
                }
            }
        }
        answer.failed_count = i32::try_from(answer.failed_event_ids.len()).unwrap_or(i32::MAX);
        answer.success = answer.failed_count == 0;
        answer.metadata = ingested(&self.node, since);
        let mut answer = Response::new(answer);
        Reached::by_all(lowest).tell(&mut answer);
        Ok(answer)
    }

    async fn stream_events(
        &self,
        request: Request<Streaming<StreamEventsRequest>>,
    ) -> Result<Response<Self::StreamEventsStream>, Status> {
        let (handling, level) = self.handling_of_stream(request.metadata())?;
        let mut answer: Response<Self::StreamEventsStream> =
            Response::new(Box::pin(self.answer_stream(request.into_inner(), handling)));
        Reached::by_all(Some(level)).tell(&mut answer);
        Ok(answer)
    }

    async fn health(&self, _: Request<()>) -> Result<Response<HealthResponse>, Status> {
        Ok(Response::new(health("event-ingestion")))
    }
}

/// A service that answers is healthy; whether messages can be kept is `/ready`'s to say.
pub(super) fn health(service: &str) -> HealthResponse {
    HealthResponse {
        healthy: true,
        status: "healthy".to_owned(),
        timestamp: Some(SystemTime::now().into()),
        details: [("service".to_owned(), service.to_owned())].into(),
        services: Vec::new(),
    }
}
