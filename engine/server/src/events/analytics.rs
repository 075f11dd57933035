//! `analytics.v1.AnalyticsService`: every core's part is asked, one after the other, and the answers are added up.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use engine_analytics::{
    Bucket, Counted, DAY_MS, Filter, Found, Profile, STEPS_MAX, Step, TIMES_MS, Values, View, funnel, scan,
    sessions_begun,
};
use prost::Message;
use prost_types::Timestamp;
use tidegate_proto::analytics::v1::{
    AnalyticsSummary, Event, EventType, FunnelMetadata, FunnelStepResult, GetAnalyticsSummaryRequest,
    GetFunnelAnalysisRequest, GetFunnelAnalysisResponse, GetRealTimeAnalyticsRequest, GetTimeSeriesRequest,
    GetTimeSeriesResponse, GetUserAnalyticsRequest, GetUserAnalyticsResponse, HealthResponse,
    RealTimeAnalyticsResponse, RealTimeMetric, SummaryMetadata, TimeRange, TimeSeriesData,
    TimeSeriesMetadata, TopMetric, UserMetrics, UserProfile, UserSession,
    analytics_service_server::AnalyticsService,
};
use tokio::sync::Semaphore;
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::{Request, Response, Status};

use super::{Platform, calendar::bucket, calendar::now_ms, ingestion::health, validate::milliseconds};

/// Queries that are worked out apart or wait for that.
const QUERIES_MAX: usize = 64;
/// Buckets of a series.
const SERIES_MAX: usize = 10_000;
/// Events that a user's answer lists.
const EVENTS_MAX: usize = 100;
/// Longest window of the real-time stream.
pub(super) const WINDOW_SECONDS_MAX: i32 = 3600;
/// Metrics at the top of a summary.
const TOP_MAX: usize = 10;
const HOUR: Duration = Duration::from_secs(3600);
/// The metrics that every event is counted in.
const COUNTED: [&str; 6] = ["events", "unique_users", "sessions", "revenue", "transactions", "errors"];

/// What a metric of custom events is called here: its name, unless that is taken by what every event is counted in, or by
/// what another one is called for that reason.
pub(super) fn custom_name(name: &str) -> Cow<'_, str> {
    const PREFIX: &str = "custom.";
    let is_taken = COUNTED.contains(&name.trim_start_matches(PREFIX));
    if is_taken { format!("{PREFIX}{name}").into() } else { name.into() }
}

/// The turns that queries take.
pub fn query_turns() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(QUERIES_MAX))
}

pub(super) fn timestamp(ms: i64) -> Timestamp {
    // A range that is rounded up may end behind the last time there is.
    let ms = ms.clamp(*TIMES_MS.start(), *TIMES_MS.end());
    Timestamp { seconds: ms.div_euclid(1000), nanos: (ms.rem_euclid(1000) * 1_000_000) as i32 }
}

fn duration(ms: i64) -> prost_types::Duration {
    prost_types::Duration { seconds: ms / 1000, nanos: (ms % 1000 * 1_000_000) as i32 }
}

fn elapsed(since: Instant) -> Option<prost_types::Duration> {
    prost_types::Duration::try_from(since.elapsed()).ok()
}

/// A range in milliseconds, the end excluded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) from_ms: i64,
    pub(super) to_ms: i64,
}

impl Range {
    /// Reads a range; `None` when there is none.
    pub(super) fn read(range: Option<&TimeRange>) -> Result<Option<Self>, Status> {
        let Some(TimeRange { start, end }) = range else { return Ok(None) };
        let (Some(start), Some(end)) = (start, end) else {
            return Err(Status::invalid_argument("time_range: expected both start and end, or neither"));
        };
        let (Some(from_ms), Some(to_ms)) = (milliseconds(start), milliseconds(end)) else {
            return Err(Status::invalid_argument("time_range: expected times from 1970 to 9999"));
        };
        if from_ms >= to_ms {
            return Err(Status::invalid_argument("time_range: expected an end behind the start"));
        }
        Ok(Some(Self { from_ms, to_ms }))
    }

    pub(super) fn last_hour() -> Self {
        Self::last(HOUR)
    }

    fn last(length: Duration) -> Self {
        // Up to and with the present millisecond.
        let to_ms = now_ms() + 1;
        Self { from_ms: to_ms - length.as_millis() as i64, to_ms }
    }

