//! Variables: what they say of a setting, and what becomes of those that are about none. None is ignored in silence.

use figment::value::Value;

use super::{
    KEYS, Key, Kind,
    layers::Layers,
    value::{from_text, shown},
    values::Problem,
};
use crate::role::Part;

/// A variable of an older system that is read and changes nothing.
#[derive(Debug)]
pub struct WithoutEffect {
    /// Its name.
    pub variable: &'static str,
    /// What its values may be; others stop the start, as they did there.
    pub kind: Kind,
    /// What happens instead.
    pub why: &'static str,
}

const fn idle(variable: &'static str, kind: Kind, why: &'static str) -> WithoutEffect {
    WithoutEffect { variable, kind, why }
}

const NO_DATABASE: &str = "there is no database to connect to";
const NO_CACHE: &str = "there is no cache to connect to";
const FIXED: &str = "the answers' service and version are fixed";

/// Variables of the older systems without a setting.
pub const WITHOUT_EFFECT: &[WithoutEffect] = &[
    idle("APP_NAME", Kind::Text, FIXED),
    idle("APP_VERSION", Kind::Text, FIXED),
    idle(
        "APP_ENV",
        Kind::Choice(&[("development", ""), ("staging", ""), ("production", "")]),
        "nothing depends on it",
    ),
    idle("APP_DEBUG", Kind::Boolean, "LOG_LEVEL=debug says more"),
    idle("SERVICE_NAME", Kind::Text, FIXED),
    idle("SERVICE_ENV", Kind::Text, "nothing depends on it"),
    idle(
        "KAFKA_MAX_RETRIES",
        Kind::Integer { min: 0, max: 10 },
        "what may pass by itself is tried again for ever, what is refused for ever is a dead letter at once",
    ),
    idle("KAFKA_TOPIC_METRICS", Kind::Text, "metrics are not written to Kafka"),
    idle("KAFKA_PARTITION_STRATEGY", Kind::Text, "a key's hash says its partition, always"),
    idle("KAFKA_GROUP_ID", Kind::Text, "KAFKA_CONSUMER_GROUP names the consumer group"),
    idle("CONSUMER_AUTO_COMMIT", Kind::Boolean, "a record is committed after it was worked on, always"),
    idle("CONSUMER_OFFSET_OLDEST", Kind::Boolean, "a new group begins with the oldest record, always"),
    idle("DB_HOST", Kind::Text, NO_DATABASE),
    idle("DB_PORT", Kind::Text, NO_DATABASE),
    idle("DB_USER", Kind::Secret, NO_DATABASE),
    idle("DB_PASSWORD", Kind::Secret, NO_DATABASE),
    idle("DB_NAME", Kind::Text, NO_DATABASE),
    idle("DB_SSLMODE", Kind::Text, NO_DATABASE),
    idle("REDIS_HOST", Kind::Text, NO_CACHE),
    idle("REDIS_PORT", Kind::Text, NO_CACHE),
    idle("REDIS_PASSWORD", Kind::Secret, NO_CACHE),
    idle("REDIS_DB", Kind::Text, NO_CACHE),
];

/// Variables whose bounds are narrower than their setting's: the older producer service refused to start beyond them.
const NARROWER: [(&str, Kind); 5] = [
    ("KAFKA_BATCH_SIZE", Kind::Integer { min: 1, max: 1000 }),
    ("KAFKA_BATCH_TIMEOUT", Kind::Duration { min_ms: 1, max_ms: 10_000 }),
    ("SERVER_READ_TIMEOUT", Kind::Duration { min_ms: 1_000, max_ms: 300_000 }),
    ("SERVER_WRITE_TIMEOUT", Kind::Duration { min_ms: 1_000, max_ms: 300_000 }),
    ("SERVER_SHUTDOWN_TIMEOUT", Kind::Duration { min_ms: 1_000, max_ms: 60_000 }),
];

/// Variables that our own clients read, and a server does not.
const OF_CLIENTS: [&str; 2] = ["TIDEGATE_ADDRESS", "TIDEGATE_API_KEY"];

