//! A partition key: equal keys are worked on by one core, in order; without one a message stays where it arrived.

use std::{collections::HashMap, thread};

use engine_core::PartitionKey;
use serde_json::json;

use crate::harness::{H2Peer, TestFleet, Worked, on_runtime};

const CORES: usize = 2;
const CLIENTS: usize = 8;
const KEYS: usize = 16;
const ROUNDS: usize = 20;

/// Each client sends rounds of numbered messages with every key over a connection of its own, one after the other.
fn send_rounds(fleet: &TestFleet, body: impl Fn(&str, &str) -> String + Sync) -> Vec<Worked> {
    thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (address, body) = (fleet.address, &body);
            scope.spawn(move || {
                on_runtime(async {
                    let peer = H2Peer::connect(address).await;
                    for round in 0..ROUNDS {
                        for key in 0..KEYS {
                            let body = body(&format!("key-{key}"), &format!("{client} {round}"));
                            let answer = peer.post("/ingest", "application/json", body.as_bytes()).await;
                            assert_eq!(answer.status, 200);
                        }
                    }
                });
            });
        }
    });
    fleet.worked(CLIENTS * ROUNDS * KEYS)
}

/// Every key on one core, every client's messages of a key in the order sent.
fn assert_kept_together(worked: &[Worked], key_of: impl Fn(&Worked) -> String) {
    let mut core_of: HashMap<String, usize> = HashMap::new();
    let mut next: HashMap<(String, String), usize> = HashMap::new();
    for one in worked {
        let key = key_of(one);
        let core = *core_of.entry(key.clone()).or_insert(one.core);
        assert_eq!(one.core, core, "{key} was worked on by two cores");
        let text = String::from_utf8(one.payload.clone()).unwrap();
        let (client, round) = text.split_once(' ').unwrap();
        let expected = next.entry((key.clone(), client.to_owned())).or_default();
        assert_eq!(round.parse::<usize>().unwrap(), *expected, "{key} of client {client} out of order");
        *expected += 1;
    }
    assert_eq!(core_of.len(), KEYS);
    let cores: std::collections::BTreeSet<usize> = core_of.into_values().collect();
    assert_eq!(cores.len(), CORES, "16 keys leave no core idle");
}

#[test]
fn equal_sources_are_worked_on_by_one_core_in_order() {
    let fleet = TestFleet::open(CORES, PartitionKey::Source);
    let worked = send_rounds(&fleet, |key, data| json!({"source": key, "data": data}).to_string());
    assert_kept_together(&worked, |one| one.source.clone());
}

#[test]
fn equal_metadata_values_are_worked_on_by_one_core_in_order() {
    let fleet = TestFleet::open(CORES, PartitionKey::Metadata("tenant".to_owned()));
    let worked = send_rounds(&fleet, |key, data| {
        json!({"data": data, "metadata": {"x": 1, "tenant": key}}).to_string()
    });
    assert_kept_together(&worked, |one| one.metadata("tenant").unwrap().to_owned());
}

#[test]
fn without_a_key_a_connections_messages_stay_on_its_core_in_order() {
    let fleet = TestFleet::open(CORES, PartitionKey::Metadata("tenant".to_owned()));
    let worked = send_rounds(&fleet, |_, data| json!({"data": data}).to_string());
    let mut core_of: HashMap<String, usize> = HashMap::new();
    for one in &worked {
        let text = String::from_utf8(one.payload.clone()).unwrap();
        let client = text.split(' ').next().unwrap().to_owned();
        assert_eq!(*core_of.entry(client).or_insert(one.core), one.core);
    }
}
