//! The command line. What says where settings come from ([`Sources`]) may stand in front of every command and behind it,
//! and means the same; a command that has no use for one of them says so instead of ignoring it.

use std::path::PathBuf;

use anyhow::{Result, bail, ensure};
use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

use crate::{
    role::Part,
    settings::{Flag, find},
};

/// Takes messages in over HTTP/1.1, HTTP/2 and gRPC, and says honestly how safe each one is.
#[derive(Debug, Parser)]
#[command(
    name = "tidegate",
    version,
    arg_required_else_help = false,
    after_help = "Without a command it runs. Examples:\n  \
        tidegate                                  start on the default ports\n  \
        tidegate run --set queue.size=100000      with another setting\n  \
        tidegate config explain queue.size        what a setting means and where its value comes from\n  \
        tidegate config print --output new.toml   the settings in force as a commented file\n  \
        tidegate -c other.toml topics list        every option may stand in front of a command, too\n\n\
        Settings come from flags, then the environment (and .env), then tidegate.toml, then the defaults."
)]
pub struct Cli {
    /// What to do; without it, `run`.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Ask the running server how it is: the check of a container image.
    #[arg(long, hide = true)]
    pub health_check: bool,
    /// What stands in front of the command.
    #[command(flatten)]
    pub sources: Sources,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start the server (the default).
    Run(Sources),
    /// Check, explain or print the settings.
    Config(With<ConfigAction>),
    /// Look into the durable log (data.directory).
    Log(With<LogAction>),
    /// Send messages of the durable log once more to a running Tidegate.
    Replay(ReplayArguments),
    /// Show messages that could not be delivered, or send them once more.
    Dlq(With<DlqAction>),
    /// Create or list the topics of Kafka (kafka.brokers).
    Topics(With<TopicsAction>),
    /// Run the engine in a simulated world: a disk that loses, brokers that fail, crashes, as a seed decides. Sockets, ports
    /// and real brokers are not touched.
    Simulate(SimulateArguments),
    /// Say the version.
    Version,
    /// Print a completion script for a shell.
    Completions {
        /// Which shell.
        shell: Shell,
    },
}

/// A command with actions; sources may stand between the two.
#[derive(Args, Debug)]
pub struct With<T: Subcommand> {
    /// What about it.
    #[command(subcommand)]
    pub action: T,
    /// What stands between the command and its action.
    #[command(flatten)]
    pub sources: Sources,
}

/// What about the log.
#[derive(Debug, Subcommand)]
pub enum LogAction {
    /// Check every record of every segment; exit code 0 when all that was acknowledged is whole.
    Verify(LogArguments),
    /// Print every message, oldest first.
    Dump {
        /// Which log.
        #[command(flatten)]
        log: LogArguments,
        /// One JSON object a line instead of lines for people.
        #[arg(long)]
        json: bool,
        /// One shard only.
        #[arg(long)]
        shard: Option<usize>,
    },
    /// Print segments, offsets and consumers.
    Stat(LogArguments),
    /// Make a damaged log open again: copy the damaged segments aside, keep what is whole, say what is lost.
    Repair {
        /// Which log.
        #[command(flatten)]
        log: LogArguments,
        /// Where the damaged segments are copied as they are.
        #[arg(long, value_name = "DIR")]
        salvage: PathBuf,
    },
}

/// What to simulate.
#[derive(Args, Debug)]
#[command(
    after_help = "Without settings each seed draws a queue type, a strategy, sizes, faults and damage. With settings (--settings FILE, \
    or any --set) queue.type, composite.*, the log, idempotency.window and engine.cores are those; sizes stay the simulator's, \
    small enough for things to be full. docs/simulation.md says what each run checks; a seed is the same run every time.\n\nExamples:\n  \
    tidegate simulate --seeds 100000                     as many worlds\n  \
    tidegate simulate --seed 4711 --trace                one, step by step\n  \
    tidegate simulate --settings my.toml --seeds 50000   with my settings"
)]
pub struct SimulateArguments {
    /// This seed alone; if it breaks a promise, the smallest plan that still does is shown.
    #[arg(long)]
    pub seed: Option<u64>,
    /// How many seeds.
    #[arg(long, default_value_t = 10_000, conflicts_with = "seed")]
    pub seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 0, conflicts_with = "seed")]
    pub from: u64,
    /// Stop at the first seed that breaks a promise.
    #[arg(long, conflicts_with = "seed")]
    pub stop: bool,
    /// Print every step of the seed.
    #[arg(long, requires = "seed")]
    pub trace: bool,
    /// Where its settings come from.
    #[command(flatten)]
    pub sources: Sources,
}

