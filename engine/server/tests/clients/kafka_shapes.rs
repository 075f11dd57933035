//! Events in a real Kafka, as the older systems' consumers and producers have them.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::TcpStream,
    process::Command,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use base64::{Engine, engine::general_purpose::STANDARD};

use ::brokers::{
    inbound::Source,
    kafka::{KafkaConfig, consume::KafkaSource, topics::create},
    status::SideStatus,
};
use engine_core::PartitionKey;
use ledger::process::{self, Process};
use rdkafka::{
    ClientConfig, Message, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer},
    message::{Header, Headers, OwnedHeaders},
    producer::{BaseProducer, BaseRecord, Producer},
};
use serde_json::{Value, json};

use crate::{
    brokers::can_be_had,
    harness::{Peer, Scratch, Server, Start, TIDEGATE, eventually, get, on_runtime, post_json, run_command},
};

const TIMEOUT: Duration = Duration::from_secs(20);
/// How long records are waited for.
const PATIENCE: Duration = Duration::from_secs(90);

fn kafka(folder: &Scratch) -> (Process, String) {
    let kafka = process::kafka(folder.path()).unwrap();
    let brokers = format!("127.0.0.1:{}", kafka.port);
    (kafka, brokers)
}

fn start(brokers: &str) -> Start {
    Start::new().variable("QUEUE_TYPE", "kafka").variable("KAFKA_BROKERS", brokers)
}

/// A record as a plain consumer sees it.
#[derive(Debug)]
struct Seen {
    key: String,
    headers: BTreeMap<String, Vec<u8>>,
    /// Null when it is no JSON.
    value: Value,
    bytes: Vec<u8>,
    seconds: i64,
}

impl Seen {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| std::str::from_utf8(value).unwrap())
    }
}

/// The first records of a topic.
fn records(brokers: &str, topic: &str, partitions: i32, count: usize) -> Vec<Seen> {
    let consumer: BaseConsumer =
        ClientConfig::new().set("bootstrap.servers", brokers).set("group.id", "reader").create().unwrap();
    let mut list = TopicPartitionList::new();
    for partition in 0..partitions {
        list.add_partition_offset(topic, partition, Offset::Beginning).unwrap();
    }
    consumer.assign(&list).unwrap();
    let (mut seen, since) = (Vec::new(), Instant::now());
    while seen.len() < count {
        let polled = consumer.poll(Duration::from_secs(1));
        let Some(Ok(message)) = polled else {
            // A broker that was started again a moment ago may not be found at once.
            let found = seen.len();
            assert!(since.elapsed() < PATIENCE, "{found} of {count} records after {PATIENCE:?}: {polled:?}");
            continue;
        };
        let headers = message.headers().into_iter().flat_map(Headers::iter);
        seen.push(Seen {
            key: String::from_utf8(message.key().unwrap().to_vec()).unwrap(),
            headers: headers.map(|header| (header.key.to_owned(), header.value.unwrap().to_vec())).collect(),
            value: serde_json::from_slice(message.payload().unwrap()).unwrap_or_default(),
            bytes: message.payload().unwrap().to_vec(),
            seconds: message.timestamp().to_millis().unwrap() / 1000,
        });
    }
    seen
}

/// POST until the broker is reached.
#[track_caller]
fn posted(server: &Server, path: &str, body: &Value) -> Value {
    eventually("the broker takes it", || {
        let answer = post_json(server.gateway(), path, &body.to_string());
        matches!(answer.status, 200 | 202).then(|| answer.json())
    })
}

fn processed(server: &Server) -> u64 {
    get(server.processor(), "/stats").json()["pool"]["ProcessedCount"].as_u64().unwrap()
}

fn legacy(id: &str, user: &str) -> Value {
    json!({"id": id, "user_id": user, "event_type": "page_view", "properties": {"page": "home"},
        "timestamp": 1_640_995_200, "source": "web"})
}

