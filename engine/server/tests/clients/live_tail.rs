//! The live page's tail: which messages it shows to whom, and that nothing is looked at while nobody watches.

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::{
    harness::{Answer, Peer, Server, Start, post_json},
    live_page::{Browser, Watching},
};

/// Sends a message; the id that it was given.
fn send(server: &Server, data: &str, metadata: &Value) -> Value {
    let message = json!({"source": "shop", "data": data, "metadata": metadata});
    let answer = post_json(server.gateway(), "/ingest", &message.to_string());
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["messageId"].clone()
}

/// Somebody who watches; all cores have heard of it.
#[track_caller]
fn watching(server: &Server, query: &str, arguments: &[&str]) -> Option<(Watching, Value)> {
    let watching = Watching::stream(server, &format!("/live/tail{query}"), arguments)?;
    let (_, opened) = watching.until("opened", |_| true);
    watching.until("counts", |counts| counts["cores"] == opened["cores"]);
    Some((watching, opened))
}

fn refused(server: &Server, query: &str) -> Answer {
    let mut peer = Peer::connect(server.gateway());
    peer.send(format!("GET /live/tail{query} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"));
    peer.answer(false).unwrap()
}

#[test]
fn a_rare_message_is_found_among_many_with_all_that_is_known_of_it() {
    let server = Server::start();
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        let Some((tail, _)) = watching(&server, "?contains=region%3Dnorth", &[version]) else { return };
        (0..70).for_each(|_| drop(send(&server, "x", &json!({"region": "south"}))));
        let id = send(&server, "what is in it", &json!({"region": "north", "a": "b"}));
        (0..29).for_each(|_| drop(send(&server, "x", &json!({"region": "south"}))));
        let (_, message) = tail.until("message", |_| true);
        assert_eq!((&message["id"], &message["source"]), (&id, &"shop".into()));
        assert_eq!((&message["kind"], &message["event_type"]), (&"message".into(), &"".into()));
        assert_eq!((&message["level"], &message["is_cut"]), (&"queued".into(), &false.into()));
        let mut metadata: Vec<Value> = message["metadata"].as_array().unwrap().clone();
        metadata.sort_by_key(Value::to_string);
        assert_eq!(metadata, [json!(["a", "b"]), json!(["region", "north"])]);
        // There are no keys: nobody has shown one.
        assert_eq!((&message["payload_bytes"], &message["payload"]), (&13.into(), &Value::Null));
        let (_, counts) = tail.until("counts", |counts| counts["looked_at"] == 100);
        assert_eq!((&counts["matched"], &counts["shown"]), (&1.into(), &1.into()));
    }
}

#[test]
fn an_event_is_found_by_its_type_and_its_user_whatever_its_shape() {
    let server = Server::start();
    for text in ["EVENT_TYPE_USER", "page_view", "tidegate-key%3Du-1"] {
        let Some((tail, _)) = watching(&server, &format!("?contains={text}"), &[]) else { return };
        let event = json!({"user_id": "u-1", "event_type": "EVENT_TYPE_USER", "source": "web"});
        assert_eq!(post_json(server.gateway(), "/v1/events", &event.to_string()).status, 200);
        let older = json!({"id": text, "user_id": "u-1", "event_type": "page_view", "source": "web"});
        assert!(post_json(server.gateway(), "/events", &older.to_string()).status < 300);
        let (_, message) = tail.until("message", |_| true);
        assert_eq!(message["kind"], "event", "{message}");
        if !text.contains("key") {
            assert_eq!(message["event_type"], text, "{message}");
        }
    }
}