    pub(super) fn message(self) -> Option<TimeRange> {
        Some(TimeRange { start: Some(timestamp(self.from_ms)), end: Some(timestamp(self.to_ms)) })
    }
}

/// Reads filters; an unknown key is an error.
fn filter(event_types: &[String], filters: &HashMap<String, String>) -> Result<Filter, Status> {
    let mut filter = Filter { names: event_types.to_vec(), ..Filter::default() };
    for (key, value) in filters {
        match key.as_str() {
            "user_id" => filter.user = Some(value.clone()),
            "session_id" => filter.session = Some(value.clone()),
            "source" => filter.source = Some(value.clone()),
            "event_type" => filter.names.push(value.clone()),
            _ => match key.strip_prefix("properties.") {
                Some(property) => filter.properties.push((property.to_owned(), value.clone())),
                None => {
                    return Err(Status::invalid_argument(format!(
                        "filters[{key}]: expected user_id, session_id, source, event_type or properties.<key>"
                    )));
                }
            },
        }
    }
    // `USER` is as good as `EVENT_TYPE_USER`.
    for name in &mut filter.names {
        let full = format!("EVENT_TYPE_{}", name.to_uppercase());
        if EventType::from_str_name(&full).is_some() {
            *name = full;
        }
    }
    Ok(filter)
}

/// What happened in a range, over all cores.
#[derive(Clone, Debug, Default)]
pub(super) struct Total {
    pub(super) events: u64,
    pub(super) users: u64,
    sessions: i64,
    transactions: u64,
    revenue_micros: i128,
    errors: u64,
    pub(super) by_name: BTreeMap<String, u64>,
    by_source: BTreeMap<String, u64>,
    pub(super) metrics: BTreeMap<String, Values>,
}

impl Total {
    pub(super) fn metric(&self, name: &str) -> f64 {
        match name {
            "events" => self.events as f64,
            "unique_users" => self.users as f64,
            "sessions" => self.sessions as f64,
            "revenue" => self.revenue_micros as f64 / 1e6,
            "transactions" => self.transactions as f64,
            "errors" => self.errors as f64,
            custom => self.metrics.get(custom).map_or(0.0, |values| values.sum),
        }
    }
}

impl Platform {
    /// Everything that ever happened.
    pub(super) fn ever(&self) -> Total {
        self.total(Range { from_ms: 0, to_ms: i64::MAX })
    }

    /// The range that is asked for, as it is counted: outwards to whole minutes, or what is left of them. What is counted
    /// event by event takes the same one, so that an answer with filters and one without are of the same time.
    pub(super) fn range(&self, range: Option<&TimeRange>) -> Result<Option<Range>, Status> {
        Ok(Range::read(range)?.map(|range| self.outwards(range)))
    }

    /// [`range`](Self::range), where there has to be one.
    fn required_range(&self, range: Option<&TimeRange>) -> Result<Range, Status> {
        self.range(range)?.ok_or_else(|| Status::invalid_argument("time_range: expected start and end"))
    }

    pub(super) fn outwards(&self, range: Range) -> Range {
        let covered = self.parts.iter().map(|part| part.lock().covered(range.from_ms, range.to_ms));
        covered.fold(range, |all, (from_ms, to_ms)| Range {
            from_ms: all.from_ms.min(from_ms),
            to_ms: all.to_ms.max(to_ms),
        })
    }

    /// Everything that happened, from the buckets.
    pub(super) fn total(&self, range: Range) -> Total {
        let mut total = Total::default();
        for part in self.parts.iter() {
            // Sharing the buckets is quick; adding them up needs no lock.
            let buckets = part.lock().cover(range.from_ms, range.to_ms);
            let mut sum = Bucket::default();
            buckets.iter().for_each(|bucket| sum.merge(bucket));
            total.events += sum.events;
            total.users += sum.unique_users();
            total.sessions += sum.sessions;
            total.transactions += sum.transactions;
            total.revenue_micros += sum.revenue_micros;
            total.errors += sum.errors;
            let part = part.lock();
            for (number, count) in &sum.by_name {
                *total.by_name.entry(part.names().name(*number).to_owned()).or_default() += count;
            }
            for (number, count) in &sum.by_source {
                *total.by_source.entry(part.sources().name(*number).to_owned()).or_default() += count;
            }
            for (number, values) in &sum.metrics {
                let name = custom_name(part.metrics().name(*number)).into_owned();
                total
                    .metrics
                    .entry(name)
                    .and_modify(|sum| sum.merge(values))
                    .or_insert_with(|| values.clone());
            }
        }
        total
    }

