//! What the process says of itself while a broker is there, frozen, gone and back. The rows of docs/health.md are what
//! this test saw.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    process::{Command, Stdio},
    time::Instant,
};

use ledger::process::Process;
use tonic::{Request, transport::Endpoint};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::{
    brokers::{can_be_had, kafka, nats},
    harness::{Answer, Peer, Scratch, Server, Start, eventually, get, on_runtime, root, tool},
    live_page::Watching,
};

/// A word for a status and what the body calls it.
fn health(answer: &Answer) -> String {
    let body = answer.json();
    assert_eq!(body["healthy"], answer.status == 200, "{body}");
    format!("{} {}", answer.status, body["status"].as_str().unwrap())
}

async fn serving(server: &Server, service: &str) -> &'static str {
    let channel =
        Endpoint::from_shared(format!("http://{}", server.grpc())).unwrap().connect().await.unwrap();
    let request = Request::new(HealthCheckRequest { service: service.to_owned() });
    match HealthClient::new(channel).check(request).await.unwrap().into_inner().status() {
        ServingStatus::Serving => "SERVING",
        _ => "NOT_SERVING",
    }
}

/// Everything it says, as a row of the docs, when all surfaces agree: some are brought up to date every tenth or quarter
/// of a second.
fn row(server: &Server, queue: &str, dependency: &str) -> String {
    eventually("all surfaces agree", || one_row(server, queue, dependency))
}

/// `None` while they do not agree.
fn one_row(server: &Server, queue: &str, dependency: &str) -> Option<String> {
    let status = get(server.gateway(), "/api/v1/status").json();
    let part = |name: &str| if status[name]["healthy"] == true { "true" } else { "false" };
    let (all, consumer, analytics) = on_runtime(async {
        (
            serving(server, "").await,
            serving(server, "analytics.ConsumerService").await,
            serving(server, "analytics.AnalyticsService").await,
        )
    });
    let ready = get(server.gateway(), "/ready").status;
    let (gateway, ingest) = (get(server.gateway(), "/health"), get(server.ingest(), "/health"));
    let takes_messages =
        [gateway.status == 200, ingest.status == 200, all == "SERVING", part("ingest") == "true"];
    let works = [consumer == "SERVING", part("processor") == "true"];
    if takes_messages.iter().any(|takes| *takes != (ready == 200)) || works[0] != works[1] {
        return None;
    }
    Some(format!(
        "| {queue} | {dependency} | {} | {} | {} | {} | {} | {} | {all} | {consumer} | {analytics} | {} / {} |",
        get(server.gateway(), "/livez").status,
        ready,
        health(&gateway),
        health(&ingest),
        health(&get(server.processor(), "/health")),
        health(&get(server.addresses("analytics")[0], "/health")),
        part("ingest"),
        part("processor"),
    ))
}

/// What `/ready` says of a place.
fn check(server: &Server, place: &str) -> String {
    get(server.gateway(), "/ready").json()["checks"][place].as_str().unwrap_or_default().to_owned()
}

#[track_caller]
fn eventually_reached(server: &Server, place: &str) {
    eventually("the broker is reached", || (check(server, place) == "ok").then_some(()));
}

/// Breaks a broker in both ways and brings it back; a row for each.
fn walk(server: &Server, queue: &str, place: &str, broker: &mut Process, rows: &mut Vec<(String, f64)>) {
    let mut note = |dependency: &str, since: Instant| {
        rows.push((row(server, queue, &format!("{place} {dependency}")), since.elapsed().as_secs_f64()));
    };
    eventually_reached(server, place);
    note("up", Instant::now());
    // Nothing flows, so nobody is refused: it has to be asked.
    broker.pause();
    let since = Instant::now();
    eventually("a frozen broker is noticed", || (check(server, place) != "ok").then_some(()));
    note("frozen", since);
    broker.resume();
    let since = Instant::now();
    eventually_reached(server, place);
    note("back", since);
    broker.kill();
    let since = Instant::now();
    eventually("a broker that is gone is noticed", || (check(server, place) != "ok").then_some(()));
    note("gone", since);
    broker.again().unwrap();
    broker.wait().unwrap();
    let since = Instant::now();
    eventually_reached(server, place);
    note("back", since);
}

