//! The trace of a request: it goes with its message where it is one, and is left out where it is none, whatever way it comes.

use std::collections::BTreeMap;

use http::Method;
use prost::Message;
use serde_json::{Value, json};
use tidegate_proto::{
    analytics::{legacy, v1 as analytics},
    diplom::v1::IngestRequest,
};

use crate::{
    brokers,
    harness::{H2Peer, Peer, Scratch, Server, Start, eventually, framed, on_runtime, post_json, run_command},
};

const VALID: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// What is no trace; in `None` two fields come.
fn invalid() -> Vec<Option<String>> {
    let some = |text: &str| Some(text.to_owned());
    vec![
        None,
        Some("t".repeat(6000)),
        Some("0".repeat(55)),
        some(&VALID[..54]),
        some(&VALID.to_uppercase()),
        Some(format!("{VALID}0")),
        Some(format!("01{}-what-the-future-brings", &VALID[2..])),
        Some(format!("ff{}", &VALID[2..])),
        some("00-00000000000000000000000000000000-b7ad6b7169203331-01"),
        some("00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01"),
        some("00-1-2-3"),
    ]
}

/// A way in.
#[derive(Clone, Copy, Debug)]
struct Way {
    path: &'static str,
    content_type: &'static str,
    /// A field that has the cold lane answer.
    aside: Option<(&'static str, &'static str)>,
}

fn ways() -> Vec<Way> {
    let (json, grpc) = ("application/json", "application/grpc");
    let way = |path, content_type| Way { path, content_type, aside: None };
    let aside = |path, content_type, aside| Way { path, content_type, aside: Some(aside) };
    let (by_timeout, by_coding) = (("grpc-timeout", "20S"), ("content-encoding", "identity"));
    vec![
        way("/api/v1/ingest", json),
        way("/enqueue", json),
        way("/v1/events", json),
        aside("/v1/events", json, by_timeout),
        way("/v1/events/batch", json),
        aside("/v1/events/batch", json, by_timeout),
        way("/events", json),
        aside("/events", json, by_timeout),
        way("/events/batch", json),
        way("/diplom.v1.IngestService/Ingest", grpc),
        way("/diplom.v1.IngestService/IngestStream", grpc),
        way("/analytics.v1.EventIngestionService/IngestEvent", grpc),
        aside("/analytics.v1.EventIngestionService/IngestEvent", grpc, by_coding),
        way("/analytics.v1.EventIngestionService/IngestEvents", grpc),
        way("/analytics.v1.EventIngestionService/StreamEvents", grpc),
        aside("/analytics.v1.EventIngestionService/StreamEvents", grpc, by_coding),
        way("/analytics.ProducerService/SendEvent", grpc),
        way("/analytics.ProducerService/SendBatchEvents", grpc),
    ]
}

impl Way {
    fn is_grpc(&self) -> bool {
        self.content_type == "application/grpc"
    }

    /// A body whose message has this source.
    fn body(&self, source: &str) -> Vec<u8> {
        let event = json!({"user_id": "u", "event_type": "EVENT_TYPE_USER", "source": source});
        let older = json!({"id": source, "event_type": "page_view", "source": source});
        let typed = analytics::Event {
            user_id: "u".to_owned(),
            event_type: analytics::EventType::User.into(),
            source: source.to_owned(),
            ..Default::default()
        };
        let older_typed = legacy::Event {
            id: source.to_owned(),
            event_type: "page_view".to_owned(),
            source: source.to_owned(),
            ..Default::default()
        };
        let body = match self.path {
            "/api/v1/ingest" => json!({"source": source, "data": "x"}),
            "/enqueue" => json!({"source": source, "payload": "eA=="}),
            "/v1/events" => event,
            "/v1/events/batch" => json!({"events": [event]}),
            "/events" => older,
            "/events/batch" => json!({"events": [older]}),
            path => {
                let message = match path.rsplit('/').next().unwrap() {
                    "IngestEvent" => {
                        analytics::IngestEventRequest { event: Some(typed), options: None }.encode_to_vec()
                    }
                    "IngestEvents" => {
                        analytics::IngestEventsRequest { events: vec![typed], options: None }.encode_to_vec()
                    }
                    "StreamEvents" => {
                        let request = analytics::stream_events_request::Request::Event(typed);
                        analytics::StreamEventsRequest { request: Some(request) }.encode_to_vec()
                    }
                    "SendEvent" => older_typed.encode_to_vec(),
                    "SendBatchEvents" => {
                        legacy::BatchEventsRequest { events: vec![older_typed] }.encode_to_vec()
                    }
                    _ => IngestRequest { source: source.to_owned(), ..Default::default() }.encode_to_vec(),
                };
                return framed(0, &message);
            }
        };
        body.to_string().into_bytes()
    }
}

