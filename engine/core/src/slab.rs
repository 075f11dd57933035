//! Where a message lives from its arrival to its acknowledgement: the slab of the core that received it.
//!
//! A [`Record`] is copied ONCE, into a slot. What travels between cores is its [`Handle`], 16 bytes;
//! any core reads the slot through the home core's [`SlabReader`], and only the home core frees it.
//!
//! # How it works
//!
//! A slot is a header of one cache line (lengths, timestamp, key hash, where the bytes are). The bytes
//! (id, source, metadata, payload, in this order) lie apart, in a block of the smallest class that fits
//! and has one free, else of a bigger class, else in a heap buffer. Free slots and blocks are stacks:
//! the one freed last is used first, so the hot part is as large as the messages in flight and not as
//! the slab. Memory that was never used is never touched: a slab for 1,000,000 messages costs address
//! space until they come.
//!
//! # Why it is sound
//!
//! A handle is linear: only [`SlabOwner::insert`] makes one, nothing copies one, only
//! [`SlabOwner::free`] takes one back. So whoever holds a handle knows that its slot is written (moving
//! the handle to another thread carries the write along) and will not be written again before the handle
//! is given up, and a [`RecordView`] borrows the handle. Each handle names its slab by a number that no
//! other slab of the process has, and is checked against it, so it cannot be read in another one. The
//! generation is a second line of defence: should this module be wrong, that is a panic and not
//! someone else's message.
//!
//! # The bounds
//!
//! - No free slot: [`InsertError::Full`]. This is the queue's bound.
//! - Blocks and heap buffers in use would pass `bytes_max`: [`InsertError::OverBudget`].
//! - [`SlabConfig::bytes_worst_case`] is the sum that resident memory stays under.
#![allow(unsafe_code)]

use std::mem::MaybeUninit;
use std::num::{NonZeroU32, NonZeroU64};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

use crate::metadata::MetadataPairs;
use crate::outcome::AckLevel;
use crate::sync::{Arc, AtomicUsize, Ordering, UninitCells, uninit_cells};

/// The bit of [`Record::kind`] that marks a probe of our own: it goes the whole way and is in no count.
pub const KIND_PROBE: u8 = 1;

/// The bit of [`Record::kind`] that says that the payload is an event, of the schema that the metadata names at its start (the
/// first pair, or the one behind [`KEY_OVERRIDE`](crate::KEY_OVERRIDE)). No sender sets it: whoever takes an event in does, and
/// without it metadata is free.
pub const KIND_EVENT: u8 = 2;

/// What is left of a message when its slot is free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Released {
    /// The record's.
    pub(crate) reply_token: u64,
    /// The record's.
    pub(crate) once: bool,
    /// The record's.
    pub(crate) kind: u8,
}

/// A message as its front end hands it over: borrowed, about to be copied into a slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Record<'a> {
    /// The message's id, as text or bytes.
    pub id: &'a [u8],
    /// Who sent it.
    pub source: &'a [u8],
    /// What it says.
    pub payload: &'a [u8],
    /// Its metadata, encoded by [`MetadataWriter`](crate::MetadataWriter).
    pub metadata: &'a [u8],
    /// When it was made, in seconds of the Unix epoch.
    pub timestamp_seconds: i64,
    /// [`key_hash`](crate::key_hash) of what it is partitioned by; 0 when by nothing.
    pub key_hash: u64,
    /// What kind of message it is; a number that the front ends and the worker agree on.
    pub kind: u8,
    /// How safe it must be before its sender is told.
    pub level: AckLevel,
    /// Whether its sender named that level; else it is the default of the process that stores it.
    pub level_named: bool,
    /// Whether the id is the sender's own, so that a repeat of it is the same message again.
    pub once: bool,
    /// Handed back by [`Shard::take_replies`](crate::Shard::take_replies) when the message is completed.
    /// 0: nobody waits for it.
    pub reply_token: u64,
}

/// Blocks of one length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SizeClass {
    /// Length of a block; a multiple of 64.
    pub block_bytes: u32,
    /// How many there are.
    pub blocks: u32,
}

/// How much a slab holds at most.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlabConfig {
    /// Messages in flight.
    pub slots: u32,
    /// Block classes, smallest first.
    pub classes: [SizeClass; 3],
    /// Blocks and heap buffers in use, together. It also bounds the largest message.
    pub bytes_max: usize,
}

