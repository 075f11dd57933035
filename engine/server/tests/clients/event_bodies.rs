//! Bodies of events that could be understood in two ways, and those that could not be: both lanes read them alike.

use crate::harness::{Answer, Peer, Server, get, post_json};

const JSON_EVENT: &str = "/analytics.v1.EventIngestionService/IngestEvent";
const JSON_EVENTS: &str = "/analytics.v1.EventIngestionService/IngestEvents";
const JSON_STREAM: &str = "/analytics.v1.EventIngestionService/StreamEvents";

fn post_lines(server: &Server, path: &str, body: &str) -> Answer {
    let mut peer = Peer::connect(server.gateway());
    peer.send(format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    ));
    peer.answer(false).unwrap()
}

/// Posts each body and expects a 400 that contains the words; nothing is taken.
#[track_caller]
fn are_refused<'a>(cases: impl IntoIterator<Item = (&'a str, &'a str, &'a str)>) {
    let server = Server::start();
    for (path, body, words) in cases {
        let answer = post_json(server.gateway(), path, body);
        assert_eq!(answer.status, 400, "{path} {body}: {}", answer.text());
        let text = answer.json().to_string();
        assert!(text.contains(words), "{path} {body}: {words:?} is not in {text}");
    }
    assert_eq!(server.received(), (0, 0, 0));
}

