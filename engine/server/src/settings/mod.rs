//! The settings of a run: flag over environment over `.env` over file over default, each value checked, each with
//! the place it came from. Nothing else in the house reads the environment.

mod auth;
mod delivery;
mod dotenv;
mod environment;
mod keys;
mod layers;
mod value;
mod values;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

pub use auth::Auth;
pub use delivery::{DEFAULT_DIRECTORY, Delivery, Provider};
pub use dotenv::read_dotenv;
pub use environment::{WITHOUT_EFFECT, WithoutEffect};
pub use keys::{KEYS, Key, Kind, find, named, nearest};
pub use layers::{Checked, Flag, Layers, Resolved, Shown};
pub use value::expectation;
pub use values::{Origin, Problem};

use crate::events::EventShapes;

/// How the core loops wait for sockets.
pub use transports::DriverChoice;

/// Everything a run needs to know, typed.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Addresses of the public API.
    pub gateway: Vec<SocketAddr>,
    /// Addresses of the ingest service.
    pub ingest: Vec<SocketAddr>,
    /// Addresses of the processor.
    pub processor: Vec<SocketAddr>,
    /// Addresses of the older analytics service.
    pub analytics: Vec<SocketAddr>,
    /// How much of the events is added up; `None`: nothing.
    pub analytics_bounds: Option<engine_analytics::Bounds>,
    /// How often that is written down, where there is a data directory; zero: never.
    pub analytics_snapshot_interval: Duration,
    /// Viewers that the live page may have at a time; 0: there is no page.
    pub live_viewers_max: usize,
    /// Who may ask for what.
    pub auth: Auth,
    /// Addresses of gRPC.
    pub grpc: Vec<SocketAddr>,
    /// Addresses of the metrics port; empty when it is off.
    pub metrics: Vec<SocketAddr>,
    /// A further path for metrics.
    pub metrics_path: String,
    /// Core threads; 0 is every core.
    pub cores: usize,
    /// io_uring, epoll, or whichever the kernel allows.
    pub driver: DriverChoice,
    /// Whether threads are pinned.
    pub pin: bool,
    /// Empty, `source`, or a metadata key.
    pub partition_key: String,
    /// Where messages go.
    pub delivery: Delivery,
    /// The topics of Kafka, whether it is used or not.
    pub kafka_topics: EventShapes,
    /// The settings that name another process, whether this part sends messages on or not.
    pub remote_named: Vec<&'static str>,
    /// Messages in flight, over all cores.
    pub queue_size: usize,
    /// Bytes of large bodies in flight, over all cores.
    pub queue_bytes_max: usize,
    /// Limits of the front ends.
    pub limits: transports::Limits,
    /// After a signal, how long open requests may take.
    pub shutdown_timeout: Duration,
    /// `error` … `trace`.
    pub log_level: String,
    /// One JSON object a line instead of lines for people.
    pub log_json: bool,
    /// What was given and changes nothing, a line each.
    pub notes: Vec<String>,
}

/// What this binary can speak with Kafka, in words.
pub fn kafka_kind() -> &'static str {
    match brokers::kafka::SPEAKS_TLS {
        true => "plaintext, TLS and SASL",
        false => "plaintext, and neither TLS nor SASL (a build with --features kafka-tls does)",
    }
}

/// The file that is read when no other is named.
pub fn default_file() -> PathBuf {
    PathBuf::from("tidegate.toml")
}

/// The commented file with every default: `tidegate config print --defaults`, and `tidegate.toml` of the repository.
pub fn commented_defaults() -> String {
    let head = "# Tidegate: every setting with its default.\n\
         # A flag wins over the environment, the environment over this file, this file over the default.\n\
         # `tidegate config check` checks it, `tidegate config explain KEY` says where a value came from.\n";
    commented_file(head, |key| format!("{} = {}", key.name(), key.default))
}

/// A file with every setting: what it means, and a line of its own.
fn commented_file(head: &str, line: impl Fn(&Key) -> String) -> String {
    let mut text = head.to_owned();
    let mut table = "";
    for key in KEYS {
        if key.table() != table {
            table = key.table();
            text.push_str(&format!("\n[{table}]\n"));
        }
        let variables =
            format!("({}. Environment: {})", expectation(key.kind), key.all_variables().join(", "));
        for comment in wrapped(key.text, 105).into_iter().chain(wrapped(&variables, 105)) {
            text.push_str(&format!("# {comment}\n"));
        }
        text.push_str(&line(key));
        text.push('\n');
    }
    text
}

fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let last = lines.len() - 1;
        if !lines[last].is_empty() && lines[last].len() + 1 + word.len() > width {
            lines.push(word.to_owned());
        } else {
            if !lines[last].is_empty() {
                lines[last].push(' ');
            }
            lines[last].push_str(word);
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_file_shows_exactly_the_defaults() {
        let committed =
            std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tidegate.toml")).unwrap();
        assert_eq!(
            committed,
            commented_defaults(),
            "write it anew with `tidegate config print --defaults > tidegate.toml`"
        );
    }
}
