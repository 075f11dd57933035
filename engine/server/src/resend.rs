//! `tidegate replay` and `tidegate dlq …`: messages of the log or of the dead letters, sent once more to a running
//! Tidegate, which treats them like any others.

use std::{
    collections::BTreeMap,
    io::{self, BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, bail};
use brokers::{data_message, dead_letter, disk::Machine, entry, log::offline};
use engine_core::Record;
use http::HeaderValue;
use serde_json::{Value, json};

use crate::{
    cli::{DlqAction, Position, ReplayArguments},
    delivery::dead_letter_folder,
    log_tools::tell_unread,
    printable::Printable,
};

/// Where a server takes messages that have all their fields.
pub const ENQUEUE: &str = "/enqueue";
/// Longest wait for an answer.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Messages between two lines that say how far it is.
const PROGRESS_EVERY: u64 = 10_000;

/// Sends a part of the log once more.
pub fn replay(arguments: &ReplayArguments, directory: &Path, server: Server) -> Result<ExitCode> {
    let directory = arguments.directory.as_deref().unwrap_or(directory);
    if !directory.is_dir() {
        bail!("there is no log in {}; name one with --directory DIR", directory.display());
    }
    match (&arguments.from, &arguments.to) {
        (Some(Position::Offset(from)), Some(Position::Offset(to))) if from >= to => {
            bail!(
                "--from {from} --to {to}: there is nothing between; --to is the first offset that is not sent"
            );
        }
        (Some(Position::Time(from)), Some(Position::Time(to))) if from >= to => {
            bail!("--from and --to: there is nothing between; --to is the later time");
        }
        _ => {}
    }
    let server = server.or(arguments.url.as_deref());
    let mut peer = Peer::new(&server)?;
    // What the server appends meanwhile is not sent: it may be what was sent here.
    let mut ends: BTreeMap<usize, u64> = BTreeMap::new();
    offline::dump(&Machine, directory, arguments.shard, |dumped| {
        ends.insert(dumped.shard, dumped.offset);
        true
    })?;
    let (mut sent, mut outcome) = (0_u64, Ok(()));
    let unread = offline::dump(&Machine, directory, arguments.shard, |dumped| {
        let before = |position: &Position| match position {
            Position::Offset(offset) => dumped.offset < *offset,
            Position::Time(ms) => dumped.appended_ms < *ms,
        };
        if arguments.from.as_ref().is_some_and(before) {
            return true;
        }
        if ends.get(&dumped.shard).is_none_or(|end| dumped.offset > *end) {
            return true;
        }
        if arguments.to.as_ref().is_some_and(|to| !before(to)) {
            // Other shards may have more.
            return true;
        }
        outcome = match entry::decode(dumped.payload) {
            Ok(record) => peer.send(&record).and_then(|told| peer.expect_taken(told)),
            Err(error) => Err(error.into()),
        }
        .with_context(|| format!("shard {} offset {}", dumped.shard, dumped.offset));
        sent += u64::from(outcome.is_ok());
        if sent.is_multiple_of(PROGRESS_EVERY) && outcome.is_ok() {
            // Nobody may be reading.
            let _ = writeln!(
                io::stderr(),
                "{sent} messages sent, now at shard {} offset {}",
                dumped.shard,
                dumped.offset
            );
        }
        outcome.is_ok()
    })?;
    writeln!(io::stdout(), "{sent} messages sent to {}", server.url)?;
    outcome.map(|()| tell_unread(&unread))
}

/// Dead letters that are sent before that is noted.
const MARK_EVERY: usize = 16;

/// Shows the dead letters, or sends them once more.
pub fn dead_letters(action: &DlqAction, directory: &Path, server: Server) -> Result<ExitCode> {
    // There need not be one: it is made with the first dead letter.
    let folder = |given: &Option<PathBuf>| dead_letter_folder(given.as_deref().unwrap_or(directory));
    match action {
        DlqAction::List { directory, json, .. } => list(&folder(directory), *json),
        DlqAction::Replay { directory, url, .. } => {
            replay_dead_letters(&folder(directory), &server.or(url.as_deref()))
        }
    }
}

fn list(folder: &Path, as_json: bool) -> Result<ExitCode> {
    if !folder.is_dir() {
        if !as_json {
            writeln!(io::stdout(), "no dead letters: there is no {}", folder.display())?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let (mut count, mut written) = (0, Ok(()));
    let unread = dead_letter::list(&Machine, folder, |letter| {
        count += 1;
        let (offset, cause, record) = (letter.offset, &letter.cause, &letter.record);
        if as_json {
            let id = String::from_utf8_lossy(record.id);
            let line = json!({
                "offset": offset, "at_ms": letter.at_ms, "side": cause.side, "code": cause.code, "reason": cause.reason,
                "attempts": cause.attempts, "id": id, "source": String::from_utf8_lossy(record.source),
                "payload_bytes": record.payload.len(),
            });
            written = writeln!(io::stdout(), "{line}");
        } else {
            let (side, code) = (&cause.side, &cause.code);
            let (id, reason) = (Printable(record.id), Printable(cause.reason.as_bytes()));
            written = writeln!(io::stdout(), "{offset:>8}  {side:<8} {code:<20} {id}  {reason}");
        }
        written.is_ok()
    })?;
    written?;
    if !as_json {
        writeln!(io::stdout(), "{count} dead letters in {}", folder.display())?;
    }
    Ok(tell_unread(&unread))
}

fn replay_dead_letters(folder: &Path, server: &Server) -> Result<ExitCode> {
    if !folder.is_dir() {
        writeln!(io::stdout(), "no dead letters: there is no {}", folder.display())?;
        return Ok(ExitCode::SUCCESS);
    }
    let Some(_turn) = dead_letter::take_turn(&Machine, folder)? else {
        bail!("somebody else replays the dead letters of {} now, here or on the live page", folder.display());
    };
    let mut peer = Peer::new(server)?;
    let (mut upto, mut sent, mut outcome) = (None, 0_u64, Ok(()));
    let mut last = None;
    // What comes back while this goes on is for another time.
    let unread = dead_letter::list(&Machine, folder, |letter| {
        last = Some(letter.offset);
        true
    })?;
    dead_letter::list(&Machine, folder, |letter| {
        let offset = letter.offset;
        if last.is_none_or(|last| offset > last) {
            return false;
        }
        match peer.send(&letter.record).with_context(|| format!("dead letter {offset}")) {
            Ok(Told::Taken) => sent += 1,
            // Another try changes nothing about it, and the ones behind it may be good.
            Ok(Told::Refused { status: 400, why }) => {
                drop(writeln!(
                    io::stderr(),
                    "dead letter {offset} is given up: {} answered 400: {why}",
                    server.url
                ));
            }
            Ok(told) => outcome = peer.expect_taken(told).with_context(|| format!("dead letter {offset}")),
            Err(error) => outcome = Err(error),
        }
        if outcome.is_ok() {
            upto = Some(offset + 1);
            // What was sent is noted as it goes: a replay that is cut off does not send all of it again.
            if (sent as usize).is_multiple_of(MARK_EVERY) {
                outcome = dead_letter::mark_replayed(&Machine, folder, offset + 1).map_err(Into::into);
            }
        }
        outcome.is_ok()
    })?;
    if let Some(upto) = upto {
        dead_letter::mark_replayed(&Machine, folder, upto)?;
    }
    writeln!(io::stdout(), "{sent} dead letters sent to {}; they are not listed any more", server.url)?;
    outcome.map(|()| tell_unread(&unread))
}

/// What a server said to a message.
pub enum Told {
    /// It has accepted it.
    Taken,
    /// It does not take it.
    Refused {
        /// The HTTP status.
        status: u16,
        /// In its words.
        why: String,
    },
}

/// A running Tidegate, to which messages are sent once more.
pub struct Server {
    /// `http://host:port`.
    pub url: String,
    /// Where it takes them.
    pub path: String,
    /// What it asks for, if it does.
    pub key: Option<HeaderValue>,
}

impl Server {
    /// The one that was named, if one was.
    fn or(self, url: Option<&str>) -> Self {
        match url {
            Some(url) => Self { url: url.to_owned(), path: ENQUEUE.to_owned(), key: self.key },
            None => self,
        }
    }
}

/// A connection to it.
pub struct Peer<'a> {
    url: &'a str,
    path: &'a str,
    key: Option<&'a HeaderValue>,
    stream: Option<BufReader<TcpStream>>,
}

impl<'a> Peer<'a> {
    /// One that is made with the first message.
    ///
    /// # Errors
    /// When the URL holds what has no place in it.
    pub fn new(server: &'a Server) -> Result<Self> {
        let url = &server.url;
        // Shown in every error: a user in it would be, too.
        if url.contains(['@', '?']) {
            bail!("--url: a user or a query has no place in it; write it as http://HOST:PORT");
        }
        Ok(Self { url, path: &server.path, key: server.key.as_ref(), stream: None })
    }

    /// A refusal is an error.
    fn expect_taken(&self, told: Told) -> Result<()> {
        match told {
            Told::Taken => Ok(()),
            Told::Refused { status, why } => bail!("{} answered {status}: {why}", self.url),
        }
    }

    /// Enqueues a message; it is accepted at the server's default level when it is taken.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn send(&mut self, record: &Record<'_>) -> Result<Told> {
        let host = self.url.strip_prefix("http://").unwrap_or(self.url).trim_end_matches('/');
        if self.stream.is_none() {
            let stream = TcpStream::connect(host).with_context(|| {
                format!("{}: no Tidegate answers there; name one with --url http://HOST:PORT", self.url)
            })?;
            stream.set_read_timeout(Some(TIMEOUT))?;
            stream.set_nodelay(true)?;
            self.stream = Some(BufReader::new(stream));
        }
        let Some(stream) = &mut self.stream else { bail!("not connected") };
        let mut body = Vec::new();
        data_message::write(record, &mut body);
        let key = self.key.and_then(|key| key.to_str().ok());
        let key = key.map(|key| format!("X-Api-Key: {key}\r\n")).unwrap_or_default();
        write!(
            stream.get_mut(),
            "POST {} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n{key}Content-Length: {}\r\n\r\n",
            self.path,
            body.len()
        )?;
        stream.get_mut().write_all(&body)?;
        let (mut status, mut length, mut line) = (String::new(), 0_usize, String::new());
        loop {
            line.clear();
            if stream.read_line(&mut line)? == 0 {
                bail!("{} closed the connection", self.url);
            }
            match line.trim_end() {
                "" => break,
                text if status.is_empty() => status = text.to_owned(),
                text => {
                    if let Some((name, value)) = text.split_once(':')
                        && name.eq_ignore_ascii_case("content-length")
                    {
                        length = value.trim().parse()?;
                    }
                }
            }
        }
        let mut answer = vec![0; length];
        stream.read_exact(&mut answer)?;
        let code = status.split(' ').nth(1).and_then(|code| code.parse().ok());
        let code: u16 = code.with_context(|| format!("{} answered {status}", self.url))?;
        Ok(match code {
            202 => Told::Taken,
            _ => {
                let said: Value = serde_json::from_slice(&answer).unwrap_or_default();
                let why = said["error"].as_str().or(said["message"].as_str()).map(str::to_owned);
                let why = why.unwrap_or_else(|| String::from_utf8_lossy(&answer).into_owned());
                Told::Refused { status: code, why }
            }
        })
    }
}

impl std::str::FromStr for Position {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(offset) = text.parse() {
            return Ok(Position::Offset(offset));
        }
        let time = humantime::parse_rfc3339_weak(text).map_err(|_| {
            format!("`{text}` is neither an offset like 1200 nor a time like 2026-11-21T10:00:00Z")
        })?;
        let since = time.duration_since(SystemTime::UNIX_EPOCH).map_err(|error| error.to_string())?;
        Ok(Position::Time(u64::try_from(since.as_millis()).unwrap_or(u64::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_an_offset_or_a_time() {
        assert!(matches!("1200".parse(), Ok(Position::Offset(1200))));
        assert!(matches!("1970-01-01T00:00:01Z".parse(), Ok(Position::Time(1000))));
        assert!("yesterday".parse::<Position>().unwrap_err().contains("offset like"));
    }
}