#[test]
fn what_comes_twice_is_refused_by_name() {
    let event = r#""user_id":"u","event_type":1"#;
    let typed = [
        (r#""user_id":"v""#, "/user_id"),
        (r#""userId":"v""#, "user_id: it comes twice"),
        (r#""properties":{"a":"1","a":"2"}"#, "/properties/a"),
        (r#""user_event":{"action":"a","pageUrl":"/a","page_url":"/b"}"#, "page_url: it comes twice"),
        (r#""user_event":{"action":"a","metadata":{"k":"1","k":"2"}}"#, "/metadata/k"),
        (r#""custom_event":{"name":"n","attributes":{"k":"1","\u006b":"2"}}"#, "/attributes/k"),
        (r#""user_event":{"action":"a"},"custom_event":{"name":"n"}"#, "event_data"),
        // Also what is dropped.
        (r#""x":1,"x":2"#, "/x"),
        (r#""x":{"y":[{"z":1,"z":1}]}"#, "/y/0/z"),
    ];
    let mut cases: Vec<(&str, String, &str)> = Vec::new();
    for (more, words) in typed {
        let event = format!("{{{event},{more}}}");
        cases.push((JSON_EVENT, format!(r#"{{"event":{event}}}"#), words));
        cases.push((JSON_EVENTS, format!(r#"{{"events":[{event}]}}"#), words));
        cases.push((JSON_STREAM, format!(r#"{{"event":{event}}}"#), words));
        cases.push(("/v1/events", format!(r#"{{"event":{event},"options":{{}}}}"#), words));
        cases.push(("/v1/events", format!(r#"{{"event":{event}}}"#), words));
        cases.push(("/v1/events/batch", format!(r#"{{"events":[{event}]}}"#), words));
        cases.push(("/v1/events", event, words));
    }
    let wrapped = format!(r#"{{"event":{{{event}}},"event":{{{event}}}}}"#);
    cases.push(("/v1/events", wrapped, "/event"));
    let batch = format!(r#"{{"events":[],"events":[{{{event}}}]}}"#);
    cases.push(("/v1/events/batch", batch, "/events"));
    let options = format!(r#"{{"event":{{{event}}},"options":{{"async":true,"async":false}}}}"#);
    cases.push(("/v1/events", options, "/options/async"));
    let older = r#""id":"e","event_type":"x""#;
    for (more, words) in [
        (r#""id":"f""#, "duplicate field `id`"),
        (r#""source":"a","source":"b""#, "duplicate field `source`"),
        (r#""properties":{"a":"1","a":"2"}"#, "duplicate key `a`"),
    ] {
        let event = format!("{{{older},{more}}}");
        for path in ["/events/batch", "/batch"] {
            cases.push((path, format!(r#"{{"events":[{event}]}}"#), words));
        }
        cases.push(("/events/async", event.clone(), words));
        cases.push(("/events", event, words));
    }
    cases.push((
        "/events/batch",
        format!(r#"{{"events":[{{{older}}}],"events":[]}}"#),
        "duplicate field `events`",
    ));
    for (body, words) in [
        (r#"{"data":"a","data":"b"}"#, "/data"),
        (r#"{"data":"a","metadata":{"k":1,"k":2}}"#, "/metadata/k"),
        (r#"{"data":"a","metadata":{"k":{"l":1,"l":2}}}"#, "/metadata/k/l"),
    ] {
        cases.push(("/api/v1/events/user", body.to_owned(), words));
        cases.push(("/api/v1/ingest", body.to_owned(), words));
    }
    are_refused(cases.iter().map(|(path, body, words)| (*path, body.as_str(), *words)));
}

#[test]
fn what_stands_beside_an_event_and_is_no_part_of_a_request_is_refused_by_name() {
    are_refused([
        (
            "/v1/events",
            r#"{"event":{"user_id":"u","event_type":1},"optoins":{"validate_only":true}}"#,
            "optoins: unknown field",
        ),
        (
            "/v1/events",
            r#"{"optoins":{"validate_only":true},"event":{"user_id":"u","event_type":1}}"#,
            "optoins: unknown field",
        ),
        (
            "/v1/events",
            r#"{"event":{"user_id":"u","event_type":1},"options":{"validateonly":true}}"#,
            "validateonly: unknown field",
        ),
        (
            "/v1/events",
            r#"{"event":{"user_id":"u","event_type":1},"user_id":"v"}"#,
            "user_id: a field of an event beside `event`",
        ),
        (
            "/v1/events",
            r#"{"user_id":"u","event_type":1,"options":{"validate_only":true}}"#,
            "beside `options`",
        ),
        ("/v1/events", r#"{"user_id":"u","event_type":1,"event":{}}"#, "beside `event`"),
        (
            "/v1/events/batch",
            r#"{"events":[{"user_id":"u","event_type":1}],"optoins":{}}"#,
            "optoins: unknown field",
        ),
        ("/v1/events/batch", r#"{"x":1,"events":[{"user_id":"u","event_type":1}]}"#, "x: unknown field"),
        (JSON_EVENT, r#"{"event":{"user_id":"u","event_type":1},"x":1}"#, "x: unknown field"),
        (JSON_EVENTS, r#"{"events":[{"user_id":"u","event_type":1}],"options":{"x":1}}"#, "x: unknown field"),
        (JSON_STREAM, r#"{"event":{"user_id":"u","event_type":1},"x":1}"#, "x: unknown field"),
    ]);
}

#[test]
fn what_is_no_field_of_an_event_is_dropped_in_both_lanes() {
    let server = Server::start();
    let event = r#"{"user_id":"u","event_type":1,"x":"a","y":{"z":[1,{"w":null}]}}"#;
    for (path, body) in [
        ("/v1/events", event.to_owned()),
        ("/v1/events", format!(r#"{{"event":{event}}}"#)),
        ("/v1/events", format!(r#"{{"event":{event},"options":{{}}}}"#)),
        ("/v1/events/batch", format!(r#"{{"events":[{event}]}}"#)),
        ("/v1/events/batch", format!(r#"{{"events":[{event}],"options":{{}}}}"#)),
        ("/events", r#"{"id":"e","event_type":"x","x":1,"userId":"u"}"#.to_owned()),
        ("/events/batch", r#"{"events":[{"id":"f","event_type":"x","x":1}],"x":2}"#.to_owned()),
        ("/api/v1/events/user", r#"{"data":"a","x":1}"#.to_owned()),
        ("/api/v1/ingest", r#"{"data":"a","x":1}"#.to_owned()),
    ] {
        let answer = post_json(server.gateway(), path, &body);
        assert_eq!(answer.status, 200, "{path} {body}: {}", answer.text());
        assert!(!answer.text().contains(r#""success":false"#), "{path} {body}: {}", answer.text());
    }
}

#[test]
fn a_line_that_is_no_event_is_named() {
    let server = Server::start();
    let (typed, older) = (r#"{"user_id":"u","event_type":1}"#, r#"{"id":"e","event_type":"x"}"#);
    for (wrong, words) in [
        ("{\"user_id\":", "line 3"),
        ("nonsense", "line 3: "),
        (r#"{"user_id":7,"id":7,"event_type":1}"#, "line 3: "),
        ("[]", "line 3: "),
    ] {
        for (path, good) in [("/v1/events/batch", typed), ("/events/batch", older)] {
            for body in [format!("{good}\n\n{wrong}\n{good}\n"), format!("{good}\r\n{good}\r\n{wrong}")] {
                let answer = post_lines(&server, path, &body);
                assert_eq!(answer.status, 400, "{path} {body}: {}", answer.text());
                assert!(answer.text().contains(words), "{path} {body}: {}", answer.text());
            }
        }
    }
    for (wrong, words) in [
        (r#"{"user_id":"u","event_type":"EVENT_TYPE_USR"}"#, "line 3: event_type: expected one of"),
        (r#"{"user_id":"u","userId":"u","event_type":1}"#, "line 3: user_id: it comes twice"),
        (r#"{"user_id":"u","user_id":"u","event_type":1}"#, "line 3: duplicate key"),
    ] {
        let answer = post_lines(&server, "/v1/events/batch", &format!("{typed}\n{typed}\n{wrong}\n"));
        assert!(answer.status == 400 && answer.text().contains(words), "{wrong}: {}", answer.text());
    }
    // In an array it is its place.
    for (wrong, words) in
        [(r#"{"user_id":7}"#, "events[1]: "), (r#"{"event_type":"x"}"#, "events[1]: event_type: ")]
    {
        let answer =
            post_json(server.gateway(), "/v1/events/batch", &format!(r#"{{"events":[{typed},{wrong}]}}"#));
        assert!(answer.status == 400 && answer.text().contains(words), "{wrong}: {}", answer.text());
    }
    assert_eq!(server.received(), (0, 0, 0));
}

#[test]
fn a_number_that_no_enum_has_is_refused_wherever_it_stands() {
    let money = |field: &str| {
        format!(
            r#"{{"user_id":"u","event_type":2,"transaction_event":{{"transaction_id":"t","currency":"EUR",{field}}}}}"#
        )
    };
    let system = |field: &str| format!(r#"{{"user_id":"u","event_type":3,"system_event":{{{field}}}}}"#);
    let mut cases = Vec::new();
    for (event, words) in [
        (money(r#""type":5"#), "transaction_event.type"),
        (money(r#""type":-1916707745"#), "transaction_event.type"),
        (money(r#""status":5"#), "transaction_event.status"),
        (system(r#""type":-1"#), "system_event.type"),
        (system(r#""severity":5"#), "system_event.severity"),
        (r#"{"user_id":"u","event_type":5}"#.to_owned(), "event_type"),
    ] {
        cases.push((JSON_EVENT, format!(r#"{{"event":{event}}}"#), words));
        cases.push(("/v1/events", event, words));
    }
    are_refused(cases.iter().map(|(path, body, words)| (*path, body.as_str(), *words)));
}

#[test]
fn values_out_of_their_range_are_refused_and_those_at_its_ends_are_taken_in_both_lanes() {
    let server = Server::start();
    let money = |amount: &str, currency: &str| {
        format!(
            r#"{{"user_id":"u","event_type":2,"transaction_event":{{"transaction_id":"t","amount":{amount},"currency":"{currency}"}}}}"#
        )
    };
    let waits = |seconds: &str| {
        let event = money("1", "EUR");
        format!(r#"{{"event":{event},"options":{{"timeout_seconds":{seconds}}}}}"#)
    };
    let producer = |number: &str| format!(r#"{{"data":"a","metadata":{{"k":{number},"l":[{number}]}}}}"#);
    let enqueued = |number: &str| format!(r#"{{"payload":"","metadata":{{"k":{number}}}}}"#);
    for (path, body, status) in [
        ("/v1/events", money("0", "EUR"), 200),
        ("/v1/events", money("1000000000000", "eur"), 200),
        ("/v1/events", money("1e12", "Usd"), 200),
        ("/v1/events", money("1000000000000.001", "EUR"), 400),
        ("/v1/events", money("-0.01", "EUR"), 400),
        ("/v1/events", money("1e400", "EUR"), 400),
        ("/v1/events", money("1", "\u{20ac}1 "), 400),
        ("/v1/events", money("1", "E1R"), 400),
        ("/v1/events", money("1", "EU "), 400),
        ("/v1/events", money("1", "\u{e9}UR"), 400),
        ("/v1/events", money("1", ""), 400),
        ("/v1/events", waits("0"), 200),
        ("/v1/events", waits("300"), 200),
        ("/v1/events", waits("301"), 400),
        ("/v1/events", waits("-1"), 400),
        (
            "/v1/events/batch",
            r#"{"events":[{"user_id":"u","event_type":1}],"options":{"timeoutSeconds":-1}}"#.to_owned(),
            400,
        ),
        ("/api/v1/events/user", producer("1e300"), 200),
        ("/api/v1/events/user", producer("1e400"), 400),
        ("/api/v1/ingest", producer("1e300"), 200),
        ("/api/v1/ingest", producer("1e400"), 400),
        ("/enqueue", enqueued("1e300"), 202),
        ("/enqueue", enqueued("-1E+999"), 400),
    ] {
        let answer = post_json(server.gateway(), path, &body);
        assert_eq!(answer.status, status, "{path} {body}: {}", answer.text());
        if body.starts_with(r#"{"user_id""#) {
            let aside = format!(r#"{{"event":{body},"options":{{}}}}"#);
            assert_eq!(post_json(server.gateway(), path, &aside).status, status, "{aside}");
        }
    }
    let answer = post_json(server.gateway(), "/v1/events", &waits("301")).json();
    assert_eq!(answer["details"][0]["fieldViolations"][0]["field"], "options.timeout_seconds");
}

#[test]
fn the_first_and_the_last_time_there_is_are_times_like_any_other() {
    let server = Server::start();
    let times = [i64::MIN, i64::MIN + 1, -1, 1, i64::MAX / 1000, i64::MAX - 1, i64::MAX];
    for (place, first) in times.iter().enumerate() {
        for second in times {
            for time in [*first, second] {
                for path in ["/events", "/events/async"] {
                    let body = format!(
                        r#"{{"id":"e-{place}-{second}-{time}-{path}","user_id":"u-{place}-{second}","event_type":"page_view","timestamp":{time}}}"#
                    );
                    let answer = post_json(server.gateway(), path, &body);
                    assert!(matches!(answer.status, 200 | 202), "{path} {body}: {}", answer.text());
                }
                let message = format!(r#"{{"id":"","source":"s","payload":"","timestamp":{time}}}"#);
                assert_eq!(post_json(server.processor(), "/enqueue", &message).status, 202, "{message}");
            }
        }
    }
    server.settled();
    for place in 0..times.len() {
        let answer = get(server.gateway(), &format!("/v1/analytics/users/u-{place}-1"));
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    let funnel = r#"{"steps":[{"name":"a","event_type":"page_view"},{"name":"b","event_type":"page_view"}],
        "time_range":{"start":"1970-01-01T00:00:00Z","end":"9999-12-31T23:59:59Z"},"step_timeout":"315576000000s"}"#;
    let all = "time_range.start=1970-01-01T00:00:00Z&time_range.end=9999-12-31T23:59:59.999Z";
    let answer = post_json(server.gateway(), "/v1/analytics/funnel", funnel);
    assert_eq!(answer.status, 200, "{}", answer.text());
    for path in ["summary", "users/u-1-1", "users/u-0-1"].map(|of| format!("/v1/analytics/{of}?{all}")) {
        let answer = get(server.gateway(), &path);
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    }
    assert_eq!(get(server.gateway(), "/livez").status, 200);
}
