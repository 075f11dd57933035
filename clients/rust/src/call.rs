//! One call: its options, its way, its answer.

use std::{
    fmt,
    str::FromStr,
    sync::Arc,
    time::{Duration, Instant},
};

use tonic::{
    Request, Response, Status,
    metadata::{AsciiMetadataValue, MetadataMap},
};

use crate::{
    Config, Error,
    connection::{Connection, Pool, Probe},
    retry::{Policy, Repeat},
};

/// Largest message either way, as the server has it.
pub(crate) const MESSAGE_BYTES_MAX: usize = 10 << 20;

/// How safe a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AckLevel {
    /// In a bounded queue of the server; a crash loses it.
    Queued,
    /// In the server's log, synced.
    Durable,
    /// With the broker, which acknowledged it.
    Delivered,
}

impl fmt::Display for AckLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            AckLevel::Queued => "queued",
            AckLevel::Durable => "durable",
            AckLevel::Delivered => "delivered",
        })
    }
}

impl FromStr for AckLevel {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        [AckLevel::Queued, AckLevel::Durable, AckLevel::Delivered]
            .into_iter()
            .find(|level| level.to_string() == text)
            .ok_or_else(|| {
                Error::config("ack", format!("expected queued, durable or delivered, not {text:?}"))
            })
    }
}

/// What one call wants otherwise than the client's [`Config`] says.
#[derive(Clone, Debug, Default)]
pub struct CallOptions {
    budget: Option<Duration>,
    ack: Option<AckLevel>,
    request_id: Option<String>,
    pub(crate) idempotency_key: Option<String>,
}

impl CallOptions {
    /// As the client is configured.
    pub fn new() -> Self {
        Self::default()
    }

    /// How long this call may take with all its retries.
    pub fn budget(self, budget: Duration) -> Self {
        Self { budget: Some(budget), ..self }
    }

    /// The level at which the server answers; without one, its default. One it cannot reach is `FAILED_PRECONDITION`.
    pub fn ack(self, level: AckLevel) -> Self {
        Self { ack: Some(level), ..self }
    }

    /// An id that the server gives back with the answer, and that its logs name.
    pub fn request_id(self, id: impl Into<String>) -> Self {
        Self { request_id: Some(id.into()), ..self }
    }

    /// The id of a message ([`Client::ingest`]); without one it gets a UUID. Events have their own `id`; one that has none
    /// ([`Client::ingest_event`]) gets this one, and beside another the server refuses it.
    pub fn idempotency_key(self, key: impl Into<String>) -> Self {
        Self { idempotency_key: Some(key.into()), ..self }
    }

    fn write(&self, metadata: &mut MetadataMap) -> Result<(), Error> {
        let ack = self.ack.map(|level| level.to_string());
        let values = [
            ("tidegate-ack", "ack", &ack),
            ("x-request-id", "request_id", &self.request_id),
            ("idempotency-key", "idempotency_key", &self.idempotency_key),
        ];
        for (name, setting, value) in values {
            let Some(value) = value else { continue };
            let value = AsciiMetadataValue::try_from(value.as_str())
                .map_err(|_| Error::config(setting, "expected visible ASCII characters"))?;
            metadata.insert(name, value);
        }
        Ok(())
    }
}

/// Where the time of a call went.
#[derive(Clone, Copy, Debug, Default)]
pub struct Timing {
    /// How long opening the connection took, if the last attempt had to.
    pub connect: Option<Duration>,
    /// From sending the last attempt to the head of its answer.
    pub first_byte: Option<Duration>,
    /// Everything, with waits and earlier attempts.
    pub total: Duration,
    /// How often the call was sent.
    pub attempts: u32,
}

/// An answer, and what is known about it.
#[derive(Debug)]
pub struct Answer<T> {
    /// What the server says.
    pub message: T,
    /// The level reached, where the answer names one.
    pub ack: Option<AckLevel>,
    /// Where the message is in the log, where the answer names it: shard and offset.
    pub place: Option<(u32, u64)>,
    /// The request's id, where the answer names it.
    pub request_id: Option<String>,
    /// Where the time went.
    pub timing: Timing,
}

impl<T> Answer<T> {
    fn new(response: Response<T>, timing: Timing) -> Self {
        let metadata = response.metadata();
        let text = |name: &str| metadata.get(name).and_then(|value| value.to_str().ok());
        let number = |name: &str| text(name).and_then(|text| text.parse::<u64>().ok());
        let shard = number("tidegate-shard").and_then(|shard| u32::try_from(shard).ok());
        Self {
            ack: text("tidegate-ack").and_then(|level| level.parse().ok()),
            place: shard.zip(number("tidegate-offset")),
            request_id: text("x-request-id").map(str::to_owned),
            timing,
            message: response.into_inner(),
        }
    }
}

