//! A message has one id, whether it stands in its body or in the request's `Idempotency-Key`, and a request asks for one
//! level: what says two things is refused, on every route of its kind and over every protocol.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::Method;
use prost::Message;
use serde_json::json;
use tidegate_proto::{
    analytics::v1::{Event, EventType, IngestEventRequest, IngestEventResponse},
    diplom::v1::IngestRequest,
};

use crate::harness::{H2Peer, Peer, Server, framed, on_runtime};

const EVENT_CALL: &str = "/analytics.v1.EventIngestionService/IngestEvent";
const KEY: &str = "idempotency-key";
const ACK: &str = "tidegate-ack";

fn event(id: &str) -> Event {
    Event {
        id: id.to_owned(),
        user_id: "u".to_owned(),
        event_type: EventType::User.into(),
        ..Event::default()
    }
}

fn event_json(id: &str) -> Vec<u8> {
    json!({"id": id, "user_id": "u", "event_type": "EVENT_TYPE_USER"}).to_string().into_bytes()
}

fn event_call(id: &str) -> Vec<u8> {
    framed(0, &IngestEventRequest { event: Some(event(id)), options: None }.encode_to_vec())
}

/// An event on its way between processes; the message around it has no id of its own.
fn event_enqueued(id: &str) -> Vec<u8> {
    let payload = STANDARD.encode(event(id).encode_to_vec());
    let body = json!({"payload": payload, "metadata": {"tidegate-schema": "analytics.v1.Event"}});
    body.to_string().into_bytes()
}

fn message_enqueued(id: &str) -> Vec<u8> {
    json!({"id": id, "payload": "eA=="}).to_string().into_bytes()
}

fn message_json(_: &str) -> Vec<u8> {
    b"{}".to_vec()
}

fn message_call(_: &str) -> Vec<u8> {
    framed(0, &IngestRequest::default().encode_to_vec())
}