impl SlabConfig {
    /// Blocks of 256 B for every slot, of 2 KiB for a quarter and of 16 KiB for a sixteenth of them
    /// (never more than `bytes_max` could use at once).
    pub fn new(slots: u32, bytes_max: usize) -> Self {
        let class = |block_bytes: u32, wanted: u32| {
            let useful = bytes_max / block_bytes as usize;
            SizeClass { block_bytes, blocks: wanted.min(u32::try_from(useful).unwrap_or(u32::MAX)).max(1) }
        };
        Self {
            slots,
            classes: [class(256, slots), class(2048, slots / 4), class(16384, slots / 16)],
            bytes_max,
        }
    }

    /// What the slab's memory stays under when every page of it was used once:
    ///
    /// ```text
    ///   slots × (64 header + 4 free-stack entry)
    /// + for each class: min(blocks × block_bytes, bytes_max) + blocks × 4 free-stack entry
    /// + bytes_max                                        heap buffers
    /// ```
    ///
    /// A class never has more blocks touched than were in use at once (stacks), hence the `min`; and
    /// pages once touched are kept, hence heap buffers are added although the budget counts both.
    pub fn bytes_worst_case(&self) -> usize {
        let slots = self.slots as usize * (HEADER_BYTES + 4);
        let classes = self.classes.iter().map(|class| {
            let blocks = class.blocks as usize;
            (blocks * class.block_bytes as usize).min(self.bytes_max) + blocks * 4
        });
        slots + classes.sum::<usize>() + self.bytes_max
    }
}

impl Default for SlabConfig {
    /// 16,384 messages and 64 MiB.
    fn default() -> Self {
        Self::new(16_384, 64 << 20)
    }
}

/// Why a record was not taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InsertError {
    /// Every slot is in use.
    Full,
    /// The record's bytes do not fit into what is left of `bytes_max`.
    OverBudget,
}

impl std::fmt::Display for InsertError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Full => "every slot is in use",
            Self::OverBudget => "the byte budget is used up",
        })
    }
}

impl std::error::Error for InsertError {}

/// The right to read one message, and the duty to bring it home to be freed. Dropping one leaves its
/// slot occupied for the slab's life.
#[must_use = "a handle that is not given back leaves its slot occupied"]
#[derive(Debug, PartialEq, Eq)]
pub struct Handle {
    // Two whole words, not four small fields: a handle is written once and read several times within a
    // few nanoseconds, and a load that spans two stores waits until both have left the store buffer.
    // As a pair of words it mostly stays in registers; measured, that was half the cost of a message.
    /// The slot below, its generation above.
    place: NonZeroU64,
    home: HomeTag,
}

/// Which slab of the process, and its core: the core in the low 16 bits, the slab's number above.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct HomeTag(u64);

impl HomeTag {
    fn new(number: u32, core: u16) -> Self {
        Self(u64::from(number) << 16 | u64::from(core))
    }

    #[inline(always)]
    fn core(self) -> u16 {
        self.0 as u16
    }
}

impl Handle {
    #[inline(always)]
    fn new(slot: u32, generation: NonZeroU32, home: HomeTag) -> Self {
        let generation = NonZeroU64::from(generation).get() << 32;
        // Never the default: the generation is not 0.
        let place = NonZeroU64::new(generation | u64::from(slot)).unwrap_or(NonZeroU64::MIN);
        Self { place, home }
    }

    #[inline(always)]
    pub(crate) fn slot(&self) -> usize {
        self.place.get() as u32 as usize
    }

    #[inline(always)]
    fn generation(&self) -> u32 {
        (self.place.get() >> 32) as u32
    }

    /// The core whose slab the message lives in.
    #[inline(always)]
    pub fn core(&self) -> usize {
        self.home.core() as usize
    }
}

const HEADER_BYTES: usize = 64;
/// Class numbers behind the block classes.
const HEAP: u8 = 3;
const NO_BYTES: u8 = 4;
const FREE: u8 = 5;

#[repr(align(64))]
struct Header {
    bytes: NonNull<u8>,
    timestamp_seconds: i64,
    key_hash: u64,
    reply_token: u64,
    id_bytes: u32,
    source_bytes: u32,
    metadata_bytes: u32,
    payload_bytes: u32,
    block: u32,
    generation: NonZeroU32,
    class: u8,
    kind: u8,
    level: AckLevel,
    level_named: bool,
    once: bool,
}

const _: () = assert!(size_of::<Header>() == HEADER_BYTES);
const _: () = assert!(size_of::<Option<Handle>>() == 16);

