//! HTTP/1.1 as curl and a plain socket speak it.

use crate::harness::{Peer, Scratch, Server, curl, get, post_json};

const LIMIT: usize = 10 << 20;

/// A JSON body of exactly `length` bytes.
fn body_of(length: usize) -> String {
    const AROUND: usize = r#"{"data":""}"#.len();
    format!(r#"{{"data":"{}"}}"#, "x".repeat(length - AROUND))
}

#[test]
fn a_connection_is_kept_for_the_next_request() {
    let server = Server::start();
    let url = server.url("/ingest");
    let connects = "%{http_version} %{http_code} %{num_connects}\n";
    let Some((said, _)) =
        curl(&["-o", "/dev/null", "-o", "/dev/null", "-w", connects, "-d", "{}", &url, &url])
    else {
        return;
    };
    assert_eq!(said, "1.1 200 1\n1.1 200 0\n");
}

#[test]
fn connection_close_is_honoured() {
    let server = Server::start();
    let mut peer = Peer::connect(server.gateway());
    peer.send("GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    let answer = peer.answer(false).unwrap();
    assert_eq!(answer.status, 200);
    assert_eq!(answer.field("connection"), Some("close"));
    assert!(peer.rest().is_empty());
}

#[test]
fn http_1_0_is_answered_and_closed() {
    let server = Server::start();
    let Some((said, _)) =
        curl(&["--http1.0", "-o", "/dev/null", "-w", "%{http_code}", "-d", "{}", &server.url("/ingest")])
    else {
        return;
    };
    assert_eq!(said, "200");
    let mut peer = Peer::connect(server.gateway());
    peer.send("GET /health HTTP/1.0\r\n\r\n");
    assert_eq!(peer.answer(false).unwrap().status, 200);
    assert!(peer.rest().is_empty());
}

#[test]
fn head_has_the_length_and_no_body() {
    let server = Server::start();
    for path in ["/health", "/metrics", "/stats"] {
        let Some((head, _)) = curl(&["--head", &server.url(path)]) else { return };
        assert!(head.starts_with("HTTP/1.1 200"), "{path}: {head}");
        assert!(head.to_ascii_lowercase().contains("content-length: "), "{path}: {head}");
    }
    let mut peer = Peer::connect(server.gateway());
    peer.send(
        "HEAD /health HTTP/1.1\r\nHost: localhost\r\n\r\nGET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n",
    );
    assert_eq!(peer.answer(true).unwrap().status, 200);
    // Nothing stands between the two heads.
    assert_eq!(peer.answer(false).unwrap().json()["healthy"], true);
}

#[test]
fn a_chunked_upload_is_one_message() {
    let server = Server::start();
    let home = Scratch::new();
    let file = home.write("body", body_of(300_000));
    let from = format!("@{}", file.display());
    let arguments = [
        "-H",
        "Transfer-Encoding: chunked",
        "-w",
        "\n%{http_code}",
        "--data-binary",
        &from,
        &server.url("/ingest"),
    ];
    let Some((answer, _)) = curl(&arguments) else { return };
    assert!(answer.ends_with("\n200"), "{answer}");
    assert_eq!(server.settled(), 1);
}

#[test]
fn a_large_body_waits_for_100_continue() {
    let server = Server::start();
    let home = Scratch::new();
    let file = home.write("body", body_of(LIMIT));
    let from = format!("@{}", file.display());
    let url = server.url("/ingest");
    let arguments =
        ["-v", "-H", "Expect: 100-continue", "-w", "\n%{http_code}", "--data-binary", &from, &url];
    let Some((answer, said)) = curl(&arguments) else { return };
    assert!(said.contains("< HTTP/1.1 100 Continue"), "{said}");
    assert!(answer.ends_with("\n200"), "{answer}");
    assert_eq!(server.settled(), 1);
}

#[test]
fn another_expectation_is_417() {
    let server = Server::start();
    let mut peer = Peer::connect(server.gateway());
    peer.send("POST /ingest HTTP/1.1\r\nHost: localhost\r\nExpect: miracles\r\nContent-Length: 2\r\n\r\n{}");
    assert_eq!(peer.answer(false).unwrap().status, 417);
    assert_eq!(server.received(), (0, 0, 0));
}

#[test]
fn a_body_over_the_limit_is_413_before_it_is_sent() {
    let server = Server::start();
    let mut peer = Peer::connect(server.gateway());
    peer.send(format!("POST /ingest HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n", LIMIT + 1));
    let answer = peer.answer(false).unwrap();
    assert_eq!(answer.status, 413);
    assert!(answer.text().contains(&LIMIT.to_string()), "says the limit: {}", answer.text());
    assert!(peer.rest().is_empty());
    assert_eq!(server.received(), (0, 0, 0));
}

#[test]
fn chunks_over_the_limit_are_413() {
    let server = Server::start();
    let mut peer = Peer::connect(server.gateway());
    peer.send("POST /ingest HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n");
    let chunk = format!("100000\r\n{}\r\n", "x".repeat(1 << 20));
    for _ in 0..11 {
        peer.send_if_open(&chunk);
    }
    let answer = peer.answer(false).unwrap();
    // As where its length is known from the head.
    assert_eq!((answer.status, &answer.json()["code"]), (413, &"RESOURCE_EXHAUSTED".into()));
    assert_eq!(server.received(), (0, 0, 0));
}

#[test]
fn curl_understands_the_413_of_a_large_file() {
    let server = Server::start();
    let home = Scratch::new();
    let file = home.write("body", body_of(LIMIT + 1));
    let from = format!("@{}", file.display());
    let url = server.url("/ingest");
    let Some((answer, _)) = curl(&["-w", "\n%{http_code}", "--data-binary", &from, &url]) else { return };
    assert!(answer.ends_with("\n413"), "{answer}");
}

#[test]
fn an_unknown_path_is_404_in_plain_text() {
    let server = Server::start();
    let format = "\n%{http_code} %{content_type}";
    for path in ["/nowhere", "/ingestX", "/api/v1/ingest/", "/"] {
        let Some((answer, _)) = curl(&["-w", format, &server.url(path)]) else { return };
        let (_, said) = answer.rsplit_once('\n').unwrap();
        assert!(said.starts_with("404 text/plain"), "{path}: {said}");
    }
}

#[test]
fn a_wrong_method_is_405_and_says_which_is_right() {
    let server = Server::start();
    for (method, path, allow) in [
        ("GET", "/api/v1/ingest", "POST"),
        ("DELETE", "/ingest", "POST"),
        ("PUT", "/enqueue", "POST"),
        ("POST", "/health", "GET"),
        ("POST", "/api/v1/status", "GET"),
        ("POST", "/api/v1/trace", "GET"),
        ("POST", "/stats", "GET"),
        ("POST", "/ready", "GET"),
        ("POST", "/metrics", "GET"),
    ] {
        let Some((answer, _)) = curl(&["-i", "-X", method, &server.url(path)]) else { return };
        assert!(answer.starts_with("HTTP/1.1 405"), "{method} {path}: {answer}");
        let allowed = answer.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("allow").then(|| value.trim().to_owned())
        });
        let allowed = allowed.unwrap_or_else(|| panic!("{method} {path} has no Allow: {answer}"));
        assert!(
            allowed.split(", ").any(|one| one.trim() == allow) || allowed.split(',').any(|one| one == allow),
            "{allowed}"
        );
        assert!(answer.contains(r#""status":"error""#) && answer.contains("Method not allowed"), "{answer}");
    }
}

#[test]
fn a_query_does_not_change_the_route() {
    let server = Server::start();
    assert_eq!(post_json(server.gateway(), "/ingest?from=test", "{}").status, 200);
    assert_eq!(get(server.gateway(), "/stats?pretty").json()["TotalReceived"], 1);
}

#[test]
fn a_bad_body_is_400_and_says_what_and_where() {
    let server = Server::start();
    for (path, body, words) in [
        ("/ingest", r#"{"source":"s","data":"d""#, "line 1, column"),
        ("/ingest", "not json", "line 1, column"),
        ("/ingest", "", "line 1, column"),
        ("/ingest", "[1,2]", "line 1, column"),
        ("/ingest", "{\n \"data\": 5}", "(at /data)"),
        ("/ingest", r#"{"source":{}}"#, "(at /source)"),
        ("/ingest", r#"{"metadata":"text"}"#, "(at /metadata)"),
        ("/ingest", r#"{"data":"a","data":"b"}"#, "duplicate key"),
        ("/ingest", r#"{"data":"\ud800"}"#, "line 1, column"),
        ("/enqueue", r#"{"payload":"no base64!"}"#, "(at /payload)"),
        ("/enqueue", r#"{"timestamp":1.5}"#, "(at /timestamp)"),
    ] {
        let answer = post_json(server.gateway(), path, body);
        assert_eq!(answer.status, 400, "{body}");
        assert_eq!(answer.field("content-type"), Some("application/json"));
        let json = answer.json();
        assert_eq!(
            (json["status"].as_str(), json["code"].as_str()),
            (Some("error"), Some("INVALID_ARGUMENT")),
            "{json}"
        );
        let text = json["error"].as_str().unwrap();
        assert!(text.starts_with("Invalid request body") && text.contains(words), "{body}: {text}");
    }
    assert_eq!(server.received(), (0, 0, 0));
}

#[test]
fn a_bad_body_leaves_the_connection_usable() {
    let server = Server::start();
    let mut peer = Peer::connect(server.gateway());
    for (body, status) in [("{", 400), ("{}", 200), ("nul", 400), ("{}", 200)] {
        peer.send(format!(
            "POST /ingest HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ));
        assert_eq!(peer.answer(false).unwrap().status, status, "{body}");
    }
}

#[test]
fn invalid_utf8_is_400() {
    let server = Server::start();
    let mut peer = Peer::connect(server.gateway());
    peer.send(b"POST /ingest HTTP/1.1\r\nHost: localhost\r\nContent-Length: 12\r\n\r\n{\"data\":\"\xff\"}");
    let answer = peer.answer(false).unwrap();
    assert_eq!(answer.status, 400);
    assert!(answer.json()["error"].as_str().unwrap().contains("byte 9"), "{}", answer.text());
}

#[test]
fn an_encoded_body_is_415() {
    let server = Server::start();
    let url = server.url("/ingest");
    let arguments = ["-H", "Content-Encoding: gzip", "-w", "\n%{http_code}", "-d", "{}", &url];
    let Some((answer, _)) = curl(&arguments) else { return };
    assert!(answer.ends_with("\n415"), "{answer}");
    assert_eq!(server.received(), (0, 0, 0));
}

#[test]
fn an_ack_level_out_of_reach_is_refused_at_once() {
    let server = Server::start();
    let url = server.url("/ingest");
    let ask = |level: &str| {
        let field = format!("Tidegate-Ack: {level}");
        curl(&["-H", &field, "-w", "\n%{http_code}", "-d", "{}", &url]).map(|(answer, _)| answer)
    };
    let Some(queued) = ask("queued") else { return };
    assert!(queued.contains(r#""ack":"queued""#) && queued.ends_with("\n200"), "{queued}");
    for level in ["durable", "delivered", "certain"] {
        let answer = ask(level).unwrap();
        assert!(answer.ends_with("\n400") && answer.contains(level), "{answer}");
    }
    assert_eq!(server.received(), (1, 1, 0));
}

#[test]
fn an_offer_to_upgrade_to_h2c_is_ignored() {
    let server = Server::start();
    let Some((answer, said)) =
        curl(&["-v", "--http2", "-w", "\n%{http_version} %{http_code}", &server.url("/health")])
    else {
        return;
    };
    assert!(said.contains("> Upgrade: h2c"), "{said}");
    assert!(answer.ends_with("\n1.1 200"), "{answer}");
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let server = Server::start();
    // More than are worked on at once: the rest waits, and nothing overtakes an answer of the cold lane.
    for count in [32, 200] {
        let mut peer = Peer::connect(server.gateway());
        let mut requests = String::new();
        for number in 0..count {
            requests.push_str(&match number % 4 {
                0 => format!("GET /nowhere/{number} HTTP/1.1\r\nHost: localhost\r\n\r\n"),
                1 => "GET /ingest HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(),
                _ => "POST /ingest HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}".to_owned(),
            });
        }
        peer.send(requests);
        for number in 0..count {
            let expected = [404, 405, 200, 200][number % 4];
            assert_eq!(
                peer.answer(false).map(|answer| answer.status),
                Some(expected),
                "answer {number} of {count}"
            );
        }
    }
}

#[test]
fn a_request_may_arrive_byte_by_byte() {
    let server = Server::start();
    let mut peer = Peer::connect(server.gateway());
    for byte in
        b"POST /ingest HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
    {
        peer.send([*byte]);
    }
    assert_eq!(peer.answer(false).unwrap().status, 200);
    assert_eq!(server.settled(), 1);
}
