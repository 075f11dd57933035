//! Who may ask for what: keys for the events platform alone or for everything, over every listener and protocol, between
//! processes and from the command line.

use std::{net::SocketAddr, process::Command};

use http::Method;
use prost::Message;
use prost_types::FileDescriptorSet;
use serde_json::json;
use transports::ENDPOINTS;

use crate::harness::{
    Answer, H2Peer, Peer, Scratch, Server, Start, TIDEGATE, eventually, framed, get, get_with_key,
    on_runtime, patiently, post_json, tool,
};

const KEY: (&str, &str) = ("x-api-key", "one");

/// A server where everything asks.
fn closed() -> Start {
    Start::new().variable("API_KEYS", "one").variable("AUTH_SCOPE", "all")
}

/// Every address with its role.
fn listeners(server: &Server) -> Vec<(String, SocketAddr)> {
    let roles = server.roles().into_iter().map(str::to_owned);
    roles.map(|role| (role.clone(), server.addresses(&role)[0])).collect()
}

/// Method and path of everything that is asked in HTTP: the hot routes by their table, and what the cold lane has.
pub(crate) fn http_routes() -> Vec<(&'static str, &'static str)> {
    let is_http = |path: &str| !path.contains("Service/");
    let hot = ENDPOINTS.iter().map(|row| (row.method, row.path)).filter(|(_, path)| is_http(path));
    let cold = [
        "/api/v1/status",
        "/status",
        "/api/v1/trace",
        "/stats",
        "/lag",
        "/metrics",
        "/analytics/summary",
        "/api/v1/events/stats",
        "/v1/analytics/summary",
        "/v1/analytics/users/health",
        "/v1/metrics",
        "/live/events",
        "/openapi.json",
        "/docs",
        "/nowhere",
    ];
    let posted = [("POST", "/events/batch"), ("POST", "/batch"), ("POST", "/v1/analytics/funnel")];
    hot.chain(cold.map(|path| ("GET", path)))
        .chain(posted)
        .filter(|(_, path)| !says_how_it_is(path))
        .collect()
}

/// Whether a path is of those that never ask.
fn says_how_it_is(path: &str) -> bool {
    let rpc = path.rsplit('/').next().unwrap();
    matches!(
        path,
        "/health" | "/livez" | "/ready" | "/v1/events/health" | "/v1/analytics/health" | "/v1/metrics/health"
    ) || path.starts_with("/grpc.health.v1.Health/")
        || matches!(rpc, "Health" | "GetProducerHealth" | "GetConsumerHealth" | "GetAnalyticsHealth")
}

/// The path of every RPC, from what reflection serves.
pub(crate) fn rpcs() -> Vec<String> {
    let files = FileDescriptorSet::decode(tidegate_proto::FILE_DESCRIPTOR_SET).unwrap().file;
    let mut paths = vec!["/grpc.health.v1.Health/Check".to_owned()];
    for file in &files {
        let package = file.package.as_deref().filter(|package| !package.is_empty());
        let package = package.map(|package| format!("{package}.")).unwrap_or_default();
        for service in &file.service {
            let methods = service.method.iter().map(|method| method.name());
            paths.extend(methods.map(|method| format!("/{package}{}/{method}", service.name())));
        }
    }
    paths
}

