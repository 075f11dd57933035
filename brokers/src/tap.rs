//! Messages as a core takes them, for a person who watches: the tail of the live page.
//!
//! ```text
//! cold thread  Taps::open ── mail ring ──▶ core  Tap::attend (once a turn), Tap::see (each message)
//! cold thread  Watched    ◀── glimpses ───┘
//! ```
//!
//! They are looked at in [`Pipeline`](crate::Pipeline), and there once they were taken: nowhere else does every message of
//! every protocol and every way pass, with its id, source, metadata, kind and level; repeats, and what is refused, do not
//! get so far. The filter is asked on the core: behind a bound of a few copies a second, a rare message would never be found.
//!
//! Nobody watches: a core loads one index once a turn, and nothing for a message. Somebody does: a search for the filter in
//! each message, and for what is found a copy of bounded length, so many a second, into a ring. The core takes no lock, and
//! allocates nothing; what it is sent at an opening it frees at the end. What exceeds the rate, or finds the ring full, is
//! counted and not copied.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use engine_core::{
    AckLevel, Doorbell, KIND_EVENT, MetadataPairs, Record, clock,
    ring::{Consumer, Producer, ring},
};
use memchr::memmem::Finder;
use parking_lot::Mutex;

/// Messages that a core copies for one watcher in a second.
pub const COPIED_PER_SECOND_MAX: u32 = 20;
/// Copies that wait to be read. A power of two, and more than a second's.
const RING: usize = 32;
/// Watchers that a core has not heard of yet. A power of two.
const MAIL: usize = 8;
/// Bytes of an id, and of a source, that are copied.
pub const NAME_BYTES_MAX: usize = 128;
/// Bytes of an event's type that are copied.
const TYPE_BYTES_MAX: usize = 64;
/// Bytes of a metadata value, or of its key, that are copied.
pub const VALUE_BYTES_MAX: usize = 128;
/// Bytes of metadata that are copied, as [`MetadataPairs`] reads them.
pub const METADATA_BYTES_MAX: usize = 640;
/// Bytes of a payload that are copied.
pub const PAYLOAD_BYTES_MAX: usize = 1024;
const BYTES_MAX: usize = 2 * NAME_BYTES_MAX + TYPE_BYTES_MAX + METADATA_BYTES_MAX + PAYLOAD_BYTES_MAX;

/// Finds an event's type in its record; empty: it is no event, or has none.
pub type TypeOf = for<'a> fn(&Record<'a>) -> &'a str;

/// The beginning of a message.
pub struct Glimpse {
    /// When the core took it, in milliseconds of the Unix epoch.
    pub at_ms: u64,
    /// Whether it is an event.
    pub is_event: bool,
    /// How safe it was to be before its sender was told.
    pub level: AckLevel,
    /// Length of the payload, all of it.
    pub payload_bytes: usize,
    /// Whether a text besides the payload goes on, or there is more metadata.
    pub is_cut: bool,
    bytes: [u8; BYTES_MAX],
    /// Where the id, the source, the type, the metadata and the payload end.
    ends: [u16; 5],
}

impl std::fmt::Debug for Glimpse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Glimpse").field("id", &self.id().escape_ascii()).finish_non_exhaustive()
    }
}

impl Glimpse {
    fn new(record: &Record<'_>, event_type: &str, has_payload: bool) -> Self {
        let mut glimpse = Self {
            at_ms: clock::wall_ms(),
            is_event: record.kind & KIND_EVENT != 0,
            level: record.level,
            payload_bytes: record.payload.len(),
            is_cut: false,
            bytes: [0; BYTES_MAX],
            ends: [0; 5],
        };
        let mut at = 0;
        let names = [
            (record.id, NAME_BYTES_MAX),
            (record.source, NAME_BYTES_MAX),
            (event_type.as_bytes(), TYPE_BYTES_MAX),
        ];
        for (place, (name, max)) in names.into_iter().enumerate() {
            at = glimpse.copy(at, glimpse_of(name, max));
            glimpse.is_cut |= name.len() > max;
            glimpse.ends[place] = at as u16;
        }
        let room = at + METADATA_BYTES_MAX;
        for (key, value) in MetadataPairs::new(record.metadata) {
            let (short_key, short_value) =
                (glimpse_of(key, VALUE_BYTES_MAX), glimpse_of(value, VALUE_BYTES_MAX));
            if at + 8 + short_key.len() + short_value.len() > room {
                glimpse.is_cut = true;
                break;
            }
            glimpse.is_cut |= key.len() > short_key.len() || value.len() > short_value.len();
            at = glimpse.copy(at, &(short_key.len() as u32).to_le_bytes());
            at = glimpse.copy(at, &(short_value.len() as u32).to_le_bytes());
            at = glimpse.copy(at, short_key);
            at = glimpse.copy(at, short_value);
        }
        glimpse.ends[3] = at as u16;
        if has_payload {
            at = glimpse.copy(at, glimpse_of(record.payload, PAYLOAD_BYTES_MAX));
        }
        glimpse.ends[4] = at as u16;
        glimpse
    }

