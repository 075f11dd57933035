//! The command line and where settings come from.

use std::{collections::BTreeMap, os::unix::fs::symlink, process::Command};

use crate::harness::{Scratch, Start, TIDEGATE};

/// What a command said.
#[derive(Debug)]
struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

/// Runs the binary in a directory, with exactly these variables.
fn tidegate(home: &Scratch, variables: &[(&str, &str)], arguments: &[&str]) -> Said {
    let output = Command::new(TIDEGATE)
        .args(arguments)
        .env_clear()
        .envs(variables.iter().copied().collect::<BTreeMap<_, _>>())
        .current_dir(home.path())
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Said { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

/// The value and its source, as `config explain` gives them.
#[track_caller]
fn explained(home: &Scratch, variables: &[(&str, &str)], flags: &[&str], key: &str) -> (String, String) {
    let mut arguments = vec!["config", "explain", key];
    arguments.extend_from_slice(flags);
    let said = tidegate(home, variables, &arguments);
    assert_eq!(said.code, Some(0), "{said:?}");
    let value = said.out.lines().find_map(|line| line.strip_prefix(&format!("{key} = "))).unwrap();
    let source = said.out.lines().find_map(|line| line.trim_start().strip_prefix("from")).unwrap();
    (value.to_owned(), source.trim().to_owned())
}

#[test]
fn version_says_the_version() {
    let home = Scratch::new();
    for arguments in [["version"], ["--version"]] {
        let said = tidegate(&home, &[], &arguments);
        assert_eq!(said.code, Some(0));
        assert_eq!(said.out.trim(), format!("tidegate {}", env!("CARGO_PKG_VERSION")));
    }
}

#[test]
fn help_shows_every_command_and_ends_at_once() {
    let said = tidegate(&Scratch::new(), &[], &["--help"]);
    assert_eq!(said.code, Some(0));
    for command in ["run", "config", "version", "completions"] {
        assert!(said.out.contains(command), "{command} is not in {}", said.out);
    }
}

#[test]
fn completions_are_a_script_that_bash_can_read() {
    let home = Scratch::new();
    let said = tidegate(&home, &[], &["completions", "bash"]);
    assert_eq!(said.code, Some(0));
    let script = home.write("completions.bash", &said.out);
    let checked = Command::new("bash").arg("-n").arg(script).status().unwrap();
    assert!(checked.success());
    assert!(said.out.contains("complete ") && said.out.contains("tidegate"));
    for shell in ["zsh", "fish"] {
        assert_eq!(tidegate(&home, &[], &["completions", shell]).code, Some(0), "{shell}");
    }
}

#[test]
fn check_says_that_settings_are_valid() {
    let said = tidegate(&Scratch::new(), &[], &["config", "check"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.out.contains("valid"), "{said:?}");
}

#[test]
fn an_unknown_key_names_its_neighbour_wherever_it_stands() {
    let home = Scratch::new();
    let said = tidegate(&home, &[], &["config", "check", "--set", "queue.sise=5"]);
    assert!(said.code == Some(1) && said.err.contains("queue.size"), "{said:?}");
    let said = tidegate(&home, &[("TIDEGATE_QUEUE_SISE", "5")], &["config", "check"]);
    assert!(said.code == Some(1) && said.err.contains("TIDEGATE_QUEUE_SIZE"), "{said:?}");
    let said = tidegate(&home, &[], &["config", "explain", "queue.sise"]);
    assert!(said.code == Some(1) && said.err.contains("queue.size"), "{said:?}");
    home.write("tidegate.toml", "[queue]\nsise = 5\n");
    let said = tidegate(&home, &[], &["config", "check"]);
    assert!(said.code == Some(1) && said.err.contains("queue.size"), "{said:?}");
}

#[test]
fn the_server_does_not_start_on_settings_that_are_wrong() {
    for pair in
        ["queue.sise=5", "queue.size=many", "queue.size=0", "log.level=loud", "timeouts.idle=5 minutes"]
    {
        let (status, said) = Start::new().set(pair).fail();
        assert_eq!(status.code(), Some(1), "{pair}: {said}");
        assert!(
            said.contains(pair.split('=').next_back().unwrap()) || said.contains("queue.size"),
            "{pair}: {said}"
        );
    }
}

#[test]
fn a_wrong_value_says_where_it_stands_and_what_would_be_right() {
    let home = Scratch::new();
    home.write("tidegate.toml", "[queue]\nsize = \"many\"\n");
    let said = tidegate(&home, &[], &["config", "check"]);
    assert_eq!(said.code, Some(1));
    assert!(said.err.contains("queue.size") && said.err.contains("tidegate.toml"), "{said:?}");
    let said = tidegate(&home, &[("QUEUE_SIZE", "many")], &["config", "check", "--config", "/dev/null"]);
    assert!(
        said.code == Some(1) && said.err.contains("QUEUE_SIZE") && said.err.contains("whole number"),
        "{said:?}"
    );
}

#[test]
fn variables_that_contradict_each_other_are_refused() {
    let variables = [("QUEUE_SIZE", "10"), ("TIDEGATE_QUEUE_SIZE", "20")];
    let said = tidegate(&Scratch::new(), &variables, &["config", "check"]);
    assert_eq!(said.code, Some(1));
    assert!(said.err.contains("QUEUE_SIZE") && said.err.contains("TIDEGATE_QUEUE_SIZE"), "{said:?}");
}

#[test]
fn a_flag_wins_over_the_environment_over_dotenv_over_the_file_over_the_default() {
    let home = Scratch::new();
    let value = |variables: &[(&str, &str)], flags: &[&str]| explained(&home, variables, flags, "queue.size");
    assert_eq!(value(&[], &[]), ("1000".to_owned(), "default".to_owned()));
    home.write("tidegate.toml", "[queue]\nsize = 2000\n");
    let (found, source) = value(&[], &[]);
    assert!(found == "2000" && source.contains("tidegate.toml"), "{found} from {source}");
    home.write(".env", "QUEUE_SIZE=3000\n");
    let (found, source) = value(&[], &[]);
    assert!(found == "3000" && source.contains("QUEUE_SIZE"), "{found} from {source}");
    let (found, source) = value(&[("QUEUE_SIZE", "4000")], &[]);
    assert!(found == "4000" && source.contains("QUEUE_SIZE"), "{found} from {source}");
    let (found, source) = value(&[("QUEUE_SIZE", "4000")], &["--queue-size", "5000"]);
    assert!(found == "5000" && source.contains("--queue-size"), "{found} from {source}");
}

#[test]
fn a_file_that_was_asked_for_must_be_there() {
    let said = tidegate(&Scratch::new(), &[], &["config", "check", "--config", "elsewhere.toml"]);
    assert!(said.code == Some(1) && said.err.contains("elsewhere.toml"), "{said:?}");
}

#[test]
fn what_print_gives_is_a_file_that_says_the_same() {
    let home = Scratch::new();
    for arguments in [&["config", "print"][..], &["config", "print", "--defaults"]] {
        let printed = tidegate(&home, &[("QUEUE_SIZE", "77")], arguments);
        assert_eq!(printed.code, Some(0), "{printed:?}");
        home.write("printed.toml", &printed.out);
        let said = tidegate(&home, &[], &["config", "check", "--config", "printed.toml"]);
        assert_eq!(said.code, Some(0), "{arguments:?}: {said:?}");
    }
    let printed = tidegate(&home, &[("QUEUE_SIZE", "77")], &["config", "print"]);
    assert!(printed.out.contains("size = 77"), "{}", printed.out);
    let defaults = tidegate(&home, &[("QUEUE_SIZE", "77")], &["config", "print", "--defaults"]);
    assert!(defaults.out.contains("size = 1000"), "{}", defaults.out);
}

#[test]
fn dotenv_is_read_by_the_server_itself() {
    let home = Scratch::new();
    home.write(".env", "# as `source .env` would read it\nexport QUEUE_SIZE=123\nLOG_LEVEL=\"debug\"\n");
    assert_eq!(explained(&home, &[], &[], "queue.size").0, "123");
    assert!(explained(&home, &[], &[], "log.level").0.contains("debug"));
    home.write(".env", "this is no assignment\n");
    let said = tidegate(&home, &[], &["config", "check"]);
    assert!(said.code == Some(1) && said.err.contains(".env"), "{said:?}");
}

#[test]
fn the_older_systems_variables_are_understood() {
    let home = Scratch::new();
    let variables = [
        ("API_PORT", "18080"),
        ("INGEST_PORT", "18081"),
        ("PROCESSOR_PORT", "18082"),
        ("PROCESSOR_WORKERS", "1"),
        ("QUEUE_SIZE", "50"),
        ("QUEUE_TYPE", "memory"),
        // Not used by everything together; known all the same.
        ("PROCESSOR_URL", "http://localhost:8082"),
        ("INGEST_URL", "http://localhost:8081"),
        ("NATS_URL", "nats://localhost:4222"),
        ("KAFKA_BROKERS", "localhost:9092"),
        ("KAFKA_TOPIC", "diplom-messages"),
        ("KAFKA_CONSUMER_GROUP", "processor-group"),
        ("COMPOSITE_PROVIDERS", "nats, kafka"),
        ("COMPOSITE_STRATEGY", "fail-fast"),
    ];
    assert_eq!(tidegate(&home, &variables, &["config", "check"]).code, Some(0));
    for (key, part) in [
        ("listen.gateway", ":18080"),
        ("listen.ingest", ":18081"),
        ("listen.processor", ":18082"),
        ("engine.cores", "1"),
        ("queue.size", "50"),
    ] {
        let (value, source) = explained(&home, &variables, &[], key);
        assert!(value.contains(part) && source.contains("environment"), "{key} = {value} from {source}");
    }
}

#[test]
fn a_queue_that_does_not_exist_is_refused_with_those_that_do() {
    let (status, said) = Start::new().variable("QUEUE_TYPE", "carrier-pigeon").fail();
    assert_eq!(status.code(), Some(1), "{said}");
    for word in ["carrier-pigeon", "QUEUE_TYPE", "memory", "log", "nats", "kafka", "composite"] {
        assert!(said.contains(word), "{word}: {said}");
    }
}

#[test]
fn a_part_opens_its_own_listener_only() {
    let home = Scratch::new();
    for (name, role) in [
        ("api-gateway", "gateway"),
        ("grpc-gateway", "gateway"),
        ("ingest", "ingest"),
        ("processor", "processor"),
        ("grpc-server", "grpc"),
    ] {
        let link = home.path().join(name);
        symlink(TIDEGATE, &link).unwrap();
        let help = Command::new(&link).arg("--help").output().unwrap();
        assert_eq!(help.status.code(), Some(0), "{name} --help");
        let server = Start::new().program(&link).run();
        assert_eq!(server.roles(), [role], "{name}");
        assert_eq!(server.stop().exit_code, Some(0));
    }
    let server = Start::new().argument("--role").argument("processor").run();
    assert_eq!(server.roles(), ["processor"]);
}

#[test]
fn log_lines_are_json_and_nothing_else_is_said() {
    let server = Start::new().argument("--log-level").argument("info").run();
    for line in server.log() {
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert!(
            value["message"].is_string() && value["level"].is_string() && value["timestamp"].is_string(),
            "{line}"
        );
    }
}
