//! REST for the services of `analytics.v1`, by the rules of grpc-gateway.

use std::future::Future;

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Extension, Path, RawQuery, State, rejection::PathRejection},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use engine_core::TRACE_FIELD;
use http::{HeaderMap, Method, header::CONTENT_TYPE};
use prost::Message;
use serde_json::{Value, json};
use tidegate_proto::analytics::v1::{
    IngestEventRequest, IngestEventsRequest, StreamEventsRequest, analytics_service_server::AnalyticsService,
    event_ingestion_service_server::EventIngestionService, metrics_service_server::MetricsService,
};
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Status};
use transports::message::{MessageError, check_json};

use super::{
    Platform,
    deadline::Deadline,
    ingestion::KEY,
    is_lines, openapi,
    proto_json::{
        body_value, descriptor, field, query_value, read, read_event, read_from, read_query, read_request,
        write, wrong_body, wrong_field,
    },
    reached::{self, ACK, Reached},
    read_lines,
    rest_answer::{answer, error_value, refuse},
};

async fn respond<M: Message>(
    name: &str,
    work: impl Future<Output = Result<tonic::Response<M>, Status>>,
) -> Response {
    let written = work.await.and_then(|response| {
        let mut written = answer(200, &write(name, response.get_ref())?);
        reached::copy(response.metadata(), written.headers_mut());
        Ok(written)
    });
    written.unwrap_or_else(|status| refuse(&status))
}

/// Routes of `analytics.v1`.
pub(super) fn routes(platform: Platform) -> Router {
    Router::new()
        .route(openapi::EVENT.path, post(event))
        .route(openapi::BATCH.path, post(batch))
        .route(openapi::EVENTS_HEALTH.path, get(ingestion_health))
        .route(openapi::SUMMARY.path, get(summary))
        .route(openapi::SERIES.path, get(series))
        .route(openapi::REAL_TIME.path, get(real_time))
        .route(openapi::USER.path, get(user))
        .route(openapi::FUNNEL.path, post(funnel))
        .route(openapi::ANALYTICS_HEALTH.path, get(analytics_health))
        .route(openapi::METRICS.path, get(metrics))
        .route(openapi::METRICS_STREAM.path, get(metrics_stream))
        .route(openapi::METRICS_EXPORT.path, get(metrics_export))
        .route(openapi::METRICS_HEALTH.path, get(metrics_health))
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(platform)
}

async fn method_not_allowed(method: Method) -> Response {
    let text = format!("{method} is not answered here; the Allow field says what is");
    answer(405, &error_value(&Status::unimplemented(text)))
}

/// A method of `analytics.v1` asked in JSON: `EventIngestionService/IngestEvent`.
pub(super) async fn unbound(
    platform: &Platform,
    method: &str,
    deadline: Deadline,
    request: axum::extract::Request,
) -> Response {
    let (head, body) = request.into_parts();
    let body = match axum::body::to_bytes(body, super::BODY_BYTES_MAX).await {
        Ok(body) => body,
        Err(error) => return refuse(&Status::invalid_argument(format!("request body: {error}"))),
    };
    match answer_unbound(platform, method, deadline, &head.headers, &body).await {
        Ok(response) => response,
        Err(status) => refuse(&status),
    }
}

