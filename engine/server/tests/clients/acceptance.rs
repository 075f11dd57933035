//! The older systems' own command lines, with nothing changed but the ports.

use std::{env, fs, os::unix::fs::symlink, process::Command};

use serde_json::Value;

use crate::harness::{Scratch, Server, Start, TIDEGATE, curl, eventually, get, post_json, tool};

/// Two gRPC ports and one for metrics, as by default.
fn like_the_defaults() -> Server {
    Start::new()
        .set("listen.grpc=127.0.0.1:0,127.0.0.1:0")
        .set("metrics.enabled=true")
        .set("listen.metrics=127.0.0.1:0")
        .run()
}

/// Runs a line with bash; standard output and standard error.
#[track_caller]
fn bash(server: &Server, tools: &[&str], line: &str) -> Option<(String, String)> {
    let mut path = Vec::new();
    for name in tools {
        path.push(tool(name)?.parent()?.to_path_buf());
    }
    path.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()));
    let line = server.with_own_ports(line);
    let output = Command::new("bash")
        .args(["-o", "pipefail", "-c", &line])
        .env("PATH", env::join_paths(path).unwrap())
        .env("no_proxy", "*")
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{line}\n{}\n{stderr}", output.status);
    Some((String::from_utf8(output.stdout).unwrap(), stderr))
}

#[track_caller]
fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error} in {text:?}"))
}

#[track_caller]
fn assert_is_uuid_v7(id: &Value) {
    let id = uuid::Uuid::parse_str(id.as_str().unwrap()).unwrap();
    assert_eq!(id.get_version_num(), 7);
}

#[test]
fn a1_the_readmes_curl_line_is_accepted() {
    let server = like_the_defaults();
    let line = r#"curl -X POST http://localhost:8080/api/v1/ingest -H 'Content-Type: application/json' -d '{"source":"test","data":"Hello World","metadata":{"type":"demo"}}'"#;
    let Some((body, _)) = bash(&server, &["curl"], line) else { return };
    assert!(!body.contains("error"), "{body}");
    let body = json(&body);
    assert_is_uuid_v7(&body["messageId"]);
    assert_eq!(body["status"], "accepted");
    assert_eq!(body["ack"], "queued");
    assert_eq!(server.settled(), 1);
}

#[test]
fn a2_scalars_in_metadata_are_accepted_under_every_alias_and_port() {
    let server = like_the_defaults();
    for port in [8080, 8081] {
        for path in ["/api/v1/ingest", "/ingest", "/api/ingest"] {
            let line = format!(
                r#"curl -s -w '\n%{{http_code}}' -X POST http://localhost:{port}{path} -H 'Content-Type: application/json' -d '{{"source":"test","data":"Hello World","metadata":{{"vu":1,"ok":true}}}}'"#
            );
            let Some((answer, _)) = bash(&server, &["curl"], &line) else { return };
            let (body, status) = answer.rsplit_once('\n').unwrap();
            assert_eq!(status, "200", "{port}{path}: {body}");
            assert_eq!(json(body)["status"], "accepted");
        }
    }
    assert_eq!(server.settled(), 6);
    assert_eq!(server.received(), (6, 6, 0));
}

#[test]
fn a3_status_has_the_names_of_both_systems() {
    let server = like_the_defaults();
    post_json(server.gateway(), "/ingest", "{}");
    server.settled();
    for path in ["/api/v1/status", "/status"] {
        let line = format!("curl http://localhost:8080{path} | jq .");
        let Some((body, _)) = bash(&server, &["curl", "jq"], &line) else { return };
        let body = json(&body);
        for service in ["ingest", "processor"] {
            assert_eq!(body[service]["healthy"], true);
            assert!(!body["services"][service].is_null());
        }
        for (name, count) in [("TotalReceived", 1), ("TotalSent", 1), ("TotalFailed", 0)] {
            assert_eq!(body["ingest"]["stats"][name], count, "{name}");
        }
        let queue = &body["processor"]["stats"]["queue"];
        for (name, count) in
            [("CurrentSize", 0), ("TotalEnqueued", 1), ("TotalDequeued", 1), ("size", 0), ("capacity", 1000)]
        {
            assert_eq!(queue[name], count, "{name}");
        }
        assert_eq!(queue["type"], "memory");
        let pool = &body["processor"]["stats"]["pool"];
        for (name, count) in [("ProcessedCount", 1), ("ErrorCount", 0), ("processed", 1), ("errors", 0)] {
            assert_eq!(pool[name], count, "{name}");
        }
        assert!(pool["TotalDuration"].is_u64() && pool["workers"].as_u64() >= Some(1), "{pool}");
    }
}

