//! The live page's lists: dead letters, which are sent once more from there, and the latest errors.

use std::{path::Path, process::Command};

use brokers::dead_letter::{Cause, DeadLetters};
use engine_core::Record;
use serde_json::{Value, json};

use crate::{
    harness::{Answer, Peer, Scratch, Server, Start, TIDEGATE, eventually, get, post_json, run_command},
    live_page::Browser,
};

/// Lays messages among the dead letters of a data directory: `dead-0`, `dead-1` …
fn bury(data: &Path, count: usize) {
    let letters = DeadLetters::new(data.join("dead-letter"));
    for number in 0..count {
        let cause = Cause {
            side: "kafka".to_owned(),
            code: "INVALID_RECORD".to_owned(),
            reason: "the broker refuses it".to_owned(),
            attempts: 1,
            place: None,
        };
        let id = format!("dead-{number}");
        let payload = format!("what was in {number}");
        let record =
            Record { id: id.as_bytes(), source: b"test", payload: payload.as_bytes(), ..Record::default() };
        letters.append(&cause, &record).unwrap();
    }
}

fn on(data: &Path) -> Start {
    Start::new().set("queue.type=log").set(&format!("data.directory={}", data.display()))
}

fn ask(server: &Server, method: &str, path: &str, fields: &str, body: &str) -> Answer {
    let mut peer = Peer::connect(server.gateway());
    peer.send(format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{fields}Content-Length: {}\r\n\r\n{body}",
        body.len()
    ));
    peer.answer(false).unwrap()
}

