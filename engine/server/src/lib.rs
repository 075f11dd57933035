//! The binary's parts: command line, settings, cold lane, start and end. Nothing else in the house reads the
//! environment.

mod banner;
pub mod cli;
pub mod cold;
mod commands;
pub mod delivery;
pub mod events;
mod health_check;
pub mod live;
mod log_tools;
pub mod logging;
mod printable;
mod resend;
mod reserved_paths;
mod role;
pub mod run;
mod scope;
pub mod settings;
mod simulate;
pub mod snapshots;
mod topics;

pub use commands::main;
pub use role::Part;
