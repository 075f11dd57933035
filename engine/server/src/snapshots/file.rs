//! Snapshot files: their names, how one is written so that a crash leaves it whole or absent, how one is read.
//!
//! ```text
//! data.directory/snapshots/core-000-of-002.00000000000000000007.snapshot
//! file      magic 8 │ version u32 │ length u32 │ CRC32C u32 │ header (postcard) │ the part (engine-analytics)
//! ```

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, BufReader, BufWriter, Read, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use engine_analytics::{Bounds, Part, Snapshot};
use serde::{Deserialize, Serialize};

const MAGIC: &[u8; 8] = b"TIDESNAP";
const VERSION: u32 = 1;
/// Far above what the shards of any machine take.
const HEADER_BYTES_MAX: u32 = 1 << 20;
/// Generations of a core's snapshots that are kept: when the newest is damaged, there is the one before.
const GENERATIONS: usize = 2;
/// Bytes after which what was written is synced: a long write at once would make the log's commits wait for it.
const SYNC_EVERY: usize = 8 << 20;

/// How far into the shards of a log a snapshot reaches: what is below and belongs to its core is in it.
pub type Positions = BTreeMap<usize, u64>;

/// What a snapshot stands for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Whose it is.
    pub core: usize,
    /// Of how many.
    pub cores: usize,
    /// When it was taken, in milliseconds of the Unix epoch.
    pub taken_ms: u64,
    /// Events in it.
    pub events: u64,
    /// Of the log, where workers read it.
    pub log: Positions,
    /// Of the journal of what came from brokers.
    pub journal: Positions,
}

/// The folder of the snapshots.
#[derive(Clone, Debug)]
pub struct Folder(PathBuf);

impl Folder {
    /// Opens or makes it in a data directory, and clears away what an interrupted write left.
    pub fn open(data: &Path) -> Result<Self> {
        let path = data.join("snapshots");
        let open = || -> io::Result<()> {
            fs::create_dir_all(&path)?;
            for entry in fs::read_dir(&path)? {
                let path = entry?.path();
                if path.extension().is_some_and(|extension| extension == "tmp") {
                    fs::remove_file(path)?;
                }
            }
            File::open(data)?.sync_all()
        };
        open().with_context(|| {
            format!(
                "data.directory: cannot use {}; analytics.snapshot_interval=0 does without",
                path.display()
            )
        })?;
        Ok(Self(path))
    }

    fn files(&self) -> io::Result<Vec<(usize, usize, u64, PathBuf)>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.0)? {
            let path = entry?.path();
            found.extend(
                path.file_name()
                    .and_then(|name| name.to_str())
                    .and_then(parse)
                    .map(|(core, cores, generation)| (core, cores, generation, path.clone())),
            );
        }
        Ok(found)
    }

    /// A core's snapshots of a process with so many cores, newest first.
    pub fn generations(&self, core: usize, cores: usize) -> io::Result<Vec<(u64, PathBuf)>> {
        let files = self.files()?.into_iter();
        let own = files.filter(|(of, all, ..)| (*of, *all) == (core, cores));
        let mut found: Vec<(u64, PathBuf)> = own.map(|(_, _, generation, path)| (generation, path)).collect();
        found.sort_unstable_by_key(|(generation, _)| std::cmp::Reverse(*generation));
        Ok(found)
    }

    /// The number of cores whose snapshots count: of those of which there is one of every core, the ones taken last. What an
    /// interrupted change of the number has left is not whole. `None`: there are none that are.
    pub fn whole_set(&self) -> io::Result<Option<usize>> {
        let mut taken: BTreeMap<usize, BTreeMap<usize, u64>> = BTreeMap::new();
        for (core, cores, _, path) in self.files()? {
            let header = File::open(&path).ok().and_then(|mut file| read_header(&mut file).ok());
            if let Some(header) = header.filter(|_| core < cores) {
                let last = taken.entry(cores).or_default().entry(core).or_default();
                *last = header.taken_ms.max(*last);
            }
        }
        let whole = taken.into_iter().filter(|(cores, of)| of.len() == *cores);
        let last = whole.filter_map(|(cores, of)| Some((of.into_values().max()?, cores))).max();
        Ok(last.map(|(_, cores)| cores))
    }

    /// Deletes the snapshots of every other number of cores.
    pub fn keep_only(&self, cores: usize) -> io::Result<()> {
        let mut removed = false;
        for (_, _, _, path) in self.files()?.into_iter().filter(|(_, all, ..)| *all != cores) {
            fs::remove_file(path)?;
            removed = true;
        }
        if removed { File::open(&self.0)?.sync_all() } else { Ok(()) }
    }

    /// Writes a snapshot; when it is durable the oldest ones go. Returns its bytes.
    pub fn write(&self, header: &Header, generation: u64, snapshot: Snapshot) -> io::Result<u64> {
        let name = format!("core-{:03}-of-{:03}.{generation:020}", header.core, header.cores);
        let (temporary, path) = (self.0.join(format!("{name}.tmp")), self.0.join(format!("{name}.snapshot")));
        let written = self.write_to(&temporary, &path, header, snapshot);
        if written.is_err() {
            // It would be cleared away at the next start, too.
            let _ = fs::remove_file(&temporary);
        }
        let bytes = written?;
        for (_, path) in self.generations(header.core, header.cores)?.into_iter().skip(GENERATIONS) {
            fs::remove_file(path)?;
        }
        Ok(bytes)
    }

    fn write_to(
        &self,
        temporary: &Path,
        path: &Path,
        header: &Header,
        snapshot: Snapshot,
    ) -> io::Result<u64> {
        let file = Synced { file: File::create(temporary)?, unsynced: 0 };
        let mut out = BufWriter::with_capacity(256 << 10, file);
        let encoded = postcard::to_allocvec(header).map_err(io::Error::other)?;
        out.write_all(MAGIC)?;
        out.write_all(&VERSION.to_le_bytes())?;
        out.write_all(&(encoded.len() as u32).to_le_bytes())?;
        out.write_all(&crc32c::crc32c(&encoded).to_le_bytes())?;
        out.write_all(&encoded)?;
        let bytes = snapshot.write(&mut out)?;
        let file = out.into_inner().map_err(io::IntoInnerError::into_error)?.file;
        file.sync_all()?;
        fs::rename(temporary, path)?;
        File::open(&self.0)?.sync_all()?;
        Ok(bytes + 20 + encoded.len() as u64)
    }
}