impl Header {
    fn total_bytes(&self) -> usize {
        self.id_bytes as usize
            + self.source_bytes as usize
            + self.metadata_bytes as usize
            + self.payload_bytes as usize
    }
}

/// One cache line of block memory. Blocks start on lines, so a short message never straddles one more
/// than it must.
#[repr(C, align(64))]
struct Line([u8; 64]);

/// Not the shim's cell: a block is written and read only together with its header, whose cell loom sees.
type Lines = Box<[std::cell::UnsafeCell<MaybeUninit<Line>>]>;

fn untouched_lines(count: usize) -> Lines {
    let lines = Box::<[std::cell::UnsafeCell<MaybeUninit<Line>>]>::new_uninit_slice(count);
    // SAFETY: `UnsafeCell<MaybeUninit<_>>` is valid with any bytes, uninitialised ones too.
    unsafe { lines.assume_init() }
}

/// What the owner and the readers share.
struct Slab {
    /// This slab's number, unique in the process, and its core.
    home: HomeTag,
    headers: UninitCells<Header>,
    classes: [Lines; 3],
    /// Slots `0..slots_written` have an initialised header. Written by the owner, read by `Drop`.
    slots_written: AtomicUsize,
}

// SAFETY: headers and lines are plain memory; who may touch which when is the handle's business
// (module doc): a slot with a live handle is only read, one without is only touched by the owner.
unsafe impl Send for Slab {}
// SAFETY: as above.
unsafe impl Sync for Slab {}

impl Drop for Slab {
    fn drop(&mut self) {
        // Relaxed: the owner is gone and the `Arc` made its last store visible here.
        for slot in 0..self.slots_written.load(Ordering::Relaxed) {
            // SAFETY: written once (`slots_written`), and `&mut self` says that we are alone.
            self.headers[slot].with(|header| unsafe { free_heap_buffer((*header).assume_init_ref()) });
        }
    }
}

/// # Safety
/// If the header says `HEAP`, its buffer is alive, is not used again, and is freed only here and now.
unsafe fn free_heap_buffer(header: &Header) {
    if header.class == HEAP {
        let buffer =
            NonNull::slice_from_raw_parts(header.bytes.cast::<MaybeUninit<u8>>(), header.total_bytes());
        // SAFETY: made by `Box::into_raw` of a slice of just this length in `SlabOwner::place`.
        drop(unsafe { Box::from_raw(buffer.as_ptr()) });
    }
}

/// Copies a part of a record. Most are shorter than what calling memcpy costs, so these are copied here:
/// two loads of a fixed length that may overlap, and two stores. Beyond 64 bytes memcpy's wide
/// registers win.
///
/// # Safety
/// `to` is good for writing `part.len()` bytes that do not overlap `part`.
#[inline(always)]
unsafe fn copy_part(part: &[u8], to: *mut u8) {
    /// # Safety
    /// As `copy_part`, and `N <= part.len() <= 2 * N`.
    #[inline(always)]
    unsafe fn both_ends<const N: usize>(part: &[u8], to: *mut u8) {
        let (from, last) = (part.as_ptr(), part.len() - N);
        // SAFETY: the first and the last `N` bytes lie within both, by the caller's promise. Both loads
        // come before the stores, but the stores may overlap: they write the same bytes there.
        unsafe {
            let (head, tail) = (from.cast::<[u8; N]>().read(), from.add(last).cast::<[u8; N]>().read());
            to.cast::<[u8; N]>().write(head);
            to.add(last).cast::<[u8; N]>().write(tail);
        }
    }
    // SAFETY: each arm's lengths are those that its `N` allows.
    unsafe {
        match part.len() {
            0 => {}
            1 => to.write(part[0]),
            2..4 => both_ends::<2>(part, to),
            4..8 => both_ends::<4>(part, to),
            8..16 => both_ends::<8>(part, to),
            16..=32 => both_ends::<16>(part, to),
            33..=64 => both_ends::<32>(part, to),
            length => to.copy_from_nonoverlapping(part.as_ptr(), length),
        }
    }
}

