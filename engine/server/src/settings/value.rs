//! Reading one value: from the text of a variable or flag, or from the file; checked against its [`Kind`].

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use brokers::{kafka::bootstrap, nats::Servers, remote::Target};
use figment::value::{Num, Value};

use super::keys::Kind;

/// What a text of a variable or flag comes to; the error says what would have been right.
pub(super) fn from_text(kind: Kind, text: &str) -> Result<Value, String> {
    let text = text.trim();
    match kind {
        Kind::Addresses => {
            let addresses: Vec<Value> = text
                .split(',')
                .map(|one| address(one.trim()).map(|found| Value::from(found.to_string())))
                .collect::<Result<_, _>>()?;
            Ok(Value::from(addresses))
        }
        Kind::Integer { .. } => {
            let number: u64 = text
                .parse()
                .map_err(|_| format!("{} is no whole number; {}", quoted(text), expectation(kind)))?;
            check(kind, Value::from(number))
        }
        Kind::Boolean => match text.to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" | "on" => Ok(Value::from(true)),
            "false" | "0" | "no" | "off" => Ok(Value::from(false)),
            _ => Err(format!("{} is neither true nor false", quoted(text))),
        },
        _ => check(kind, Value::from(text)),
    }
}

/// Checks a value of the right shape (from the file, or made by [`from_text`]) and brings it to its stored form.
pub(super) fn check(kind: Kind, value: Value) -> Result<Value, String> {
    match (kind, &value) {
        (Kind::Addresses, Value::Array(_, list)) if list.is_empty() => Err(expectation(kind)),
        (Kind::Addresses, Value::Array(_, list)) => {
            let mut addresses = Vec::with_capacity(list.len());
            for one in list {
                let text = one.as_str().ok_or_else(|| expectation(kind))?;
                addresses.push(Value::from(address(text)?.to_string()));
            }
            Ok(Value::from(addresses))
        }
        (Kind::Addresses, Value::String(..)) => from_text(kind, value.as_str().unwrap_or_default()),
        (Kind::Integer { min, max }, Value::Num(_, number)) => match whole(*number) {
            Some(number) if (min..=max).contains(&number) => Ok(Value::from(number)),
            _ => Err(format!("{} is out of range; {}", shown(&value), expectation(kind))),
        },
        (Kind::Boolean, Value::Bool(..)) | (Kind::Text, Value::String(..)) => Ok(value),
        (Kind::Secret, Value::String(_, text)) => match text.split(',').any(is_placeholder) {
            true => Err(PLACEHOLDER.to_owned()),
            false => Ok(value),
        },
        (Kind::NatsServers, Value::String(_, text)) => match text.contains("(secret)") {
            true => Err(PLACEHOLDER.to_owned()),
            false => Servers::parse(text).map(|_| value),
        },
        (Kind::KafkaBrokers, Value::String(_, text)) => bootstrap(text).map(Value::from),
        // Read here, also where no role asks for it: what is no URL may be a secret, and values are shown.
        (Kind::Url, Value::String(_, text)) if text.is_empty() => Ok(value),
        (Kind::Url, Value::String(_, text)) => Target::parse(text).map(|_| value),
        // Not shown: it may be what should have stood there.
        (Kind::Secret | Kind::NatsServers | Kind::KafkaBrokers | Kind::Url, _) => {
            Err(format!("it is of the wrong type; {}", expectation(kind)))
        }
        (Kind::Choice(words), Value::String(_, text)) => {
            let wanted = text.to_ascii_lowercase();
            match words.iter().find(|(word, _)| *word == wanted) {
                Some((_, stored)) => Ok(Value::from(*stored)),
                None => Err(format!("{} is not one of the values; {}", quoted(text), expectation(kind))),
            }
        }
        (Kind::Duration { min_ms, max_ms }, Value::String(_, text)) => {
            let duration = duration(text)?;
            let ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
            if (min_ms..=max_ms).contains(&ms) {
                Ok(value)
            } else {
                Err(format!("`{text}` is out of range; {}", expectation(kind)))
            }
        }
        (Kind::Duration { .. }, Value::Num(_, number)) => match whole(*number) {
            Some(seconds) => check(kind, Value::from(format!("{seconds}s"))),
            None => Err(expectation(kind)),
        },
        _ => Err(format!("{} is of the wrong type; {}", shown(&value), expectation(kind))),
    }
}

/// What a value that stands for a secret, and is none, is answered.
const PLACEHOLDER: &str = "it is a placeholder, not a secret; give the secret itself, best through the environment, or leave this out";

/// Whether somebody put this where a secret should be: `(secret)`, as `config print` once wrote it, stars, `<key>`.
fn is_placeholder(text: &str) -> bool {
    let text = text.trim();
    text == "(secret)"
        || (!text.is_empty() && text.bytes().all(|byte| byte == b'*'))
        || (text.starts_with('<') && text.ends_with('>'))
}

/// A wrong value in an error. What looks like an address with a user, or like a pasted file, is not repeated: it may be a
/// secret that stands in the wrong place.
fn quoted(text: &str) -> String {
    if text.contains('@') || text.len() > 64 { "the value".to_owned() } else { format!("`{text}`") }
}

