//! How much one connection may take.

/// A budget that refills: `burst` at once, `per_second` in the long run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// What may be spent at once.
    pub burst: u32,
    /// What comes back every second.
    pub per_second: u32,
}

/// The limits of a connection. One copy is shared by all connections of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Streams open at once; also counts streams that were reset while their work goes on. Beyond:
    /// REFUSED_STREAM.
    pub max_concurrent_streams: u32,
    /// Size of a header list: name + value + 32 for each field. Beyond: 431, or for trailers a stream error.
    pub header_list_bytes_max: u32,
    /// Fields in a header list. Beyond: as above.
    pub header_fields_max: u32,
    /// The HPACK decoder's dynamic table.
    pub header_table_bytes: u32,
    /// CONTINUATION frames behind one HEADERS. Beyond: the connection ends.
    pub continuation_frames_max: u32,
    /// Entries in one SETTINGS frame. Beyond: the connection ends.
    pub settings_entries_max: u32,
    /// The largest frame payload we take (16,384 to 1 MiB); the caller's input buffer must hold this and 9.
    pub frame_bytes_max: u32,
    /// The receive window of a stream.
    pub stream_window_bytes: u32,
    /// The receive window of the connection.
    pub connection_window_bytes: u32,
    /// Bytes the application may hold uncredited ([`Credit::Later`](super::Credit::Later)) before the
    /// connection's window is withheld. So a connection's request bodies take at most this and
    /// `connection_window_bytes`.
    pub held_bytes_max: usize,
    /// Streams that end by RST_STREAM, however caused. Beyond: ENHANCE_YOUR_CALM, as for all that follow.
    pub resets: Budget,
    /// Frames that carry no work: PING, SETTINGS, PRIORITY, WINDOW_UPDATE, empty DATA, frames on streams
    /// that are gone. Each DATA or HEADERS frame we send earns three of them, since an honest client
    /// answers those with two WINDOW_UPDATEs and, when it measures bandwidth, a PING.
    pub glitches: Budget,
    /// PING and SETTINGS acknowledgements and RST_STREAMs waiting in an output that nobody reads.
    pub control_replies_max: u32,
    /// DATA frames in a row that are empty and do not end their stream.
    pub empty_data_frames_max: u32,
    /// Overhead of DATA frames in bytes: a frame costs 32 and its padding, and earns four times what it
    /// carries, so frames of eight bytes are free.
    pub data_overhead: Budget,
    /// Response bytes waiting for windows, per stream.
    pub send_queue_bytes_max: usize,
    /// Bytes in the output beyond which response bodies wait in their queues.
    pub output_bytes_max: usize,
}

impl Limits {
    /// RFC 9113 §6.5.2: no setting of ours may go below or above what the protocol allows.
    pub(super) fn frame_bytes(&self) -> u32 {
        self.frame_bytes_max.clamp(16_384, 1 << 20)
    }

    pub(super) fn stream_window(&self) -> u32 {
        self.stream_window_bytes.min(i32::MAX as u32)
    }

    /// The connection's window begins at 65,535 and can only grow.
    pub(super) fn connection_window(&self) -> u32 {
        self.connection_window_bytes.clamp(65_535, i32::MAX as u32)
    }

    /// Encoded bytes of one header block. An honest encoding is smaller than its list; four times the list
    /// leaves room to answer 431 and stay in step.
    pub(super) fn header_block_bytes_max(&self) -> usize {
        (self.header_list_bytes_max as usize).saturating_mul(4).max(65_536)
    }
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            max_concurrent_streams: 128,
            header_list_bytes_max: 16_384,
            header_fields_max: 100,
            header_table_bytes: 4_096,
            continuation_frames_max: 8,
            settings_entries_max: 32,
            frame_bytes_max: 16_384,
            stream_window_bytes: 256 << 10,
            connection_window_bytes: 1 << 20,
            held_bytes_max: 1 << 20,
            resets: Budget { burst: 1_000, per_second: 33 },
            glitches: Budget { burst: 10_000, per_second: 330 },
            control_replies_max: 1_000,
            empty_data_frames_max: 100,
            data_overhead: Budget { burst: 1 << 20, per_second: 64 << 10 },
            send_queue_bytes_max: 64 << 10,
            output_bytes_max: 256 << 10,
        }
    }
}
