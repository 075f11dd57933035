//! The HTTP/1.1 connection from the outside: bytes in, bytes and calls out.
#![allow(clippy::unwrap_used, reason = "a test's own helper may fail the test")]

use transports::h1::{
    Accept, Answer, Application, Close, Connection, Fault, Limits, Place, Ready, Reply, RequestHead, Waiting,
};

const DATE: &[u8; 29] = b"Sun, 06 Nov 1994 08:49:37 GMT";

/// Writes down what it is called with, and does as the path says.
#[derive(Default)]
struct Recorder {
    heads: usize,
    requests: Vec<String>,
}

impl Application for Recorder {
    fn head(&mut self, head: &RequestHead<'_>, reply: Reply<'_>) -> Accept {
        self.heads += 1;
        match head.path() {
            b"/refuse" => Accept::Refused(reply.full(404, [], b"no")),
            b"/refuse-later" => Accept::Refused(reply.later()),
            b"/small" => Accept::BodyUpTo(4),
            _ => Accept::Body,
        }
    }

    fn request(&mut self, head: &RequestHead<'_>, body: &[u8], reply: Reply<'_>) -> Answer {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        self.requests.push(format!("{} {} {}", text(head.method()), text(head.target()), text(body)));
        match head.path() {
            b"/later" => reply.later(),
            b"/close" => reply.and_close().ready(&Ready::json(200), b"{}"),
            _ => reply.ready(&Ready::json(200), &head.path()[1..]),
        }
    }
}

/// A connection with its application, and the driver's part: the rest of the input goes in front of the next.
struct Client {
    connection: Connection,
    app: Recorder,
    input: Vec<u8>,
    out: Vec<u8>,
}

impl Client {
    fn new() -> Self {
        Self::with(Limits::default())
    }

    fn with(limits: Limits) -> Self {
        let connection = Connection::new(limits);
        Self { connection, app: Recorder::default(), input: Vec::new(), out: Vec::new() }
    }

    fn send(&mut self, bytes: impl AsRef<[u8]>) -> Result<(), Close> {
        self.input.extend_from_slice(bytes.as_ref());
        loop {
            let used = self.connection.receive(&self.input, DATE, &mut self.app, &mut self.out)?;
            self.input.drain(..used);
            if used == 0 || self.input.is_empty() || self.connection.is_pending() {
                return Ok(());
            }
        }
    }

    fn answers(&mut self) -> String {
        String::from_utf8(std::mem::take(&mut self.out)).unwrap()
    }

    /// The bodies of the answers, which are all plain ones with a length.
    fn bodies(&mut self) -> Vec<String> {
        let text = self.answers();
        let mut rest = &text[..];
        let mut bodies = Vec::new();
        while !rest.is_empty() {
            let (head, after) = rest.split_once("\r\n\r\n").unwrap();
            let (_, length) = head.split_once("Content-Length: ").unwrap();
            let length: usize = length.lines().next().unwrap().parse().unwrap();
            let (body, after) = after.split_at(length);
            bodies.push(body.to_owned());
            rest = after;
        }
        bodies
    }
}