    /// What met the conditions, event by event; `place` names the bucket of a time. Sessions cost another walk, over all
    /// that is kept.
    fn scanned(
        &self,
        range: Range,
        filter: &Filter,
        with_sessions: bool,
        place: impl Fn(i64) -> i64,
    ) -> BTreeMap<i64, Total> {
        let mut totals: BTreeMap<i64, Total> = BTreeMap::new();
        for part in self.parts.iter() {
            let (view, user) = {
                let mut part = part.lock();
                (part.view(), filter.user.as_deref().and_then(|user| part.find_user(user)))
            };
            if filter.user.is_some() && user.is_none() {
                continue;
            }
            let found: BTreeMap<i64, Counted> = scan(&view, filter, user, range.from_ms, range.to_ms, &place);
            for (bucket, counted) in found {
                let total = totals.entry(bucket).or_default();
                total.events += counted.events;
                total.users += counted.users.len() as u64;
                total.transactions += counted.transactions;
                total.revenue_micros += counted.revenue_micros;
                total.errors += counted.errors;
                for (number, count) in counted.by_name {
                    *total.by_name.entry(view.name(number).to_owned()).or_default() += count;
                }
            }
            if with_sessions {
                for (bucket, begun) in sessions_begun(&view, filter, user, range.from_ms, range.to_ms, &place)
                {
                    totals.entry(bucket).or_default().sessions += begun as i64;
                }
            }
        }
        totals
    }

    /// Refuses a bucket of a series that is finer than what is kept of its time: it would be given a whole hour's count, or a
    /// day's.
    fn check_kept(&self, bucket: Range) -> Result<(), Status> {
        let kept = self.outwards(bucket);
        if kept.from_ms >= bucket.from_ms && kept.to_ms <= bucket.to_ms {
            return Ok(());
        }
        let (what, granularity) =
            if kept.to_ms - kept.from_ms < DAY_MS { ("hours", "HOUR") } else { ("days", "DAY") };
        Err(Status::invalid_argument(format!(
            "granularity: of {} only whole {what} are kept; ask for {granularity}, or for a later range",
            timestamp(bucket.from_ms)
        )))
    }

    /// Whether any custom event carried a metric of this name.
    pub(super) fn has_metric(&self, name: &str) -> bool {
        self.parts.iter().any(|part| part.lock().metrics().all().any(|known| custom_name(known) == name))
    }

    /// Says which of these types of events nobody has ever sent. The types of `analytics.v1` are there in any case.
    fn check_types(&self, types: &[String]) -> Result<(), Status> {
        let is_known = |name: &String| {
            EventType::from_str_name(name).is_some()
                || self.parts.iter().any(|part| part.lock().names().all().any(|known| known == name))
        };
        let unknown: Vec<_> = types.iter().filter(|name| !is_known(name)).collect();
        if unknown.is_empty() {
            return Ok(());
        }
        Err(Status::not_found(format!(
            "event_types: nobody has sent {unknown:?}, or it is among those counted as `other`; expected USER, TRANSACTION, SYSTEM, CUSTOM, or a type that the older \
             systems' events had"
        )))
    }

