//! A server process on free ports: started, asked, stopped.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs,
    io::{BufRead, BufReader},
    net::SocketAddr,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicU32, Ordering},
        mpsc::{self, Receiver},
    },
    thread,
    time::Instant,
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::{PATIENCE, eventually, get};

/// The binary under test.
pub(crate) const TIDEGATE: &str = env!("CARGO_BIN_EXE_tidegate");

/// A directory of a test's own, gone with it.
#[derive(Debug)]
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("tidegate-test-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a file into it.
    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, content).unwrap();
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What is left in a temporary directory is no failure.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Runs a command of the binary in a directory, with exactly these variables.
pub(crate) fn run_command(home: &Scratch, variables: &[(&str, &str)], arguments: &[&str]) -> Output {
    let variables = variables.iter().copied();
    Command::new(TIDEGATE)
        .args(arguments)
        .env_clear()
        .envs(variables)
        .current_dir(home.path())
        .output()
        .unwrap()
}

/// How to start the server.
#[derive(Debug)]
pub(crate) struct Start {
    program: PathBuf,
    arguments: Vec<OsString>,
    environment: BTreeMap<String, String>,
    files: Vec<(String, String)>,
}

impl Start {
    /// Free ports, no metrics port, JSON logs.
    pub(crate) fn new() -> Self {
        let mut start = Self {
            program: TIDEGATE.into(),
            arguments: Vec::new(),
            environment: BTreeMap::new(),
            files: Vec::new(),
        };
        for setting in ["gateway", "ingest", "processor", "analytics", "grpc"] {
            start = start.set(&format!("listen.{setting}=127.0.0.1:0"));
        }
        start.set("metrics.enabled=false").argument("--log-format").argument("json")
    }

    pub(crate) fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// `--set KEY=VALUE`; the last one counts.
    pub(crate) fn set(self, pair: &str) -> Self {
        self.argument("--set").argument(pair)
    }

    pub(crate) fn variable(mut self, name: &str, value: &str) -> Self {
        self.environment.insert(name.to_owned(), value.to_owned());
        self
    }

    /// A file in the directory that it starts in.
    pub(crate) fn file(mut self, name: &str, content: &str) -> Self {
        self.files.push((name.to_owned(), content.to_owned()));
        self
    }

    /// Another name of the binary.
    pub(crate) fn program(mut self, program: &Path) -> Self {
        self.program = program.into();
        self
    }

    fn spawn(self) -> (Child, Scratch) {
        // A directory and an environment of its own: the tester's settings are not the test's.
        let home = Scratch::new();
        for (name, content) in &self.files {
            home.write(name, content);
        }
        let child = Command::new(&self.program)
            .args(&self.arguments)
            .env_clear()
            .envs(&self.environment)
            .current_dir(home.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        (child, home)
    }

    /// Starts it and waits until it is ready.
    #[track_caller]
    pub(crate) fn run(self) -> Server {
        let (mut child, home) = self.spawn();
        let (sender, lines) = mpsc::channel();
        let stderr = child.stderr.take().unwrap();
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines() {
                let Ok(line) = line else { return };
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let mut server = Server { child, lines, seen: Mutex::default(), listeners: Vec::new(), _home: home };
        let ready = server.wait_for_message("tidegate is ready");
        for pair in ready["listeners"].as_str().unwrap().split(' ') {
            let (role, address) = pair.split_once('=').unwrap();
            server.listeners.push((role.to_owned(), address.parse().unwrap()));
        }
        server
    }

    /// Starts it where it must end by itself; exit status and standard error.
    pub(crate) fn fail(self) -> (ExitStatus, String) {
        let (child, _home) = self.spawn();
        let output = child.wait_with_output().unwrap();
        (output.status, String::from_utf8(output.stderr).unwrap())
    }
}

/// The last line of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Farewell {
    pub(crate) exit_code: Option<i32>,
    pub(crate) accepted: u64,
    pub(crate) processed: u64,
    pub(crate) failed: u64,
    pub(crate) lost: u64,
}

/// A running server; killed when it is dropped.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    lines: Receiver<String>,
    seen: Mutex<Vec<String>>,
    listeners: Vec<(String, SocketAddr)>,
    _home: Scratch,
}

impl Server {
    /// With every default but the ports.
    #[track_caller]
    pub(crate) fn start() -> Self {
        Start::new().run()
    }

