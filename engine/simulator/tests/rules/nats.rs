//! What JetStream does with a message.

use std::{
    io::{BufRead, BufReader, Write},
    net::TcpStream,
    path::PathBuf,
    time::{Duration, Instant},
};

use crate::nats_consumer;
use async_nats::{
    HeaderMap, StatusCode,
    jetstream::{
        self,
        consumer::pull,
        stream::{Config, DiscardPolicy, RetentionPolicy, StorageType},
    },
};
use brokers::nats::{
    Servers,
    client::{Client, Session},
};
use engine_core::clock::SimulatedClock;
use futures_util::StreamExt;
use ledger::process::{self, Process};
use simulator::nats::{Limits, Message, Outcome, Server};

/// A server that rules are asked of. Each rule has streams of its own.
pub trait Asked {
    fn make(&mut self, stream: &str, subject: &str, limits: Limits);
    fn change(&mut self, stream: &str, subject: &str, limits: Limits);
    fn delete(&mut self, stream: &str);
    fn seal(&mut self, stream: &str, subject: &str);
    fn purge(&mut self, stream: &str);
    /// Takes and acknowledges the first message.
    fn work_on_one(&mut self, stream: &str);
    fn restart(&mut self);
    /// `None`: no responders.
    fn publish(&mut self, message: Message) -> Option<Result<bool, u64>>;
    fn wait(&mut self, time: Duration);
    /// How many messages there are.
    fn count(&mut self, stream: &str) -> u64;
    /// Whether a message over `max_payload` ends the connection that it is sent on.
    fn too_large_ends_the_connection(&mut self) -> bool;
}

pub fn message(subject: &str, id: &str, bytes: usize) -> Message {
    let headers = vec![("Nats-Msg-Id".to_owned(), id.to_owned())];
    Message { subject: subject.to_owned(), headers, payload: vec![b'x'; bytes].into() }
}

pub fn with(mut message: Message, name: &str, value: &str) -> Message {
    message.headers.push((name.to_owned(), value.to_owned()));
    message
}

const STORED: Option<Result<bool, u64>> = Some(Ok(false));
const DUPLICATE: Option<Result<bool, u64>> = Some(Ok(true));

fn refused(code: u64) -> Option<Result<bool, u64>> {
    Some(Err(code))
}

fn rules(asked: &mut dyn Asked) {
    max_msg_size_counts_the_headers_and_comes_before_repeats(asked);
    headers_are_at_most_64_kib(asked);
    another_stream_than_expected_refuses(asked);
    an_id_is_known_for_the_window(asked);
    a_full_stream_refuses_and_knows_repeats(asked);
    a_purged_or_worked_on_message_leaves_its_id(asked);
    a_restart_knows_the_ids_of_what_is_there(asked);
    a_sealed_stream_takes_nothing(asked);
    a_deleted_stream_does_not_answer_and_a_new_one_knows_nothing(asked);
    assert!(asked.too_large_ends_the_connection());
}

fn max_msg_size_counts_the_headers_and_comes_before_repeats(asked: &mut dyn Asked) {
    asked.make("SIZE", "size", Limits { message_bytes: Some(200), ..Limits::default() });
    // `NATS/1.0`, one line and an empty one: 12 and 16 bytes.
    assert_eq!(asked.publish(message("size", "a", 172)), STORED);
    assert_eq!(asked.publish(message("size", "b", 173)), refused(10054));
    asked.change("SIZE", "size", Limits { message_bytes: Some(100), ..Limits::default() });
    assert_eq!(asked.publish(message("size", "a", 172)), refused(10054));
    assert_eq!(asked.count("SIZE"), 1);
}

fn headers_are_at_most_64_kib(asked: &mut dyn Asked) {
    asked.make("HEADERS", "headers", Limits::default());
    let of = |bytes: usize| with(message("headers", "", 10), "x", &"y".repeat(bytes));
    // 12 bytes, two lines of 15 and 5 bytes beside the value.
    assert_eq!(asked.publish(of(65_535 - 32)), STORED);
    assert_eq!(asked.publish(of(65_535 - 31)), refused(10097));
}

