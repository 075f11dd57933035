//! `analytics.v1.MetricsService`: what the aggregates count, as metrics.

use std::{
    collections::{HashMap, HashSet},
    fmt::Write,
    pin::Pin,
    time::Duration,
};

use engine_analytics::Values;
use tidegate_proto::analytics::v1::{
    ExportMetricsRequest, ExportMetricsResponse, GetMetricsRequest, GetMetricsResponse, HealthResponse,
    Metric, MetricAggregation, MetricMetadata, MetricType, MetricsMetadata,
    metrics_service_server::MetricsService,
};
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::{Request, Response, Status};

use super::{
    Platform,
    analytics::{Range, Total, timestamp},
    calendar::now_ms,
    ingestion::health,
    proto_json,
};

/// Name, kind, unit and meaning of what is counted of every event.
const OWN: [(&str, MetricType, &str, &str); 6] = [
    ("events", MetricType::Counter, "count", "Events."),
    ("unique_users", MetricType::Gauge, "count", "Different users."),
    ("sessions", MetricType::Counter, "count", "Sessions that began."),
    ("revenue", MetricType::Gauge, "currency", "Completed purchases and subscriptions less refunds."),
    ("transactions", MetricType::Counter, "count", "Transactions."),
    ("errors", MetricType::Counter, "count", "Events that report an error."),
];

/// The metrics of a range, custom ones by name behind our own.
fn metrics(total: &Total, names: &[String], aggregation: MetricAggregation) -> Result<Vec<Metric>, Status> {
    let wanted = |name: &str| names.is_empty() || names.iter().any(|wanted| wanted == name);
    let at = Some(timestamp(now_ms()));
    let metric = |name: &str, kind: MetricType, value: f64, unit: &str, description: &str| Metric {
        name: name.to_owned(),
        r#type: kind.into(),
        value,
        labels: HashMap::new(),
        timestamp: at,
        unit: unit.to_owned(),
        metadata: Some(MetricMetadata {
            description: description.to_owned(),
            tags: Vec::new(),
            sample_rate: 1.0,
        }),
    };
    let mut all = Vec::new();
    if matches!(aggregation, MetricAggregation::Unspecified | MetricAggregation::Sum) {
        let own = OWN.iter().filter(|(name, ..)| wanted(name));
        all.extend(own.map(|(name, kind, unit, text)| metric(name, *kind, total.metric(name), unit, text)));
    }
    for (name, values) in total.metrics.iter().filter(|(name, _)| wanted(name)) {
        let value = match aggregation {
            MetricAggregation::Unspecified | MetricAggregation::Sum => values.sum,
            MetricAggregation::Count => values.count as f64,
            MetricAggregation::Avg => values.sum / values.count as f64,
            MetricAggregation::Min => values.min,
            MetricAggregation::Max => values.max,
            MetricAggregation::P95 => quantile(name, values, 0.95)?,
            MetricAggregation::P99 => quantile(name, values, 0.99)?,
        };
        all.push(metric(name, MetricType::Gauge, value, "", "A value that custom events carry."));
    }
    Ok(all)
}

/// A quantile, within 1 % of the exact one.
fn quantile(name: &str, values: &Values, share: f64) -> Result<f64, Status> {
    values.quantile(share).ok_or_else(|| {
        Status::failed_precondition(format!(
            "aggregation: the quantiles of `{name}` in single minutes or hours of this time_range were let go of, to make \
             room for later ones; ask for whole hours or whole days"
        ))
    })
}

impl Platform {
    /// Says which of the names that are asked for nobody has ever counted, and which cannot be told in this way.
    fn check_names(&self, names: &[String], aggregation: MetricAggregation) -> Result<(), Status> {
        let is_own = |name: &str| OWN.iter().any(|(own, ..)| *own == name);
        let is_sum = matches!(aggregation, MetricAggregation::Unspecified | MetricAggregation::Sum);
        let of_other_kind = names.iter().find(|name| is_own(name) && !is_sum);
        if let Some(name) = of_other_kind {
            return Err(Status::invalid_argument(format!(
                "aggregation: `{name}` is counted over the whole time and has a SUM only; the others are of custom metrics"
            )));
        }
        let unknown: Vec<&str> =
            names.iter().map(String::as_str).filter(|name| !is_own(name) && !self.has_metric(name)).collect();
        if unknown.is_empty() {
            return Ok(());
        }
        let own: Vec<&str> = OWN.iter().map(|(name, ..)| *name).collect();
        Err(Status::not_found(format!(
            "metric_names: nobody has sent {:?}, or it is among those counted as `other`; expected {}, or the name of a metric that custom events carried",
            unknown,
            own.join(", ")
        )))
    }

    fn metrics(&self, request: &GetMetricsRequest) -> Result<(Vec<Metric>, Range), Status> {
        if !request.labels.is_empty() {
            return Err(Status::invalid_argument("labels: these metrics have none"));
        }
        let range = self.range(request.time_range.as_ref())?;
        let range = range.unwrap_or_else(|| self.outwards(Range::last_hour()));
        Ok((metrics(&self.total(range), &request.metric_names, request.aggregation())?, range))
    }
}

/// A name as Prometheus takes it (its data model: `[a-zA-Z_:][a-zA-Z0-9_:]*`).
fn prometheus_name(name: &str) -> String {
    let needs_start = name.is_empty() || name.starts_with(|first: char| first.is_ascii_digit());
    let start = if needs_start { "_" } else { "" };
    let rest =
        name.chars().map(|letter| if letter.is_ascii_alphanumeric() || letter == ':' { letter } else { '_' });
    start.chars().chain(rest).collect()
}

