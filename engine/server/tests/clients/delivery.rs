//! The durable log and the ack levels, as a client and an operator meet them. Brokers are the ledger test's affair.

use std::{fs, process::Command};

use brokers::dead_letter::{Cause, DeadLetters};
use engine_core::Record;
use serde_json::Value;

use crate::harness::{
    Answer, Peer, Scratch, Server, Start, TIDEGATE, eventually, get, post_json, run_command,
};

/// A server that keeps its messages in `folder`.
fn on_disk(folder: &Scratch) -> Start {
    Start::new()
        .set("queue.type=log")
        .set(&format!("data.directory={}", folder.path().join("data").display()))
}

/// `tidegate log … --directory` on that folder.
fn log_tool(folder: &Scratch, arguments: &[&str]) -> (bool, String) {
    let output = Command::new(TIDEGATE)
        .arg("log")
        .args(arguments)
        .arg("--directory")
        .arg(folder.path().join("data"))
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.success(), text(output.stdout) + &text(output.stderr))
}

/// POST to the public API with further header lines.
fn post(server: &Server, fields: &str, body: &str) -> Answer {
    post_to(server, "/api/v1/ingest", fields, body)
}

fn post_to(server: &Server, path: &str, fields: &str, body: &str) -> Answer {
    let mut peer = Peer::connect(server.gateway());
    peer.send(format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n{fields}\r\n{body}",
        body.len()
    ));
    peer.answer(false).unwrap()
}