fn post(path: &str, body: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

fn chunked(path: &str, chunks: &[&str]) -> String {
    let mut text = format!("POST {path} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n");
    for chunk in chunks {
        text += &format!("{:x}\r\n{chunk}\r\n", chunk.len());
    }
    text + "0\r\n\r\n"
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let mut client = Client::new();
    let all: String = (0..100).map(|n| post(&format!("/{n}"), "x")).collect();
    let used = client.connection.receive(all.as_bytes(), DATE, &mut client.app, &mut client.out).unwrap();
    assert_eq!(client.app.requests.len(), 32, "one call answers no more");
    client.send(&all[used..]).unwrap();
    let expected: Vec<String> = (0..100).map(|n| n.to_string()).collect();
    assert_eq!(client.bodies(), expected);
    assert_eq!(client.connection.waiting_for(), Waiting::Idle);
}

#[test]
fn byte_by_byte_equals_all_at_once() {
    let long = "y".repeat(3000);
    let script = [
        post("/a", "body"),
        "\r\n".to_owned(),
        "GET /b?q HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(),
        chunked("/c", &["one", "two", &long]),
        post("/refuse", "skipped"),
        chunked("/refuse", &["skipped", "too"]),
        post("/e", ""),
        post("/f", &long),
        format!("GET /g HTTP/1.1\r\nHost: h\r\nX: {long}\r\n\r\n"),
        "HEAD /h HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n".to_owned(),
        post("/never", "x"),
    ]
    .concat();
    let mut whole = Client::new();
    whole.send(&script).unwrap();
    assert_eq!(whole.app.requests.len(), 7);
    assert_eq!(whole.connection.waiting_for(), Waiting::Close);
    for step in [1, 2, 3, 7, 64, 1000] {
        let mut pieces = Client::new();
        for piece in script.as_bytes().chunks(step) {
            pieces.send(piece).unwrap();
        }
        assert_eq!(pieces.app.requests, whole.app.requests, "steps of {step}");
        assert_eq!(pieces.out, whole.out, "steps of {step}");
        assert_eq!(pieces.app.heads, whole.app.heads);
    }
}

#[test]
fn malformed_requests_are_answered_and_nothing_behind_them_is_read() {
    for (request, status) in [
        ("GET  / HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost : h\r\n\r\n", 400),
        ("GET / HTTP/1.1\nHost: h\n\n", 400),
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: h\r\nHost: h\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: h\r\n folded\r\n\r\n", 400),
        (
            "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
        ),
        ("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 4, 4\r\n\r\nbody", 400),
        ("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
        ("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0x1\r\na\r\n0\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1;\n\r\na\r\n0\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10485761\r\n\r\n", 413),
        ("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\na00001\r\n", 413),
        ("POST /small HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello", 413),
        ("POST / HTTP/1.1\r\nHost: h\r\nExpect: 200-ok\r\nContent-Length: 1\r\n\r\na", 417),
        ("GET / HTTP/2.0\r\nHost: h\r\n\r\n", 505),
        ("CONNECT h:80 HTTP/1.1\r\nHost: h\r\n\r\n", 501),
    ] {
        for step in [1, usize::MAX] {
            let mut client = Client::new();
            let input = [post("/first", "x"), request.to_owned(), post("/smuggled", "x")].concat();
            let close = input.as_bytes().chunks(step).find_map(|piece| client.send(piece).err());
            let close = close.unwrap_or_else(|| panic!("{request:?} was not refused"));
            assert_eq!(close.fault.status(), status, "{request:?}: {close}");
            assert_eq!(client.app.requests, ["POST /first x"], "{request:?}");
            let answers = client.answers();
            let error_at = answers.find(&format!("HTTP/1.1 {status} "));
            let (_, error) = answers.split_at(error_at.unwrap_or_else(|| panic!("{answers}")));
            assert!(error.contains("\r\nConnection: close\r\n"), "{error}");
            assert!(error.contains("\r\nContent-Type: application/json\r\n"), "{error}");
            let body: serde_json::Value =
                serde_json::from_str(error.split_once("\r\n\r\n").unwrap().1).unwrap();
            assert_eq!(body["status"], "error");
            let code = match status {
                413 => "RESOURCE_EXHAUSTED",
                500.. => "UNIMPLEMENTED",
                _ => "INVALID_ARGUMENT",
            };
            assert_eq!(body["code"], code);
            assert!(body["error"].as_str().unwrap().contains(", at byte "), "{body}");
            assert!(client.connection.should_close());
            client.send(post("/after", "x")).unwrap();
            assert_eq!(client.app.requests.len(), 1);
            assert_eq!(client.out, b"", "one error answer is enough");
        }
    }
}

#[test]
fn a_fault_says_where_it_is() {
    let close = Client::new().send("GET / HTTP/1.1\r\nHost: h\r\nA : b\r\n\r\n").unwrap_err();
    assert_eq!(close, Close { fault: Fault::SpaceBeforeColon, at: 26, place: Place::Head });
    assert_eq!(
        close.to_string(),
        "whitespace between a field name and its colon, at byte 26 of the request head"
    );
    let close = Client::new()
        .send("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab")
        .unwrap_err();
    assert_eq!(close, Close { fault: Fault::ChunkDataEnding, at: 4, place: Place::Body });
}

#[test]
fn head_limits_answer_414_and_431() {
    let status = |request: String| Client::new().send(request).unwrap_err().fault.status();
    assert_eq!(status(format!("GET /{} HTTP/1.1\r\nHost: h\r\n\r\n", "x".repeat(8 * 1024))), 414);
    assert_eq!(status(format!("GET /{}", "x".repeat(8 * 1024))), 414);
    assert_eq!(status(format!("GET / HTTP/1.1\r\nHost: h\r\nX: {}", "x".repeat(16 * 1024))), 431);
    assert_eq!(status(format!("GET / HTTP/1.1\r\nHost: h\r\n{}\r\n", "X: y\r\n".repeat(100))), 431);
    let mut slow = Client::new();
    let close = [b'x'; 20_000].iter().find_map(|byte| slow.send([*byte]).err()).unwrap();
    assert_eq!(close.fault, Fault::RequestLineTooLong);
}

#[test]
fn continue_is_sent_once_and_only_to_a_client_that_waits() {
    let head = "POST /a HTTP/1.1\r\nHost: h\r\nExpect: 100-Continue\r\nContent-Length: 2\r\n\r\n";
    let mut client = Client::new();
    client.send(head).unwrap();
    assert_eq!(client.answers(), "HTTP/1.1 100 Continue\r\n\r\n");
    client.send("h").unwrap();
    assert_eq!((client.answers().as_str(), client.connection.waiting_for()), ("", Waiting::Body));
    client.send("i").unwrap();
    assert!(client.answers().starts_with("HTTP/1.1 200 OK\r\n"));

    client.send(format!("{head}hi")).unwrap();
    assert!(client.answers().starts_with("HTTP/1.1 200 OK\r\n"));
    client.send(format!("{head}h")).unwrap();
    assert_eq!(client.answers(), "");

    let mut old = Client::new();
    old.send("POST /a HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n").unwrap();
    assert_eq!(old.answers(), "");
}

#[test]
fn a_refusal_before_100_continue_closes() {
    let mut client = Client::new();
    client
        .send("POST /refuse HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
        .unwrap();
    let answer = client.answers();
    assert!(answer.starts_with("HTTP/1.1 404 ") && answer.contains("Connection: close"), "{answer}");
    assert!(client.connection.should_close());
}

#[test]
fn a_refused_body_is_skipped_up_to_64_kib() {
    let mut client = Client::new();
    client.send(post("/refuse", &"x".repeat(64 * 1024)) + &post("/next", "y")).unwrap();
    assert_eq!(client.app.requests, ["POST /next y"]);
    assert_eq!(client.bodies(), ["no", "next"]);

    let mut client = Client::new();
    client.send(post("/refuse", &"x".repeat(64 * 1024 + 1)) + &post("/next", "y")).unwrap();
    assert!(client.answers().contains("Connection: close"));
    assert!(client.connection.should_close() && client.app.requests.is_empty());

    let mut client = Client::new();
    let endless = chunked("/refuse", &["z".repeat(70_000).as_str()]);
    assert_eq!(client.send(endless).unwrap_err().fault, Fault::BodyTooLarge);
    assert_eq!(client.answers().matches("HTTP/1.1 ").count(), 1, "its answer is already given");
}

#[test]
fn a_body_grows_with_what_arrives() {
    let mut client = Client::new();
    client.send("POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 10000000\r\n\r\nabc").unwrap();
    assert_eq!(client.connection.waiting_for(), Waiting::Body);
    assert_eq!(client.connection.body_bytes_received(), 3);
    client.send(vec![b'd'; 500]).unwrap();
    assert_eq!(client.connection.body_bytes_received(), 503);
    assert_eq!(client.app.heads, 1);
}

#[test]
fn waiting_for_names_the_phase() {
    let mut client = Client::new();
    assert_eq!(client.connection.waiting_for(), Waiting::Idle);
    client.send("P").unwrap();
    assert_eq!(client.connection.waiting_for(), Waiting::Head);
    client.send("OST /later HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\n").unwrap();
    assert_eq!(client.connection.waiting_for(), Waiting::Body);
    client.send("x").unwrap();
    assert_eq!(client.connection.waiting_for(), Waiting::Work);
    assert!(client.connection.is_pending());
}

#[test]
fn nothing_is_parsed_behind_a_request_that_is_answered_later() {
    let mut client = Client::new();
    client.send(post("/later", "1") + &post("/second", "2")).unwrap();
    assert_eq!(client.app.requests, ["POST /later 1"]);
    assert!(client.connection.is_pending());
    client.send("").unwrap();
    assert_eq!(client.app.requests.len(), 1);
    let answered =
        client.connection.answer(DATE, &mut client.out, |reply| reply.ready(&Ready::json(200), b"done"));
    assert!(answered && !client.connection.is_pending());
    client.send("").unwrap();
    assert_eq!(client.app.requests.len(), 2);
    assert_eq!(client.bodies(), ["done", "second"]);
    assert!(!client.connection.answer(DATE, &mut client.out, |reply| reply.later()));
}

#[test]
fn a_streamed_answer_has_a_length_or_chunks() {
    let fields = [(&b"Content-Type"[..], &b"text/plain"[..]), (b"content-length", b"7")];
    let stream = |request: &str, length: Option<u64>| {
        let mut client = Client::new();
        client.send(request).unwrap();
        client.connection.begin_response(200, fields, length, DATE, &mut client.out);
        client.connection.body(b"", &mut client.out);
        client.connection.body(b"hello ", &mut client.out);
        client.connection.body(b"world", &mut client.out);
        client.connection.end(&mut client.out);
        let answer = client.answers();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nDate: "), "{head}");
        let framing: Vec<_> = head.lines().skip(3).map(str::to_owned).collect();
        (framing.join("|"), body.to_owned(), client.connection.should_close())
    };
    let get = "GET /later HTTP/1.1\r\nHost: h\r\n\r\n";
    assert_eq!(stream(get, Some(11)), ("Content-Length: 11".into(), "hello world".into(), false));
    assert_eq!(stream(get, Some(12)), ("Content-Length: 12".into(), "hello world".into(), true));
    assert_eq!(
        stream(get, None),
        ("Transfer-Encoding: chunked".into(), "6\r\nhello \r\n5\r\nworld\r\n0\r\n\r\n".into(), false)
    );
    let head = "HEAD /later HTTP/1.1\r\nHost: h\r\n\r\n";
    assert_eq!(stream(head, Some(11)), ("Content-Length: 11".into(), String::new(), false));
    assert_eq!(stream(head, None), (String::new(), String::new(), false));
    let old = "GET /later HTTP/1.0\r\nConnection: keep-alive\r\n\r\n";
    assert_eq!(stream(old, None), ("Connection: close".into(), "hello world".into(), true));
    assert_eq!(
        stream(old, Some(11)),
        ("Content-Length: 11|Connection: keep-alive".into(), "hello world".into(), false)
    );
}

#[test]
fn a_bodiless_status_ends_with_its_head() {
    for status in [204, 304] {
        let mut client = Client::new();
        client.send("GET /later HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
        client.connection.begin_response(status, [], None, DATE, &mut client.out);
        client.connection.body(b"nothing", &mut client.out);
        client.connection.end(&mut client.out);
        assert!(client.answers().ends_with(" GMT\r\n\r\n"));
        assert!(!client.connection.should_close());
    }
}

#[test]
fn an_aborted_answer_is_cut() {
    let mut client = Client::new();
    client.send("GET /later HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    client.connection.begin_response(200, [], None, DATE, &mut client.out);
    client.connection.body(b"half", &mut client.out);
    client.connection.abort();
    client.connection.end(&mut client.out);
    assert!(client.answers().ends_with("4\r\nhalf\r\n"));
    assert!(client.connection.should_close());
}

#[test]
fn a_refusal_that_is_answered_later_skips_the_body_then() {
    let mut client = Client::new();
    client.send(post("/refuse-later", "skipped") + &post("/next", "x")).unwrap();
    assert!(client.connection.is_pending());
    client.connection.answer(DATE, &mut client.out, |reply| reply.full(401, [], b"key"));
    client.send("").unwrap();
    assert_eq!(client.bodies(), ["key", "next"]);
    assert_eq!(client.app.requests, ["POST /next x"]);
}

#[test]
fn connections_close_when_either_side_wants_it() {
    for (request, closes) in [
        ("GET /a HTTP/1.1\r\nHost: h\r\n\r\n", false),
        ("GET /a HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", true),
        ("GET /close HTTP/1.1\r\nHost: h\r\n\r\n", true),
        ("GET /a HTTP/1.0\r\n\r\n", true),
        ("GET /a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", false),
        ("GET /a HTTP/1.1\r\nHost: h\r\nUpgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\n\r\n", false),
    ] {
        let mut client = Client::new();
        client.send(request).unwrap();
        assert_eq!(client.connection.should_close(), closes, "{request:?}");
        let answer = client.answers();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert_eq!(answer.contains("Connection: close"), closes, "{request:?}");
    }
}

#[test]
fn a_draining_connection_answers_once_more() {
    let mut client = Client::new();
    client.connection.close_after_current();
    client.send(post("/a", "x") + &post("/b", "y")).unwrap();
    assert_eq!(client.app.requests, ["POST /a x"]);
    assert!(client.answers().contains("Connection: close") && client.connection.should_close());

    let mut client = Client::new();
    client.send(post("/later", "x")).unwrap();
    client.connection.close_after_current();
    client.connection.begin_response(200, [], Some(0), DATE, &mut client.out);
    client.connection.end(&mut client.out);
    assert!(client.answers().contains("Connection: close") && client.connection.should_close());
}

#[test]
fn only_a_request_that_has_begun_gets_408() {
    for (input, answer) in [
        (String::new(), false),
        (post("/a", "x"), false),
        ("POST /a HT".to_owned(), true),
        (post("/a", "xy").replace("xy", "x"), true),
        (post("/refuse", "xy").replace("xy", "x"), false),
        (post("/later", "x"), false),
    ] {
        let mut client = Client::new();
        client.send(&input).unwrap();
        client.out.clear();
        client.connection.time_out(DATE, &mut client.out);
        let text = client.answers();
        assert_eq!(text.starts_with("HTTP/1.1 408 Request Timeout\r\n"), answer, "{input:?}: {text}");
        assert_eq!(text.is_empty(), !answer);
        assert!(client.connection.should_close());
    }
}

#[test]
fn garbage_does_no_harm() {
    let seeds = [
        post("/a", "body"),
        chunked("/b", &["one", "two"]),
        "GET http://h:80/c?d HTTP/1.1\r\nHost: h\r\nX: y\r\nConnection: keep-alive\r\n\r\n".to_owned(),
    ];
    let mut random = fastrand::Rng::with_seed(7);
    for round in 0..20_000 {
        let mut bytes = seeds.concat().into_bytes();
        for _ in 0..random.usize(1..6) {
            let at = random.usize(..bytes.len());
            match random.u8(..3) {
                0 => bytes[at] = random.u8(..),
                1 => bytes.insert(at, *random.choice(b"\r\n :;,0\0").unwrap_or(&b' ')),
                _ => {
                    bytes.remove(at);
                }
            }
        }
        let mut whole = Client::new();
        let outcome = whole.send(&bytes);
        let mut pieces = Client::new();
        let step = random.usize(1..40);
        let piecewise = bytes.chunks(step).try_for_each(|piece| pieces.send(piece));
        // A fault behind what arrived so far may be found earlier or later, but what was served is the same.
        assert_eq!(outcome.is_err(), piecewise.is_err(), "round {round}: {}", bytes.escape_ascii());
        assert_eq!(whole.app.requests, pieces.app.requests, "round {round}");
    }
    for _ in 0..2_000 {
        let mut bytes = vec![0; random.usize(..200)];
        random.fill(&mut bytes);
        let _any = Client::new().send(&bytes);
    }
}
