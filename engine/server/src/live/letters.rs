//! The dead letters on the page: the newest of them, and sending them once more. What is sent goes to this server's own
//! `/enqueue`, as `tidegate dlq replay` does it, so a message that is refused again comes back as another dead letter.
//!
//! Reading the folder and waiting for answers is for a thread that may wait. One at a time does so: who comes meanwhile is
//! told to come again.

use std::{
    collections::VecDeque,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Json,
    body::Bytes,
    extract::State,
    response::{IntoResponse, Response},
};
use brokers::{
    dead_letter::{self, Letter},
    disk::Machine,
};
use engine_core::Record;
use http::{
    HeaderMap, HeaderValue, StatusCode,
    header::{CACHE_CONTROL, CONTENT_TYPE},
};
use serde::{Deserialize, Serialize};
use tonic::Code;

use super::{Live, admitted, payload::Payload, refusal};
use crate::{
    cold::House,
    resend::{Peer, Server, Told},
};

/// Letters that are listed: the newest.
const LISTED_MAX: usize = 50;
/// Letters that are sent at a time.
const SENT_MAX: usize = 1000;
/// Nothing more is begun after this long.
const SENDING_MAX: Duration = Duration::from_secs(20);
/// Letters that could not be sent and are named in the answer.
const NAMED_MAX: usize = 10;

/// The newest letters.
#[derive(Debug, Serialize)]
struct Listed {
    /// How many lie there and were not replayed.
    count: u64,
    /// At most so many are in `letters`.
    listed_max: usize,
    /// Whether payloads are shown: only where there are keys, and so to somebody who has one.
    payloads: bool,
    /// The newest first.
    letters: VecDeque<Shown>,
}

#[derive(Debug, Serialize)]
struct Shown {
    offset: u64,
    at_ms: u64,
    id: String,
    source: String,
    side: String,
    code: String,
    reason: String,
    attempts: u32,
    payload_bytes: usize,
    payload: Option<Payload>,
}

impl Shown {
    fn new(letter: &Letter<'_>, has_payload: bool) -> Self {
        let Letter { offset, at_ms, cause, record } = letter;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self {
            offset: *offset,
            at_ms: *at_ms,
            id: text(record.id),
            source: text(record.source),
            side: cause.side.clone(),
            code: cause.code.clone(),
            reason: cause.reason.clone(),
            attempts: cause.attempts,
            payload_bytes: record.payload.len(),
            payload: has_payload.then(|| Payload::new(record.payload, record.payload.len())),
        }
    }
}

/// Which letters are to be sent: one of them, or all.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    offset: Option<u64>,
    all: Option<bool>,
}

/// What became of it.
#[derive(Debug, Default, Serialize)]
struct Replayed {
    /// Accepted by this server once more, and not listed any more.
    sent: usize,
    /// Not accepted; they stay. The first of them are in `failures`.
    failed: usize,
    failures: Vec<Failure>,
    /// Not tried: more than can be sent at a time, or behind an answer that did not come.
    left: usize,
}

#[derive(Debug, Serialize)]
struct Failure {
    offset: u64,
    why: String,
}

/// The newest dead letters.
pub(super) async fn list(State(live): State<Arc<Live>>, headers: HeaderMap) -> Response {
    if let Err(refused) = admitted(&live, &headers) {
        return *refused;
    }
    let payloads = !live.platform.guard.is_open();
    let directory = live.house.behind.dead_letters.directory().to_owned();
    in_turn(&live, move || newest(&directory, payloads)).await
}

/// Sends one or all of them once more.
pub(super) async fn replay(State(live): State<Arc<Live>>, headers: HeaderMap, body: Bytes) -> Response {
    if let Err(refused) = admitted(&live, &headers) {
        return *refused;
    }
    // Another site's page can send a form, but no JSON without asking first.
    let is_json =
        headers.get(CONTENT_TYPE).is_some_and(|given| given.as_bytes().starts_with(b"application/json"));
    if !is_json {
        let text = "expected the content type application/json";
        return refusal(StatusCode::UNSUPPORTED_MEDIA_TYPE, Code::InvalidArgument, text);
    }
    let asked = match serde_json::from_slice(&body) {
        Ok(Asked { offset: Some(offset), all: None }) => Some(offset),
        Ok(Asked { offset: None, all: Some(true) }) => None,
        _ => {
            let text = r#"expected {"offset": NUMBER}, or {"all": true}"#;
            return refusal(StatusCode::BAD_REQUEST, Code::InvalidArgument, text);
        }
    };
    let Some(server) = server(&live.house) else {
        let text = "this process has no processor listener to send them to (listen.processor); use `tidegate dlq replay --url URL`";
        return refusal(StatusCode::CONFLICT, Code::FailedPrecondition, text);
    };
    let directory = live.house.behind.dead_letters.directory().to_owned();
    in_turn(&live, move || {
        let replayed = send(&directory, asked, &server);
        if let Ok(replayed) = &replayed {
            let (sent, failed, left) = (replayed.sent, replayed.failed, replayed.left);
            tracing::info!(sent, failed, left, "dead letters were replayed from the live page");
        }
        replayed
    })
    .await
}

