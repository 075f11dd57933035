//! How far a consumer has come: a file with two slots, written in turn, so that a torn write leaves the other one.
//!
//! ```text
//! slot (4096 bytes, two of them)   sequence u64 │ count u32 │ count × (shard u32, position u64) │ CRC32C u32 │ zeros
//! ```

use std::{collections::BTreeMap, io, path::Path, sync::Arc};

use parking_lot::Mutex;

use crate::disk::{self, Disk, DiskFile, Open};

const SLOT_BYTES: usize = 4096;
/// Shards that fit a slot.
const SHARDS_MAX: usize = (SLOT_BYTES - 16) / 12;

/// The positions of one consumer in all shards. Clones share them.
#[derive(Clone, Debug)]
pub struct Cursor {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    name: String,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    file: Arc<dyn DiskFile>,
    sequence: u64,
    /// Next offsets to consume, in memory.
    positions: BTreeMap<usize, u64>,
    /// As they are on disk.
    durable: BTreeMap<usize, u64>,
}

impl Cursor {
    /// Opens or creates the cursor of a consumer; a new one starts where `start` says.
    pub(super) fn open(
        disk: &dyn Disk,
        folder: &Path,
        name: &str,
        start: impl FnOnce() -> BTreeMap<usize, u64>,
    ) -> io::Result<Self> {
        let path = folder.join(name);
        let file = disk.open(&path, Open::Create)?;
        let mut state = State { file, sequence: 0, positions: BTreeMap::new(), durable: BTreeMap::new() };
        match read(&*state.file)? {
            Some((sequence, positions)) => {
                // It may be in the page cache only: after a failed sync reading it back says nothing of the disk.
                state.sequence = sequence;
                state.positions = positions;
                state.flush()?;
            }
            None => {
                // Created and never written, lost, or torn both.
                state.positions = start();
                // Both slots have their room from here on: a position must be writable on a full disk, or nothing could
                // be deleted there.
                state.file.write_all_at(&[0; 2 * SLOT_BYTES], 0)?;
                state.flush()?;
                disk.sync_folder(folder)?;
            }
        }
        Ok(Self { shared: Arc::new(Shared { name: name.to_owned(), state: Mutex::new(state) }) })
    }

    /// The consumer's name.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// The next offset to consume of a shard.
    pub fn position(&self, shard: usize) -> u64 {
        self.shared.state.lock().positions.get(&shard).copied().unwrap_or(0)
    }

    /// Everything of the shard below `upto` was consumed. Durable with the next [`Log::maintain`](super::Log::maintain).
    pub fn advance(&self, shard: usize, upto: u64) {
        let mut state = self.shared.state.lock();
        let position = state.positions.entry(shard).or_insert(0);
        *position = upto.max(*position);
    }

    /// The position that survives a crash.
    pub(super) fn durable_position(&self, shard: usize) -> u64 {
        self.shared.state.lock().durable.get(&shard).copied().unwrap_or(0)
    }

    /// Makes the positions durable now.
    pub(crate) fn flush(&self) -> io::Result<()> {
        let mut state = self.shared.state.lock();
        if state.positions == state.durable { Ok(()) } else { state.flush() }
    }
}

impl State {
    fn flush(&mut self) -> io::Result<()> {
        let sequence = self.sequence + 1;
        let slot = encode(sequence, &self.positions)?;
        self.file.write_all_at(&slot, (sequence % 2) * SLOT_BYTES as u64)?;
        self.file.sync_data()?;
        self.sequence = sequence;
        self.durable.clone_from(&self.positions);
        Ok(())
    }
}

/// The names of the cursors in a folder, with their positions.
pub(super) fn all(disk: &dyn Disk, folder: &Path) -> io::Result<Vec<(String, BTreeMap<usize, u64>)>> {
    let mut found = Vec::new();
    let names = match disk.list(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
        other => other?,
    };
    for name in names {
        let file = disk.open(&folder.join(&name), Open::Read)?;
        found.push((name, read(&*file)?.map(|(_, positions)| positions).unwrap_or_default()));
    }
    found.sort();
    Ok(found)
}

fn encode(sequence: u64, positions: &BTreeMap<usize, u64>) -> io::Result<Vec<u8>> {
    if positions.len() > SHARDS_MAX {
        return Err(io::Error::other(format!("a cursor holds {SHARDS_MAX} shards at most")));
    }
    let mut slot = Vec::with_capacity(SLOT_BYTES);
    slot.extend_from_slice(&sequence.to_le_bytes());
    slot.extend_from_slice(&(positions.len() as u32).to_le_bytes());
    for (shard, position) in positions {
        slot.extend_from_slice(&(*shard as u32).to_le_bytes());
        slot.extend_from_slice(&position.to_le_bytes());
    }
    let crc = crc32c::crc32c(&slot);
    slot.extend_from_slice(&crc.to_le_bytes());
    slot.resize(SLOT_BYTES, 0);
    Ok(slot)
}

/// The newer of the two slots that are whole.
fn read(file: &dyn DiskFile) -> io::Result<Option<(u64, BTreeMap<usize, u64>)>> {
    let mut bytes = vec![0; 2 * SLOT_BYTES];
    disk::read_up_to(file, &mut bytes, 0)?;
    Ok(bytes.chunks(SLOT_BYTES).filter_map(decode).max_by_key(|(sequence, _)| *sequence))
}

fn decode(slot: &[u8]) -> Option<(u64, BTreeMap<usize, u64>)> {
    let sequence = u64::from_le_bytes(*slot.first_chunk()?);
    let count = u32::from_le_bytes(*slot[8..].first_chunk()?) as usize;
    let end = 12 + count.min(SHARDS_MAX) * 12;
    let crc = u32::from_le_bytes(*slot[end..].first_chunk()?);
    if sequence == 0 || count > SHARDS_MAX || crc != crc32c::crc32c(&slot[..end]) {
        return None;
    }
    let pairs = slot[12..end].chunks_exact(12).filter_map(|pair| {
        let shard = u32::from_le_bytes(*pair.first_chunk()?) as usize;
        Some((shard, u64::from_le_bytes(*pair[4..].first_chunk()?)))
    });
    Some((sequence, pairs.collect()))
}

#[cfg(test)]
mod tests {
    use std::fs::{self, OpenOptions};

    use super::*;
    use crate::disk::Machine;

    #[test]
    fn a_torn_write_leaves_the_position_before() {
        let folder = std::env::temp_dir().join(format!("tidegate-cursor-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let cursor = Cursor::open(&Machine, &folder, "workers", BTreeMap::new).unwrap();
        for upto in [10, 20] {
            cursor.advance(0, upto);
            cursor.flush().unwrap();
        }
        // The last write was the third: the second slot.
        let file = OpenOptions::new().write(true).open(folder.join("workers")).unwrap();
        DiskFile::write_all_at(&file, &[0xff; 7], SLOT_BYTES as u64 + 20).unwrap();
        let again = Cursor::open(&Machine, &folder, "workers", BTreeMap::new).unwrap();
        assert_eq!(again.position(0), 10);
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_position_never_goes_back() {
        let folder = std::env::temp_dir().join(format!("tidegate-cursor-back-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let cursor = Cursor::open(&Machine, &folder, "nats", || BTreeMap::from([(1, 5)])).unwrap();
        cursor.advance(1, 3);
        assert_eq!((cursor.position(1), cursor.position(0)), (5, 0));
        fs::remove_dir_all(folder).unwrap();
    }
}