    /// Copies to `at`; the bounds of all texts together are the length of the bytes. Returns where it ends.
    fn copy(&mut self, at: usize, from: &[u8]) -> usize {
        self.bytes[at..at + from.len()].copy_from_slice(from);
        at + from.len()
    }

    fn part(&self, place: usize) -> &[u8] {
        let start = if place == 0 { 0 } else { self.ends[place - 1] };
        &self.bytes[usize::from(start)..usize::from(self.ends[place])]
    }

    /// The message's id, its beginning.
    pub fn id(&self) -> &[u8] {
        self.part(0)
    }

    /// Who sent it, the beginning of that.
    pub fn source(&self) -> &[u8] {
        self.part(1)
    }

    /// The event's type; empty for what is no event.
    pub fn event_type(&self) -> &[u8] {
        self.part(2)
    }

    /// The first pairs of its metadata.
    pub fn metadata(&self) -> MetadataPairs<'_> {
        MetadataPairs::new(self.part(3))
    }

    /// The beginning of its payload; empty when the watcher may not see it.
    pub fn payload(&self) -> &[u8] {
        self.part(4)
    }
}

fn glimpse_of(bytes: &[u8], max: usize) -> &[u8] {
    &bytes[..bytes.len().min(max)]
}

/// Which messages a watcher wants.
struct Filter(Option<Finder<'static>>);

impl Filter {
    /// Those with this text in them; an empty one is in all.
    fn new(text: &[u8]) -> Self {
        Self((!text.is_empty()).then(|| Finder::new(text).into_owned()))
    }

    /// Whether the text stands in the id, the source, the event's type, or an entry of the metadata as `key=value`.
    fn finds(&self, record: &Record<'_>, type_of: TypeOf) -> bool {
        let Some(finder) = &self.0 else { return true };
        let is_in = |bytes: &[u8]| finder.find(bytes).is_some();
        let text = finder.needle();
        let is_in_pair = |(key, value): (&[u8], &[u8])| {
            let equals = text.iter().enumerate().filter(|(_, byte)| **byte == b'=').map(|(at, _)| at);
            is_in(key)
                || is_in(value)
                || equals
                    .into_iter()
                    .any(|at| key.ends_with(&text[..at]) && value.starts_with(&text[at + 1..]))
        };
        is_in(record.id)
            || is_in(record.source)
            || MetadataPairs::new(record.metadata).any(is_in_pair)
            // Last: for this the payload has to be read.
            || is_in(type_of(record).as_bytes())
    }
}

/// What a watcher is told besides. Written by one core.
#[derive(Debug, Default)]
struct Counts {
    is_there: AtomicBool,
    looked_at: AtomicU64,
    matched: AtomicU64,
    copied: AtomicU64,
}

/// One watcher, on a core.
struct Watcher {
    filter: Filter,
    has_payload: bool,
    glimpses: Producer<Glimpse>,
    counts: Arc<Counts>,
    looked_at: u64,
    matched: u64,
    copied: u64,
    /// The second that is copied in, and how many were.
    second: Option<Instant>,
    copied_in_second: u32,
}

impl Watcher {
    fn see(&mut self, record: &Record<'_>, now: Instant, type_of: TypeOf) {
        self.looked_at += 1;
        if !self.filter.finds(record, type_of) {
            return;
        }
        self.matched += 1;
        if self.second.is_none_or(|began| now.duration_since(began) >= Duration::from_secs(1)) {
            (self.second, self.copied_in_second) = (Some(now), 0);
        }
        if self.copied_in_second < COPIED_PER_SECOND_MAX && self.glimpses.free_slots() > 0 {
            let glimpse = Glimpse::new(record, type_of(record), self.has_payload);
            if self.glimpses.push(glimpse).is_ok() {
                self.copied_in_second += 1;
                self.copied += 1;
            }
        }
    }

    fn show_counts(&self) {
        // Each is only shown; nothing is concluded from one about another.
        self.counts.looked_at.store(self.looked_at, Relaxed);
        self.counts.matched.store(self.matched, Relaxed);
        self.counts.copied.store(self.copied, Relaxed);
        self.counts.is_there.store(true, Relaxed);
    }
}

/// A core's end.
pub struct Tap {
    mail: Consumer<Watcher>,
    watchers: Vec<Watcher>,
    type_of: TypeOf,
    looked_at: Arc<AtomicU64>,
}

impl std::fmt::Debug for Tap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tap").field("watchers", &self.watchers.len()).finish_non_exhaustive()
    }
}

