//! What is done to a directory while a server writes there.

use std::fs;

use anyhow::{Result, bail};

use super::{
    examine::{Case, examine, positions},
    row::Row,
    server::{CLIENTS, Life, Server, Setup, Start},
    template::{Background, copy},
    wounds::Wound,
};
use crate::{client::Connection, downstream};

/// Does one of these, and looks at what is left.
pub type Disturb = fn(&Setup, Case<'_>) -> Result<Row>;

/// What is done, by name.
pub const WHILE_RUNNING: &[(&str, Disturb)] =
    &[("copied-while-running", copied), ("lock-deleted-under-a-running-process", lock_deleted)];

fn life<'a>(case: &'a Case<'_>, label: &str) -> Life<'a> {
    Life {
        directory: &case.directory,
        output: case.folder.join(label),
        cores: case.template.cores,
        onward: Some(&case.stream),
        set: Vec::new(),
    }
}

fn up(setup: &Setup, case: &Case<'_>) -> Result<Server> {
    if let Some(url) = &setup.nats {
        downstream::create_stream(url, &case.stream, &super::server::subject_of(&case.stream))?;
    }
    match setup.start(&life(case, "running"))? {
        Start::Up(server) => Ok(server),
        Start::Refused(why) => bail!("an orderly directory is refused: {why}"),
    }
}

/// `cp -a` of the directory, under load.
fn copied(setup: &Setup, mut case: Case<'_>) -> Result<Row> {
    let server = up(setup, &case)?;
    let background = Background::start(server.port(), "meanwhile");
    background.wait_for(200)?;
    // What is acknowledged before the copy begins is in it.
    case.kept.extend(background.kept());
    let target = case.folder.join("copy");
    let whole = copy(&case.directory, &target)?;
    background.wait_for(50)?;
    server.kill();
    let (sent, _) = background.end();
    case.sent.extend(sent);
    case.directory = target;
    case.passed = positions(setup, &case.directory)?;
    let copys = format!("{}-COPY", case.stream);
    case.earlier.push(std::mem::replace(&mut case.stream, copys));
    let what = format!("cp -a while {CLIENTS} clients write{}", if whole { "" } else { "; cp complained" });
    examine(setup, Case { wound: Wound { what, names: Vec::new() }, ..case })
}

/// LOCK is deleted, and a second server is started on the directory.
fn lock_deleted(setup: &Setup, mut case: Case<'_>) -> Result<Row> {
    let first = up(setup, &case)?;
    fs::remove_file(case.directory.join("LOCK"))?;
    let second = setup.start(&life(&case, "second"))?;
    let what = match &second {
        Start::Up(_) => "LOCK deleted under a running server; a second one starts there, too".to_owned(),
        Start::Refused(why) => format!("LOCK deleted under a running server; a second one says: {why}"),
    };
    let mut servers = vec![first];
    if let Start::Up(second) = second {
        servers.push(second);
    }
    let writes = servers.len();
    let mut connections: Vec<Connection> =
        servers.iter().map(|server| Connection::new(server.port())).collect();
    for n in 1..=200 {
        for (number, connection) in connections.iter_mut().enumerate() {
            // One that has noticed takes nothing, or is gone.
            if servers[number].ended().is_some() {
                continue;
            }
            let message = super::server::message(&format!("writer-{number}"), n);
            case.sent.push(message.clone());
            case.kept.extend(Server::send(connection, &message, true));
        }
    }
    let noticed = servers.iter_mut().filter_map(Server::ended).next();
    for server in servers {
        server.kill();
    }
    case.passed = positions(setup, &case.directory)?;
    let mut row = examine(setup, Case { wound: Wound { what, names: Vec::new() }, ..case })?;
    if writes == 2 && noticed.is_none() {
        row.others.push("SILENT: two servers write there".to_owned());
    }
    row.note(noticed.map(|why| format!("noticed: {why}")));
    Ok(row)
}