fn letters(server: &Server) -> Value {
    let answer = get(server.gateway(), "/live/dead-letters");
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

fn replay(server: &Server, asked: &Value) -> Value {
    let answer = post_json(server.gateway(), "/live/dead-letters/replay", &asked.to_string());
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

fn ids(listed: &Value) -> Vec<&str> {
    listed["letters"].as_array().unwrap().iter().map(|letter| letter["id"].as_str().unwrap()).collect()
}

/// What `tidegate dlq list` says last.
fn listed_by_the_command(data: &Path) -> String {
    let list = Command::new(TIDEGATE).args(["dlq", "list", "--directory"]).arg(data).output().unwrap();
    String::from_utf8(list.stdout).unwrap().lines().last().unwrap().to_owned()
}

#[test]
fn dead_letters_are_listed_and_sent_once_more_while_the_server_runs() {
    let folder = Scratch::new();
    bury(folder.path(), 3);
    let server = on(folder.path()).run();
    let listed = letters(&server);
    assert_eq!((&listed["count"], ids(&listed)), (&3.into(), vec!["dead-2", "dead-1", "dead-0"]));
    let newest = &listed["letters"][0];
    assert_eq!(
        (&newest["side"], &newest["code"], &newest["reason"], &newest["payload_bytes"]),
        (&"kafka".into(), &"INVALID_RECORD".into(), &"the broker refuses it".into(), &13.into())
    );
    assert!(newest["at_ms"].as_u64() > Some(1_700_000_000_000), "{newest}");
    // There are no keys: nobody has shown one.
    assert_eq!((&newest["payload"], &listed["payloads"]), (&Value::Null, &false.into()));
    // One from the middle.
    let told = replay(&server, &json!({"offset": 1}));
    assert_eq!((&told["sent"], &told["failed"], &told["left"]), (&1.into(), &0.into(), &0.into()));
    assert_eq!(server.settled(), 1);
    assert_eq!(ids(&letters(&server)), ["dead-2", "dead-0"]);
    assert!(listed_by_the_command(folder.path()).starts_with("2 dead letters"));
    let again = replay(&server, &json!({"offset": 1}));
    assert_eq!((&again["sent"], &again["failed"]), (&0.into(), &1.into()), "{again}");
    let told = replay(&server, &json!({"all": true}));
    assert_eq!((&told["sent"], &told["failed"]), (&2.into(), &0.into()), "{told}");
    assert_eq!(server.settled(), 3);
    assert_eq!(letters(&server)["count"], 0);
    assert!(listed_by_the_command(folder.path()).starts_with("0 dead letters"));
}

#[test]
fn the_newest_dead_letters_are_listed_and_the_rest_is_counted() {
    let folder = Scratch::new();
    bury(folder.path(), 60);
    let server = on(folder.path()).run();
    let listed = letters(&server);
    assert_eq!((&listed["count"], &listed["listed_max"]), (&60.into(), &50.into()));
    let ids = ids(&listed);
    assert_eq!((ids.len(), ids[0], ids[49]), (50, "dead-59", "dead-10"));
}

#[test]
fn with_keys_the_lists_ask_for_one_and_show_payloads_to_who_has_it() {
    let folder = Scratch::new();
    bury(folder.path(), 1);
    // An event as well, for which the key is asked on the way back.
    let mut metadata = Vec::new();
    let mut writer = engine_core::MetadataWriter::new(&mut metadata);
    writer.push(engine_core::KEY_OVERRIDE, b"u");
    writer.push(engine_core::schema::SCHEMA_KEY, engine_core::schema::EVENTS[0]);
    let event = Record {
        id: b"e",
        payload: b"\x12\x01u\x20\x01",
        metadata: &metadata,
        kind: engine_core::KIND_EVENT,
        ..Record::default()
    };
    let cause = Cause { side: "nats".into(), code: "X".into(), reason: "r".into(), attempts: 1, place: None };
    DeadLetters::new(folder.path().join("dead-letter")).append(&cause, &event).unwrap();
    let server = on(folder.path()).variable("API_KEYS", "secret").run();
    let all = json!({"all": true}).to_string();
    for (method, path, body) in [
        ("GET", "/live/dead-letters", ""),
        ("GET", "/live/errors", ""),
        ("POST", "/live/dead-letters/replay", all.as_str()),
    ] {
        for fields in ["", "x-api-key: wrong\r\n"] {
            let answer =
                ask(&server, method, path, &format!("{fields}Content-Type: application/json\r\n"), body);
            assert_eq!(answer.status, 401, "{method} {path} {fields}");
        }
    }
    let key = "x-api-key: secret\r\n";
    let listed = ask(&server, "GET", "/live/dead-letters", key, "").json();
    assert_eq!(listed["letters"][1]["payload"]["text"], "what was in 0");
    assert_eq!(ask(&server, "GET", "/live/errors", key, "").status, 200);
    let told = ask(
        &server,
        "POST",
        "/live/dead-letters/replay",
        &format!("{key}Content-Type: application/json\r\n"),
        &all,
    );
    assert_eq!(told.json()["sent"], 2, "{}", told.text());
}

#[test]
fn two_do_not_send_the_same_letters_at_once() {
    let folder = Scratch::new();
    bury(folder.path(), 3);
    let server = on(folder.path()).run();
    let url = format!("http://{}", server.processor());
    let replay = || {
        let place = ["dlq", "replay", "--directory", folder.path().to_str().unwrap(), "--url", &url];
        run_command(&folder, &[], &place)
    };
    let turn = brokers::dead_letter::take_turn(&brokers::disk::Machine, &folder.path().join("dead-letter"))
        .unwrap()
        .unwrap();
    let output = replay();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && said.contains("somebody else replays"), "{said}");
    let answer = post_json(server.gateway(), "/live/dead-letters/replay", r#"{"all":true}"#);
    assert!(
        answer.status == 503 && answer.text().contains("dlq replay"),
        "{} {}",
        answer.status,
        answer.text()
    );
    drop(turn);
    assert!(replay().status.success());
    assert_eq!(server.settled(), 3);
}

#[test]
fn what_is_no_replay_is_refused_and_nothing_is_sent() {
    let folder = Scratch::new();
    bury(folder.path(), 1);
    let server = on(folder.path()).run();
    for body in [
        "",
        "{}",
        "[]",
        r#"{"all":false}"#,
        r#"{"offset":-1}"#,
        r#"{"offset":0,"all":true}"#,
        r#"{"al":true}"#,
    ] {
        let answer = post_json(server.gateway(), "/live/dead-letters/replay", body);
        assert_eq!(answer.status, 400, "{body}: {}", answer.text());
    }
    // A form of another site's page comes without asking first; JSON does not.
    let form = "Content-Type: text/plain\r\n";
    assert_eq!(ask(&server, "POST", "/live/dead-letters/replay", form, r#"{"all":true}"#).status, 415);
    let asks = "Origin: http://elsewhere.example\r\nAccess-Control-Request-Method: POST\r\n";
    let preflight = ask(&server, "OPTIONS", "/live/dead-letters/replay", asks, "");
    assert_eq!(preflight.field("access-control-allow-origin"), None);
    assert_eq!(letters(&server)["count"], 1);
    // Nothing to send them to.
    let alone = on(Scratch::new().path()).argument("--role").argument("api-gateway").run();
    let answer = post_json(alone.gateway(), "/live/dead-letters/replay", r#"{"all":true}"#);
    assert!(answer.status == 409 && answer.text().contains("listen.processor"), "{}", answer.text());
}

#[test]
fn the_latest_errors_are_warnings_and_refusals_with_their_reason_and_count() {
    let server = Server::start();
    for _ in 0..3 {
        assert_eq!(post_json(server.gateway(), "/ingest", "{").status, 400);
    }
    let malformed = noted(&server, "/ingest answered 400", 3);
    assert_eq!(malformed["kind"], "refusal");
    assert!(malformed["reason"].as_str().unwrap().contains("malformed"), "{malformed}");
    let server = Start::new().variable("API_KEYS", "secret").run();
    for _ in 0..2 {
        assert_eq!(post_json(server.gateway(), "/v1/events", r#"{"user_id":"u"}"#).status, 401);
    }
    let with_key = || ask(&server, "GET", "/live/errors", "x-api-key: secret\r\n", "").json();
    eventually("that a key was missing is noted", || {
        let told = with_key();
        let errors = told["errors"].as_array()?;
        errors.iter().find(|one| one["text"] == "/v1/events answered 401" && one["count"] == 2).map(drop)
    });
    // Nobody listens on port 1.
    let server = Start::new().set("queue.type=nats").set("nats.url=nats://user:hidden@127.0.0.1:1").run();
    for _ in 0..2 {
        assert_eq!(post_json(server.gateway(), "/ingest", r#"{"data":"x"}"#).status, 503);
    }
    let unavailable = noted(&server, "/ingest answered 503", 2);
    assert!(unavailable["reason"].as_str().unwrap().contains("nats"), "{unavailable}");
    assert!(unavailable["last_ms"].as_u64() >= unavailable["first_ms"].as_u64());
    let warning = noted(&server, "this ack level cannot be honoured", 1);
    assert_eq!(warning["kind"], "warning");
    assert!(warning["reason"].as_str().unwrap().contains("NATS_URL"), "{warning}");
    let all = get(server.gateway(), "/live/errors");
    assert!(!all.text().contains("hidden"), "{}", all.text());
}

/// The entry whose text begins so, once it was seen so many times.
#[track_caller]
fn noted(server: &Server, beginning: &str, count: u64) -> Value {
    eventually("it is noted", || {
        let told = get(server.gateway(), "/live/errors").json();
        let errors = told["errors"].as_array()?;
        let found = errors.iter().find(|one| one["text"].as_str().unwrap().starts_with(beginning))?;
        (found["count"] == count).then(|| found.clone())
    })
}

#[test]
fn a_browser_lists_dead_letters_sends_one_once_more_and_says_what_became_of_it() {
    let folder = Scratch::new();
    bury(folder.path(), 3);
    let server = on(folder.path()).run();
    assert_eq!(post_json(server.gateway(), "/ingest", "{").status, 400);
    noted(&server, "/ingest answered 400", 1);
    let Some(mut browser) = Browser::start(&server, json!({"replay": true})) else { return };
    let lists = [vec!["dead-1", "dead-0"], vec!["dead-0"]];
    for (report, left) in browser.looks().into_iter().zip(lists) {
        assert_eq!(report["replayed"], "1 accepted once more.", "{report}");
        assert_eq!(report["letters"], json!(left));
        let errors = report["errors"].as_array().unwrap();
        assert!(errors.iter().any(|one| one.as_str().unwrap().contains("/ingest answered 400")), "{report}");
    }
    browser.end();
    assert_eq!(server.settled(), 2);
}
