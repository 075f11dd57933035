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

use crate::harness::{Scratch, Server, Start, eventually, get, on_runtime, root, tool};

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

#[test]
fn a_restart_shorter_than_the_budget_loses_no_event_of_a_batcher() {
    const EVENTS: u64 = 4_000;
    let folder = Scratch::new();
    let data = format!("data.directory={}", folder.path().join("data").display());
    let server = Start::new().set("queue.type=log").set(&data).run();
    let address = server.grpc();
    on_runtime(async {
        let to = || Config::new(format!("http://{address}"));
        let config = BatchConfig { events_max: 50, queue_events: 100, ..BatchConfig::default() };
        let batcher = Batcher::new(Client::new(to()).unwrap(), config).unwrap();
        let mut receipts = Vec::new();
        for n in 0..EVENTS / 2 {
            receipts.push(batcher.send(event("ada", &format!("e-{n}"))).await.unwrap());
        }
        // Killed in the middle; nobody answers for longer than a few quick retries last.
        drop(server);
        let sending = tokio::spawn(async move {
            for n in EVENTS / 2..EVENTS {
                receipts.push(batcher.send(event("ada", &format!("e-{n}"))).await.unwrap());
            }
            batcher.close().await.unwrap();
            let mut lost = Vec::new();
            for receipt in receipts {
                match receipt.fate().await.unwrap() {
                    Fate::Stored { .. } => {}
                    other => lost.push(other),
                }
            }
            lost
        });
        let impatient = Client::new(to().retries_max(3)).unwrap();
        for _ in 0..4 {
            let refused = impatient.ingest_event(event("ada", ""), &CallOptions::new()).await.unwrap_err();
            assert!(refused.to_string().contains(&address.to_string()), "{refused}");
        }
        let server =
            Start::new().set("queue.type=log").set(&data).set(&format!("listen.grpc={address}")).run();
        let lost = sending.await.unwrap();
        assert!(lost.is_empty(), "{} of {EVENTS}, the first: {:?}", lost.len(), lost[0]);
        eventually("each event is counted once", || {
            let user = get(server.gateway(), "/v1/analytics/users/ada").json();
            (user["userProfile"]["totalEvents"] == EVENTS).then_some(())
        });
    });
}

#[path = "../../../../clients/rust/examples/start.rs"]
mod start;

#[test]
fn the_pages_of_the_clients_begin_with_lines_that_run() {
    let read = |path: &str| std::fs::read_to_string(root().join(path)).unwrap();
    // What stands between the head and the end of a program.
    let lines = |path: &str, from: &str, to: &str| {
        let program = read(path);
        let program = &program[program.find(from).unwrap()..];
        program[..program.find(to).unwrap()].trim_end().to_owned()
    };
    let rust = lines("clients/rust/examples/start.rs", "use futures_util", "#[allow(dead_code");
    let go_lines = lines("clients/go/examples/start/main.go", "import (", "func main()");
    for (page, program) in [
        ("clients/rust/README.md", &rust),
        ("docs/clients.md", &rust),
        ("clients/go/README.md", &go_lines),
        ("docs/clients.md", &go_lines),
    ] {
        assert!(read(page).contains(program.as_str()), "{page} has other lines than the program");
    }
    let server = Server::start();
    on_runtime(async { start::send(&format!("http://{}", server.grpc())).await.unwrap() });
    assert_eq!(server.settled(), 5);
    let Some((said, _)) = go("clients/go", &["run", "./examples/start"], Some(server.grpc())) else { return };
    assert!(said.contains("\n2 stored, 0 not\n") && said.contains("end of stream: 2 events"), "{said}");
    assert_eq!(server.settled(), 10);
}