fn messages(folder: &Scratch) -> Vec<Value> {
    let (ok, text) = log_tool(folder, &["dump", "--json"]);
    assert!(ok, "{text}");
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn damage_in_what_is_kept_is_said_while_the_server_runs() {
    let folder = Scratch::new();
    let server = on_disk(&folder).argument("--cores").argument("1").run();
    let count = |server: &Server| {
        let page = get(server.gateway(), "/metrics");
        let series = |line: &str| line.strip_prefix("tidegate_log_damaged_segments ")?.parse::<u64>().ok();
        page.text().lines().find_map(series)
    };
    assert_eq!(post(&server, "", r#"{"source":"s","data":"precious"}"#).status, 200);
    server.settled();
    assert_eq!(count(&server), Some(0));
    let segment = folder.path().join("data/shard-000/00000000000000000000.segment");
    let mut bytes = fs::read(&segment).unwrap();
    let at = bytes.windows(8).position(|bytes| bytes == b"precious").unwrap();
    bytes[at] ^= 1;
    fs::write(&segment, bytes).unwrap();
    eventually("the damage is counted", || (count(&server) == Some(1)).then_some(()));
    let line = server.wait_for_message("a check of what the log keeps has found damage");
    let error = line["error"].as_str().unwrap();
    assert!(error.contains(segment.to_str().unwrap()) && error.contains("log repair"), "{error}");
}

#[test]
fn a_replay_sends_what_was_there_when_it_began_and_not_its_own_copies() {
    let folder = Scratch::new();
    let server = on_disk(&folder).argument("--cores").argument("2").run();
    // Each on a connection of its own, so on both cores.
    for n in 0..10 {
        assert_eq!(post(&server, "", &format!(r#"{{"source":"s","data":"{n}"}}"#)).status, 200);
    }
    let (data, url) = (folder.path().join("data"), format!("http://{}", server.processor()));
    let replay = |more: &[&str]| {
        let place = ["replay", "--directory", data.to_str().unwrap(), "--url", &url];
        let output = run_command(&folder, &[], &[&place[..], more].concat());
        String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
    };
    for there in [10, 20, 40, 80] {
        let said = replay(&[]);
        assert!(said.contains(&format!("{there} messages sent")), "{said}");
        assert_eq!(messages(&folder).len(), 2 * there);
    }
    let said = replay(&["--from", "5", "--to", "1"]);
    assert!(said.contains("nothing between"), "{said}");
}

#[test]
fn what_was_acknowledged_as_durable_is_there_after_a_kill() {
    let folder = Scratch::new();
    let mut ids = Vec::new();
    {
        let server = on_disk(&folder).run();
        for n in 0..50 {
            let answer = post(&server, "", &format!(r#"{{"source":"s","data":"{n}"}}"#));
            assert_eq!((answer.status, &answer.json()["ack"]), (200, &"durable".into()));
            assert!(answer.json()["offset"].is_u64() && answer.json()["shard"].is_u64());
            ids.push(answer.json()["messageId"].as_str().unwrap().to_owned());
        }
        // Dropped: SIGKILL.
    }
    let found: Vec<String> =
        messages(&folder).iter().map(|message| message["id"].as_str().unwrap().to_owned()).collect();
    assert!(ids.iter().all(|id| found.contains(id)));
    assert_eq!(found.len(), 50);
    let (whole, said) = log_tool(&folder, &["verify"]);
    assert!(whole, "{said}");
    // The next run works on what this one did not come to note as worked on, and takes more.
    let server = on_disk(&folder).run();
    assert_eq!(post(&server, "", "{}").status, 200);
    eventually("the backlog is worked on", || {
        let stats = get(server.processor(), "/stats").json();
        (stats["queue"]["CurrentSize"] == 0 && stats["pool"]["ProcessedCount"].as_u64()? > 0).then_some(())
    });
    assert_eq!(server.stop().lost, 0);
}

#[test]
fn a_repeated_key_is_one_message_and_another_content_under_it_a_conflict() {
    let folder = Scratch::new();
    for start in [Start::new(), on_disk(&folder)] {
        let server = start.run();
        let send = |data: &str| {
            post(&server, "Idempotency-Key: order-17\r\n", &format!(r#"{{"source":"s","data":"{data}"}}"#))
        };
        let (first, repeat, conflict) = (send("one"), send("one"), send("two"));
        assert_eq!((first.status, repeat.status, conflict.status), (200, 200, 409));
        assert_eq!(
            (&first.json()["messageId"], &first.json()["duplicate"]),
            (&"order-17".into(), &Value::Null)
        );
        assert_eq!(repeat.json()["messageId"], "order-17");
        assert_eq!(conflict.json()["code"], "ALREADY_EXISTS");
        if first.json()["ack"] == "durable" {
            assert_eq!(repeat.json()["duplicate"], true);
            assert_eq!(repeat.json()["offset"], first.json()["offset"]);
        }
    }
    assert_eq!(messages(&folder).len(), 1);
}

#[test]
fn an_id_is_one_id_whatever_it_is_partitioned_by() {
    let folder = Scratch::new();
    let two = |start: Start| start.argument("--cores").argument("2").set("engine.partition_key=k");
    let event = |id: &str, user: &str| {
        format!(
            r#"{{"id":"{id}","user_id":"{user}","event_type":1,"timestamp":"2026-06-01T10:00:00Z","user_event":{{"action":"a"}}}}"#
        )
    };
    let message = |key: &str| format!(r#"{{"source":"s","data":"d","metadata":{{"k":"{key}"}}}}"#);
    let statuses = |server: &Server, second: bool| {
        let (mut events, mut messages) = (Vec::new(), Vec::new());
        for n in 0..40 {
            let key = if second { format!("other-{n}") } else { format!("key-{n}") };
            events.push(post_json(server.gateway(), "/v1/events", &event(&format!("e-{n}"), &key)).status);
            messages.push(post(server, &format!("Idempotency-Key: m-{n}\r\n"), &message(&key)).status);
        }
        (events, messages)
    };
    for start in [Start::new(), on_disk(&folder)] {
        let server = two(start).run();
        for (second, status) in [(false, 200), (true, 409), (false, 200)] {
            let (events, messages) = statuses(&server, second);
            assert_eq!((events, messages), (vec![status; 40], vec![status; 40]), "other keys: {second}");
        }
        // An id with no key at all is the same id.
        assert_eq!(post(&server, "Idempotency-Key: m-1\r\n", r#"{"source":"s","data":"d"}"#).status, 409);
    }
    // What an earlier run kept holds its ids as well.
    let server = two(on_disk(&folder)).run();
    for (second, status) in [(true, 409), (false, 200)] {
        let (events, messages) = statuses(&server, second);
        assert_eq!((events, messages), (vec![status; 40], vec![status; 40]), "after a restart: {second}");
    }
    drop(server);
    assert_eq!(messages(&folder).len(), 80);
}

#[test]
fn a_level_out_of_reach_is_refused_with_the_setting() {
    let server = Start::new().run();
    for (level, setting) in [("durable", "data.directory"), ("delivered", "QUEUE_TYPE")] {
        let answer = post(&server, &format!("Tidegate-Ack: {level}\r\n"), "{}");
        assert_eq!(answer.status, 400);
        assert!(answer.json()["error"].as_str().unwrap().contains(setting), "{}", answer.text());
    }
}

#[test]
fn a_broker_that_is_not_there_keeps_it_from_being_ready_and_not_from_starting() {
    for (queue, variable) in [("nats", "NATS_URL"), ("kafka", "KAFKA_BROKERS")] {
        let url = if queue == "nats" { "nats://127.0.0.1:1" } else { "127.0.0.1:1" };
        let server = Start::new().variable("QUEUE_TYPE", queue).variable(variable, url).run();
        let ready = eventually("the reason is known", || {
            let ready = get(server.gateway(), "/ready");
            ready.text().contains(variable).then_some(ready)
        });
        assert_eq!((ready.status, &ready.json()["ready"]), (503, &false.into()));
        // It cannot do what it is for, and need not be started anew for that.
        assert_eq!(get(server.gateway(), "/health").status, 503);
        assert_eq!(get(server.gateway(), "/livez").status, 200);
        // The words of a refusal follow those of `/ready` within a tenth of a second.
        eventually("a refusal gives the reason", || {
            let refused = post_json(server.gateway(), "/ingest", "{}");
            assert_eq!((refused.status, &refused.json()["code"]), (503, &"UNAVAILABLE".into()));
            refused.text().contains(variable).then_some(())
        });
    }
}

#[test]
fn in_front_of_a_broker_that_is_away_an_outbox_takes_what_names_no_level_as_durable() {
    let folder = Scratch::new();
    let server = on_disk(&folder).set("queue.type=kafka").variable("KAFKA_BROKERS", "127.0.0.1:1").run();
    let answer = post(&server, "", r#"{"data":"kept"}"#);
    assert_eq!((answer.status, &answer.json()["ack"]), (200, &"durable".into()), "{}", answer.text());
    // Who asks for more than that is told that it is not to be had now.
    assert_eq!(post(&server, "Tidegate-Ack: delivered\r\n", r#"{"data":"kept"}"#).status, 503);
    let metrics = get(server.gateway(), "/metrics");
    assert!(metrics.text().contains("tidegate_log_lag{consumer=\"kafka\"} 1"), "{}", metrics.text());
    drop(server);
    assert_eq!(messages(&folder).len(), 1);
}

#[test]
fn a_second_process_on_one_directory_is_refused() {
    let folder = Scratch::new();
    let _first = on_disk(&folder).run();
    let (status, said) = on_disk(&folder).fail();
    assert_eq!(status.code(), Some(1));
    assert!(said.contains("data.directory") && said.contains("another process"), "{said}");
}

#[test]
fn a_damaged_log_is_refused_by_place_and_repaired_by_command() {
    let folder = Scratch::new();
    {
        let server = on_disk(&folder).argument("--cores").argument("1").run();
        for n in 0..5 {
            assert_eq!(post(&server, "", &format!(r#"{{"data":"{n}"}}"#)).status, 200);
        }
        server.stop();
    }
    let segment = folder.path().join("data/shard-000/00000000000000000000.segment");
    let mut bytes = fs::read(&segment).unwrap();
    bytes[64 + 56 + 30] ^= 1;
    fs::write(&segment, bytes).unwrap();

    let (status, said) = on_disk(&folder).fail();
    assert_eq!(status.code(), Some(1));
    assert!(
        said.contains(".segment") && said.contains("byte 64") && said.contains("repair --salvage"),
        "{said}"
    );
    let (whole, said) = log_tool(&folder, &["verify"]);
    assert!(!whole && said.contains("DAMAGED"), "{said}");

    let salvage = folder.path().join("salvage");
    let (ok, said) = log_tool(&folder, &["repair", "--salvage", salvage.to_str().unwrap()]);
    assert!(ok && said.contains("lost: shard 0 offsets 0 to 0 (1 messages)"), "{said}");
    let server = on_disk(&folder).argument("--cores").argument("1").run();
    assert_eq!(server.stop().exit_code, Some(0));
    assert_eq!(messages(&folder).len(), 4);
}

#[test]
fn a_repeat_is_told_from_the_first_with_a_queue_in_memory_too() {
    let server = Start::new().run();
    let (key, body) = ("Idempotency-Key: order-7\r\n", r#"{"source":"s","data":"x"}"#);
    let (first, again) = (post(&server, key, body).json(), post(&server, key, body).json());
    assert_eq!((&first["duplicate"], &again["duplicate"]), (&Value::Null, &true.into()));
    assert_eq!((&again["messageId"], &again["ack"]), (&first["messageId"], &"queued".into()));
}

#[test]
fn a_repeat_is_recognised_after_a_kill() {
    let folder = Scratch::new();
    let (key, body) = ("Idempotency-Key: order-7\r\n", r#"{"source":"s","data":"x"}"#);
    let first = post(&on_disk(&folder).run(), key, body).json();
    let server = on_disk(&folder).run();
    let again = post(&server, key, body).json();
    assert_eq!((&again["duplicate"], &again["offset"]), (&true.into(), &first["offset"]));
    assert_eq!(post(&server, key, r#"{"source":"s","data":"y"}"#).status, 409);
    drop(server);
    assert_eq!(messages(&folder).len(), 1);
}

#[test]
fn replay_sends_a_part_of_the_log_to_a_running_server() {
    let folder = Scratch::new();
    {
        let server = on_disk(&folder).argument("--cores").argument("1").run();
        for n in 0..10 {
            assert_eq!(post(&server, "", &format!(r#"{{"data":"{n}"}}"#)).status, 200);
        }
        server.stop();
    }
    let target = Start::new().run();
    let output = Command::new(TIDEGATE)
        .args(["replay", "--from", "3", "--to", "7", "--url", &format!("http://{}", target.processor())])
        .arg("--directory")
        .arg(folder.path().join("data"))
        .output()
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && said.contains("4 messages sent"), "{said}");
    assert_eq!(target.settled(), 4);
}

#[test]
fn a_key_is_remembered_while_it_is_among_the_latest_and_beyond_that_a_repeat_is_a_new_message() {
    let server = Start::new().argument("--cores").argument("1").set("idempotency.entries=16").run();
    let is_repeat = |n: u32| {
        let answer = post(&server, &format!("Idempotency-Key: k-{n}\r\n"), r#"{"source":"s","data":"d"}"#);
        assert_eq!(answer.status, 200);
        answer.json()["duplicate"] == true
    };
    assert!((0..17).all(|n| !is_repeat(n)));
    assert!(is_repeat(2) && is_repeat(16));
    // Taken again, and its answer is like any other.
    assert!(!is_repeat(0));
    assert_eq!(server.settled(), 18);
}

#[test]
fn an_enqueued_message_goes_by_its_key_as_one_that_was_sent_does() {
    let folder = Scratch::new();
    for start in [Start::new(), on_disk(&folder)] {
        let server = start.run();
        let enqueue = |key: Option<&str>, id: Option<&str>, payload: &str| {
            let fields = key.map(|key| format!("Idempotency-Key: {key}\r\n")).unwrap_or_default();
            let id = id.map(|id| format!(r#""id":"{id}","#)).unwrap_or_default();
            let answer = post_to(&server, "/enqueue", &fields, &format!(r#"{{{id}"payload":"{payload}"}}"#));
            (answer.status, answer.field("tidegate-duplicate") == Some("true"))
        };
        let (one, two) = ("b25l", "dHdv");
        assert_eq!(enqueue(Some("k-1"), None, one), (202, false));
        assert_eq!(enqueue(Some("k-1"), None, one), (202, true));
        assert_eq!(enqueue(Some("k-1"), None, two), (409, false));
        // The key is the id.
        assert_eq!(enqueue(Some("k-1"), Some("k-1"), one), (202, true));
        assert_eq!(enqueue(Some("\"k-2\""), Some("k-2"), one), (202, false));
        assert_eq!(enqueue(Some("k-2"), None, one), (202, true));
        // Two ids are none.
        assert_eq!(enqueue(Some("k-3"), Some("m-3"), one), (400, false));
        assert_eq!(enqueue(Some("k-3"), None, two), (202, false));
        // Without a key an id may stand on several messages, as the older clients' do.
        for payload in [one, two] {
            assert_eq!(enqueue(None, Some("m-4"), payload), (202, false));
        }
    }
}

#[test]
fn an_id_with_control_characters_is_refused_on_every_route_that_takes_one() {
    let server = Start::new().run();
    for control in ["\\r\\n", "\\u0000", "\\u001b[2J", "\\u007f", "\u{9b}"] {
        let older = format!(r#"{{"id":"a{control}b","event_type":"x"}}"#);
        let typed = format!(r#"{{"id":"a{control}b","user_id":"u","event_type":1}}"#);
        for (path, body) in [
            ("/enqueue", format!(r#"{{"id":"a{control}b","payload":""}}"#)),
            ("/events", older.clone()),
            ("/events/async", older.clone()),
            ("/events/batch", format!(r#"{{"events":[{older}]}}"#)),
            ("/v1/events", typed),
        ] {
            let answer = post_to(&server, path, "", &body);
            assert_eq!(answer.status, 400, "{path} {body}: {}", answer.text());
        }
    }
    assert_eq!(server.received().1, 0);
}

#[test]
fn what_others_wrote_is_printed_with_its_control_characters_escaped() {
    let folder = Scratch::new();
    let letters = DeadLetters::new(folder.path().join("data/dead-letter"));
    let cause = Cause {
        side: "kafka".to_owned(),
        code: "BAD".to_owned(),
        reason: "one\n       7  kafka".to_owned(),
        attempts: 1,
        place: None,
    };
    let record = Record { id: b"a\r\n\0b\x1b[2J", source: b"s\x07", ..Record::default() };
    letters.append(&cause, &record).unwrap();
    drop(letters);
    let list = |more: &[&str]| {
        let data = folder.path().join("data");
        let output = run_command(
            &folder,
            &[],
            &[&["dlq", "list", "--directory", data.to_str().unwrap()], more].concat(),
        );
        String::from_utf8(output.stdout).unwrap()
    };
    let said = list(&[]);
    assert!(said.contains(r"a\r\n\u{0}b\u{1b}[2J  one\n       7  kafka"), "{said}");
    assert_eq!(said.lines().count(), 2, "one dead letter and their number: {said}");
    let json: Value = serde_json::from_str(&list(&["--json"])).unwrap();
    assert_eq!(json["id"], "a\r\n\0b\u{1b}[2J");
    let server = on_disk(&folder).run();
    assert_eq!(post(&server, "", r#"{"source":"a\u001b[2J\n1:2","data":"x"}"#).status, 200);
    server.stop();
    let (_, said) = log_tool(&folder, &["dump"]);
    assert!(said.contains(r"a\u{1b}[2J\n1:2") && said.lines().count() == 1, "{said}");
}