/// Whether Kubernetes sets this in every container for a Service (its documentation: "Accessing the Service",
/// Docker-links-compatible variables): a Service called `ingest` gives `INGEST_PORT=tcp://10.0.0.1:8081`.
fn is_service_link(name: &str, value: &str) -> bool {
    let is_address = ["tcp://", "udp://", "sctp://"].iter().any(|scheme| value.starts_with(scheme));
    // `…_PORT_8081_TCP`, `…_PORT_8081_TCP_ADDR`
    let of_a_port = name.match_indices("_PORT_").any(|(at, infix)| {
        let mut parts = name[at + infix.len()..].split('_');
        let is_number = parts.next().is_some_and(|port| port.parse::<u16>().is_ok());
        is_number && parts.next().is_some_and(|protocol| ["TCP", "UDP", "SCTP"].contains(&protocol))
    });
    name.ends_with("_SERVICE_HOST")
        || name.ends_with("_SERVICE_PORT")
        || name.contains("_SERVICE_PORT_")
        || (name.ends_with("_PORT") && is_address)
        || of_a_port
}

impl Layers {
    fn variable(&self, name: &str) -> Option<&str> {
        let value = self.environment.get(name).map(|value| value.trim()).filter(|value| !value.is_empty())?;
        (!is_service_link(name, value)).then_some(value)
    }

    /// Whether this variable is another part's, or about another listener here, so that `part` does not read it.
    fn is_anothers(name: &str, path: &str, part: Part) -> bool {
        match name {
            // Unqualified, it is the producer's; a part has its own.
            "HTTP_PORT" => !has_http_port(path, part),
            // One is the processor's group, the other the older analytics system's consumer's; the
            // analytics process must share with neither, or each would have a part of the events.
            "CONSUMER_GROUP_ID" => part != Part::Consumer,
            "KAFKA_CONSUMER_GROUP" => matches!(part, Part::Consumer | Part::Analytics),
            _ => false,
        }
    }

    /// What the variables say of one setting, and which of them did.
    pub(super) fn of_variables(&self, key: &Key, part: Part) -> Result<Option<(Value, String)>, Problem> {
        let own = key.own_variable();
        let mut named: Vec<(String, Value)> = Vec::new();
        for name in key.variables.iter().copied().chain([own.as_str()]) {
            let text = match name {
                "SERVER_HOST+SERVER_PORT" => {
                    match (self.variable("SERVER_HOST"), self.variable("SERVER_PORT")) {
                        (None, None) => None,
                        (host, port) => {
                            Some(format!("{}:{}", host.unwrap_or("0.0.0.0"), port.unwrap_or("8080")))
                        }
                    }
                }
                name if Self::is_anothers(name, key.path, part) => None,
                // An unqualified GRPC_PORT moves 50051 alone; a part by itself has no other.
                "GRPC_PORT" if part == Part::All => {
                    self.variable(name).map(|port| format!("{port},:50052,:50053"))
                }
                _ => self.variable(name).map(str::to_owned),
            };
            let Some(text) = text else { continue };
            let wrong = |wrong| Problem(format!("variable {name}: setting {}: {wrong}", key.path));
            if let Some((_, narrower)) = NARROWER.iter().find(|(narrow, _)| *narrow == name) {
                from_text(*narrower, &text).map_err(|why| wrong(format!("{why} ({own} may be more)")))?;
            }
            named.push((name.to_owned(), from_text(key.kind, &text).map_err(wrong)?));
        }
        if let Kind::Addresses = key.kind {
            // Several names for one listener are not a conflict: it listens on all they name.
            let mut union: Vec<Value> = Vec::new();
            for (_, value) in &named {
                for one in value.as_array().unwrap_or_default() {
                    if !union.iter().any(|known| known.as_str() == one.as_str()) {
                        union.push(one.clone());
                    }
                }
            }
            let names: Vec<&str> = named.iter().map(|(name, _)| name.as_str()).collect();
            return Ok((!named.is_empty()).then(|| (Value::from(union), names.join(", "))));
        }
        if let Some(((first, value), others)) = named.split_first()
            && !key.first_variable_wins()
            && let Some((other, differs)) = others.iter().find(|(_, other)| shown(other) != shown(value))
        {
            let values = match key.may_be_secret() {
                true => String::new(),
                false => format!(" ({} and {})", shown(value), shown(differs)),
            };
            return Err(Problem(format!(
                "variables {first} and {other} both set {} and differ{values}: unset one",
                key.path
            )));
        }
        Ok(named.into_iter().next().map(|(name, value)| (value, name)))
    }

    /// Settings that a variable names and leaves empty.
    pub(super) fn left_empty(&self) -> Vec<(&'static str, String)> {
        let is_empty =
            |name: &String| self.environment.get(name).is_some_and(|value| value.trim().is_empty());
        KEYS.iter()
            .flat_map(|key| key.all_variables().into_iter().filter(is_empty).map(|name| (key.path, name)))
            .collect()
    }

