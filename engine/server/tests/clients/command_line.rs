//! Options mean the same in front of every command and behind it, and none is ignored.

use crate::harness::{Scratch, run_command};

/// Exit code and everything that a command said.
fn tidegate(home: &Scratch, variables: &[(&str, &str)], arguments: &[&str]) -> (Option<i32>, String) {
    let output = run_command(home, variables, arguments);
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(said).unwrap())
}

/// The options at every place that a command line has for them: in front, between its words, behind.
fn everywhere<'a>(command: &[&'a str], options: &[&'a str]) -> Vec<Vec<&'a str>> {
    (0..=command.len()).map(|at| [&command[..at], options, &command[at..]].concat()).collect()
}

/// Commands that say where they look, and what they say: `elsewhere` stands for what the options name.
const LOOKS: [(&[&str], &str); 6] = [
    (&["log", "stat"], "there is no log in elsewhere"),
    (&["log", "verify"], "there is no log in elsewhere"),
    (&["log", "dump"], "there is no log in elsewhere"),
    (&["dlq", "list"], "there is no elsewhere/dead-letter"),
    (&["dlq", "replay"], "there is no elsewhere/dead-letter"),
    (&["replay"], "there is no log in elsewhere"),
];

#[test]
fn the_data_directory_is_the_same_wherever_it_is_named() {
    let home = Scratch::new();
    home.write("its.toml", "[data]\ndirectory = \"elsewhere\"\n");
    for (command, says) in LOOKS {
        for options in
            [&["--set", "data.directory=elsewhere"][..], &["-c", "its.toml"], &["--config=its.toml"]]
        {
            for line in everywhere(command, options) {
                let (_, said) = tidegate(&home, &[], &line);
                assert!(said.contains(says), "{line:?}: {said}");
            }
        }
        let (_, said) = tidegate(&home, &[("TIDEGATE_CONFIG", "its.toml")], command);
        assert!(said.contains(says), "{command:?}: {said}");
        let (_, said) = tidegate(&home, &[("TIDEGATE_DATA_DIRECTORY", "elsewhere")], command);
        assert!(said.contains(says), "{command:?}: {said}");
    }
    home.write(".env", "TIDEGATE_CONFIG=its.toml\n");
    let (_, said) = tidegate(&home, &[], &["log", "stat"]);
    assert!(said.contains("elsewhere"), "{said}");
}

#[test]
fn settings_that_are_wrong_stop_every_command_that_reads_them() {
    let home = Scratch::new();
    home.write("bad.toml", "[queue]\nsize = \"xyz\"\n");
    let commands: [&[&str]; 10] = [
        &["run"],
        &["config", "check"],
        &["config", "print"],
        &["config", "explain", "log.level"],
        &["topics", "list"],
        &["topics", "create"],
        &["log", "stat"],
        &["dlq", "list"],
        &["replay"],
        &[],
    ];
    for command in commands {
        for line in everywhere(command, &["-c", "bad.toml"]) {
            let (code, said) = tidegate(&home, &[], &line);
            assert!(code == Some(1) && said.contains("queue.size"), "{line:?}: {said}");
        }
        let (code, said) = tidegate(&home, &[("TIDEGATE_CONFIG", "bad.toml")], command);
        assert!(code == Some(1) && said.contains("queue.size"), "{command:?}: {said}");
    }
    for command in [&["run"][..], &["config", "check"], &["config", "print"], &[]] {
        for options in [&["--set", "queue.size=xyz"][..], &["--queue-size", "xyz"]] {
            for line in everywhere(command, options) {
                let (code, said) = tidegate(&home, &[], &line);
                assert!(code == Some(1) && said.contains("queue.size"), "{line:?}: {said}");
            }
        }
    }
}

#[test]
fn topics_asks_the_brokers_that_the_options_name() {
    let home = Scratch::new();
    // Nobody listens there; port 0 is nobody's.
    home.write("its.toml", "[kafka]\nbrokers = \"127.0.0.1:1\"\n");
    let line = |options: &[&'static str]| {
        let (code, said) = tidegate(&home, &[], &[options, &["topics", "list"]].concat());
        assert!(code == Some(1) && said.contains("127.0.0.1:1"), "{options:?}: {said}");
    };
    line(&["-c", "its.toml"]);
    line(&["--set", "kafka.brokers=127.0.0.1:1"]);
}

#[test]
fn options_in_front_and_behind_add_up() {
    let home = Scratch::new();
    let arguments =
        ["--set", "queue.size=5", "config", "--set", "engine.cores=1", "print", "--set", "log.level=warn"];
    let (code, said) = tidegate(&home, &[], &arguments);
    assert_eq!(code, Some(0), "{said}");
    for line in ["size = 5", "cores = 1", "level = \"warn\""] {
        assert!(said.contains(line), "{line}: {said}");
    }
    // Of two the last one counts, as behind each other.
    let (_, said) =
        tidegate(&home, &[], &["--set", "queue.size=5", "config", "print", "--set", "queue.size=6"]);
    assert!(said.contains("size = 6"), "{said}");
}

#[test]
fn an_option_given_twice_is_refused() {
    let home = Scratch::new();
    for (first, second) in [
        (["-c", "a.toml"], ["--config", "b.toml"]),
        (["--role", "ingest"], ["--role", "processor"]),
        (["--queue-size", "1"], ["--queue-size", "2"]),
        (["--log-level", "warn"], ["--log-level", "info"]),
    ] {
        let line = [&first[..], &["config", "check"], &second].concat();
        let (code, said) = tidegate(&home, &[], &line);
        assert!(code == Some(1) && said.contains("given twice"), "{line:?}: {said}");
    }
}

#[test]
fn what_a_command_cannot_use_is_refused() {
    let home = Scratch::new();
    let cases: [(&[&str], &[&str]); 9] = [
        (&["version"], &["-c", "its.toml"]),
        (&["version"], &["--set", "queue.size=5"]),
        (&["completions", "bash"], &["--log-level", "warn"]),
        (&["log", "stat"], &["--queue-size", "5"]),
        (&["log", "stat"], &["--role", "ingest"]),
        (&["dlq", "list"], &["--set", "auth.api_keys=one"]),
        (&["topics", "list"], &["--set", "data.directory=elsewhere"]),
        (&["replay"], &["--cores", "1"]),
        (&["config", "print", "--defaults"], &["--set", "queue.size=5"]),
    ];
    for (command, options) in cases {
        let line = [options, command].concat();
        let (code, said) = tidegate(&home, &[], &line);
        assert!(code == Some(1) && said.contains("has no use for"), "{line:?}: {said}");
    }
    let (code, said) = tidegate(&home, &[], &["log", "stat", "-health-check"]);
    assert!(code == Some(1) && said.contains("has no use for"), "{said}");
}

#[test]
fn the_health_check_reads_what_the_server_reads() {
    let home = Scratch::new();
    home.write("its.toml", "[listen]\ngateway = [\"127.0.0.1:1\"]\n");
    for line in [
        &["-c", "its.toml", "-health-check"][..],
        &["-health-check", "-c", "its.toml"],
        &["run", "-c", "its.toml", "--health-check"],
        &["--set", "listen.gateway=127.0.0.1:1", "-health-check"],
    ] {
        let (code, said) = tidegate(&home, &[], line);
        assert!(code == Some(1) && said.contains("127.0.0.1:1"), "{line:?}: {said}");
    }
}