/// Core, cores and generation of a file's name.
fn parse(name: &str) -> Option<(usize, usize, u64)> {
    let (whose, generation) = name.strip_suffix(".snapshot")?.strip_prefix("core-")?.split_once('.')?;
    let (core, cores) = whose.split_once("-of-")?;
    Some((core.parse().ok()?, cores.parse().ok()?, generation.parse().ok()?))
}

/// A file that is synced as it grows.
struct Synced {
    file: File,
    unsynced: usize,
}

impl Write for Synced {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.unsynced += written;
        if self.unsynced >= SYNC_EVERY {
            self.unsynced = 0;
            self.file.sync_data()?;
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Reads what a file says of itself.
pub fn read_header(input: &mut impl Read) -> Result<Header> {
    let mut start = [0; 20];
    input.read_exact(&mut start)?;
    let number = |at: usize| start[at..].first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes));
    if &start[..8] != MAGIC {
        bail!("is no snapshot");
    }
    if number(8) != VERSION {
        bail!("is of version {}, and this program reads version {VERSION}", number(8));
    }
    let length = number(12);
    if length > HEADER_BYTES_MAX {
        bail!("is damaged: its header is longer than any");
    }
    let mut header = vec![0; length as usize];
    input.read_exact(&mut header)?;
    if crc32c::crc32c(&header) != number(16) {
        bail!("is damaged: its header does not match its checksum");
    }
    Ok(postcard::from_bytes(&header)?)
}

/// Reads a whole file.
pub fn read(path: &Path, bounds: Bounds) -> Result<(Header, Part)> {
    let mut input = BufReader::with_capacity(256 << 10, File::open(path)?);
    let header = read_header(&mut input)?;
    Ok((header, Snapshot::read(&mut input, bounds)?))
}

#[cfg(test)]
mod tests {
    use engine_analytics::Event;

    use super::*;

    #[test]
    fn the_last_two_generations_are_kept_and_a_damaged_one_is_refused() {
        let data = std::env::temp_dir().join(format!("tidegate-snapshots-{}", std::process::id()));
        fs::create_dir_all(&data).unwrap();
        let folder = Folder::open(&data).unwrap();
        let mut part = Part::new(Bounds::default());
        let log = Positions::from([(1, 5)]);
        for generation in 1..=3 {
            part.add(&Event { user: "u", ..Event::default() });
            let events = part.events();
            let header = Header { core: 1, cores: 2, events, log: log.clone(), ..Header::default() };
            let bytes = folder.write(&header, generation, part.snapshot()).unwrap();
            let (newest, path) = folder.generations(1, 2).unwrap().remove(0);
            assert_eq!((newest, bytes), (generation, path.metadata().unwrap().len()));
            let (read, part) = read(&path, Bounds::default()).unwrap();
            assert_eq!((read, part.events()), (header, generation));
        }
        let generations = folder.generations(1, 2).unwrap();
        assert_eq!(generations.iter().map(|(generation, _)| *generation).collect::<Vec<_>>(), [3, 2]);
        assert_eq!(folder.whole_set().unwrap(), None, "one of two cores is not all of them");
        let header = Header { core: 0, cores: 2, taken_ms: 1, ..Header::default() };
        folder.write(&header, 1, part.snapshot()).unwrap();
        let newer = Header { core: 0, cores: 1, taken_ms: 2, ..Header::default() };
        folder.write(&newer, 1, part.snapshot()).unwrap();
        assert_eq!(folder.whole_set().unwrap(), Some(1));
        folder.keep_only(2).unwrap();
        assert_eq!(folder.whole_set().unwrap(), Some(2));
        let bytes = fs::read(&generations[0].1).unwrap();
        for place in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[place] ^= 0x10;
            fs::write(&generations[0].1, damaged).unwrap();
            assert!(read(&generations[0].1, Bounds::default()).is_err(), "byte {place}");
        }
        fs::remove_dir_all(data).unwrap();
    }
}