fn another_stream_than_expected_refuses(asked: &mut dyn Asked) {
    asked.make("TAKEN", "taken", Limits::default());
    let expecting = |id: &str, name| with(message("taken", id, 10), "Nats-Expected-Stream", name);
    assert_eq!(asked.publish(expecting("a", "MINE")), refused(10060));
    assert_eq!(asked.publish(expecting("a", "TAKEN")), STORED);
    // Who it is comes before what it has.
    assert_eq!(asked.publish(expecting("a", "MINE")), refused(10060));
}

fn an_id_is_known_for_the_window(asked: &mut dyn Asked) {
    let window = Duration::from_secs(2);
    asked.make("WINDOW", "window", Limits { duplicate_window: window, ..Limits::default() });
    assert_eq!(asked.publish(message("window", "a", 10)), STORED);
    assert_eq!(asked.publish(message("window", "a", 20)), DUPLICATE);
    asked.wait(window * 2);
    assert_eq!(asked.publish(message("window", "a", 10)), STORED);
    assert_eq!(asked.count("WINDOW"), 2);
}

fn a_full_stream_refuses_and_knows_repeats(asked: &mut dyn Asked) {
    asked.make("FULL", "full", Limits { messages: Some(2), ..Limits::default() });
    for id in ["a", "b"] {
        assert_eq!(asked.publish(message("full", id, 10)), STORED);
    }
    assert_eq!(asked.publish(message("full", "c", 10)), refused(10077));
    assert_eq!(asked.publish(message("full", "a", 10)), DUPLICATE);
    asked.change("FULL", "full", Limits { bytes: Some(400), ..Limits::default() });
    assert_eq!(asked.publish(message("full", "c", 300)), refused(10077));
    assert_eq!(asked.publish(message("full", "c", 100)), STORED);
}

fn a_purged_or_worked_on_message_leaves_its_id(asked: &mut dyn Asked) {
    asked.make("GONE", "gone", Limits::default());
    for id in ["a", "b"] {
        assert_eq!(asked.publish(message("gone", id, 10)), STORED);
    }
    asked.work_on_one("GONE");
    assert_eq!(asked.count("GONE"), 1);
    asked.purge("GONE");
    assert_eq!(asked.count("GONE"), 0);
    for id in ["a", "b"] {
        assert_eq!(asked.publish(message("gone", id, 10)), DUPLICATE);
    }
}

fn a_restart_knows_the_ids_of_what_is_there(asked: &mut dyn Asked) {
    asked.make("RESTART", "restart", Limits::default());
    for id in ["a", "b"] {
        assert_eq!(asked.publish(message("restart", id, 10)), STORED);
    }
    asked.work_on_one("RESTART");
    asked.restart();
    assert_eq!(asked.publish(message("restart", "b", 10)), DUPLICATE);
    assert_eq!(asked.publish(message("restart", "a", 10)), STORED);
}

fn a_sealed_stream_takes_nothing(asked: &mut dyn Asked) {
    asked.make("SEALED", "sealed", Limits::default());
    asked.seal("SEALED", "sealed");
    assert_eq!(asked.publish(message("sealed", "a", 10)), refused(10109));
}

fn a_deleted_stream_does_not_answer_and_a_new_one_knows_nothing(asked: &mut dyn Asked) {
    asked.make("DELETED", "deleted", Limits::default());
    assert_eq!(asked.publish(message("deleted", "a", 10)), STORED);
    asked.delete("DELETED");
    assert_eq!(asked.publish(message("deleted", "a", 10)), None);
    asked.make("DELETED", "deleted", Limits::default());
    assert_eq!(asked.publish(message("deleted", "a", 10)), STORED);
}

/// The model.
struct Model(Server, SimulatedClock);

impl Asked for Model {
    fn make(&mut self, stream: &str, subject: &str, limits: Limits) {
        assert!(self.0.make_stream(stream, &[subject], limits));
    }

    fn change(&mut self, stream: &str, _subject: &str, limits: Limits) {
        self.0.set_limits(stream, limits);
    }

    fn delete(&mut self, stream: &str) {
        assert!(self.0.delete_stream(stream));
    }