#[test]
fn every_surface_says_how_the_brokers_are() {
    if !can_be_had() {
        return;
    }
    let mut rows = Vec::new();
    for queue in ["memory", "log"] {
        let folder = Scratch::new();
        let mut start = Start::new().variable("QUEUE_TYPE", queue);
        if queue == "log" {
            start = start.set(&format!("data.directory={}", folder.path().join("data").display()));
        }
        rows.push((row(&start.run(), queue, "none"), 0.0));
    }
    let folder = Scratch::new();
    let (mut nats, url) = nats(&folder);
    let (mut kafka, brokers) = kafka(&folder);
    let start = |queue: &str| {
        Start::new()
            .variable("QUEUE_TYPE", queue)
            .variable("NATS_URL", &url)
            .variable("KAFKA_BROKERS", &brokers)
    };
    let outbox = |queue: &str, name: &str| {
        start(queue).set(&format!("data.directory={}", folder.path().join(name).display()))
    };
    walk(&start("nats").run(), "nats", "nats", &mut nats, &mut rows);
    walk(&outbox("nats", "n").run(), "nats with an outbox", "nats", &mut nats, &mut rows);
    walk(&start("kafka").run(), "kafka", "kafka", &mut kafka, &mut rows);
    walk(&outbox("kafka", "k").run(), "kafka with an outbox", "kafka", &mut kafka, &mut rows);
    for strategy in ["fail-fast", "best-effort"] {
        let server = start("composite").variable("COMPOSITE_STRATEGY", strategy).run();
        walk(&server, &format!("composite, {strategy}"), "kafka", &mut kafka, &mut rows);
        walk(&server, &format!("composite, {strategy}"), "nats", &mut nats, &mut rows);
    }
    let docs = fs::read_to_string(root().join("docs/health.md")).unwrap_or_default();
    let mut missing = 0;
    for (row, seconds) in &rows {
        println!("{row} {seconds:.1} |");
        missing += usize::from(!docs.lines().any(|line| line.starts_with(row.as_str())));
    }
    assert_eq!(missing, 0, "rows that docs/health.md does not have; all rows are printed above");
}

/// Stops one thread of a process, which a signal cannot: a tracer can. Goes on when its input ends.
const STOP_A_THREAD: &str = r#"
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
thread = int(sys.argv[1])
SEIZE, INTERRUPT, WALL = 0x4206, 0x4207, 0x40000000
for request in (SEIZE, INTERRUPT):
    if libc.ptrace(request, thread, None, None) != 0:
        sys.exit(f"ptrace: {os.strerror(ctypes.get_errno())}")
os.waitpid(thread, WALL)
print("stopped", flush=True)
sys.stdin.read()
"#;

#[test]
fn a_core_that_stands_still_fails_the_liveness_of_all_and_nothing_else_does() {
    let Some(python) = tool("python") else { return };
    let server = Start::new().argument("--cores").argument("2").run();
    let pid = server.process().as_raw_nonzero();
    let mut cores = Vec::new();
    for task in fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
        let task = task.unwrap().path();
        let name = fs::read_to_string(task.join("comm")).unwrap();
        if name.starts_with("core-") {
            cores.push((name.trim().to_owned(), task.file_name().unwrap().to_str().unwrap().to_owned()));
        }
    }
    if cores.len() < 2 {
        println!("skipped, because this machine has one core");
        return;
    }
    cores.sort();
    // Which core has a connection is the kernel's choice: some are opened before, and those that answer are kept.
    let mut peers: Vec<Peer> = (0..16).map(|_| Peer::connect(server.gateway())).collect();
    let ask = |peer: &mut Peer| {
        peer.send("GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n");
        peer.answer(false).unwrap()
    };
    for peer in &mut peers {
        assert_eq!(ask(peer).status, 200);
    }
    // As for viewers: those on the core that turns go on.
    let watchers: Vec<Watching> = (0..6).filter_map(|_| Watching::start(&server, &[])).collect();
    for watching in &watchers {
        watching.until("present", |present| present["verdict"]["state"] == "good");
    }
    let mut tracer = Command::new(python)
        .args(["-c", STOP_A_THREAD, &cores[1].1])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = String::new();
    BufReader::new(tracer.stdout.take().unwrap()).read_line(&mut said).unwrap();
    assert_eq!(said.trim(), "stopped");
    // The first that answers is on the core that turns.
    for peer in &mut peers {
        peer.send("GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n");
    }
    let place = eventually("one answers", || peers.iter().position(Peer::has_input));
    let mut peer = peers.swap_remove(place);
    peer.answer(false).unwrap();
    let answer = eventually("the core that stands still is noticed", || {
        let answer = ask(&mut peer);
        (answer.status == 503).then_some(answer)
    });
    assert_eq!(answer.json()["stalled_cores"], serde_json::json!([1]));
    if !watchers.is_empty() {
        eventually("the live page says so, too", || {
            let mut lines = watchers.iter().flat_map(Watching::heard);
            let told = lines.find(|line| line.contains("stands still"))?;
            assert!(told.contains(r#""state":"degraded""#) && told.contains("core 1 of 2"), "{told}");
            Some(())
        });
    }
    // Its input ends, it ends, and the thread goes on.
    tracer.stdin.take().unwrap().flush().unwrap();
    tracer.wait().unwrap();
    eventually("it turns again", || (ask(&mut peer).status == 200).then_some(()));
}