#[test]
fn with_keys_the_tail_asks_for_one_and_shows_payloads_to_who_has_it() {
    let server = Start::new().variable("API_KEYS", "secret").run();
    for fields in ["", "x-api-key: wrong\r\n"] {
        let mut peer = Peer::connect(server.gateway());
        peer.send(format!("GET /live/tail HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{fields}\r\n"));
        assert_eq!(peer.answer(false).unwrap().status, 401, "{fields}");
    }
    let Some((tail, opened)) = watching(&server, "", &["--header", "x-api-key: secret"]) else { return };
    assert_eq!(opened["payloads"], true);
    send(&server, "what is in it", &json!({}));
    let (_, message) = tail.until("message", |_| true);
    assert_eq!(message["payload"], json!({"text": "what is in it"}));
}

#[test]
fn nothing_is_looked_at_while_nobody_watches() {
    let server = Server::start();
    let send_some = |count: u32| (0..count).for_each(|_| drop(send(&server, "x", &json!({}))));
    send_some(50);
    server.settled();
    let Some((tail, opened)) = watching(&server, "", &[]) else { return };
    assert_eq!(opened["looked_at_before"], 0);
    send_some(3);
    tail.until("counts", |counts| counts["looked_at"] == 3);
    let Some((_again, opened)) = watching(&server, "", &[]) else { return };
    assert_eq!(opened["looked_at_before"], 3);
}

#[test]
fn more_than_can_be_shown_is_counted() {
    let server = Server::start();
    let Some((tail, opened)) = watching(&server, "", &[]) else { return };
    let batch = vec![json!({"user_id": "u-1", "event_type": "EVENT_TYPE_USER", "source": "web"}); 500];
    let answer = post_json(server.gateway(), "/v1/events/batch", &json!({ "events": batch }).to_string());
    assert_eq!(answer.status, 200, "{}", answer.text());
    let (_, counts) = tail.until("counts", |counts| counts["matched"] == 500);
    let most = opened["copied_per_second_max"].as_u64().unwrap() * opened["cores"].as_u64().unwrap();
    let shown = counts["shown"].as_u64().unwrap();
    // The cores may have gone on to another second meanwhile.
    assert!(shown > 0 && shown <= 5 * most, "{counts}");
}

#[test]
fn one_watcher_too_many_and_a_text_too_long_are_refused_and_a_shutdown_says_so() {
    let server = Server::start();
    let too_long = refused(&server, &format!("?contains={}", "x".repeat(257)));
    assert!(too_long.status == 400 && too_long.text().contains("256"), "{}", too_long.text());
    let watchers: Vec<Watching> =
        (0..4).filter_map(|_| watching(&server, "", &[])).map(|(watching, _)| watching).collect();
    if watchers.len() < 4 {
        return;
    }
    let fifth = refused(&server, "");
    assert_eq!((fifth.status, fifth.field("retry-after")), (503, Some("5")));
    server.signal(Signal::TERM);
    for tail in &watchers {
        tail.until("ending", |why| why == "the server is shutting down");
    }
    assert_eq!(server.wait_for_message("stopped")["connections_cut"], 0);
}

#[test]
fn a_browser_watches_messages_with_a_text_in_them() {
    let server = Start::new().variable("API_KEYS", "secret").run();
    let plan = json!({"key": "secret", "tail": "region=north", "found": 2});
    let Some(mut browser) = Browser::start(&server, plan) else { return };
    for round in 0..2 {
        assert_eq!(browser.report()["watching"], true);
        for number in 0..40 {
            let region = if number % 20 == 7 { "north" } else { "south" };
            send(&server, &format!("what is in {round}-{number}"), &json!({ "region": region }));
        }
        let width = [400, 1280][round];
        let report = browser.look(width);
        let listed = report["tail"]["listed"].as_array().unwrap();
        for (number, listed) in [27, 7].into_iter().zip(listed) {
            for part in [&format!("what is in {round}-{number}"), "shop", "region=north", "queued"] {
                assert!(listed.as_str().unwrap().contains(part), "{part}: {report}");
            }
        }
        let said = report["tail"]["said"].as_str().unwrap();
        assert!(said.starts_with("2 of 2 messages shown with “region=north” in them, among "), "{said}");
        assert_eq!(report["tail"]["trouble"], "");
    }
    browser.end();
}
