//! Log lines, for people or for machines, on standard error; standard output is left to answers of commands.

mod latest;

use std::{io, sync::Arc};

use tracing_subscriber::{EnvFilter, Layer, fmt, layer::SubscriberExt, util::SubscriberInitExt};

pub use latest::{KEPT_MAX, Kind, Latest};

/// Starts logging at `level` (`error` … `trace`), as JSON objects or as lines for people. What is given back keeps the latest
/// warnings and errors, at whatever level.
pub fn start(level: &str, json: bool) -> Arc<Latest> {
    // h2 and hyper below tonic say much at debug level that is not about us. What the NATS client has to say of a
    // connection comes as its events, once and with the setting to look at; its own lines repeat at every try, and at
    // trace level name the user.
    let nats = if matches!(level, "debug" | "trace") { "debug" } else { "off" };
    let filter = EnvFilter::new(format!("{level},h2=warn,hyper=warn,tower=warn,async_nats={nats}"));
    // A closed terminal takes no more lines. That must not end the process, as a complaint to the same terminal would.
    let lines = fmt::layer().with_writer(io::stderr).log_internal_errors(false);
    let latest = Arc::<Latest>::default();
    let kept = latest::Layer::new(Arc::clone(&latest)).with_filter(EnvFilter::new("warn,async_nats=off"));
    let all = tracing_subscriber::registry().with(kept);
    if json {
        let lines = lines.json().flatten_event(true).with_current_span(false).with_span_list(false);
        all.with(lines.with_filter(filter)).init();
    } else {
        let lines = lines.with_target(false).with_ansi(rustix::termios::isatty(io::stderr()));
        all.with(lines.with_filter(filter)).init();
    }
    latest
}