/// The fields of a trace.
fn fields(trace: Option<&str>) -> Vec<(&'static str, String)> {
    match trace {
        Some(trace) => vec![("traceparent", trace.to_owned())],
        None => vec![("traceparent", VALID.to_owned()), ("traceparent", VALID.replace("01", "00"))],
    }
}

fn over_http1(server: &Server, way: &Way, source: &str, trace: Option<&str>) {
    let body = way.body(source);
    let mut peer = Peer::connect(server.gateway());
    let mut head = format!("POST {} HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n", way.path, body.len());
    let aside = way.aside.map(|(name, value)| (name, value.to_owned()));
    for (name, value) in fields(trace).into_iter().chain(aside) {
        head += &format!("{name}: {value}\r\n");
    }
    peer.send(head + "\r\n");
    peer.send(&body);
    let answer = peer.answer(false).unwrap();
    assert!(matches!(answer.status, 200 | 202), "{way:?} {trace:?}: {answer:?}");
}

async fn over_http2(peer: &mut H2Peer, way: &Way, source: &str, trace: Option<&str>) {
    let mut all = vec![("content-type", way.content_type)];
    if way.is_grpc() {
        all.push(("te", "trailers"));
    }
    all.extend(way.aside);
    let trace_fields = fields(trace);
    all.extend(trace_fields.iter().map(|(name, value)| (*name, value.as_str())));
    let answer = peer.ask(Method::POST, way.path, &all, &way.body(source)).await.unwrap();
    let is_good = if way.is_grpc() { answer.grpc_status() == Some(0) } else { answer.status.is_success() };
    assert!(is_good, "{way:?} {trace:?}: {answer:?}");
}

/// The traces of what a log keeps, by source.
fn kept(folder: &Scratch) -> BTreeMap<String, Option<String>> {
    let data = folder.path().join("data");
    let output = run_command(folder, &[], &["log", "dump", "--json", "--directory", data.to_str().unwrap()]);
    let lines = String::from_utf8(output.stdout).unwrap();
    let lines = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let text = |value: &Value| value.as_str().map(str::to_owned);
    lines.map(|line| (text(&line["source"]).unwrap(), text(&line["metadata"]["traceparent"]))).collect()
}

fn with_log(folder: &Scratch) -> Server {
    let data = format!("data.directory={}", folder.path().join("data").display());
    Start::new().set("queue.type=log").set(&data).run()
}

#[test]
fn a_trace_goes_with_its_message_and_what_is_none_is_left_out_on_every_way_in() {
    let folder = Scratch::new();
    let server = with_log(&folder);
    let mut traces = vec![Some(VALID.to_owned())];
    traces.extend(invalid());
    // The trace that each message is to have, by its source.
    let mut due = BTreeMap::new();
    on_runtime(async {
        let mut peer = H2Peer::connect(server.gateway()).await;
        for way in ways() {
            for trace in &traces {
                let expected = trace.clone().filter(|trace| trace == VALID);
                let source = format!("message-{}", due.len());
                over_http2(&mut peer, &way, &source, trace.as_deref()).await;
                due.insert(source, (format!("HTTP/2 {way:?} {trace:?}"), expected.clone()));
                if !way.is_grpc() {
                    let source = format!("message-{}", due.len());
                    over_http1(&server, &way, &source, trace.as_deref());
                    due.insert(source, (format!("HTTP/1.1 {way:?} {trace:?}"), expected));
                }
            }
        }
    });
    assert_eq!(server.stop().lost, 0);
    let kept = kept(&folder);
    let wrong: Vec<_> = due
        .iter()
        .filter(|(source, (_, trace))| kept.get(*source) != Some(trace))
        .map(|(_, due)| due)
        .collect();
    assert!(wrong.is_empty(), "{} of {} are not as they should be: {wrong:#?}", wrong.len(), due.len());
}

