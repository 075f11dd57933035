//! No setting and no variable is taken and ignored: each changes what the server is started with, is refused, or is said
//! to have no effect.

use std::collections::{BTreeMap, BTreeSet};

use tidegate::{
    Part,
    settings::{Flag, KEYS, Key, Kind, Layers, Settings, WITHOUT_EFFECT},
};

/// Another value than the default, and what it needs beside it.
fn another(key: &Key) -> (&'static str, &'static [(&'static str, &'static str)]) {
    const KAFKA: &[(&str, &str)] = &[("queue.type", "kafka")];
    const LOG: &[(&str, &str)] = &[("queue.type", "log")];
    const KEYS_ASKED: &[(&str, &str)] = &[("auth.api_keys", "one")];
    match key.path {
        "engine.driver" => ("epoll", &[]),
        "queue.type" => ("log", &[]),
        "ack.default" => ("queued", LOG),
        "data.directory" => ("elsewhere", LOG),
        "data.io" => ("blocking", LOG),
        "data.segment_bytes" => ("67108865", LOG),
        "data.bytes_max" => ("10737418241", LOG),
        "data.retention_bytes" => ("1073741825", LOG),
        "data.retention" => ("25h", LOG),
        "dead_letter.bytes_max" => ("1073741825", &[]),
        "dead_letter.when_full" => ("drop_oldest", &[]),
        "remote.ingest_url" | "remote.processor_url" => ("http://there:1", &[]),
        "remote.api_key"
        | "remote.connections_max"
        | "remote.connect_timeout"
        | "remote.answer_timeout"
        | "remote.idle" => (
            if matches!(key.kind, Kind::Secret) { "two" } else { "7" },
            &[("remote.processor_url", "http://there:1")],
        ),
        "nats.url" => ("nats://joe:swordfish@there:1", &[]),
        "kafka.brokers" => ("there:1", &[]),
        "kafka.acks" => ("1", KAFKA),
        "kafka.value" => ("raw", KAFKA),
        "nats.value" => ("raw", &[]),
        "nats.subject_template" => ("a.{b}", &[("nats.subjects_allowed", "a.1")]),
        "nats.subjects_allowed" => ("a.1", &[("nats.subject_template", "a.{b}")]),
        "kafka.topic_template" => ("a-{b}", &[("kafka.topics_allowed", "a-1")]),
        "kafka.topics_allowed" => ("a-1", &[("kafka.topic_template", "a-{b}")]),
        "kafka.compression" => ("zstd", KAFKA),
        "kafka.security_protocol" => ("ssl", &[]),
        "composite.providers" => ("nats,log", &[("queue.type", "composite")]),
        "composite.strategy" => ("best-effort", &[("queue.type", "composite")]),
        "auth.scope" => ("all", KEYS_ASKED),
        "auth.reflection" => ("key", KEYS_ASKED),
        "log.level" => ("debug", &[]),
        "log.format" => ("json", &[]),
        "metrics.path" => ("/numbers", &[]),
        "engine.cores" | "live.viewers_max" | "nats.pack_messages" => ("7", &[]),
        "limits.concurrent_streams_max" | "limits.header_fields_max" | "listen.port_offset" => ("50", &[]),
        _ => match key.kind {
            Kind::Addresses => ("127.0.0.1:7777", &[]),
            Kind::Boolean => (if key.default == "true" { "false" } else { "true" }, &[]),
            Kind::Integer { .. } => ("20000", &[]),
            Kind::Duration { .. } => ("7s", &[]),
            _ => ("other", &[]),
        },
    }
}

/// What `before` has of what a setting needs beside it: nothing, where one of two is refused without the other.
fn beside_before<'a>(
    key: &Key,
    beside: &'a [(&'static str, &'static str)],
) -> &'a [(&'static str, &'static str)] {
    let of_two =
        ["kafka.topic_template", "kafka.topics_allowed", "nats.subject_template", "nats.subjects_allowed"];
    if of_two.contains(&key.path) { &[] } else { beside }
}

/// The part in which a setting means something.
fn part_of(key: &Key) -> Part {
    if key.path.starts_with("remote.") { Part::ApiGateway } else { Part::All }
}

fn flag((path, value): (&str, &str)) -> Flag {
    Flag { path: path.to_owned(), value: value.to_owned(), shown: format!("--set {path}") }
}

