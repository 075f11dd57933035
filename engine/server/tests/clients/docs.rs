//! The pages of `docs/`: every `sh` block that asks the server something is run, and answers what the page says.
//!
//! A block with `curl` or `grpcurl` is followed by a `json` or `text` block: what it prints, shortened. `…` stands for
//! anything; a JSON object may have more keys than are shown, an array only behind a last `"…"`. Comments that a reader
//! does not see steer it: `<!-- server: NAME=value … -->` starts a server with these variables,
//! `<!-- not run: why -->` leaves the next block out. The blocks of a page ask one server, in their order.

use std::{env, fs, path::PathBuf, process::Command};

use serde_json::Value;

use crate::harness::{Server, Start, eventually, get_with_key, root, tool};

const PAGES: [&str; 16] = [
    "GRPC_API.md",
    "GRPC_QUICKSTART.md",
    "README.md",
    "analytics.md",
    "brokers.md",
    "clients.md",
    "delivery.md",
    "events.md",
    "health.md",
    "live-page.md",
    "messages.md",
    "older-systems.md",
    "processes.md",
    "records.md",
    "settings.md",
    "simulation.md",
];

/// What a page makes happen.
enum Step {
    Serve(Vec<(String, String)>),
    Run { line: usize, script: String, printed: Option<Printed> },
}

enum Printed {
    Json(String),
    Text(String),
}

fn folder() -> PathBuf {
    root().join("docs")
}

/// Reads a page.
fn steps(page: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut skip = false;
    // A block that was run, until something else than its answer follows.
    let mut open = false;
    let mut lines = page.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        if let Some(comment) = line.strip_prefix("<!-- ").and_then(|line| line.strip_suffix(" -->")) {
            if let Some(variables) = comment.strip_prefix("server:") {
                let pairs = variables.split_whitespace().map(|pair| pair.split_once('=').unwrap());
                steps.push(Step::Serve(pairs.map(|(name, value)| (name.into(), value.into())).collect()));
            }
            skip |= comment.starts_with("not run:");
            continue;
        }
        let Some(language) = line.strip_prefix("```") else {
            open &= line.is_empty();
            continue;
        };
        let block: Vec<&str> =
            lines.by_ref().map(|(_, line)| line).take_while(|line| *line != "```").collect();
        let text = block.join("\n");
        match (language, steps.last_mut()) {
            ("sh", _) => {
                let asks = ["curl ", "grpcurl "].iter().any(|name| text.contains(name));
                open = asks && !skip;
                if open {
                    steps.push(Step::Run { line: number + 1, script: text, printed: None });
                }
                skip = false;
            }
            ("json", Some(Step::Run { printed, .. })) if open => *printed = Some(Printed::Json(text)),
            ("text", Some(Step::Run { printed, .. })) if open => *printed = Some(Printed::Text(text)),
            _ => {
                assert!(!text.contains("curl "), "a block that asks the server is marked sh:\n{text}");
                open = false;
            }
        }
    }
    steps
}

/// Whether a text is what a pattern says; `…` is anything.
fn text_fits(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('…');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    true
}

/// Where a value is not what was said.
fn difference(at: &str, said: &Value, value: &Value) -> Option<String> {
    match (said, value) {
        (Value::String(text), _) if text == "…" => value.is_null().then(|| format!("{at} is null")),
        (Value::String(pattern), Value::String(text)) if text_fits(pattern, text) => None,
        (Value::Object(said), Value::Object(value)) => said.iter().find_map(|(key, said)| {
            let at = format!("{at}.{key}");
            value
                .get(key)
                .map_or_else(|| Some(format!("{at} is missing")), |value| difference(&at, said, value))
        }),
        (Value::Array(said), Value::Array(value)) => {
            let more = said.last().is_some_and(|last| last == "…");
            let shown = said.len() - usize::from(more);
            if value.len() < shown || (value.len() > shown && !more) {
                return Some(format!("{at} has {} elements, not {shown}", value.len()));
            }
            let mut pairs = said[..shown].iter().zip(value).enumerate();
            pairs.find_map(|(place, (said, value))| difference(&format!("{at}[{place}]"), said, value))
        }
        // 3 and 3.0 are one number.
        (Value::Number(said), Value::Number(value)) if said.as_f64() == value.as_f64() => None,
        _ => (said != value).then(|| format!("{at} is {value}, not {said}")),
    }
}

fn values(text: &str) -> Result<Vec<Value>, String> {
    let values = serde_json::Deserializer::from_str(text).into_iter();
    values.collect::<Result<_, _>>().map_err(|error| format!("{error} in {text:?}"))
}

impl Printed {
    fn check(&self, printed: &str) -> Result<(), String> {
        match self {
            Printed::Text(pattern) => {
                let fits = text_fits(pattern, printed.replace('\r', "").trim_end());
                if fits { Ok(()) } else { Err("it prints something else".to_owned()) }
            }
            Printed::Json(said) => {
                let (said, found) = (values(said)?, values(printed)?);
                if said.len() != found.len() {
                    return Err(format!("{} values, not {}", found.len(), said.len()));
                }
                let wrong = said.iter().zip(&found).find_map(|(said, found)| difference("it", said, found));
                wrong.map_or(Ok(()), Err)
            }
        }
    }
}