/// Where messages are taken that are sent once more.
fn server(house: &House) -> Option<Server> {
    let own = house.processor.as_ref()?;
    let (host, port) = (&own.host, own.port);
    Some(Server { url: format!("http://{host}:{port}"), path: own.path.clone(), key: own.key.clone() })
}

/// Does it on a thread that may wait, if nobody else is about it.
async fn in_turn<T: Serialize + Send + 'static>(
    live: &Live,
    work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> Response {
    let Ok(turn) = Arc::clone(&live.letters).try_acquire_owned() else {
        let text = "somebody is reading or replaying the dead letters: try again in a moment";
        return refusal(StatusCode::SERVICE_UNAVAILABLE, Code::Unavailable, text);
    };
    let work = move || {
        let _turn = turn;
        work()
    };
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(outcome)) => {
            let mut response = Json(outcome).into_response();
            response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
            response
        }
        Ok(Err(error)) if error.is::<Busy>() => {
            refusal(StatusCode::SERVICE_UNAVAILABLE, Code::Unavailable, &error.to_string())
        }
        Ok(Err(error)) => {
            refusal(StatusCode::INTERNAL_SERVER_ERROR, Code::Internal, &format!("dead letters: {error:#}"))
        }
        Err(_) => refusal(StatusCode::INTERNAL_SERVER_ERROR, Code::Internal, "dead letters: cut short"),
    }
}

/// The command line has the turn.
#[derive(Debug, thiserror::Error)]
#[error("`tidegate dlq replay` is sending the dead letters now: try again in a moment")]
struct Busy;

fn newest(directory: &Path, payloads: bool) -> anyhow::Result<Listed> {
    let mut listed =
        Listed { count: 0, listed_max: LISTED_MAX, payloads, letters: VecDeque::with_capacity(LISTED_MAX) };
    dead_letter::list(&Machine, directory, |letter| {
        listed.count += 1;
        listed.letters.truncate(LISTED_MAX - 1);
        listed.letters.push_front(Shown::new(letter, payloads));
        true
    })?;
    Ok(listed)
}

/// Sends the letter at this offset, or all.
fn send(directory: &Path, only: Option<u64>, server: &Server) -> anyhow::Result<Replayed> {
    if !directory.is_dir() {
        return only.map_or_else(|| Ok(Replayed::default()), gone);
    }
    let Some(_turn) = dead_letter::take_turn(&Machine, directory)? else {
        return Err(Busy.into());
    };
    let mut peer = Peer::new(server)?;
    let (mut replayed, began) = (Replayed::default(), Instant::now());
    let mut last = None;
    let mut is_there = false;
    // What comes while this goes on, perhaps by this, is not for now: what is sent is what lay there at the beginning.
    dead_letter::list(&Machine, directory, |letter| {
        last = Some(letter.offset);
        true
    })?;
    let Some(last) = last else { return only.map_or(Ok(replayed), gone) };
    let (mut marked, mut answers) = (Ok(()), true);
    dead_letter::list(&Machine, directory, |letter| {
        if letter.offset > last || only.is_some_and(|offset| letter.offset > offset) {
            return false;
        }
        if only.is_some_and(|offset| letter.offset != offset) {
            return true;
        }
        is_there = true;
        if !answers || replayed.sent + replayed.failed >= SENT_MAX || began.elapsed() > SENDING_MAX {
            replayed.left += 1;
            return true;
        }
        match send_one(&mut peer, &letter.record) {
            Ok(()) => {
                marked = dead_letter::mark_one_replayed(&Machine, directory, letter.offset);
                replayed.sent += 1;
                return marked.is_ok();
            }
            Err(NotSent { why, answers: goes_on }) => {
                answers = goes_on;
                replayed.failed += 1;
                if replayed.failures.len() < NAMED_MAX {
                    replayed.failures.push(Failure { offset: letter.offset, why });
                }
            }
        }
        true
    })?;
    marked?;
    match only {
        Some(offset) if !is_there => gone(offset),
        _ => Ok(replayed),
    }
}

fn gone(offset: u64) -> anyhow::Result<Replayed> {
    let why = "it is not there any more: somebody else has replayed it".to_owned();
    Ok(Replayed { failed: 1, failures: vec![Failure { offset, why }], ..Replayed::default() })
}

struct NotSent {
    why: String,
    /// Whether the next one may be taken.
    answers: bool,
}

fn send_one(peer: &mut Peer<'_>, record: &Record<'_>) -> Result<(), NotSent> {
    match peer.send(record) {
        Ok(Told::Taken) => Ok(()),
        Ok(Told::Refused { status, why }) => {
            Err(NotSent { why: format!("answered {status}: {why}"), answers: status < 500 })
        }
        Err(error) => Err(NotSent { why: format!("{error:#}"), answers: false }),
    }
}
