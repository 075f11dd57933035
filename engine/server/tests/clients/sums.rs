//! Whatever is sent: every surface counts it the same way, and the sums hold. From a seed (`SUMS_SEED`, `SUMS_REQUESTS`).

use std::{collections::BTreeMap, env, net::SocketAddr, thread, time::Duration};

use crate::{
    brokers::{can_be_had, kafka, nats},
    harness::{Peer, Scratch, Server, Start, eventually_within, get},
};
use fastrand::Rng;

/// JetStream brings again after 30 s what a killed process had taken.
const REDELIVERY: Duration = Duration::from_secs(120);

/// What the clients were told, which is what has to be counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Told {
    accepted: u64,
    duplicates: u64,
    conflicts: u64,
    refused: u64,
}

impl Told {
    fn add(&mut self, other: Told) {
        self.accepted += other.accepted;
        self.duplicates += other.duplicates;
        self.conflicts += other.conflicts;
        self.refused += other.refused;
    }
}

fn setting(name: &str, default: u64) -> u64 {
    env::var(name).ok().map_or(default, |value| value.parse().unwrap())
}

/// One client: random requests of every kind, with ids of its own.
fn client(ports: [SocketAddr; 3], name: &str, seed: u64, requests: u64) -> Told {
    let mut random = Rng::with_seed(seed);
    let mut told = Told::default();
    let mut peers = ports.map(Peer::connect);
    let mut used: Vec<(&str, String)> = Vec::new();
    for n in 0..requests {
        let peer = &mut peers[random.usize(0..3)];
        let repeats = !used.is_empty() && random.u8(0..4) == 0;
        let (kind, id) = if repeats {
            used[random.usize(0..used.len())].clone()
        } else {
            let kind = ["plain", "key", "event", "async", "typed", "batch", "broken"][random.usize(0..7)];
            (kind, format!("{name}-{n}"))
        };
        // A repeat is the same, or the same id with another content.
        let content = if repeats && random.bool() { "another" } else { "one" };
        let typed = |id: &str| {
            format!(
                r#"{{"id":"{id}","user_id":"u-{name}","event_type":"EVENT_TYPE_USER","user_event":{{"action":"{content}"}},"timestamp":"2026-05-29T00:00:00Z"}}"#
            )
        };
        let (path, field, body) = match kind {
            "plain" => ("/ingest", String::new(), format!(r#"{{"data":"{id}"}}"#)),
            "key" => ("/ingest", format!("Idempotency-Key: {id}\r\n"), format!(r#"{{"data":"{content}"}}"#)),
            "event" | "async" => (
                if kind == "event" { "/events" } else { "/events/async" },
                String::new(),
                format!(
                    r#"{{"id":"{id}","user_id":"u-{name}","event_type":"{content}","timestamp":1640995200}}"#
                ),
            ),
            "typed" => ("/v1/events", String::new(), typed(&id)),
            // The second one repeats the first.
            "batch" => (
                "/v1/events/batch",
                String::new(),
                format!(r#"{{"events":[{0},{0},{1}]}}"#, typed(&id), typed(&format!("{id}-b"))),
            ),
            _ => ("/ingest", String::new(), "{".to_owned()),
        };
        peer.send(format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\n{field}Content-Length: {}\r\n\r\n{body}",
            body.len()
        ));
        let answer = peer.answer(false).unwrap();
        let duplicate = answer.text().contains("duplicate");
        match (kind, answer.status) {
            ("broken", 400) => {}
            (_, 409) => told.conflicts += 1,
            (_, 503) => told.refused += 1,
            ("batch", 200) => told.add(Told { accepted: 2, duplicates: 1, ..Told::default() }),
            ("event", 200) if repeats => told.duplicates += 1,
            (_, 200 | 202) if duplicate => told.duplicates += 1,
            (_, 200 | 202) => told.accepted += 1,
            (_, status) => panic!("{kind}: {status} {}", answer.text()),
        }
        // What is asynchronous does not say what it was, and a batch says it of each.
        if answer.status == 200 && !repeats && ["key", "event", "typed"].contains(&kind) {
            used.push((kind, id));
        }
    }
    told
}

fn drive(server: &Server, name: &str, seed: u64, requests: u64) -> Told {
    const CLIENTS: u64 = 8;
    let mut all = Told::default();
    let ports = [server.gateway(), server.ingest(), server.processor()];
    thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|n| {
                scope.spawn(move || {
                    client(ports, &format!("{name}-{n}"), seed * CLIENTS + n, requests / CLIENTS)
                })
            })
            .collect();
        clients.into_iter().for_each(|client| all.add(client.join().unwrap()));
    });
    all
}

/// The series of a page of metrics that we look at.
fn metrics(server: &Server) -> BTreeMap<String, u64> {
    let page = get(server.gateway(), "/metrics");
    let series = page.text().lines().filter(|line| !line.starts_with('#'));
    let series = series.filter_map(|line| line.rsplit_once(' '));
    series.filter_map(|(name, value)| Some((name.to_owned(), value.parse::<f64>().ok()? as u64))).collect()
}

/// Checks every surface against what the clients were told, when the process is at rest.
fn check(server: &Server, queue: &str, told: Told, earlier: u64) -> u64 {
    // After a kill a broker brings again what it was not told of, whenever it likes: all surfaces are read between two such.
    let (processed, status, metrics) = eventually_within(REDELIVERY, "everything is worked on", || {
        let stats = get(server.processor(), "/stats").json();
        let count = |name: &str| stats["queue"][name].as_u64().unwrap();
        let done = stats["pool"]["ProcessedCount"].as_u64().unwrap();
        // At every moment, at rest or not.
        assert_eq!(count("TotalEnqueued"), count("TotalDequeued") + count("CurrentSize"), "{queue}: {stats}");
        assert!(count("size") <= count("capacity"), "{queue}: {stats}");
        let (status, metrics) = (get(server.gateway(), "/api/v1/status").json(), metrics(server));
        let of_status = status["processor"]["stats"]["pool"]["processed"].as_u64().unwrap();
        let of_metrics = metrics["processor_messages_total{status=\"processed\"}"];
        let at_rest =
            [count("CurrentSize"), metrics["queue_size"], metrics["processor_queue_size"]] == [0; 3];
        let agree = of_status == done && of_metrics == done;
        (done >= told.accepted && at_rest && agree).then_some((done, status, metrics))
    });
    assert!(processed <= told.accepted + earlier, "{queue}: {processed} of {told:?} and {earlier}");
    let stats = get(server.ingest(), "/stats").json();
    for stats in [&stats, &status["ingest"]["stats"]] {
        let count = |name: &str| stats[name].as_u64().unwrap();
        let counted = Told {
            accepted: count("TotalSent"),
            duplicates: count("TotalDuplicates"),
            conflicts: count("TotalConflicts"),
            refused: count("TotalFailed"),
        };
        assert_eq!(counted, told, "{queue}");
        let Told { accepted, duplicates, conflicts, refused } = told;
        assert_eq!(count("TotalReceived"), accepted + duplicates + conflicts + refused, "{queue}");
    }
    assert_eq!(status["processor"]["stats"]["pool"]["errors"], 0, "{queue}");
    let state = |name: &str| metrics[&format!("tidegate_messages_total{{state=\"{name}\"}}")];
    let counted = Told {
        accepted: state("accepted"),
        duplicates: state("duplicate"),
        conflicts: state("conflict"),
        refused: state("refused"),
    };
    assert_eq!(counted, told, "{queue}");
    assert_eq!(state("accepted"), state("done") + state("rejected") + metrics["tidegate_messages_pending"]);
    assert_eq!(metrics["ingest_messages_processed_total{status=\"sent\"}"], told.accepted, "{queue}");
    processed
}

#[test]
fn the_sums_hold_on_every_surface_whatever_is_sent_before_and_after_a_kill() {
    let (seed, requests) = (setting("SUMS_SEED", 7), setting("SUMS_REQUESTS", 1200));
    let with_brokers = can_be_had();
    let folder = Scratch::new();
    let brokers = with_brokers.then(|| (nats(&folder), kafka(&folder)));
    for queue in ["memory", "log", "nats", "kafka", "composite"] {
        let mut settings = Vec::new();
        if let Some(((_, url), (_, list))) = &brokers {
            settings = vec![("NATS_URL", url.clone()), ("KAFKA_BROKERS", list.clone())];
        } else if !["memory", "log"].contains(&queue) {
            continue;
        }
        let start = || {
            let mut start = Start::new().variable("QUEUE_TYPE", queue).set("timeouts.shutdown=20s");
            for (name, value) in &settings {
                start = start.variable(name, value);
            }
            if queue != "memory" {
                start = start.set(&format!("data.directory={}", folder.path().join(queue).display()));
            }
            // A topic and a stream of its own.
            start
                .variable("KAFKA_TOPIC", queue)
                .set(&format!("nats.stream={queue}"))
                .set(&format!("nats.subject={queue}.all"))
        };
        let server = start().run();
        let first = drive(&server, "first", seed, requests);
        let processed = check(&server, queue, first, 0);
        if queue == "memory" {
            let end = server.stop();
            assert_eq!(
                (end.accepted, end.processed, end.failed, end.lost),
                (first.accepted, processed, 0, 0)
            );
            continue;
        }
        // More, and killed while it is under way.
        let second = drive(&server, "second", seed + 1, requests / 4);
        drop(server);
        let server = start().run();
        let third = drive(&server, "third", seed + 2, requests);
        // A broker may bring again what it was not told of.
        check(&server, queue, third, first.accepted + second.accepted);
        let end = server.stop();
        assert_eq!((end.accepted, end.failed, end.lost), (third.accepted, 0, 0), "{queue}: {end:?}");
        println!("{queue}: {first:?} {second:?} {third:?}");
    }
}
