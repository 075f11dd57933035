//! What can go wrong.

use std::{error::Error as StdError, fmt};

use tonic::Status;

use crate::call::MESSAGE_BYTES_MAX;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A setting is wrong; nothing was tried.
    #[error("{setting}: {problem}")]
    Config {
        /// Its name.
        setting: &'static str,
        /// What is wrong with it, and what is expected.
        problem: String,
    },
    /// The message is larger than the server takes; nothing was sent.
    #[error("the message has {bytes} bytes, at most {MESSAGE_BYTES_MAX} are taken: split it")]
    TooLarge {
        /// Its length.
        bytes: usize,
    },
    /// The server, or the connection to it, said no; the last status is here.
    #[error("{server} ({attempts} attempts): {}", Told(status))]
    Refused {
        /// The address of the server.
        server: String,
        /// What it said.
        #[source]
        status: Status,
        /// How often the call was sent.
        attempts: u32,
    },
    /// The budget is spent and there is no answer: whether it was done is *unknown*.
    #[error(
        "unknown: no answer from {server} within the budget ({attempts} attempts); send it again with the same id"
    )]
    BudgetSpent {
        /// The address of the server.
        server: String,
        /// How often the call was sent.
        attempts: u32,
    },
    /// The batcher is closed.
    #[error("the batcher is closed")]
    Closed,
}

/// A status in words, with the causes that its own text leaves out: a broken connection is only `transport error` there.
pub(crate) struct Told<'a>(pub(crate) &'a Status);

impl fmt::Display for Told<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.code(), self.0.message())?;
        let mut last = self.0.message().to_owned();
        let mut cause = self.0.source();
        while let Some(known) = cause {
            let text = known.to_string();
            if !last.contains(&text) {
                write!(f, ": {text}")?;
                last = text;
            }
            cause = known.source();
        }
        Ok(())
    }
}

impl Error {
    /// The status, if the server or the connection gave one.
    pub fn status(&self) -> Option<&Status> {
        match self {
            Error::Refused { status, .. } => Some(status),
            _ => None,
        }
    }

    pub(crate) fn config(setting: &'static str, problem: impl Into<String>) -> Self {
        Error::Config { setting, problem: problem.into() }
    }
}