    fn seal(&mut self, stream: &str, _subject: &str) {
        self.0.seal(stream);
    }

    fn purge(&mut self, stream: &str) {
        self.0.take_away(stream, usize::MAX);
    }

    fn work_on_one(&mut self, stream: &str) {
        self.0.take_away(stream, 1);
    }

    fn restart(&mut self) {
        self.0.down(0);
        self.0.up();
    }

    fn publish(&mut self, message: Message) -> Option<Result<bool, u64>> {
        let said: Option<Outcome> = self.0.publish(message);
        said.map(|outcome| outcome.map(|(_, duplicate)| duplicate).map_err(|(code, _)| code))
    }

    fn wait(&mut self, time: Duration) {
        self.1.advance(time);
    }

    fn count(&mut self, stream: &str) -> u64 {
        self.0.stored(stream).len() as u64
    }

    fn too_large_ends_the_connection(&mut self) -> bool {
        let status = std::sync::Arc::new(brokers::status::SideStatus::new("nats"));
        let config = simulator::nats::config("LARGE", "large");
        let mut client = self.0.client(&config, &status);
        let (_, mut session) = client.start().unwrap();
        let mut rng = fastrand::Rng::with_seed(0);
        while self.0.step(&mut rng).is_some() {}
        // The client does not know.
        self.0.set_max_payload(1000);
        let sent = session.publish(0, "large".into(), HeaderMap::new(), vec![b'x'; 2000].into());
        futures_executor::block_on(sent).unwrap();
        while self.0.step(&mut rng).is_some() {}
        futures_executor::block_on(session.wait(Duration::ZERO));
        session.is_broken()
    }
}

/// A server that listens.
pub struct Real {
    process: Process,
    folder: PathBuf,
    runtime: tokio::runtime::Runtime,
    client: async_nats::Client,
}

const PATIENCE: Duration = Duration::from_secs(30);

fn stream_config(stream: &str, subject: &str, limits: &Limits) -> Config {
    let or_none = |limit: Option<usize>| limit.map_or(-1, |limit| limit as i64);
    Config {
        name: stream.to_owned(),
        subjects: vec![subject.to_owned()],
        retention: RetentionPolicy::WorkQueue,
        storage: StorageType::File,
        discard: DiscardPolicy::New,
        max_messages: or_none(limits.messages),
        max_bytes: or_none(limits.bytes),
        max_message_size: or_none(limits.message_bytes) as i32,
        duplicate_window: limits.duplicate_window,
        ..Config::default()
    }
}

impl Real {
    fn start() -> Option<Self> {
        let installed = process::install_services();
        let ci = std::env::var_os("CI").is_some_and(|ci| ci == "true");
        assert!(installed.is_ok() || !ci, "NATS cannot be installed: {installed:?}");
        if let Err(error) = &installed {
            eprintln!("skipped, because NATS cannot be installed: {error:#}");
            return None;
        }
        let folder = std::env::temp_dir().join(format!("tidegate-rules-{:016x}", fastrand::u64(..)));
        let process = process::nats(&folder).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let client =
            runtime.block_on(async_nats::connect(format!("nats://127.0.0.1:{}", process.port))).unwrap();
        Some(Self { process, folder, runtime, client })
    }

    pub fn servers(&self) -> Servers {
        Servers::parse(&format!("nats://127.0.0.1:{}", self.process.port)).unwrap()
    }

    pub fn make_consumer(&self, stream: &str, name: &str, ack_wait: Duration) {
        let stream = self.stream(stream);
        let durable_name = Some(name.to_owned());
        let config = pull::Config { durable_name, ack_wait, ..pull::Config::default() };
        self.runtime.block_on(stream.create_consumer(config)).unwrap();
    }

    fn context(&self) -> jetstream::Context {
        let _within = self.runtime.enter();
        jetstream::new(self.client.clone())
    }

    fn stream(&self, stream: &str) -> jetstream::stream::Stream {
        self.runtime.block_on(self.context().get_stream(stream)).unwrap()
    }
}

