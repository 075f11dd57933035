//! Reading records in order, from any offset that is still there, as far as they are durable.

use std::{path::PathBuf, sync::Arc};

use super::{
    Log, LogError,
    format::{self, Found, Kind, RECORD_HEADER_BYTES, SEGMENT_HEADER_BYTES},
};
use crate::disk::{self, DiskFile, Open as How};

/// Bytes that are read at once.
const CHUNK_BYTES: usize = 256 << 10;

/// Reads a shard from an offset on.
#[derive(Debug)]
pub struct Reader {
    log: Log,
    shard: usize,
    offset: u64,
    open: Option<Open>,
    /// Kept from read to read; as long as a chunk or the longest record.
    buffer: Vec<u8>,
}

/// The segment that is being read.
#[derive(Debug)]
struct Open {
    file: Arc<dyn DiskFile>,
    path: PathBuf,
    epoch: u64,
    first_offset: u64,
    position: u64,
}

impl Reader {
    pub(super) fn new(log: Log, shard: usize, offset: u64) -> Self {
        Self { log, shard, offset, open: None, buffer: Vec::new() }
    }

    /// The offset that is read next.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Gives records with offset, time of appending (milliseconds of the Unix epoch) and payload to `each`, until it
    /// says false (that record counts as not read), `bytes_max` are passed, or all that is durable was read. Returns
    /// how many were read.
    ///
    /// # Errors
    /// When records are damaged or were deleted, with file, position and offset.
    pub fn read(
        &mut self,
        bytes_max: usize,
        mut each: impl FnMut(u64, u64, &[u8]) -> bool,
    ) -> Result<usize, LogError> {
        let upto = self.log.durable_upto(self.shard);
        let (mut count, mut bytes) = (0, 0);
        // Never more than a segment holds.
        let chunk = CHUNK_BYTES.min(usize::try_from(self.log.config().segment_bytes).unwrap_or(CHUNK_BYTES));
        let mut wanted = chunk;
        while self.offset < upto && bytes < bytes_max {
            let asked = wanted;
            let filled = self.fill(asked)?;
            let Some(open) = &mut self.open else { break };
            wanted = chunk;
            let mut at = 0;
            let trouble = loop {
                if self.offset >= upto || bytes >= bytes_max {
                    break None;
                }
                match format::look(&self.buffer[at..filled], open.epoch) {
                    Found::Record(header, payload)
                        if header.kind != Kind::Message || header.offset < self.offset =>
                    {
                        self.offset = self.offset.max(format::next_offset(&header, payload));
                        at += header.stride();
                    }
                    Found::Record(header, payload) if header.offset == self.offset => {
                        if !each(header.offset, header.appended_ms, payload) {
                            open.position += at as u64;
                            return Ok(count);
                        }
                        at += header.stride();
                        bytes += header.stride();
                        count += 1;
                        self.offset += 1;
                    }
                    // The rest of it is behind the chunk.
                    Found::Partial(needed) => {
                        wanted = needed.max(chunk);
                        break (at == 0 && filled < asked).then_some("a record ends behind its segment");
                    }
                    Found::Nothing if filled - at < RECORD_HEADER_BYTES && at > 0 => break None,
                    Found::Nothing | Found::Record(..) => break Some("there is no valid record"),
                    Found::BadPayload(_) => break Some("a record's payload does not match its checksum"),
                }
            };
            open.position += at as u64;
            if let Some(what) = trouble {
                if !self.offset_is_elsewhere() {
                    return Err(self.damaged(what));
                }
                self.open = None;
            }
        }
        Ok(count)
    }

    /// Reads a chunk at the position of the offset; opens the segment it is in.
    fn fill(&mut self, length: usize) -> Result<usize, LogError> {
        if self.open.is_none() || self.offset_is_elsewhere() {
            let (path, epoch, first_offset) = self.log.segment_of(self.shard, self.offset)?;
            let file = self.log.disk().open(&path, How::Read).map_err(LogError::io("open", &path))?;
            self.open = Some(Open { file, path, epoch, first_offset, position: SEGMENT_HEADER_BYTES as u64 });
        }
        let Some(open) = &self.open else { return Ok(0) };
        if self.buffer.len() < length {
            self.buffer.resize(length, 0);
        }
        disk::read_up_to(&*open.file, &mut self.buffer[..length], open.position)
            .map_err(LogError::io("read", &open.path))
    }

    /// Whether the offset is in a later segment than the open one.
    fn offset_is_elsewhere(&self) -> bool {
        let Some(open) = &self.open else { return true };
        let found = self.log.segment_of(self.shard, self.offset);
        found.is_ok_and(|(_, _, first_offset)| first_offset != open.first_offset)
    }

    fn damaged(&self, what: &str) -> LogError {
        match &self.open {
            Some(open) => LogError::Damaged {
                path: open.path.clone(),
                position: open.position,
                what: format!("offset {}: {what}", self.offset),
            },
            None => LogError::Gone { shard: self.shard, offset: self.offset, first: 0 },
        }
    }
}