fn serve(variables: &[(String, String)]) -> Server {
    let mut start = Start::new()
        .set("listen.grpc=127.0.0.1:0,127.0.0.1:0")
        .set("metrics.enabled=true")
        .set("listen.metrics=127.0.0.1:0");
    for (name, value) in variables {
        start = start.variable(name, value);
    }
    start.run()
}

/// Runs a page's blocks; says of each that fails where it stands, and what it printed.
fn run(name: &str) {
    let mut path = Vec::new();
    for tool_name in ["curl", "grpcurl", "jq"] {
        let Some(found) = tool(tool_name) else { return };
        path.extend(found.parent().map(PathBuf::from));
    }
    path.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()));
    let path = env::join_paths(path).unwrap();
    let page = fs::read_to_string(folder().join(name)).unwrap();
    let (mut server, mut key) = (serve(&[]), String::new());
    let mut failed = Vec::new();
    for step in steps(&page) {
        let (line, script, printed) = match step {
            Step::Serve(variables) => {
                server = serve(&variables);
                let keys = variables.iter().find(|(name, _)| name == "API_KEYS");
                key = keys.and_then(|(_, keys)| keys.split(',').next()).unwrap_or_default().to_owned();
                continue;
            }
            Step::Run { line, script, printed } => (line, script, printed),
        };
        let output = Command::new("timeout")
            .args(["60", "bash", "-e", "-c", &server.with_own_ports(&script)])
            .env("PATH", &path)
            .env("no_proxy", "*")
            .output()
            .unwrap();
        let stdout = String::from_utf8(output.stdout).unwrap();
        let outcome = match &printed {
            _ if !output.status.success() => Err(output.status.to_string()),
            None => Err("no json or text block says what it prints".to_owned()),
            Some(printed) => printed.check(&stdout),
        };
        if let Err(error) = outcome {
            let stderr = String::from_utf8_lossy(&output.stderr);
            failed.push(format!("docs/{name}:{line}: {error}\n{script}\n{stdout}\n{stderr}"));
        }
        // What a block sent is counted before the next one asks.
        eventually("the queue is empty", || {
            let stats = get_with_key(server.processor(), "/stats", &key).json();
            (stats["queue"]["CurrentSize"] == 0).then_some(())
        });
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn the_pages_about_grpc_tell_the_truth() {
    run("GRPC_API.md");
    run("GRPC_QUICKSTART.md");
}

#[test]
fn the_page_about_analytics_tells_the_truth() {
    run("analytics.md");
}

#[test]
fn the_pages_about_clients_and_the_index_tell_the_truth() {
    run("clients.md");
    run("README.md");
}

#[test]
fn the_page_about_events_tells_the_truth() {
    run("events.md");
}

#[test]
fn the_page_about_messages_tells_the_truth() {
    run("messages.md");
}

#[test]
fn the_page_about_health_tells_the_truth() {
    run("health.md");
}

#[test]
fn the_pages_about_running_it_tell_the_truth() {
    for page in ["brokers.md", "delivery.md", "processes.md", "records.md", "settings.md"] {
        run(page);
    }
}

#[test]
fn the_page_about_the_live_page_tells_the_truth() {
    run("live-page.md");
}

#[test]
fn the_page_about_older_systems_tells_the_truth() {
    run("older-systems.md");
}

#[test]
fn every_page_is_run_and_its_links_lead_somewhere() {
    let mut pages: Vec<String> = fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    pages.sort();
    assert_eq!(pages, PAGES);
    for name in PAGES {
        let page = fs::read_to_string(folder().join(name)).unwrap();
        for link in page.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link) {
            let file = link.split('#').next().unwrap_or_default();
            if !link.contains("://") && !file.is_empty() {
                assert!(folder().join(file).exists(), "docs/{name}: {link} is nowhere");
            }
        }
    }
}

#[test]
fn what_is_shortened_still_has_to_be_true() {
    let said = r#"{"id": "…", "text": "a … c", "list": [1, "…"], "n": 3}"#;
    let printed = Printed::Json(said.to_owned());
    assert_eq!(printed.check(r#"{"id":"x","text":"a b c","list":[1,2,3],"n":3.0,"more":1}"#), Ok(()));
    for wrong in [
        r#"{"text":"a b c","list":[1],"n":3}"#,
        r#"{"id":null,"text":"a b c","list":[1],"n":3}"#,
        r#"{"id":"x","text":"a b","list":[1],"n":3}"#,
        r#"{"id":"x","text":"a b c","list":[2],"n":3}"#,
        r#"{"id":"x","text":"a b c","list":[1],"n":4}"#,
        r#"{"id":"x","text":"a b c","list":[1],"n":3} {}"#,
    ] {
        assert!(printed.check(wrong).is_err(), "{wrong}");
    }
    assert!(text_fits("a\n…\nz", "a\nb\nc\nz") && !text_fits("a…", "ba") && !text_fits("a", "ab"));
}