impl Drop for Real {
    fn drop(&mut self) {
        self.process.kill();
        // It is in the folder for temporary files.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

impl Asked for Real {
    fn make(&mut self, stream: &str, subject: &str, limits: Limits) {
        let config = stream_config(stream, subject, &limits);
        self.runtime.block_on(self.context().create_stream(config)).unwrap();
    }

    fn change(&mut self, stream: &str, subject: &str, limits: Limits) {
        let config = stream_config(stream, subject, &limits);
        self.runtime.block_on(self.context().update_stream(config)).unwrap();
    }

    fn delete(&mut self, stream: &str) {
        self.runtime.block_on(self.context().delete_stream(stream)).unwrap();
    }

    fn seal(&mut self, stream: &str, subject: &str) {
        let config = Config { sealed: true, ..stream_config(stream, subject, &Limits::default()) };
        self.runtime.block_on(self.context().update_stream(config)).unwrap();
    }

    fn purge(&mut self, stream: &str) {
        let stream = self.stream(stream);
        self.runtime.block_on(async { stream.purge().await }).unwrap();
    }

    fn work_on_one(&mut self, stream: &str) {
        let stream = self.stream(stream);
        self.runtime.block_on(async {
            let durable_name = Some("worker".to_owned());
            let consumer = stream
                .create_consumer(pull::Config { durable_name, ..pull::Config::default() })
                .await
                .unwrap();
            let mut messages = consumer.fetch().max_messages(1).expires(PATIENCE).messages().await.unwrap();
            messages.next().await.unwrap().unwrap().double_ack().await.unwrap();
        });
    }

    fn restart(&mut self) {
        self.process.stop().unwrap();
        self.process.again().unwrap();
        self.process.wait().unwrap();
        let address = format!("nats://127.0.0.1:{}", self.process.port);
        self.client = self.runtime.block_on(async_nats::connect(address)).unwrap();
    }

    fn publish(&mut self, message: Message) -> Option<Result<bool, u64>> {
        let mut headers = HeaderMap::new();
        for (name, value) in &message.headers {
            headers.append(name.as_str(), value.as_str());
        }
        let request = async_nats::Request::new().headers(headers).payload(message.payload);
        let answer = self.runtime.block_on(self.client.send_request(message.subject, request));
        let answer = match answer {
            Err(error) if error.kind() == async_nats::RequestErrorKind::NoResponders => return None,
            answer => answer.unwrap(),
        };
        assert_ne!(answer.status, Some(StatusCode::NO_RESPONDERS));
        let said: serde_json::Value = serde_json::from_slice(&answer.payload).unwrap();
        Some(match said["error"]["err_code"].as_u64() {
            Some(code) => Err(code),
            None => Ok(said["duplicate"] == true),
        })
    }

    fn wait(&mut self, time: Duration) {
        std::thread::sleep(time);
    }

    fn count(&mut self, stream: &str) -> u64 {
        self.stream(stream).cached_info().state.messages
    }

    fn too_large_ends_the_connection(&mut self) -> bool {
        let mut connection = TcpStream::connect(("127.0.0.1", self.process.port)).unwrap();
        connection.set_read_timeout(Some(PATIENCE)).unwrap();
        let (mut reader, begun) = (BufReader::new(connection.try_clone().unwrap()), Instant::now());
        connection.write_all(b"CONNECT {\"headers\":true}\r\nHPUB large 12 2000000\r\n").unwrap();
        let mut said = String::new();
        let mut line = String::new();
        while begun.elapsed() < PATIENCE && reader.read_line(&mut line).is_ok_and(|bytes| bytes > 0) {
            said += &std::mem::take(&mut line);
        }
        said.contains("Maximum Payload Violation") && begun.elapsed() < PATIENCE
    }
}

#[test]
fn the_model_has_the_rules() {
    rules(&mut Model(Server::default(), SimulatedClock::start(0)));
}

#[test]
fn the_real_one_has_the_rules() {
    let Some(mut real) = Real::start() else { return };
    rules(&mut real);
    nats_consumer::what_was_worked_on_is_acknowledged_when_it_stops(&mut real);
    nats_consumer::the_rest_of_a_pack_is_handed_on(&mut real);
    nats_consumer::what_is_being_worked_on_does_not_come_again(&mut real);
}
