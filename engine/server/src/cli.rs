//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

use crate::role::Part;

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
        tidegate config print > tidegate.toml     a commented file with the settings in force\n\n\
        Settings come from flags, then the environment (and .env), then tidegate.toml, then the defaults."
)]
pub struct Cli {
    /// What to do; without it, `run`.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Flags of a bare `tidegate`, as of `tidegate run`.
    #[command(flatten)]
    pub run: RunArguments,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start the server (the default).
    Run(RunArguments),
    /// Check, explain or print the settings.
    Config {
        /// What about them.
        #[command(subcommand)]
        action: ConfigAction,
    },
    /// Look into the durable log (data.directory).
    Log {
        /// What about it.
        #[command(subcommand)]
        action: LogAction,
    },
    /// Send messages of the durable log once more to a running Tidegate.
    Replay(ReplayArguments),
    /// Show messages that could not be delivered, or send them once more.
    Dlq {
        /// What about them.
        #[command(subcommand)]
        action: DlqAction,
    },
    /// Create or list the topics of Kafka (kafka.brokers).
    Topics {
        /// What about them.
        #[command(subcommand)]
        action: TopicsAction,
    },
    /// Say the version.
    Version,
    /// Print a completion script for a shell.
    Completions {
        /// Which shell.
        shell: Shell,
    },
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

/// What to send once more.
#[derive(Args, Clone, Debug)]
pub struct ReplayArguments {
    /// First offset, or time of appending (2026-11-21T10:00:00Z) [default: the oldest].
    #[arg(long)]
    pub from: Option<Position>,
    /// Up to before this offset, or time [default: the newest].
    #[arg(long)]
    pub to: Option<Position>,
    /// One shard only.
    #[arg(long)]
    pub shard: Option<usize>,
    /// The data directory [default: data.directory of the settings, or ./tidegate-data].
    #[arg(long, value_name = "DIR")]
    pub directory: Option<PathBuf>,
    /// The running Tidegate.
    #[arg(long, default_value = "http://localhost:8082")]
    pub url: String,
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
    },
    /// Send them once more to a running Tidegate, oldest first; what was sent is not listed any more.
    Replay {
        /// The data directory [default: data.directory of the settings, or ./tidegate-data].
        #[arg(long, value_name = "DIR")]
        directory: Option<PathBuf>,
        /// The running Tidegate.
        #[arg(long, default_value = "http://localhost:8082")]
        url: String,
    },
}

/// What about Kafka's topics.
#[derive(Clone, Copy, Debug, Subcommand)]
pub enum TopicsAction {
    /// Create those that are not there, with the partitions and retention that the older systems give them.
    Create,
    /// Print every topic with its partitions, its records and what the consumer group has not worked on.
    List,
}

/// Which log.
#[derive(Args, Clone, Debug)]
pub struct LogArguments {
    /// The data directory [default: data.directory of the settings, or ./tidegate-data].
    #[arg(long, value_name = "DIR")]
    pub directory: Option<PathBuf>,
}

/// What about the settings.
#[derive(Debug, Subcommand)]
pub enum ConfigAction {
    /// Check every source and say all that is wrong; exit code 0 when nothing is.
    Check(RunArguments),
    /// Say what a setting means, its value, and where that came from.
    Explain {
        /// The setting, for example `queue.size`.
        key: String,
        /// Sources, as for `run`.
        #[command(flatten)]
        sources: RunArguments,
    },
    /// Print the settings in force as a commented file.
    Print {
        /// Print the defaults instead.
        #[arg(long)]
        defaults: bool,
        /// Sources, as for `run`.
        #[command(flatten)]
        sources: RunArguments,
    },
}

/// Where settings come from.
#[derive(Args, Clone, Debug, Default)]
pub struct RunArguments {
    /// Settings file [default: tidegate.toml, if there is one].
    #[arg(long, short, value_name = "FILE", env = "TIDEGATE_CONFIG")]
    pub config: Option<PathBuf>,
    /// Which part to run [default: all, or the one this program is named after].
    #[arg(long, value_enum)]
    pub role: Option<Part>,
    /// Set any setting: KEY=VALUE, for example queue.size=5000. May be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Messages in flight over all cores (queue.size).
    #[arg(long, value_name = "COUNT")]
    pub queue_size: Option<String>,
    /// Core threads; 0 is every core (engine.cores).
    #[arg(long, value_name = "COUNT")]
    pub cores: Option<String>,
    /// error, warn, info, debug or trace (log.level).
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// human or json (log.format).
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,
}

impl RunArguments {
    /// The flags as `(setting, value, flag as typed)`.
    ///
    /// # Errors
    /// A `--set` without `=`.
    pub fn flags(&self) -> anyhow::Result<Vec<(String, String, String)>> {
        let mut flags = Vec::new();
        let named = [
            ("queue.size", "--queue-size", &self.queue_size),
            ("engine.cores", "--cores", &self.cores),
            ("log.level", "--log-level", &self.log_level),
            ("log.format", "--log-format", &self.log_format),
        ];
        for (path, flag, value) in named {
            if let Some(value) = value {
                flags.push((path.to_owned(), value.clone(), format!("{flag} {value}")));
            }
        }
        for pair in &self.set {
            let Some((path, value)) = pair.split_once('=') else {
                anyhow::bail!("--set {pair}: write it as KEY=VALUE, for example --set queue.size=5000");
            };
            flags.push((path.trim().to_owned(), value.to_owned(), format!("--set {pair}")));
        }
        Ok(flags)
    }
}
