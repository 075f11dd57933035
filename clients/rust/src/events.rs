//! Events: `analytics.v1.EventIngestionService`.

use futures_util::{Stream, StreamExt};
use tidegate_proto::analytics::v1::{
    Event, IngestEventRequest, IngestEventResponse, IngestEventsRequest, IngestEventsResponse,
    StreamEventsRequest, StreamEventsResponse, event_ingestion_service_client::EventIngestionServiceClient,
    stream_events_request,
};
use tonic::Streaming;

use crate::{Answer, CallOptions, Client, Error, call::MESSAGE_BYTES_MAX, retry::Repeat};

/// A UUID of version 7, as the server would give it: ids sort by time.
pub(crate) fn new_id() -> String {
    uuid::Uuid::now_v7().to_string()
}

impl Client {
    fn with_id(&self, mut event: Event) -> Event {
        if event.id.is_empty() && self.config.give_ids {
            event.id = new_id();
        }
        event
    }

    /// Sends an event; without an id it gets the key of the options, or one of ours.
    ///
    /// # Errors
    ///
    /// Of the call. What is wrong with an event is `INVALID_ARGUMENT`, whose details name each field.
    pub async fn ingest_event(
        &self,
        event: Event,
        options: &CallOptions,
    ) -> Result<Answer<IngestEventResponse>, Error> {
        let mut event = event;
        if let Some(key) = options.idempotency_key.as_ref().filter(|_| event.id.is_empty()) {
            event.id.clone_from(key);
        }
        let event = self.with_id(event);
        let repeat = repeat([&event]);
        let request = IngestEventRequest { event: Some(event), options: None };
        self.call("IngestEvent", repeat, &request, options, |connection, request| async move {
            EventIngestionServiceClient::new(connection).ingest_event(request).await
        })
        .await
    }

    /// Sends 1 to 1,000 events in one call; those without an id get one. The answer names those that were not taken.
    ///
    /// # Errors
    ///
    /// Of the call, when nothing was taken.
    pub async fn ingest_events(
        &self,
        events: Vec<Event>,
        options: &CallOptions,
    ) -> Result<Answer<IngestEventsResponse>, Error> {
        let events: Vec<Event> = events.into_iter().map(|event| self.with_id(event)).collect();
        let repeat = repeat(&events);
        let request = IngestEventsRequest { events, options: None };
        self.call("IngestEvents", repeat, &request, options, |connection, request| async move {
            EventIngestionServiceClient::new(connection)
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .ingest_events(request)
                .await
        })
        .await
    }

    /// Sends a stream of events; the answers come in their order, one each. A stream is not retried; events without an id
    /// get one, so that a caller who keeps them can send them again.
    ///
    /// # Errors
    ///
    /// Of opening it.
    pub async fn stream_events(
        &self,
        events: impl Stream<Item = Event> + Send + 'static,
        options: &CallOptions,
    ) -> Result<Answer<Streaming<StreamEventsResponse>>, Error> {
        let client = self.clone();
        let requests = events.map(move |event| StreamEventsRequest {
            request: Some(stream_events_request::Request::Event(client.with_id(event))),
        });
        self.open(requests, options, |connection, request| async move {
            EventIngestionServiceClient::new(connection).stream_events(request).await
        })
        .await
    }
}

fn repeat<'a>(events: impl IntoIterator<Item = &'a Event>) -> Repeat {
    let all_have_ids = events.into_iter().all(|event| !event.id.is_empty());
    if all_have_ids { Repeat::Harmless } else { Repeat::Harmful }
}
