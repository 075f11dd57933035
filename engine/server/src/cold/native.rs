//! The metrics page as protobuf, for a scraper that asks for it: the only form that carries native histograms.
//!
//! The messages are those of `io.prometheus.client` (<https://github.com/prometheus/client_model>, `metrics.proto`), as far as
//! this page has them; each follows its length.

use prometheus::proto::MetricType;
use prost::Message;
use transports::{Durations, FINE_INDEX, FINE_SCHEMA, FINE_ZERO_SECONDS};

use super::families::Family;

/// The page's content type.
pub const CONTENT_TYPE: &str =
    "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited";

/// Whether a request with this `Accept` field would rather have this than text (RFC 9110 section 12.5.1).
pub fn is_wanted(accept: &str) -> bool {
    let (mut native, mut text) = (0.0_f64, 0.0_f64);
    for entry in accept.split(',') {
        let mut parts = entry.split(';').map(str::trim);
        let kind = parts.next().unwrap_or_default().to_ascii_lowercase();
        let (mut quality, mut is_family, mut is_delimited) = (1.0, false, false);
        for part in parts {
            match part.split_once('=').map(|(name, value)| (name.trim(), value.trim())) {
                Some(("q", value)) => quality = value.parse().unwrap_or(0.0),
                Some(("proto", value)) => is_family = value == "io.prometheus.client.MetricFamily",
                Some(("encoding", value)) => is_delimited = value == "delimited",
                _ => {}
            }
        }
        match kind.as_str() {
            "application/vnd.google.protobuf" if is_family && is_delimited => native = native.max(quality),
            "text/plain" | "text/*" | "*/*" | "application/openmetrics-text" => text = text.max(quality),
            _ => {}
        }
    }
    native > 0.0 && native >= text
}

#[derive(Clone, PartialEq, Message)]
struct MetricFamily {
    #[prost(string, optional, tag = "1")]
    name: Option<String>,
    #[prost(string, optional, tag = "2")]
    help: Option<String>,
    /// 0 counter, 1 gauge, 4 histogram.
    #[prost(int32, optional, tag = "3")]
    kind: Option<i32>,
    #[prost(message, repeated, tag = "4")]
    metric: Vec<Metric>,
}

#[derive(Clone, PartialEq, Message)]
struct Metric {
    #[prost(message, repeated, tag = "1")]
    label: Vec<LabelPair>,
    #[prost(message, optional, tag = "2")]
    gauge: Option<Value>,
    #[prost(message, optional, tag = "3")]
    counter: Option<Value>,
    #[prost(message, optional, tag = "7")]
    histogram: Option<Histogram>,
}

#[derive(Clone, PartialEq, Message)]
struct LabelPair {
    #[prost(string, optional, tag = "1")]
    name: Option<String>,
    #[prost(string, optional, tag = "2")]
    value: Option<String>,
}

/// `Gauge`, and `Counter` as far as it is used.
#[derive(Clone, PartialEq, Message)]
struct Value {
    #[prost(double, optional, tag = "1")]
    value: Option<f64>,
}

#[derive(Clone, PartialEq, Message)]
struct Histogram {
    #[prost(uint64, optional, tag = "1")]
    sample_count: Option<u64>,
    #[prost(double, optional, tag = "2")]
    sample_sum: Option<f64>,
    #[prost(message, repeated, tag = "3")]
    bucket: Vec<Bucket>,
    #[prost(sint32, optional, tag = "5")]
    schema: Option<i32>,
    #[prost(double, optional, tag = "6")]
    zero_threshold: Option<f64>,
    #[prost(uint64, optional, tag = "7")]
    zero_count: Option<u64>,
    #[prost(message, repeated, tag = "12")]
    positive_span: Vec<BucketSpan>,
    #[prost(sint64, repeated, packed = "false", tag = "13")]
    positive_delta: Vec<i64>,
}

#[derive(Clone, PartialEq, Message)]
struct Bucket {
    #[prost(uint64, optional, tag = "1")]
    cumulative_count: Option<u64>,
    #[prost(double, optional, tag = "2")]
    upper_bound: Option<f64>,
}

#[derive(Clone, PartialEq, Message)]
struct BucketSpan {
    /// Buckets since the end of the span before; for the first one its index.
    #[prost(sint32, optional, tag = "1")]
    offset: Option<i32>,
    #[prost(uint32, optional, tag = "2")]
    length: Option<u32>,
}

