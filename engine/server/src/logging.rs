//! Log lines, for people or for machines, on standard error; standard output is left to answers of commands.

use std::io;

use tracing_subscriber::{EnvFilter, fmt};

/// Starts logging at `level` (`error` … `trace`), as JSON objects or as lines for people.
pub fn start(level: &str, json: bool) {
    // h2 and hyper below tonic say much at debug level that is not about us. What the NATS client has to say of a
    // connection comes as its events, once and with the setting to look at; its own lines repeat at every try, and at
    // trace level name the user.
    let nats = if matches!(level, "debug" | "trace") { "debug" } else { "off" };
    let filter = EnvFilter::new(format!("{level},h2=warn,hyper=warn,tower=warn,async_nats={nats}"));
    // A closed terminal takes no more lines. That must not end the process, as a complaint to the same terminal would.
    let lines = fmt().with_env_filter(filter).with_writer(io::stderr).log_internal_errors(false);
    if json {
        lines.json().flatten_event(true).with_current_span(false).with_span_list(false).init();
    } else {
        lines.with_target(false).with_ansi(rustix::termios::isatty(io::stderr())).init();
    }
}