    /// The addresses of a role, in the order of the setting.
    pub(crate) fn addresses(&self, role: &str) -> Vec<SocketAddr> {
        self.listeners.iter().filter(|(known, _)| known == role).map(|(_, address)| *address).collect()
    }

    /// Every open role by name.
    pub(crate) fn roles(&self) -> Vec<&str> {
        self.listeners.iter().map(|(role, _)| role.as_str()).collect()
    }

    #[track_caller]
    fn address(&self, role: &str) -> SocketAddr {
        self.addresses(role)[0]
    }

    pub(crate) fn gateway(&self) -> SocketAddr {
        self.address("gateway")
    }

    pub(crate) fn ingest(&self) -> SocketAddr {
        self.address("ingest")
    }

    pub(crate) fn processor(&self) -> SocketAddr {
        self.address("processor")
    }

    pub(crate) fn grpc(&self) -> SocketAddr {
        self.address("grpc")
    }

    /// `http://<gateway><path>`.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.gateway())
    }

    /// An older system's command line with its ports replaced by this server's.
    pub(crate) fn with_own_ports(&self, line: &str) -> String {
        let mut line = line.to_owned();
        let grpc = self.addresses("grpc");
        let ports = [
            ("localhost:8080", Some(self.gateway())),
            ("localhost:8081", Some(self.ingest())),
            ("localhost:8082", Some(self.processor())),
            ("localhost:8083", self.addresses("analytics").first().copied()),
            ("localhost:50051", grpc.first().copied()),
            ("localhost:50052", grpc.last().copied()),
            ("localhost:9090", self.addresses("metrics").first().copied()),
        ];
        for (written, address) in ports {
            if let Some(address) = address {
                line = line.replace(written, &format!("localhost:{}", address.port()));
            }
        }
        line
    }

    /// Messages received, accepted and refused so far.
    pub(crate) fn received(&self) -> (u64, u64, u64) {
        let stats = get(self.ingest(), "/stats").json();
        let count = |name: &str| stats[name].as_u64().unwrap();
        (count("TotalReceived"), count("TotalSent"), count("TotalFailed"))
    }

    /// Waits until all that was accepted is processed, and says how much that is.
    #[track_caller]
    pub(crate) fn settled(&self) -> u64 {
        eventually("everything that was accepted is processed", || {
            let stats = get(self.processor(), "/stats").json();
            let done = stats["pool"]["ProcessedCount"].as_u64()?;
            (stats["queue"]["TotalEnqueued"].as_u64()? == done).then_some(done)
        })
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.process(), signal).unwrap();
    }

    pub(crate) fn process(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// How the process has ended, if it has.
    pub(crate) fn has_exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Reads no more of its lines: what it writes from now on is an error to it.
    pub(crate) fn close_log(&mut self) {
        let (_, nobody) = mpsc::channel();
        self.lines = nobody;
        // The reader hangs up with the next line.
        self.signal(Signal::HUP);
    }

    /// Waits for a log line whose message begins so.
    #[track_caller]
    pub(crate) fn wait_for_message(&self, beginning: &str) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(line) = self.lines.recv_timeout(left) else {
                panic!("never logged: {beginning:?}; logged was {:#?}", self.seen.lock().unwrap());
            };
            let parsed = serde_json::from_str::<Value>(&line);
            self.seen.lock().unwrap().push(line);
            if let Ok(value) = parsed
                && value["message"].as_str().is_some_and(|text| text.starts_with(beginning))
            {
                return value;
            }
        }
    }

    /// Lines read from the log so far.
    pub(crate) fn log(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }

    /// Waits for the process to end.
    #[track_caller]
    pub(crate) fn wait_for_exit(&mut self) -> ExitStatus {
        let child = Mutex::new(&mut self.child);
        eventually("the process ends", || child.lock().unwrap().try_wait().unwrap())
    }

    /// Waits for the end of a run that a signal has ended.
    #[track_caller]
    pub(crate) fn farewell(mut self) -> Farewell {
        let line = self.wait_for_message("stopped");
        let status = self.wait_for_exit();
        assert_eq!(status.signal(), None, "ended by a signal");
        let count = |name: &str| line[name].as_u64().unwrap();
        Farewell {
            exit_code: status.code(),
            accepted: count("accepted"),
            processed: count("processed"),
            failed: count("failed"),
            lost: count("lost"),
        }
    }

    /// SIGTERM, then the last line.
    #[track_caller]
    pub(crate) fn stop(self) -> Farewell {
        self.signal(Signal::TERM);
        self.farewell()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Already ended is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
