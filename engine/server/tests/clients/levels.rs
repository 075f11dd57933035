//! How safe a message is to be, asked of every route that takes messages or events in: over every protocol, in both lanes, at
//! every level, and at one that there is not.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicU32, Ordering},
};

use http::Method;
use prost::Message;
use serde_json::json;
use tidegate_proto::{
    analytics::{legacy, v1 as analytics},
    diplom::v1::IngestRequest,
};
use transports::ENDPOINTS;

use crate::harness::{H2Peer, Peer, Scratch, Server, Start, eventually, framed, get, on_runtime};

const JSON_EVENT: &str = "/analytics.v1.EventIngestionService/IngestEvent";
const JSON_EVENTS: &str = "/analytics.v1.EventIngestionService/IngestEvents";
const JSON_STREAM: &str = "/analytics.v1.EventIngestionService/StreamEvents";
const LINES: &str = "application/x-ndjson";

/// One way to send something in.
#[derive(Clone, Copy, Debug)]
struct Surface {
    path: &'static str,
    content_type: &'static str,
    /// A field that has the cold lane answer.
    aside: Option<(&'static str, &'static str)>,
    /// `async` among the options of the body.
    by_option: bool,
}

impl Surface {
    const fn new(path: &'static str, content_type: &'static str) -> Self {
        Self { path, content_type, aside: None, by_option: false }
    }

    fn is_grpc(&self) -> bool {
        self.content_type == "application/grpc"
    }

    /// Whether it takes several messages.
    fn is_for_several(&self) -> bool {
        let method = self.path.rsplit('/').next().unwrap().to_lowercase();
        method.contains("batch") || method.contains("stream") || method == "ingestevents"
    }

    fn is_asynchronous(&self) -> bool {
        self.by_option || self.path == "/events/async"
    }

    fn body(&self) -> Vec<u8> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let id = format!("level-{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let event = json!({"id": id, "user_id": "u", "event_type": "EVENT_TYPE_USER"});
        let older = json!({"id": id, "user_id": "u", "event_type": "page_view"});
        let options = json!({"async": self.by_option});
        let body = match self.path {
            _ if self.is_grpc() => return self.message(id),
            "/api/v1/ingest" | "/ingest" | "/api/ingest" => json!({"data": id}),
            "/enqueue" => json!({"id": id, "payload": "aGVsbG8="}),
            "/v1/events" if self.by_option => json!({"event": event, "options": options}),
            "/v1/events" => event,
            "/v1/events/batch" if self.by_option => json!({"events": [event], "options": options}),
            "/v1/events/batch" if self.content_type == LINES => event,
            "/v1/events/batch" => json!({"events": [event]}),
            JSON_EVENT => json!({"event": event, "options": options}),
            JSON_EVENTS => json!({"events": [event], "options": options}),
            JSON_STREAM => json!({"event": event}),
            "/events" | "/events/async" => older,
            "/events/batch" | "/batch" => json!({"events": [older]}),
            path if path.starts_with("/api/v1/events/") => json!({"data": id}),
            path => panic!("no body for {path}"),
        };
        body.to_string().into_bytes()
    }

