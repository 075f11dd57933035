//! In front of a real NATS and a real Kafka: what arrives there, what comes back, what they refuse.

use std::{path::Path, process::Command, sync::OnceLock, time::Duration};

use async_nats::jetstream::{self, stream::RetentionPolicy};
use base64::{Engine, engine::general_purpose::STANDARD};
use ledger::process::{self, Process};
use rdkafka::{
    ClientConfig, Message, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    message::Headers,
};
use serde_json::Value;

use crate::{
    harness::{Answer, Peer, Scratch, Server, Start, TIDEGATE, eventually, get, post_json},
    live_page::Watching,
};

const TIMEOUT: Duration = Duration::from_secs(20);
/// With an outbox the default is `durable`.
const DELIVERED: &str = "Tidegate-Ack: delivered\r\n";

/// Whether NATS and Kafka can be had; under CI they have to.
pub(crate) fn can_be_had() -> bool {
    static CAN: OnceLock<bool> = OnceLock::new();
    *CAN.get_or_init(|| {
        let installed = process::install_services();
        let ci = std::env::var_os("CI").is_some_and(|ci| ci == "true");
        assert!(installed.is_ok() || !ci, "NATS and Kafka cannot be installed: {installed:?}");
        if let Err(error) = &installed {
            eprintln!("skipped, because NATS and Kafka cannot be installed: {error:#}");
        }
        installed.is_ok()
    })
}

pub(crate) fn nats(folder: &Scratch) -> (Process, String) {
    let nats = process::nats(folder.path()).unwrap();
    let url = format!("nats://127.0.0.1:{}", nats.port);
    (nats, url)
}

pub(crate) fn kafka(folder: &Scratch) -> (Process, String) {
    let kafka = process::kafka(folder.path()).unwrap();
    let brokers = format!("127.0.0.1:{}", kafka.port);
    (kafka, brokers)
}

/// POST to the public API with further header lines.
fn post(server: &Server, fields: &str, body: &str) -> Answer {
    let mut peer = Peer::connect(server.gateway());
    peer.send(format!(
        "POST /api/v1/ingest HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n{fields}\r\n{body}",
        body.len()
    ));
    peer.answer(false).unwrap()
}

/// POST until the broker is reached.
fn delivered(server: &Server, fields: &str, body: &str) -> Value {
    eventually("the broker takes a message", || {
        let answer = post(server, fields, body);
        (answer.status == 200).then(|| answer.json())
    })
}

fn processed(server: &Server) -> u64 {
    get(server.processor(), "/stats").json()["pool"]["ProcessedCount"].as_u64().unwrap()
}

/// A message of Kafka: key, headers, value.
type Arrived = (String, Vec<(String, String)>, Value);

/// Messages of the topic.
fn topic(brokers: &str, count: usize) -> Vec<Arrived> {
    let consumer: BaseConsumer =
        ClientConfig::new().set("bootstrap.servers", brokers).set("group.id", "reader").create().unwrap();
    let mut list = TopicPartitionList::new();
    for partition in 0..3 {
        list.add_partition_offset("diplom-messages", partition, rdkafka::Offset::Beginning).unwrap();
    }
    consumer.assign(&list).unwrap();
    let mut found = Vec::new();
    while found.len() < count {
        let message = consumer.poll(TIMEOUT).expect("a message").unwrap();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let headers = message.headers().unwrap().iter();
        let headers = headers.map(|header| (header.key.to_owned(), text(header.value.unwrap()))).collect();
        let value = serde_json::from_slice(message.payload().unwrap()).unwrap();
        found.push((text(message.key().unwrap()), headers, value));
    }
    found
}