/// What to send once more.
#[derive(Args, Debug)]
pub struct ReplayArguments {
    /// First offset, or time of appending (2026-11-21T10:00:00Z) [default: the oldest].
    #[arg(long)]
    pub from: Option<Position>,
    /// Up to before this offset, or time [default: the newest when it begins].
    #[arg(long)]
    pub to: Option<Position>,
    /// One shard only.
    #[arg(long)]
    pub shard: Option<usize>,
    /// The data directory [default: data.directory of the settings, or ./tidegate-data].
    #[arg(long, value_name = "DIR")]
    pub directory: Option<PathBuf>,
    /// The running Tidegate [default: http://localhost:8082, as listen.processor says].
    #[arg(long)]
    pub url: Option<String>,
    /// Where settings come from.
    #[command(flatten)]
    pub sources: Sources,
}

/// A place in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Position {
    /// An offset, in every shard.
    Offset(u64),
    /// Milliseconds of the Unix epoch.
    Time(u64),
}

/// What about the dead letters.
#[derive(Debug, Subcommand)]
pub enum DlqAction {
    /// Print them, with the side, its code and its reason.
    List {
        /// The data directory [default: data.directory of the settings, or ./tidegate-data].
        #[arg(long, value_name = "DIR")]
        directory: Option<PathBuf>,
        /// One JSON object a line.
        #[arg(long)]
        json: bool,
        /// Where settings come from.
        #[command(flatten)]
        sources: Sources,
    },
    /// Send them once more to a running Tidegate, oldest first; what was sent is not listed any more.
    Replay {
        /// The data directory [default: data.directory of the settings, or ./tidegate-data].
        #[arg(long, value_name = "DIR")]
        directory: Option<PathBuf>,
        /// The running Tidegate [default: http://localhost:8082, as listen.processor says].
        #[arg(long)]
        url: Option<String>,
        /// Where settings come from.
        #[command(flatten)]
        sources: Sources,
    },
}

/// What about Kafka's topics.
#[derive(Debug, Subcommand)]
pub enum TopicsAction {
    /// Create those that are not there, with the partitions and retention that the older systems give them.
    Create(Sources),
    /// Print every topic with its partitions, its records and what the consumer group has not worked on.
    List(Sources),
}

/// Which log.
#[derive(Args, Debug)]
pub struct LogArguments {
    /// The data directory [default: data.directory of the settings, or ./tidegate-data].
    #[arg(long, value_name = "DIR")]
    pub directory: Option<PathBuf>,
    /// Where settings come from.
    #[command(flatten)]
    pub sources: Sources,
}

/// What about the settings.
#[derive(Debug, Subcommand)]
pub enum ConfigAction {
    /// Check every source and say all that is wrong; exit code 0 when nothing is.
    Check(Sources),
    /// Say what a setting means, its value, and where that came from.
    Explain {
        /// The setting, for example `queue.size`.
        key: String,
        /// Where settings come from.
        #[command(flatten)]
        sources: Sources,
    },
    /// Print the settings in force as a commented file.
    Print {
        /// Print the defaults instead.
        #[arg(long)]
        defaults: bool,
        /// Write them into this file, whole or not at all. Secrets are left out, with a comment that says where they came from.
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
        /// Where settings come from.
        #[command(flatten)]
        sources: Sources,
    },
}

