//! One sampler for all viewers: it reads the process once a second, whether anybody watches or not, keeps an hour of it,
//! and hands each reading to every viewer. Of the last five minutes it keeps every sample, of the time before one of ten:
//! at most 630, of 0.7 KB each with two cores and the memory queue, and of some tens of bytes more for each core. A viewer
//! that is slow gets the latest reading when it comes back, and no queue grows for it: samples are running counts, so what
//! was skipped is in the next difference.

use std::{collections::VecDeque, convert::Infallible, fmt::Write, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{Stream, stream};
use parking_lot::Mutex;
use serde::Serialize;
use tokio::{
    sync::{OwnedSemaphorePermit, watch},
    time::{MissedTickBehavior, interval, timeout},
};

use super::{ENDING, Live, history::History, reading, refusals::Noted, verdict::Recent};

const PERIOD: Duration = Duration::from_secs(1);
/// A stream on which nothing was said for this long says that it is there.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// The latest reading, and those before it.
#[derive(Debug)]
pub struct Feed {
    kept: Mutex<History>,
    latest: watch::Sender<Moment>,
}

/// What a viewer learns of.
#[derive(Clone, Debug)]
enum Moment {
    /// Nothing has been read yet.
    Before,
    /// A sample by its number, with what belongs to the present alone.
    Reading { number: u64, sample: Bytes, present: Option<Bytes> },
    /// The process ends.
    Ending,
}

impl Default for Feed {
    fn default() -> Self {
        Self { kept: Mutex::default(), latest: watch::Sender::new(Moment::Before) }
    }
}

/// An event of a stream (HTML, "Server-sent events"). JSON has no line breaks, so one data line is enough.
pub fn frame(event: &str, id: Option<(u64, u64)>, data: &impl Serialize) -> Bytes {
    let mut text = String::new();
    // Writing to a String does not fail.
    if let Some((run, number)) = id {
        let _ = writeln!(text, "id: {run:x}-{number}");
    }
    let data = serde_json::to_string(data).unwrap_or_else(|_| "null".to_owned());
    let _ = write!(text, "event: {event}\ndata: {data}\n\n");
    text.into()
}

/// The number in an id that a viewer has seen, if this run gave it.
fn seen_in(run: u64, id: &str) -> Option<u64> {
    let (its_run, number) = id.split_once('-')?;
    (u64::from_str_radix(its_run, 16).ok()? == run).then_some(number.parse().ok()?)
}

impl Feed {
    /// A reading is kept and told. One lock for both: a viewer that begins now has it from the ring or from the watch.
    fn push(&self, run: u64, sample: &impl Serialize, present: Option<&impl Serialize>) {
        let mut kept = self.kept.lock();
        let number = kept.last() + 1;
        let sample = frame("sample", Some((run, number)), sample);
        kept.push(sample.clone());
        let present = present.map(|present| frame("present", None, present));
        self.latest.send_replace(Moment::Reading { number, sample, present });
    }

    /// A viewer who has seen the samples up to this number.
    fn join(&self, hello: Bytes, seen: u64, place: OwnedSemaphorePermit) -> Viewer {
        let kept = self.kept.lock();
        let unseen = kept.samples().filter(|(number, _)| *number > seen).map(|(_, sample)| sample.clone());
        Viewer {
            latest: self.latest.subscribe(),
            backlog: std::iter::once(hello).chain(unseen).collect(),
            last: kept.last(),
            ended: false,
            _place: place,
        }
    }
}

/// Reads until the process ends.
pub async fn sample(live: Arc<Live>) {
    let mut seconds = interval(PERIOD);
    seconds.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut recent = Recent::from_start(live.house.behind.dead_letters.there_at_start());
    let mut noted = Noted::default();
    loop {
        tokio::select! {
            _ = seconds.tick() => {
                let is_watched = live.feed.latest.receiver_count() > 0;
                let (sample, present) = reading::take(&live, &mut recent, is_watched);
                let cause = recent.cause().map(str::to_owned);
                let cause = cause.or_else(|| live.house.intake().trouble().map(str::to_owned));
                noted.look(&live.house, cause.as_deref());
                live.feed.push(live.run, &sample, present.as_ref());
            }
            () = live.house.until_draining() => {
                live.feed.latest.send_replace(Moment::Ending);
                return;
            }
        }
    }
}

/// One viewer's stream.
#[derive(Debug)]
struct Viewer {
    latest: watch::Receiver<Moment>,
    /// What is sent before the latest: who we are, and the history.
    backlog: VecDeque<Bytes>,
    /// Number of the last sample that was sent or lies in the backlog.
    last: u64,
    ended: bool,
    /// Given back with the stream.
    _place: OwnedSemaphorePermit,
}

/// Begins a viewer's stream: who we are, then the history (behind what it has `seen`), then a sample a second.
pub fn watch(
    live: &Live,
    place: OwnedSemaphorePermit,
    seen: Option<&str>,
) -> impl Stream<Item = Result<Bytes, Infallible>> + Send + use<> {
    let seen = seen.and_then(|id| seen_in(live.run, id)).unwrap_or(0);
    let viewer = live.feed.join(frame("hello", None, &reading::hello(live)), seen, place);
    stream::unfold(viewer, async |mut viewer| viewer.next().await.map(|bytes| (Ok(bytes), viewer)))
}

impl Viewer {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(bytes) = self.backlog.pop_front() {
                return Some(bytes);
            }
            if self.ended {
                return None;
            }
            match timeout(HEARTBEAT, self.latest.changed()).await {
                Ok(Ok(())) => {}
                // The feed is gone, and the process with it.
                Ok(Err(_)) => return None,
                // The sampler is late: the client shall not take that for the end.
                Err(_) => return Some(Bytes::from_static(b": still here\n\n")),
            }
            let moment = self.latest.borrow_and_update().clone();
            match moment {
                Moment::Reading { number, sample, present } if number > self.last => {
                    self.last = number;
                    self.backlog.push_back(sample);
                    self.backlog.extend(present);
                }
                Moment::Ending => {
                    self.ended = true;
                    return Some(frame("ending", None, &ENDING));
                }
                Moment::Before | Moment::Reading { .. } => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_has_its_id_its_name_and_its_data_on_a_line() {
        let bytes = frame("sample", Some((0xab, 7)), &serde_json::json!({ "text": "two\nlines" }));
        assert_eq!(bytes, "id: ab-7\nevent: sample\ndata: {\"text\":\"two\\nlines\"}\n\n");
    }

    #[test]
    fn an_id_of_another_run_counts_for_nothing() {
        assert_eq!(seen_in(0xab, "ab-7"), Some(7));
        for id in ["ac-7", "ab-", "-7", "7", "", "ab-7-1"] {
            assert_eq!(seen_in(0xab, id), None, "{id}");
        }
    }

    fn place() -> OwnedSemaphorePermit {
        Arc::new(tokio::sync::Semaphore::new(1)).try_acquire_owned().unwrap()
    }

    fn numbers(bytes: &Bytes) -> &str {
        str::from_utf8(bytes).unwrap().lines().next().unwrap()
    }

    #[tokio::test]
    async fn a_slow_viewer_gets_the_history_then_the_latest_then_the_end() {
        let feed = Feed::default();
        for _ in 0..325 {
            feed.push(1, &(), Some(&()));
        }
        let mut viewer = feed.join(Bytes::from_static(b"hello"), 0, place());
        assert_eq!(viewer.next().await.unwrap(), "hello");
        for number in [10, 20].into_iter().chain(26..=325) {
            assert_eq!(numbers(&viewer.next().await.unwrap()), format!("id: 1-{number}"));
        }
        for _ in 0..3 {
            feed.push(1, &(), Some(&()));
        }
        assert_eq!(numbers(&viewer.next().await.unwrap()), "id: 1-328");
        assert_eq!(numbers(&viewer.next().await.unwrap()), "event: present");
        feed.latest.send_replace(Moment::Ending);
        assert_eq!(numbers(&viewer.next().await.unwrap()), "event: ending");
        assert!(viewer.next().await.is_none());
    }

    #[tokio::test]
    async fn who_comes_back_gets_what_it_missed() {
        let feed = Feed::default();
        for _ in 0..4 {
            feed.push(1, &(), Some(&()));
        }
        let mut viewer = feed.join(Bytes::from_static(b"hello"), 3, place());
        viewer.next().await;
        assert_eq!(numbers(&viewer.next().await.unwrap()), "id: 1-4");
    }
}
