//! A part as it was at one moment, and its bytes: what makes the numbers outlive the process.
//!
//! ```text
//! snapshot   magic 8 │ version u32 │ frame … │ frame End
//! frame      length u32 │ CRC32C u32 │ a `Frame` in postcard's form          numbers little endian
//! ```
//!
//! Taking one shares pages, buckets and chunks and copies none of them; writing is for a thread that has the time, and gives
//! back each piece as soon as it is written. `cargo run --release -p engine-analytics --example cost` says how long both take and
//! how large it is.
//!
//! What is read is input: a length is believed only as far as bytes follow, checksums tell damage, and what they cannot
//! tell is checked for what queries rely on.

use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use crate::{
    buckets::{Bucket, Width},
    chunk::Chunk,
    part::{Bounds, Part},
    users::Page,
};

const MAGIC: &[u8; 8] = b"TIDEPART";
/// To be raised with every change of what a frame means: postcard's form does not say what it holds.
const VERSION: u32 = 2;

/// Why bytes are no snapshot.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Damage {
    /// They cannot be read, or end too early.
    #[error("cannot be read: {0}")]
    Io(#[from] io::Error),
    /// They begin differently.
    #[error("is no snapshot")]
    Foreign,
    /// Another version of Tidegate wrote it.
    #[error("is of version {0}, and this program reads version {VERSION}")]
    Version(u32),
    /// A frame's bytes are not those that were written.
    #[error("is damaged: frame {0} does not match its checksum")]
    Checksum(u64),
    /// A frame means nothing, or nothing that can be.
    #[error("is damaged: frame {frame} holds {what}")]
    Malformed {
        /// Which, from 0.
        frame: u64,
        /// What is wrong.
        what: String,
    },
}

/// A part at one moment.
#[derive(Debug)]
pub struct Snapshot {
    pub(crate) keys: (u64, u64),
    /// Of events, sources and metrics, by number.
    pub(crate) names: [Vec<Arc<str>>; 3],
    pub(crate) pages: Vec<Page>,
    /// Minutes, hours, days.
    pub(crate) buckets: [Width; 3],
    /// Oldest first; the last one is not full.
    pub(crate) chunks: Vec<Arc<Chunk>>,
}

#[derive(Serialize, Deserialize)]
enum Frame {
    Head { keys: (u64, u64), names: [Vec<Arc<str>>; 3] },
    Page(Page),
    Bucket { width: u8, number: i64, bucket: Arc<Bucket> },
    Chunk(Arc<Chunk>),
    End,
}

impl Snapshot {
    /// Writes it; returns how many bytes that took. What was written is let go of piece by piece.
    ///
    /// # Errors
    /// What `out` reports.
    pub fn write(self, out: &mut impl Write) -> io::Result<u64> {
        out.write_all(MAGIC)?;
        out.write_all(&VERSION.to_le_bytes())?;
        let head = Frame::Head { keys: self.keys, names: self.names };
        let pages = self.pages.into_iter().map(Frame::Page);
        let widths = self.buckets.into_iter().zip(0..);
        let buckets = widths.flat_map(|(width, at)| {
            width.into_iter().map(move |(number, bucket)| Frame::Bucket { width: at, number, bucket })
        });
        let chunks = self.chunks.into_iter().map(Frame::Chunk);
        let mut written = (MAGIC.len() + size_of_val(&VERSION)) as u64;
        for frame in [head].into_iter().chain(pages).chain(buckets).chain(chunks).chain([Frame::End]) {
            let bytes = postcard::to_allocvec(&frame).map_err(io::Error::other)?;
            drop(frame);
            let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
            out.write_all(&length.to_le_bytes())?;
            out.write_all(&crc32c::crc32c(&bytes).to_le_bytes())?;
            out.write_all(&bytes)?;
            written += 8 + u64::from(length);
        }
        Ok(written)
    }

    /// Reads one into a part with these bounds, which need not be those it was written with.
    ///
    /// # Errors
    /// [`Damage`].
    pub fn read(input: &mut impl Read, bounds: Bounds) -> Result<Part, Damage> {
        let (mut magic, mut version) = ([0; 8], [0; 4]);
        input.read_exact(&mut magic)?;
        if &magic != MAGIC {
            return Err(Damage::Foreign);
        }
        input.read_exact(&mut version)?;
        match u32::from_le_bytes(version) {
            VERSION => {}
            other => return Err(Damage::Version(other)),
        }
        let (mut head, mut pages, mut chunks) = (None, Vec::new(), Vec::new());
        let mut buckets: [Width; 3] = [BTreeMap::new(), BTreeMap::new(), BTreeMap::new()];
        let mut bytes = Vec::new();
        for number in 0.. {
            let malformed = |what: &str| Damage::Malformed { frame: number, what: what.to_owned() };
            read_frame(input, number, &mut bytes)?;
            match postcard::from_bytes(&bytes).map_err(|error| malformed(&error.to_string()))? {
                Frame::Head { keys, names } if number == 0 => head = Some((keys, names)),
                Frame::Head { .. } => return Err(malformed("a second beginning")),
                Frame::Page(page) => pages.push(page),
                Frame::Bucket { width, number, bucket } => {
                    let width = buckets.get_mut(usize::from(width)).ok_or_else(|| malformed("no width"))?;
                    width.insert(number, bucket);
                }
                Frame::Chunk(chunk) => chunks.push(chunk),
                Frame::End => {
                    let (keys, names) = head.ok_or_else(|| malformed("an end without a beginning"))?;
                    let snapshot = Self { keys, names, pages, buckets, chunks };
                    return Part::restored(bounds, snapshot).map_err(malformed);
                }
            }
        }
        Err(Damage::Foreign)
    }
}

fn read_frame(input: &mut impl Read, number: u64, bytes: &mut Vec<u8>) -> Result<(), Damage> {
    let (mut length, mut crc) = ([0; 4], [0; 4]);
    input.read_exact(&mut length)?;
    input.read_exact(&mut crc)?;
    let length = u64::from(u32::from_le_bytes(length));
    bytes.clear();
    // Grows with what comes, whatever the length says.
    let came = input.by_ref().take(length).read_to_end(bytes)?;
    if (came as u64) < length {
        return Err(Damage::Io(io::ErrorKind::UnexpectedEof.into()));
    }
    if crc32c::crc32c(bytes) != u32::from_le_bytes(crc) {
        return Err(Damage::Checksum(number));
    }
    Ok(())
}