/// Where settings come from.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Settings, in front of a command or behind it")]
pub struct Sources {
    /// Settings file [default: TIDEGATE_CONFIG, else tidegate.toml, if there is one].
    #[arg(long, short, alias = "settings", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Which part to run [default: all, or the one this program is named after].
    #[arg(long, value_enum)]
    pub role: Option<Part>,
    /// Set any setting: KEY=VALUE, for example queue.size=5000. May be repeated; the last one counts.
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Messages in flight over all cores (queue.size).
    #[arg(long, value_name = "COUNT")]
    pub queue_size: Option<String>,
    /// Core threads; 0 is every core (engine.cores).
    #[arg(long, value_name = "COUNT")]
    pub cores: Option<String>,
    /// Add this to the number of every port, for a further process on this machine (listen.port_offset).
    #[arg(long, value_name = "COUNT")]
    pub port_offset: Option<String>,
    /// error, warn, info, debug or trace (log.level).
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// human or json (log.format).
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,
}

impl Sources {
    /// The flags in the order in which they count, the last one most.
    ///
    /// # Errors
    /// A `--set` without `=`. It is not quoted: it may be a secret.
    pub fn flags(&self) -> Result<Vec<Flag>> {
        let mut flags = Vec::new();
        let named = [
            ("queue.size", "--queue-size", &self.queue_size),
            ("engine.cores", "--cores", &self.cores),
            ("listen.port_offset", "--port-offset", &self.port_offset),
            ("log.level", "--log-level", &self.log_level),
            ("log.format", "--log-format", &self.log_format),
        ];
        for (path, flag, value) in named {
            if let Some(value) = value {
                flags.push(Flag { path: path.to_owned(), value: value.clone(), shown: flag.to_owned() });
            }
        }
        for (place, pair) in self.set.iter().enumerate() {
            let Some((path, value)) = pair.split_once('=') else {
                bail!(
                    "--set number {}: there is no `=` in it; write it as KEY=VALUE, for example --set queue.size=5000",
                    place + 1
                );
            };
            let path = path.trim().to_owned();
            // What is no name may be a value that went astray, and is not repeated.
            let is_name = path.len() <= 64
                && path.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
            let shown = if is_name { format!("--set {path}") } else { format!("--set number {}", place + 1) };
            flags.push(Flag { value: value.to_owned(), shown, path });
        }
        Ok(flags)
    }

    /// These with those that stand behind them on the command line.
    fn and(mut self, behind: Sources) -> Result<Self> {
        fn one<T>(name: &str, front: Option<T>, behind: Option<T>) -> Result<Option<T>> {
            ensure!(front.is_none() || behind.is_none(), "{name} is given twice; give it once");
            Ok(front.or(behind))
        }
        self.set.extend(behind.set);
        Ok(Self {
            config: one("--config", self.config, behind.config)?,
            role: one("--role", self.role, behind.role)?,
            set: self.set,
            queue_size: one("--queue-size", self.queue_size, behind.queue_size)?,
            cores: one("--cores", self.cores, behind.cores)?,
            port_offset: one("--port-offset", self.port_offset, behind.port_offset)?,
            log_level: one("--log-level", self.log_level, behind.log_level)?,
            log_format: one("--log-format", self.log_format, behind.log_format)?,
        })
    }

    /// Whether any was named.
    pub fn names_settings(&self) -> bool {
        self.config.is_some() || !self.set.is_empty() || self.cores.is_some()
    }

    /// Refuses what `command` would ignore.
    fn used_by(&self, command: &str, uses: Uses) -> Result<()> {
        let unused = |option: &str, what: &str| format!("`tidegate {command}` has no use for {option}{what}");
        match uses {
            Uses::Everything => Ok(()),
            Uses::Nothing => {
                ensure!(self.config.is_none(), "{}", unused("--config", ": it reads no settings"));
                ensure!(self.role.is_none(), "{}", unused("--role", ": it reads no settings"));
                match self.flags()?.first() {
                    Some(flag) => bail!("{}", unused(&flag.shown, ": it reads no settings")),
                    None => Ok(()),
                }
            }
            Uses::Settings { paths, role } => {
                ensure!(self.role.is_none() || role, "{}", unused("--role", ": it is the same for each"));
                let knows = |path: &str| {
                    paths
                        .iter()
                        .any(|known| path == *known || (known.ends_with('.') && path.starts_with(known)))
                };
                for flag in self.flags()? {
                    // What is no setting at all is said by who reads the settings.
                    if find(&flag.path).is_some() && !knows(&flag.path) {
                        let what =
                            format!(": of the settings it reads {}", paths.join(", ").replace(".,", ".*,"));
                        bail!("{}", unused(&flag.shown, what.trim_end_matches('.')));
                    }
                }
                Ok(())
            }
        }
    }
}