    fn message(&self, id: String) -> Vec<u8> {
        let event = analytics::Event {
            id: id.clone(),
            user_id: "u".to_owned(),
            event_type: analytics::EventType::User.into(),
            ..Default::default()
        };
        let older =
            legacy::Event { id: id.clone(), event_type: "page_view".to_owned(), ..Default::default() };
        let options = Some(analytics::IngestOptions { r#async: self.by_option, ..Default::default() });
        let options = options.filter(|_| self.by_option);
        let message = match self.path.rsplit('/').next().unwrap() {
            "Ingest" | "IngestStream" => {
                IngestRequest { data: id.into_bytes(), ..Default::default() }.encode_to_vec()
            }
            "IngestEvent" => analytics::IngestEventRequest { event: Some(event), options }.encode_to_vec(),
            "IngestEvents" => analytics::IngestEventsRequest { events: vec![event], options }.encode_to_vec(),
            "StreamEvents" => {
                let request = analytics::stream_events_request::Request::Event(event);
                analytics::StreamEventsRequest { request: Some(request) }.encode_to_vec()
            }
            "SendEvent" => older.encode_to_vec(),
            "SendBatchEvents" => legacy::BatchEventsRequest { events: vec![older] }.encode_to_vec(),
            method => panic!("no message for {method}"),
        };
        framed(0, &message)
    }

    /// What a good answer says beyond its status.
    fn succeeded(&self, body: &[u8]) -> bool {
        let message = body.get(5..).unwrap_or_default();
        match self.path.rsplit('/').next().unwrap() {
            "SendEvent" => legacy::EventResponse::decode(message).unwrap().success,
            "SendBatchEvents" => legacy::BatchEventsResponse::decode(message).unwrap().success,
            "StreamEvents" if self.is_grpc() => {
                // The first of two messages: the event's answer.
                let length = u32::from_be_bytes(body[1..5].try_into().unwrap()) as usize;
                let first = analytics::StreamEventsResponse::decode(&body[5..5 + length]).unwrap();
                use analytics::stream_events_response::Response::EventResponse;
                matches!(first.response, Some(EventResponse(response)) if response.success)
            }
            _ if self.is_grpc() => true,
            _ => !String::from_utf8_lossy(body).contains(r#""success":false"#),
        }
    }
}

fn surfaces() -> Vec<Surface> {
    let json = "application/json";
    let mut all: Vec<Surface> = Vec::new();
    for row in ENDPOINTS.iter().filter(|row| !matches!(row.path, "/health" | "/livez")) {
        let is_grpc = row.path.contains("Service/");
        all.push(Surface::new(row.path, if is_grpc { "application/grpc" } else { json }));
    }
    all.push(Surface::new("/analytics.ProducerService/SendBatchEvents", "application/grpc"));
    all.extend(
        ["/events/batch", "/batch", JSON_EVENT, JSON_EVENTS, JSON_STREAM]
            .map(|path| Surface::new(path, json)),
    );
    all.push(Surface::new("/v1/events/batch", LINES));
    let by_option = |surface: &&Surface| {
        let path = surface.path;
        matches!(path, "/v1/events" | "/v1/events/batch" | JSON_EVENT | JSON_EVENTS)
            && surface.content_type != LINES
    };
    let asynchronous: Vec<_> =
        all.iter().filter(by_option).map(|surface| Surface { by_option: true, ..*surface }).collect();
    let aside = all.iter().map(|surface| {
        let field =
            if surface.is_grpc() { ("content-encoding", "identity") } else { ("grpc-timeout", "20S") };
        Surface { aside: Some(field), ..*surface }
    });
    // The raw messages have no other lane.
    let aside: Vec<_> = aside
        .filter(|surface| !surface.path.to_lowercase().contains("ingest") || surface.path.contains("Event"))
        .collect();
    all.into_iter().chain(asynchronous).chain(aside).collect()
}

/// What an answer says: its status in its protocol, the level it names, its words.
#[derive(Debug, PartialEq)]
struct Said {
    status: u16,
    level: Option<String>,
    /// Shard and offset.
    place: Option<(u64, u64)>,
    text: String,
    succeeded: bool,
}

/// Where an answer says that the message is: in its fields, or in JSON of our own.
fn place<'a>(field: impl Fn(&str) -> Option<&'a str>, body: &[u8]) -> Option<(u64, u64)> {
    let body: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let number = |name: &str| {
        let field = field(&format!("tidegate-{name}")).map(|value| value.parse().unwrap());
        field.or_else(|| body[name].as_u64())
    };
    Some((number("shard")?, number("offset")?))
}

fn over_http1(server: &Server, surface: &Surface, level: Option<&str>) -> Said {
    let body = surface.body();
    let mut peer = Peer::connect(server.gateway());
    let mut fields = level.map(|level| format!("Tidegate-Ack: {level}\r\n")).unwrap_or_default();
    if let Some((name, value)) = surface.aside {
        fields += &format!("{name}: {value}\r\n");
    }
    peer.send(format!(
        "POST {} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {}\r\nContent-Length: {}\r\n{fields}\r\n",
        surface.path,
        surface.content_type,
        body.len()
    ));
    peer.send(&body);
    let answer = peer.answer(false).unwrap();
    Said {
        status: answer.status,
        level: answer.field("tidegate-ack").map(str::to_owned),
        place: place(|name| answer.field(name), &answer.body),
        text: answer.text().to_owned(),
        succeeded: surface.succeeded(&answer.body),
    }
}

async fn over_http2(peer: &mut H2Peer, surface: &Surface, level: Option<&str>) -> Said {
    let mut fields = vec![("content-type", surface.content_type)];
    fields.extend(level.map(|level| ("tidegate-ack", level)));
    fields.extend(surface.aside);
    if surface.is_grpc() {
        fields.push(("te", "trailers"));
    }
    let answer = peer.ask(Method::POST, surface.path, &fields, &surface.body()).await.unwrap();
    let level = answer.head.get("tidegate-ack").map(|level| level.to_str().unwrap().to_owned());
    let place = place(|name| answer.head.get(name)?.to_str().ok(), &answer.body);
    if !surface.is_grpc() {
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        return Said {
            status: answer.status.as_u16(),
            level,
            place,
            text,
            succeeded: surface.succeeded(&answer.body),
        };
    }
    let status = u16::try_from(answer.grpc_status().unwrap()).unwrap();
    let succeeded = status == 0 && surface.succeeded(&answer.body);
    Said { status, level, place, text: answer.grpc_message(), succeeded }
}

/// What is to be said: one of these levels, or the status over HTTP, the code over gRPC, and what the words contain.
type Due = Result<&'static [&'static str], (u16, u16, &'static str)>;

/// Not taken, in whichever words.
const NOT_TAKEN: (u16, u16, &str) = (0, 0, "");

/// Whether an answer says what is due.
fn says(surface: &Surface, said: &Said, due: Due) -> bool {
    let level = said.level.as_deref();
    let is_good = if surface.is_grpc() { said.status == 0 } else { matches!(said.status, 200 | 202) };
    match due {
        Ok(levels) => is_good && said.succeeded && level.is_some_and(|level| levels.contains(&level)),
        Err(NOT_TAKEN) => {
            // A stream is begun before the process behind has had a word.
            let is_stream = surface.path.ends_with("StreamEvents");
            !(is_good && said.succeeded) && (level.is_none() || is_stream)
        }
        Err((status, code, words)) => {
            // Where an older service says of an event that it was not taken, that is no error of the call.
            let is_older = surface.path.starts_with("/analytics.ProducerService/") && status == 503;
            let expected = if surface.is_grpc() { code } else { status };
            let is_refused = said.status == expected && said.text.contains(words);
            level.is_none() && if is_older { !said.succeeded } else { is_refused }
        }
    }
}

/// Asks every surface for every level, and for one that there is not.
fn walk(server: &Server, due: impl Fn(Option<&str>) -> Due) {
    let mut wrong = Vec::new();
    on_runtime(async {
        let mut peer = H2Peer::connect(server.gateway()).await;
        for surface in surfaces() {
            for asked in [None, Some("queued"), Some("durable"), Some("delivered"), Some("bogus")] {
                let due: Due = match asked {
                    Some("bogus") => Err((
                        400,
                        3,
                        "tidegate-ack: there is no level `bogus`; give queued, durable or delivered",
                    )),
                    None if surface.is_asynchronous() => Ok(&["queued"]),
                    Some("durable" | "delivered") if surface.is_asynchronous() => {
                        Err((400, 3, "contradicts"))
                    }
                    asked => due(asked),
                };
                let mut answers = vec![over_http2(&mut peer, &surface, asked).await];
                if !surface.is_grpc() {
                    answers.push(over_http1(server, &surface, asked));
                }
                for said in answers.iter().filter(|said| !says(&surface, said, due)) {
                    wrong.push(format!("{surface:?} asked for {asked:?}: {due:?} is due: {said:?}"));
                }
            }
        }
    });
    assert!(wrong.is_empty(), "{} wrong answers:\n{}", wrong.len(), wrong.join("\n"));
}

const OUT_OF_REACH: &str = "cannot be reached with queue.type";

#[test]
fn every_route_obeys_the_level_asked_for_and_names_the_one_reached_with_a_queue_in_memory() {
    walk(&Server::start(), |asked| match asked {
        Some("durable" | "delivered") => Err((400, 9, OUT_OF_REACH)),
        _ => Ok(&["queued"]),
    });
}

#[test]
fn every_route_obeys_the_level_asked_for_and_names_the_one_reached_with_the_log() {
    let folder = Scratch::new();
    let data = format!("data.directory={}", folder.path().join("data").display());
    walk(&Start::new().set("queue.type=log").set(&data).run(), |asked| match asked {
        Some("delivered") => Err((400, 9, OUT_OF_REACH)),
        // What has an id waits for the log to say that it is no repeat, and the answer is what it has by then.
        Some("queued") => Ok(&["queued", "durable"]),
        _ => Ok(&["durable"]),
    });
}

#[test]
fn an_answer_says_where_the_log_has_its_one_message_and_of_several_it_does_not() {
    let folder = Scratch::new();
    let data = format!("data.directory={}", folder.path().join("data").display());
    let server = Start::new().set("queue.type=log").set(&data).run();
    let (mut wrong, mut places) = (Vec::new(), BTreeSet::new());
    on_runtime(async {
        let mut peer = H2Peer::connect(server.gateway()).await;
        for surface in surfaces().iter().filter(|surface| !surface.is_asynchronous()) {
            let mut answers = vec![over_http2(&mut peer, surface, None).await];
            if !surface.is_grpc() {
                answers.push(over_http1(&server, surface, None));
            }
            for said in answers {
                // Each is another message, so each is elsewhere.
                let is_right = match said.place {
                    Some(place) => !surface.is_for_several() && places.insert(place),
                    None => surface.is_for_several(),
                };
                if !is_right {
                    wrong.push(format!("{surface:?}: {said:?}"));
                }
            }
        }
    });
    assert!(wrong.is_empty(), "{} wrong answers:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn every_route_of_a_gateway_passes_the_level_asked_for_on() {
    let processor = Start::new().argument("--role").argument("processor").run();
    let ingest_url = format!("http://{}", processor.processor());
    let gateway =
        Start::new().argument("--role").argument("api-gateway").variable("INGEST_URL", &ingest_url).run();
    eventually("it reaches the process behind it", || {
        (get(gateway.gateway(), "/ready").status == 200).then_some(())
    });
    walk(&gateway, |asked| match asked {
        Some("durable" | "delivered") => Err(NOT_TAKEN),
        _ => Ok(&["queued"]),
    });
}

#[test]
fn every_route_refuses_the_level_that_a_broker_out_of_reach_cannot_honour_now() {
    let folder = Scratch::new();
    let data = format!("data.directory={}", folder.path().join("data").display());
    let server = Start::new()
        .set("queue.type=nats")
        .set(&data)
        .set("ack.default=delivered")
        .variable("NATS_URL", "nats://127.0.0.1:1")
        .run();
    eventually("delivered cannot be reached", || {
        (get(server.gateway(), "/ready").status == 503).then_some(())
    });
    walk(&server, |asked| match asked {
        // What has an id waits for the log to say that it is no repeat, and the answer is what it has by then.
        Some("queued") => Ok(&["queued", "durable"]),
        Some("durable") => Ok(&["durable"]),
        _ => Err((503, 14, "")),
    });
}