#[test]
fn a_raw_record_is_the_payload_with_the_rest_in_headers_and_is_worked_on_like_any_other() {
    if !can_be_had() {
        return;
    }
    let folder = Scratch::new();
    let (_kafka, brokers) = kafka(&folder);
    let server = start(&brokers).set("kafka.value=raw").variable("PARTITION_KEY", "source").run();
    let data = "not JSON, and \u{fc}ml\u{e4}ut";
    let body = json!({"id": "m-1", "source": "till-7", "data": data, "metadata": {"type": "demo"}});
    posted(&server, "/api/v1/ingest", &body);
    let seen = records(&brokers, "diplom-messages", 3, 1).remove(0);
    assert_eq!((seen.key.as_str(), seen.bytes.as_slice()), ("till-7", data.as_bytes()));
    for (name, value) in [("schema", "raw"), ("source", "till-7"), ("metadata.type", "demo")] {
        assert_eq!(seen.header(name), Some(value), "{seen:?}");
    }
    assert!(seen.header("message_id").is_some_and(|id| !id.is_empty()), "{seen:?}");
    assert!(seen.header("timestamp").is_some_and(|time| time.parse::<i64>().unwrap() > 1_700_000_000));
    let odd = json!({"source": "till-7", "data": "x", "metadata": {"a\u{0}b": "c"}});
    posted(&server, "/api/v1/ingest", &odd);
    eventually("they are worked on", || (processed(&server) == 2).then_some(()));
    // A process with the other setting reads the same topic.
    let other = start(&brokers).variable("KAFKA_CONSUMER_GROUP", "others").run();
    posted(&other, "/api/v1/ingest", &json!({"source": "s", "data": "as JSON"}));
    eventually("all are worked on", || (processed(&other) == 3).then_some(()));
}

