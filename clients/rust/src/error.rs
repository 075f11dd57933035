//! What can go wrong.

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
    #[error("{} ({attempts} attempts): {}", status.code(), status.message())]
    Refused {
        /// What it said.
        #[source]
        status: Status,
        /// How often the call was sent.
        attempts: u32,
    },
    /// The budget is spent and there is no answer: whether it was done is *unknown*.
    #[error("unknown: no answer within the budget ({attempts} attempts); send it again with the same id")]
    BudgetSpent {
        /// How often the call was sent.
        attempts: u32,
    },
    /// The batcher is closed.
    #[error("the batcher is closed")]
    Closed,
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
