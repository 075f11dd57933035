//! The older analytics system's gRPC (`proto/analytics/legacy`). A refused event is an OK with `success: false`, as it was there.

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use tidegate_proto::analytics::legacy::{
    AnalyticsSummary, AnalyticsSummaryRequest, BatchEventsRequest, BatchEventsResponse, ConsumerStatsRequest,
    ConsumerStatsResponse, Event, EventResponse, HealthRequest, HealthResponse, Metric, MetricsRequest,
    MetricsResponse, analytics_service_server::AnalyticsService, consumer_service_server::ConsumerService,
    producer_service_server::ProducerService,
};
use tonic::{Request, Response, Status};

use super::{
    Platform,
    analytics::{Range, Total, counts},
    ingestion::trace_of_call,
    legacy::{self, BATCH_MAX, lowest},
    reached::Reached,
};

/// What the workers of this process did.
#[derive(Clone, Copy, Debug)]
pub struct Consumed {
    /// Messages worked on.
    pub processed: u64,
    /// Messages given up.
    pub failed: u64,
    /// Messages worked on a second.
    pub per_second: f64,
    /// Milliseconds that one took on average.
    pub average_ms: f64,
    /// When they last did something.
    pub last: Option<SystemTime>,
    /// Events added up, those of earlier runs too, as far as they are kept.
    pub counted: u64,
}

/// The older system's names for its events and answers.
#[derive(Clone)]
pub struct Older {
    platform: Platform,
    consumed: Arc<dyn Fn() -> Consumed + Send + Sync>,
}

impl Older {
    /// `consumed` says what the workers did so far.
    pub fn new(platform: Platform, consumed: impl Fn() -> Consumed + Send + Sync + 'static) -> Self {
        Self { platform, consumed: Arc::new(consumed) }
    }
}

impl std::fmt::Debug for Older {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Older").field("platform", &self.platform).finish_non_exhaustive()
    }
}

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() as i64
}

fn healthy() -> Response<HealthResponse> {
    Response::new(HealthResponse { healthy: true, status: "healthy".to_owned(), timestamp: now() })
}

/// The range in seconds; both 0 is the last hour.
fn range(from: i64, to: i64) -> Result<Range, Status> {
    match (from, to) {
        (0, 0) => Ok(Range::last_hour()),
        (from, to) if 0 <= from && from < to && to < i64::MAX / 1000 => {
            Ok(Range { from_ms: from * 1000, to_ms: to * 1000 })
        }
        _ => Err(Status::invalid_argument("from, to: expected seconds of the Unix epoch, to behind from")),
    }
}

const METRICS: [&str; 6] = ["events", "unique_users", "sessions", "revenue", "transactions", "errors"];

fn metric(total: &Total, name: &str) -> Metric {
    Metric { name: name.to_owned(), value: total.metric(name), timestamp: now(), ..Metric::default() }
}

#[tonic::async_trait]
impl ProducerService for Older {
    async fn send_event(&self, request: Request<Event>) -> Result<Response<EventResponse>, Status> {
        let (asked, trace) =
            (self.platform.ask(request.metadata(), None)?, trace_of_call(request.metadata()));
        let event = legacy::Event::from(request.into_inner());
        let refused = |message: String| EventResponse { success: false, message, event_id: event.id.clone() };
        let fates = self.platform.send_older(std::slice::from_ref(&event), asked.wanted, trace).await;
        let stored = fates.first().and_then(|fate| fate.as_ref().ok().copied());
        let mut answer = Response::new(match fates.into_iter().next() {
            Some(Ok(_)) => EventResponse {
                success: true,
                message: "Event sent successfully".to_owned(),
                event_id: event.id.clone(),
            },
            Some(Err((_, message))) => refused(message),
            None => refused("an event without a fate".to_owned()),
        });
        if let Some(stored) = &stored {
            Reached::by(stored).tell(&mut answer);
        }
        Ok(answer)
    }

