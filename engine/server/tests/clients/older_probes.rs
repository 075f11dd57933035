//! What the older analytics system's probes and dashboards read: `/health`, `/ready`, `/stats` and `/lag` of its three
//! programs, under the names that its clients know.

use serde_json::json;

use tidegate_proto::analytics::legacy::{
    ConsumerStatsRequest, ConsumerStatsResponse, consumer_service_client::ConsumerServiceClient,
};

use tonic::transport::Channel;

use crate::{
    brokers::{can_be_had, nats},
    harness::{Peer, Scratch, Server, Start, eventually, get, on_runtime, post_json},
};

/// What the consumer's gRPC service says.
fn consumer_stats(server: &Server) -> ConsumerStatsResponse {
    on_runtime(async {
        let channel =
            Channel::from_shared(format!("http://{}", server.grpc())).unwrap().connect().await.unwrap();
        let stats = ConsumerServiceClient::new(channel).get_consumer_stats(ConsumerStatsRequest {}).await;
        stats.unwrap().into_inner()
    })
}

/// Seconds of the Unix epoch of an RFC 3339 time.
fn seconds_of(time: &serde_json::Value) -> i64 {
    let time = humantime::parse_rfc3339(time.as_str().unwrap()).unwrap();
    time.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs().cast_signed()
}

#[test]
fn the_producers_and_the_consumers_counts_are_those_of_the_events_sent() {
    let folder = Scratch::new();
    let directory = format!("data.directory={}", folder.path().join("data").display());
    let server = Start::new().set("queue.type=log").set(&directory).run();
    for number in 0..3 {
        let event = json!({"id": format!("e-{number}"), "user_id": "u", "event_type": "page_view"});
        assert_eq!(post_json(server.ingest(), "/events", &event.to_string()).status, 200);
    }
    let health = get(server.ingest(), "/health").json();
    assert_eq!((&health["service"], &health["messages_sent"]), (&json!("producer"), &json!(3)));
    let stats = get(server.ingest(), "/stats").json();
    assert_eq!((&stats["messages_sent"], &stats["messages_error"]), (&json!(3), &json!(0)));
    assert!(
        stats["bytes_sent"].as_u64() > Some(100) && stats["avg_latency_ms"].as_f64() > Some(0.0),
        "{stats}"
    );
    assert_eq!(stats["TotalSent"], 3);
    eventually("the events are worked on", || {
        let stats = get(server.processor(), "/stats").json();
        (stats["consumer"]["processed_events"] == 3
            && stats["stream"]["events_processed"] == 3
            && stats["consumer"]["last_message_time"].is_string())
        .then_some(())
    });
    let health = get(server.processor(), "/health").json();
    assert_eq!((&health["service"], &health["consumer"]["failed_events"]), (&json!("consumer"), &json!(0)));
    assert_eq!(health["kafka_health"]["is_healthy"], true);
    let ready = get(server.processor(), "/ready").json();
    assert_eq!((&ready["consumer_ready"], &ready["stream_ready"]), (&json!(true), &json!(true)));
    eventually("the log has nothing left", || {
        let lag = get(server.processor(), "/lag").json();
        assert_eq!(lag["service"], "consumer");
        (lag["lag"]["log:workers"]["0"] == 0).then_some(())
    });
    let asked = consumer_stats(&server);
    let stats = get(server.processor(), "/stats").json();
    assert_eq!((asked.processed_events, asked.failed_events, asked.stream_events_processed), (3, 0, 3));
    let last = seconds_of(&stats["consumer"]["last_message_time"]);
    assert_eq!((asked.last_processed, asked.last_processed_time), (last, last));
    assert!(asked.avg_processing_time_ms > 0.0, "{asked:?}");
    // Reading JSON may round the last digit.
    let told = stats["consumer"]["avg_processing_ms"].as_f64().unwrap();
    assert!((told - asked.avg_processing_time_ms).abs() < 1e-9, "{told} {asked:?}");
    let page = get(server.processor(), "/metrics");
    for line in [
        r#"events_processed_total{service="analytics",event_type="page_view",status="success"} 3"#,
        "events_total 3",
        r#"errors_total{service="consumer",error_type="processing"} 0"#,
    ] {
        assert!(page.text().lines().any(|found| found == line), "{line} in {}", page.text());
    }
    for name in
        ["event_processing_duration_seconds_count", "service_uptime_seconds", "active_connections_total"]
    {
        assert!(page.text().contains(&format!("\n{name}{{")), "{name}");
    }
    let mut peer = Peer::connect(server.processor());
    peer.send("POST /lag HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(peer.answer(false).unwrap().status, 405);
}

#[test]
fn a_message_that_was_given_up_is_one_failure_on_every_surface_and_one_line_of_the_log() {
    if !can_be_had() {
        return;
    }
    let folder = Scratch::new();
    let (_nats, url) = nats(&folder);
    let start = || {
        Start::new()
            .variable("QUEUE_TYPE", "nats")
            .variable("NATS_URL", &url)
            .set(&format!("data.directory={}", folder.path().join("data").display()))
    };
    let server = start().run();
    eventually("the stream is there", || (get(server.gateway(), "/ready").status == 200).then_some(()));
    // They say that they are events, and are none.
    on_runtime(async {
        let context = async_nats::jetstream::new(async_nats::connect(&url).await.unwrap());
        for id in ["x", "y", "z"] {
            let body = json!({"id": id, "payload": "e30=", "metadata": {"schema": "analytics.Event"}});
            context.publish("diplom.messages", body.to_string().into()).await.unwrap().await.unwrap();
        }
    });
    eventually("they are given up", || {
        (get(server.processor(), "/stats").json()["consumer"]["failed_events"] == 3).then_some(())
    });
    let asked = consumer_stats(&server);
    assert_eq!((asked.processed_events, asked.failed_events), (0, 3));
    let stats = get(server.processor(), "/stats").json();
    assert_eq!(
        (&stats["pool"]["errors"], &stats["queue"]["TotalEnqueued"]),
        (&3.into(), &3.into()),
        "{stats}"
    );
    let has = |server: &Server, line: &str| {
        let page = get(server.gateway(), "/metrics");
        assert!(page.text().lines().any(|found| found == line), "{line} in {}", page.text());
    };
    has(&server, r#"events_processed_total{service="consumer",event_type="other",status="error"} 3"#);
    has(&server, "tidegate_dead_letters_total 3");
    let mut told: Vec<String> = (0..3)
        .map(|_| server.wait_for_message("a message is a dead letter")["id"].as_str().unwrap().to_owned())
        .collect();
    told.sort();
    assert_eq!(told, ["x", "y", "z"]);
    assert_eq!(server.stop().failed, 3);
    // They are still there in the next run.
    let server = start().run();
    has(&server, "tidegate_dead_letters_total 3");
    has(&server, r#"events_processed_total{service="consumer",event_type="other",status="error"} 0"#);
}