/// A slab of core `core`: the owner stays on that core's thread, readers go to all of them.
///
/// # Panics
/// When a class's block length is no multiple of 64 or classes do not grow.
pub fn slab(core: u16, config: &SlabConfig) -> (SlabOwner, SlabReader) {
    static NEXT_NUMBER: AtomicU64 = AtomicU64::new(0);
    // Relaxed: only uniqueness matters. 64 bits do not wrap, and the 33rd is refused for ever.
    let number = u32::try_from(NEXT_NUMBER.fetch_add(1, Ordering::Relaxed));
    let number = number.expect("fewer than 2^32 slabs in one process");
    assert!(
        config.classes.iter().all(|class| class.block_bytes.is_multiple_of(64)),
        "blocks are whole lines"
    );
    assert!(config.classes.is_sorted_by_key(|class| class.block_bytes), "size classes grow");
    let lines = |class: SizeClass| untouched_lines(class.blocks as usize * (class.block_bytes as usize / 64));
    let shared = Arc::new(Slab {
        home: HomeTag::new(number, core),
        headers: uninit_cells(config.slots as usize),
        classes: config.classes.map(lines),
        slots_written: AtomicUsize::new(0),
    });
    let owner = SlabOwner {
        shared: Arc::clone(&shared),
        slots: FreeStack::new(config.slots),
        blocks: config.classes.map(|class| FreeStack::new(class.blocks)),
        block_bytes: config.classes.map(|class| class.block_bytes as usize),
        in_use: 0,
        bytes_in_use: 0,
        bytes_max: config.bytes_max,
    };
    (owner, SlabReader { shared })
}

/// Indices that are free: those given back, last first, then those never used.
#[derive(Debug)]
struct FreeStack {
    returned: Vec<u32>,
    never_used: u32,
    count: u32,
}

impl FreeStack {
    fn new(count: u32) -> Self {
        // The capacity is reserved, not touched; `returned` never holds more than `count`.
        Self { returned: Vec::with_capacity(count as usize), never_used: 0, count }
    }

    #[inline]
    fn pop(&mut self) -> Option<u32> {
        if let Some(index) = self.returned.pop() {
            return Some(index);
        }
        let fresh = self.never_used;
        (fresh < self.count).then(|| {
            self.never_used += 1;
            fresh
        })
    }

    #[inline]
    fn push(&mut self, index: u32) {
        self.returned.push(index);
    }
}

/// Where a record's bytes go. Whole words, for the same reason as in a [`Handle`].
struct Place {
    bytes: NonNull<u8>,
    class: usize,
    block: usize,
    /// What it costs of the budget.
    cost: usize,
}

/// The side that writes and frees: one per slab, on its core's thread.
pub struct SlabOwner {
    shared: Arc<Slab>,
    slots: FreeStack,
    blocks: [FreeStack; 3],
    block_bytes: [usize; 3],
    in_use: usize,
    bytes_in_use: usize,
    bytes_max: usize,
}

impl SlabOwner {
    /// Copies the record into a free slot.
    ///
    /// # Errors
    /// [`InsertError`]; nothing has changed then.
    #[inline]
    pub fn insert(&mut self, record: &Record<'_>) -> Result<Handle, InsertError> {
        let parts = [record.id, record.source, record.metadata, record.payload];
        let total = parts.iter().map(|part| part.len()).sum::<usize>();
        if self.in_use == self.headers().len() {
            return Err(InsertError::Full);
        }
        let place = self.place(total).ok_or(InsertError::OverBudget)?;
        let Some(slot) = self.slots.pop() else { unreachable!("in_use is below the number of slots") };

        let mut to = place.bytes.as_ptr();
        for part in parts {
            // SAFETY: `place` has room for `total` bytes and belongs to nobody but us.
            unsafe {
                copy_part(part, to);
                to = to.add(part.len());
            }
        }
        let written = self.shared.slots_written.load(Ordering::Relaxed);
        let fresh = slot as usize >= written;
        if fresh {
            // Relaxed: only `Drop for Slab` reads it, after the `Arc`'s own synchronisation.
            self.shared.slots_written.store(slot as usize + 1, Ordering::Relaxed);
        }
        let generation = self.headers()[slot as usize].with_mut(|header| {
            // SAFETY: the slot is free, so no handle to it exists and only the owner touches it; it was
            // written before unless it is fresh.
            unsafe {
                let generation = if fresh { NonZeroU32::MIN } else { (*header).assume_init_ref().generation };
                (*header).write(Header {
                    bytes: place.bytes,
                    timestamp_seconds: record.timestamp_seconds,
                    key_hash: record.key_hash,
                    reply_token: record.reply_token,
                    // `place` refused what has no 32-bit length.
                    id_bytes: record.id.len() as u32,
                    source_bytes: record.source.len() as u32,
                    metadata_bytes: record.metadata.len() as u32,
                    payload_bytes: record.payload.len() as u32,
                    block: place.block as u32,
                    generation,
                    class: place.class as u8,
                    kind: record.kind,
                    level: record.level,
                    level_named: record.level_named,
                    once: record.once,
                });
                generation
            }
        });
        self.in_use += 1;
        self.bytes_in_use += place.cost;
        Ok(Handle::new(slot, generation, self.shared.home))
    }

