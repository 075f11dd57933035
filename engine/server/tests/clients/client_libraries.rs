//! Our own client libraries, in front of the real server.

use std::{net::SocketAddr, process::Command};

use tidegate_client::{
    AckLevel, BatchConfig, Batcher, CallOptions, Client, Code, Config, Fate,
    proto::{
        analytics::v1::{
            Event, EventType, FunnelStep, GetAnalyticsSummaryRequest, GetFunnelAnalysisRequest,
            GetTimeSeriesRequest, GetUserAnalyticsRequest, stream_events_response::Response,
        },
        diplom::v1::IngestRequest,
    },
};

use crate::harness::{Server, Start, eventually, get, on_runtime, root, tool};

/// Runs go in a folder of the repository; standard output and standard error.
#[track_caller]
fn go(folder: &str, arguments: &[&str], server: Option<SocketAddr>) -> Option<(String, String)> {
    let output = Command::new(tool("go")?)
        .args(arguments)
        .current_dir(root().join(folder))
        .envs(server.map(|address| ("TIDEGATE_ADDRESS", address.to_string())))
        .env("GOFLAGS", "-mod=readonly")
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let (stdout, stderr) = (text(output.stdout), text(output.stderr));
    assert!(output.status.success(), "go {arguments:?}: {}\n{stdout}{stderr}", output.status);
    Some((stdout, stderr))
}

#[test]
fn a11_the_go_sample_says_the_id_of_an_event_that_is_stored() {
    let server = Server::start();
    let Some((_, said)) = go("clients/go", &["run", "./examples/readme"], Some(server.grpc())) else {
        return;
    };
    let (_, id) = said.trim().rsplit_once("Event ingested: ").unwrap_or_else(|| panic!("{said}"));
    assert!(uuid::Uuid::parse_str(id).is_ok(), "{id}");
    server.settled();
    let user = get(server.gateway(), "/v1/analytics/users/user-123?include_events=true").json();
    assert_eq!(
        (&user["events"][0]["id"], user["events"].as_array().unwrap().len()),
        (&id.into(), 1),
        "{user}"
    );
}

#[test]
fn the_go_example_sends_an_event_a_batch_and_a_stream() {
    let server = Server::start();
    let Some((said, _)) = go(".", &["run", "examples/grpc_client/main.go"], Some(server.grpc())) else {
        return;
    };
    assert!(said.contains("a batch:    2 stored, 1 not\n"), "{said}");
    assert!(said.contains("events[2].event_type: expected EVENT_TYPE_USER"), "{said}");
    assert!(said.contains("a stream:   10 stored\n"), "{said}");
    assert_eq!(server.settled(), 13);
    let summary = get(server.gateway(), "/v1/analytics/summary").json();
    assert_eq!((&summary["totalEvents"], &summary["uniqueUsers"]), (&"13".into(), &"1".into()));
}

#[test]
fn the_go_clients_own_tests_pass() {
    go("clients/go", &["test", "./..."], None);
}

fn client(server: &Server) -> Client {
    Client::new(Config::new(format!("http://{}", server.grpc()))).unwrap()
}

fn event(user: &str, id: &str) -> Event {
    Event {
        id: id.to_owned(),
        user_id: user.to_owned(),
        event_type: EventType::User.into(),
        ..Event::default()
    }
}

#[test]
fn the_rust_client_sends_messages_and_says_what_level_they_reached() {
    let server = Start::new().set("queue.type=log").run();
    on_runtime(async {
        let client = client(&server);
        let durably = CallOptions::new().ack(AckLevel::Durable).idempotency_key("order-17");
        let first = client.ingest("shop", "an order", [("kind", "order")], &durably).await.unwrap();
        assert_eq!((first.message.message_id.as_str(), first.ack), ("order-17", Some(AckLevel::Durable)));
        assert!(first.place.is_some() && first.timing.connect.is_some(), "{:?}", first.timing);
        let again = client.ingest("shop", "an order", [("kind", "order")], &durably).await.unwrap();
        assert_eq!(again.place, first.place);

        let none: [(&str, &str); 0] = [];
        let queued = client.ingest("shop", "another", none, &CallOptions::new()).await.unwrap();
        assert!(uuid::Uuid::parse_str(&queued.message.message_id).is_ok());
        let too_much = CallOptions::new().ack(AckLevel::Delivered);
        let refused = client.ingest("shop", "x", none, &too_much).await.unwrap_err();
        assert_eq!(refused.status().unwrap().code(), Code::FailedPrecondition);

        let request = IngestRequest { source: "shop".into(), ..IngestRequest::default() };
        let stream = tokio_stream::iter(vec![request; 50]);
        let answer = client.ingest_stream(stream, &CallOptions::new()).await.unwrap();
        assert_eq!(answer.message.message_id, "batch-50");
    });
    // The repeat is accepted and not worked on.
    eventually("52 are worked on", || {
        (get(server.processor(), "/stats").json()["pool"]["processed"] == 52).then_some(())
    });
}