#[test]
fn a_message_in_nats_has_the_older_systems_shape_and_is_gone_when_it_was_worked_on() {
    if !can_be_had() {
        return;
    }
    let folder = Scratch::new();
    let (_nats, url) = nats(&folder);
    let start = || Start::new().variable("QUEUE_TYPE", "nats").variable("NATS_URL", &url);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let server = start().set("queue.consume=false").run();
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let answer = delivered(&server, &format!("traceparent: {trace}\r\n"), r#"{"source":"s","data":"hello"}"#);
    assert_eq!(answer["ack"], "delivered");
    runtime.block_on(async {
        let context = jetstream::new(async_nats::connect(&url).await.unwrap());
        let stream = context.get_stream("DIPLOM_STREAM").await.unwrap();
        let config = &stream.cached_info().config;
        assert_eq!((config.retention, config.subjects[0].as_str()), (RetentionPolicy::WorkQueue, "diplom.*"));
        let message = stream.get_raw_message(1).await.unwrap();
        assert_eq!(message.subject.as_str(), "diplom.messages");
        let header = |name: &str| message.headers.get(name).map(|value| value.as_str().to_owned());
        let id = answer["messageId"].as_str().map(str::to_owned);
        assert_eq!((header("message_id"), header("source")), (id.clone(), Some("s".into())));
        assert_eq!(header("traceparent").as_deref(), Some(trace));
        // JetStream's own goes by the record, whatever its sender calls it.
        assert!(header("Nats-Msg-Id").is_some_and(|name| Some(&name) != id.as_ref()));
        let value: Value = serde_json::from_slice(&message.payload).unwrap();
        assert_eq!(STANDARD.decode(value["payload"].as_str().unwrap()).unwrap(), b"hello");
    });
    drop(server);
    let server = start().run();
    eventually("it is worked on and gone", || {
        let messages = runtime.block_on(async {
            let context = jetstream::new(async_nats::connect(&url).await.unwrap());
            context.get_stream("DIPLOM_STREAM").await.unwrap().cached_info().state.messages
        });
        (messages == 0 && processed(&server) == 1).then_some(())
    });
}

#[test]
fn a_raw_message_in_nats_is_its_payload_on_the_subject_it_chooses_and_is_worked_on_like_any_other() {
    if !can_be_had() {
        return;
    }
    let folder = Scratch::new();
    let (_nats, url) = nats(&folder);
    let start = || {
        Start::new()
            .variable("QUEUE_TYPE", "nats")
            .variable("NATS_URL", &url)
            .set("nats.value=raw")
            .set("nats.subject_template=orders.{region}")
            .set("nats.subjects_allowed=orders.eu,orders.us")
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let server = start().set("queue.consume=false").run();
    let data = "not JSON, and \u{fc}ml\u{e4}ut\nin two lines";
    for region in ["eu", "us", "mars"] {
        let body = serde_json::json!({"source": " 100% s\r\n", "data": data,
            "metadata": {"region": region, "a: b": "c\r\nd"}});
        delivered(&server, "", &body.to_string());
    }
    let seen = runtime.block_on(async {
        let context = jetstream::new(async_nats::connect(&url).await.unwrap());
        let stream = context.get_stream("DIPLOM_STREAM").await.unwrap();
        let mut seen = Vec::new();
        for sequence in 1..=3 {
            let message = stream.get_raw_message(sequence).await.unwrap();
            assert_eq!(message.payload, data.as_bytes());
            for (name, value) in [
                ("schema", "raw"),
                ("source", "%20100%25 s%0D%0A"),
                ("metadata.a%3A%20b", "c%0D%0Ad"),
                ("Nats-Expected-Stream", "DIPLOM_STREAM"),
            ] {
                assert_eq!(message.headers.get(name).map(|value| value.as_str()), Some(value), "{name}");
            }
            seen.push(message.subject.to_string());
        }
        seen
    });
    assert_eq!(seen, ["orders.eu", "orders.us", "diplom.messages"]);
    drop(server);
    let server = start().set("log.level=debug").run();
    eventually("all are worked on", || (processed(&server) == 3).then_some(()));
    drop(server);
    // The stream is there now, and covers nothing else.
    let other = start().set("nats.subject=other.messages").run();
    eventually("what is not covered is named", || {
        let ready = get(other.gateway(), "/ready");
        ready.text().contains("do not cover nats.subject = other.messages").then_some(())
    });
}

#[test]
fn a_message_in_kafka_has_its_key_and_headers_and_its_offset_is_committed_when_it_was_worked_on() {
    if !can_be_had() {
        return;
    }
    let folder = Scratch::new();
    let (_kafka, brokers) = kafka(&folder);
    let server = Start::new()
        .variable("QUEUE_TYPE", "kafka")
        .variable("KAFKA_BROKERS", &brokers)
        .variable("PARTITION_KEY", "source")
        .run();
    let answer = delivered(&server, "", r#"{"source":"s","data":"hello"}"#);
    let (key, headers, value) = topic(&brokers, 1).remove(0);
    assert_eq!((key.as_str(), &value["id"]), ("s", &answer["messageId"]));
    let header = |name: &str| headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    assert_eq!((header("source"), header("message_id")), (Some("s"), answer["messageId"].as_str()));
    assert!(header("schema").is_some());
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &brokers)
        .set("group.id", "processor-group")
        .create()
        .unwrap();
    eventually("its offset is committed", || {
        let mut list = TopicPartitionList::new();
        (0..3).for_each(|partition| {
            list.add_partition("diplom-messages", partition);
        });
        let committed = consumer.committed_offsets(list, TIMEOUT).unwrap();
        let passed = committed.elements().iter().filter_map(|element| element.offset().to_raw()).max();
        (passed == Some(1) && processed(&server) == 1).then_some(())
    });
}

/// How often what is ready is asked, one time after the other, for longer than a broker's silence is noticed in.
const ASKED: usize = 40;

#[test]
fn a_dead_letter_that_cannot_be_kept_keeps_the_server_from_being_ready_until_it_can() {
    if !can_be_had() {
        return;
    }
    let folder = Scratch::new();
    let (_nats, url) = nats(&folder);
    let data = folder.path().join("data");
    let server = Start::new()
        .variable("QUEUE_TYPE", "nats")
        .variable("NATS_URL", &url)
        .set(&format!("data.directory={}", data.display()))
        .set("queue.consume=false")
        .set("ack.timeout=1s")
        .set("ack.default=delivered")
        .run();
    delivered(&server, DELIVERED, r#"{"data":"first"}"#);
    // A file where the folder should be.
    std::fs::write(data.join("dead-letter"), "").unwrap();
    let refused = post(&server, DELIVERED, &format!(r#"{{"data":"{}"}}"#, "x".repeat(900_000)));
    assert_eq!(refused.status, 504, "{}", refused.text());
    let is_ready = || get(server.gateway(), "/ready").status == 200;
    eventually("it is known", || (!is_ready()).then_some(()));
    for _ in 0..ASKED {
        let ready = get(server.gateway(), "/ready");
        assert_eq!(ready.status, 503, "{}", ready.text());
        assert!(ready.text().contains("a dead letter cannot be kept"), "{}", ready.text());
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(post(&server, DELIVERED, r#"{"data":"waits"}"#).status, 503);
    std::fs::remove_file(data.join("dead-letter")).unwrap();
    eventually("it is kept", || is_ready().then_some(()));
    assert_eq!(post(&server, DELIVERED, r#"{"data":"after"}"#).json()["ack"], "delivered");
}

#[test]
fn what_a_side_misses_and_cannot_be_listed_is_refused_and_that_is_said() {
    if !can_be_had() {
        return;
    }
    let folder = Scratch::new();
    let ((nats, url), (_kafka, brokers)) = (nats(&folder), kafka(&folder));
    let server = Start::new()
        .variable("QUEUE_TYPE", "composite")
        .variable("NATS_URL", &url)
        .variable("KAFKA_BROKERS", &brokers)
        .set("composite.providers=nats,kafka")
        .set("composite.strategy=best-effort")
        .set("queue.consume=false")
        .set("ack.timeout=1s")
        // A file where the dead letters' folder should be.
        .file("tidegate-data", "")
        .run();
    delivered(&server, DELIVERED, r#"{"data":"first"}"#);
    nats.pause();
    let refused = eventually("what cannot be listed is refused", || {
        let answer = post(&server, DELIVERED, r#"{"data":"x"}"#);
        (answer.status == 503).then_some(answer)
    });
    assert!(refused.text().contains("cannot be listed"), "{}", refused.text());
    for _ in 0..ASKED {
        let ready = get(server.gateway(), "/ready");
        assert_eq!(ready.status, 503, "{}", ready.text());
        assert!(ready.text().contains("what nats misses cannot be listed"), "{}", ready.text());
        std::thread::sleep(Duration::from_millis(100));
    }
    nats.resume();
    delivered(&server, DELIVERED, r#"{"data":"after"}"#);
}

#[test]
fn what_a_broker_refuses_for_ever_is_a_dead_letter_and_what_follows_goes_on() {
    if !can_be_had() {
        return;
    }
    let folder = Scratch::new();
    let (_nats, url) = nats(&folder);
    let server = Start::new()
        .variable("QUEUE_TYPE", "nats")
        .variable("NATS_URL", &url)
        .set(&format!("data.directory={}", folder.path().join("data").display()))
        .set("queue.consume=false")
        .run();
    delivered(&server, DELIVERED, r#"{"data":"first"}"#);
    // JetStream's max_payload is 1 MiB, and base64 makes it a third longer.
    let refused = post(&server, DELIVERED, &format!(r#"{{"data":"{}"}}"#, "x".repeat(900_000)));
    assert_eq!(refused.status, 422, "{}", refused.text());
    assert!(refused.text().contains("nats"), "{}", refused.text());
    if let Some(watching) = Watching::start(&server, &[]) {
        let (_, present) = watching.until("present", |present| present["verdict"]["state"] != "good");
        let reason = present["verdict"]["reason"].as_str().unwrap();
        assert!(reason.starts_with("1 of "), "{reason}");
        assert!(reason.contains(" accepted messages were refused for ever"), "{reason}");
        assert!(reason.contains("max_payload"), "{reason}");
    }
    assert_eq!(post(&server, DELIVERED, r#"{"data":"after"}"#).json()["ack"], "delivered");
    // Sent once more, it is refused once more, and lies there anew.
    let told = post_json(server.gateway(), "/live/dead-letters/replay", r#"{"all":true}"#).json();
    assert_eq!(told["sent"].as_u64().unwrap() + told["failed"].as_u64().unwrap(), 1, "{told}");
    eventually("it is back", || {
        let listed = get(server.gateway(), "/live/dead-letters").json();
        (listed["count"].as_u64()? >= 1).then_some(())
    });
    let list = Command::new(TIDEGATE)
        .args(["dlq", "list", "--directory"])
        .arg(folder.path().join("data"))
        .output()
        .unwrap();
    let said = String::from_utf8(list.stdout).unwrap();
    assert!(said.contains("MAX_PAYLOAD") && said.contains("max_payload = 1048576"), "{said}");
}

#[test]
fn a_composite_gives_each_side_the_message_once_and_works_on_it_once() {
    if !can_be_had() {
        return;
    }
    let folder = Scratch::new();
    let ((_nats, url), (_kafka, brokers)) = (nats(&folder), kafka(&folder));
    let server = Start::new()
        .variable("QUEUE_TYPE", "composite")
        .variable("COMPOSITE_PROVIDERS", "nats,kafka")
        .variable("NATS_URL", &url)
        .variable("KAFKA_BROKERS", &brokers)
        .run();
    let first = delivered(&server, "Idempotency-Key: one\r\n", r#"{"data":"x"}"#);
    // Said again, it doubles nothing on either side.
    let again = post(&server, "Idempotency-Key: one\r\n", r#"{"data":"x"}"#).json();
    assert_eq!((&again["messageId"], &again["duplicate"]), (&first["messageId"], &true.into()));
    let last = delivered(&server, "", r#"{"data":"y"}"#);
    let mut ids: Vec<Value> =
        topic(&brokers, 2).into_iter().map(|(_, _, value)| value["id"].clone()).collect();
    ids.sort_by_key(Value::to_string);
    let mut expected = vec![first["messageId"].clone(), last["messageId"].clone()];
    expected.sort_by_key(Value::to_string);
    assert_eq!(ids, expected);
    eventually("both sides were read", || {
        let sides = get(server.processor(), "/stats").json()["queue"]["composite_stats"].clone();
        let taken = |side: &str| sides[side]["TotalDequeued"].as_u64();
        (taken("nats")? == 2 && taken("kafka")? == 2 && processed(&server) >= 2).then_some(())
    });
    assert_eq!(processed(&server), 2);
}

#[test]
fn an_engine_that_finds_no_stream_and_may_not_make_one_says_so() {
    if !can_be_had() {
        return;
    }
    let folder = Scratch::new();
    // Without JetStream nothing can be made.
    let port = process::free_port().unwrap();
    let server = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.tools/bin/nats-server");
    let plain = Process::start(
        "nats-plain",
        &server,
        vec!["-a".into(), "127.0.0.1".into(), "-p".into(), port.to_string()],
        Vec::new(),
        folder.path(),
        port,
    );
    let mut plain = plain.unwrap();
    plain.wait().unwrap();
    let url = format!("nats://127.0.0.1:{port}");
    let server = Start::new().variable("QUEUE_TYPE", "nats").variable("NATS_URL", &url).run();
    eventually("it says what stands in the way", || {
        let ready = get(server.gateway(), "/ready");
        let text = ready.text();
        (ready.status == 503 && text.contains("nats.stream") && text.contains("JetStream on")).then_some(())
    });
}

#[test]
fn packed_messages_are_worked_on_one_by_one() {
    if !can_be_had() {
        return;
    }
    let folder = Scratch::new();
    let port = process::free_port().unwrap();
    let url = format!("nats://127.0.0.1:{port}");
    let start = |consume: &str| {
        Start::new()
            .variable("QUEUE_TYPE", "nats")
            .variable("NATS_URL", &url)
            .set("nats.pack_messages=64")
            .set(&format!("queue.consume={consume}"))
            .set(&format!("data.directory={}", folder.path().join("data").display()))
            .run()
    };
    {
        // While the broker is away the log gathers what will be packed.
        let server = start("false");
        for n in 0..100 {
            let answer = post(&server, "Tidegate-Ack: durable\r\n", &format!(r#"{{"data":"{n}"}}"#));
            assert_eq!(answer.status, 200, "{}", answer.text());
        }
    }
    let arguments = ["-js", "-a", "127.0.0.1", "-p", &port.to_string(), "-sd", "js"].map(str::to_owned);
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.tools/bin/nats-server");
    let _nats = Process::start("nats", &program, arguments.into(), Vec::new(), folder.path(), port).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let messages = || {
        runtime.block_on(async {
            let context = jetstream::new(async_nats::connect(&url).await.ok()?);
            Some(context.get_stream("DIPLOM_STREAM").await.ok()?.cached_info().state.messages)
        })
    };
    let server = start("false");
    eventually("all of it was published", || {
        get(server.gateway(), "/metrics")
            .text()
            .contains("tidegate_log_lag{consumer=\"nats\"} 0")
            .then_some(())
    });
    let packs = messages().unwrap();
    assert!(packs < 100, "{packs}");
    drop(server);
    let server = start("true");
    eventually("all of it was worked on", || {
        (processed(&server) == 100 && messages() == Some(0)).then_some(())
    });
}

/// Payloads in the stream.
async fn stored_payloads(url: &str) -> Vec<String> {
    let context = jetstream::new(async_nats::connect(url).await.unwrap());
    let stream = context.get_stream("DIPLOM_STREAM").await.unwrap();
    let state = &stream.cached_info().state;
    let mut payloads = Vec::new();
    for sequence in state.first_sequence..=state.last_sequence {
        let message = stream.get_raw_message(sequence).await.unwrap();
        let value: Value = serde_json::from_slice(&message.payload).unwrap();
        payloads
            .push(String::from_utf8(STANDARD.decode(value["payload"].as_str().unwrap()).unwrap()).unwrap());
    }
    payloads.sort();
    payloads
}

#[test]
fn messages_that_their_sender_calls_the_same_are_all_stored_in_nats() {
    if !can_be_had() {
        return;
    }
    let folder = Scratch::new();
    let (_nats, url) = nats(&folder);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (mut expected, outbox) = (Vec::new(), folder.path().join("data"));
    for directory in [None, Some(outbox)] {
        let mut start =
            Start::new().variable("QUEUE_TYPE", "nats").variable("NATS_URL", &url).set("queue.consume=false");
        if let Some(directory) = &directory {
            start = start.set(&format!("data.directory={}", directory.display()));
        }
        let server = start.variable("PARTITION_KEY", "source").run();
        delivered(&server, DELIVERED, r#"{"data":"there"}"#);
        expected.push("there".to_owned());
        let mut peer = Peer::connect(server.processor());
        for n in 0..5 {
            let content = format!("{}-{n}", if directory.is_some() { "outbox" } else { "direct" });
            let body = format!(r#"{{"id":"one","payload":"{}"}}"#, STANDARD.encode(&content));
            peer.send(format!(
                "POST /enqueue HTTP/1.1\r\nHost: localhost\r\n{DELIVERED}Content-Length: {}\r\n\r\n{body}",
                body.len()
            ));
            let answer = peer.answer(false).unwrap();
            assert_eq!((answer.status, answer.field("tidegate-ack")), (202, Some("delivered")));
            expected.push(content);
        }
        // One key of twelve senders, who know nothing of each other: whoever is told that it is there finds it there.
        for n in 0..12 {
            let fields = format!("{DELIVERED}Idempotency-Key: key-{}\r\n", directory.is_some());
            let answer = post(&server, &fields, &format!(r#"{{"source":"s-{n}","data":"key-{n}"}}"#));
            match answer.status {
                200 => expected.push(format!("key-{n}")),
                status => assert_eq!(status, 409, "{}", answer.text()),
            }
        }
    }
    expected.sort();
    assert_eq!(runtime.block_on(stored_payloads(&url)), expected);
}

#[test]
fn a_backlog_that_an_earlier_run_has_sent_is_not_stored_twice_in_nats() {
    if !can_be_had() {
        return;
    }
    let folder = Scratch::new();
    let (_nats, url) = nats(&folder);
    let data = folder.path().join("data");
    let start = || {
        Start::new()
            .variable("QUEUE_TYPE", "nats")
            .variable("NATS_URL", &url)
            .set("queue.consume=false")
            .set(&format!("data.directory={}", data.display()))
            .argument("--cores")
            .argument("1")
            .run()
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let server = start();
    let expected: Vec<String> = (0..9).map(|n| n.to_string()).collect();
    for content in &expected[..8] {
        delivered(&server, DELIVERED, &format!(r#"{{"data":"{content}"}}"#));
    }
    drop(server);
    // As after a crash before the position was written: all of it is sent again.
    let cursors: Vec<_> =
        std::fs::read_dir(data.join("cursors")).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(cursors.len(), 1, "{cursors:?}");
    std::fs::remove_file(&cursors[0]).unwrap();
    let server = start();
    delivered(&server, DELIVERED, r#"{"data":"8"}"#);
    assert_eq!(runtime.block_on(stored_payloads(&url)), expected);
}