    /// A series, bucket by bucket.
    fn series(&self, request: GetTimeSeriesRequest) -> Result<GetTimeSeriesResponse, Status> {
        let range = self.required_range(request.time_range.as_ref())?;
        if request.metric.is_empty() {
            return Err(Status::invalid_argument(
                "metric: expected events, unique_users, sessions, revenue, transactions, errors or a custom metric",
            ));
        }
        let granularity = request.granularity();
        let filter = filter(&[], &request.filters)?;
        if !filter.is_open() && !COUNTED.contains(&request.metric.as_str()) {
            return Err(Status::invalid_argument(format!(
                "filters: a custom metric has none; expected one of {} as metric, or no filters",
                COUNTED.join(", ")
            )));
        }
        if !COUNTED.contains(&request.metric.as_str()) && !self.has_metric(&request.metric) {
            return Err(Status::not_found(format!(
                "metric: nobody has sent `{}`, or it is among those counted as `other`; expected one of {}, or the name of a metric that custom events carried",
                request.metric,
                COUNTED.join(", ")
            )));
        }
        let group = match request.group_by.as_slice() {
            [] => None,
            [one]
                if (one == "event_type" || one == "source")
                    && request.metric == "events"
                    && filter.is_open() =>
            {
                Some(one.as_str())
            }
            _ => {
                return Err(Status::invalid_argument(
                    "group_by: expected event_type or source, for the metric events and without filters",
                ));
            }
        };
        let mut borders = Vec::new();
        let (mut at, _) = bucket(range.from_ms, granularity);
        while at < range.to_ms {
            if borders.len() >= SERIES_MAX {
                return Err(Status::invalid_argument(format!(
                    "time_range: more than {SERIES_MAX} buckets; take a shorter range or a coarser granularity"
                )));
            }
            borders.push(at);
            at = bucket(at, granularity).1;
        }
        if filter.is_open()
            && let Some(oldest) = borders.first()
        {
            self.check_kept(Range { from_ms: *oldest, to_ms: bucket(*oldest, granularity).1 })?;
        }
        let scanned = (!filter.is_open()).then(|| {
            let with_sessions = request.metric == "sessions";
            self.scanned(range, &filter, with_sessions, |time| bucket(time, granularity).0)
        });
        let mut series = Vec::new();
        for start in &borders {
            let end = bucket(*start, granularity).1;
            let total = match &scanned {
                Some(scanned) => scanned.get(start).cloned().unwrap_or_default(),
                None => {
                    self.total(Range { from_ms: (*start).max(range.from_ms), to_ms: end.min(range.to_ms) })
                }
            };
            let point = |value: f64, labels: HashMap<String, String>| TimeSeriesData {
                timestamp: Some(timestamp(*start)),
                value,
                labels,
            };
            match group {
                None => series.push(point(total.metric(&request.metric), HashMap::new())),
                Some(label) => {
                    let values = if label == "source" { &total.by_source } else { &total.by_name };
                    series.extend(values.iter().map(|(name, count)| {
                        point(*count as f64, [(label.to_owned(), name.clone())].into())
                    }));
                }
            }
        }
        let metadata = TimeSeriesMetadata {
            metric: request.metric,
            granularity: granularity.into(),
            data_points: i32::try_from(series.len()).unwrap_or(i32::MAX),
        };
        Ok(GetTimeSeriesResponse { series, metadata: Some(metadata) })
    }

    /// What is known of a user: ever, and in the range if there is one.
    fn user(
        &self,
        request: &GetUserAnalyticsRequest,
        range: Option<Range>,
    ) -> Result<GetUserAnalyticsResponse, Status> {
        let found = self.parts.iter().find_map(|part| part.lock().user(&request.user_id));
        let (profile, view) =
            found.ok_or_else(|| Status::not_found(format!("user {} is not known", request.user_id)))?;
        let ever = Range { from_ms: i64::MIN, to_ms: i64::MAX };
        let Range { from_ms, to_ms } = range.unwrap_or(ever);
        let history = view.history(&profile, from_ms, to_ms, EVENTS_MAX);
        let sessions = profile.sessions.list().iter();
        let sessions: Vec<_> =
            sessions.filter(|session| (from_ms..to_ms).contains(&session.start_ms)).collect();
        let known_ms: i64 = sessions.iter().map(|session| session.end_ms - session.start_ms).sum();
        // Of a range only what is kept can be told; of all time the profile knows all.
        let (events, days, transactions, revenue_micros, all_ms, begun) = match range {
            Some(_) => (
                history.events,
                history.days_active,
                history.transactions,
                history.revenue_micros,
                known_ms,
                sessions.len() as u64,
            ),
            None => (
                profile.events,
                profile.days_active(),
                profile.transactions,
                profile.revenue_micros,
                known_ms + profile.sessions.forgotten_ms(),
                profile.sessions_begun,
            ),
        };
        let mut answer = GetUserAnalyticsResponse {
            user_profile: Some(UserProfile {
                user_id: profile.id.to_string(),
                first_seen: Some(timestamp(profile.first_ms)),
                last_seen: Some(timestamp(profile.last_ms)),
                total_sessions: i32::try_from(profile.sessions_begun).unwrap_or(i32::MAX),
                total_events: i32::try_from(profile.events).unwrap_or(i32::MAX),
                attributes: HashMap::new(),
            }),
            metrics: Some(UserMetrics {
                // Events a day with events, of which ten count as the most there is.
                engagement_score: (events as f64 / f64::from(days.max(1)) / 10.0).min(1.0) * 100.0,
                days_active: i32::try_from(days).unwrap_or(i32::MAX),
                avg_session_duration: all_ms as f64 / 1000.0 / begun.max(1) as f64,
                total_transactions: i32::try_from(transactions).unwrap_or(i32::MAX),
                total_revenue: revenue_micros as f64 / 1e6,
            }),
            ..GetUserAnalyticsResponse::default()
        };
        if request.include_sessions {
            answer.sessions.extend(sessions.iter().map(|session| UserSession {
                session_id: session.id.as_deref().unwrap_or_default().to_owned(),
                start_time: Some(timestamp(session.start_ms)),
                end_time: Some(timestamp(session.end_ms)),
                event_count: i32::try_from(session.events).unwrap_or(i32::MAX),
                duration: Some(duration(session.end_ms - session.start_ms)),
                properties: HashMap::new(),
            }));
        }
        if request.include_events {
            answer.events.extend(history.latest.iter().map(|event| told(event, &profile, &view)));
        }
        Ok(answer)
    }

