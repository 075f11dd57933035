//! Secrets stay where they were put. Every setting that can hold one is given one with a mark in it, every answer of every
//! port and every line of every command is read, and the mark is in none of them.

use std::{
    io::{BufRead, BufReader, ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use http::Method;
use ledger::process::{Process, free_port};
use rustix::process::{Pid, Signal, kill_process};
use tidegate::settings::{KEYS, Kind};

use crate::{
    brokers,
    harness::{
        H2Peer, PATIENCE, Peer, Scratch, Start, TIDEGATE, eventually, framed, get, on_runtime, run_command,
        tool,
    },
    keys::{http_routes, rpcs},
};

/// In every secret, also when it is decoded.
const MARK: &str = "hu5h";
/// How long an answer that has no end is listened to.
const LISTEN: Duration = Duration::from_millis(300);

/// Settings of text that hold no secret; every other one is planted with one.
const HARMLESS: [&str; 18] = [
    "composite.providers",
    "data.directory",
    "engine.partition_key",
    "kafka.client_id",
    "kafka.consumer_group",
    "kafka.sasl_mechanism",
    "kafka.ssl_ca_location",
    "kafka.topic",
    "kafka.topic_analytics",
    "kafka.topic_producer",
    "kafka.topic_template",
    "kafka.topics_allowed",
    "metrics.path",
    "nats.consumer",
    "nats.stream",
    "nats.subject",
    "nats.subject_template",
    "nats.subjects_allowed",
];

/// Every setting that can hold a secret, with one that is well-formed there, if there is any.
fn planted() -> Vec<(&'static str, Option<String>)> {
    let of = |path: &str| match path {
        "nats.url" => Some(format!(
            "nats://{MARK}joe:{MARK}%40word@127.0.0.1:1, tls://{MARK}joe:{MARK}%40word@127.0.0.1:2"
        )),
        "auth.api_keys" => Some(format!("one,{MARK}-key")),
        "auth.tokens" => Some(format!("two,{MARK}-token")),
        "remote.api_key" | "kafka.sasl_username" | "kafka.sasl_password" => Some(format!("{MARK}-{path}")),
        // A user in these is refused.
        _ => None,
    };
    KEYS.iter()
        .filter(|key| match key.kind {
            Kind::Text => assert_harmless(key.path),
            _ => key.may_be_secret(),
        })
        .map(|key| (key.path, of(key.path)))
        .collect()
}

fn assert_harmless(path: &str) -> bool {
    assert!(
        HARMLESS.contains(&path),
        "{path}: can it hold a secret? Say so in its kind, or here that it cannot"
    );
    false
}

/// What was looked at.
#[derive(Clone, Default)]
struct Seen {
    lines: Arc<AtomicUsize>,
    answers: Arc<AtomicUsize>,
    found: Arc<Mutex<Vec<String>>>,
}

impl Seen {
    fn line(&self, from: &str, line: &str) {
        self.lines.fetch_add(1, Ordering::Relaxed);
        if line.contains(MARK) {
            self.found.lock().unwrap().push(format!("{from}: {line}"));
        }
    }

    fn text(&self, from: &str, text: &[u8]) {
        String::from_utf8_lossy(text).lines().for_each(|line| self.line(from, line));
    }

    fn answer(&self, from: &str, answer: &[u8]) {
        self.answers.fetch_add(1, Ordering::Relaxed);
        self.text(from, answer);
    }

    #[track_caller]
    fn report(&self, what: &str) {
        let found = self.found.lock().unwrap();
        println!(
            "secrets, {what}: {} settings planted, {} answers and {} lines looked at, {} secrets found",
            planted().len(),
            self.answers.load(Ordering::Relaxed),
            self.lines.load(Ordering::Relaxed),
            found.len()
        );
        assert!(found.is_empty(), "{:#?}", &found[..found.len().min(20)]);
    }
}

/// A server of which every line is read, on both of its outputs.
struct Watched {
    child: Child,
    readers: Vec<JoinHandle<()>>,
    listeners: Vec<SocketAddr>,
}

impl Watched {
    fn start(seen: &Seen, home: &Scratch, variables: &[(String, String)], arguments: &[&str]) -> Self {
        let mut command = Command::new(TIDEGATE);
        for setting in ["gateway", "ingest", "processor", "analytics", "grpc", "metrics"] {
            command.args(["--set", &format!("listen.{setting}=127.0.0.1:0")]);
        }
        let mut child = command
            .args(arguments)
            .env_clear()
            .envs(variables.iter().cloned())
            .current_dir(home.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let said = Arc::new(Mutex::new(Vec::new()));
        let outputs: [(&str, Box<dyn Read + Send>); 2] = [
            ("stdout", Box::new(child.stdout.take().unwrap())),
            ("stderr", Box::new(child.stderr.take().unwrap())),
        ];
        let readers = outputs.map(|(name, output)| {
            let (seen, said) = (seen.clone(), Arc::clone(&said));
            thread::spawn(move || {
                for line in BufReader::new(output).lines().map_while(Result::ok) {
                    seen.line(name, &line);
                    said.lock().unwrap().push(line);
                }
            })
        });
        let mut server = Self { child, readers: readers.into(), listeners: Vec::new() };
        // The banner for people has a line a listener, the one for machines all of them in one.
        server.listeners = eventually("the server is ready", || {
            assert!(server.child.try_wait().unwrap().is_none(), "it has ended: {:#?}", said.lock().unwrap());
            let said = said.lock().unwrap();
            let is_last = |line: &String| line.contains("stop with Ctrl-C") || line.contains("\"listeners\"");
            said.iter().any(is_last).then(|| {
                // What other lines name are the brokers.
                let is_banner = |line: &&String| line.starts_with("  ") || line.contains("\"listeners\"");
                let words = said.iter().filter(is_banner).flat_map(|line| line.split([' ', '"', '=']));
                let addresses = words.filter_map(|word| word.parse::<SocketAddr>().ok());
                // The public API is the first, unless the part has none.
                let mut listeners: Vec<SocketAddr> = Vec::new();
                for address in addresses.filter(|address| address.port() > 1000) {
                    if !listeners.contains(&address) {
                        listeners.push(address);
                    }
                }
                listeners
            })
        });
        assert!(server.listeners.len() >= 2, "{:?}", server.listeners);
        server
    }

    /// Ends it and reads it to its end.
    fn end(mut self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        eventually("the process ends", || self.child.try_wait().unwrap());
        self.readers.drain(..).for_each(|reader| reader.join().unwrap());
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        // Already ended is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// All that comes back on a connection, until its end or, of what has none, a while.
fn over_http1(address: SocketAddr, request: &str) -> Vec<u8> {
    let mut socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.write_all(request.as_bytes()).unwrap();
    let (mut all, mut piece) = (Vec::new(), [0; 4096]);
    loop {
        match socket.read(&mut piece) {
            Ok(0) => return all,
            Ok(count) => {
                all.extend_from_slice(&piece[..count]);
                if request.contains("/live/events") {
                    // It has begun: from now on a while is enough.
                    socket.set_read_timeout(Some(LISTEN)).unwrap();
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock && !all.is_empty() => return all,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return all,
            Err(error) => panic!("{request}: {error}"),
        }
    }
}

/// Head, body and trailers of a call; of a stream without an end what comes in a while.
async fn call(peer: &mut H2Peer, path: &str, key: &[(&str, &str)], message: &[u8]) -> Vec<u8> {
    let fields = [&[("content-type", "application/grpc"), ("te", "trailers")], key].concat();
    let (answer, mut stream) = peer.open(Method::POST, path, &fields, false).await.unwrap();
    // Who is turned away is told so before the message is asked for.
    let _ = stream.send_data(framed(0, message).into(), true);
    let Ok(Ok(answer)) = tokio::time::timeout(PATIENCE, answer).await else { return Vec::new() };
    let mut all = format!("{:?}\n", answer.headers()).into_bytes();
    let mut body = answer.into_body();
    while let Ok(Some(Ok(data))) = tokio::time::timeout(LISTEN, body.data()).await {
        all.extend_from_slice(&data);
    }
    if let Ok(Ok(Some(trailers))) = tokio::time::timeout(LISTEN, body.trailers()).await {
        all.extend_from_slice(format!("\n{trailers:?}").as_bytes());
    }
    all
}

/// Asks every route and every call of a port, as one who may and as one who may not, well and badly.
fn ask_everything(seen: &Seen, address: SocketAddr) {
    let own = [("GET", "/health"), ("GET", "/livez"), ("GET", "/ready"), ("GET", "/"), ("BREW", "/stats")];
    for (method, path) in http_routes().into_iter().chain(own) {
        for key in ["", "X-Api-Key: one\r\n", "Authorization: Bearer wrong\r\n"] {
            for body in ["{}", r#"{"data":"x","source":"s"}"#, "{"] {
                let (length, body) = if method == "POST" {
                    (format!("Content-Length: {}\r\n", body.len()), body)
                } else {
                    Default::default()
                };
                let request = format!(
                    "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nTidegate-Ack: delivered\r\n{key}{length}\r\n{body}"
                );
                seen.answer(&format!("{method} {path}"), &over_http1(address, &request));
                // Who may not is turned away before the body is looked at.
                if method != "POST" || key != "X-Api-Key: one\r\n" {
                    break;
                }
            }
        }
    }
    seen.answer("no HTTP at all", &over_http1(address, "hello\r\n\r\n"));
    on_runtime(async {
        let mut peer = H2Peer::connect(address).await;
        for path in rpcs() {
            for key in [&[][..], &[("x-api-key", "one")]] {
                for message in [&b""[..], b"\x01\x02\x03"] {
                    seen.answer(&path, &call(&mut peer, &path, key, message).await);
                }
            }
        }
    });
}

/// The variable of a setting.
fn variable(path: &str) -> String {
    KEYS.iter().find(|key| key.path == path).unwrap().own_variable()
}

fn secrets_as_variables() -> Vec<(String, String)> {
    planted().into_iter().filter_map(|(path, value)| Some((variable(path), value?))).collect()
}

#[test]
fn no_answer_and_no_line_of_a_server_has_a_secret_in_it() {
    let (seen, home) = (Seen::default(), Scratch::new());
    // Neither NATS nor Kafka nor another process is there: so every error that names them is seen. Where it listens is a line
    // of the level info, or the banner.
    let servers = [
        ("error", "human", "nats"),
        ("warn", "human", "composite"),
        ("info", "json", "nats"),
        ("debug", "human", "composite"),
        ("trace", "json", "composite"),
        ("debug", "human", "memory"),
        ("trace", "json", "remote"),
    ];
    for (place, (level, format, queue)) in servers.into_iter().enumerate() {
        let mut variables = secrets_as_variables();
        let mut arguments = vec!["--log-level", level, "--log-format", format, "--set", "auth.scope=all"];
        match queue {
            "remote" => {
                variables.push(("PROCESSOR_URL".to_owned(), "http://127.0.0.1:1".to_owned()));
                arguments.extend(["--role", "ingest"]);
            }
            queue => variables.push(("QUEUE_TYPE".to_owned(), queue.to_owned())),
        }
        variables.push(("KAFKA_BROKERS".to_owned(), "127.0.0.1:1".to_owned()));
        // From a file, for a change: what is said of a setting names its place.
        if place % 2 == 1 {
            let lines =
                variables.iter().map(|(name, value)| format!("{name}=\"{value}\"\n")).collect::<String>();
            home.write(".env", lines);
            variables.clear();
        } else {
            home.write(".env", "");
        }
        let server = Watched::start(&seen, &home, &variables, &arguments);
        for address in &server.listeners {
            ask_everything(&seen, *address);
        }
        server.end();
    }
    assert!(seen.answers.load(Ordering::Relaxed) > 5_000);
    seen.report("servers");
}

#[test]
fn no_command_repeats_a_secret_whether_it_can_be_read_or_not() {
    let (seen, home) = (Seen::default(), Scratch::new());
    let mut runs = 0;
    let mut run = |variables: &[(&str, &str)], arguments: &[&str]| {
        let output = run_command(&home, variables, arguments);
        runs += 1;
        let from = format!("{variables:?} {arguments:?}");
        assert!(output.status.code().is_some_and(|code| code < 100), "{from}: {:?}", output.status);
        seen.answer(&from, &output.stdout);
        seen.text(&from, &output.stderr);
    };
    let commands: [&[&str]; 6] = [
        &["config", "check"],
        &["config", "print"],
        &["config", "explain", "nats.url"],
        &["log", "stat"],
        &["dlq", "replay"],
        &["replay"],
    ];
    for (path, good) in planted() {
        let bad = [
            MARK.to_owned(),
            format!("foo://{MARK}:{MARK}@host:1"),
            format!("nats://{MARK}:{MARK}/x@host:1"),
            format!("nats://{MARK}:{MARK}@host:port"),
            format!("http://{MARK}:{MARK}@host/?{MARK}"),
            format!("https//{MARK}:{MARK}@host"),
            format!("{MARK}@"),
            format!("joe:{MARK}"),
            format!("nats://joe:{MARK}"),
            format!("http://joe:{MARK}"),
            format!("https://joe:{MARK}/"),
            format!("*** , {MARK}@, (secret)"),
            format!("{MARK}\u{1}\u{7f}é@"),
        ];
        let name = variable(path);
        for (place, value) in good.into_iter().chain(bad).enumerate() {
            // A bare word is a host, which is shown.
            if value == MARK && matches!(path, "nats.url" | "kafka.brokers") {
                continue;
            }
            let (table, key) = path.split_once('.').unwrap();
            let quoted = format!("{value:?}").replace("\\u{1}", "\\u0001").replace("\\u{7f}", "\\u007f");
            home.write("its.toml", format!("[{table}]\n{key} = {quoted}\n"));
            let explain: &[&str] = &["config", "explain", path];
            for command in commands.iter().copied().chain([explain]) {
                run(&[(&name, &value)], command);
                if command[0] == "config" {
                    run(&[], &[&["--set", &format!("{path}={value}")], command].concat());
                    run(&[], &[command, &["-c", "its.toml"]].concat());
                    run(&[(&name, &value), ("QUEUE_TYPE", "nats"), ("TIDEGATE_ROLE", &value)], command);
                }
            }
            // Two that differ.
            if let Some(other) = KEYS.iter().find(|key| key.path == path).unwrap().variables.first() {
                run(&[(&name, &value), (other, "other")], &["config", "check"]);
            }
            // Files that cannot be read; what the value looks like matters little to them, so each third will do.
            let files_of = |texts: [String; 8]| texts.into_iter().filter(move |_| place % 3 == 0);
            for text in files_of([
                format!("[{table}]\n{key} = \"{value}\n"),
                format!("[{table}]\n{key} = {value}\n"),
                format!("[{table}]\n{key} = [{quoted}]\n"),
                format!("[{table}]\n{key} = {{ it = {quoted} }}\n"),
                format!("[{table}]\n\"{key}={value}\" = 1\n"),
                format!("{key} = {quoted}\n"),
                format!("[{table}]\n{key} = \"\\{value}\"\n"),
                format!("[{table}]\n{key} = {quoted} {quoted}\n"),
            ]) {
                home.write("broken.toml", text);
                run(&[], &["config", "check", "-c", "broken.toml"]);
            }
            for text in files_of([
                format!("{name} {value}\n"),
                format!("{name}=\"{value}\n"),
                format!("{name}='{value}\n"),
                format!("{name}={value} \"\n"),
                format!("{name}: {value}\n"),
                format!("export {value}\n"),
                format!("={value}\n"),
                format!("{name}={value}\n"),
            ]) {
                home.write(".env", text);
                run(&[], &["config", "check"]);
            }
            home.write(".env", "");
            run(&[], &["--set", &format!("{path}x={value}"), "config", "check"]);
            run(&[], &["--set", &value.replace('=', ""), "config", "check"]);
            // A plain word where a name stands is a name.
            if value.contains('@') {
                run(&[], &["--set", &format!("auth.{value}=1"), "config", "check"]);
            }
            run(&[], &["--set", &format!("{path}={value}"), "version"]);
            run(&[], &["--set", &format!("{path}={value}"), "topics", "list", "--cores", "1"]);
            // Where it has no business.
            for setting in ["queue.size", "engine.pin", "listen.gateway", "timeouts.idle", "log.level"] {
                if value.contains('@') {
                    run(&[], &["--set", &format!("{setting}={value}"), "config", "check"]);
                }
            }
        }
    }
    assert!(runs > 1000, "{runs}");
    seen.report("commands");
}

#[test]
fn a_server_does_not_start_with_a_placeholder_for_a_secret() {
    for pair in [
        "auth.api_keys=(secret)",
        "auth.api_keys=one,(secret)",
        "auth.tokens=***",
        "kafka.sasl_password=(secret)",
        "remote.api_key=<key>",
        "nats.url=nats://joe:(secret)@host",
    ] {
        let (status, said) = Start::new().set(pair).fail();
        let setting = pair.split('=').next().unwrap();
        assert!(
            status.code() == Some(1) && said.contains(setting) && said.contains("placeholder"),
            "{pair}: {said}"
        );
    }
}

#[test]
fn nats_is_shown_the_login_of_its_url_and_nobody_else_is() {
    if !brokers::can_be_had() {
        return;
    }
    let Some(program) = tool("nats-server") else { return };
    let folder = Scratch::new();
    let port = free_port().unwrap();
    let text = |text: &str| text.to_owned();
    let arguments = vec![
        text("-a"),
        text("127.0.0.1"),
        text("-p"),
        port.to_string(),
        text("-js"),
        text("-sd"),
        folder.path().display().to_string(),
        text("--user"),
        format!("{MARK}joe"),
        text("--pass"),
        format!("{MARK}@word:1"),
    ];
    let mut nats = Process::start("nats", &program, arguments, Vec::new(), folder.path(), port).unwrap();
    nats.wait().unwrap();
    let seen = Seen::default();
    let home = Scratch::new();
    let url = |login: &str| format!("nats://{login}@127.0.0.1:{port}");
    let variables = |login: &str| {
        [("QUEUE_TYPE", "nats"), ("NATS_URL", &url(login)), ("API_KEYS", "one")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
    };
    for level in ["info", "trace"] {
        let arguments = ["--log-level", level, "--log-format", "json"];
        let server =
            Watched::start(&seen, &home, &variables(&format!("{MARK}joe:{MARK}%40word%3A1")), &arguments);
        let gateway = server.listeners[0];
        eventually("a message is delivered", || {
            let mut peer = Peer::connect(gateway);
            let body = r#"{"data":"x"}"#;
            peer.send(format!(
                "POST /ingest HTTP/1.1\r\nHost: localhost\r\nX-Api-Key: one\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            ));
            let answer = peer.answer(false).unwrap();
            (answer.status == 200 && answer.text().contains("delivered")).then_some(())
        });
        server.listeners.iter().for_each(|address| ask_everything(&seen, *address));
        server.end();
        // The wrong password: what NATS and its client say about that.
        let server = Watched::start(&seen, &home, &variables(&format!("{MARK}joe:{MARK}-wrong")), &arguments);
        eventually("it says why", || {
            get(server.listeners[0], "/ready").text().to_lowercase().contains("authorization").then_some(())
        });
        server.listeners.iter().for_each(|address| ask_everything(&seen, *address));
        server.end();
    }
    seen.report("NATS with a login");
}