#[test]
fn the_producer_services_batches_and_writes_are_counted_and_an_event_is_logged_at_debug() {
    if !can_be_had() {
        return;
    }
    let folder = Scratch::new();
    let (_kafka, brokers) = kafka(&folder);
    let server = start(&brokers).set("log.level=debug").run();
    let id = posted(&server, "/api/v1/events/user", &json!({"data": "someone"}))["event"]["id"].clone();
    let line = server.wait_for_message("Event published successfully");
    assert_eq!((&line["event_id"], &line["event_type"]), (&id, &json!("user_created")), "{line}");
    let took = line["duration"].as_str().unwrap();
    assert!(took.ends_with('s') && took.starts_with(|c: char| c.is_ascii_digit()), "{took}");
    posted(&server, "/api/v1/events/order", &json!({"data": "an order"}));
    eventually("the client says what it has written", || {
        let page = get(server.gateway(), "/metrics").text().to_owned();
        let number = |name: &str| {
            let line = page.lines().find(|line| line.starts_with(name))?;
            line.rsplit(' ').next()?.parse::<f64>().ok()
        };
        let written = number(r#"producer_kafka_writer_stats{metric="messages"}"#)?;
        let writes = number(r#"producer_kafka_writer_stats{metric="writes"}"#)?;
        let (sum, count) = (number("producer_batch_size_sum")?, number("producer_batch_size_count")?);
        let small = number(r#"producer_batch_size_bucket{le="5"}"#)?;
        (written == 2.0 && writes > 0.0 && sum == 2.0 && (1.0..=2.0).contains(&count) && small == count)
            .then_some(())
    });
}

#[test]
fn a_message_chooses_among_the_topics_that_are_allowed_and_is_worked_on_from_each() {
    if !can_be_had() {
        return;
    }
    let folder = Scratch::new();
    let (_kafka, brokers) = kafka(&folder);
    let server = start(&brokers)
        .set("kafka.topic_template=orders-{region}")
        .set("kafka.topics_allowed=orders-eu,orders-us")
        .run();
    for region in ["eu", "us", "mars", "eu"] {
        posted(
            &server,
            "/api/v1/ingest",
            &json!({"source": "s", "data": region, "metadata": {"region": region}}),
        );
    }
    for (topic, regions) in
        [("orders-eu", &["eu", "eu"][..]), ("orders-us", &["us"]), ("diplom-messages", &["mars"])]
    {
        let seen = records(&brokers, topic, 3, regions.len());
        let found: Vec<_> =
            seen.iter().map(|seen| seen.value["metadata"]["region"].as_str().unwrap()).collect();
        assert_eq!(found, regions, "{topic}");
    }
    eventually("all are worked on", || (processed(&server) == 4).then_some(()));
}

/// Writes one record to a partition by Kafka's own protocol (Produce v3, record batch v2): clients allow no header whose name
/// is not UTF-8, and brokers look at none.
fn produce_by_hand(port: u16, topic: &str, header: &[u8], value: &[u8]) {
    let varint = |out: &mut Vec<u8>, number: usize| {
        let mut zigzag = number << 1;
        while zigzag > 127 {
            out.push((zigzag & 127) as u8 | 128);
            zigzag >>= 7;
        }
        out.push(zigzag as u8);
    };
    // Attributes, time and offset behind the first one's, no key (-1).
    let mut record = vec![0, 0, 0, 1];
    for part in [value, header, b"x"] {
        if part == header {
            varint(&mut record, 1);
        }
        varint(&mut record, part.len());
        record.extend_from_slice(part);
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64;
    // Attributes i16, last offset i32, times, producer i64, its epoch i16, sequence i32, count i32.
    let mut checked = vec![0; 6];
    checked.extend_from_slice(&now.to_be_bytes());
    checked.extend_from_slice(&now.to_be_bytes());
    checked.extend_from_slice(&[255; 14]);
    checked.extend_from_slice(&1_i32.to_be_bytes());
    varint(&mut checked, record.len());
    checked.extend_from_slice(&record);
    // Base offset; then the length from the leader's epoch (-1) on; magic 2.
    let mut batch = vec![0; 8];
    batch.extend_from_slice(&(checked.len() as i32 + 9).to_be_bytes());
    batch.extend_from_slice(&[255, 255, 255, 255, 2]);
    batch.extend_from_slice(&crc32c::crc32c(&checked).to_be_bytes());
    batch.extend_from_slice(&checked);
    // Produce (0), version 3, correlation 1, no client; no transaction, acks 1, 10 s; one topic, partition 0.
    let mut request = vec![0, 0, 0, 3, 0, 0, 0, 1, 255, 255, 255, 255, 0, 1, 0, 0, 39, 16, 0, 0, 0, 1];
    request.extend_from_slice(&(topic.len() as i16).to_be_bytes());
    request.extend_from_slice(topic.as_bytes());
    request.extend_from_slice(&[0, 0, 0, 1, 0, 0, 0, 0]);
    request.extend_from_slice(&(batch.len() as i32).to_be_bytes());
    request.extend_from_slice(&batch);
    let mut kafka = TcpStream::connect(("127.0.0.1", port)).unwrap();
    kafka.set_read_timeout(Some(TIMEOUT)).unwrap();
    kafka.write_all(&(request.len() as i32).to_be_bytes()).unwrap();
    kafka.write_all(&request).unwrap();
    // Length, correlation, topics, name, partitions, number; then the error.
    let mut answer = vec![0; 4 + 4 + 4 + 2 + topic.len() + 4 + 4 + 2];
    kafka.read_exact(&mut answer).unwrap();
    assert_eq!(answer[answer.len() - 2..], [0, 0], "{answer:?}");
}

#[test]
fn a_record_with_a_header_that_is_not_utf_8_is_put_aside_and_the_ones_behind_it_are_worked_on() {
    if !can_be_had() {
        return;
    }
    let folder = Scratch::new();
    let (kafka, brokers) = kafka(&folder);
    let server = start(&brokers).run();
    posted(&server, "/events", &legacy("event_1", "u-1"));
    posted(&server, "/api/v1/ingest", &json!({"source": "s", "data": "before"}));
    let value = legacy("event_2", "u-1").to_string();
    for topic in ["analytics-events", "diplom-messages"] {
        produce_by_hand(kafka.port, topic, b"\xff\xfe", value.as_bytes());
        // It is well-formed but for that.
        produce_by_hand(kafka.port, topic, b"fine", value.replace("event_2", "event_3").as_bytes());
    }
    for number in 0..9 {
        posted(&server, "/api/v1/ingest", &json!({"source": "s", "data": format!("behind {number}")}));
    }
    // Two from before, one fine event of each topic, nine.
    eventually("all others are worked on", || (processed(&server) >= 13).then_some(()));
    assert_eq!(get(server.gateway(), "/livez").status, 200);
}

#[test]
fn events_have_the_topics_keys_headers_and_values_of_the_older_systems() {
    if !can_be_had() {
        return;
    }
    let folder = Scratch::new();
    let (_kafka, brokers) = kafka(&folder);
    let began = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs().cast_signed();
    let server = start(&brokers).run();
    posted(&server, "/events", &legacy("event_1", "u-1"));
    posted(&server, "/events/async", &legacy("event_2", "u-1"));
    posted(
        &server,
        "/events/batch",
        &json!({"events": [legacy("event_3", "u-2"), legacy("event_4", "u-2")]}),
    );
    let typed = json!({"id": "evt-5", "user_id": "u-1", "session_id": "s-1", "event_type": "EVENT_TYPE_CUSTOM",
        "source": "web", "timestamp": "2026-11-20T10:00:00Z", "properties": {"page": "cart"},
        "custom_event": {"name": "signed_up", "metrics": [{"name": "score", "value": 7.5}]}});
    posted(&server, "/v1/events", &typed);
    let user =
        posted(&server, "/api/v1/events/user", &json!({"data": "someone", "metadata": {"plan": "free"}}));
    posted(&server, "/api/v1/ingest", &json!({"source": "s", "data": "raw"}));

    let events = records(&brokers, "analytics-events", 3, 5);
    let event = |id: &str| events.iter().find(|seen| seen.value["id"] == id).unwrap();
    let synchronous = event("event_1");
    assert_eq!((synchronous.key.as_str(), &synchronous.value), ("u-1", &legacy("event_1", "u-1")));
    // Not 1_640_995_200: the topic keeps records for a week, and goes by their time.
    assert!(synchronous.seconds >= began, "{} {began}", synchronous.seconds);
    for (name, value) in [
        ("timestamp", "1640995200"),
        ("producer_id", "analytics-producer"),
        ("schema", "analytics.Event"),
        ("message_id", "event_1"),
    ] {
        assert_eq!(synchronous.header(name), Some(value), "{name}");
    }
    assert_eq!(
        (event("event_2").header("async"), event("event_2").header("producer_id")),
        (Some("true"), None)
    );
    let of_batch = event("event_4");
    assert_eq!(
        (
            of_batch.header("batch"),
            of_batch.header("event_type"),
            of_batch.header("source"),
            of_batch.key.as_str()
        ),
        (Some("true"), Some("page_view"), Some("web"), "u-2")
    );
    // A consumer that knows the older JSON only can read the richer event, too; all of it is beside it.
    let rich = event("evt-5");
    assert_eq!(
        rich.value,
        json!({"id": "evt-5", "user_id": "u-1", "event_type": "signed_up", "source": "web",
            "properties": {"page": "cart", "session_id": "s-1"}, "timestamp": 1_795_168_800})
    );
    assert_eq!((rich.key.as_str(), rich.header("schema")), ("u-1", Some("analytics.Event")));
    assert!(!rich.headers["event-bin"].is_empty());

    let produced = records(&brokers, "events", 3, 1).remove(0);
    let id = user["event"]["id"].as_str();
    assert_eq!((Some(produced.key.as_str()), &produced.value), (id, &user["event"]));
    assert_eq!(
        (
            produced.header("event-type"),
            produced.header("event-id"),
            produced.header("event-version"),
            produced.header("event-source")
        ),
        (Some("user_created"), id, Some("1.0"), Some("producer-service"))
    );
    assert_eq!(
        (produced.header("schema"), produced.header("event-metadata")),
        (Some("producer.Event"), Some(r#"{"plan":"free"}"#))
    );
    let raw = records(&brokers, "diplom-messages", 3, 1).remove(0);
    assert_eq!((raw.header("schema"), &raw.value["source"]), (Some("diplom.v1.DataMessage"), &json!("s")));

    // They come back as what they were.
    eventually("all are worked on", || (processed(&server) == 7).then_some(()));
    let summary = get(server.gateway(), "/analytics/summary").json();
    assert_eq!((&summary["total_events"], &summary["total_users"]), (&json!(5), &json!(2)));
    assert_eq!(summary["events_by_type"], json!({"page_view": 4, "EVENT_TYPE_CUSTOM": 1}));
}

#[test]
fn producer_consumer_and_analytics_are_processes_of_their_own_joined_by_the_broker() {
    if !can_be_had() {
        return;
    }
    let folder = Scratch::new();
    let (_kafka, brokers) = kafka(&folder);
    let role = |name: &str| start(&brokers).argument("--role").argument(name).run();
    let (producer, consumer, analytics) = (role("producer"), role("consumer"), role("analytics"));
    eventually("the producer takes an event", || {
        let answer = post_json(producer.ingest(), "/events", &legacy("event_1", "u-1").to_string());
        (answer.status == 200).then_some(())
    });
    let there = analytics.addresses("analytics")[0];
    eventually("the analytics process has added it up", || {
        (get(there, "/analytics/summary").json()["total_events"] == 1).then_some(())
    });
    eventually("the consumer has it, too", || (processed(&consumer) == 1).then_some(()));
    // The producer works on nothing.
    let metrics = get(producer.ingest(), "/metrics");
    assert!(metrics.text().contains("messages_processed_total 0"), "{}", metrics.text());
}

/// Sends a record as a program without our headers would.
fn produce(brokers: &str, topic: &str, key: &str, value: &str) {
    let producer: BaseProducer = ClientConfig::new().set("bootstrap.servers", brokers).create().unwrap();
    let headers =
        OwnedHeaders::new().insert(Header { key: "producer_id", value: Some("analytics-producer") });
    producer.send(BaseRecord::to(topic).key(key).payload(value).headers(headers)).unwrap();
    producer.flush(TIMEOUT).unwrap();
}

#[test]
fn records_of_older_producers_are_counted_and_what_is_none_goes_to_the_topic_beside() {
    if !can_be_had() {
        return;
    }
    let folder = Scratch::new();
    let (_kafka, brokers) = kafka(&folder);
    let server = start(&brokers).run();
    eventually("the topics are there", || (get(server.gateway(), "/ready").status == 200).then_some(()));
    produce(&brokers, "analytics-events", "u-1", &legacy("event_1", "u-1").to_string());
    let order = r#"{"id":"order_placed_1","type":"order_placed","data":"d","timestamp":"2026-11-20T10:00:00Z","version":"1.0","source":"producer-service"}"#;
    produce(&brokers, "events", "order_placed_1", order);
    produce(
        &brokers,
        "diplom-messages",
        "id-1",
        r#"{"id":"id-1","timestamp":1700000000,"source":"old","payload":"aGk="}"#,
    );
    eventually("all are worked on", || (processed(&server) == 3).then_some(()));
    assert_eq!(get(server.gateway(), "/analytics/summary").json()["total_events"], 1);

    produce(&brokers, "analytics-events", "u-2", r#"{"user_id":"u-2","event_type":17}"#);
    produce(&brokers, "analytics-events", "u-1", &legacy("event_2", "u-1").to_string());
    eventually("what follows is worked on", || (processed(&server) == 4).then_some(()));
    let letter = eventually("it is put aside", || {
        let listed = topics(&brokers, "list");
        listed
            .1
            .contains("analytics-events-dlq ")
            .then(|| records(&brokers, "analytics-events-dlq", 1, 1).remove(0))
    });
    let value = &letter.value;
    assert_eq!(
        (&value["original_topic"], &value["original_key"], &value["original_value"]),
        (&json!("analytics-events"), &json!("u-2"), &json!(r#"{"user_id":"u-2","event_type":17}"#))
    );
    assert!(value["error"].as_str().unwrap().contains("analytics.Event"), "{value}");
    assert!(
        value["original_partition"].is_i64()
            && value["original_offset"].is_i64()
            && value["timestamp"].is_u64(),
        "{value}"
    );
    assert_eq!(value["headers"]["producer_id"], "analytics-producer");

    // Two more, of the other topics: one goes to the topic beside its own, one is kept here. All are dead letters.
    produce(&brokers, "events", "x", r#"{"type":"order_placed","data":7}"#);
    produce(&brokers, "diplom-messages", "x", "no message at all");
    eventually("all three are counted", || {
        let stats = get(server.processor(), "/stats").json();
        (stats["consumer"]["dlq_events"] == 3).then_some(())
    });
    assert!(topics(&brokers, "list").1.contains("events-dlq "));
    let health = get(server.processor(), "/health").json();
    assert_eq!(health["consumer"]["dlq_events"], 3, "{health}");
    let page = get(server.processor(), "/metrics");
    assert!(page.text().lines().any(|line| line == "tidegate_dead_letters_total 3"), "{}", page.text());
}

#[test]
fn an_event_without_a_time_has_that_of_its_acceptance_in_kafka_and_is_itself_when_it_comes_back() {
    if !can_be_had() {
        return;
    }
    let folder = Scratch::new();
    let (_kafka, brokers) = kafka(&folder);
    let began = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let server = start(&brokers).run();
    let timeless = |id: &str| json!({"id": id, "user_id": "u", "event_type": "page_view", "source": "a \"timestamp\":0"});
    posted(&server, "/events", &timeless("e-1"));
    posted(
        &server,
        "/events/batch",
        &json!({"events": [timeless("e-2"), timeless("e-3"), legacy("e-4", "u")]}),
    );
    let seen = records(&brokers, "analytics-events", 3, 4);
    for record in &seen {
        let at = record.value["timestamp"].as_u64().unwrap();
        let is_ours = record.value["id"] != "e-4";
        assert!(if is_ours { at >= began } else { at == 1_640_995_200 }, "{record:?}");
        assert_eq!(record.header("timestamp").unwrap().parse::<u64>().unwrap(), at);
        assert_eq!(record.header("time-of"), is_ours.then_some("acceptance"));
    }
    eventually("all are worked on", || (processed(&server) == 4).then_some(()));
    // The same event once more is a repeat: the time is none of its own.
    let again = post_json(server.ingest(), "/events", &timeless("e-1").to_string());
    assert_eq!(again.status, 200, "{}", again.text());
}

#[test]
fn one_topic_for_all_when_kafka_topic_says_so() {
    if !can_be_had() {
        return;
    }
    let folder = Scratch::new();
    let (_kafka, brokers) = kafka(&folder);
    let server =
        start(&brokers).variable("KAFKA_TOPIC", "everything").variable("PRODUCER_KAFKA_TOPIC", "apart").run();
    posted(&server, "/events", &legacy("event_1", "u-1"));
    posted(&server, "/api/v1/ingest", &json!({"data": "raw"}));
    posted(&server, "/api/v1/events/order", &json!({"data": "one"}));
    let schemas: Vec<String> = {
        let mut seen: Vec<String> = records(&brokers, "everything", 3, 2)
            .iter()
            .map(|seen| seen.header("schema").unwrap().to_owned())
            .collect();
        seen.sort();
        seen
    };
    assert_eq!(schemas, ["analytics.Event", "diplom.v1.DataMessage"]);
    assert_eq!(records(&brokers, "apart", 3, 1)[0].header("event-type"), Some("order_placed"));
    eventually("all are worked on", || (processed(&server) == 3).then_some(()));
    assert_eq!(get(server.gateway(), "/analytics/summary").json()["total_events"], 1);
}

/// The series of `kafka_consumer_lag_total` on a page of metrics: labels, value.
fn lag_series(page: &str) -> BTreeMap<String, f64> {
    let lines = page.lines().filter_map(|line| line.strip_prefix("kafka_consumer_lag_total{"));
    lines
        .map(|line| line.rsplit_once("} ").unwrap())
        .map(|(labels, value)| (labels.to_owned(), value.parse().unwrap()))
        .collect()
}

#[test]
fn the_lag_of_each_partition_is_on_every_metrics_page_under_the_older_name() {
    if !can_be_had() {
        return;
    }
    let memory = get(Server::start().gateway(), "/metrics");
    assert!(!memory.text().contains("kafka_consumer_lag"), "there is no Kafka");
    let folder = Scratch::new();
    let (_kafka, brokers) = kafka(&folder);
    let server = start(&brokers).variable("KAFKA_CONSUMER_GROUP", "lagging-group").run();
    let expected: BTreeMap<String, f64> = ["analytics-events", "diplom-messages", "events"]
        .iter()
        .flat_map(|topic| (0..3).map(move |partition| (topic, partition)))
        .map(|(topic, partition)| {
            (format!(r#"topic="{topic}",partition="{partition}",consumer_group="lagging-group""#), 0.0)
        })
        .collect();
    for role in server.roles() {
        let address = server.addresses(role)[0];
        eventually("every partition has its series, and nothing waits", || {
            (lag_series(get(address, "/metrics").text()) == expected).then_some(())
        });
    }
    let page = get(server.gateway(), "/metrics");
    assert!(page.text().contains("# TYPE kafka_consumer_lag_total gauge\n"), "a gauge in spite of its name");
    // Offsets are committed once a second: while messages come, some are not.
    let body = r#"{"source":"s","data":"d"}"#;
    eventually("what is not committed shows", || {
        post_json(server.gateway(), "/api/v1/ingest", body);
        let lags = lag_series(get(server.gateway(), "/metrics").text());
        lags.iter().any(|(labels, lag)| labels.contains("diplom-messages") && *lag > 0.0).then_some(())
    });
    eventually("all of it is worked on", || {
        (lag_series(get(server.gateway(), "/metrics").text()) == expected).then_some(())
    });
}

/// A topic of three partitions for a consumer of ours alone.
fn one_topic(brokers: &str) -> KafkaConfig {
    KafkaConfig {
        brokers: brokers.to_owned(),
        topic: "lagging".into(),
        topic_choice: None,
        value: brokers::raw_message::MessageValue::DataMessage,
        shapes: None,
        consumer_group: "new-group".into(),
        client_id: "test".into(),
        acks: "all".into(),
        compression: "none".into(),
        linger: Duration::ZERO,
        batch_messages: 1,
        retry_backoff: Duration::from_millis(100),
        in_flight_max: 1,
        partition: PartitionKey::default(),
        security_protocol: "plaintext".into(),
        sasl_mechanism: String::new(),
        sasl_username: Default::default(),
        sasl_password: Default::default(),
        ssl_ca_location: String::new(),
    }
}

/// A consumer of ours that works on nothing by itself.
struct Member {
    source: KafkaSource,
    status: Arc<SideStatus>,
    /// What came, in order.
    tags: Vec<u64>,
}

impl Member {
    fn join(config: &KafkaConfig) -> Self {
        let status = Arc::new(SideStatus::new("kafka"));
        let source = KafkaSource::new(config, Arc::clone(&status)).unwrap();
        Self { source, status, tags: Vec::new() }
    }

    /// Its lag, after it was polled.
    fn lag(&mut self) -> u64 {
        self.source.take(100, Duration::from_millis(10), &mut |tag, _| self.tags.push(tag));
        self.status.lag.load(Ordering::Relaxed)
    }
}

#[test]
fn the_lag_of_a_group_that_never_committed_is_all_that_the_topic_still_has() {
    if !can_be_had() {
        return;
    }
    let folder = Scratch::new();
    let (_kafka, brokers) = kafka(&folder);
    let config = one_topic(&brokers);
    create(&config, &config.topics()).unwrap();
    let producer: BaseProducer = ClientConfig::new().set("bootstrap.servers", &brokers).create().unwrap();
    for partition in [0, 0, 0, 0, 0, 1, 1] {
        producer.send(BaseRecord::<(), _>::to("lagging").partition(partition).payload("none")).unwrap();
    }
    producer.flush(TIMEOUT).unwrap();
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", &brokers).create().unwrap();
    let mut gone = TopicPartitionList::new();
    gone.add_partition_offset("lagging", 0, Offset::Offset(2)).unwrap();
    on_runtime(admin.delete_records(&gone, &AdminOptions::new())).unwrap();

    let mut only = Member::join(&config);
    eventually("all of it has come, and none of it is done", || {
        (only.lag() == 5 && only.tags.len() == 5).then_some(())
    });
    for (count, left) in [(2, 3), (3, 0)] {
        for tag in only.tags.drain(..count) {
            only.source.done(tag);
        }
        eventually("what is done is committed", || (only.lag() == left).then_some(()));
    }

    // Partitions that went to another member are counted by that one alone.
    let config = KafkaConfig { consumer_group: "shared-group".into(), ..config };
    let mut first = Member::join(&config);
    eventually("one member has all of it", || (first.lag() == 5).then_some(()));
    let mut second = Member::join(&config);
    eventually("two members share it", || {
        let lags = [first.lag(), second.lag()];
        (lags == [3, 2] || lags == [2, 3]).then_some(())
    });
}

/// `tidegate topics …`: whether it succeeded, and what it said.
fn topics(brokers: &str, action: &str) -> (bool, String) {
    let home = Scratch::new();
    let output = Command::new(TIDEGATE)
        .args(["topics", action])
        .env_clear()
        .env("KAFKA_BROKERS", brokers)
        .current_dir(home.path())
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.success(), text(output.stdout) + &text(output.stderr))
}

#[test]
fn topics_are_created_once_and_listed() {
    if !can_be_had() {
        return;
    }
    let folder = Scratch::new();
    let (_kafka, brokers) = kafka(&folder);
    let names = [
        ("diplom-messages", 3, ""),
        ("analytics-events", 3, "7days"),
        ("events", 3, ""),
        ("metrics-data", 3, "3days"),
        ("analytics-events-processed", 3, "1day"),
        ("analytics-events-dlq", 1, "30days"),
        ("events-dlq", 1, ""),
    ];
    let (ok, said) = topics(&brokers, "list");
    assert!(ok && said.contains("analytics-events-dlq             is not there"), "{said}");
    let (ok, said) = topics(&brokers, "create");
    assert!(ok, "{said}");
    for (name, partitions, kept) in names {
        let line = said.lines().find(|line| line.starts_with(&format!("{name}:"))).unwrap();
        assert!(line.contains(&format!("{partitions} partitions")) && line.contains(kept), "{line}");
    }
    let (ok, again) = topics(&brokers, "create");
    assert!(ok && again.lines().all(|line| line.contains("is there")), "{again}");
    let (ok, listed) = topics(&brokers, "list");
    assert!(ok && !listed.contains("not there"), "{listed}");
    for (name, partitions, _) in names {
        let line = listed.lines().find(|line| line.split_whitespace().next() == Some(name)).unwrap();
        assert_eq!(line.split_whitespace().nth(1), Some(partitions.to_string().as_str()), "{line}");
    }
    let (ok, said) = topics("127.0.0.1:1", "list");
    assert!(!ok && said.contains("KAFKA_BROKERS"), "{said}");
}

#[test]
fn of_a_backlog_over_the_topics_limit_only_the_message_that_is_too_long_is_buried() {
    if !can_be_had() {
        return;
    }
    let folder = Scratch::new();
    let (mut kafka, brokers) = kafka(&folder);
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", &brokers).create().unwrap();
    let topic =
        NewTopic::new("diplom-messages", 3, TopicReplication::Fixed(1)).set("max.message.bytes", "50000");
    let made = on_runtime(admin.create_topics([&topic], &AdminOptions::new())).unwrap();
    assert!(made[0].is_ok(), "{made:?}");
    kafka.kill();
    let data = folder.path().join("data");
    let server = start(&brokers)
        .variable("PARTITION_KEY", "source")
        .set("queue.consume=false")
        .set("kafka.compression=none")
        .set(&format!("data.directory={}", data.display()))
        .run();
    let mut peer = Peer::connect(server.gateway());
    let mut send = |number: usize, bytes: usize| {
        let data = format!("{number} {}", "x".repeat(bytes));
        let body = json!({"source": format!("s-{}", number % 5), "data": data}).to_string();
        let length = body.len();
        let head = "POST /api/v1/ingest HTTP/1.1\r\nHost: t\r\nContent-Type: application/json";
        peer.send(format!("{head}\r\nContent-Length: {length}\r\n\r\n{body}"));
        let answer = peer.answer(false).unwrap();
        assert_eq!((answer.status, &answer.json()["ack"]), (200, &json!("durable")), "{}", answer.text());
    };
    let (count, too_long) = (3000, 1234);
    for number in 0..count {
        send(number, if number == too_long { 60_000 } else { 1000 });
    }
    kafka.again().unwrap();
    kafka.wait().unwrap();
    let mut last: BTreeMap<String, usize> = BTreeMap::new();
    let mut seen = 0;
    for record in records(&brokers, "diplom-messages", 3, count - 1) {
        let payload = STANDARD.decode(record.value["payload"].as_str().unwrap()).unwrap();
        let number = String::from_utf8(payload).unwrap().split_once(' ').unwrap().0.parse::<usize>().unwrap();
        let before = last.insert(record.key.clone(), number);
        assert!(before.is_none_or(|before| before < number), "{}: {before:?} before {number}", record.key);
        seen += number;
    }
    assert_eq!(seen, count * (count - 1) / 2 - too_long);
    let listed = || {
        let output = run_command(&folder, &[], &["dlq", "list", "--directory", data.to_str().unwrap()]);
        String::from_utf8(output.stdout).unwrap()
    };
    eventually("the one too long is listed", || listed().contains("1 dead letters").then_some(()));
}