fn resolved(part: Part, flags: &[(&str, &str)], variables: &[(&str, &str)]) -> Result<Settings, String> {
    let environment =
        variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let layers =
        Layers { environment, flags: flags.iter().copied().map(flag).collect(), ..Layers::default() };
    layers.resolve(part).map(|resolved| resolved.settings).map_err(|problems| problems[0].to_string())
}

/// Words of what a server is started with; a secret is there as `set` or not.
fn words(settings: &Settings) -> Vec<String> {
    format!("{settings:#?}").lines().map(str::trim).map(str::to_owned).collect()
}

/// What is new in the second.
fn difference(before: &Settings, after: &Settings) -> Vec<String> {
    let (before, after) = (words(before), words(after));
    let known: BTreeSet<&String> = before.iter().collect();
    let mut new: Vec<String> = after.iter().filter(|word| !known.contains(word)).cloned().collect();
    if new.is_empty() && before != after {
        new.push("order or number of what is there".to_owned());
    }
    new
}

#[test]
fn every_setting_changes_what_the_server_is_started_with() {
    let mut effects: BTreeMap<&str, String> = BTreeMap::new();
    for key in KEYS {
        let (value, beside) = another(key);
        let part = part_of(key);
        let before = resolved(part, beside_before(key, beside), &[]).unwrap();
        let after = resolved(part, &[beside, &[(key.path, value)]].concat(), &[]).unwrap();
        let difference = difference(&before, &after);
        assert!(!difference.is_empty(), "{} = {value} changes nothing", key.path);
        effects.insert(key.path, difference.join(" "));
    }
    for (path, effect) in &effects {
        println!("{path:<36} {}", effect.chars().take(120).collect::<String>());
    }
    println!("{} settings, each of which changes something", effects.len());
    assert_eq!(effects.len(), KEYS.len());
}

#[test]
fn every_variable_changes_what_the_server_is_started_with() {
    let mut count = 0;
    for key in KEYS {
        let (value, beside) = another(key);
        for names in key.all_variables() {
            // The role that the variable is about.
            let part = match (names.as_str(), key.path) {
                ("HTTP_PORT", "listen.processor") | ("CONSUMER_GROUP_ID", _) => Part::Consumer,
                ("HTTP_PORT", "listen.analytics") => Part::Analytics,
                _ => part_of(key),
            };
            let value = match names.as_str() {
                "KAFKA_BATCH_SIZE" => "500",
                "SERVER_HOST+SERVER_PORT" => "7777",
                _ => value,
            };
            let name = names.split('+').next_back().unwrap();
            let before = resolved(part, beside_before(key, beside), &[]).unwrap();
            let after = resolved(part, beside, &[(name, value)]).unwrap();
            // That something is said of it is no effect.
            let after = Settings { notes: Vec::new(), ..after };
            assert!(!difference(&before, &after).is_empty(), "{name}={value} changes nothing");
            count += 1;
        }
    }
    println!("{count} variables, each of which changes something");
}

#[test]
fn what_changes_nothing_is_said_to() {
    for idle in WITHOUT_EFFECT {
        let value = match idle.kind {
            Kind::Boolean => "true",
            Kind::Integer { .. } => "3",
            Kind::Choice(words) => words[0].0,
            _ => "swordfish",
        };
        let (before, after) = (
            resolved(Part::All, &[], &[]).unwrap(),
            resolved(Part::All, &[], &[(idle.variable, value)]).unwrap(),
        );
        let note = format!("{} has no effect: {}", idle.variable, idle.why);
        assert_eq!(after.notes, [note.as_str()]);
        let difference = difference(&before, &Settings { notes: Vec::new(), ..after });
        assert!(difference.is_empty(), "{}: {difference:?}", idle.variable);
        assert!(KEYS.iter().all(|key| !key.all_variables().iter().any(|name| name == idle.variable)));
    }
    println!("{} variables, each of which is said to have no effect", WITHOUT_EFFECT.len());
    // Variables of a role, in another one.
    for (name, part) in [("CONSUMER_GROUP_ID", Part::All), ("KAFKA_CONSUMER_GROUP", Part::Analytics)] {
        let notes = resolved(part, &[], &[(name, "mine")]).unwrap().notes;
        assert!(notes.len() == 1 && notes[0].contains(name), "{notes:?}");
    }
}