    /// Takes a message back: its slot and its bytes are free from now on.
    ///
    /// # Panics
    /// When the handle is another slab's.
    #[inline]
    pub fn free(&mut self, handle: Handle) {
        self.release(handle);
    }

    /// Frees the message and says what its home has to know of it.
    #[inline]
    pub(crate) fn release(&mut self, handle: Handle) -> Released {
        self.shared.check_slab(&handle);
        let (class, block, cost, released) = self.headers()[handle.slot()].with_mut(|header| {
            // SAFETY: the handle proves that the slot is written and, being consumed, that nobody
            // reads it any more.
            let header = unsafe { (*header).assume_init_mut() };
            header.check_generation(&handle);
            // Skips 0, so that a handle has a niche. A wrap is harmless: see "why it is sound".
            header.generation = header.generation.checked_add(1).unwrap_or(NonZeroU32::MIN);
            let class = header.class;
            let cost = match class {
                HEAP => header.total_bytes(),
                NO_BYTES => 0,
                _ => self.block_bytes[class as usize],
            };
            // SAFETY: the buffer was this message's; the class written below forgets it.
            unsafe { free_heap_buffer(header) };
            header.class = FREE;
            let Header { reply_token, once, kind, .. } = *header;
            (class, header.block, cost, Released { reply_token, once, kind })
        });
        if class < HEAP {
            self.blocks[class as usize].push(block);
        }
        self.slots.push(handle.slot() as u32);
        self.in_use -= 1;
        self.bytes_in_use -= cost;
        released
    }

    /// Messages in the slab.
    #[inline]
    pub fn in_use(&self) -> usize {
        self.in_use
    }

    /// Messages that fit into the slab.
    pub fn capacity(&self) -> usize {
        self.headers().len()
    }

    /// Bytes of blocks and heap buffers in use, at most `bytes_max`.
    pub fn bytes_in_use(&self) -> usize {
        self.bytes_in_use
    }

    #[inline(always)]
    fn headers(&self) -> &UninitCells<Header> {
        &self.shared.headers
    }

    /// The smallest free block that fits, else a heap buffer; `None` when the budget forbids it.
    #[inline]
    fn place(&mut self, total: usize) -> Option<Place> {
        let budget = self.bytes_max - self.bytes_in_use;
        if total == 0 {
            return Some(Place { bytes: NonNull::dangling(), class: NO_BYTES.into(), block: 0, cost: 0 });
        }
        for class in 0..self.blocks.len() {
            let block_bytes = self.block_bytes[class];
            if total > block_bytes || block_bytes > budget {
                continue;
            }
            if let Some(block) = self.blocks[class].pop() {
                let lines = &self.shared.classes[class];
                // SAFETY: blocks `0..count` of this class lie within `lines`.
                let bytes = unsafe { NonNull::from(&**lines).cast::<u8>().add(block as usize * block_bytes) };
                return Some(Place { bytes, class, block: block as usize, cost: block_bytes });
            }
        }
        self.place_on_heap(total, budget)
    }

    #[cold]
    fn place_on_heap(&self, total: usize, budget: usize) -> Option<Place> {
        if total > budget || u32::try_from(total).is_err() {
            return None;
        }
        let buffer: *mut [MaybeUninit<u8>] = Box::into_raw(Box::new_uninit_slice(total));
        Some(Place { bytes: NonNull::new(buffer.cast())?, class: HEAP.into(), block: 0, cost: total })
    }
}

impl std::fmt::Debug for SlabOwner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { in_use, bytes_in_use, bytes_max, .. } = self;
        f.debug_struct("SlabOwner")
            .field("core", &self.shared.home.core())
            .field("in_use", in_use)
            .field("bytes_in_use", bytes_in_use)
            .field("bytes_max", bytes_max)
            .finish_non_exhaustive()
    }
}

/// The side that reads: any number per slab, on any thread.
#[derive(Clone)]
pub struct SlabReader {
    shared: Arc<Slab>,
}