    async fn send_batch_events(
        &self,
        request: Request<BatchEventsRequest>,
    ) -> Result<Response<BatchEventsResponse>, Status> {
        let (asked, trace) =
            (self.platform.ask(request.metadata(), None)?, trace_of_call(request.metadata()));
        let events: Vec<legacy::Event> =
            request.into_inner().events.into_iter().map(legacy::Event::from).collect();
        if events.is_empty() || events.len() > BATCH_MAX {
            let message = format!("expected 1 to {BATCH_MAX} events, not {}", events.len());
            return Ok(Response::new(BatchEventsResponse { message, ..BatchEventsResponse::default() }));
        }
        let fates = self.platform.send_older(&events, asked.wanted, trace).await;
        let failed = events.iter().zip(&fates).filter(|(_, fate)| fate.is_err());
        let failed_event_ids: Vec<String> = failed.map(|(event, _)| event.id.clone()).collect();
        let stored = events.len() - failed_event_ids.len();
        let mut answer = Response::new(BatchEventsResponse {
            success: failed_event_ids.is_empty(),
            message: format!("Processed {stored}/{} events", events.len()),
            processed_count: i32::try_from(stored).unwrap_or(i32::MAX),
            failed_event_ids,
        });
        Reached::by_all(lowest(&fates)).tell(&mut answer);
        Ok(answer)
    }

    async fn get_producer_health(
        &self,
        _: Request<HealthRequest>,
    ) -> Result<Response<HealthResponse>, Status> {
        Ok(healthy())
    }
}

#[tonic::async_trait]
impl ConsumerService for Older {
    async fn get_consumer_health(
        &self,
        _: Request<HealthRequest>,
    ) -> Result<Response<HealthResponse>, Status> {
        Ok(healthy())
    }

    async fn get_consumer_stats(
        &self,
        _: Request<ConsumerStatsRequest>,
    ) -> Result<Response<ConsumerStatsResponse>, Status> {
        let consumed = (self.consumed)();
        let count = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        let last = consumed.last.and_then(|last| last.duration_since(UNIX_EPOCH).ok());
        let last = last.map_or(0, |last| count(last.as_secs()));
        Ok(Response::new(ConsumerStatsResponse {
            processed_events: count(consumed.processed),
            failed_events: count(consumed.failed),
            events_per_second: consumed.per_second,
            last_processed: last,
            last_processed_time: last,
            processing_rate: consumed.per_second,
            stream_events_processed: count(consumed.counted),
            // Nothing is left out on the way: filters are for questions.
            stream_events_filtered: 0,
            avg_processing_time_ms: consumed.average_ms,
        }))
    }
}

#[tonic::async_trait]
impl AnalyticsService for Older {
    async fn get_analytics_summary(
        &self,
        request: Request<AnalyticsSummaryRequest>,
    ) -> Result<Response<AnalyticsSummary>, Status> {
        let AnalyticsSummaryRequest { from, to } = request.into_inner();
        let total = self.platform.total(range(from, to)?);
        Ok(Response::new(AnalyticsSummary {
            total_events: total.events as i64,
            total_users: total.users as i64,
            events_by_type: counts(&total.by_name),
            top_metrics: METRICS
                .iter()
                .map(|name| metric(&total, name))
                .filter(|metric| metric.value != 0.0)
                .collect(),
            last_updated: now(),
        }))
    }

    async fn get_metrics(
        &self,
        request: Request<MetricsRequest>,
    ) -> Result<Response<MetricsResponse>, Status> {
        let MetricsRequest { metric_name, from, to, filters } = request.into_inner();
        if !filters.is_empty() {
            return Err(Status::invalid_argument(
                "filters: this service has none; analytics.v1 GetTimeSeries does",
            ));
        }
        let total = self.platform.total(range(from, to)?);
        let metrics = match metric_name.as_str() {
            "" => METRICS.iter().map(|name| metric(&total, name)).collect(),
            name => vec![metric(&total, name)],
        };
        Ok(Response::new(MetricsResponse { metrics, success: true, message: String::new() }))
    }

    async fn get_analytics_health(
        &self,
        _: Request<HealthRequest>,
    ) -> Result<Response<HealthResponse>, Status> {
        Ok(healthy())
    }
}