async fn answer_unbound(
    platform: &Platform,
    method: &str,
    deadline: Deadline,
    headers: &HeaderMap,
    body: &Bytes,
) -> Result<Response, Status> {
    if method == "EventIngestionService/StreamEvents" {
        let requests = read_lines(body).map_err(|error| wrong_body(&error))?.into_iter();
        check_json(body).map_err(|error| wrong_body(&error))?;
        let requests = requests.map(|(_, value)| read_request("StreamEventsRequest", value));
        let requests = requests.collect::<Result<Vec<StreamEventsRequest>, _>>()?;
        let (handling, level) = platform.handling_of_stream(with_fields(headers, ()).metadata())?;
        let answers = platform.answer_stream(tokio_stream::iter(requests.into_iter().map(Ok)), handling);
        let mut answers = tonic::Response::new(answers);
        Reached::by_all(Some(level)).tell(&mut answers);
        return Ok(stream("StreamEventsResponse", Ok(answers), deadline));
    }
    // An empty body is an empty message.
    let value = if body.is_empty() { json!({}) } else { body_value(body)? };
    Ok(match method {
        "EventIngestionService/IngestEvent" => {
            let work =
                platform.ingest_event(with_fields(headers, read_request("IngestEventRequest", value)?));
            respond("IngestEventResponse", work).await
        }
        "EventIngestionService/IngestEvents" => {
            let work = platform.ingest_events(with_fields(headers, batch_request(value)?));
            respond("IngestEventsResponse", work).await
        }
        "AnalyticsService/GetAnalyticsSummary" => {
            let work =
                platform.get_analytics_summary(Request::new(read("GetAnalyticsSummaryRequest", value)?));
            respond("AnalyticsSummary", work).await
        }
        "AnalyticsService/GetTimeSeries" => {
            let work = platform.get_time_series(Request::new(read("GetTimeSeriesRequest", value)?));
            respond("GetTimeSeriesResponse", work).await
        }
        "AnalyticsService/GetUserAnalytics" => {
            let work = platform.get_user_analytics(Request::new(read("GetUserAnalyticsRequest", value)?));
            respond("GetUserAnalyticsResponse", work).await
        }
        "AnalyticsService/GetFunnelAnalysis" => {
            let work = platform.get_funnel_analysis(Request::new(read("GetFunnelAnalysisRequest", value)?));
            respond("GetFunnelAnalysisResponse", work).await
        }
        "AnalyticsService/GetRealTimeAnalytics" => {
            let request = Request::new(read("GetRealTimeAnalyticsRequest", value)?);
            stream("RealTimeAnalyticsResponse", platform.get_real_time_analytics(request).await, deadline)
        }
        "MetricsService/GetMetrics" => {
            let work = platform.get_metrics(Request::new(read("GetMetricsRequest", value)?));
            respond("GetMetricsResponse", work).await
        }
        "MetricsService/ExportMetrics" => {
            let work = platform.export_metrics(Request::new(read("ExportMetricsRequest", value)?));
            respond("ExportMetricsResponse", work).await
        }
        "MetricsService/StreamMetrics" => {
            let request = Request::new(read("GetMetricsRequest", value)?);
            stream("Metric", platform.stream_metrics(request).await, deadline)
        }
        "EventIngestionService/Health" => {
            respond("HealthResponse", EventIngestionService::health(platform, Request::new(()))).await
        }
        "AnalyticsService/Health" => {
            respond("HealthResponse", AnalyticsService::health(platform, Request::new(()))).await
        }
        "MetricsService/Health" => {
            respond("HealthResponse", MetricsService::health(platform, Request::new(()))).await
        }
        _ => return Err(Status::unimplemented(format!("there is no method analytics.v1.{method}"))),
    })
}

/// The event is the body, or lies in `event` beside `options`.
fn event_request(value: Value) -> Result<IngestEventRequest, Status> {
    let Some(wrapper) = ["event", "options"].into_iter().find(|name| value.get(name).is_some()) else {
        return read("IngestEventRequest", json!({ "event": value }));
    };
    let event = descriptor("Event")?;
    if let Some(beside) = value
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, _)| name)
        .find(|name| field(&event, name).is_some())
    {
        let text = format!("a field of an event beside `{wrapper}`: write it into `event`");
        return Err(wrong_field(beside, "INVALID", text));
    }
    read_request("IngestEventRequest", value)
}

/// Its events are read one by one, so that an error says which it is.
fn batch_request(mut value: Value) -> Result<IngestEventsRequest, Status> {
    let events =
        value.get_mut("events").and_then(Value::as_array_mut).map(std::mem::take).unwrap_or_default();
    let mut request: IngestEventsRequest = read_request("IngestEventsRequest", value)?;
    let events = events.into_iter().enumerate();
    request.events = events
        .map(|(place, event)| read_event(&format!("events[{place}]"), event))
        .collect::<Result<_, _>>()?;
    Ok(request)
}

