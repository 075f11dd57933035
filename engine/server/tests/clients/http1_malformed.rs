//! Malformed HTTP/1.1: one refusal, the connection closed, nothing enqueued, and what follows never parsed as a
//! request of its own.

use crate::harness::{Peer, Server, Start, eventually, get, post_json};

/// What stands behind every malformed request; taking it for a request would be smuggling.
const SMUGGLED: &str = "POST /ingest HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}";

/// Sends each input on a connection of its own; it must be refused with `status`, and once only.
#[track_caller]
fn refused(status: u16, inputs: &[(&str, &str)]) {
    let server = Server::start();
    for (what, input) in inputs {
        let mut peer = Peer::connect(server.gateway());
        peer.send_if_open(format!("{input}{SMUGGLED}"));
        let answer = peer.answer(false).unwrap_or_else(|| panic!("{what}: closed without a word"));
        assert_eq!(answer.status, status, "{what}: {}", String::from_utf8_lossy(&answer.body));
        let rest = peer.rest();
        assert!(rest.is_empty(), "{what}: more than one answer: {}", String::from_utf8_lossy(&rest));
    }
    assert_eq!(server.received(), (0, 0, 0), "nothing was enqueued");
}

fn post(fields: &str, body: &str) -> String {
    format!("POST /ingest HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n{body}")
}

