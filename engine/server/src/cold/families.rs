//! Metric families as the `prometheus` crate's encoder takes them, made at scrape time from the counters of the
//! cores: nothing on the hot lane knows of Prometheus.

use prometheus::proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType};
use transports::{DURATION_BOUNDS, Durations};

/// Label names and values of one series.
pub type Labels<'a> = &'a [(&'a str, &'a str)];

/// A family.
#[derive(Clone, Debug)]
pub struct Family {
    whole: MetricFamily,
    /// By series, what a native histogram is made of; shorter than the series where the rest has none.
    fine: Vec<Option<Durations>>,
}

impl From<MetricFamily> for Family {
    fn from(whole: MetricFamily) -> Self {
        Self { whole, fine: Vec::new() }
    }
}

impl Family {
    fn new(name: &str, help: &str, kind: MetricType) -> Self {
        let mut family = MetricFamily::default();
        family.set_name(name.to_owned());
        family.set_help(help.to_owned());
        family.set_field_type(kind);
        family.into()
    }

    /// A counter.
    pub fn counter(name: &str, help: &str) -> Self {
        Self::new(name, help, MetricType::COUNTER)
    }

    /// A gauge.
    pub fn gauge(name: &str, help: &str) -> Self {
        Self::new(name, help, MetricType::GAUGE)
    }

    /// A histogram.
    pub fn histogram(name: &str, help: &str) -> Self {
        Self::new(name, help, MetricType::HISTOGRAM)
    }

    fn push(&mut self, labels: Labels<'_>, set: impl FnOnce(&mut Metric)) {
        let pairs = labels.iter().map(|(name, value)| {
            let mut pair = LabelPair::default();
            pair.set_name((*name).to_owned());
            pair.set_value((*value).to_owned());
            pair
        });
        let mut metric = Metric::from_label(pairs.collect());
        set(&mut metric);
        self.whole.mut_metric().push(metric);
    }

    /// Adds a series of a counter.
    #[must_use]
    pub fn count(mut self, labels: Labels<'_>, value: u64) -> Self {
        self.add_count(labels, value);
        self
    }

    /// Adds a series of a counter.
    pub fn add_count(&mut self, labels: Labels<'_>, value: u64) {
        self.add_amount(labels, value as f64);
    }

    /// Adds a series of a counter of what has parts, such as seconds.
    pub fn add_amount(&mut self, labels: Labels<'_>, value: f64) {
        self.push(labels, |metric| {
            let mut counter = Counter::default();
            counter.set_value(value);
            metric.set_counter(counter);
        });
    }

    /// Adds a series of a gauge.
    #[must_use]
    pub fn level(mut self, labels: Labels<'_>, value: f64) -> Self {
        self.push(labels, |metric| {
            let mut gauge = Gauge::default();
            gauge.set_value(value);
            metric.set_gauge(gauge);
        });
        self
    }

    /// Adds a series of a histogram: `bounds` and the counts of their buckets (not cumulative; one more for +Inf).
    pub fn add_distribution(&mut self, labels: Labels<'_>, bounds: &[f64], counts: &[u64], sum: f64) {
        self.push(labels, |metric| {
            let mut histogram = Histogram::default();
            let mut cumulative = 0;
            let buckets = bounds.iter().zip(counts).map(|(bound, count)| {
                cumulative += count;
                let mut bucket = Bucket::default();
                bucket.set_upper_bound(*bound);
                bucket.set_cumulative_count(cumulative);
                bucket
            });
            histogram.set_bucket(buckets.collect());
            histogram.set_sample_count(counts.iter().sum());
            histogram.set_sample_sum(sum);
            metric.set_histogram(histogram);
        });
    }

    /// Adds a series of a histogram of durations, which is a native one where the page is protobuf.
    pub fn add_durations(&mut self, labels: Labels<'_>, taken: &Durations) {
        self.fine.resize(self.whole.get_metric().len(), None);
        self.fine.push(Some(taken.clone()));
        self.add_distribution(labels, &DURATION_BOUNDS, &taken.buckets, taken.sum_seconds);
    }

    /// The same under another name.
    #[must_use]
    pub fn named(mut self, name: String) -> Self {
        self.whole.set_name(name);
        self
    }

    /// Its name.
    pub fn name(&self) -> &str {
        self.whole.name()
    }

    /// What it is made of: the family as text has it, and what native histograms are made of.
    pub fn parts(&self) -> (&MetricFamily, &[Option<Durations>]) {
        (&self.whole, &self.fine)
    }

    /// The finished family; `None` when it has no series (the encoder refuses empty ones).
    pub fn finish(self) -> Option<Self> {
        (!self.whole.get_metric().is_empty()).then_some(self)
    }
}