fn lines_request(body: &Bytes) -> Result<IngestEventsRequest, Status> {
    let lines = read_lines(body).map_err(|error| wrong_body(&error))?;
    check_json(body).map_err(|error| {
        let line = if let MessageError::Json { line, .. } = &error { *line } else { 0 };
        wrong_body(&format!("line {line}: {error}"))
    })?;
    let events = lines.into_iter().map(|(line, event)| read_event(&format!("line {line}"), event));
    Ok(IngestEventsRequest { events: events.collect::<Result<_, _>>()?, options: None })
}

/// A request with those of its fields that say how its events are to be taken.
fn with_fields<T>(headers: &HeaderMap, message: T) -> Request<T> {
    let mut request = Request::new(message);
    for name in [ACK, KEY, TRACE_FIELD] {
        for value in headers.get_all(name).iter().filter_map(|value| value.as_bytes().try_into().ok()) {
            request.metadata_mut().append(name, value);
        }
    }
    request
}

async fn event(State(platform): State<Platform>, headers: HeaderMap, body: Bytes) -> Response {
    let work = async {
        let request = event_request(body_value(&body)?)?;
        platform.ingest_event(with_fields(&headers, request)).await
    };
    respond("IngestEventResponse", work).await
}

async fn batch(State(platform): State<Platform>, headers: HeaderMap, body: Bytes) -> Response {
    let work = async {
        let request =
            if is_lines(&headers) { lines_request(&body)? } else { batch_request(body_value(&body)?)? };
        platform.ingest_events(with_fields(&headers, request)).await
    };
    respond("IngestEventsResponse", work).await
}

async fn ingestion_health(State(platform): State<Platform>) -> Response {
    respond("HealthResponse", EventIngestionService::health(&platform, Request::new(()))).await
}

async fn analytics_health(State(platform): State<Platform>) -> Response {
    respond("HealthResponse", AnalyticsService::health(&platform, Request::new(()))).await
}

async fn summary(State(platform): State<Platform>, RawQuery(query): RawQuery) -> Response {
    let work = async {
        let name = "GetAnalyticsSummaryRequest";
        let request = read_query(name, query.as_deref())?;
        platform.get_analytics_summary(Request::new(request)).await
    };
    respond("AnalyticsSummary", work).await
}

async fn series(State(platform): State<Platform>, RawQuery(query): RawQuery) -> Response {
    let work = async {
        let name = "GetTimeSeriesRequest";
        let request = read_query(name, query.as_deref())?;
        platform.get_time_series(Request::new(request)).await
    };
    respond("GetTimeSeriesResponse", work).await
}

async fn user(
    State(platform): State<Platform>,
    user_id: Result<Path<String>, PathRejection>,
    RawQuery(query): RawQuery,
) -> Response {
    let work = async {
        let Path(user_id) =
            user_id.map_err(|error| Status::invalid_argument(format!("user_id: {}", error.body_text())))?;
        let name = "GetUserAnalyticsRequest";
        let mut value = query_value(name, query.as_deref())?;
        value["userId"] = user_id.into();
        platform.get_user_analytics(Request::new(read_from("query", name, value)?)).await
    };
    respond("GetUserAnalyticsResponse", work).await
}

async fn funnel(State(platform): State<Platform>, body: Bytes) -> Response {
    let work = async {
        let request = read("GetFunnelAnalysisRequest", body_value(&body)?)?;
        platform.get_funnel_analysis(Request::new(request)).await
    };
    respond("GetFunnelAnalysisResponse", work).await
}

async fn metrics(State(platform): State<Platform>, RawQuery(query): RawQuery) -> Response {
    let work = async {
        let name = "GetMetricsRequest";
        platform.get_metrics(Request::new(read_query(name, query.as_deref())?)).await
    };
    respond("GetMetricsResponse", work).await
}

async fn metrics_export(State(platform): State<Platform>, RawQuery(query): RawQuery) -> Response {
    let work = async {
        let name = "ExportMetricsRequest";
        platform.export_metrics(Request::new(read_query(name, query.as_deref())?)).await
    };
    respond("ExportMetricsResponse", work).await
}

async fn metrics_health(State(platform): State<Platform>) -> Response {
    respond("HealthResponse", MetricsService::health(&platform, Request::new(()))).await
}

