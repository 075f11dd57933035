//! `/metrics`: a page that Prometheus can read, with every name that older dashboards ask for and with values that are true.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message;
use tidegate_proto::{
    analytics::v1::{Event, EventType, StreamEventsRequest, stream_events_request},
    diplom::v1::IngestRequest,
};

use crate::{
    brokers::{can_be_had, nats},
    harness::{H2Peer, Peer, Scratch, Server, Start, eventually, framed, get, on_runtime, post_json},
};

/// Names, types and label names that the older dashboards and alerts ask for.
const PROMISED: &[(&str, &str, &[&str])] = &[
    ("ingest_requests_total", "counter", &["status"]),
    ("ingest_request_duration_seconds", "histogram", &["status"]),
    ("ingest_messages_processed_total", "counter", &["status"]),
    ("processor_messages_total", "counter", &["status"]),
    ("processor_worker_pool_size", "gauge", &[]),
    ("processor_queue_size", "gauge", &[]),
    ("processor_processing_duration_seconds", "histogram", &["status"]),
    ("gateway_requests_total", "counter", &["method", "endpoint", "status"]),
    ("gateway_request_duration_seconds", "histogram", &["method", "endpoint", "status"]),
    ("gateway_upstream_requests_total", "counter", &["service", "status"]),
    ("http_requests_total", "counter", &["method", "endpoint", "status"]),
    ("http_request_duration_seconds", "histogram", &["method", "endpoint", "status"]),
    ("queue_size", "gauge", &[]),
    ("queue_capacity", "gauge", &[]),
    ("queue_current_size", "gauge", &[]),
];

/// A series: its name with its labels as written.
type Series = (String, BTreeMap<String, String>);

/// A page, read as strictly as Prometheus reads it.
#[derive(Debug, Default)]
struct Page {
    types: BTreeMap<String, String>,
    samples: BTreeMap<Series, f64>,
}

impl Page {
    #[track_caller]
    fn read(text: &str) -> Self {
        let mut page = Page::default();
        let mut closed = BTreeSet::new();
        let mut current = String::new();
        assert!(text.ends_with('\n'), "the last line ends, too");
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap();
                assert!(["counter", "gauge", "histogram", "summary", "untyped"].contains(&kind), "{line}");
                assert!(page.types.insert(name.to_owned(), kind.to_owned()).is_none(), "typed twice: {line}");
                assert!(closed.insert(name.to_owned()), "a family comes in one piece: {line}");
                current = name.to_owned();
            } else if let Some(rest) = line.strip_prefix("# HELP ") {
                assert!(is_name(rest.split(' ').next().unwrap()), "{line}");
            } else {
                assert!(!line.starts_with('#') && !line.is_empty(), "{line:?}");
                let (series, value) = sample(line);
                assert_eq!(
                    family(&series.0, &page.types),
                    current,
                    "a TYPE stands before its samples: {line}"
                );
                assert!(page.samples.insert(series, value).is_none(), "twice: {line}");
            }
        }
        page.check_histograms();
        page
    }

    fn check_histograms(&self) {
        for name in self.types.iter().filter(|(_, kind)| *kind == "histogram").map(|(name, _)| name) {
            let mut last: BTreeMap<BTreeMap<String, String>, Vec<(f64, f64)>> = BTreeMap::new();
            for ((_, labels), count) in self.of(&format!("{name}_bucket")) {
                let mut labels = labels.clone();
                let bound = labels.remove("le").expect("a bucket has a bound");
                let bound = if bound == "+Inf" { f64::INFINITY } else { bound.parse().unwrap() };
                last.entry(labels).or_default().push((bound, *count));
            }
            assert!(!last.is_empty(), "{name} has buckets");
            for (labels, mut buckets) in last {
                buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
                assert!(
                    buckets.is_sorted_by(|a, b| a.1 <= b.1),
                    "{name} {labels:?} is cumulative: {buckets:?}"
                );
                let (bound, all) = buckets.pop().unwrap();
                assert!(bound.is_infinite(), "{name} ends with +Inf");
                assert_eq!(
                    self.samples[&(format!("{name}_count"), labels.clone())],
                    all,
                    "{name} {labels:?}"
                );
                assert!(self.samples[&(format!("{name}_sum"), labels)] >= 0.0);
            }
        }
    }

    fn of(&self, name: &str) -> impl Iterator<Item = (&Series, &f64)> {
        self.samples.iter().filter(move |((known, _), _)| known == name)
    }

    /// The value of one series; 0 when there is none.
    fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        self.samples.get(&(name.to_owned(), labels)).copied().unwrap_or_default()
    }

    /// Series that only ever grow.
    fn counts(&self) -> impl Iterator<Item = (&Series, f64)> {
        self.samples.iter().filter_map(|(series, value)| {
            let kind = &self.types[&family(&series.0, &self.types)];
            (kind == "counter" || kind == "histogram").then_some((series, *value))
        })
    }
}