    /// A misspelt `TIDEGATE_…` would otherwise be ignored in silence.
    pub(super) fn unknown_variables(&self, problems: &mut Vec<Problem>) {
        for (name, value) in self.environment.iter().filter(|(name, _)| name.starts_with("TIDEGATE_")) {
            if name == "TIDEGATE_CONFIG"
                || OF_CLIENTS.contains(&name.as_str())
                || is_service_link(name, value)
                || KEYS.iter().any(|key| key.own_variable() == *name)
            {
                continue;
            }
            let meant = KEYS
                .iter()
                .map(Key::own_variable)
                .max_by(|a, b| strsim::jaro_winkler(name, a).total_cmp(&strsim::jaro_winkler(name, b)));
            problems.push(Problem(format!(
                "variable {name}: there is no such setting; did you mean {}?",
                meant.unwrap_or_default()
            )));
        }
    }

    /// Says which variables are known and change nothing in this run.
    pub(super) fn without_effect(&self, part: Part, problems: &mut Vec<Problem>) -> Vec<String> {
        let mut notes = Vec::new();
        for WithoutEffect { variable, kind, why } in WITHOUT_EFFECT {
            let Some(text) = self.variable(variable) else { continue };
            match from_text(*kind, text) {
                // A placeholder is as good as any: nobody is shown it.
                Err(_) if matches!(kind, Kind::Secret) => {
                    notes.push(format!("{variable} has no effect: {why}"))
                }
                Err(wrong) => problems.push(Problem(format!("variable {variable}: {wrong}"))),
                Ok(_) => notes.push(format!("{variable} has no effect: {why}")),
            }
        }
        for name in ["CONSUMER_GROUP_ID", "KAFKA_CONSUMER_GROUP"] {
            if self.variable(name).is_some() && Self::is_anothers(name, "kafka.consumer_group", part) {
                notes.push(format!(
                    "{name} has no effect on the role {}, whose consumer group has another name (kafka.consumer_group)",
                    part.name()
                ));
            }
        }
        let of_ours = |name: &&str| {
            name.starts_with("TIDEGATE_")
                || KEYS
                    .iter()
                    .any(|key| key.variables.iter().any(|known| known.split('+').any(|one| one == *name)))
        };
        let links: Vec<&str> = self
            .environment
            .iter()
            .filter(|(name, value)| is_service_link(name, value))
            .map(|(name, _)| name.as_str())
            .filter(of_ours)
            .collect();
        if !links.is_empty() {
            notes.push(format!(
                "ignored, for Kubernetes sets them for Services of these names: {}",
                links.join(", ")
            ));
        }
        notes
    }
}

/// Whether `HTTP_PORT` moves this listener.
fn has_http_port(path: &str, part: Part) -> bool {
    match part {
        Part::Consumer => path == "listen.processor",
        Part::Analytics => path == "listen.analytics",
        _ => path == "listen.ingest",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn service_links_are_told_from_settings() {
        for (name, value) in [
            ("TIDEGATE_PORT", "tcp://10.0.0.1:8080"),
            ("INGEST_PORT", "tcp://10.0.0.1:8081"),
            ("DNS_PORT", "udp://10.0.0.1:53"),
            ("TIDEGATE_SERVICE_HOST", "10.0.0.1"),
            ("TIDEGATE_SERVICE_PORT", "8080"),
            ("TIDEGATE_SERVICE_PORT_HTTP", "8080"),
            ("TIDEGATE_PORT_8080_TCP", "tcp://10.0.0.1:8080"),
            ("TIDEGATE_PORT_8080_TCP_ADDR", "10.0.0.1"),
            ("TIDEGATE_EVENTS_PORT_53_UDP_PROTO", "udp"),
        ] {
            assert!(is_service_link(name, value), "{name}");
        }
        for (name, value) in [
            ("INGEST_PORT", "8081"),
            ("INGEST_PORT", "127.0.0.1:8081"),
            ("TIDEGATE_PORT", "8080"),
            ("TIDEGATE_LISTEN_GATEWAY", "tcp://10.0.0.1:8080"),
            ("TIDEGATE_PORT_OFFSET", "8080"),
            ("TIDEGATE_SERVICE", "10.0.0.1"),
        ] {
            assert!(!is_service_link(name, value), "{name}");
        }
    }
}