    /// Works a query out on a thread of its own, which takes second place to the cores: whatever takes more than a moment
    /// is not for the thread that answers everybody.
    async fn apart<T: Send + 'static>(
        &self,
        query: impl FnOnce(&Self) -> Result<T, Status> + Send + 'static,
    ) -> Result<T, Status> {
        let Ok(turn) = Arc::clone(&self.queries).try_acquire_owned() else {
            let text =
                format!("{QUERIES_MAX} queries are being worked out or wait to be; ask again in a moment");
            return Err(Status::resource_exhausted(text));
        };
        let platform = self.clone();
        let worked_out = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            query(&platform)
        });
        worked_out.await.map_err(|error| Status::internal(error.to_string()))?
    }
}

/// An event of a user as it is kept.
fn told(event: &Found, profile: &Profile, view: &View) -> Event {
    let mut texts = event.texts().map(str::to_owned);
    let (id, session_id) = (texts.next().unwrap_or_default(), texts.next().unwrap_or_default());
    let mut properties = HashMap::new();
    while let (Some(key), Some(value)) = (texts.next(), texts.next()) {
        properties.insert(key, value);
    }
    Event {
        id,
        user_id: profile.id.to_string(),
        session_id,
        event_type: i32::from(event.kind() as u8),
        timestamp: Some(timestamp(event.timestamp_ms())),
        source: view.source(event.source()).to_owned(),
        properties,
        // The older system's events have none.
        event_data: Event::decode(event.detail()).ok().and_then(|only| only.event_data),
    }
}

fn top_metrics(now: &Total, before: &Total) -> Vec<TopMetric> {
    let mut names: Vec<(&str, &str)> =
        vec![("revenue", "currency"), ("transactions", "count"), ("errors", "count"), ("sessions", "count")];
    let mut custom: Vec<(&String, u64)> =
        now.metrics.iter().map(|(name, values)| (name, values.count)).collect();
    custom.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    names.extend(custom.into_iter().map(|(name, _)| (name.as_str(), "")));
    let metric = |(name, unit): (&str, &str)| {
        let (value, earlier) = (now.metric(name), before.metric(name));
        TopMetric {
            name: name.to_owned(),
            value,
            unit: unit.to_owned(),
            change_percentage: if earlier == 0.0 { 0.0 } else { 100.0 * (value - earlier) / earlier.abs() },
        }
    };
    names.into_iter().map(metric).filter(|metric| metric.value != 0.0).take(TOP_MAX).collect()
}

pub(super) fn counts(of: &BTreeMap<String, u64>) -> HashMap<String, i64> {
    of.iter().map(|(name, count)| (name.clone(), *count as i64)).collect()
}

#[tonic::async_trait]
impl AnalyticsService for Platform {
    type GetRealTimeAnalyticsStream =
        Pin<Box<dyn Stream<Item = Result<RealTimeAnalyticsResponse, Status>> + Send>>;