#[test]
fn two_framings_are_400() {
    refused(
        400,
        &[
            ("length and coding", &post("Content-Length: 2\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n")),
            ("coding and length", &post("Transfer-Encoding: chunked\r\nContent-Length: 2\r\n", "0\r\n\r\n")),
            ("two equal lengths", &post("Content-Length: 2\r\nContent-Length: 2\r\n", "{}")),
            ("two lengths", &post("Content-Length: 2\r\nContent-Length: 3\r\n", "{}")),
            (
                "coding twice",
                &post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
            ),
            ("chunked twice", &post("Transfer-Encoding: chunked, chunked\r\n", "0\r\n\r\n")),
            ("coding on 1.0", "POST /ingest HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        ],
    );
}

#[test]
fn a_length_that_is_no_number_is_400() {
    let fields = [
        "2, 2",
        "+2",
        "-2",
        "2 2",
        "",
        " ",
        "0x2",
        "2,",
        "١",
        "99999999999999999999",
        "18446744073709551616",
        "2.0",
    ];
    let requests: Vec<(String, String)> = fields
        .iter()
        .map(|value| (format!("length {value:?}"), post(&format!("Content-Length: {value}\r\n"), "{}")))
        .collect();
    let requests: Vec<(&str, &str)> =
        requests.iter().map(|(what, input)| (what.as_str(), input.as_str())).collect();
    refused(400, &requests);
}

#[test]
fn an_unknown_transfer_coding_is_501() {
    refused(
        501,
        &[
            ("gzip alone", &post("Transfer-Encoding: gzip\r\n", "")),
            ("gzip before chunked", &post("Transfer-Encoding: gzip, chunked\r\n", "0\r\n\r\n")),
            ("an invented one", &post("Transfer-Encoding: cow\r\n", "")),
        ],
    );
}

#[test]
fn a_head_that_is_not_to_the_letter_is_400() {
    refused(
        400,
        &[
            ("space before the colon", &post("X : y\r\n", "")),
            ("space before the length's colon", &post("Content-Length : 2\r\n", "{}")),
            ("a folded line", &post("X: y\r\n z\r\n", "")),
            ("a fold first", "POST /ingest HTTP/1.1\r\n Host: localhost\r\n\r\n"),
            ("bare LF", "POST /ingest HTTP/1.1\nHost: localhost\n\n"),
            (
                "bare LF after a field",
                "POST /ingest HTTP/1.1\r\nHost: localhost\nContent-Length: 2\r\n\r\n{}",
            ),
            ("bare CR in a value", &post("X: a\rb\r\n", "")),
            ("NUL in a value", &post("X: a\0b\r\n", "")),
            ("control byte in a value", &post("X: a\x01b\r\n", "")),
            ("empty name", &post(": y\r\n", "")),
            ("name that is no token", &post("X(Y): y\r\n", "")),
            ("no colon", &post("nonsense\r\n", "")),
            ("no Host", "POST /ingest HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}"),
            ("two Hosts", &post("Host: elsewhere\r\n", "")),
            ("a bad Host", "POST /ingest HTTP/1.1\r\nHost: a b\r\n\r\n"),
            ("a Host with a path", "POST /ingest HTTP/1.1\r\nHost: localhost/x\r\n\r\n"),
            ("two spaces", "POST  /ingest HTTP/1.1\r\nHost: localhost\r\n\r\n"),
            ("a tab", "POST\t/ingest HTTP/1.1\r\nHost: localhost\r\n\r\n"),
            ("a control byte in the target", "POST /in\x01gest HTTP/1.1\r\nHost: localhost\r\n\r\n"),
            ("a method that is no token", "PO(ST /ingest HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        ],
    );
}

#[test]
fn a_chunk_that_is_not_to_the_letter_is_400() {
    let sizes = ["0x2", "0_2", "+2", "-2", "", " 2", "2 ", "00000000000000002", "g", "2;a=\nb"];
    let mut requests: Vec<(String, String)> = sizes
        .iter()
        .map(|size| {
            (
                format!("chunk size {size:?}"),
                post("Transfer-Encoding: chunked\r\n", &format!("{size}\r\n{{}}\r\n0\r\n\r\n")),
            )
        })
        .collect();
    let long = format!("2;x={}\r\n{{}}\r\n0\r\n\r\n", "e".repeat(1200));
    for (what, body) in [
        ("data not followed by CRLF", "2\r\n{}0\r\n\r\n"),
        ("size ended by LF", "2\n{}\r\n0\r\n\r\n"),
        ("a long extension", long.as_str()),
    ] {
        requests.push((what.to_owned(), post("Transfer-Encoding: chunked\r\n", body)));
    }
    let requests: Vec<(&str, &str)> =
        requests.iter().map(|(what, input)| (what.as_str(), input.as_str())).collect();
    refused(400, &requests);
}

#[test]
fn an_oversized_head_is_431() {
    let long = format!("X: {}\r\n", "y".repeat(20_000));
    let many: String = (0..150).map(|number| format!("X-{number}: y\r\n")).collect();
    refused(431, &[("a long field", &post(&long, "")), ("many fields", &post(&many, ""))]);
}

#[test]
fn another_version_is_505() {
    refused(
        505,
        &[
            ("HTTP/2.0 in a request line", "POST /ingest HTTP/2.0\r\nHost: localhost\r\n\r\n"),
            ("HTTP/3.0", "POST /ingest HTTP/3.0\r\nHost: localhost\r\n\r\n"),
        ],
    );
}

#[test]
fn what_is_no_http_at_all_is_closed_without_text() {
    let server = Server::start();
    for input in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
        b"EHLO example.org\r\n\r\n",
        b"\0\0\0\0\r\n\r\n",
    ] {
        let mut peer = Peer::connect(server.gateway());
        peer.send(input);
        assert!(peer.rest().is_empty(), "{input:?}");
    }
}

#[test]
fn neighbours_never_notice_a_malformed_request() {
    let server = Server::start();
    let mut neighbour = Peer::connect(server.gateway());
    for _ in 0..20 {
        let mut bad = Peer::connect(server.gateway());
        bad.send("POST /ingest HTTP/1.1\r\nHost: a b\r\n\r\n");
        neighbour.send("POST /ingest HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}");
        assert_eq!(bad.answer(false).unwrap().status, 400);
        assert_eq!(neighbour.answer(false).unwrap().status, 200);
    }
    assert_eq!(server.settled(), 20);
}

#[test]
fn bodies_that_never_end_take_no_more_memory_than_there_is_for_them() {
    const PEERS: usize = 32;
    let server = Start::new().argument("--cores").argument("1").run();
    let part = vec![b' '; 9 << 20];
    let mut peers: Vec<Peer> = (0..PEERS)
        .map(|_| {
            let mut peer = Peer::connect(server.gateway());
            peer.send(format!("POST /v1/events HTTP/1.1\r\nHost: t\r\nContent-Length: {}\r\n\r\n", 10 << 20));
            peer
        })
        .collect();
    for peer in &mut peers {
        peer.send_if_open(&part);
    }
    // 256 MiB are a few more than 16 bodies: each may hold twice what has come of it.
    eventually("some are turned away, and the others have their room", || {
        let page = get(server.gateway(), "/metrics").text().to_owned();
        let line =
            page.lines().find(|line| line.starts_with(r#"tidegate_limit_hits_total{reason="body_room"}"#))?;
        let turned_away = line.rsplit(' ').next()?.parse::<f64>().ok()?;
        (4.0..(PEERS - 12) as f64).contains(&turned_away).then_some(())
    });
    drop(peers);
    eventually("their room is given back", || {
        let answer = post_json(server.gateway(), "/v1/events", r#"{"user_id":"u","event_type":1}"#);
        (answer.status == 200).then_some(())
    });
}