/// Speaks to one server over a few connections. Cloning is cheap: clones share the connections.
#[derive(Clone, Debug)]
pub struct Client {
    pub(crate) config: Arc<Config>,
    pool: Arc<Pool>,
    api_key: Option<AsciiMetadataValue>,
}

impl Client {
    /// Prepares the connections; the first calls open them. Needs a tokio runtime.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] when a setting is wrong; never because the server is away.
    pub fn new(config: Config) -> Result<Self, Error> {
        config.check()?;
        Ok(Self {
            pool: Arc::new(Pool::new(&config)?),
            api_key: config.api_key_value()?,
            config: Arc::new(config),
        })
    }

    fn request<M>(
        &self,
        message: M,
        options: &CallOptions,
        left: Option<Duration>,
        probe: &Probe,
    ) -> Result<Request<M>, Error> {
        let mut request = Request::new(message);
        options.write(request.metadata_mut())?;
        if let Some(key) = &self.api_key {
            request.metadata_mut().insert("x-api-key", key.clone());
        }
        if let Some(left) = left {
            request.set_timeout(left);
        }
        request.extensions_mut().insert(probe.clone());
        Ok(request)
    }

    /// Sends a unary call until its answer stays.
    pub(crate) async fn call<M: prost::Message + Clone, T, F>(
        &self,
        method: &'static str,
        repeat: Repeat,
        message: &M,
        options: &CallOptions,
        send: impl Fn(Connection, Request<M>) -> F,
    ) -> Result<Answer<T>, Error>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let since = Instant::now();
        let deadline = tokio::time::Instant::now() + options.budget.unwrap_or(self.config.budget);
        let bytes = message.encoded_len();
        if bytes > MESSAGE_BYTES_MAX {
            return Err(Error::TooLarge { bytes });
        }
        // What is wrong with the options is said before anything is sent.
        self.request((), options, None, &Probe::default())?;
        let mut probe = Probe::default();
        let policy = Policy::from(&*self.config);
        let outcome = policy
            .run(method, &self.config.address, repeat, deadline, || {
                probe = Probe::default();
                let left = deadline.saturating_duration_since(tokio::time::Instant::now());
                let request = self.request(message.clone(), options, Some(left), &probe);
                let sent = request.map(|request| send(self.pool.next(), request));
                async move {
                    match sent {
                        Ok(sent) => sent.await,
                        Err(error) => Err(Status::invalid_argument(error.to_string())),
                    }
                }
            })
            .await;
        let measured = probe.measured();
        let (outcome, attempts) = match outcome {
            Ok((response, attempts)) => (Ok(response), attempts),
            Err(error) => {
                let attempts = match error {
                    Error::Refused { attempts, .. } | Error::BudgetSpent { attempts, .. } => attempts,
                    _ => 0,
                };
                (Err(error), attempts)
            }
        };
        let timing = Timing {
            connect: measured.connect,
            first_byte: measured.first_byte,
            total: since.elapsed(),
            attempts,
        };
        let micros = |duration: Option<Duration>| duration.map(|duration| duration.as_micros() as u64);
        tracing::debug!(
            method,
            attempts,
            connect_us = micros(timing.connect),
            first_byte_us = micros(timing.first_byte),
            total_us = micros(Some(timing.total)),
            error = outcome.as_ref().err().map(tracing::field::display),
            "called"
        );
        outcome.map(|response| Answer::new(response, timing))
    }

    /// Opens a stream. It is not retried, and its budget ends with its head: a stream may last.
    pub(crate) async fn open<M, T, F>(
        &self,
        message: M,
        options: &CallOptions,
        send: impl FnOnce(Connection, Request<M>) -> F,
    ) -> Result<Answer<T>, Error>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let (since, probe) = (Instant::now(), Probe::default());
        let request = self.request(message, options, None, &probe)?;
        let budget = options.budget.unwrap_or(self.config.budget);
        match tokio::time::timeout(budget, send(self.pool.next(), request)).await {
            Ok(Ok(response)) => {
                let measured = probe.measured();
                let timing = Timing {
                    connect: measured.connect,
                    first_byte: measured.first_byte,
                    total: since.elapsed(),
                    attempts: 1,
                };
                Ok(Answer::new(response, timing))
            }
            Ok(Err(status)) => {
                Err(Error::Refused { server: self.config.address.clone(), status, attempts: 1 })
            }
            Err(_) => Err(Error::BudgetSpent { server: self.config.address.clone(), attempts: 1 }),
        }
    }
}
