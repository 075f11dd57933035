//! Messages: `diplom.v1.IngestService`.

use futures_util::Stream;
use tidegate_proto::diplom::v1::{IngestRequest, IngestResponse, ingest_service_client::IngestServiceClient};

use crate::{Answer, CallOptions, Client, Error, events::new_id, retry::Repeat};

impl Client {
    /// Sends a message. It gets an `idempotency-key` where the options have none, so that a repeat is recognised.
    ///
    /// # Errors
    ///
    /// Of the call.
    pub async fn ingest(
        &self,
        source: impl Into<String>,
        data: impl Into<Vec<u8>>,
        metadata: impl IntoIterator<Item = (impl Into<String>, impl Into<String>)>,
        options: &CallOptions,
    ) -> Result<Answer<IngestResponse>, Error> {
        let request = IngestRequest {
            source: source.into(),
            data: data.into(),
            metadata: metadata.into_iter().map(|(key, value)| (key.into(), value.into())).collect(),
        };
        let mut options = options.clone();
        if options.idempotency_key.is_none() && self.config.give_ids {
            options.idempotency_key = Some(new_id());
        }
        let repeat = if options.idempotency_key.is_some() { Repeat::Harmless } else { Repeat::Harmful };
        self.call("Ingest", repeat, &request, &options, |connection, request| async move {
            IngestServiceClient::new(connection).ingest(request).await
        })
        .await
    }

    /// Sends a stream of messages; one answer comes at its end, within the budget. A stream is not retried: messages before
    /// the one that failed are accepted.
    ///
    /// # Errors
    ///
    /// Of the call.
    pub async fn ingest_stream(
        &self,
        messages: impl Stream<Item = IngestRequest> + Send + 'static,
        options: &CallOptions,
    ) -> Result<Answer<IngestResponse>, Error> {
        self.open(messages, options, |connection, request| async move {
            IngestServiceClient::new(connection).ingest_stream(request).await
        })
        .await
    }
}
