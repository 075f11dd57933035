//! Clients that others' programs make from `/openapi.json`: every operation is made, and what is made works.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use serde_json::Value;

use crate::harness::{Scratch, Server, get, root, tool};

/// The description as it is served, and the ids of its operations.
fn described(server: &Server, folder: &Scratch) -> Vec<String> {
    let answer = get(server.gateway(), "/openapi.json");
    folder.write("openapi.json", answer.text());
    let document = answer.json();
    let methods = document["paths"]
        .as_object()
        .unwrap()
        .values()
        .flat_map(|methods| methods.as_object().unwrap().values());
    let ids: Vec<String> =
        methods.map(|operation: &Value| operation["operationId"].as_str().unwrap().to_owned()).collect();
    assert!(ids.len() > 30, "{ids:?}");
    ids
}

#[track_caller]
fn ran(command: &mut Command, folder: &Path) -> Output {
    let output = command.current_dir(folder).env("NO_PROXY", "*").env("no_proxy", "*").output().unwrap();
    let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {out}{error}");
    output
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// `getAnalyticsUsers` as Python writes it: `get_analytics_users`.
fn snake(id: &str) -> String {
    id.chars().fold(String::new(), |mut all, letter| {
        if letter.is_ascii_uppercase() {
            all.push('_');
        }
        all.push(letter.to_ascii_lowercase());
        all
    })
}

#[test]
fn openapi_python_client_makes_every_operation_and_its_client_works() {
    let Some(generator) = tool("openapi-python-client") else { return };
    let (server, folder) = (Server::start(), Scratch::new());
    let ids = described(&server, &folder);
    // The formatter that it runs stands beside it.
    let beside =
        format!("{}:{}", generator.parent().unwrap().display(), std::env::var("PATH").unwrap_or_default());
    let mut command = Command::new(&generator);
    command
        .args(["generate", "--path", "openapi.json", "--output-path", "generated", "--meta", "none"])
        .env("PATH", beside);
    let output = ran(&mut command, folder.path());
    let warnings = said(&output) + &String::from_utf8_lossy(&output.stderr);
    assert!(!warnings.to_lowercase().contains("warning") && !warnings.contains("Unable"), "{warnings}");
    for id in &ids {
        let made = folder.path().join(format!("generated/api/default/{}.py", snake(id)));
        assert!(made.is_file(), "{id} is not made: {}", made.display());
    }
    let mut call = Command::new(generator.with_file_name("python"));
    call.arg(root().join("tools/clients/generators/call.py")).arg(folder.path()).arg(server.url(""));
    call.env("PYTHONDONTWRITEBYTECODE", "1");
    assert_eq!(said(&ran(&mut call, folder.path())).trim(), "True accepted AnalyticsSummary");
    assert_eq!(server.settled(), 2);
}

#[test]
fn openapi_typescript_makes_every_operation_and_its_types_hold_for_a_client_that_works() {
    let (Some(node), Some(installed)) = (tool("node"), tool("openapi-typescript")) else { return };
    let (server, folder) = (Server::start(), Scratch::new());
    let ids = described(&server, &folder);
    let modules = installed.with_file_name("node_modules");
    std::os::unix::fs::symlink(&modules, folder.path().join("node_modules")).unwrap();
    folder.write("package.json", r#"{"type": "module"}"#);
    let run = |script: &str, arguments: &[&str]| {
        let mut command = Command::new(&node);
        command.arg(modules.join(script)).args(arguments);
        ran(&mut command, folder.path())
    };
    run("openapi-typescript/bin/cli.js", &["openapi.json", "--output", "generated.ts"]);
    let made = fs::read_to_string(folder.path().join("generated.ts")).unwrap();
    let operations = made.split("export interface operations {").nth(1).unwrap();
    for id in &ids {
        assert!(operations.contains(&format!("    {id}: {{")), "{id} is not made");
    }
    let call = fs::read(root().join("tools/clients/generators/call.ts")).unwrap();
    folder.write("call.ts", call);
    let strict = ["--strict", "--target", "es2022", "--module", "nodenext", "--skipLibCheck"];
    // `process` and `console` are Node's, whose types are not needed for two words.
    folder.write("node.d.ts", "declare const process: { argv: string[] };\n");
    run(
        "typescript/bin/tsc",
        &[&strict[..], &["--lib", "es2022,dom,dom.iterable", "call.ts", "node.d.ts"]].concat(),
    );
    let mut command = Command::new(&node);
    command.arg("call.js").arg(server.url(""));
    assert_eq!(said(&ran(&mut command, folder.path())).trim(), "true accepted string");
    assert_eq!(server.settled(), 2);
}
