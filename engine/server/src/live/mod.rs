//! The live page at `/`: what this process does at this moment, for a person with a browser.
//!
//! ```text
//! counters ─▶ reading (once a second) ─▶ Feed: ring of an hour, watch ─▶ viewers (SSE)
//! ```
//!
//! The page and its files are part of the program and ask no other host for anything. They hold no data; what does,
//! `/live/events`, `/live/errors`, `/live/tail` and `/live/dead-letters`, asks for a key where `/v1/**` does.

mod assets;
mod events_seen;
mod feed;
mod history;
mod letters;
mod payload;
mod reading;
mod refusals;
mod tail;
mod verdict;

use std::sync::Arc;

use axum::{
    Json, Router,
    body::Body,
    extract::{Path, Request, State},
    handler::Handler,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use http::{
    HeaderMap, HeaderValue, Method, StatusCode,
    header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE},
};
use serde_json::json;
use tokio::sync::Semaphore;
use tonic::Code;

use crate::{
    cold::House,
    events::{Platform, admits},
    logging::KEPT_MAX,
};
use feed::Feed;

/// A stream's last word, and the answer to who comes when the end has begun. The page knows it by this text.
const ENDING: &str = "the server is shutting down";

/// What the page's routes work with.
#[derive(Debug)]
struct Live {
    house: Arc<House>,
    platform: Platform,
    feed: Feed,
    /// Places for viewers.
    places: Arc<Semaphore>,
    /// The turn to read or replay the dead letters.
    letters: Arc<Semaphore>,
    /// Places for those who watch messages.
    tails: Arc<Semaphore>,
    /// Tells this run's samples from those of a run before: when it began, in milliseconds since the epoch.
    run: u64,
}

/// The page's routes, or none when there are no places for viewers; `not_found` answers who asks for something else.
pub fn routes<H, T>(house: Arc<House>, platform: Platform, not_found: H) -> Router
where
    H: Handler<T, ()>,
    T: 'static,
{
    let places = house.live_viewers_max;
    if places == 0 {
        return Router::new();
    }
    let live = Arc::new(Live {
        run: engine_core::clock::wall_ms(),
        house,
        platform,
        feed: Feed::default(),
        places: Arc::new(Semaphore::new(places)),
        letters: Arc::new(Semaphore::new(1)),
        tails: Arc::new(Semaphore::new(tail::WATCHERS_MAX)),
    });
    tokio::spawn(feed::sample(Arc::clone(&live)));
    let elsewhere = not_found.clone();
    let page = async move |request: Request| {
        let asked = matches!(*request.method(), Method::GET | Method::HEAD);
        if asked && wants_html(request.headers()) {
            assets::answer("index.html", request.headers())
        } else {
            elsewhere.call(request, ()).await
        }
    };
    let file = async move |Path(name): Path<String>, request: Request| match assets::is_public(&name) {
        true => assets::answer(&name, request.headers()),
        false => not_found.call(request, ()).await,
    };
    Router::new()
        // Any method: what is not a browser's question is answered as it was before there was a page.
        .route("/", axum::routing::any(page))
        .route("/live/events", get(events))
        .route("/live/errors", get(errors))
        .route("/live/tail", get(tail::watch))
        .route("/live/dead-letters", get(letters::list))
        .route("/live/dead-letters/replay", post(letters::replay))
        .route("/live/{file}", get(file))
        .with_state(live)
}

/// Whether the client asks for a page by name. `*/*`, which curl and most libraries send, does not: to them `/` has
/// always been 404, and scripts may rely on that.
fn wants_html(headers: &HeaderMap) -> bool {
    let ranges = headers.get_all(ACCEPT).into_iter().filter_map(|value| value.to_str().ok());
    ranges.flat_map(|value| value.split(',')).any(|range| {
        let mut parts = range.split(';').map(str::trim);
        let is_html = parts.next().is_some_and(|name| name.eq_ignore_ascii_case("text/html"));
        // RFC 9110 §12.4.2: a weight of 0 means "not acceptable".
        let is_refused = parts.any(|weight| {
            let weight = weight.strip_prefix("q=").or_else(|| weight.strip_prefix("Q="));
            weight.and_then(|weight| weight.parse::<f32>().ok()).is_some_and(|weight| weight <= 0.0)
        });
        is_html && !is_refused
    })
}

/// The latest warnings, errors and refusals.
async fn errors(State(live): State<Arc<Live>>, headers: HeaderMap) -> Response {
    if let Err(refused) = admitted(&live, &headers) {
        return *refused;
    }
    let body = json!({ "kept_max": KEPT_MAX, "errors": live.house.latest.all() });
    ([(CACHE_CONTROL, "no-store")], Json(body)).into_response()
}

/// Whether the bearer of these headers may see data: everybody where there are no keys.
fn admitted(live: &Live, headers: &HeaderMap) -> Result<(), Box<Response>> {
    admits(&live.platform.guard, headers)
        .map_err(|status| Box::new(refusal(StatusCode::UNAUTHORIZED, status.code(), status.message())))
}

/// The stream of samples, as server-sent events.
async fn events(State(live): State<Arc<Live>>, headers: HeaderMap) -> Response {
    if let Err(refused) = admitted(&live, &headers) {
        return *refused;
    }
    if live.house.is_draining() {
        return refusal(StatusCode::SERVICE_UNAVAILABLE, Code::Unavailable, ENDING);
    }
    let Ok(place) = Arc::clone(&live.places).try_acquire_owned() else {
        let text = format!(
            "{} viewers are watching, which is the bound: close one, or raise live.viewers_max",
            live.house.live_viewers_max
        );
        return refusal(StatusCode::SERVICE_UNAVAILABLE, Code::Unavailable, &text);
    };
    let seen = headers.get("last-event-id").and_then(|id| id.to_str().ok());
    let body = Body::from_stream(feed::watch(&live, place, seen));
    let fields = [(CONTENT_TYPE, "text/event-stream"), (CACHE_CONTROL, "no-store")];
    (fields, body).into_response()
}

/// An error in the form that the routes under `/v1` have.
fn refusal(status: StatusCode, code: Code, text: &str) -> Response {
    let body = Json(json!({ "code": code as i32, "message": text, "details": [] }));
    let mut response = (status, body).into_response();
    match status {
        StatusCode::SERVICE_UNAVAILABLE => {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("5"));
        }
        StatusCode::UNAUTHORIZED => {
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        _ => {}
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_names_html_gets_the_page() {
        let wants = |accept: &'static str| {
            wants_html(&[(ACCEPT, HeaderValue::from_static(accept))].into_iter().collect())
        };
        for browser in ["text/html", "application/json;q=0.1, Text/HTML; q=0.9", "text/html,*/*;q=0.8"] {
            assert!(wants(browser), "{browser}");
        }
        for other in ["*/*", "", "text/*", "application/json", "text/html;q=0, */*", "text/htmlx"] {
            assert!(!wants(other), "{other}");
        }
        assert!(!wants_html(&HeaderMap::new()));
    }
}