impl Tap {
    /// Lets those go who watch no longer, and takes on those who are new. Once a turn.
    #[inline]
    pub fn attend(&mut self) {
        if !self.watchers.is_empty() || !self.mail.is_empty() {
            self.attend_watchers();
        }
    }

    #[cold]
    fn attend_watchers(&mut self) {
        self.watchers.retain(|watcher| !watcher.glimpses.is_abandoned());
        self.mail.take(MAIL, |watcher| {
            if !watcher.glimpses.is_abandoned() {
                self.watchers.push(watcher);
            }
        });
        self.watchers.iter().for_each(|watcher| watcher.show_counts());
    }

    /// Whether somebody watches.
    #[inline]
    pub fn is_watched(&self) -> bool {
        !self.watchers.is_empty()
    }

    /// A message was taken.
    pub fn see(&mut self, record: &Record<'_>, now: Instant) {
        self.looked_at.store(self.looked_at.load(Relaxed) + 1, Relaxed);
        self.watchers.iter_mut().for_each(|watcher| watcher.see(record, now, self.type_of));
    }
}

/// The other end of a core's.
struct Post {
    mail: Producer<Watcher>,
    doorbell: Doorbell,
    looked_at: Arc<AtomicU64>,
}

/// Where watchers begin.
pub struct Taps(Mutex<Vec<Post>>);

impl std::fmt::Debug for Taps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Taps").finish_non_exhaustive()
    }
}

/// The ends of the cores with these doorbells.
pub fn taps(doorbells: &[Doorbell], type_of: TypeOf) -> (Taps, Vec<Tap>) {
    let (posts, taps) = doorbells
        .iter()
        .map(|doorbell| {
            let (producer, mail) = ring(MAIL);
            let looked_at = Arc::default();
            let post = Post { mail: producer, doorbell: doorbell.clone(), looked_at: Arc::clone(&looked_at) };
            (post, Tap { mail, watchers: Vec::with_capacity(MAIL), type_of, looked_at })
        })
        .unzip();
    (Taps(Mutex::new(posts)), taps)
}

impl Taps {
    /// Watches messages with this text in them. `None`: a core has not turned since others began to.
    pub fn open(&self, text: &[u8], has_payload: bool) -> Option<Watched> {
        let mut posts = self.0.lock();
        let mut watched = Watched { cores: Vec::with_capacity(posts.len()) };
        for post in posts.iter_mut() {
            let (glimpses, consumer) = ring(RING);
            let counts = Arc::<Counts>::default();
            let watcher = Watcher {
                filter: Filter::new(text),
                has_payload,
                glimpses,
                counts: Arc::clone(&counts),
                looked_at: 0,
                matched: 0,
                copied: 0,
                second: None,
                copied_in_second: 0,
            };
            post.mail.push(watcher).ok()?;
            // One that sleeps shall watch from the next message on.
            post.doorbell.ring();
            watched.cores.push((consumer, counts));
        }
        Some(watched)
    }

    /// Messages that cores looked at because somebody watched, since the start.
    pub fn looked_at(&self) -> u64 {
        self.0.lock().iter().map(|post| post.looked_at.load(Relaxed)).sum()
    }
}

/// What a watcher gets. Dropping it ends the watching.
pub struct Watched {
    cores: Vec<(Consumer<Glimpse>, Arc<Counts>)>,
}

impl std::fmt::Debug for Watched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watched").field("cores", &self.cores.len()).finish_non_exhaustive()
    }
}

/// How much there was, over all cores.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Cores that watch; the others have not turned since.
    pub cores: usize,
    /// Messages that were looked at.
    pub looked_at: u64,
    /// Of these, the ones with the text in them.
    pub matched: u64,
    /// Of these, the ones that were copied.
    pub copied: u64,
}

impl Watched {
    /// Takes what has come, core by core.
    pub fn take(&mut self, mut each: impl FnMut(usize, Glimpse)) {
        for (core, (glimpses, _)) in self.cores.iter_mut().enumerate() {
            glimpses.take(RING, |glimpse| each(core, glimpse));
        }
    }

    /// The counts of this moment.
    pub fn seen(&self) -> Seen {
        self.cores.iter().fold(Seen::default(), |mut seen, (_, counts)| {
            seen.cores += usize::from(counts.is_there.load(Relaxed));
            seen.looked_at += counts.looked_at.load(Relaxed);
            seen.matched += counts.matched.load(Relaxed);
            seen.copied += counts.copied.load(Relaxed);
            seen
        })
    }
}

#[cfg(test)]
mod tests {
    use engine_core::{MetadataWriter, SlabConfig, mesh};

    use super::*;

