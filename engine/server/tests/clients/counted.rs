//! What the analytics count: an event once, whatever way it comes again, and nothing that is none.

use async_nats::jetstream;
use base64::{Engine, engine::general_purpose::STANDARD};
use prost::Message;
use serde_json::{Value, json};
use tidegate_proto::analytics::v1::{Event, EventType, TransactionEvent, event::EventData};

use crate::{
    brokers::{can_be_had, nats},
    harness::{Answer, Peer, Scratch, Server, Start, eventually, get, on_runtime, post_json, run_command},
};

const RANGE: &str = "time_range.start=2026-06-01T00:00:00Z&time_range.end=2026-06-02T00:00:00Z";
/// 2026-06-01T10:00:00Z
const TIME: i64 = 1_780_308_000;

fn on_disk(folder: &Scratch) -> Start {
    Start::new()
        .set("queue.type=log")
        .set(&format!("data.directory={}", folder.path().join("data").display()))
        .argument("--cores")
        .argument("2")
}

fn summary(server: &Server) -> Value {
    let mut summary = get(server.gateway(), &format!("/v1/analytics/summary?{RANGE}")).json();
    let fields = summary.as_object_mut().unwrap();
    fields.remove("metadata");
    fields.remove("lastUpdated");
    summary
}

fn events(server: &Server) -> u64 {
    summary(server)["totalEvents"].as_str().map_or(0, |count| count.parse().unwrap())
}

#[track_caller]
fn counts(server: &Server, expected: u64) {
    eventually("so many events are counted", || (events(server) == expected).then_some(()));
}

fn of_user(server: &Server, user: &str) -> u64 {
    get(server.gateway(), &format!("/v1/analytics/users/{user}")).json()["userProfile"]["totalEvents"]
        .as_u64()
        .unwrap_or_default()
}

fn purchase(id: &str, user: &str, amount: f64, seconds: i64) -> Vec<u8> {
    let transaction = TransactionEvent {
        transaction_id: id.to_owned(),
        r#type: 1,
        amount,
        currency: "EUR".to_owned(),
        status: 2,
        ..TransactionEvent::default()
    };
    let event = Event {
        id: id.to_owned(),
        user_id: user.to_owned(),
        event_type: EventType::Transaction.into(),
        timestamp: Some(prost_types::Timestamp { seconds, nanos: 0 }),
        event_data: Some(EventData::TransactionEvent(transaction)),
        ..Event::default()
    };
    event.encode_to_vec()
}

/// A `DataMessage` with this payload and this metadata.
fn data_message(id: &str, payload: &[u8], metadata: &Value) -> String {
    json!({"id": id, "timestamp": TIME, "source": "s", "payload": STANDARD.encode(payload), "metadata": metadata})
        .to_string()
}

fn enqueue(server: &Server, fields: &str, body: &str) -> Answer {
    let mut peer = Peer::connect(server.processor());
    let length = body.len();
    peer.send(format!(
        "POST /enqueue HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n{fields}\r\n{body}"
    ));
    peer.answer(false).unwrap()
}

fn processed(server: &Server) -> u64 {
    get(server.processor(), "/stats").json()["pool"]["ProcessedCount"].as_u64().unwrap()
}