/// The status of a request over HTTP/1.1; an answer may have no end, and is not read.
fn over_http1(address: SocketAddr, method: &str, path: &str, fields: &[(&str, &str)]) -> u16 {
    let mut peer = Peer::connect(address);
    let fields: String = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let length = if method == "POST" { "Content-Length: 2\r\n" } else { "" };
    let body = if method == "POST" { "{}" } else { "" };
    peer.send(format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n{length}{fields}\r\n{body}"));
    let answer = peer.answer(true).unwrap();
    if answer.status == 401 {
        assert!(answer.field("www-authenticate").is_some(), "{method} {path}: RFC 9110 §11.6.1");
    }
    answer.status
}

/// The same over HTTP/2.
async fn over_http2(peer: &mut H2Peer, method: &str, path: &str, fields: &[(&str, &str)]) -> u16 {
    let method = Method::from_bytes(method.as_bytes()).unwrap();
    let is_post = method == Method::POST;
    let (answer, mut stream) = peer.open(method, path, fields, !is_post).await.unwrap();
    if is_post {
        stream.send_data("{}".into(), true).unwrap();
    }
    let answer = patiently(answer).await.unwrap();
    if answer.status() == 401 {
        assert!(answer.headers().contains_key("www-authenticate"), "{path}: RFC 9110 §11.6.1");
    }
    answer.status().as_u16()
}

/// What a call comes to if that is said with its head; calls that were let in say it later, or never end.
async fn call(peer: &mut H2Peer, path: &str, fields: &[(&str, &str)]) -> Option<u32> {
    let all = [&[("content-type", "application/grpc"), ("te", "trailers")], fields].concat();
    let (answer, mut stream) = peer.open(Method::POST, path, &all, false).await.unwrap();
    // Who is turned away is told so before the message is asked for.
    let _ = stream.send_data(framed(0, b"").into(), true);
    let head = patiently(answer).await.unwrap();
    head.headers().get("grpc-status").map(|status| status.to_str().unwrap().parse().unwrap())
}

/// What was taken in, asked with a key.
fn received(server: &Server) -> u64 {
    get_with_key(server.ingest(), "/stats", "one").json()["TotalReceived"].as_u64().unwrap()
}

#[test]
fn with_scope_all_every_http_route_of_every_port_asks_for_a_key_over_both_versions() {
    let server = closed().run();
    on_runtime(async {
        for (role, address) in listeners(&server) {
            let mut peer = H2Peer::connect(address).await;
            for (method, path) in http_routes() {
                for fields in [&[][..], &[("x-api-key", "two")], &[("authorization", "Basic one")]] {
                    let statuses = (
                        over_http1(address, method, path, fields),
                        over_http2(&mut peer, method, path, fields).await,
                    );
                    assert_eq!(statuses, (401, 401), "{role} {method} {path} {fields:?}");
                }
            }
        }
        assert_eq!(received(&server), 0, "nothing was taken");
        for (role, address) in listeners(&server) {
            let mut peer = H2Peer::connect(address).await;
            for (method, path) in http_routes() {
                for fields in [[KEY], [("authorization", "Bearer one")]] {
                    for status in [
                        over_http1(address, method, path, &fields),
                        over_http2(&mut peer, method, path, &fields).await,
                    ] {
                        let expected: &[u16] = match path {
                            "/nowhere" | "/v1/analytics/users/health" => &[404],
                            // `{}` is no event, and no funnel.
                            _ if path.contains("events") || path.contains("funnel") || path == "/batch" => {
                                &[200, 400]
                            }
                            _ => &[200, 202],
                        };
                        assert!(expected.contains(&status), "{role} {method} {path}: {status}");
                    }
                }
            }
        }
        assert!(received(&server) > 0);
    });
}

#[test]
fn with_scope_all_every_rpc_of_every_port_asks_for_a_key() {
    let server = closed().run();
    on_runtime(async {
        for (role, address) in listeners(&server) {
            let mut peer = H2Peer::connect(address).await;
            for path in rpcs() {
                for fields in [&[][..], &[("x-api-key", "two")]] {
                    let status = call(&mut peer, &path, fields).await;
                    assert_eq!(status == Some(16), !says_how_it_is(&path), "{role} {path}: {status:?}");
                }
                for fields in [[KEY], [("authorization", "bearer one")]] {
                    let status = call(&mut peer, &path, &fields).await;
                    assert!(!matches!(status, Some(12 | 16)), "{role} {path}: {status:?}");
                }
            }
        }
    });
}

#[test]
fn health_and_the_files_of_the_page_and_a_browsers_preflight_never_ask() {
    let server = closed().run();
    for (role, address) in listeners(&server) {
        for path in
            ["/health", "/livez", "/ready", "/v1/events/health", "/v1/analytics/health", "/v1/metrics/health"]
        {
            assert_eq!(over_http1(address, "GET", path, &[]), 200, "{role} {path}");
        }
        assert_eq!(over_http1(address, "GET", "/", &[("accept", "text/html")]), 200, "{role}");
        assert_eq!(over_http1(address, "GET", "/live/feed.js", &[]), 200, "{role}");
        let preflight = [("origin", "http://localhost:3000"), ("access-control-request-method", "POST")];
        assert_eq!(over_http1(address, "OPTIONS", "/api/v1/events/user", &preflight), 200, "{role}");
        assert_eq!(over_http1(address, "OPTIONS", "/api/v1/events/user", &[]), 401, "{role}");
    }
    let healthy = Command::new(TIDEGATE)
        .arg("-health-check")
        .env_clear()
        .env("API_PORT", server.gateway().to_string())
        .current_dir(Scratch::new().path())
        .status();
    assert!(healthy.unwrap().success());
}

#[test]
fn each_systems_routes_say_in_their_own_words_that_a_key_is_missing() {
    let server = closed().run();
    let text = "missing authentication credentials: give x-api-key, or authorization: Bearer <token>";
    for (path, expected) in [
        ("/api/v1/ingest", json!({"status": "error", "error": text, "code": "UNAUTHENTICATED"})),
        ("/stats", json!({"status": "error", "error": text, "code": "UNAUTHENTICATED"})),
        ("/v1/events", json!({"code": 16, "message": text, "details": []})),
        ("/api/v1/events/user", json!({"error": "Unauthorized", "message": text, "code": "UNAUTHENTICATED"})),
    ] {
        let mut answer = post_json(server.gateway(), path, "{}").json();
        answer.as_object_mut().unwrap().remove("timestamp");
        assert_eq!(answer, expected, "{path}");
    }
}

#[test]
fn without_a_word_about_scope_only_the_events_platform_asks() {
    let server = Start::new().variable("API_KEYS", "one").run();
    on_runtime(async {
        for (role, address) in listeners(&server) {
            let mut peer = H2Peer::connect(address).await;
            for (method, path) in http_routes() {
                // Its own check is a part of the page; it is there since before the scope.
                let asks = path.starts_with("/v1/") || path == "/live/events";
                let statuses =
                    (over_http1(address, method, path, &[]), over_http2(&mut peer, method, path, &[]).await);
                assert_eq!((statuses.0 == 401, statuses.1 == 401), (asks, asks), "{role} {method} {path}");
            }
            for path in rpcs() {
                let asks = path.starts_with("/analytics.v1.") && !says_how_it_is(&path);
                assert_eq!(call(&mut peer, &path, &[]).await == Some(16), asks, "{role} {path}");
            }
        }
    });
}

#[test]
fn reflection_asks_for_a_key_where_its_setting_says_so() {
    const PATHS: [&str; 2] = [
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    ];
    for (setting, asks) in [("open", false), ("key", true), ("closed", true)] {
        for scope in ["events", "all"] {
            let server = closed().variable("AUTH_SCOPE", scope).variable("AUTH_REFLECTION", setting).run();
            on_runtime(async {
                let mut peer = H2Peer::connect(server.grpc()).await;
                for path in PATHS {
                    let refused = call(&mut peer, path, &[]).await == Some(16);
                    assert_eq!(refused, asks, "{scope} {setting} {path}");
                    assert_ne!(call(&mut peer, path, &[KEY]).await, Some(16), "{scope} {setting} {path}");
                }
            });
            let Some(grpcurl) = tool("grpcurl") else { continue };
            for (field, listed) in [("x-none: 1", !asks), ("x-api-key: one", true)] {
                let output = Command::new(&grpcurl)
                    .args(["-plaintext", "-max-time", "20", "-H", field, &server.grpc().to_string(), "list"])
                    .output()
                    .unwrap();
                assert_eq!(output.status.success(), listed, "{scope} {setting} {field}: {output:?}");
            }
        }
    }
}

#[test]
fn settings_that_cannot_be_meant_end_the_start_and_say_what_can() {
    let none = || Start::new().variable("API_KEYS", "");
    let some = || Start::new().variable("API_KEYS", "one");
    for (start, says) in [
        (some().variable("AUTH_SCOPE", "everything"), &["AUTH_SCOPE", "auth.scope", "events", "all"][..]),
        (
            some().variable("AUTH_REFLECTION", "ajar"),
            &["AUTH_REFLECTION", "auth.reflection", "open", "key", "closed"],
        ),
        (none().variable("AUTH_SCOPE", "all"), &["AUTH_SCOPE", "auth.scope", "API_KEYS", "AUTH_TOKENS"]),
        (none().variable("AUTH_REFLECTION", "key"), &["AUTH_REFLECTION", "auth.reflection", "API_KEYS"]),
        (closed().variable("API_KEYS", "zwei W\u{f6}rter"), &["auth.api_keys", "visible ASCII"]),
    ] {
        let (status, said) = start.fail();
        assert_eq!(status.code(), Some(1), "{said}");
        for word in says {
            assert!(said.contains(word), "{word} is not in {said}");
        }
    }
}

/// A process of this role that asks everybody for this key.
fn role(name: &str, key: &str) -> Start {
    closed().argument("--role").argument(name).variable("API_KEYS", key)
}

fn url(address: SocketAddr) -> String {
    format!("http://{address}")
}

#[track_caller]
fn joined(address: SocketAddr) {
    eventually("it reaches the process behind it", || (get(address, "/ready").status == 200).then_some(()));
}

/// An answer to a request with a key.
fn with_key(address: SocketAddr, key: &str, line: &str, body: &str) -> Answer {
    let mut peer = Peer::connect(address);
    peer.send(format!(
        "{line} HTTP/1.1\r\nHost: localhost\r\nX-Api-Key: {key}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    ));
    peer.answer(false).unwrap()
}

#[test]
fn processes_with_the_same_keys_let_each_other_in() {
    let processor = role("processor", "one").run();
    let ingest = role("ingest", "one").variable("PROCESSOR_URL", &url(processor.processor())).run();
    let gateway = role("api-gateway", "one").variable("INGEST_URL", &url(ingest.ingest())).run();
    joined(ingest.ingest());
    joined(gateway.gateway());
    let body = r#"{"source":"s","data":"hello"}"#;
    assert_eq!(with_key(gateway.gateway(), "two", "POST /api/v1/ingest", body).status, 401);
    for (path, body) in
        [("/api/v1/ingest", body), ("/v1/events", r#"{"user_id":"u","event_type":"EVENT_TYPE_USER"}"#)]
    {
        let answer = with_key(gateway.gateway(), "one", &format!("POST {path}"), body);
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    }
    let trace = with_key(gateway.gateway(), "one", "GET /api/v1/trace", "").json();
    assert_eq!(trace["success"], true, "{trace}");
    let trace = with_key(processor.processor(), "one", "GET /api/v1/trace", "").json();
    assert_eq!(trace["success"], true, "{trace}");
    eventually("the status has the processor's own counts, over the process between them", || {
        let status = with_key(gateway.gateway(), "one", "GET /api/v1/status", "").json();
        (status["processor"]["stats"]["pool"]["ProcessedCount"].as_u64()? >= 2).then_some(())
    });
}

#[test]
fn a_process_shows_another_the_key_that_is_set_for_it_and_never_its_callers() {
    let processor = role("processor", "far").run();
    let gateway = |key: &str| {
        let gateway = role("api-gateway", "near")
            .variable("INGEST_URL", &url(processor.processor()))
            .variable("TIDEGATE_REMOTE_API_KEY", key)
            .run();
        joined(gateway.gateway());
        gateway
    };
    let right = gateway("far");
    assert_eq!(with_key(right.gateway(), "near", "POST /ingest", "{}").status, 200);
    // The caller's key is good here; what is wrong is this process's, and the answer says where to look.
    let wrong = gateway("");
    let answer = with_key(wrong.gateway(), "near", "POST /ingest", "{}");
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert!(
        answer.text().contains("401") && answer.text().contains("remote.ingest_url"),
        "{}",
        answer.text()
    );
}

#[test]
fn the_command_line_sends_messages_once_more_with_the_key_of_its_settings() {
    let folder = Scratch::new();
    let data = folder.path().join("data");
    let server = closed().set("queue.type=log").set(&format!("data.directory={}", data.display())).run();
    assert_eq!(with_key(server.gateway(), "one", "POST /ingest", r#"{"data":"d"}"#).status, 200);
    let replay = |variables: &[(&str, &str)]| {
        let output = Command::new(TIDEGATE)
            .args(["replay", "--to", "1", "--directory", data.to_str().unwrap()])
            .args(["--url", &url(server.processor())])
            .env_clear()
            .envs(variables.iter().copied())
            .current_dir(folder.path())
            .output()
            .unwrap();
        (output.status.success(), String::from_utf8(output.stderr).unwrap())
    };
    let (ok, said) = replay(&[]);
    assert!(!ok && said.contains("401"), "{said}");
    let (ok, said) = replay(&[("API_KEYS", "one"), ("AUTH_SCOPE", "all")]);
    assert!(ok, "{said}");
    // What it sends is in the log, too, where it may find it again.
    assert!(received(&server) >= 2);
}

#[test]
fn keys_are_not_shown_and_what_they_are_for_is() {
    let output = Command::new(TIDEGATE)
        .args(["config", "print"])
        .env_clear()
        .envs([("API_KEYS", "word-1"), ("AUTH_TOKENS", "word-2"), ("TIDEGATE_REMOTE_API_KEY", "word-3")])
        .env("AUTH_SCOPE", "ALL")
        .current_dir(Scratch::new().path())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(!text.contains("word-"), "{text}");
    assert!(text.contains("scope = \"all\" # from environment AUTH_SCOPE"), "{text}");
}