#[test]
fn a4_the_processors_stats_count_what_was_processed() {
    let server = like_the_defaults();
    for _ in 0..10 {
        assert_eq!(post_json(server.gateway(), "/api/v1/ingest", r#"{"source":"s","data":"d"}"#).status, 200);
    }
    assert_eq!(server.settled(), 10);
    let count =
        bash(&server, &["curl", "jq"], "curl -s http://localhost:8082/stats | jq '.pool.ProcessedCount'");
    let Some((count, _)) = count else { return };
    assert!(count.trim().parse::<u64>().unwrap() >= 5, "{count}");
    // An object in composite mode; with one queue there is nothing it could be composed of.
    let line = "curl -s http://localhost:8082/stats | jq '.queue.composite_stats'";
    assert_eq!(bash(&server, &["curl", "jq"], line).unwrap().0.trim(), "null");
}

#[test]
fn a5_grpcurl_reaches_the_service_without_a_package() {
    let server = like_the_defaults();
    let line = r#"grpcurl -plaintext -d '{"source":"grpc-test","data":"Hello gRPC"}' localhost:50052 IngestService/Ingest"#;
    let Some((body, _)) = bash(&server, &["grpcurl"], line) else { return };
    let body = json(&body);
    assert_is_uuid_v7(&body["messageId"]);
    assert_eq!(body["status"], "accepted");
    assert_eq!(server.settled(), 1);
}

#[test]
fn a6_grpcurl_lists_every_service_on_every_grpc_port() {
    let server = like_the_defaults();
    for port in [50051, 50052] {
        let Some((list, _)) =
            bash(&server, &["grpcurl"], &format!("grpcurl -plaintext localhost:{port} list"))
        else {
            return;
        };
        let services: Vec<&str> = list.lines().collect();
        let wanted = [
            "IngestService",
            "analytics.v1.AnalyticsService",
            "analytics.v1.EventIngestionService",
            "diplom.v1.IngestService",
            "grpc.health.v1.Health",
        ];
        for service in wanted {
            assert!(services.contains(&service), "{service} is not in {services:?}");
        }
        assert!(services.iter().any(|name| name.starts_with("grpc.reflection.v1")), "{services:?}");
    }
}

#[test]
fn a7_health_over_http2_by_prior_knowledge() {
    let server = like_the_defaults();
    let line = "curl -v --http2-prior-knowledge http://localhost:8080/health";
    let Some((body, said)) = bash(&server, &["curl"], line) else { return };
    assert!(said.contains("< HTTP/2 200"), "{said}");
    assert_eq!(json(&body)["healthy"], true);
}

#[test]
fn a8_a9_an_event_of_the_older_readme_is_taken_and_counted() {
    let server = like_the_defaults();
    let line = r#"curl -X POST http://localhost:8080/v1/events -H 'x-api-key: your-api-key' -H 'Content-Type: application/json' -d '{"event":{"id":"evt-123","user_id":"user-456","event_type":"EVENT_TYPE_USER","user_event":{"action":"click"}}}'"#;
    let Some((body, _)) = bash(&server, &["curl"], line) else { return };
    let body = json(&body);
    assert_eq!((&body["success"], &body["eventId"]), (&true.into(), &"evt-123".into()));
    server.settled();
    let line = "curl 'http://localhost:8080/v1/analytics/summary' -H 'x-api-key: your-api-key'";
    let Some((body, _)) = bash(&server, &["curl"], line) else { return };
    assert_eq!(json(&body)["totalEvents"], "1");
}

#[test]
fn a10_the_older_systems_event_is_in_its_summary() {
    let server = like_the_defaults();
    let line = r#"curl -X POST http://localhost:8081/events -H 'Content-Type: application/json' -d '{"id":"event_123","user_id":"user_456","event_type":"page_view","properties":{"page":"/home"},"timestamp":1640995200,"source":"web"}'"#;
    let Some((body, _)) = bash(&server, &["curl"], line) else { return };
    let expected =
        serde_json::json!({"success": true, "message": "Event sent successfully", "event_id": "event_123"});
    assert_eq!(json(&body), expected);
    server.settled();
    let line = "curl http://localhost:8083/analytics/summary | jq";
    let Some((body, _)) = bash(&server, &["curl", "jq"], line) else { return };
    let body = json(&body);
    assert_eq!((&body["total_events"], &body["total_users"]), (&1.into(), &1.into()));
    assert_eq!(body["events_by_type"], serde_json::json!({"page_view": 1}));
}

#[test]
fn a14_a15_a16_the_producer_services_events_are_counted_by_type() {
    let server = like_the_defaults();
    for (port, path, kind) in
        [(8080, "user", "user_created"), (8080, "order", "order_placed"), (8081, "user", "user_created")]
    {
        let line = format!(
            r#"curl -X POST http://localhost:{port}/api/v1/events/{path} -H 'Content-Type: application/json' -d '{{"data":"something happened"}}'"#
        );
        let Some((body, _)) = bash(&server, &["curl"], &line) else { return };
        let body = json(&body);
        assert_eq!((&body["status"], &body["event"]["type"]), (&"success".into(), &kind.into()));
        assert!(body["event"]["id"].as_str().unwrap().starts_with(&format!("{kind}_2")), "{body}");
    }
    let Some((body, _)) = bash(&server, &["curl"], "curl http://localhost:8080/api/v1/events/stats") else {
        return;
    };
    let data = &json(&body)["data"];
    assert_eq!(data["events_by_type"], serde_json::json!({"user_created": 2, "order_placed": 1}));
    assert_eq!((&data["total_events"], &data["success_rate"]), (&3.into(), &100.0.into()));
    for port in [8080, 8081, 8082, 8083] {
        let line = format!("curl -s http://localhost:{port}/metrics | grep -E '^(producer_|http_)'");
        let Some((lines, _)) = bash(&server, &["curl"], &line) else { return };
        assert!(lines.contains(r#"producer_events_published_total{event_type="user_created"} 2"#), "{lines}");
        assert!(lines.contains(r#"endpoint="/events/user""#), "{lines}");
    }
}

#[test]
fn a7_trace_reports_five_phases_and_stays_out_of_the_statistics() {
    let server = like_the_defaults();
    let Some((body, _)) = bash(&server, &["curl", "jq"], "curl http://localhost:8080/api/v1/trace | jq .")
    else {
        return;
    };
    let body = json(&body);
    assert_eq!(body["success"], true, "{body}");
    assert!(body.get("error").is_none(), "{body}");
    let latency = body["latency"].as_object().unwrap();
    let mut names: Vec<&str> = latency.keys().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["dns_lookup", "server_processing", "tcp_connection", "tls_handshake", "total"]);
    for (name, value) in latency {
        let text = value.as_str().unwrap();
        assert!(["ns", "µs", "ms", "s"].iter().any(|unit| text.ends_with(unit)), "{name} = {text}");
        assert!(text.starts_with(|first: char| first.is_ascii_digit()), "{name} = {text}");
    }
    assert_eq!(server.received(), (0, 0, 0));
    assert_eq!(server.settled(), 0);
}

#[test]
fn a16_http_metrics_are_on_the_metrics_port_and_every_other() {
    let server = like_the_defaults();
    post_json(server.gateway(), "/ingest", "{}");
    for port in [9090, 8080, 8081, 8082] {
        let line = format!("curl -s http://localhost:{port}/metrics | grep -E '^(producer_|http_)'");
        let found = eventually("the request is counted", || {
            let (lines, _) = bash(&server, &["curl"], &line)?;
            lines.contains(r#"endpoint="/ingest""#).then_some(lines)
        });
        assert!(found.contains("http_requests_total{"), "{found}");
        assert!(found.contains("http_request_duration_seconds_bucket{"), "{found}");
    }
}

#[test]
fn a18_help_under_every_old_name_returns_at_once() {
    let home = Scratch::new();
    fs::create_dir(home.path().join("bin")).unwrap();
    for name in ["api-gateway", "ingest", "processor", "grpc-server", "grpc-gateway"] {
        symlink(TIDEGATE, home.path().join("bin").join(name)).unwrap();
        let output = Command::new("bash")
            .args(["-c", &format!("./bin/{name} --help")])
            .current_dir(home.path())
            .env_clear()
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(0), "{name}");
        assert!(String::from_utf8_lossy(&output.stdout).contains("Usage:"), "{name}");
    }
}

#[test]
fn health_has_the_keys_of_every_older_system() {
    let server = Server::start();
    for address in [server.gateway(), server.ingest(), server.processor(), server.grpc()] {
        let answer = get(address, "/health");
        assert_eq!(answer.status, 200);
        assert_eq!(answer.field("content-type"), Some("application/json"));
        let body = answer.json();
        assert_eq!(body["healthy"], true);
        assert_eq!(body["status"], "healthy");
        for name in ["service", "version", "timestamp"] {
            assert!(body[name].as_str().is_some_and(|text| !text.is_empty()), "{name} in {body}");
        }
        assert!(body["timestamp"].as_str().unwrap().ends_with('Z'), "RFC 3339: {body}");
        assert!(body["timestamp_unix"].is_u64(), "{body}");
        assert!(body["uptime_seconds"].is_number(), "{body}");
        for dependency in ["database", "redis", "kafka"] {
            assert_eq!(body[dependency], "disabled");
        }
    }
    assert_eq!(get(server.gateway(), "/livez").status, 200);
}

#[test]
fn ready_has_the_keys_of_both_older_systems() {
    let server = Server::start();
    for address in [server.gateway(), server.ingest(), server.processor()] {
        let answer = get(address, "/ready");
        assert_eq!(answer.status, 200);
        let body = answer.json();
        assert_eq!(body["ready"], true);
        assert_eq!(body["status"], "ready");
        assert!(body["checks"].is_object(), "{body}");
    }
}

#[test]
fn each_port_answers_stats_as_itself() {
    let server = Server::start();
    assert_eq!(post_json(server.processor(), "/enqueue", r#"{"payload":"aGk="}"#).status, 202);
    server.settled();
    let ingest = get(server.ingest(), "/stats").json();
    assert!(
        ingest["TotalReceived"] == 1 && ingest["TotalSent"] == 1 && ingest["TotalFailed"] == 0,
        "{ingest}"
    );
    assert!(ingest.get("pool").is_none(), "{ingest}");
    let processor = get(server.processor(), "/stats").json();
    assert!(processor["queue"]["TotalEnqueued"] == 1 && processor["pool"]["processed"] == 1, "{processor}");
    let both = get(server.gateway(), "/stats").json();
    assert!(both["TotalReceived"] == 1 && both["pool"]["workers"].is_u64(), "{both}");
}

#[test]
fn enqueue_answers_202_without_a_body() {
    let server = Server::start();
    let body = r#"{"id":"m1","timestamp":1700000000,"source":"s","payload":"aGVsbG8=","metadata":{"k":"v"}}"#;
    let url = format!("http://{}/enqueue", server.processor());
    let Some((answer, _)) = curl(&["-w", "%{http_code}", "-d", body, &url]) else { return };
    assert_eq!(answer, "202");
    let proto_json = r#"{"timestamp":"1700000000"}"#;
    assert_eq!(post_json(server.processor(), "/enqueue", proto_json).status, 202);
    assert_eq!(server.settled(), 2);
}