/// A route that takes one message: its path, a field that has the cold lane answer, a body with this id.
type Way = (&'static str, Option<(&'static str, &'static str)>, fn(&str) -> Vec<u8>);

/// Those that take an id in the body.
const WITH_IDS: [Way; 6] = [
    ("/enqueue", None, message_enqueued),
    ("/enqueue", None, event_enqueued),
    ("/v1/events", None, event_json),
    ("/v1/events", Some(("grpc-timeout", "20S")), event_json),
    (EVENT_CALL, None, event_call),
    (EVENT_CALL, Some(("content-encoding", "identity")), event_call),
];

/// Those that take none.
const WITHOUT_IDS: [Way; 2] =
    [("/api/v1/ingest", None, message_json), ("/diplom.v1.IngestService/Ingest", None, message_call)];

/// What is answered: taken, taken as a repeat, or the words of a 400 or `INVALID_ARGUMENT`.
#[derive(Debug, PartialEq)]
enum Said {
    Taken,
    Repeat,
    Wrong(String),
}

fn said(status: u16, duplicate: bool, text: String) -> Said {
    match status {
        200 | 202 if duplicate => Said::Repeat,
        200 | 202 => Said::Taken,
        400 => Said::Wrong(text),
        other => panic!("{other}: {text}"),
    }
}

fn over_http1(server: &Server, (path, aside, body): Way, id: &str, fields: &[(&str, &str)]) -> Said {
    let body = body(id);
    let mut peer = Peer::connect(server.gateway());
    let mut head = format!("POST {path} HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n", body.len());
    for (name, value) in fields.iter().copied().chain(aside) {
        head += &format!("{name}: {value}\r\n");
    }
    peer.send(head + "\r\n");
    peer.send(&body);
    let answer = peer.answer(false).unwrap();
    let text = answer.text().to_owned();
    let duplicate = answer.field("tidegate-duplicate").is_some() || text.contains(r#""message":"duplicate""#);
    said(answer.status, duplicate, text)
}

async fn over_http2(peer: &mut H2Peer, (path, aside, body): Way, id: &str, fields: &[(&str, &str)]) -> Said {
    let is_call = path.contains("Service/");
    let kind = if is_call { "application/grpc" } else { "application/json" };
    let mut all = vec![("content-type", kind)];
    all.extend(is_call.then_some(("te", "trailers")));
    all.extend(fields.iter().copied().chain(aside));
    let answer = peer.ask(Method::POST, path, &all, &body(id)).await.unwrap();
    if is_call {
        let status = match answer.grpc_status() {
            Some(0) => 200,
            Some(3) => 400,
            other => panic!("{path} {fields:?}: {other:?} {answer:?}"),
        };
        let message = answer.body.get(5..).unwrap_or_default();
        let duplicate = path == EVENT_CALL
            && IngestEventResponse::decode(message).is_ok_and(|answer| answer.message == "duplicate");
        return said(status, duplicate, answer.grpc_message());
    }
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    let duplicate =
        answer.head.contains_key("tidegate-duplicate") || text.contains(r#""message":"duplicate""#);
    said(answer.status.as_u16(), duplicate, text)
}

/// Asks a route over each protocol that it speaks.
async fn each(
    server: &Server,
    peer: &mut H2Peer,
    way: Way,
    id: &str,
    fields: &[(&str, &str)],
    mut then: impl FnMut(String, Said),
) {
    let named = |protocol: &str| format!("{protocol} {} {:?} {id} {fields:?}", way.0, way.1);
    then(named("HTTP/2"), over_http2(peer, way, id, fields).await);
    if !way.0.contains("Service/") {
        then(named("HTTP/1.1"), over_http1(server, way, id, fields));
    }
}

#[test]
fn an_id_and_a_key_that_differ_are_refused_and_a_key_that_is_the_id_is_minded_on_every_route() {
    let server = Server::start();
    on_runtime(async {
        let mut peer = H2Peer::connect(server.gateway()).await;
        for (number, way) in WITH_IDS.into_iter().enumerate() {
            let id = format!("id-{number}");
            let key = format!("key-{number}");
            each(&server, &mut peer, way, &id, &[(KEY, &key)], |named, said| match said {
                Said::Wrong(words) => assert!(words.contains("idempotency-key: the "), "{named}: {words}"),
                other => panic!("{named}: {other:?}"),
            })
            .await;
            // Nothing was stored under either.
            let mut count = 0;
            for key in [id.clone(), format!("\"{id}\"")] {
                each(&server, &mut peer, way, &id, &[(KEY, &key)], |named, said| {
                    let due = if count == 0 { Said::Taken } else { Said::Repeat };
                    assert_eq!(said, due, "{named}");
                    count += 1;
                })
                .await;
            }
        }
    });
}

#[test]
fn a_level_or_a_key_that_stands_twice_is_refused_on_every_route() {
    let server = Server::start();
    on_runtime(async {
        let mut peer = H2Peer::connect(server.gateway()).await;
        for way in WITH_IDS.into_iter().chain(WITHOUT_IDS) {
            for twice in [[(ACK, "queued"), (ACK, "queued")], [(ACK, "queued"), (ACK, "durable")]] {
                each(&server, &mut peer, way, "a", &twice, |named, said| match said {
                    Said::Wrong(words) => {
                        assert!(words.contains("tidegate-ack: it stands"), "{named}: {words}")
                    }
                    other => panic!("{named}: {other:?}"),
                })
                .await;
            }
            each(&server, &mut peer, way, "a", &[(KEY, "a"), (KEY, "a")], |named, said| match said {
                Said::Wrong(words) => {
                    assert!(words.contains("idempotency-key: it stands"), "{named}: {words}")
                }
                other => panic!("{named}: {other:?}"),
            })
            .await;
        }
        for path in ["/events", "/events/batch", "/api/v1/events/user", "/v1/events/batch"] {
            let way: Way = (path, None, |_| {
                // Good for none of them, and not looked at.
                br#"{"events":[]}"#.to_vec()
            });
            each(
                &server,
                &mut peer,
                way,
                "a",
                &[(ACK, "queued"), (ACK, "queued")],
                |named, said| match said {
                    Said::Wrong(words) => {
                        assert!(words.contains("tidegate-ack: it stands"), "{named}: {words}")
                    }
                    other => panic!("{named}: {other:?}"),
                },
            )
            .await;
        }
    });
    assert_eq!(server.received().1, 0);
}
