//! Processes that are started, killed and started again: Tidegate, NATS, Kafka.

use std::{
    fs::{File, OpenOptions},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

/// Longest that a process may take to listen.
const PATIENCE: Duration = Duration::from_secs(60);

/// Two neighbouring ports that are free now. Below the range that clients get theirs from: there a client that knocks
/// while nobody listens can be given the very port it knocks at, and then holds it.
fn free_ports() -> Result<u16> {
    for _ in 0..1000 {
        let port = fastrand::u16(10_000..30_000);
        if [port, port + 1].iter().all(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()) {
            return Ok(port);
        }
    }
    bail!("no two neighbouring ports are free")
}

/// A port that is free now.
pub fn free_port() -> Result<u16> {
    free_ports()
}

/// A program that can be started again as it was.
pub struct Process {
    name: &'static str,
    program: PathBuf,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    directory: PathBuf,
    /// Where it listens when it is up.
    pub port: u16,
    child: Option<Child>,
}

impl Process {
    /// Starts it.
    pub fn start(
        name: &'static str,
        program: &Path,
        arguments: Vec<String>,
        environment: Vec<(String, String)>,
        directory: &Path,
        port: u16,
    ) -> Result<Self> {
        let program = program.to_owned();
        let directory = directory.to_owned();
        std::fs::create_dir_all(&directory)?;
        let mut process = Self { name, program, arguments, environment, directory, port, child: None };
        process.again()?;
        Ok(process)
    }

    fn log(&self) -> Result<File> {
        Ok(OpenOptions::new().create(true).append(true).open(self.output())?)
    }

    /// Starts it again, without waiting for it.
    pub fn again(&mut self) -> Result<()> {
        self.kill();
        let child = Command::new(&self.program)
            .args(&self.arguments)
            .envs(self.environment.iter().cloned())
            .current_dir(&self.directory)
            .stdin(Stdio::null())
            .stdout(self.log()?)
            .stderr(self.log()?)
            .spawn()
            .with_context(|| format!("{} cannot be started", self.program.display()))?;
        self.child = Some(child);
        Ok(())
    }

    /// Waits until it listens.
    pub fn wait(&mut self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            if let Some(child) = &mut self.child
                && let Some(status) = child.try_wait()?
            {
                bail!("{} has ended ({status}); its log is in {}", self.name, self.directory.display());
            }
            if Instant::now() > deadline {
                bail!(
                    "{} does not listen on port {}; its log is in {}",
                    self.name,
                    self.port,
                    self.directory.display()
                );
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Whether it has ended by itself, or never ran.
    pub fn has_ended(&mut self) -> bool {
        self.child.as_mut().is_none_or(|child| child.try_wait().is_ok_and(|status| status.is_some()))
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = self.child.as_ref().and_then(|child| Pid::from_raw(child.id().cast_signed())) {
            // It may have ended by itself.
            let _ = kill_process(pid, signal);
        }
    }

    /// SIGSTOP: it is there and does not answer.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// SIGCONT.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// SIGTERM, and waits for the end; whether its exit code was 0.
    ///
    /// # Errors
    /// When it does not end; then it is killed.
    pub fn stop(&mut self) -> Result<bool> {
        self.signal(Signal::TERM);
        let Some(mut child) = self.child.take() else { return Ok(false) };
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(status.success());
            }
            if Instant::now() > deadline {
                // It may have ended just now.
                let _ = child.kill();
                let _ = child.wait();
                bail!("{} does not end after SIGTERM within {PATIENCE:?}", self.name);
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// The file that its output goes to, of all its lives.
    pub fn output(&self) -> PathBuf {
        self.directory.join(format!("{}.log", self.name))
    }

    /// Resident bytes.
    pub fn resident_bytes(&self) -> u64 {
        let Some(child) = &self.child else { return 0 };
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.resume();
        self.kill();
    }
}

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../services/services")
}

/// Installs what the brokers need.
pub fn install_services() -> Result<()> {
    let status = Command::new(script()).arg("install").status().context("tools/services/services")?;
    if !status.success() {
        bail!("brokers cannot be installed, see above");
    }
    Ok(())
}

fn service(name: &'static str, folder: &Path, port: u16) -> Result<Process> {
    let directory = folder.join(name);
    let arguments = vec![name.to_owned(), directory.display().to_string(), port.to_string()];
    let mut process = Process::start(name, &script(), arguments, Vec::new(), &directory, port)?;
    process.wait()?;
    Ok(process)
}

/// A NATS server with JetStream, its data under `folder`.
pub fn nats(folder: &Path) -> Result<Process> {
    service("nats", folder, free_ports()?)
}

/// A Kafka broker, its data under `folder`.
pub fn kafka(folder: &Path) -> Result<Process> {
    service("kafka", folder, free_ports()?)
}
