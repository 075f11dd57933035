//! The log on a real disk: what was acknowledged is there again, what is damaged is noticed.
#![allow(clippy::unwrap_used, reason = "a test may panic, in its common part too")]

mod harness;
mod keys;
mod recovery;
mod retention;
mod tools;
mod writing;