    async fn get_analytics_summary(
        &self,
        request: Request<GetAnalyticsSummaryRequest>,
    ) -> Result<Response<AnalyticsSummary>, Status> {
        let since = Instant::now();
        let request = request.into_inner();
        let range = self.range(request.time_range.as_ref())?;
        let range = range.unwrap_or_else(|| self.outwards(Range::last_hour()));
        let filter = filter(&request.event_types, &request.filters)?;
        // As they are called here: `USER` may have been asked for.
        self.check_types(&filter.names[..request.event_types.len()])?;
        if !matches!(request.group_by.as_str(), "" | "event_type") {
            return Err(Status::invalid_argument("group_by: expected event_type, or nothing"));
        }
        let length = range.to_ms - range.from_ms;
        let before = Range { from_ms: range.from_ms.saturating_sub(length), to_ms: range.from_ms };
        let (total, earlier) = if filter.is_open() {
            (self.total(range), self.total(before))
        } else {
            let sums = self.apart(move |platform| {
                let one =
                    |range| platform.scanned(range, &filter, true, |_| 0).remove(&0).unwrap_or_default();
                Ok((one(range), one(before)))
            });
            sums.await?
        };
        Ok(Response::new(AnalyticsSummary {
            total_events: total.events as i64,
            unique_users: total.users as i64,
            sessions: total.sessions,
            events_by_type: counts(&total.by_name),
            top_metrics: top_metrics(&total, &earlier),
            last_updated: Some(SystemTime::now().into()),
            metadata: Some(SummaryMetadata {
                time_range: range.message(),
                processing_time: elapsed(since),
                cache_status: "live".to_owned(),
            }),
        }))
    }

    async fn get_time_series(
        &self,
        request: Request<GetTimeSeriesRequest>,
    ) -> Result<Response<GetTimeSeriesResponse>, Status> {
        let request = request.into_inner();
        self.apart(move |platform| platform.series(request)).await.map(Response::new)
    }