fn dead_letters(folder: &Scratch) -> Vec<Value> {
    let data = folder.path().join("data");
    let place = ["dlq", "list", "--json", "--directory", data.to_str().unwrap()];
    let output = run_command(folder, &[], &place);
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

#[test]
fn a_replay_is_delivered_again_and_counted_once_here_and_once_elsewhere() {
    let folder = Scratch::new();
    let mut server = on_disk(&folder).run();
    for n in 0..12 {
        let user = format!("u-{}", n % 3);
        let event = json!({"id": format!("e-{n}"), "user_id": user, "event_type": "EVENT_TYPE_TRANSACTION",
            "timestamp": "2026-06-01T10:00:00Z", "transaction_event": {"transaction_id": "t",
            "type": "TRANSACTION_TYPE_PURCHASE", "amount": 10, "currency": "EUR",
            "status": "TRANSACTION_STATUS_COMPLETED"}});
        assert_eq!(post_json(server.gateway(), "/v1/events", &event.to_string()).status, 200);
        let older =
            json!({"id": format!("o-{n}"), "user_id": user, "event_type": "page_view", "timestamp": TIME});
        assert_eq!(post_json(server.gateway(), "/events", &older.to_string()).status, 200);
    }
    // One that has no id of its own.
    let event = r#"{"user_id":"u-1","event_type":"EVENT_TYPE_USER","timestamp":"2026-06-01T10:00:00Z"}"#;
    assert_eq!(post_json(server.gateway(), "/v1/events", event).status, 200);
    counts(&server, 25);
    let once = summary(&server);
    assert_eq!(once["topMetrics"][0]["value"], 120.0, "{once}");
    let user =
        get(server.gateway(), "/v1/analytics/users/u-1?include_events=true&include_sessions=true").json();
    let data = folder.path().join("data");
    let replay = |to: &Server| {
        let url = format!("http://{}", to.processor());
        let place = ["replay", "--to", "100", "--directory", data.to_str().unwrap(), "--url", &url];
        let output = run_command(&folder, &[], &place);
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert!(output.status.success(), "{said}");
        said
    };
    assert!(replay(&server).contains("25 messages sent"));
    eventually("the copies are worked on", || (processed(&server) == 50).then_some(()));
    assert_eq!(summary(&server), once);
    let now =
        get(server.gateway(), "/v1/analytics/users/u-1?include_events=true&include_sessions=true").json();
    assert_eq!(now, user);
    // Neither a restart from a snapshot forgets what is counted, nor one from the log alone.
    for without_snapshots in [false, true] {
        server.stop();
        if without_snapshots {
            std::fs::remove_dir_all(data.join("snapshots")).unwrap();
        }
        server = on_disk(&folder).run();
        counts(&server, 25);
        assert_eq!(summary(&server), once);
    }
    replay(&server);
    eventually("the copies are worked on", || (processed(&server) == 50).then_some(()));
    assert_eq!(summary(&server), once);
    let other = Start::new().argument("--cores").argument("2").run();
    replay(&other);
    counts(&other, 25);
    assert_eq!(summary(&other), once);
}

#[test]
fn all_events_of_a_user_are_on_one_core_by_whatever_way_they_come() {
    let server = Start::new().argument("--cores").argument("2").run();
    let users = ["u-1", "u-2", "u-3", "u-4"];
    for user in users {
        for n in 0..8 {
            let event = json!({"id": format!("{user}-{n}"), "user_id": user, "event_type": "EVENT_TYPE_USER",
                "timestamp": "2026-06-01T10:00:00Z"});
            assert_eq!(post_json(server.gateway(), "/v1/events", &event.to_string()).status, 200);
            // Each on a connection of its own, so on either core; without a key, with another's, in any order.
            for (way, metadata) in [
                json!({"schema": "analytics.v1.Event", "tidegate-schema": "analytics.v1.Event"}),
                json!({"tidegate-schema": "analytics.v1.Event"}),
                json!({"a": "b", "tidegate-key": "somebody", "tidegate-schema": "analytics.v1.Event"}),
            ]
            .into_iter()
            .enumerate()
            {
                let id = format!("{user}-{n}-{way}");
                let body = data_message(&id, &purchase(&id, user, 1.0, TIME), &metadata);
                let answer = enqueue(&server, "", &body);
                assert_eq!(answer.status, 202, "{}", answer.text());
            }
        }
    }
    counts(&server, 4 * 8 * 4);
    assert_eq!(summary(&server)["uniqueUsers"], "4");
    for user in users {
        assert_eq!(of_user(&server, user), 32, "{user}");
    }
}

#[test]
fn a_senders_own_schema_is_metadata_like_any_other_and_makes_no_event() {
    let folder = Scratch::new();
    let server = on_disk(&folder).run();
    let forged = json!({"source": "s", "data": "\u{fffd} no event", "metadata":
        {"tidegate-key": "u", "schema": "analytics.v1.Event"}});
    for schema in ["analytics.v1.Event", "analytics.Event", "producer.Event"] {
        let mut message = forged.clone();
        message["metadata"]["schema"] = schema.into();
        assert_eq!(post_json(server.gateway(), "/api/v1/ingest", &message.to_string()).status, 200);
        let good = String::from_utf8(purchase("x", "u", 1.0, TIME)).unwrap_or_default();
        message["data"] = good.into();
        assert_eq!(post_json(server.gateway(), "/api/v1/ingest", &message.to_string()).status, 200);
        let body = data_message("x", &purchase("x", "u", 1.0, TIME), &json!({"schema": schema}));
        assert_eq!(enqueue(&server, "", &body).status, 202);
    }
    eventually("all are worked on as messages", || (processed(&server) == 9).then_some(()));
    assert_eq!(get(server.processor(), "/stats").json()["pool"]["ErrorCount"], 0);
    assert_eq!(events(&server), 0);
    let mut reserved = forged;
    reserved["metadata"] = json!({"tidegate-schema": "analytics.v1.Event"});
    let answer = post_json(server.gateway(), "/api/v1/ingest", &reserved.to_string());
    assert!(answer.status == 400 && answer.text().contains("tidegate-schema"), "{}", answer.text());
    // Nor does the log, read again, take them for events.
    server.stop();
    let server = on_disk(&folder).run();
    assert_eq!((events(&server), processed(&server)), (0, 0));
    assert!(dead_letters(&folder).is_empty());
}

#[test]
fn an_event_as_a_message_needs_the_key_of_events_and_meets_their_rules() {
    let server = Start::new().variable("API_KEYS", "one").run();
    let marked = json!({"tidegate-schema": "analytics.v1.Event"});
    let good = data_message("e", &purchase("e", "u", 5.0, TIME), &marked);
    for fields in ["", "X-Api-Key: two\r\n"] {
        assert_eq!(enqueue(&server, fields, &good).status, 401);
    }
    let key = "X-Api-Key: one\r\n";
    let older = json!({"tidegate-schema": "analytics.Event"});
    for (payload, metadata, says) in [
        (purchase("e", "u", 5.0, 253_402_300_000), &marked, "timestamp"),
        (purchase("e", "u", f64::NAN, TIME), &marked, "amount"),
        (purchase("e", "", 5.0, TIME), &marked, "user_id"),
        (b"no event".to_vec(), &marked, "analytics.v1.Event"),
        (br#"{"id":"","event_type":"page_view"}"#.to_vec(), &older, "required"),
        (b"[]".to_vec(), &older, "analytics.Event"),
    ] {
        let answer = enqueue(&server, key, &data_message("e", &payload, metadata));
        assert!(answer.status == 400 && answer.text().contains(says), "{says}: {}", answer.text());
    }
    assert_eq!(enqueue(&server, key, &good).status, 202);
    // A message needs none.
    assert_eq!(enqueue(&server, "", &data_message("m", b"x", &json!({}))).status, 202);
    eventually("both are worked on", || (processed(&server) == 2).then_some(()));
    let path = format!("/v1/analytics/summary?{RANGE}");
    let summary = crate::harness::get_with_key(server.gateway(), &path, "one").json();
    assert_eq!(summary["totalEvents"], "1", "{summary}");
}

#[test]
fn an_event_that_somebody_else_writes_to_nats_meets_the_rules_or_is_a_dead_letter_that_says_why() {
    if !can_be_had() {
        return;
    }
    let folder = Scratch::new();
    let (_nats, url) = nats(&folder);
    let server = Start::new()
        .variable("QUEUE_TYPE", "nats")
        .variable("NATS_URL", &url)
        .set(&format!("data.directory={}", folder.path().join("data").display()))
        .argument("--cores")
        .argument("2")
        .run();
    // Through the broker and back, a message that sounds like an event is none.
    let message = json!({"data": "no event", "metadata": {"schema": "analytics.v1.Event"}}).to_string();
    eventually("the broker takes a message", || {
        (post_json(server.gateway(), "/api/v1/ingest", &message).status == 200).then_some(())
    });
    let event = json!({"id": "own", "user_id": "u", "event_type": "EVENT_TYPE_USER",
        "timestamp": "2026-06-01T10:00:00Z"});
    assert_eq!(post_json(server.gateway(), "/v1/events", &event.to_string()).status, 200);
    eventually("both are worked on", || (processed(&server) == 2).then_some(()));
    assert_eq!(events(&server), 1);
    let foreign = json!({"schema": "analytics.v1.Event"});
    on_runtime(async {
        let context = jetstream::new(async_nats::connect(&url).await.unwrap());
        for n in 0..8 {
            let id = format!("foreign-{n}");
            let value = data_message(&id, &purchase(&id, "u", 5.0, TIME), &foreign);
            context.publish("diplom.messages", value.into()).await.unwrap().await.unwrap();
        }
        for (id, payload) in [
            ("late", purchase("late", "u", 5.0, 253_402_300_000)),
            ("nan", purchase("nan", "u", f64::NAN, TIME)),
            ("none", b"no event".to_vec()),
        ] {
            let value = data_message(id, &payload, &foreign);
            context.publish("diplom.messages", value.into()).await.unwrap().await.unwrap();
        }
    });
    counts(&server, 9);
    assert_eq!(of_user(&server, "u"), 9);
    let letters = eventually("what is none is put aside", || {
        let letters = dead_letters(&folder);
        (letters.len() == 3).then_some(letters)
    });
    for (letter, says) in letters.iter().zip(["event.timestamp", "event.transaction_event.amount", "not an"])
    {
        assert_eq!((&letter["code"], &letter["attempts"]), (&"INVALID_EVENT".into(), &1.into()), "{letter}");
        assert!(letter["reason"].as_str().unwrap().contains(says), "{letter}");
    }
    // Sent again they are as wrong, and stand in nobody's way.
    let (data, processor) = (folder.path().join("data"), format!("http://{}", server.processor()));
    let place = ["dlq", "replay", "--directory", data.to_str().unwrap(), "--url", &processor];
    let output = run_command(&folder, &[], &place);
    let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(output.status.success() && said.contains("given up") && said.contains("amount"), "{said}");
    assert_eq!(events(&server), 9);
}

#[test]
fn a_custom_metric_with_a_name_that_is_taken_has_another_and_the_export_has_each_name_once() {
    let server = Start::new().run();
    let names = ["revenue", "events", "custom.events", "a.b", "a-b", "errors", "9lives", "\u{fc}"];
    let metrics: Vec<Value> = names.iter().map(|name| json!({"name": name, "value": 7})).collect();
    let custom = json!({"user_id": "u", "event_type": "EVENT_TYPE_CUSTOM", "timestamp": "2026-06-01T10:00:00Z",
        "custom_event": {"name": "c", "metrics": metrics}});
    assert_eq!(post_json(server.gateway(), "/v1/events", &custom.to_string()).status, 200);
    counts(&server, 1);
    let found = get(server.gateway(), &format!("/v1/metrics?{RANGE}")).json();
    let value = |name: &str| {
        let metrics = found["metrics"].as_array().unwrap().iter();
        let mut named = metrics.filter(|metric| metric["name"] == name);
        let value = named.next().unwrap_or_else(|| panic!("{name} in {found}"))["value"].as_f64().unwrap();
        assert!(named.next().is_none(), "{name} stands once in {found}");
        value
    };
    assert_eq!((value("events"), value("revenue"), value("errors")), (1.0, 0.0, 0.0));
    assert_eq!((value("custom.events"), value("custom.revenue"), value("a.b")), (7.0, 7.0, 7.0));
    assert_eq!(value("custom.custom.events"), 7.0);
    let path = format!("/v1/analytics/timeseries?metric=custom.revenue&granularity=DAY&{RANGE}");
    let series = get(server.gateway(), &path).json();
    assert_eq!(series["series"][0]["value"], 7.0, "{series}");
    let export = get(server.gateway(), &format!("/v1/metrics/export?format=prometheus&{RANGE}")).json();
    let lines: Vec<&str> = export["data"].as_str().unwrap().lines().collect();
    // The text format (version 0.0.4): one TYPE line a name, before its sample; a name and a number in each sample.
    let mut seen = std::collections::BTreeSet::new();
    for pair in lines.chunks(2) {
        let typed: Vec<&str> = pair[0].split(' ').collect();
        let ["#", "TYPE", name, "counter" | "gauge"] = typed[..] else { panic!("{lines:#?}") };
        assert!(seen.insert(name.to_owned()), "{name} twice in {lines:#?}");
        let letters = name.chars().all(|letter| letter.is_ascii_alphanumeric() || "_:".contains(letter));
        assert!(letters && !name.starts_with(|first: char| first.is_ascii_digit()), "{name}");
        let (sample, number) = pair[1].split_once(' ').unwrap();
        assert!(sample == name && number.parse::<f64>().is_ok(), "{lines:#?}");
    }
    assert_eq!(seen.len(), 6 + names.len(), "{lines:#?}");
}

#[test]
fn a_metric_or_a_type_that_nobody_has_sent_is_said_to_be_unknown() {
    let server = Start::new().run();
    let older = json!({"id": "e", "user_id": "u", "event_type": "page_view", "timestamp": TIME});
    assert_eq!(post_json(server.gateway(), "/events", &older.to_string()).status, 200);
    counts(&server, 1);
    let series = |metric: &str| {
        get(server.gateway(), &format!("/v1/analytics/timeseries?metric={metric}&granularity=DAY&{RANGE}"))
    };
    assert_eq!(series("revenue").status, 200);
    let unknown = series("minuets");
    assert!(unknown.status == 404 && unknown.text().contains("minuets"), "{}", unknown.text());
    let of_types = |types: &str| get(server.gateway(), &format!("/v1/analytics/summary?{types}&{RANGE}"));
    for known in ["event_types=USER", "event_types=EVENT_TYPE_SYSTEM", "event_types=page_view"] {
        assert_eq!(of_types(known).status, 200, "{known}");
    }
    let unknown = of_types("event_types=USER&event_types=page_wiev");
    assert!(unknown.status == 404 && unknown.text().contains("page_wiev"), "{}", unknown.text());
}

#[test]
fn what_came_to_the_workers_never_becomes_less_from_reading_to_reading() {
    for queue in ["memory", "log"] {
        let folder = Scratch::new();
        let start = if queue == "log" { on_disk(&folder) } else { Start::new() };
        let server = start.run();
        let (gateway, processor) = (server.gateway(), server.processor());
        let read = || {
            let stats = get(processor, "/stats").json();
            let [enqueued, dequeued, waiting] = ["TotalEnqueued", "TotalDequeued", "CurrentSize"]
                .map(|name| stats["queue"][name].as_u64().unwrap());
            assert_eq!(enqueued, dequeued + waiting, "{queue}: {stats}");
            enqueued
        };
        let sender = std::thread::spawn(move || {
            let event = json!({"user_id": "u", "event_type": "EVENT_TYPE_USER"});
            let body = json!({"events": vec![event; 100]}).to_string();
            let message = r#"{"source":"s","data":"x"}"#;
            for _ in 0..40 {
                assert_eq!(post_json(gateway, "/v1/events/batch", &body).status, 200);
                assert_eq!(post_json(gateway, "/api/v1/ingest", message).status, 200);
            }
        });
        let mut last = 0;
        while !sender.is_finished() {
            let now = read();
            assert!(now >= last, "{queue}: {last}, then {now}");
            last = now;
        }
        sender.join().unwrap();
        server.settled();
        eventually("all is worked on", || (read() == processed(&server)).then_some(()));
    }
}
