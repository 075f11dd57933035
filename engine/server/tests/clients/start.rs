//! How a process begins: which ports it takes, what it says when it cannot have them, and what the first request meets.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
};

use ledger::process::free_port;
use rustix::process::Signal;

use crate::{
    brokers,
    harness::{Scratch, Start, eventually, get},
};

/// Ports that are free, and whose neighbours are.
fn on_ports(ports: &[(&str, u16)]) -> Start {
    ports
        .iter()
        .fold(Start::new(), |start, (role, port)| start.set(&format!("listen.{role}=127.0.0.1:{port}")))
}

#[test]
fn a_second_process_has_ports_of_its_own_with_an_offset() {
    let roles = ["gateway", "ingest", "processor", "analytics", "grpc", "metrics"];
    let ports = roles.map(|role| (role, free_port().unwrap()));
    let first = on_ports(&ports).set("metrics.enabled=true").run();
    let (status, said) = on_ports(&ports).fail();
    assert!(status.code() == Some(1) && said.contains("--port-offset"), "{said}");
    let second = on_ports(&ports).set("metrics.enabled=true").argument("--port-offset").argument("1").run();
    for (role, port) in ports {
        let ports = |addresses: Vec<SocketAddr>| addresses[0].port();
        assert_eq!((ports(first.addresses(role)), ports(second.addresses(role))), (port, port + 1), "{role}");
    }
    assert_eq!(get(second.gateway(), "/health").status, 200);
}

#[test]
fn an_address_that_cannot_be_had_says_why() {
    // Of a network for documentation (RFC 5737): no machine's own.
    let (status, said) = Start::new().set("listen.gateway=192.0.2.1:8080").fail();
    assert!(
        status.code() == Some(1) && said.contains("no such address") && said.contains("192.0.2.1"),
        "{said}"
    );
}

#[test]
fn a_broker_that_is_away_is_said_once_and_with_its_address() {
    // Takes every connection and ends it: for the client, each is a failed try.
    let there = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = there.local_addr().unwrap();
    let tries = thread::spawn(move || (0..12).for_each(|_| drop(there.accept().unwrap())));
    let server =
        Start::new().variable("QUEUE_TYPE", "nats").variable("NATS_URL", &format!("nats://{address}")).run();
    tries.join().unwrap();
    server.signal(Signal::TERM);
    server.wait_for_message("stopped");
    let says = |line: &String| line.contains("nats") && !line.contains("tidegate is ready");
    let lines: Vec<String> = server.log().into_iter().filter(says).collect();
    assert!((1..=2).contains(&lines.len()), "{lines:#?}");
    assert!(lines.iter().all(|line| line.contains(&address.to_string())), "{lines:#?}");
}

#[test]
fn a_groups_partitions_are_named_for_people() {
    if !brokers::can_be_had() {
        return;
    }
    let folder = Scratch::new();
    let (_kafka, kafka) = brokers::kafka(&folder);
    let server = Start::new().variable("QUEUE_TYPE", "kafka").variable("KAFKA_BROKERS", &kafka).run();
    // It may have come before the server was ready.
    let early = server.log().into_iter().find(|line| line.contains("the group gives us partitions"));
    let line = early.unwrap_or_else(|| server.wait_for_message("the group gives us partitions").to_string());
    assert!(line.contains("diplom-messages 0,1,2"), "{line}");
    assert!(server.log().iter().all(|line| !line.contains("TopicPartitionList")), "{:#?}", server.log());
}

/// Status of an answer on a connection that stays open.
fn ask(socket: &mut BufReader<TcpStream>, request: &str) -> Option<u16> {
    socket.get_mut().write_all(request.as_bytes()).ok()?;
    let (mut status, mut length, mut line) = (0, 0, String::new());
    loop {
        line.clear();
        if socket.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if let Some(rest) = line.strip_prefix("HTTP/1.1 ") {
            status = rest[..3].parse().unwrap();
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().unwrap();
        }
        if line == "\r\n" {
            socket.read_exact(&mut vec![0; length]).ok()?;
            return Some(status);
        }
    }
}

#[test]
fn what_is_served_first_is_honoured() {
    if !brokers::can_be_had() {
        return;
    }
    let folder = Scratch::new();
    let (_nats, nats) = brokers::nats(&folder);
    let (_kafka, kafka) = brokers::kafka(&folder);
    // The first start with Kafka creates topics, which takes longer than a start waits; the second finds them.
    for queue in ["memory", "log", "nats", "kafka", "kafka", "composite"] {
        let port = free_port().unwrap();
        // Asked from before it listens on.
        let early = thread::spawn(move || {
            let socket = eventually("it listens", || TcpStream::connect(("127.0.0.1", port)).ok());
            let mut socket = BufReader::new(socket);
            let body = r#"{"data":"x"}"#;
            let ingest =
                format!("POST /ingest HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            (0..50)
                .map(|_| {
                    let health = ask(&mut socket, "GET /health HTTP/1.1\r\nHost: x\r\n\r\n");
                    (health, ask(&mut socket, &ingest))
                })
                .collect::<Vec<_>>()
        });
        let server = Start::new()
            .variable("QUEUE_TYPE", queue)
            .variable("NATS_URL", &nats)
            .variable("KAFKA_BROKERS", &kafka)
            .set(&format!("listen.gateway=127.0.0.1:{port}"))
            .run();
        let answers = early.join().unwrap();
        let honoured =
            |(health, ingest): &&(Option<u16>, Option<u16>)| *health != Some(200) || *ingest == Some(200);
        assert!(answers.iter().all(|pair| honoured(&pair)), "{queue}: {answers:?}");
        let refused = answers.iter().filter(|(_, ingest)| *ingest != Some(200)).count();
        println!("{queue}: {refused} of {} refused at first", answers.len());
        assert!(refused == 0 || matches!(queue, "kafka" | "composite"), "{queue}: {answers:?}");
        eventually("it is healthy", || (get(server.gateway(), "/health").status == 200).then_some(()));
        assert_eq!(server.stop().lost, 0);
    }
}