async fn metrics_stream(
    State(platform): State<Platform>,
    Extension(deadline): Extension<Deadline>,
    RawQuery(query): RawQuery,
) -> Response {
    let work = async {
        let name = "GetMetricsRequest";
        platform.stream_metrics(Request::new(read_query(name, query.as_deref())?)).await
    };
    stream("Metric", work.await, deadline)
}

async fn real_time(
    State(platform): State<Platform>,
    Extension(deadline): Extension<Deadline>,
    RawQuery(query): RawQuery,
) -> Response {
    let work = async {
        let name = "GetRealTimeAnalyticsRequest";
        let request = read_query(name, query.as_deref())?;
        platform.get_real_time_analytics(Request::new(request)).await
    };
    stream("RealTimeAnalyticsResponse", work.await, deadline)
}

/// Newline-delimited `{"result": …}`, an error at the end as `{"error": …}`.
fn stream<M, S>(
    name: &'static str,
    opened: Result<tonic::Response<S>, Status>,
    deadline: Deadline,
) -> Response
where
    M: Message + 'static,
    S: Stream<Item = Result<M, Status>> + Send + 'static,
{
    match opened {
        Ok(items) => {
            let mut response = ([(CONTENT_TYPE, "application/json")], Body::empty()).into_response();
            reached::copy(items.metadata(), response.headers_mut());
            let lines = deadline.items(items.into_inner()).map(move |item| {
                let line = match item.and_then(|message| write(name, &message)) {
                    Ok(value) => json!({ "result": value }),
                    Err(status) => json!({ "error": error_value(&status) }),
                };
                Ok::<_, std::convert::Infallible>(format!("{line}\n"))
            });
            *response.body_mut() = Body::from_stream(lines);
            response
        }
        Err(status) => refuse(&status),
    }
}

#[cfg(test)]
mod tests {
    use tidegate_proto::analytics::v1::{AnalyticsSummary, GetTimeSeriesRequest};

    use super::*;

    #[test]
    fn a_query_is_a_message() {
        let query = "time_range.start=2026-01-01T00:00:00Z&timeRange.end=2026-01-02T00:00:00Z&metric=events\
                     &granularity=TIME_GRANULARITY_DAY&filters[properties.plan]=free&group_by=a&group_by=b&nonsense=1";
        let value = query_value("GetTimeSeriesRequest", Some(query)).unwrap();
        let request: GetTimeSeriesRequest = read("GetTimeSeriesRequest", value).unwrap();
        assert_eq!((request.granularity, request.group_by.len()), (3, 2));
        assert_eq!(request.filters["properties.plan"], "free");
        let range = request.time_range.unwrap();
        assert_eq!(range.end.unwrap().seconds - range.start.unwrap().seconds, 86_400);
        for wrong in ["include_events=maybe", "include_events=true&include_events=true"] {
            assert!(query_value("GetUserAnalyticsRequest", Some(wrong)).is_err(), "{wrong}");
        }
        assert!(query_value("GetTimeSeriesRequest", Some("granularity=6")).is_err());
    }

    #[test]
    fn an_event_is_the_body_or_lies_in_it() {
        let event = json!({"user_id": "u", "eventType": "EVENT_TYPE_USER", "x": {"y": 1}});
        assert_eq!(event_request(event.clone()).unwrap().event.unwrap().user_id, "u");
        for beside in ["event", "options"] {
            let mut both = event.clone();
            both[beside] = json!({});
            let error = event_request(both).unwrap_err();
            assert!(error.message().contains(&format!("beside `{beside}`")), "{error}");
        }
        let wrapped = json!({"event": {"userId": "u"}, "options": {"validate_only": true}});
        let request = event_request(wrapped).unwrap();
        assert!(request.options.unwrap().validate_only && request.event.unwrap().user_id == "u");
    }

    #[test]
    fn answers_have_every_field_and_large_numbers_as_text() {
        let value =
            write("AnalyticsSummary", &AnalyticsSummary { total_events: 7, ..Default::default() }).unwrap();
        assert_eq!((&value["totalEvents"], &value["sessions"]), (&"7".into(), &"0".into()));
        assert_eq!(value["eventsByType"], json!({}));
    }
}
