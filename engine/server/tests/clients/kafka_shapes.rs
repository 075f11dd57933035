//! Events in a real Kafka, as the older systems' consumers and producers have them.

use std::{
    collections::BTreeMap,
    process::Command,
    sync::{Arc, atomic::Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use ::brokers::{
    inbound::Source,
    kafka::{KafkaConfig, consume::KafkaSource, topics::create},
    status::SideStatus,
};
use engine_core::PartitionKey;
use ledger::process::{self, Process};
use rdkafka::{
    ClientConfig, Message, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer},
    message::{Header, Headers, OwnedHeaders},
    producer::{BaseProducer, BaseRecord, Producer},
};
use serde_json::{Value, json};

use crate::{
    brokers::can_be_had,
    harness::{Scratch, Server, Start, TIDEGATE, eventually, get, on_runtime, post_json},
};

const TIMEOUT: Duration = Duration::from_secs(20);

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
    value: Value,
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
    let mut seen = Vec::new();
    while seen.len() < count {
        let message = consumer.poll(TIMEOUT).expect("a record").unwrap();
        let headers = message.headers().into_iter().flat_map(Headers::iter);
        seen.push(Seen {
            key: String::from_utf8(message.key().unwrap().to_vec()).unwrap(),
            headers: headers.map(|header| (header.key.to_owned(), header.value.unwrap().to_vec())).collect(),
            value: serde_json::from_slice(message.payload().unwrap()).unwrap(),
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