/// What a command reads of the settings.
#[derive(Clone, Copy, Debug)]
enum Uses {
    Everything,
    Nothing,
    /// Settings, or with a dot at the end tables; and whether it matters for which part.
    Settings {
        paths: &'static [&'static str],
        role: bool,
    },
}

/// Where the log is.
const DIRECTORY: Uses = Uses::Settings { paths: &["data.directory", "queue.type"], role: false };
/// Where the log is, and what a server asks for that messages are sent to.
const SENDING: Uses = Uses::Settings {
    paths: &[
        "data.directory",
        "queue.type",
        "auth.api_keys",
        "auth.tokens",
        "auth.scope",
        "listen.processor",
        "listen.port_offset",
    ],
    role: false,
};
/// What decides what can go wrong.
const SIMULATED: Uses = Uses::Settings {
    paths: &["queue.type", "composite.", "data.directory", "idempotency.window", "engine.cores"],
    role: false,
};
/// Where Kafka is, and what the topics are.
const KAFKA: Uses = Uses::Settings { paths: &["kafka."], role: true };

impl Cli {
    /// What to do, and the sources of its settings, wherever on the line they stand.
    ///
    /// # Errors
    /// Options given twice, and those that this command has no use for.
    pub fn into_parts(self) -> Result<(Option<Command>, Sources)> {
        let mut command = self.command;
        let (name, uses, between, behind) = match &mut command {
            None => ("run", Uses::Everything, None, None),
            Some(Command::Run(sources)) => ("run", Uses::Everything, None, Some(sources)),
            Some(Command::Config(config)) => {
                let (uses, behind) = match &mut config.action {
                    ConfigAction::Check(sources) | ConfigAction::Explain { sources, .. } => {
                        (Uses::Everything, sources)
                    }
                    ConfigAction::Print { defaults, sources, .. } => {
                        (if *defaults { Uses::Nothing } else { Uses::Everything }, sources)
                    }
                };
                ("config", uses, Some(&mut config.sources), Some(behind))
            }
            Some(Command::Log(log)) => {
                let behind = match &mut log.action {
                    LogAction::Verify(log) | LogAction::Stat(log) => log,
                    LogAction::Dump { log, .. } | LogAction::Repair { log, .. } => log,
                };
                ("log", DIRECTORY, Some(&mut log.sources), Some(&mut behind.sources))
            }
            Some(Command::Simulate(arguments)) => ("simulate", SIMULATED, None, Some(&mut arguments.sources)),
            Some(Command::Replay(arguments)) => ("replay", SENDING, None, Some(&mut arguments.sources)),
            Some(Command::Dlq(dlq)) => {
                let (uses, behind) = match &mut dlq.action {
                    DlqAction::List { sources, .. } => (DIRECTORY, sources),
                    DlqAction::Replay { sources, .. } => (SENDING, sources),
                };
                ("dlq", uses, Some(&mut dlq.sources), Some(behind))
            }
            Some(Command::Topics(topics)) => {
                let (TopicsAction::Create(behind) | TopicsAction::List(behind)) = &mut topics.action;
                ("topics", KAFKA, Some(&mut topics.sources), Some(behind))
            }
            Some(Command::Version) => ("version", Uses::Nothing, None, None),
            Some(Command::Completions { .. }) => ("completions", Uses::Nothing, None, None),
        };
        let mut sources = self.sources;
        for further in [between, behind].into_iter().flatten() {
            sources = sources.and(std::mem::take(further))?;
        }
        if self.health_check {
            ensure!(name == "run", "`tidegate {name}` has no use for -health-check");
        }
        sources.used_by(name, uses)?;
        Ok((command, sources))
    }
}
