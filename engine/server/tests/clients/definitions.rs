//! What the numbers of analytics mean, over the wire: with filters and without, with a range and without. What is in them is
//! compared with SQL in `engine/analytics/tests/definitions.rs`.

use serde_json::{Value, json};

use crate::harness::{Server, Start, get, post_json};

fn sent(server: &Server, events: &[Value]) {
    let body = json!({ "events": events }).to_string();
    let answer = post_json(server.gateway(), "/v1/events/batch", &body);
    assert_eq!(answer.json()["processedCount"], events.len(), "{}", answer.text());
    server.settled();
}

fn event(id: &str, user: &str, time: &str, source: &str) -> Value {
    json!({
        "id": id, "user_id": user, "event_type": "EVENT_TYPE_USER", "timestamp": format!("2026-06-{time}Z"), "source": source,
    })
}

fn asked(server: &Server, path: &str) -> Value {
    let answer = get(server.gateway(), path);
    assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    answer.json()
}

fn range(from: &str, to: &str) -> String {
    format!("time_range.start=2026-06-{from}Z&time_range.end=2026-06-{to}Z")
}

#[test]
fn filtered_and_unfiltered_answers_are_of_the_same_sessions_and_the_same_time() {
    let server = Start::new().run();
    // One session over the full hour; one that begins behind it, exactly 30 minutes from its second event.
    sent(
        &server,
        &[
            event("1", "ada", "01T09:50:00", "web"),
            event("2", "ada", "01T10:10:00", "web"),
            event("3", "bob", "01T10:05:00", "web"),
            event("4", "bob", "01T10:35:00", "ios"),
            event("5", "bob", "01T11:05:00.001", "web"),
        ],
    );
    for (from, to, sessions) in [
        ("01T09:00:00", "01T10:00:00", "1"),
        ("01T10:00:00", "01T11:00:00", "1"),
        ("01T11:00:00", "01T12:00:00", "1"),
        ("01T00:00:00", "02T00:00:00", "3"),
    ] {
        for filter in ["", "&filters[event_type]=USER", "&event_types=USER"] {
            let path = format!("/v1/analytics/summary?{}{filter}", range(from, to));
            assert_eq!(asked(&server, &path)["sessions"], sessions, "{path}");
        }
    }
    let series = |filter: &str| {
        let range = range("01T09:00:00", "01T12:00:00");
        let series = asked(&server, &format!("/v1/analytics/timeseries?metric=sessions&{range}{filter}"));
        series["series"].as_array().unwrap().iter().map(|point| point["value"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(series(""), [1.0, 1.0, 1.0]);
    assert_eq!(series("&filters[event_type]=USER"), [1.0, 1.0, 1.0]);
    // The session holds an event from ios, and begins where it begins.
    assert_eq!(series("&filters[source]=ios"), [0.0, 1.0, 0.0]);
    // Half minutes are taken outwards, and said.
    for filter in ["", "&filters[event_type]=USER"] {
        let range = range("01T10:10:30", "01T10:34:30");
        let summary = asked(&server, &format!("/v1/analytics/summary?{range}{filter}"));
        assert_eq!(summary["totalEvents"], "1", "{filter}");
        let told = &summary["metadata"]["timeRange"];
        assert_eq!(told, &json!({"start": "2026-06-01T10:10:00Z", "end": "2026-06-01T10:35:00Z"}));
    }
    let path = format!(
        "/v1/analytics/timeseries?metric=minutes&{}&filters[source]=ios",
        range("01T09:00:00", "01T12:00:00")
    );
    let refused = get(server.gateway(), &path);
    assert!(refused.status == 400 && refused.text().contains("custom metric"), "{}", refused.text());
}

#[test]
fn a_metric_that_nobody_sent_is_named_and_one_that_was_sent_at_another_time_is_left_out() {
    let server = Start::new().run();
    let mut played = event("1", "ada", "01T10:00:00", "web");
    played["event_type"] = json!("EVENT_TYPE_CUSTOM");
    played["custom_event"] = json!({"name": "played", "metrics": [{"name": "minutes", "value": 3}]});
    sent(&server, &[played]);
    let day = range("01T00:00:00", "02T00:00:00");
    let path = |more: &str| format!("/v1/metrics?{day}&{more}");
    let found = asked(&server, &path("metric_names=minutes&aggregation=MAX"));
    assert_eq!(found["metrics"][0]["value"], 3.0);
    for (more, status, said) in [
        ("metric_names=hours&aggregation=MAX", 404, "hours"),
        ("metric_names=minutes&metric_names=hours", 404, "hours"),
        ("metric_names=events&aggregation=MAX", 400, "`events`"),
    ] {
        let answer = get(server.gateway(), &path(more));
        assert!(answer.status == status && answer.text().contains(said), "{more}: {}", answer.text());
    }
    let export = get(server.gateway(), "/v1/metrics/export?metric_names=hours");
    assert_eq!(export.status, 404, "{}", export.text());
    let elsewhere = range("05T00:00:00", "06T00:00:00");
    let found = asked(&server, &format!("/v1/metrics?{elsewhere}&metric_names=minutes&aggregation=MAX"));
    assert_eq!(found["metrics"], json!([]));
}

#[test]
fn a_users_events_are_the_latest_by_time_and_its_range_limits_sessions_events_and_metrics() {
    let server = Start::new().run();
    let mut events: Vec<Value> = (0..150)
        .map(|number| {
            let time = format!("02T{:02}:{:02}:00", 10 + number / 60, number % 60);
            event(&format!("new-{number}"), "ada", &time, "web")
        })
        .collect();
    // What happened first comes last.
    let mut paid = event("old", "ada", "01T08:00:00", "web");
    paid["event_type"] = json!("EVENT_TYPE_TRANSACTION");
    paid["transaction_event"] = json!({
        "transaction_id": "t", "type": "TRANSACTION_TYPE_PURCHASE", "amount": 5, "currency": "EUR",
        "status": "TRANSACTION_STATUS_COMPLETED",
    });
    events.push(paid);
    sent(&server, &events);
    let all = asked(&server, "/v1/analytics/users/ada?include_events=true&include_sessions=true");
    let told = all["events"].as_array().unwrap();
    assert_eq!((told.len(), &told[0]["id"], &told[99]["id"]), (100, &json!("new-149"), &json!("new-50")));
    assert_eq!((&all["metrics"]["daysActive"], &all["metrics"]["totalRevenue"]), (&json!(2), &json!(5.0)));
    for (from, to, events, sessions, days, revenue) in [
        ("01T00:00:00", "02T00:00:00", 1, 1, 1, 5.0),
        ("02T00:00:00", "03T00:00:00", 100, 1, 1, 0.0),
        ("03T00:00:00", "04T00:00:00", 0, 0, 0, 0.0),
    ] {
        let path =
            format!("/v1/analytics/users/ada?include_events=true&include_sessions=true&{}", range(from, to));
        let told = asked(&server, &path);
        let counted = (told["events"].as_array().unwrap().len(), told["sessions"].as_array().unwrap().len());
        assert_eq!(counted, (events, sessions), "{from}");
        let metrics = &told["metrics"];
        assert_eq!(
            (&metrics["daysActive"], &metrics["totalRevenue"]),
            (&json!(days), &json!(revenue)),
            "{from}"
        );
        // Who the user is does not depend on the range.
        assert_eq!(told["userProfile"], all["userProfile"]);
    }
}

#[test]
fn a_series_finer_than_what_is_kept_is_refused_and_says_what_is_kept() {
    let server = Start::new().run();
    // One more minute than are kept, and some.
    let minutes: Vec<u32> = (0..2 * 24 * 60 + 100).collect();
    for chunk in minutes.chunks(1000) {
        let events = chunk.iter().map(|minute| {
            let time = format!("{:02}T{:02}:{:02}:00", 1 + minute / 1440, minute / 60 % 24, minute % 60);
            event(&minute.to_string(), "ada", &time, "web")
        });
        sent(&server, &events.collect::<Vec<_>>());
    }
    let series = |granularity: &str, from: &str, to: &str| {
        let range = range(from, to);
        let path = format!("/v1/analytics/timeseries?metric=events&granularity={granularity}&{range}");
        get(server.gateway(), &path)
    };
    let gone = series("MINUTE", "01T00:00:00", "01T00:03:00");
    assert_eq!(gone.status, 400, "{}", gone.text());
    for part in ["2026-06-01T00:00:00Z", "whole hours", "HOUR"] {
        assert!(gone.text().contains(part), "{}", gone.text());
    }
    let hour = series("HOUR", "01T00:00:00", "01T01:00:00").json();
    assert_eq!(hour["series"][0]["value"], 60.0, "{hour}");
    let kept = series("MINUTE", "02T00:00:00", "02T00:03:00").json();
    let values: Vec<_> = kept["series"].as_array().unwrap().iter().map(|point| &point["value"]).collect();
    assert_eq!(values, [1.0, 1.0, 1.0], "{kept}");
}

#[test]
fn a_users_events_come_back_with_what_each_is_about() {
    let server = Server::start();
    let mut about = [
        (
            "EVENT_TYPE_USER",
            "userEvent",
            json!({"action": "click", "pageUrl": "/cart", "metadata": {"button": "buy"}}),
        ),
        (
            "EVENT_TYPE_TRANSACTION",
            "transactionEvent",
            json!({
                "transactionId": "t", "type": "TRANSACTION_TYPE_PURCHASE", "amount": 19.5, "currency": "EUR",
                "status": "TRANSACTION_STATUS_COMPLETED",
                "items": [{"itemId": "i", "name": "a book", "quantity": 1, "price": 19.5}],
            }),
        ),
        ("EVENT_TYPE_SYSTEM", "systemEvent", json!({"component": "db", "type": "SYSTEM_EVENT_TYPE_ERROR"})),
        (
            "EVENT_TYPE_CUSTOM",
            "customEvent",
            json!({"name": "played", "metrics": [{"name": "minutes", "value": 12.5}]}),
        ),
        // 4,000 bytes are kept, 4,100 are not.
        ("EVENT_TYPE_USER", "userEvent", json!({"action": "a".repeat(4000)})),
        ("EVENT_TYPE_USER", "userEvent", json!({"action": "a".repeat(4100)})),
    ];
    let events = about.iter().enumerate().map(|(number, (kind, field, said))| {
        let mut event = event(&format!("e-{number}"), "ada", &format!("01T10:00:0{number}"), "web");
        event["event_type"] = json!(kind);
        event[*field] = said.clone();
        event
    });
    sent(&server, &events.collect::<Vec<_>>());
    about[5].2 = Value::Null;
    let told = asked(&server, "/v1/analytics/users/ada?include_events=true");
    let told = told["events"].as_array().unwrap();
    assert_eq!(told.len(), about.len());
    for (told, (kind, field, said)) in told.iter().rev().zip(&about) {
        assert_eq!(told["eventType"], json!(kind));
        match said.as_object() {
            None => assert_eq!(told.get(*field), None, "{told}"),
            // An answer has every field, those that were not said as well.
            Some(said) => said.iter().for_each(|(name, value)| match value.as_array() {
                None => assert_eq!(&told[*field][name], value, "{told}"),
                Some(list) => {
                    let first = list[0].as_object().unwrap();
                    first
                        .iter()
                        .for_each(|(key, value)| assert_eq!(&told[*field][name][0][key], value, "{told}"));
                }
            }),
        }
    }
}