/// A text as TOML has it; other than Rust's notation in what it escapes.
fn toml_string(text: &str) -> String {
    toml::Value::from(text).to_string()
}

/// A value as it would stand in the file.
pub(super) fn shown(value: &Value) -> String {
    match value {
        Value::String(_, text) => toml_string(text),
        Value::Bool(_, value) => value.to_string(),
        Value::Num(_, number) => match (number.to_u128(), number.to_i128(), number.to_f64()) {
            (Some(number), ..) => number.to_string(),
            (None, Some(number), _) => number.to_string(),
            (None, None, number) => number.unwrap_or(f64::NAN).to_string(),
        },
        Value::Array(_, list) => format!("[{}]", list.iter().map(shown).collect::<Vec<_>>().join(", ")),
        Value::Dict(..) => "a table".to_owned(),
        Value::Char(_, one) => format!("{one:?}"),
        Value::Empty(..) => "nothing".to_owned(),
    }
}

fn whole(number: Num) -> Option<u64> {
    number
        .to_u128()
        .and_then(|number| u64::try_from(number).ok())
        .or_else(|| number.to_i128().and_then(|number| u64::try_from(number).ok()))
}

/// What a value of this kind looks like, for errors and for `config explain`.
pub fn expectation(kind: Kind) -> String {
    match kind {
        Kind::Addresses => "give one or more addresses like \":8080\" or \"127.0.0.1:8080\"".to_owned(),
        Kind::Integer { min, max } => format!("give a whole number from {min} to {max}"),
        Kind::Boolean => "give true or false".to_owned(),
        Kind::Choice(words) => {
            format!("give one of {}", words.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(", "))
        }
        Kind::Text | Kind::Secret => "give a text".to_owned(),
        Kind::NatsServers => "give nats://host:port, several separated by commas".to_owned(),
        Kind::KafkaBrokers => "give host:port, several separated by commas".to_owned(),
        Kind::Url => "give http://host:port, or nothing".to_owned(),
        Kind::Duration { min_ms, max_ms } => format!(
            "give a duration like \"15s\", \"1m30s\" or a number of seconds, from {}s to {}s",
            min_ms / 1000,
            max_ms / 1000
        ),
    }
}

/// `8080`, `:8080`, `0.0.0.0:8080`, `[::]:8080`, `localhost:8080`. No host means every interface, IPv6 and IPv4.
pub(super) fn address(text: &str) -> Result<SocketAddr, String> {
    let wrong = || format!("{} is no address; {}", quoted(text), expectation(Kind::Addresses));
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok(address);
    }
    let (host, port) = text.rsplit_once(':').unwrap_or(("", text));
    let port: u16 = port.parse().map_err(|_| wrong())?;
    let ip = match host {
        "" => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        "localhost" => IpAddr::V4(Ipv4Addr::LOCALHOST),
        other => other.trim_matches(['[', ']']).parse().map_err(|_| wrong())?,
    };
    Ok(SocketAddr::new(ip, port))
}

/// Go's notation (`1h2m3.5s`, `100ms`) or a bare number of seconds.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || {
        format!("{} is no duration; write it like \"15s\", \"1m30s\", \"100ms\" or as seconds", quoted(text))
    };
    let text = text.trim();
    if let Ok(seconds) = text.parse::<u64>() {
        return Ok(Duration::from_secs(seconds));
    }
    let mut rest = text;
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
        let number: f64 = rest[..digits].parse().map_err(|_| wrong())?;
        let unit_end = rest[digits..].find(|c: char| c.is_ascii_digit()).map_or(rest.len(), |at| at + digits);
        let unit = match &rest[digits..unit_end] {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return Err(wrong()),
        };
        seconds += number * unit;
        rest = &rest[unit_end..];
    }
    Duration::try_from_secs_f64(seconds).ok().filter(|_| !text.is_empty()).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_writes_them() {
        assert_eq!(duration("15s").unwrap(), Duration::from_secs(15));
        assert_eq!(duration("1m30s").unwrap(), Duration::from_secs(90));
        assert_eq!(duration("100ms").unwrap(), Duration::from_millis(100));
        assert_eq!(duration("7").unwrap(), Duration::from_secs(7));
        assert!(duration("").is_err() && duration("15 s").is_err() && duration("-1s").is_err());
    }

    #[test]
    fn addresses_are_read_with_and_without_a_host() {
        assert_eq!(address("8080").unwrap().to_string(), "[::]:8080");
        assert_eq!(address(":8080").unwrap().to_string(), "[::]:8080");
        assert_eq!(address("localhost:80").unwrap().to_string(), "127.0.0.1:80");
        assert_eq!(address("[::1]:80").unwrap().to_string(), "[::1]:80");
        assert!(address(":99999").unwrap_err().contains(":8080"));
        assert!(address("example").is_err());
    }

    #[test]
    fn a_value_out_of_range_names_the_range() {
        let error = from_text(Kind::Integer { min: 1, max: 9 }, "10").unwrap_err();
        assert!(error.contains("from 1 to 9"), "{error}");
    }

    #[test]
    fn older_words_are_stored_as_ours() {
        let kind = Kind::Choice(&[("human", "human"), ("text", "human")]);
        assert_eq!(from_text(kind, "TEXT").unwrap().as_str(), Some("human"));
    }
}
