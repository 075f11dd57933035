//! The API asked from its own description. schemathesis makes requests from `/openapi.json`, valid ones and ones that
//! are wrong in one place, and compares every answer with what is described: a valid request is not rejected, a wrong one
//! is, and the answer has the form that it should have. That is so for every route that is described.

use std::{
    env, fs,
    process::{Command, Output},
};

use serde_json::json;

use crate::harness::{Scratch, Server, Start, post_json, root, tool};

/// Requests of each operation that are made up; those that a description asks for by itself come on top.
const EXAMPLES: &str = "20";
/// The same ones every time. `make openapi-check` takes others.
const SEED: &str = "1";

/// Runs schemathesis against a server, with `more` behind the common configuration. `None`: it is missing.
fn check(server: &Server, more: &str, arguments: &[&str]) -> Option<Output> {
    let program = tool("schemathesis")?;
    let folder = root().join("tools/clients/schemathesis");
    // What it keeps, it keeps where it runs.
    let scratch = Scratch::new();
    let common = fs::read_to_string(folder.join("schemathesis.toml")).unwrap();
    let configuration = scratch.write("schemathesis.toml", format!("{common}\n{more}"));
    let setting = |name: &str, usual: &str| env::var(name).unwrap_or_else(|_| usual.to_owned());
    let output = Command::new(program)
        .arg("--config-file")
        .arg(configuration)
        .args(["run", &server.url("/openapi.json"), "--no-color", "--workers", "2"])
        .args(["--max-examples", &setting("OPENAPI_EXAMPLES", EXAMPLES)])
        .args(["--seed", &setting("OPENAPI_SEED", SEED)])
        .args(arguments)
        .env("SCHEMATHESIS_HOOKS", folder.join("hooks.py"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("no_proxy", "*")
        .current_dir(scratch.path())
        .output()
        .unwrap();
    println!("{}", String::from_utf8_lossy(&output.stdout));
    Some(output)
}

#[test]
fn schemathesis_finds_no_failure() {
    let server = Start::new().run();
    // A user of the name that is tried first, so that there is a profile to answer with.
    let events = json!({"events": [
        {"userId": "0", "eventType": "EVENT_TYPE_USER", "sessionId": "s", "properties": {"plan": "free"}},
        {"userId": "0", "eventType": "EVENT_TYPE_CUSTOM", "customEvent": {"name": "played", "metrics": [{"name": "minutes", "value": 12.5}]}},
    ]});
    assert_eq!(post_json(server.gateway(), "/v1/events/batch", &events.to_string()).status, 200);
    let Some(output) = check(&server, "", &[]) else { return };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn schemathesis_gets_nothing_without_a_key_where_keys_are_asked_for() {
    let server = Start::new().variable("API_KEYS", "one").run();
    let key = "[auth.openapi.key]\napi_key = \"one\"\n";
    // Each request is made again without the key, and with a wrong one.
    let Some(output) = check(&server, key, &["--checks", "ignored_auth", "--phases", "fuzzing"]) else {
        return;
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