fn is_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|first: char| first.is_ascii_digit())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == ':')
}

/// The family that a sample belongs to.
fn family(sample: &str, types: &BTreeMap<String, String>) -> String {
    for suffix in ["_bucket", "_sum", "_count"] {
        if let Some(base) = sample.strip_suffix(suffix)
            && types.get(base).is_some_and(|kind| kind == "histogram" || kind == "summary")
        {
            return base.to_owned();
        }
    }
    sample.to_owned()
}

/// Reads `name{label="value",…} 1.5`.
#[track_caller]
fn sample(line: &str) -> (Series, f64) {
    let (head, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no value: {line}"));
    let value: f64 = value.replace("+Inf", "inf").parse().unwrap_or_else(|_| panic!("no number: {line}"));
    let (name, mut rest) = match head.split_once('{') {
        Some((name, rest)) => {
            (name, rest.strip_suffix('}').unwrap_or_else(|| panic!("labels stay open: {line}")))
        }
        None => (head, ""),
    };
    assert!(is_name(name), "{line}");
    let mut labels = BTreeMap::new();
    while !rest.is_empty() {
        let (label, after) = rest.split_once("=\"").unwrap_or_else(|| panic!("no label: {line}"));
        assert!(is_name(label) && !label.contains(':'), "{line}");
        let mut text = String::new();
        let mut characters = after.char_indices();
        let end = loop {
            match characters.next().unwrap_or_else(|| panic!("a value stays open: {line}")) {
                (at, '"') => break at,
                (_, '\\') => match characters.next().unwrap().1 {
                    'n' => text.push('\n'),
                    c @ ('\\' | '"') => text.push(c),
                    other => panic!("\\{other} is no escape: {line}"),
                },
                (_, c) => text.push(c),
            }
        };
        assert!(labels.insert(label.to_owned(), text).is_none(), "a label comes twice: {line}");
        rest = &after[end + 1..];
        rest = rest.strip_prefix(',').unwrap_or(rest);
    }
    ((name.to_owned(), labels), value)
}

#[track_caller]
fn scrape(server: &Server) -> Page {
    let answer = get(server.gateway(), "/metrics");
    assert_eq!(answer.status, 200);
    let content_type = answer.field("content-type").unwrap();
    assert!(content_type.starts_with("text/plain; version=0.0.4"), "{content_type}");
    Page::read(answer.text())
}

const GOOD: usize = 17;
const BAD: usize = 5;
const WRONG_METHOD: usize = 3;

/// A mix on the public API that is known to the last request.
fn traffic(server: &Server) {
    for _ in 0..GOOD {
        assert_eq!(post_json(server.gateway(), "/api/v1/ingest", r#"{"source":"s","data":"d"}"#).status, 200);
    }
    for _ in 0..BAD {
        assert_eq!(post_json(server.gateway(), "/api/v1/ingest", "{").status, 400);
    }
    for _ in 0..WRONG_METHOD {
        assert_eq!(get(server.gateway(), "/api/v1/ingest").status, 405);
    }
    assert_eq!(server.settled(), GOOD as u64);
}

/// The page once the mix is counted: an answer is sent a moment before it is counted.
#[track_caller]
fn page_after_traffic(server: &Server) -> Page {
    eventually("all requests of the mix are counted", || {
        let page = scrape(server);
        let all: f64 = page.of("ingest_requests_total").map(|(_, value)| value).sum();
        (all >= (GOOD + BAD + WRONG_METHOD) as f64).then_some(page)
    })
}

#[test]
fn every_promised_name_is_there_with_its_type_and_labels() {
    let server = Server::start();
    traffic(&server);
    let page = page_after_traffic(&server);
    for (name, kind, labels) in PROMISED {
        assert_eq!(page.types.get(*name).map(String::as_str), Some(*kind), "{name}");
        let of = if *kind == "histogram" { format!("{name}_count") } else { (*name).to_owned() };
        let mut series = page.of(&of).peekable();
        assert!(series.peek().is_some(), "{name} has no series");
        for ((_, found), _) in series {
            let found: BTreeSet<&str> = found.keys().map(String::as_str).collect();
            assert_eq!(found, labels.iter().copied().collect(), "labels of {name}");
        }
    }
    assert!(page.types.contains_key("process_cpu_seconds_total"), "the process's own metrics are there, too");
}

#[test]
fn a_known_mix_of_requests_is_counted_to_the_last() {
    let server = Server::start();
    traffic(&server);
    let page = page_after_traffic(&server);
    let (good, bad, wrong_method) = (GOOD as f64, BAD as f64, WRONG_METHOD as f64);
    for (status, count) in [
        ("success", good),
        ("bad_request", bad),
        ("method_not_allowed", wrong_method),
        ("service_unavailable", 0.0),
    ] {
        assert_eq!(page.value("ingest_requests_total", &[("status", status)]), count, "{status}");
        assert_eq!(
            page.value("ingest_request_duration_seconds_count", &[("status", status)]),
            count,
            "{status}"
        );
    }
    for (status, count) in [("received", good), ("sent", good), ("failed", 0.0)] {
        assert_eq!(page.value("ingest_messages_processed_total", &[("status", status)]), count, "{status}");
    }
    assert_eq!(page.value("processor_messages_total", &[("status", "processed")]), good);
    assert_eq!(page.value("processor_messages_total", &[("status", "error")]), 0.0);
    assert_eq!(page.value("processor_processing_duration_seconds_count", &[("status", "processed")]), good);
    assert_eq!(
        page.value("gateway_upstream_requests_total", &[("service", "ingest"), ("status", "success")]),
        good
    );
    for family in ["http", "gateway"] {
        let name = format!("{family}_requests_total");
        let with = |method, status| {
            page.value(&name, &[("method", method), ("endpoint", "/api/v1/ingest"), ("status", status)])
        };
        assert_eq!(with("POST", "200"), good, "{name}");
        assert_eq!(with("POST", "400"), bad, "{name}");
        let refused: f64 = page
            .of(&name)
            .filter(|((_, labels), _)| labels["endpoint"] == "/api/v1/ingest" && labels["status"] == "405")
            .map(|(_, value)| value)
            .sum();
        assert_eq!(refused, wrong_method, "{name}");
    }
    for name in ["processor_queue_size", "queue_size", "queue_current_size"] {
        assert_eq!(page.value(name, &[]), 0.0, "{name}");
    }
    assert_eq!(page.value("queue_capacity", &[]), 1000.0);
    assert!(page.value("processor_worker_pool_size", &[]) >= 1.0);
}

#[test]
fn counters_never_go_back() {
    let server = Server::start();
    traffic(&server);
    let before = page_after_traffic(&server);
    for _ in 0..3 {
        post_json(server.ingest(), "/ingest", "{}");
        post_json(server.processor(), "/enqueue", "{}");
    }
    let after = scrape(&server);
    for (series, value) in before.counts() {
        let now = after.samples.get(series).unwrap_or_else(|| panic!("{series:?} has vanished"));
        assert!(*now >= value, "{series:?} went from {value} to {now}");
    }
}

#[test]
fn paths_that_nobody_serves_are_one_series() {
    let server = Server::start();
    let mut peer = Peer::connect(server.gateway());
    for number in 0..100 {
        peer.send(format!("GET /scan/{number} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
        assert_eq!(peer.answer(false).unwrap().status, 404);
    }
    let page = eventually("the scan is counted", || {
        let page = scrape(&server);
        let found: f64 = page
            .of("http_requests_total")
            .filter(|((_, labels), _)| labels["status"] == "404")
            .map(|(_, n)| n)
            .sum();
        (found >= 100.0).then_some(page)
    });
    assert!(page.of("http_requests_total").all(|((_, labels), _)| !labels["endpoint"].contains("scan")));
}

#[test]
fn a_quick_answer_is_told_from_a_slow_one() {
    let server = Server::start();
    for _ in 0..200 {
        assert_eq!(post_json(server.gateway(), "/ingest", "{}").status, 200);
    }
    let page = get(server.gateway(), "/metrics");
    let upto = |bound: &str| {
        let series = format!("ingest_request_duration_seconds_bucket{{status=\"success\",le=\"{bound}\"}} ");
        let line =
            page.text().lines().find(|line| line.starts_with(&series)).unwrap_or_else(|| panic!("{series}"));
        line[series.len()..].parse::<u64>().unwrap()
    };
    // In a test nothing says how quick; only that 50 µs and 5 ms are not one bucket.
    assert_eq!(upto("+Inf"), 200);
    assert!(upto("0.00005") <= upto("0.0025") && upto("0.0025") <= upto("0.005") && upto("10") <= 200);
}

#[test]
fn rpcs_of_the_cold_lane_are_counted_by_code_and_made_up_ones_are_not() {
    let server = Server::start();
    on_runtime(async {
        let mut peer = H2Peer::connect(server.grpc()).await;
        for (path, code) in [
            ("/grpc.health.v1.Health/Check", 0),
            ("/analytics.v1.AnalyticsService/GetUserAnalytics", 3),
            ("/analytics.v1.AnalyticsService/GetNothing", 12),
            ("/made.Up/Method", 12),
        ] {
            let answer = peer.call(path, &[], &framed(0, b"")).await.unwrap();
            assert_eq!(answer.grpc_status(), Some(code), "{path}");
        }
    });
    // An answer is sent a moment before it is counted.
    let page = eventually("the RPCs are counted", || {
        let page = scrape(&server);
        let all: f64 = page.of("grpc_server_handled_total").map(|(_, value)| value).sum();
        (all >= 2.0).then_some(page)
    });
    let counted: Vec<_> = page
        .samples
        .iter()
        .filter(|((name, _), _)| name == "grpc_server_handled_total")
        .map(|((_, labels), count)| {
            (
                labels["grpc_service"].as_str(),
                labels["grpc_method"].as_str(),
                labels["grpc_code"].as_str(),
                *count,
            )
        })
        .collect();
    let mut counted = counted;
    counted.sort_by(|a, b| a.partial_cmp(b).unwrap());
    let expected = [
        ("analytics.v1.AnalyticsService", "GetUserAnalytics", "InvalidArgument", 1.0),
        ("grpc.health.v1.Health", "Check", "OK", 1.0),
    ];
    assert_eq!(counted, expected);
}

#[test]
fn what_streams_bring_has_a_latency_each_and_what_is_refused_has_none() {
    let folder = Scratch::new();
    let server =
        Start::new().set("queue.type=log").set(&format!("data.directory={}", folder.path().display())).run();
    let event = |id: &str, user: &str| {
        let event = Event {
            id: id.to_owned(),
            user_id: user.to_owned(),
            event_type: EventType::User.into(),
            ..Event::default()
        };
        let request = stream_events_request::Request::Event(event);
        framed(0, &StreamEventsRequest { request: Some(request) }.encode_to_vec())
    };
    let message =
        framed(0, &IngestRequest { data: b"x".to_vec(), ..IngestRequest::default() }.encode_to_vec());
    on_runtime(async {
        let mut peer = H2Peer::connect(server.grpc()).await;
        let events = [event("a", "u"), event("b", "u"), event("a", "u"), event("c", "")].concat();
        let answer =
            peer.call("/analytics.v1.EventIngestionService/StreamEvents", &[], &events).await.unwrap();
        assert_eq!(answer.grpc_status(), Some(0), "{}", answer.grpc_message());
        for level in ["durable", "queued"] {
            let fields = [("tidegate-ack", level)];
            let answer =
                peer.call("/diplom.v1.IngestService/IngestStream", &fields, &message.repeat(5)).await;
            assert_eq!(answer.unwrap().grpc_status(), Some(0));
        }
    });
    eventually("each is counted", || {
        let page = scrape(&server);
        let count =
            |method: &str| page.value("tidegate_stream_latency_seconds_count", &[("grpc_method", method)]);
        (count("StreamEvents") == 3.0 && count("IngestStream") == 10.0).then_some(())
    });
}

#[test]
fn who_asks_for_protobuf_gets_the_same_series_with_native_histograms() {
    let server = Server::start();
    traffic(&server);
    server.settled();
    let text = scrape(&server);
    let mut peer = Peer::connect(server.gateway());
    let asks = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited";
    peer.send(format!(
        "GET /metrics HTTP/1.1\r\nHost: localhost\r\nAccept: {asks};q=0.6, text/plain;q=0.3\r\n\r\n"
    ));
    let answer = peer.answer(false).unwrap();
    let kind = answer.field("content-type").unwrap();
    assert!(
        kind.starts_with("application/vnd.google.protobuf") && kind.contains("encoding=delimited"),
        "{kind}"
    );

    /// A field of a protobuf message: its number, and what it holds if that has a length.
    fn fields(mut bytes: &[u8]) -> Vec<(u32, Vec<u8>)> {
        let mut found = Vec::new();
        while !bytes.is_empty() {
            let key = prost::encoding::decode_varint(&mut bytes).unwrap();
            let length = match key & 7 {
                0 => {
                    let number = prost::encoding::decode_varint(&mut bytes).unwrap();
                    found.push(((key >> 3) as u32, number.to_le_bytes().to_vec()));
                    continue;
                }
                1 => 8,
                _ => prost::encoding::decode_varint(&mut bytes).unwrap() as usize,
            };
            found.push(((key >> 3) as u32, bytes[..length].to_vec()));
            bytes = &bytes[length..];
        }
        found
    }
    let (mut rest, mut names, mut native) = (answer.body.as_slice(), BTreeSet::new(), 0);
    while !rest.is_empty() {
        let length = prost::encoding::decode_varint(&mut rest).unwrap() as usize;
        let family = fields(&rest[..length]);
        rest = &rest[length..];
        let name = family.iter().find(|(number, _)| *number == 1).unwrap().1.clone();
        names.insert(String::from_utf8(name).unwrap());
        let metrics = family.iter().filter(|(number, _)| *number == 4);
        let histograms = metrics.flat_map(|(_, metric)| fields(metric)).filter(|(number, _)| *number == 7);
        native +=
            histograms.filter(|(_, whole)| fields(whole).iter().any(|(number, _)| *number == 13)).count();
    }
    let known: BTreeSet<String> = text.types.keys().cloned().collect();
    assert!(known.is_subset(&names), "{:?}", known.difference(&names));
    assert!(native > 3, "{native}");
}

#[test]
fn a_message_that_waits_for_a_frozen_broker_grows_old_until_it_goes_on() {
    if !can_be_had() {
        return;
    }
    let folder = Scratch::new();
    let (nats, url) = nats(&folder);
    let server = Start::new().variable("QUEUE_TYPE", "nats").variable("NATS_URL", &url).run();
    let age = || scrape(&server).value("tidegate_oldest_message_age_seconds", &[]);
    let body = r#"{"source":"s","data":"d"}"#;
    eventually("the broker takes a message", || {
        (post_json(server.gateway(), "/api/v1/ingest", body).status == 200).then_some(())
    });
    assert_eq!(age(), 0.0);
    nats.pause();
    let mut waiting = Vec::new();
    eventually("one is two seconds old", || {
        let age = age();
        if age == 0.0 {
            // A server that is being stopped may still answer one.
            let mut peer = Peer::connect(server.gateway());
            peer.send(format!(
                "POST /api/v1/ingest HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            ));
            waiting.push(peer);
        }
        (age >= 2.0).then_some(())
    });
    nats.resume();
    eventually("it has gone on", || (age() == 0.0).then_some(()));
}

#[test]
fn a_core_that_works_is_busier_than_one_that_waits() {
    let server = Server::start();
    let sum = |name: &str| -> f64 {
        let page = scrape(&server);
        let of_it =
            page.samples.iter().filter(|((known, labels), _)| known == name && labels.contains_key("core"));
        of_it.map(|(_, value)| value).sum()
    };
    let cpu = "tidegate_core_cpu_seconds_total";
    let start = eventually("the first second is over", || Some(sum(cpu)).filter(|seconds| *seconds > 0.0));
    let busy = "tidegate_core_busy_ratio";
    eventually("a second without work", || Some(sum(busy)).filter(|ratio| *ratio < 0.1));
    // Until a second has been worked through.
    eventually("a busy second is told", || {
        (0..200).for_each(|_| {
            assert_eq!(post_json(server.gateway(), "/ingest", r#"{"source":"s","data":"d"}"#).status, 200)
        });
        Some(()).filter(|()| sum(busy) > 0.1 && sum(cpu) > start)
    });
}

#[test]
fn a_name_that_other_programs_have_stands_beside_one_of_ours_with_the_same_values() {
    let server = Server::start();
    assert_eq!(post_json(server.gateway(), "/ingest", r#"{"source":"s","data":"d"}"#).status, 200);
    server.settled();
    on_runtime(async {
        let mut peer = H2Peer::connect(server.grpc()).await;
        peer.call("/grpc.health.v1.Health/Check", &[], &framed(0, b"")).await.unwrap();
    });
    // An answer is sent a moment before it is counted.
    let page = eventually("the RPCs are counted", || {
        let page = scrape(&server);
        let all: f64 = page.of("grpc_server_handled_total").map(|(_, value)| value).sum();
        (all >= 1.0).then_some(page)
    });
    for generic in [
        "messages_processed_total",
        "worker_pool_active",
        "queue_current_size",
        "queue_size",
        "queue_capacity",
        "system_health_status",
        "http_requests_total",
        "http_request_duration_seconds_count",
        "grpc_server_handled_total",
    ] {
        let series = |wanted: &str| -> Vec<_> {
            let of_it = page.samples.iter().filter(|((name, _), _)| name == wanted);
            of_it.map(|((_, labels), value)| (labels.clone(), *value)).collect()
        };
        assert!(!series(generic).is_empty(), "{generic}");
        assert_eq!(series(generic), series(&format!("tidegate_{generic}")), "{generic}");
    }
}
