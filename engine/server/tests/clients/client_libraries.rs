//! Our own client libraries, in front of the real server.

use std::{net::SocketAddr, process::Command};

use crate::harness::{Server, get, root, tool};

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