#[test]
fn the_rust_client_sends_events_and_asks_what_came_of_them() {
    let server = Server::start();
    let options = CallOptions::new();
    on_runtime(async {
        let client = client(&server);
        let answer =
            client.ingest_event(event("ada", "e-1"), &options.clone().request_id("r-7")).await.unwrap();
        assert_eq!((answer.message.event_id.as_str(), answer.request_id.as_deref()), ("e-1", Some("r-7")));
        let answer =
            client.ingest_events(vec![event("ada", ""), event("", "")], &options).await.unwrap().message;
        assert_eq!((answer.processed_count, answer.failed_count), (1, 1));
        let wrong = client.ingest_event(event("", ""), &options).await.unwrap_err();
        assert_eq!(wrong.status().unwrap().code(), Code::InvalidArgument);

        let events = tokio_stream::iter((0..10).map(|n| event("bob", &format!("s-{n}"))));
        let mut answers = client.stream_events(events, &options).await.unwrap().message;
        let mut stored = 0;
        while let Some(answer) = answers.message().await.unwrap() {
            if let Some(Response::EventResponse(response)) = answer.response {
                assert_eq!(response.event_id, format!("s-{stored}"));
                stored += 1;
            }
        }
        assert_eq!(stored, 10);
    });
    assert_eq!(server.settled(), 12);
    on_runtime(async {
        let client = client(&server);
        let summary = client.summary(GetAnalyticsSummaryRequest::default(), &options).await.unwrap().message;
        assert_eq!((summary.total_events, summary.unique_users), (12, 2));
        let of = GetUserAnalyticsRequest { user_id: "bob".into(), ..Default::default() };
        assert_eq!(client.user(of, &options).await.unwrap().message.user_profile.unwrap().total_events, 10);
        let unknown = GetUserAnalyticsRequest { user_id: "nobody".into(), ..Default::default() };
        let unknown = client.user(unknown, &options).await.unwrap_err();
        assert_eq!(unknown.status().unwrap().code(), Code::NotFound);
        let range = summary.metadata.unwrap().time_range;
        let metric = "events".to_owned();
        let series = GetTimeSeriesRequest { time_range: range, metric, ..Default::default() };
        let series = client.time_series(series, &options).await.unwrap().message.series;
        assert_eq!(series.iter().map(|point| point.value).sum::<f64>(), 12.0);
        let step = FunnelStep { event_type: "USER".into(), ..Default::default() };
        let funnel = GetFunnelAnalysisRequest {
            steps: vec![step.clone(), step],
            time_range: range,
            ..Default::default()
        };
        let funnel = client.funnel(funnel, &options).await.unwrap().message.steps;
        assert_eq!((funnel[0].users, funnel[1].users), (2, 2));
    });
}

#[test]
fn the_batcher_says_of_each_event_what_became_of_it() {
    let server = Server::start();
    on_runtime(async {
        let config = BatchConfig { events_max: 100, ..BatchConfig::default() };
        let batcher = Batcher::new(client(&server), config).unwrap();
        let mut receipts = Vec::new();
        for n in 0..1000 {
            let user = if n % 10 == 3 { "" } else { "ada" };
            receipts.push((n, batcher.send(event(user, &format!("e-{n}"))).await.unwrap()));
        }
        batcher.close().await.unwrap();
        for (n, receipt) in receipts {
            match receipt.fate().await.unwrap() {
                Fate::Stored { id } => assert!(n % 10 != 3 && id == format!("e-{n}"), "{id}"),
                Fate::NotTaken { id, errors } => {
                    assert!(n % 10 == 3 && id == format!("e-{n}"), "{id}");
                    assert!(errors.len() == 1 && errors[0].field.ends_with("].user_id"), "{errors:?}");
                }
                other => panic!("{other:?}"),
            }
        }
    });
    assert_eq!(server.settled(), 900);
}