/// A field of RFC 4180.
fn csv_field(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}

fn export(format: &str, metrics: &[Metric]) -> Result<(String, &'static str), Status> {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let content_type = match format {
        "" | "prometheus" => {
            let mut taken = HashSet::new();
            for metric in metrics {
                let (mut name, kind) = (prometheus_name(&metric.name), metric.r#type());
                // Of names that differ only in what Prometheus does not take, the later ones have a number.
                let (own, mut number) = (name.clone(), 1);
                while !taken.insert(name.clone()) {
                    number += 1;
                    name = format!("{own}_{number}");
                }
                let kind = if kind == MetricType::Counter { "counter" } else { "gauge" };
                let _ = writeln!(text, "# TYPE {name} {kind}\n{name} {}", metric.value);
            }
            "text/plain; version=0.0.4; charset=utf-8"
        }
        "json" => {
            let values = metrics
                .iter()
                .map(|metric| proto_json::write("Metric", metric))
                .collect::<Result<Vec<_>, _>>()?;
            text = serde_json::Value::Array(values).to_string();
            "application/json"
        }
        "csv" => {
            text.push_str("name,type,value,labels,timestamp,unit\r\n");
            for metric in metrics {
                let seconds = metric.timestamp.as_ref().map_or(0, |at| at.seconds);
                let (name, unit) = (csv_field(&metric.name), csv_field(&metric.unit));
                let _ = write!(
                    text,
                    "{name},{},{},,{seconds},{unit}\r\n",
                    metric.r#type().as_str_name(),
                    metric.value
                );
            }
            "text/csv"
        }
        other => {
            return Err(Status::invalid_argument(format!(
                "format: expected prometheus, json or csv, not `{other}`"
            )));
        }
    };
    Ok((text, content_type))
}

#[tonic::async_trait]
impl MetricsService for Platform {
    type StreamMetricsStream = Pin<Box<dyn Stream<Item = Result<Metric, Status>> + Send>>;

    async fn get_metrics(
        &self,
        request: Request<GetMetricsRequest>,
    ) -> Result<Response<GetMetricsResponse>, Status> {
        let request = request.into_inner();
        self.check_names(&request.metric_names, request.aggregation())?;
        let (metrics, range) = self.metrics(&request)?;
        let metadata = MetricsMetadata {
            total_metrics: i32::try_from(metrics.len()).unwrap_or(i32::MAX),
            time_range: range.message(),
            aggregation: request.aggregation,
        };
        Ok(Response::new(GetMetricsResponse { metrics, metadata: Some(metadata) }))
    }

    async fn stream_metrics(
        &self,
        request: Request<GetMetricsRequest>,
    ) -> Result<Response<Self::StreamMetricsStream>, Status> {
        let request = request.into_inner();
        self.check_names(&request.metric_names, request.aggregation())?;
        self.metrics(&request)?;
        let (sender, answers) = tokio::sync::mpsc::channel(64);
        let platform = self.clone();
        tokio::spawn(async move {
            let mut told: HashMap<String, f64> = HashMap::new();
            let mut ticks = tokio::time::interval(Duration::from_secs(1));
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
            loop {
                ticks.tick().await;
                let Ok((metrics, _)) = platform.metrics(&request) else { return };
                for metric in metrics {
                    let changed = told.insert(metric.name.clone(), metric.value) != Some(metric.value);
                    // Who asked may be gone: that is the end.
                    if changed && sender.send(Ok(metric)).await.is_err() {
                        return;
                    }
                }
                if sender.is_closed() {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }

    async fn export_metrics(
        &self,
        request: Request<ExportMetricsRequest>,
    ) -> Result<Response<ExportMetricsResponse>, Status> {
        let ExportMetricsRequest { format, metric_names, time_range } = request.into_inner();
        let request = GetMetricsRequest { metric_names, time_range, ..GetMetricsRequest::default() };
        self.check_names(&request.metric_names, request.aggregation())?;
        let (metrics, _) = self.metrics(&request)?;
        let (data, content_type) = export(&format, &metrics)?;
        Ok(Response::new(ExportMetricsResponse {
            data,
            content_type: content_type.to_owned(),
            metrics_count: metrics.len() as i64,
        }))
    }

    async fn health(&self, _: Request<()>) -> Result<Response<HealthResponse>, Status> {
        Ok(Response::new(health("metrics")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(name: &str) -> Metric {
        Metric { name: name.to_owned(), value: 1.5, unit: "ms".to_owned(), ..Metric::default() }
    }

    #[test]
    fn each_format_is_what_its_readers_expect() {
        let metrics = [one("latency, p\"50")];
        let (csv, content_type) = export("csv", &metrics).unwrap();
        assert_eq!(content_type, "text/csv");
        let expected = "name,type,value,labels,timestamp,unit\r\n\"latency, p\"\"50\",METRIC_TYPE_UNSPECIFIED,1.5,,0,ms\r\n";
        assert_eq!(csv, expected);
        assert!(export("", &metrics).unwrap().0.contains("\nlatency__p_50 1.5\n"));
        let (json, _) = export("json", &metrics).unwrap();
        assert_eq!(serde_json::from_str::<serde_json::Value>(&json).unwrap()[0]["value"], 1.5);
        assert!(export("xml", &metrics).unwrap_err().message().contains("xml"));
        assert_eq!(prometheus_name("9lives"), "_9lives");
    }
}
