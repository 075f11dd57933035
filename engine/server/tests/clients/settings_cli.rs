//! The command line and where settings come from.

use std::{os::unix::fs::symlink, process::Command};

use crate::harness::{Scratch, Server, Start, TIDEGATE, get, root, run_command};

/// What a command said.
#[derive(Debug)]
struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

/// Runs the binary in a directory, with exactly these variables.
fn tidegate(home: &Scratch, variables: &[(&str, &str)], arguments: &[&str]) -> Said {
    let output = run_command(home, variables, arguments);
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
fn a_number_out_of_range_in_the_file_is_said_as_it_stands_there() {
    let home = Scratch::new();
    for (value, shown) in
        [("0", "0 is out of range"), ("-5", "-5 is out of range"), ("1.5", "1.5 is out of range")]
    {
        home.write("tidegate.toml", format!("[queue]\nsize = {value}\n"));
        let said = tidegate(&home, &[], &["config", "check"]);
        assert!(said.code == Some(1) && said.err.contains(shown) && !said.err.contains("None"), "{said:?}");
    }
}

#[test]
fn check_says_what_is_wrong_with_keys_and_with_delivery_at_once() {
    let home = Scratch::new();
    let variables = [("API_KEYS", "hidden,hidden")];
    let said = tidegate(&home, &variables, &["config", "check", "--set", "ack.default=delivered"]);
    assert!(said.code == Some(1) && said.err.contains("auth.api_keys"), "{said:?}");
    assert!(said.err.contains("ack.default"), "{said:?}");
    assert!(!said.err.contains("hidden"), "{said:?}");
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
fn a_printed_file_explains_itself_and_holds_no_secret() {
    let home = Scratch::new();
    let variables =
        [("QUEUE_SIZE", "77"), ("API_KEYS", "swordfish"), ("NATS_URL", "nats://joe:swordfish@there:4222")];
    let printed = tidegate(&home, &variables, &["config", "print"]);
    assert_eq!(printed.code, Some(0), "{printed:?}");
    assert!(!printed.out.contains("swordfish") && !printed.out.contains("(secret)"), "{}", printed.out);
    for line in [
        "# api_keys is a secret and left out; it came from environment API_KEYS",
        "# url is a secret and left out; it came from environment NATS_URL",
        "size = 77 # from environment QUEUE_SIZE",
    ] {
        assert!(printed.out.lines().any(|printed| printed == line), "{line}: {}", printed.out);
    }
    // What a setting means stands there as in the file of the repository.
    let committed = std::fs::read_to_string(root().join("tidegate.toml")).unwrap();
    let meanings = committed.lines().filter(|line| line.starts_with("# ")).skip(3);
    for line in meanings {
        assert!(printed.out.contains(line), "{line}");
    }
    home.write("printed.toml", &printed.out);
    let said = tidegate(&home, &[], &["config", "check", "--config", "printed.toml"]);
    assert_eq!(said.code, Some(0), "{said:?}");
}

#[test]
fn printing_into_the_file_that_is_read_is_refused_and_output_writes_it() {
    let home = Scratch::new();
    let before = "[queue]\nsize = 77\n";
    let file = home.write("tidegate.toml", before);
    // As a shell does it: the file is empty when the program starts.
    let redirected = Command::new(TIDEGATE)
        .args(["config", "print"])
        .env_clear()
        .current_dir(home.path())
        .stdout(std::fs::File::create(&file).unwrap())
        .output()
        .unwrap();
    assert_eq!(redirected.status.code(), Some(1));
    let said = String::from_utf8(redirected.stderr).unwrap();
    assert!(said.contains("--output tidegate.toml"), "{said}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "", "nothing is made of an empty file");

    home.write("tidegate.toml", before);
    let said = tidegate(&home, &[("LOG_LEVEL", "warn")], &["config", "print", "--output", "tidegate.toml"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    let written = std::fs::read_to_string(&file).unwrap();
    assert!(written.contains("size = 77") && written.contains("level = \"warn\""), "{written}");
    let names: Vec<_> =
        std::fs::read_dir(home.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["tidegate.toml"], "nothing is left beside it");
    let said = tidegate(&home, &[], &["config", "explain", "queue.size"]);
    assert!(said.out.contains("queue.size = 77"), "{said:?}");
}

#[test]
fn output_does_not_lose_a_secret_that_stands_in_that_file_alone() {
    let home = Scratch::new();
    let before = "[auth]\napi_keys = \"swordfish\"\n";
    let file = home.write("tidegate.toml", before);
    let said = tidegate(&home, &[], &["config", "print", "-o", "tidegate.toml"]);
    assert!(said.code == Some(1) && said.err.contains("would be lost"), "{said:?}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), before);
    assert_eq!(tidegate(&home, &[], &["config", "print", "-o", "other.toml"]).code, Some(0));
    let said = tidegate(&home, &[], &["config", "print", "-o", "nowhere/other.toml"]);
    assert!(said.code == Some(1) && said.err.contains("nowhere/other.toml"), "{said:?}");
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let home = Scratch::new();
    for arguments in [
        &["config", "print"][..],
        &["config", "print", "--defaults"],
        &["config", "explain", "queue.size"],
        &["config", "check"],
        &["version"],
        &["completions", "bash"],
        &["dlq", "list"],
        &["--help"],
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        // Nobody reads.
        drop(reader);
        let output = Command::new(TIDEGATE)
            .args(arguments)
            .env_clear()
            .current_dir(home.path())
            .stdout(writer)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.code() == Some(0) && said.is_empty(),
            "{arguments:?}: {:?} {said}",
            output.status
        );
    }
}

#[test]
fn explain_knows_settings_by_the_names_of_their_variables() {
    let home = Scratch::new();
    for (word, settings) in [
        ("QUEUE_TYPE", &["queue.type = "][..]),
        ("TIDEGATE_QUEUE_TYPE", &["queue.type = "]),
        ("SERVER_PORT", &["listen.gateway = "]),
        ("KAFKA_TOPIC", &["kafka.topic = ", "kafka.topic_analytics = ", "kafka.topic_producer = "]),
        ("APP_DEBUG", &["no effect"]),
    ] {
        let said = tidegate(&home, &[], &["config", "explain", word]);
        assert_eq!(said.code, Some(0), "{said:?}");
        settings.iter().for_each(|text| assert!(said.out.contains(text), "{word}: {said:?}"));
    }
    let said = tidegate(&home, &[], &["config", "explain", "QUEUE_TYP"]);
    assert!(said.code == Some(1) && said.err.contains("QUEUE_TYPE"), "{said:?}");
}

/// As the analytics platform ships it, its last line with a blank behind it and no newline.
const ENV_OF_ANALYTICS: &str = "\
# Kafka Configuration
KAFKA_BROKERS=localhost:9092
KAFKA_TOPIC_EVENTS=analytics-events
KAFKA_TOPIC_METRICS=metrics-data
KAFKA_PARTITION_STRATEGY=hash

# Service Configuration
SERVICE_NAME=analytics-service
SERVICE_ENV=development
GRPC_PORT=50051
HTTP_PORT=8081
LOG_LEVEL=info

# Prometheus
PROMETHEUS_ENABLED=true
PROMETHEUS_PATH=/metrics

# Consumer
CONSUMER_GROUP_ID=analytics-consumer-group
CONSUMER_AUTO_COMMIT=true
CONSUMER_OFFSET_OLDEST=true ";

/// As the users and events service ships it: a policy with quotes and semicolons, and no quotes around it.
const ENV_OF_USERS: &str = "\
SERVER_HOST=127.0.0.1
SERVER_PORT=0
DB_HOST=localhost
DB_PORT=5432
DB_USER=postgres
DB_PASSWORD=swordfish
DB_NAME=highload_db
DB_SSLMODE=disable
REDIS_HOST=localhost
REDIS_PORT=6379
REDIS_PASSWORD=
REDIS_DB=0
KAFKA_BROKERS=localhost:9092
KAFKA_TOPIC=user-events
KAFKA_GROUP_ID=highload-service
LOG_LEVEL=info
# Security
CONTENT_SECURITY_POLICY=default-src 'self'; script-src 'self' 'unsafe-inline'; img-src \"self\" data: *
";

#[test]
fn the_older_systems_env_files_start_the_server() {
    for (env, role) in
        [(ENV_OF_ANALYTICS, "all"), (ENV_OF_USERS, "highload-microservice"), (ENV_OF_USERS, "all")]
    {
        let server = Start::new().file(".env", env).argument("--role").argument(role).run();
        assert!(server.log().iter().any(|line| line.contains("has no effect")), "{:#?}", server.log());
        assert!(!server.log().iter().any(|line| line.contains("swordfish")));
        assert_eq!(server.stop().exit_code, Some(0));
    }
    let home = Scratch::new();
    home.write(".env", ENV_OF_ANALYTICS);
    let said = tidegate(&home, &[], &["config", "check"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    for name in ["CONSUMER_OFFSET_OLDEST", "CONSUMER_AUTO_COMMIT", "SERVICE_NAME", "KAFKA_TOPIC_METRICS"] {
        assert!(said.out.contains(&format!("{name} has no effect")), "{name}: {said:?}");
    }
}

#[test]
fn what_cannot_be_read_of_dotenv_is_one_line_with_its_place_and_the_way_out() {
    let home = Scratch::new();
    for (text, place, fix) in [
        ("QUEUE_SIZE=1\nno assignment\n", ".env, line 2", "NAME=VALUE"),
        ("QUEUE_SIZE=1\n\nLOG_LEVEL=\"info\n", ".env, line 3", "close it"),
        ("QUEUE_SIZE=many\n", "QUEUE_SIZE", "whole number"),
    ] {
        home.write(".env", text);
        let said = tidegate(&home, &[], &["config", "check"]);
        assert_eq!((said.code, said.err.lines().count()), (Some(1), 1), "{said:?}");
        assert!(said.err.contains(place) && said.err.contains(fix), "{said:?}");
    }
}

#[test]
fn what_kubernetes_and_our_clients_set_does_not_stop_a_server() {
    let links = [
        ("TIDEGATE_PORT", "tcp://10.0.0.1:8080"),
        ("TIDEGATE_SERVICE_HOST", "10.0.0.1"),
        ("TIDEGATE_SERVICE_PORT", "8080"),
        ("TIDEGATE_SERVICE_PORT_HTTP", "8080"),
        ("TIDEGATE_PORT_8080_TCP", "tcp://10.0.0.1:8080"),
        ("TIDEGATE_PORT_8080_TCP_PROTO", "tcp"),
        ("TIDEGATE_PORT_8080_TCP_PORT", "8080"),
        ("TIDEGATE_PORT_8080_TCP_ADDR", "10.0.0.1"),
        ("INGEST_PORT", "tcp://10.0.0.1:8081"),
        ("INGEST_SERVICE_HOST", "10.0.0.1"),
        ("API_PORT", "tcp://10.0.0.1:8080"),
        ("GRPC_PORT", "tcp://10.0.0.1:50051"),
        ("METRICS_PORT", "udp://10.0.0.1:9090"),
        ("SERVER_PORT", "tcp://10.0.0.1:8080"),
        ("KAFKA_PORT", "tcp://10.0.0.1:9092"),
        ("TIDEGATE_ADDRESS", "localhost:50051"),
        ("TIDEGATE_API_KEY", "swordfish"),
    ];
    let start = links.iter().fold(Start::new(), |start, (name, value)| start.variable(name, value));
    let server = start.run();
    let lines: Vec<String> = server.log().into_iter().filter(|line| line.contains("Kubernetes")).collect();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains("INGEST_PORT") && lines[0].contains("TIDEGATE_PORT"), "{lines:?}");
    assert_eq!(server.stop().exit_code, Some(0));
    let home = Scratch::new();
    let said = tidegate(&home, &links, &["config", "explain", "listen.ingest"]);
    assert!(said.out.contains("from     default"), "{said:?}");
    // A misspelt setting still does.
    let said = tidegate(&home, &[("TIDEGATE_QUEUE_SISE", "tcp")], &["config", "check"]);
    assert_eq!(said.code, Some(1), "{said:?}");
}

#[test]
fn check_refuses_brokers_that_cannot_be_what_is_meant() {
    let home = Scratch::new();
    for (variables, says) in [
        (&[("NATS_URL", "foo://x")][..], "nats.url"),
        (&[("NATS_URL", "nats://a:port")], "nats.url"),
        (&[("QUEUE_TYPE", "kafka"), ("KAFKA_BROKERS", "")], "KAFKA_BROKERS is set and empty"),
        (&[("QUEUE_TYPE", "composite"), ("KAFKA_BROKERS", " ")], "KAFKA_BROKERS is set and empty"),
        (&[("QUEUE_TYPE", "nats"), ("NATS_URL", "")], "NATS_URL is set and empty"),
        (&[("KAFKA_BROKERS", " , ")], "kafka.brokers"),
        (&[("KAFKA_BROKERS", "http://a:9092")], "kafka.brokers"),
        (&[("TIDEGATE_NATS_SUBJECT", "foo bar")], "nats.subject"),
        (&[("TIDEGATE_NATS_SUBJECT", "a.*")], "nats.subject"),
        (&[("DIPLOM_KAFKA_TOPIC", "a/b")], "kafka.topic"),
        (&[("METRICS_PATH", "noslash")], "metrics.path"),
        (&[("METRICS_PATH", "/api/v1/ingest")], "metrics.path"),
    ] {
        let said = tidegate(&home, variables, &["config", "check"]);
        assert!(said.code == Some(1) && said.err.contains(says), "{variables:?}: {said:?}");
    }
    // What is not used may be left empty.
    let said = tidegate(&home, &[("KAFKA_BROKERS", ""), ("NATS_URL", "")], &["config", "check"]);
    assert_eq!(said.code, Some(0), "{said:?}");
}

#[test]
fn check_refuses_a_metrics_path_that_another_route_has_or_that_is_no_plain_path() {
    let server = Server::start();
    let described = get(server.gateway(), "/openapi.json").json();
    let mut taken: Vec<String> = described["paths"].as_object().unwrap().keys().cloned().collect();
    assert!(taken.len() > 20, "{taken:?}");
    taken.extend(transports::ENDPOINTS.iter().map(|row| row.path.to_owned()));
    let more =
        ["/", "/docs", "/openapi.json", "/stats", "/lag", "/status", "/ready", "/live", "/live/events"];
    let calls = [
        "/grpc.health.v1.Health/Check",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "/analytics.v1.AnalyticsService/Any",
        "/analytics.ConsumerService/Any",
    ];
    let below = ["/v1/numbers", "/ready/numbers", "/api/numbers"];
    let no_paths =
        ["numbers", "/{x}", "/a/{*x}", "/:x", "/*", "/a?b", "/a#b", "/a%20b", "//a", "/a/", "/a b", "/ä"];
    taken.extend([&more[..], &calls, &below, &no_paths].concat().into_iter().map(str::to_owned));
    let home = Scratch::new();
    for path in taken.iter().filter(|path| *path != "/metrics") {
        let said = tidegate(&home, &[("METRICS_PATH", path)], &["config", "check"]);
        assert!(said.code == Some(1) && said.err.contains("metrics.path"), "{path}: {said:?}");
    }
    for path in ["/metrics", "/numbers", "/internal/metrics", "/prometheus.txt", "/_m-1~2"] {
        let said = tidegate(&home, &[("METRICS_PATH", path)], &["config", "check"]);
        assert_eq!(said.code, Some(0), "{path}: {said:?}");
        let server = Start::new().variable("METRICS_PATH", path).run();
        assert!(get(server.gateway(), path).text().contains("# HELP "), "{path}");
        assert_eq!(get(server.gateway(), "/ready").status, 200, "{path}");
    }
}

#[test]
fn check_says_which_kind_of_binary_this_is_and_refuses_what_it_cannot_do() {
    let home = Scratch::new();
    let said = tidegate(&home, &[], &["config", "check"]);
    let speaks_tls = said.out.contains("plaintext, TLS and SASL with Kafka");
    assert!(speaks_tls != said.out.contains("--features kafka-tls"), "{said:?}");
    for protocol in ["ssl", "sasl_ssl", "sasl_plaintext"] {
        let variables = [("QUEUE_TYPE", "kafka"), ("TIDEGATE_KAFKA_SECURITY_PROTOCOL", protocol)];
        let said = tidegate(&home, &variables, &["config", "check"]);
        match speaks_tls {
            false => assert!(said.code == Some(1) && said.err.contains("--features kafka-tls"), "{said:?}"),
            true if protocol == "ssl" => assert_eq!(said.code, Some(0), "{said:?}"),
            true => assert!(said.code == Some(1) && said.err.contains("kafka.sasl_mechanism"), "{said:?}"),
        }
    }
}

#[test]
fn older_variables_are_obeyed_refused_or_said_to_have_no_effect() {
    let home = Scratch::new();
    for (name, value) in [
        ("KAFKA_BATCH_SIZE", "0"),
        ("KAFKA_BATCH_SIZE", "1001"),
        ("KAFKA_BATCH_TIMEOUT", "11s"),
        ("KAFKA_MAX_RETRIES", "11"),
        ("KAFKA_MAX_RETRIES", "many"),
        ("APP_ENV", "playground"),
        ("APP_DEBUG", "perhaps"),
        ("CONSUMER_AUTO_COMMIT", "perhaps"),
        ("SERVER_SHUTDOWN_TIMEOUT", "61s"),
        ("SERVER_READ_TIMEOUT", "301s"),
        ("KAFKA_REQUIRED_ACKS", "2"),
        ("KAFKA_COMPRESSION", "rar"),
    ] {
        let said = tidegate(&home, &[(name, value)], &["config", "check"]);
        assert!(said.code == Some(1) && said.err.contains(name), "{name}={value}: {said:?}");
    }
    for (name, value) in [
        ("KAFKA_MAX_RETRIES", "3"),
        ("APP_NAME", "producer-service"),
        ("APP_VERSION", "1.0.0"),
        ("APP_ENV", "development"),
        ("APP_DEBUG", "false"),
    ] {
        let said = tidegate(&home, &[(name, value)], &["config", "check"]);
        let line = format!("{name} has no effect");
        assert!(said.code == Some(0) && said.out.contains(&line), "{name}={value}: {said:?}");
    }
    assert_eq!(explained(&home, &[("KAFKA_BATCH_SIZE", "1000")], &[], "kafka.batch_messages").0, "1000");
    let own = [("TIDEGATE_KAFKA_BATCH_MESSAGES", "20000")];
    assert_eq!(explained(&home, &own, &[], "kafka.batch_messages").0, "20000");
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