    fn one() -> (Taps, Tap) {
        let ports = mesh(1, &SlabConfig::new(4, 1 << 16));
        let (taps, mut cores) =
            taps(
                &[ports[0].doorbell()],
                |record| {
                    if record.kind & KIND_EVENT != 0 { "EVENT_TYPE_USER" } else { "" }
                },
            );
        (taps, cores.remove(0))
    }

    fn ids(watched: &mut Watched) -> Vec<String> {
        let mut ids = Vec::new();
        watched.take(|_, glimpse| ids.push(String::from_utf8_lossy(glimpse.id()).into_owned()));
        ids
    }

    #[test]
    fn a_rare_message_is_found_among_many_by_each_of_its_texts() {
        let mut metadata = Vec::new();
        MetadataWriter::new(&mut metadata).push(b"region", b"north-1");
        let rare = Record {
            id: b"order-77",
            source: b"shop",
            metadata: &metadata,
            kind: KIND_EVENT,
            ..Record::default()
        };
        let texts =
            ["order-77", "er-7", "sho", "north", "region", "region=north-1", "on=nor", "=", "TYPE_USER"];
        for text in texts {
            let (taps, mut tap) = one();
            let mut watched = taps.open(text.as_bytes(), false).unwrap();
            tap.attend();
            for number in 0..1000 {
                let id = format!("m-{number}");
                tap.see(&Record { id: id.as_bytes(), source: b"web", ..Record::default() }, Instant::now());
            }
            tap.see(&rare, Instant::now());
            tap.attend();
            assert_eq!(ids(&mut watched), ["order-77"], "{text}");
            assert_eq!(watched.seen(), Seen { cores: 1, looked_at: 1001, matched: 1, copied: 1 });
        }
        for text in ["order-78", "region=south", "egion=north-2", "x=", "=x"] {
            assert!(!Filter::new(text.as_bytes()).finds(&rare, |_| ""), "{text}");
        }
    }

    #[test]
    fn so_many_a_second_are_copied_and_the_others_are_counted() {
        let (taps, mut tap) = one();
        let mut watched = taps.open(b"", false).unwrap();
        tap.attend();
        let began = Instant::now();
        let mut second = |number: u64| {
            for _ in 0..50 {
                tap.see(&Record::default(), began + Duration::from_secs(number));
            }
            tap.attend();
        };
        second(0);
        assert_eq!(ids(&mut watched).len(), 20);
        // Nobody reads: the ring is full before the third second is over.
        (1..4).for_each(&mut second);
        assert_eq!(watched.seen(), Seen { cores: 1, looked_at: 200, matched: 200, copied: 20 + 32 });
        assert_eq!(ids(&mut watched).len(), 32);
        second(4);
        assert_eq!(ids(&mut watched).len(), 20);
    }

    #[test]
    fn nothing_is_looked_at_before_somebody_watches_and_after() {
        let (taps, mut tap) = one();
        tap.attend();
        assert!(!tap.is_watched());
        let watched = taps.open(b"", false).unwrap();
        tap.attend();
        assert!(tap.is_watched());
        tap.see(&Record::default(), Instant::now());
        drop(watched);
        tap.attend();
        assert!(!tap.is_watched());
        assert_eq!(taps.looked_at(), 1);
        // A core that stands still is not sent more and more.
        let opened = (0..100).filter(|_| taps.open(b"", false).is_some()).count();
        assert_eq!(opened, MAIL);
        tap.attend();
        assert!(!tap.is_watched() && taps.open(b"", false).is_some());
    }

    #[test]
    fn the_longest_message_is_cut_to_the_bounds_and_payloads_are_for_who_may_see_them() {
        let long = vec![b'x'; 5000];
        let mut metadata = Vec::new();
        let mut writer = MetadataWriter::new(&mut metadata);
        (0..10).for_each(|_| writer.push(&long, &long));
        let record =
            Record { id: &long, source: &long, payload: &long, metadata: &metadata, ..Record::default() };
        let name = "y".repeat(500);
        let glimpse = Glimpse::new(&record, &name, true);
        assert_eq!(
            (glimpse.id().len(), glimpse.source().len(), glimpse.event_type().len(), glimpse.payload().len()),
            (NAME_BYTES_MAX, NAME_BYTES_MAX, TYPE_BYTES_MAX, PAYLOAD_BYTES_MAX)
        );
        assert!(glimpse.is_cut && glimpse.payload_bytes == 5000);
        let pairs: Vec<_> = glimpse.metadata().collect();
        assert_eq!(pairs, [(&long[..VALUE_BYTES_MAX], &long[..VALUE_BYTES_MAX]); 2]);
        assert!(Glimpse::new(&record, "", false).payload().is_empty());
        let short = Glimpse::new(&Record { id: b"a", payload: b"b", ..Record::default() }, "", true);
        assert!(!short.is_cut && short.payload() == b"b" && short.source().is_empty());
    }
}
