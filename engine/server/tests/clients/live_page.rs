//! The live page: who gets it, what its stream says, and what a browser shows of it.

use std::{
    io::{BufRead, BufReader},
    panic::{self, AssertUnwindSafe},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc::{self, Receiver},
    },
    thread,
    time::Instant,
};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::{Answer, PATIENCE, Peer, Server, Start, eventually, post_json, tool};

const HTML: &str = "text/html,application/xhtml+xml,*/*;q=0.8";

fn ask(server: &Server, method: &str, path: &str, fields: &str) -> Answer {
    let mut peer = Peer::connect(server.gateway());
    peer.send(format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{fields}\r\n"));
    peer.answer(method == "HEAD").unwrap()
}

fn send_messages(server: &Server, count: usize) {
    for _ in 0..count {
        assert_eq!(post_json(server.gateway(), "/ingest", r#"{"data":"x"}"#).status, 200);
    }
}

fn send_event(server: &Server, user: &str, event_type: &str, plan: &str) {
    let event = json!({
        "user_id": user, "event_type": event_type, "source": "web", "properties": {"plan": plan},
    });
    let answer = post_json(server.gateway(), "/v1/events", &event.to_string());
    assert_eq!(answer.status, 200, "{}", answer.text());
}

/// curl at the stream; ended when it is dropped.
pub(crate) struct Watching {
    child: Child,
    lines: Receiver<String>,
}

impl Watching {
    pub(crate) fn start(server: &Server, arguments: &[&str]) -> Option<Self> {
        Self::stream(server, "/live/events", arguments)
    }

    /// At another stream than that of samples.
    pub(crate) fn stream(server: &Server, path: &str, arguments: &[&str]) -> Option<Self> {
        let mut child = Command::new(tool("curl")?)
            .args(["--silent", "--show-error", "--noproxy", "*", "--no-buffer", "--max-time", "60"])
            .args(arguments)
            .arg(server.url(path))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (sender, lines) = mpsc::channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Some(Self { child, lines })
    }

    /// The next line; `None` at the end of the stream.
    #[track_caller]
    fn line(&self) -> Option<String> {
        match self.lines.recv_timeout(PATIENCE) {
            Ok(line) => Some(line),
            Err(mpsc::RecvTimeoutError::Disconnected) => None,
            Err(mpsc::RecvTimeoutError::Timeout) => panic!("the stream stands still"),
        }
    }

    /// The lines that have come since they were last asked for.
    pub(crate) fn heard(&self) -> Vec<String> {
        self.lines.try_iter().collect()
    }

    /// Reads on to the first event of this name that meets a condition: its id and its data.
    #[track_caller]
    pub(crate) fn until(&self, name: &str, meets: impl Fn(&Value) -> bool) -> (String, Value) {
        let deadline = Instant::now() + PATIENCE;
        let (mut id, mut event) = (String::new(), String::new());
        while Instant::now() < deadline {
            let line = self.line().unwrap_or_else(|| panic!("the stream ends before such a {name}"));
            let (field, value) = line.split_once(": ").unwrap_or_default();
            match field {
                "id" => id = value.to_owned(),
                "event" => event = value.to_owned(),
                "data" if event == name => {
                    let data: Value = serde_json::from_str(value).unwrap();
                    if meets(&data) {
                        return (id, data);
                    }
                }
                _ => {}
            }
        }
        panic!("no {name} as it should be");
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        // Already ended is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn sum(list: &Value) -> u64 {
    list.as_array().unwrap().iter().map(|number| number.as_u64().unwrap()).sum()
}

#[test]
fn a_browser_gets_the_page_and_everybody_else_what_they_always_got() {
    let server = Server::start();
    let page = ask(&server, "GET", "/", &format!("Accept: {HTML}\r\n"));
    assert_eq!((page.status, page.field("content-type")), (200, Some("text/html; charset=utf-8")));
    let policy = page.field("content-security-policy").unwrap();
    assert!(policy.contains("default-src 'self'") && !policy.contains("unsafe"), "{policy}");
    // No script and no style in the markup: the policy would stop them.
    let text = page.text();
    assert!(!text.contains("<script>") && !text.contains("style=") && !text.contains(" onclick"), "{text}");
    for (method, fields) in [
        ("GET", ""),
        ("GET", "Accept: */*\r\n"),
        ("GET", "Accept: application/json\r\n"),
        ("POST", "Accept: text/html\r\nContent-Length: 0\r\n"),
    ] {
        let answer = ask(&server, method, "/", fields);
        assert_eq!((answer.status, answer.text()), (404, "404 page not found\n"), "{method} {fields}");
    }
    assert_eq!(ask(&server, "HEAD", "/", "Accept: text/html\r\n").status, 200);
    let named: Vec<&str> = text.split(['"', '\'']).filter_map(|part| part.strip_prefix("/live/")).collect();
    assert!(named.len() >= 4, "{named:?}");
    for name in named {
        let file = ask(&server, "GET", &format!("/live/{name}"), "Accept-Encoding: gzip\r\n");
        assert_eq!((file.status, file.field("content-encoding")), (200, Some("gzip")), "{name}");
        let condition =
            format!("Accept-Encoding: gzip\r\nIf-None-Match: {}\r\n", file.field("etag").unwrap());
        assert_eq!(ask(&server, "GET", &format!("/live/{name}"), &condition).status, 304, "{name}");
    }
    for path in ["/live/index.html", "/live/nothing.js", "/live/%2e%2e%2fmod.rs", "/live", "/live/"] {
        assert_eq!(ask(&server, "GET", path, "").status, 404, "{path}");
    }
}

#[test]
fn the_stream_counts_what_was_sent_over_both_versions_of_http() {
    let server = Server::start();
    send_messages(&server, 7);
    let mut sent = 7;
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        let Some(watching) = Watching::start(&server, &[version]) else { return };
        let (_, hello) = watching.until("hello", |_| true);
        let (_, before) = watching.until("sample", |sample| sample["processed"] == sent);
        assert_eq!(hello["cores"], before["cores"]["accepted"].as_array().unwrap().len());
        assert_eq!(sum(&before["cores"]["accepted"]), sent);
        let answers = &hello["latencies"][0];
        assert_eq!(answers[0], "answer");
        assert_eq!(
            answers[1].as_array().unwrap().len() + 1,
            before["latencies"]["answer"].as_array().unwrap().len()
        );
        send_messages(&server, 5);
        send_event(&server, "u", "EVENT_TYPE_USER", "free");
        sent += 6;
        let (id, after) = watching.until("sample", |sample| sample["processed"] == sent);
        assert_eq!((&after["accepted"], &after["received"]), (&sent.into(), &sent.into()));
        assert_eq!((&after["refused"], &after["queued"]), (&0.into(), &0.into()));
        assert_eq!(after["refusals"]["invalid"], 0);
        let gained = |of: &str| sum(&after["latencies"][of]) - sum(&before["latencies"][of]);
        assert!(gained("answer") >= 5, "{before} {after}");
        let (_, present) = watching
            .until("present", |present| !present["events"]["by_type"]["top"].as_array().unwrap().is_empty());
        assert_eq!(present["events"]["by_type"]["top"][0][0], "EVENT_TYPE_USER");
        assert_eq!(present["events"]["by_source"]["top"][0][0], "web");
        assert_eq!(present["levels"][0]["state"], "honoured");
        assert_eq!(present["levels"][1]["state"], "not with these settings");
        // Who comes again gets what it has not seen.
        let seen = format!("last-event-id: {id}");
        let Some(again) = Watching::start(&server, &[version, "--header", &seen]) else { return };
        let number = |id: &str| id.split_once('-').unwrap().1.parse::<u64>().unwrap();
        assert!(number(&again.until("sample", |_| true).0) > number(&id));
        // And who comes anew, everything there is.
        let Some(anew) = Watching::start(&server, &[version]) else { return };
        assert_eq!(number(&anew.until("sample", |_| true).0), 1);
    }
}

#[test]
fn a_log_shows_as_a_sink_with_its_lag() {
    let server = Start::new().set("queue.type=log").run();
    send_messages(&server, 3);
    server.settled();
    let Some(watching) = Watching::start(&server, &[]) else { return };
    // What was read while the messages were on their way comes first.
    let (_, sample) = watching.until("sample", |sample| sample["processed"] == 3);
    let names: Vec<&str> =
        sample["sinks"].as_array().unwrap().iter().map(|sink| sink["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["log", "workers"]);
    assert_eq!((&sample["sinks"][0]["done"], &sample["sinks"][1]["done"]), (&3.into(), &3.into()));
    assert_eq!(sample["sinks"][1]["lag"], 0);
    watching.until("present", |present| present["states"]["workers"]["state"] == "idle");
    assert!(sum(&sample["latencies"]["log"]) >= 1, "{sample}");
    let (_, present) = watching.until("present", |_| true);
    assert_eq!(
        (&present["states"]["log"]["state"], &present["levels"][1]["state"]),
        (&"writing".into(), &"honoured".into())
    );
}

#[test]
fn with_keys_the_stream_asks_for_one_and_the_page_does_not() {
    let server = Start::new().variable("API_KEYS", "secret").run();
    assert_eq!(ask(&server, "GET", "/", "Accept: text/html\r\n").status, 200);
    for fields in ["", "x-api-key: wrong\r\n"] {
        let answer = ask(&server, "GET", "/live/events", fields);
        assert_eq!((answer.status, &answer.json()["code"]), (401, &16.into()), "{fields}");
    }
    let Some(watching) = Watching::start(&server, &["--header", "x-api-key: secret"]) else { return };
    watching.until("sample", |_| true);
}

#[test]
fn one_viewer_too_many_is_told_so_and_a_place_is_given_back() {
    let server = Start::new().set("live.viewers_max=2").run();
    let Some(first) = Watching::start(&server, &[]) else { return };
    let Some(second) = Watching::start(&server, &["--http2-prior-knowledge"]) else { return };
    for watching in [&first, &second] {
        watching.until("sample", |_| true);
    }
    let refused = ask(&server, "GET", "/live/events", "");
    assert_eq!((refused.status, refused.field("retry-after")), (503, Some("5")));
    assert!(refused.text().contains("live.viewers_max"), "{}", refused.text());
    for leaving in [first, second] {
        drop(leaving);
        eventually("there is a place", || {
            let mut third = Peer::connect(server.gateway());
            third.send("GET /live/events HTTP/1.1\r\nHost: localhost\r\n\r\n");
            (third.answer(true)?.status == 200).then_some(())
        });
    }
    let server = Start::new().set("live.viewers_max=0").run();
    for path in ["/", "/live/events", "/live/main.js"] {
        assert_eq!(ask(&server, "GET", path, &format!("Accept: {HTML}\r\n")).status, 404, "{path}");
    }
}

#[test]
fn a_shutdown_ends_the_streams_with_a_word_and_cuts_nothing() {
    let server = Server::start();
    let watchers: Vec<Watching> = ["--http1.1", "--http2-prior-knowledge"]
        .iter()
        .filter_map(|version| Watching::start(&server, &[version]))
        .collect();
    for watching in &watchers {
        watching.until("sample", |_| true);
    }
    server.signal(Signal::TERM);
    for watching in &watchers {
        watching.until("ending", |why| why == "the server is shutting down");
        while let Some(line) = watching.line() {
            assert_eq!(line, "", "nothing comes behind the end");
        }
    }
    assert_eq!(server.wait_for_message("stopped")["connections_cut"], 0);
}

/// A browser that carries a plan out; see `tools/clients/browser/live_page.mjs`.
pub(crate) struct Browser {
    child: Child,
    reports: BufReader<std::process::ChildStdout>,
}

impl Browser {
    pub(crate) fn start(server: &Server, mut plan: Value) -> Option<Self> {
        let (node, chromium, modules) = (tool("node")?, tool("chromium")?, tool("playwright-core")?);
        plan["url"] = server.url("/").into();
        plan["chromium"] = chromium.to_str().into();
        plan["modules"] = modules.parent()?.to_str().into();
        let script =
            PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tools/clients/browser/live_page.mjs");
        let mut child =
            Command::new(node).arg(script).arg(plan.to_string()).stdout(Stdio::piped()).spawn().unwrap();
        let reports = BufReader::new(child.stdout.take().unwrap());
        Some(Self { child, reports })
    }

    /// The next report: of a width, or of the end.
    #[track_caller]
    pub(crate) fn report(&mut self) -> Value {
        let mut line = String::new();
        self.reports.read_line(&mut line).unwrap();
        assert!(!line.is_empty(), "the browser's script has failed: see what it wrote above");
        serde_json::from_str(&line).unwrap()
    }

    /// What both widths show; that nothing is wrong with either is seen to.
    #[track_caller]
    pub(crate) fn looks(&mut self) -> [Value; 2] {
        [400, 1280].map(|width| self.look(width))
    }

    /// What the next width shows.
    #[track_caller]
    pub(crate) fn look(&mut self, width: u32) -> Value {
        let report = self.report();
        assert_eq!(report["width"], width);
        for list in ["complaints", "elsewhere", "unnamed"] {
            assert_eq!(report[list], json!([]), "{list} at {width}: {report}");
        }
        assert!(report["overflow"].as_i64() <= Some(0), "wider than the window at {width}: {report}");
        report
    }

    #[track_caller]
    pub(crate) fn end(mut self) {
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The script ends its browser when it is asked to end.
        let _ = rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), Signal::TERM);
        let _ = self.child.wait();
    }
}

#[test]
fn a_browser_shows_what_was_sent_at_400_and_at_1280_pixels() {
    let server = Server::start();
    let Some(mut browser) = Browser::start(&server, json!({})) else { return };
    let mut command = String::new();
    for report in browser.looks() {
        // Nothing has come yet: the page says how to send something.
        assert_eq!((&report["start"], &report["types"]), (&true.into(), &json!([])));
        command = report["command"].as_str().unwrap().to_owned();
    }
    browser.end();
    // Its line works as it stands there.
    let sent =
        Command::new("sh").args(["-c", &format!("{command} --silent --noproxy '*'")]).output().unwrap();
    assert!(String::from_utf8_lossy(&sent.stdout).contains("queued"), "{command}: {sent:?}");
    send_messages(&server, 12);
    for user in 0..6 {
        send_event(&server, &format!("u-{user}"), "EVENT_TYPE_USER", "free");
    }
    for user in 0..3 {
        send_event(&server, &format!("u-{user}"), "EVENT_TYPE_TRANSACTION", "paid");
    }
    server.settled();
    let steps = json!([
        {"type": "EVENT_TYPE_USER"},
        {"type": "EVENT_TYPE_TRANSACTION", "property": "plan", "value": "paid"},
    ]);
    let texts = json!({"accepted-total": "22", "processed-total": "22", "event-types": "EVENT_TYPE_USER"});
    let plan = json!({
        "verdict": "good", "texts": texts, "funnel": steps, "unknown": "EVENT_TYPE_USRE", "ending": true,
    });
    let Some(mut browser) = Browser::start(&server, plan) else { return };
    let hour = |offset: i64| {
        let at = std::time::SystemTime::now();
        let at = if offset < 0 { at - PATIENCE * 120 } else { at + PATIENCE };
        humantime::format_rfc3339_millis(at).to_string()
    };
    let request = json!({
        "steps": [
            {"name": "a", "event_type": "EVENT_TYPE_USER"},
            {"name": "b", "event_type": "EVENT_TYPE_TRANSACTION", "filters": {"properties.plan": "paid"}},
        ],
        "time_range": {"start": hour(-1), "end": hour(1)},
    });
    let told = post_json(server.gateway(), "/v1/analytics/funnel", &request.to_string()).json();
    assert_eq!((&told["steps"][0]["users"], &told["steps"][1]["users"]), (&"6".into(), &"3".into()));
    for report in browser.looks() {
        assert_eq!(report["start"], false);
        assert_eq!(report["types"], json!([["EVENT_TYPE_USER", "6"], ["EVENT_TYPE_TRANSACTION", "3"]]));
        assert_eq!((&report["status"], &report["reason"]), (&"good".into(), &"".into()));
        assert_eq!(report["workers"], json!(["idle"]));
        let types = ["EVENT_TYPE_USER", "EVENT_TYPE_TRANSACTION"];
        assert_eq!(report["offered"], json!({"types": types, "chosen": types[0]}));
        assert_eq!(report["funnel"], json!({"users": ["6 users", "3 users"], "overall": "50 %"}));
    }
    server.signal(Signal::TERM);
    assert!(browser.report()["status"].as_str().unwrap().contains("shutting down"));
    browser.end();
    assert_eq!(server.wait_for_message("stopped")["connections_cut"], 0);
}

#[test]
fn a_browser_asks_for_the_key_and_goes_on_with_it() {
    let server = Start::new().variable("API_KEYS", "secret").run();
    let Some(mut browser) = Browser::start(&server, json!({"key": "secret"})) else { return };
    browser.looks();
    browser.end();
}

#[test]
fn who_is_turned_away_because_a_broker_is_away_is_counted_and_the_sink_says_why() {
    // Nobody listens on port 1.
    let server = Start::new().set("queue.type=nats").set("nats.url=nats://127.0.0.1:1").run();
    let Some(watching) = Watching::start(&server, &[]) else { return };
    watching.until("present", |present| present["levels"][2]["state"] == "refused now");
    assert_eq!(post_json(server.gateway(), "/ingest", r#"{"data":"x"}"#).status, 503);
    watching.until("sample", |sample| sample["refusals"]["unavailable"] == 1);
    watching.until("present", |present| {
        let verdict = &present["verdict"];
        verdict["state"] == "refusing" && verdict["reason"].as_str().is_some_and(|why| why.contains("nats"))
    });
    let (_, present) =
        watching.until("present", |present| present["states"]["nats"]["state"] == "out of reach");
    assert!(present["states"]["nats"]["reason"].as_str().is_some(), "{present}");
}

#[test]
fn a_server_that_turns_requests_away_says_so_at_the_top() {
    // A broker that is never there: whoever asks for `queued` is served until the queue is full.
    let server = Start::new()
        .set("queue.type=nats")
        .set("nats.url=nats://127.0.0.1:1")
        .set("queue.size=8")
        .set("ack.default=queued")
        .run();
    let Some(watching) = Watching::start(&server, &[]) else { return };
    let verdict = |state: &str, why: &str| {
        let (_, present) = watching.until("present", |present| present["verdict"]["state"] == state);
        let reason = present["verdict"]["reason"].as_str().unwrap();
        assert!(reason.contains(why), "{reason}");
    };
    verdict("degraded", "nats: ");
    let gateway = server.gateway();
    let overload = move || {
        let statuses: Vec<u16> =
            (0..40).map(|_| post_json(gateway, "/ingest", r#"{"data":"x"}"#).status).collect();
        assert!(statuses.iter().filter(|status| **status == 503).count() >= 30, "{statuses:?}");
    };
    overload();
    verdict("refusing", "queue.size");
    watching.until("present", |present| present["states"]["workers"]["state"] == "nothing to read from");
    if let Some(mut browser) = Browser::start(&server, json!({"verdict": "refusing"})) {
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            // However long a browser takes to come: it is of the last seconds.
            scope.spawn(|| {
                while !is_over.load(Relaxed) {
                    overload();
                    thread::sleep(PATIENCE / 60);
                }
            });
            let reports = panic::catch_unwind(AssertUnwindSafe(|| browser.looks()));
            is_over.store(true, Relaxed);
            for report in reports.unwrap() {
                assert_eq!(report["status"], "refusing");
                assert!(report["charts"].as_array().unwrap().contains(&"unavailable".into()), "{report}");
                assert!(report["reason"].as_str().unwrap().contains("queue.size"), "{report}");
            }
        });
        browser.end();
    }
    // It is of the last seconds: when nobody sends any more, what is left is the broker.
    verdict("degraded", "nats: ");
}

#[test]
fn what_happened_before_anybody_watched_is_in_the_history() {
    let server = Server::start();
    let number = |id: &str| id.split_once('-').unwrap().1.parse::<u64>().unwrap();
    // Whoever comes knows from the first sample's number and time that it was read without a viewer.
    send_messages(&server, 3);
    let before = Instant::now();
    eventually("a second has passed in which nobody watched", || {
        (before.elapsed().as_millis() > 1_500).then_some(())
    });
    let opened_ms = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis();
    let Some(watching) = Watching::start(&server, &[]) else { return };
    let (_, hello) = watching.until("hello", |_| true);
    assert_eq!(hello["history_seconds"], 3600);
    let (id, sample) = watching.until("sample", |sample| sample["processed"] == 3);
    assert!(number(&id) >= 1 && u128::from(sample["at_ms"].as_u64().unwrap()) < opened_ms, "{sample}");
    // The page names what a sample may be large.
    assert!(sample.to_string().len() < 2_000, "{} bytes", sample.to_string().len());
}