impl SlabReader {
    /// The message that the handle stands for.
    ///
    /// # Panics
    /// When the handle is another slab's.
    #[inline]
    pub fn read<'a>(&'a self, handle: &'a Handle) -> RecordView<'a> {
        let header = self.shared.header(handle);
        // SAFETY: `insert` wrote `total_bytes` there (or the pointer dangles and the length is 0), and
        // they stay as they are while the handle lives, which `'a` borrows.
        let bytes = unsafe { std::slice::from_raw_parts(header.bytes.as_ptr(), header.total_bytes()) };
        RecordView { header, bytes }
    }
}

impl std::fmt::Debug for SlabReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SlabReader").field("core", &self.shared.home.core()).finish_non_exhaustive()
    }
}

impl Slab {
    #[inline(always)]
    fn check_slab(&self, handle: &Handle) {
        assert!(handle.home == self.home, "a handle of another slab (core {})", handle.core());
    }

    #[inline(always)]
    fn header<'a>(&'a self, handle: &'a Handle) -> &'a Header {
        self.check_slab(handle);
        // SAFETY: the handle proves that the slot is written and is not written again while it lives,
        // which `'a` borrows.
        let header = self.headers[handle.slot()].with(|header| unsafe { (*header).assume_init_ref() });
        header.check_generation(handle);
        header
    }
}

impl Header {
    #[inline(always)]
    fn check_generation(&self, handle: &Handle) {
        assert!(
            self.generation.get() == handle.generation(),
            "a stale handle: slot {} was freed",
            handle.slot()
        );
    }
}

/// A message in its slot, readable as long as its handle is borrowed.
#[derive(Clone, Copy)]
pub struct RecordView<'a> {
    header: &'a Header,
    bytes: &'a [u8],
}

impl<'a> RecordView<'a> {
    /// The message's id.
    #[inline]
    pub fn id(&self) -> &'a [u8] {
        &self.bytes[..self.header.id_bytes as usize]
    }

    /// Who sent it.
    #[inline]
    pub fn source(&self) -> &'a [u8] {
        let from = self.header.id_bytes as usize;
        &self.bytes[from..][..self.header.source_bytes as usize]
    }

    /// Its metadata as pairs, in the order they came.
    #[inline]
    pub fn metadata(&self) -> MetadataPairs<'a> {
        MetadataPairs::new(self.metadata_bytes())
    }

    /// Its metadata as it was encoded.
    #[inline]
    pub fn metadata_bytes(&self) -> &'a [u8] {
        let from = self.header.id_bytes as usize + self.header.source_bytes as usize;
        &self.bytes[from..][..self.header.metadata_bytes as usize]
    }

    /// What it says.
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        &self.bytes[self.bytes.len() - self.header.payload_bytes as usize..]
    }

    /// When it was made, in seconds of the Unix epoch.
    #[inline]
    pub fn timestamp_seconds(&self) -> i64 {
        self.header.timestamp_seconds
    }

    /// Hash of what it is partitioned by; 0 when by nothing.
    #[inline]
    pub fn key_hash(&self) -> u64 {
        self.header.key_hash
    }

    /// What kind of message it is.
    #[inline]
    pub fn kind(&self) -> u8 {
        self.header.kind
    }

    /// How safe it must be before its sender is told.
    #[inline]
    pub fn level(&self) -> AckLevel {
        self.header.level
    }

    /// Whether a repeat of its id is the same message again.
    #[inline]
    pub fn once(&self) -> bool {
        self.header.once
    }

    /// The record, borrowed from its slot.
    #[inline]
    pub fn record(&self) -> Record<'a> {
        Record {
            id: self.id(),
            source: self.source(),
            payload: self.payload(),
            metadata: self.metadata_bytes(),
            timestamp_seconds: self.header.timestamp_seconds,
            key_hash: self.header.key_hash,
            kind: self.header.kind,
            level: self.header.level,
            level_named: self.header.level_named,
            once: self.header.once,
            reply_token: self.header.reply_token,
        }
    }

    /// Whether somebody waits for its completion.
    #[inline]
    pub fn is_awaited(&self) -> bool {
        self.header.reply_token != 0
    }
}

impl std::fmt::Debug for RecordView<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RecordView")
            .field("id", &self.id().escape_ascii().to_string())
            .field("payload_bytes", &self.header.payload_bytes)
            .field("timestamp_seconds", &self.header.timestamp_seconds)
            .finish_non_exhaustive()
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
