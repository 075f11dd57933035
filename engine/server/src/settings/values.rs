//! Values with the place each came from, read by type; and what can be wrong with one.

use std::{collections::BTreeMap, fmt, net::SocketAddr, path::PathBuf, time::Duration};

use figment::value::Value;

use super::value::{address, duration};

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// The table of defaults.
    Default,
    /// A file.
    File(PathBuf),
    /// One or more variables.
    Variable(String),
    /// A flag.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => write!(f, "default"),
            Origin::File(path) => write!(f, "file {}", path.display()),
            Origin::Variable(name) => write!(f, "environment {name}"),
            Origin::Flag(flag) => write!(f, "flag {flag}"),
        }
    }
}

/// One thing that is wrong with the settings: which setting, where, what, and what would be right.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct Problem(pub(super) String);

/// Checked values, read by type.
pub(super) struct Values<'a> {
    pub(super) values: &'a BTreeMap<&'static str, (Value, Origin)>,
    pub(super) left_empty: &'a [(&'static str, String)],
}

impl Values<'_> {
    pub(super) fn text(&self, path: &str) -> String {
        self.values[path].0.as_str().unwrap_or_default().to_owned()
    }

    pub(super) fn number(&self, path: &str) -> usize {
        let number = self.values[path].0.to_u128().and_then(|number| usize::try_from(number).ok());
        number.unwrap_or(usize::MAX)
    }

    pub(super) fn truth(&self, path: &str) -> bool {
        self.values[path].0.to_bool().unwrap_or_default()
    }

    pub(super) fn time(&self, path: &str) -> Duration {
        duration(&self.text(path)).unwrap_or_default()
    }

    /// The addresses of a listener, moved by `listen.port_offset`. Port 0 stays: the kernel picks one.
    pub(super) fn addresses(&self, path: &str) -> Result<Vec<SocketAddr>, Problem> {
        let offset = self.number("listen.port_offset");
        let list = self.values[path].0.as_array().unwrap_or_default();
        let moved = |mut address: SocketAddr| {
            if address.port() != 0 {
                let port = u16::try_from(usize::from(address.port()) + offset).map_err(|_| {
                    let text = format!("{address} ({path}) and {offset} are more than 65535; give less");
                    self.problem("listen.port_offset", &text)
                })?;
                address.set_port(port);
            }
            Ok(address)
        };
        list.iter().filter_map(|one| address(one.as_str()?).ok()).map(moved).collect()
    }

    /// The variable that names it and is empty, where nothing else has set it.
    pub(super) fn left_empty(&self, path: &str) -> Option<&str> {
        self.left_empty
            .iter()
            .find(|(of, _)| *of == path && self.is_default(path))
            .map(|(_, name)| name.as_str())
    }

    /// Whether nobody has set it.
    pub(super) fn is_default(&self, path: &str) -> bool {
        self.values[path].1 == Origin::Default
    }

    /// A setting that does not go with the others.
    pub(super) fn problem(&self, path: &str, text: &str) -> Problem {
        Problem(format!("setting {path} (from {}): {text}", self.values[path].1))
    }
}
