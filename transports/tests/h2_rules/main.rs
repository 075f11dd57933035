//! The rules of HTTP/2, one test each: frames made by hand go in, calls and frames come out, no socket.
#![allow(clippy::unwrap_used, reason = "a test may panic, in its common part too")]

mod abuse;
mod flow;
mod peer;
mod requests;
mod robust;
mod streams;
