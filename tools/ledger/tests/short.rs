//! The ledger test with a few kills of each kind; `make fault-test` has the long one.
#![allow(clippy::unwrap_used, reason = "a test says where it fails")]

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, OnceLock},
};

/// One at a time: each wants both cores.
static TURN: Mutex<()> = Mutex::new(());

fn tidegate() -> PathBuf {
    let path = Path::new(env!("CARGO_BIN_EXE_ledger")).with_file_name("tidegate");
    assert!(
        path.exists(),
        "{}: `cargo test --workspace` builds it, or `cargo build -p tidegate`",
        path.display()
    );
    path
}

/// Whether NATS and Kafka can be had; under CI they have to.
fn brokers_can_be_had() -> bool {
    static CAN: OnceLock<bool> = OnceLock::new();
    *CAN.get_or_init(|| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../services/services");
        let can = Command::new(script).arg("install").status().is_ok_and(|status| status.success());
        assert!(
            can || std::env::var_os("CI").is_none_or(|ci| ci != "true"),
            "NATS and Kafka cannot be installed"
        );
        if !can {
            eprintln!("skipped, because NATS and Kafka cannot be installed (see above)");
        }
        can
    })
}

fn said_by(arguments: &[&str]) -> String {
    let _turn = TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let output = Command::new(env!("CARGO_BIN_EXE_ledger"))
        .args(arguments)
        .arg("--tidegate")
        .arg(tidegate())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    said
}

fn ledger(arguments: &[&str]) {
    let said = said_by(&[&["run", "--max-ms", "600"], arguments].concat());
    assert!(!said.contains("\n0 acknowledged"), "{said}");
}

#[test]
fn the_log_loses_nothing_when_it_is_killed() {
    ledger(&["--queue", "log", "--kills", "6"]);
}

#[test]
fn nothing_is_lost_between_tidegate_and_nats() {
    if brokers_can_be_had() {
        ledger(&["--queue", "nats", "--kills", "3", "--broker-kills", "3"]);
    }
}

#[test]
fn nothing_is_lost_between_tidegate_and_kafka() {
    if brokers_can_be_had() {
        ledger(&["--queue", "kafka", "--kills", "3", "--broker-kills", "1"]);
    }
}

#[test]
fn a_composite_that_fails_fast_loses_nothing_on_either_side() {
    if brokers_can_be_had() {
        ledger(&["--queue", "composite", "--kills", "3", "--broker-kills", "1"]);
    }
}

#[test]
fn a_composite_that_does_its_best_catches_up_from_the_log() {
    if brokers_can_be_had() {
        let best = ["--strategy", "best-effort", "--outbox", "--kills", "3", "--broker-kills", "1"];
        ledger(&[&["--queue", "composite"][..], &best].concat());
    }
}

#[test]
fn what_was_queued_without_a_log_survives_an_orderly_stop() {
    if brokers_can_be_had() {
        ledger(&["--queue", "nats", "--level", "delivered,queued", "--kills", "2", "--stops", "1"]);
    }
}

#[test]
fn damaged_cursors_repeat_and_lose_nothing() {
    let said = said_by(&["damage", "--variant", "killed", "--only", "cursor"]);
    assert!(said.contains("harmless"), "{said}");
}
