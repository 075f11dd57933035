//! The data directory that is damaged, on copies: made by the real binary, with several segments in each shard, some of
//! them worked on and some not.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use parking_lot::Mutex;

use super::server::{self, CLIENTS, Kept, Life, Server, Setup, Start, subject_of};
use crate::{client::Connection, downstream, verdict::Sent};

/// Messages of the first life, which are worked on.
const CONSUMED: u64 = 1200;
/// Messages of the second life, which wait.
const WAITING: u64 = 1800;
/// Of these, so many at the beginning and at the end have an idempotency key, and those between have none.
const KEYED: u64 = 300;

/// How the directory's last life ended, and what its consumer had passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Variant {
    /// kill -9 while messages came in; the first segments are worked on.
    Killed,
    /// SIGTERM; the first segments are worked on.
    Stopped,
    /// kill -9; nothing was worked on.
    Unread,
}

/// A directory and what is known of it.
pub struct Template {
    /// How it came to be.
    pub variant: Variant,
    /// It.
    pub directory: PathBuf,
    /// Core threads that it was written with.
    pub cores: usize,
    /// The stream that what was passed went to.
    pub stream: String,
    /// All that was sent, acknowledged or not.
    pub sent: Vec<Sent>,
    /// What was acknowledged as durable, in the order of the answers.
    pub kept: Vec<Kept>,
    /// The cursors as they were earlier.
    pub older_cursors: Option<PathBuf>,
}

impl Template {
    /// Makes one in `folder`.
    pub fn make(setup: &Setup, variant: Variant, cores: usize, folder: &Path) -> Result<Self> {
        let name = format!("{variant:?}-{cores}").to_lowercase();
        let folder = folder.join(format!("template-{name}"));
        let stream = format!("TEMPLATE-{}", name.to_uppercase());
        let directory = folder.join("data");
        fs::create_dir_all(&folder)?;
        if let Some(url) = &setup.nats {
            downstream::create_stream(url, &stream, &subject_of(&stream))?;
        }
        let mut template = Self {
            variant,
            directory: directory.clone(),
            cores,
            stream: stream.clone(),
            sent: Vec::new(),
            kept: Vec::new(),
            older_cursors: None,
        };
        let life = |number: u32, onward| Life {
            directory: &directory,
            output: folder.join(format!("life-{number}")),
            cores,
            onward,
            set: Vec::new(),
        };
        if variant == Variant::Unread {
            let server = up(setup, &life(1, None))?;
            template.write(&server, "early", CONSUMED, |_| false)?;
            server.stop()?;
        } else {
            let server = up(setup, &life(1, Some(&stream)))?;
            template.write(&server, "early", CONSUMED / 2, |_| false)?;
            ensure!(setup.settle(&directory)? == 0, "the template's first messages are not worked on");
            let older = folder.join("older-cursors");
            copy(&directory.join("cursors"), &older)?;
            template.older_cursors = Some(older);
            template.write(&server, "later", CONSUMED / 2, |_| false)?;
            ensure!(setup.settle(&directory)? == 0, "the template's first messages are not worked on");
            server.stop()?;
        }
        let server = up(setup, &life(2, None))?;
        let keyed = |n: u64| n <= KEYED || n > WAITING - KEYED;
        template.write(&server, "waiting", WAITING, keyed)?;
        if variant == Variant::Stopped {
            server.stop()?;
        } else {
            template.write_until_killed(server)?;
        }
        Ok(template)
    }

    /// Sends so many messages, all of which must be acknowledged.
    fn write(&mut self, server: &Server, name: &str, count: u64, keyed: impl Fn(u64) -> bool) -> Result<()> {
        let messages: Vec<_> = (1..=count).map(|n| (server::message(name, n), keyed(n))).collect();
        let kept = server.send_all(&messages);
        ensure!(kept.len() as u64 == count, "{} of {count} messages were acknowledged", kept.len());
        self.sent.extend(kept.iter().map(|kept| kept.sent.clone()));
        self.kept.extend(kept);
        Ok(())
    }

    /// Kills it while messages are under way.
    fn write_until_killed(&mut self, server: Server) -> Result<()> {
        let background = Background::start(server.port(), "tail");
        background.wait_for(100)?;
        server.kill();
        let (sent, kept) = background.end();
        self.sent.extend(sent);
        self.kept.extend(kept);
        Ok(())
    }
}

/// Clients that write until they are told to stop, or their server is gone.
pub struct Background {
    stop: Arc<AtomicBool>,
    sent: Arc<Mutex<Vec<Sent>>>,
    kept: Arc<Mutex<Vec<Kept>>>,
    clients: Vec<thread::JoinHandle<()>>,
}

impl Background {
    /// Starts them; every message has a key.
    pub fn start(port: u16, name: &str) -> Self {
        let mut all =
            Self { stop: Arc::default(), sent: Arc::default(), kept: Arc::default(), clients: Vec::new() };
        for client in 0..CLIENTS {
            let (stop, sent, kept) = (Arc::clone(&all.stop), Arc::clone(&all.sent), Arc::clone(&all.kept));
            let name = format!("{name}-{client}");
            all.clients.push(thread::spawn(move || {
                let mut connection = Connection::new(port);
                for n in 1.. {
                    if stop.load(Relaxed) {
                        return;
                    }
                    let message = server::message(&name, n);
                    sent.lock().push(message.clone());
                    let answer = connection.ask(&message, Some(&message.id), "durable");
                    let Some((200, text)) = answer else {
                        if answer.is_none() {
                            return;
                        }
                        continue;
                    };
                    let answer: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
                    let place = (answer["shard"].as_u64(), answer["offset"].as_u64());
                    if let (Some(shard), Some(offset)) = place {
                        let place = (shard, offset);
                        kept.lock().push(Kept { sent: message, keyed: true, place, duplicate: false });
                    }
                }
            }));
        }
        all
    }

    /// What is acknowledged by now.
    pub fn kept(&self) -> Vec<Kept> {
        self.kept.lock().clone()
    }

    /// Waits until so many more are acknowledged.
    pub fn wait_for(&self, count: usize) -> Result<()> {
        let deadline = Instant::now() + server::PATIENCE;
        let goal = self.kept.lock().len() + count;
        while self.kept.lock().len() < goal {
            ensure!(Instant::now() < deadline, "nothing is acknowledged");
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Stops them: what they sent, and what was acknowledged.
    pub fn end(self) -> (Vec<Sent>, Vec<Kept>) {
        self.stop.store(true, Relaxed);
        for client in self.clients {
            // A panic of it was printed.
            let _ = client.join();
        }
        (std::mem::take(&mut *self.sent.lock()), std::mem::take(&mut *self.kept.lock()))
    }
}

fn up(setup: &Setup, life: &Life<'_>) -> Result<Server> {
    match setup.start(life)? {
        Start::Up(server) => Ok(server),
        Start::Refused(why) => bail!("the template cannot be made: {why}"),
    }
}

/// Copies a folder as `cp -a` does.
pub fn copy(from: &Path, to: &Path) -> Result<bool> {
    let status = Command::new("cp").arg("-a").arg(from).arg(to).status().context("cp")?;
    Ok(status.success())
}