    async fn get_real_time_analytics(
        &self,
        request: Request<GetRealTimeAnalyticsRequest>,
    ) -> Result<Response<Self::GetRealTimeAnalyticsStream>, Status> {
        let request = request.into_inner();
        let seconds = match request.window_seconds {
            0 => 10,
            seconds @ 1..=WINDOW_SECONDS_MAX => seconds.unsigned_abs().into(),
            _ => {
                let text = format!("window_seconds: expected 0 to {WINDOW_SECONDS_MAX}");
                return Err(Status::invalid_argument(text));
            }
        };
        let filter = filter(&request.event_types, &request.filters)?;
        let (sender, answers) = tokio::sync::mpsc::channel(1);
        let platform = self.clone();
        tokio::spawn(async move {
            let mut ticks = tokio::time::interval(Duration::from_secs(1));
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
            loop {
                ticks.tick().await;
                let range = Range::last(Duration::from_secs(seconds));
                let wanted = filter.clone();
                let total = platform.apart(move |platform| {
                    Ok(platform.scanned(range, &wanted, false, |_| 0).remove(&0).unwrap_or_default())
                });
                let told = total.await.map(|total| real_time(&total, range, seconds));
                let is_end = told.is_err();
                // Who asked may be gone: that is the end, too.
                if sender.send(told).await.is_err() || is_end {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }

    async fn get_user_analytics(
        &self,
        request: Request<GetUserAnalyticsRequest>,
    ) -> Result<Response<GetUserAnalyticsResponse>, Status> {
        let request = request.into_inner();
        if request.user_id.is_empty() {
            return Err(Status::invalid_argument("user_id: expected at least 1 character"));
        }
        let range = Range::read(request.time_range.as_ref())?;
        self.apart(move |platform| platform.user(&request, range)).await.map(Response::new)
    }

    async fn get_funnel_analysis(
        &self,
        request: Request<GetFunnelAnalysisRequest>,
    ) -> Result<Response<GetFunnelAnalysisResponse>, Status> {
        let since = Instant::now();
        let request = request.into_inner();
        let range = self.required_range(request.time_range.as_ref())?;
        if !(2..=STEPS_MAX).contains(&request.steps.len()) {
            return Err(Status::invalid_argument(format!("steps: expected 2 to {STEPS_MAX}")));
        }
        let mut steps = Vec::new();
        for (place, step) in request.steps.iter().enumerate() {
            let types: Vec<String> =
                Some(step.event_type.clone()).filter(|name| !name.is_empty()).into_iter().collect();
            let conditions = filter(&types, &step.filters)
                .map_err(|error| Status::invalid_argument(format!("steps[{place}].{}", error.message())))?;
            if conditions.is_open() {
                return Err(Status::invalid_argument(format!(
                    "steps[{place}]: expected event_type or filters"
                )));
            }
            if conditions.user.is_some() {
                return Err(Status::invalid_argument(format!(
                    "steps[{place}].filters[user_id]: a funnel is over users"
                )));
            }
            steps.push(conditions);
        }
        let common = filter(&[], &request.filters)?;
        if common.user.is_some() {
            return Err(Status::invalid_argument("filters[user_id]: a funnel is over users"));
        }
        let timeout_ms = request
            .step_timeout
            .map(|timeout| {
                timeout.seconds.saturating_mul(1000).saturating_add(i64::from(timeout.nanos) / 1_000_000)
            })
            .filter(|timeout| *timeout != 0);
        if timeout_ms.is_some_and(|timeout| timeout < 0) {
            return Err(Status::invalid_argument("step_timeout: expected 0 or more"));
        }
        let counted = self.apart(move |platform| {
            let views: Vec<_> = platform.parts.iter().map(|part| part.lock().view()).collect();
            // A thread for each core's part.
            let counted: Vec<Vec<Step>> = std::thread::scope(|scope| {
                let count = |view| funnel(view, &steps, &common, range.from_ms, range.to_ms, timeout_ms);
                let (last, others) = views.split_last().ok_or_else(|| Status::internal("no core's part"))?;
                let threads: Vec<_> = others.iter().map(|view| scope.spawn(move || count(view))).collect();
                let mut counted = vec![count(last)];
                for thread in threads {
                    counted.push(thread.join().map_err(|_| Status::internal("the query broke off"))?);
                }
                Ok::<_, Status>(counted)
            })?;
            let mut sum = vec![Step::default(); steps.len()];
            for part in &counted {
                for (sum, step) in sum.iter_mut().zip(part) {
                    sum.users += step.users;
                    sum.total_ms += step.total_ms;
                }
            }
            Ok(sum)
        });
        let counted = counted.await?;
        let share = |of: u64, all: u64| if all == 0 { 0.0 } else { of as f64 / all as f64 };
        let mut results = Vec::new();
        for (place, step) in counted.iter().enumerate() {
            let before = if place == 0 { step.users } else { counted[place - 1].users };
            let average = step.total_ms.checked_div(u128::from(step.users)).unwrap_or(0);
            results.push(FunnelStepResult {
                name: request.steps[place].name.clone(),
                users: step.users as i64,
                conversion_rate: share(step.users, before),
                avg_time_to_convert: Some(duration(i64::try_from(average).unwrap_or(i64::MAX))),
            });
        }
        let (first, last) =
            (counted.first().map_or(0, |step| step.users), counted.last().map_or(0, |step| step.users));
        Ok(Response::new(GetFunnelAnalysisResponse {
            steps: results,
            overall_conversion_rate: share(last, first),
            metadata: Some(FunnelMetadata {
                time_range: range.message(),
                total_users: self.total(range).users as i64,
                processing_time: elapsed(since),
            }),
        }))
    }

    async fn health(&self, _: Request<()>) -> Result<Response<HealthResponse>, Status> {
        Ok(Response::new(health("analytics")))
    }
}

fn real_time(total: &Total, range: Range, seconds: u64) -> RealTimeAnalyticsResponse {
    let metric = |name: &str, value: f64, unit: &str, labels: HashMap<String, String>| RealTimeMetric {
        name: name.to_owned(),
        value,
        unit: unit.to_owned(),
        timestamp: Some(timestamp(range.to_ms)),
        labels,
    };
    let mut metrics = vec![
        metric("events", total.events as f64, "count", HashMap::new()),
        metric("events_per_second", total.events as f64 / seconds as f64, "1/s", HashMap::new()),
        metric("unique_users", total.users as f64, "count", HashMap::new()),
        metric("revenue", total.revenue_micros as f64 / 1e6, "currency", HashMap::new()),
        metric("errors", total.errors as f64, "count", HashMap::new()),
    ];
    metrics.extend(total.by_name.iter().map(|(name, count)| {
        metric("events_by_type", *count as f64, "count", [("event_type".to_owned(), name.clone())].into())
    }));
    RealTimeAnalyticsResponse {
        metrics,
        timestamp: Some(timestamp(range.to_ms)),
        window_id: humantime::format_rfc3339_millis(
            SystemTime::UNIX_EPOCH + Duration::from_millis(range.from_ms.unsigned_abs()),
        )
        .to_string(),
    }
}