#[test]
fn a_trace_among_a_messages_metadata_is_one_or_is_left_out_and_comes_before_the_requests() {
    let folder = Scratch::new();
    let server = with_log(&folder);
    let own = VALID.replace("0af7", "1111");
    let mut due = BTreeMap::new();
    let traces: Vec<String> = std::iter::once(own.clone()).chain(invalid().into_iter().flatten()).collect();
    on_runtime(async {
        let mut peer = H2Peer::connect(server.gateway()).await;
        for trace in &traces {
            for from_request in [None, Some(VALID)] {
                for path in ["/api/v1/ingest", "/enqueue", "/diplom.v1.IngestService/Ingest"] {
                    let source = format!("message-{}", due.len());
                    let metadata = json!({"traceparent": trace, "k": "v"});
                    let mut fields = vec![("content-type", "application/json")];
                    let mut body = json!({"source": source, "metadata": metadata}).to_string().into_bytes();
                    if path.ends_with("/Ingest") {
                        fields = vec![("content-type", "application/grpc"), ("te", "trailers")];
                        let metadata = [("traceparent", trace.as_str()), ("k", "v")];
                        let metadata = metadata.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
                        let message =
                            IngestRequest { source: source.clone(), metadata, ..Default::default() };
                        body = framed(0, &message.encode_to_vec());
                    }
                    fields.extend(from_request.map(|trace| ("traceparent", trace)));
                    let answer = peer.ask(Method::POST, path, &fields, &body).await.unwrap();
                    assert!(answer.status.is_success(), "{answer:?}");
                    let expected = if *trace == own { Some(own.as_str()) } else { from_request };
                    due.insert(source, expected.map(str::to_owned));
                }
            }
        }
    });
    assert_eq!(server.stop().lost, 0);
    assert_eq!(kept(&folder), due);
}

#[test]
fn a_repeat_may_come_with_another_trace() {
    let folder = Scratch::new();
    let server = with_log(&folder);
    let mut told = Vec::new();
    for trace in [VALID.to_owned(), VALID.replace("0af7", "2222"), String::new()] {
        let mut peer = Peer::connect(server.gateway());
        peer.send(format!(
            "POST /api/v1/ingest HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\nIdempotency-Key: k\r\n\
             traceparent: {trace}\r\n\r\n{{}}"
        ));
        let answer = peer.answer(false).unwrap();
        told.push((answer.status, answer.json()["duplicate"] == true));
    }
    assert_eq!(told, [(200, false), (200, true), (200, true)]);
}

#[test]
fn what_is_no_trace_makes_no_message_too_large_for_a_broker() {
    if !brokers::can_be_had() {
        return;
    }
    let folder = Scratch::new();
    let (_nats, url) = brokers::nats(&folder);
    let data = format!("data.directory={}", folder.path().join("data").display());
    let server = Start::new()
        .set("queue.type=nats")
        .set("ack.default=delivered")
        .set(&data)
        .variable("NATS_URL", &url)
        .run();
    eventually("the broker takes a message", || {
        (post_json(server.gateway(), "/ingest", "{}").status == 200).then_some(())
    });
    // JetStream's max_payload is 1 MiB, for headers and value together: this fits in with 6,000 bytes, and not with twice that.
    let near = json!({"data": "x".repeat(780_000), "metadata": {"traceparent": "t".repeat(6000)}});
    for body in [near.to_string().as_str(), "{}"] {
        let answer = post_json(server.gateway(), "/ingest", body);
        assert_eq!((answer.status, &answer.json()["ack"]), (200, &"delivered".into()), "{}", answer.text());
    }
}