/// Writes the whole page.
pub fn write(families: &[Family]) -> Vec<u8> {
    let mut page = Vec::new();
    for family in families {
        let (whole, fine) = family.parts();
        let kind = match whole.get_field_type() {
            MetricType::COUNTER => 0,
            MetricType::GAUGE => 1,
            _ => 4,
        };
        let metric = whole.get_metric().iter().enumerate();
        let metric = metric.map(|(place, metric)| Metric {
            label: metric
                .get_label()
                .iter()
                .map(|pair| LabelPair {
                    name: Some(pair.name().to_owned()),
                    value: Some(pair.value().to_owned()),
                })
                .collect(),
            gauge: (kind == 1).then(|| Value { value: Some(metric.get_gauge().get_value()) }),
            counter: (kind == 0).then(|| Value { value: Some(metric.get_counter().get_value()) }),
            histogram: (kind == 4)
                .then(|| histogram(metric.get_histogram(), fine.get(place).and_then(Option::as_ref))),
        });
        let family = MetricFamily {
            name: Some(whole.name().to_owned()),
            help: Some(whole.help().to_owned()),
            kind: Some(kind),
            metric: metric.collect(),
        };
        page.extend_from_slice(&family.encode_length_delimited_to_vec());
    }
    page
}

fn histogram(classic: &prometheus::proto::Histogram, fine: Option<&Durations>) -> Histogram {
    let bucket = classic.get_bucket().iter().map(|bucket| Bucket {
        cumulative_count: Some(bucket.cumulative_count()),
        upper_bound: Some(bucket.upper_bound()),
    });
    let whole = Histogram {
        sample_count: Some(classic.get_sample_count()),
        sample_sum: Some(classic.get_sample_sum()),
        bucket: bucket.collect(),
        ..Histogram::default()
    };
    let Some(fine) = fine else { return whole };
    let (mut spans, mut deltas) = (Vec::<BucketSpan>::new(), Vec::new());
    let (mut before, mut empty) = (0, FINE_INDEX);
    for count in &fine.fine[1..] {
        if *count == 0 {
            empty += 1;
            continue;
        }
        match spans.last_mut() {
            Some(BucketSpan { length: Some(length), .. }) if empty == 0 => *length += 1,
            _ => spans.push(BucketSpan { offset: Some(empty), length: Some(1) }),
        }
        empty = 0;
        deltas.push(count.cast_signed().wrapping_sub(before));
        before = count.cast_signed();
    }
    Histogram {
        schema: Some(FINE_SCHEMA),
        zero_threshold: Some(FINE_ZERO_SECONDS),
        zero_count: Some(fine.fine[0]),
        positive_span: spans,
        positive_delta: deltas,
        ..whole
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn protobuf_is_for_who_would_rather_have_it() {
        let asks =
            "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited";
        for (accept, wanted) in [
            (
                format!(
                    "{asks};q=0.6,application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.3,*/*;q=0.2"
                ),
                true,
            ),
            (asks.to_owned(), true),
            (format!("text/plain;q=0.7, {asks};q=0.6"), false),
            (format!("{asks};q=0"), false),
            ("application/vnd.google.protobuf".to_owned(), false),
            ("text/plain".to_owned(), false),
            ("*/*".to_owned(), false),
            (String::new(), false),
        ] {
            assert_eq!(is_wanted(&accept), wanted, "{accept}");
        }
    }

    #[test]
    fn spans_and_deltas_give_every_bucket_back() {
        let mut durations = Durations::default();
        for (micros, count) in [(1, 2), (20, 3), (21, 1), (5_000, 7), (6_000, 2), (2_000_000, 1)] {
            (0..count).for_each(|_| durations.add(Duration::from_micros(micros)));
        }
        let native = histogram(&prometheus::proto::Histogram::default(), Some(&durations));
        let (mut index, mut count, mut deltas) = (0, 0, native.positive_delta.iter());
        let mut found = [0; transports::FINE_BUCKETS];
        for span in &native.positive_span {
            index += span.offset.unwrap();
            for _ in 0..span.length.unwrap() {
                count += deltas.next().unwrap();
                found[(index - FINE_INDEX + 1) as usize] = count.cast_unsigned();
                index += 1;
            }
        }
        found[0] = native.zero_count.unwrap();
        assert_eq!(found, durations.fine);
        assert_eq!(deltas.next(), None);
    }
}
