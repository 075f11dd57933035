//! What every HTTP/2 connection of this client does, whatever runs on its streams.

use anyhow::{Result, bail};

use super::{
    block::{AnswerBlocks, AnswerFields},
    frame::{self, HEADER_BYTES, Header, PAYLOAD_BYTES_MAX, flag, kind, write_window_update},
};

/// The window of a connection before anyone has said anything (RFC 9113 §6.9.2).
const WINDOW_DEFAULT: i64 = 65_535;
/// What this client lets a server send on the connection before it must give the window back.
const RECEIVE_WINDOW: u32 = 16 << 20;
/// A header block longer than this is not the answer of a server that is being measured.
const BLOCK_BYTES_MAX: usize = 64 * 1024;

/// What a frame means to the streams.
#[derive(Debug)]
pub enum Event<'a> {
    /// Headers or trailers of an answer.
    Headers {
        /// Which stream.
        stream: u32,
        /// Its status fields.
        fields: AnswerFields,
        /// Whether the answer is complete.
        is_end: bool,
    },
    /// A part of an answer's body.
    Data {
        /// Which stream.
        stream: u32,
        /// The part, without padding.
        payload: &'a [u8],
        /// Whether the answer is complete.
        is_end: bool,
    },
    /// The server ended a stream.
    Reset {
        /// Which stream.
        stream: u32,
        /// Why (RFC 9113 §7).
        code: u32,
    },
    /// The server takes more on a stream.
    Window {
        /// Which stream.
        stream: u32,
        /// Bytes more.
        increment: u32,
    },
    /// All streams' windows change by this.
    InitialWindow {
        /// Bytes more or, below zero, fewer.
        delta: i64,
    },
    /// The server will not serve streams beyond this one; streams up to it are still answered.
    GoAway {
        /// The last that it may have looked at.
        last_stream: u32,
    },
}

/// The connection's own state.
#[derive(Debug)]
pub struct Link {
    blocks: AnswerBlocks,
    /// Bytes of DATA that may be sent on the connection.
    pub send_window: i64,
    /// The window that a new stream starts with.
    pub stream_window: i64,
    /// Streams the server allows at once.
    pub streams_max: usize,
    /// Room in the server's header table.
    pub table_bytes: usize,
    has_settings: bool,
    /// The server has sent GOAWAY: no new stream may be opened.
    pub is_leaving: bool,
    received_unreturned: u32,
    /// A header block that CONTINUATION frames will complete: stream, whether it ends the stream, its bytes so far.
    partial: Option<(u32, bool, Vec<u8>)>,
}

impl Default for Link {
    fn default() -> Self {
        Self {
            blocks: AnswerBlocks::default(),
            send_window: WINDOW_DEFAULT,
            stream_window: WINDOW_DEFAULT,
            streams_max: usize::MAX,
            table_bytes: 4096,
            has_settings: false,
            is_leaving: false,
            received_unreturned: 0,
            partial: None,
        }
    }
}

impl Link {
    /// Writes the preface, our settings and a large window.
    pub fn open(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        // ENABLE_PUSH 0; INITIAL_WINDOW_SIZE as large as the connection's.
        let mut settings = vec![0, 2, 0, 0, 0, 0, 0, 4];
        settings.extend_from_slice(&RECEIVE_WINDOW.to_be_bytes());
        frame::write(out, kind::SETTINGS, 0, 0, &settings);
        write_window_update(out, 0, RECEIVE_WINDOW);
    }

    /// Whether streams may be opened.
    pub fn is_ready(&self) -> bool {
        self.has_settings && !self.is_leaving
    }

    /// Cuts `bytes` into frames, does the connection's own part, and hands on what concerns streams. Returns how many
    /// bytes were whole frames.
    ///
    /// # Errors
    /// When the server breaks the protocol, or `handle` says so.
    pub fn receive(
        &mut self,
        bytes: &[u8],
        out: &mut Vec<u8>,
        mut handle: impl FnMut(Event<'_>) -> Result<()>,
    ) -> Result<usize> {
        let mut used = 0;
        while let Some(header) = Header::parse(&bytes[used..]) {
            if header.len > PAYLOAD_BYTES_MAX {
                bail!("a frame of {} bytes; is this HTTP/2?", header.len);
            }
            let end = used + HEADER_BYTES + header.len;
            let Some(payload) = bytes.get(used + HEADER_BYTES..end) else { break };
            self.frame(header, payload, out, &mut handle)?;
            used = end;
        }
        if self.received_unreturned > RECEIVE_WINDOW / 2 {
            write_window_update(out, 0, self.received_unreturned);
            self.received_unreturned = 0;
        }
        Ok(used)
    }

    fn frame(
        &mut self,
        header: Header,
        payload: &[u8],
        out: &mut Vec<u8>,
        handle: &mut impl FnMut(Event<'_>) -> Result<()>,
    ) -> Result<()> {
        let stream = header.stream;
        let is_end = header.flags & flag::END_STREAM != 0;
        if !self.has_settings && header.kind != kind::SETTINGS {
            bail!("the server's first frame is no SETTINGS");
        }
        match header.kind {
            kind::DATA => {
                self.received_unreturned += header.len as u32;
                handle(Event::Data { stream, payload: unpadded(header.flags, payload)?, is_end })?;
            }
            kind::HEADERS => {
                let mut block = unpadded(header.flags, payload)?;
                if header.flags & flag::PRIORITY != 0 {
                    block = block.get(5..).unwrap_or_default();
                }
                if header.flags & flag::END_HEADERS == 0 {
                    self.partial = Some((stream, is_end, block.to_vec()));
                } else {
                    handle(Event::Headers { stream, fields: self.blocks.read(block)?, is_end })?;
                }
            }
            kind::CONTINUATION => {
                let Some((stream, is_end, mut block)) = self.partial.take() else {
                    bail!("CONTINUATION of nothing")
                };
                block.extend_from_slice(payload);
                if block.len() > BLOCK_BYTES_MAX {
                    bail!("a header block longer than {BLOCK_BYTES_MAX} bytes");
                }
                if header.flags & flag::END_HEADERS == 0 {
                    self.partial = Some((stream, is_end, block));
                } else {
                    handle(Event::Headers { stream, fields: self.blocks.read(&block)?, is_end })?;
                }
            }
            kind::RST_STREAM => handle(Event::Reset { stream, code: number(payload)? })?,
            kind::SETTINGS if header.flags & flag::ACK == 0 => {
                if let Some(delta) = self.settings(payload) {
                    handle(Event::InitialWindow { delta })?;
                }
                frame::write(out, kind::SETTINGS, flag::ACK, 0, &[]);
            }
            kind::PING if header.flags & flag::ACK == 0 => {
                frame::write(out, kind::PING, flag::ACK, 0, payload)
            }
            kind::GOAWAY => {
                self.is_leaving = true;
                let last_stream = number(payload)? & 0x7fff_ffff;
                let code = number(payload.get(4..).unwrap_or_default())?;
                handle(Event::GoAway { last_stream })?;
                if code != 0 {
                    let debug = String::from_utf8_lossy(payload.get(8..).unwrap_or_default());
                    bail!("the server ended the connection with GOAWAY, code {code}: {debug}");
                }
            }
            kind::WINDOW_UPDATE if stream == 0 => {
                self.send_window += i64::from(number(payload)? & 0x7fff_ffff)
            }
            kind::WINDOW_UPDATE => {
                handle(Event::Window { stream, increment: number(payload)? & 0x7fff_ffff })?
            }
            kind::PUSH_PROMISE => bail!("a push, which this client has forbidden"),
            // Acknowledgements, PRIORITY, and what a later standard may add (§4.1).
            _ => {}
        }
        Ok(())
    }

    /// Takes the server's settings; returns by how much the streams' windows change.
    fn settings(&mut self, payload: &[u8]) -> Option<i64> {
        let is_first = !std::mem::replace(&mut self.has_settings, true);
        let before = self.stream_window;
        for entry in payload.as_chunks::<6>().0 {
            let [i0, i1, v0, v1, v2, v3] = *entry;
            let value = u32::from_be_bytes([v0, v1, v2, v3]);
            match u16::from_be_bytes([i0, i1]) {
                1 => self.table_bytes = value as usize,
                3 => self.streams_max = value as usize,
                4 => self.stream_window = i64::from(value),
                _ => {}
            }
        }
        let delta = self.stream_window - before;
        (!is_first && delta != 0).then_some(delta)
    }
}

fn number(payload: &[u8]) -> Result<u32> {
    match payload.first_chunk() {
        Some(bytes) => Ok(u32::from_be_bytes(*bytes)),
        None => bail!("a frame that is too short"),
    }
}

fn unpadded(flags: u8, payload: &[u8]) -> Result<&[u8]> {
    if flags & flag::PADDED == 0 {
        return Ok(payload);
    }
    let inner =
        payload.split_first().and_then(|(pad, rest)| rest.get(..rest.len().checked_sub(usize::from(*pad))?));
    let Some(inner) = inner else { bail!("a frame with more padding than payload") };
    Ok(inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(list: &[(u8, u8, u32, &[u8])]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (kind, flags, stream, payload) in list {
            frame::write(&mut bytes, *kind, *flags, *stream, payload);
        }
        bytes
    }

    #[test]
    fn settings_are_acknowledged_and_pings_answered() {
        let mut link = Link::default();
        let mut out = Vec::new();
        let bytes = frames(&[(kind::SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 9]), (kind::PING, 0, 0, b"12345678")]);
        assert_eq!(link.receive(&bytes, &mut out, |_| Ok(())).unwrap(), bytes.len());
        assert!(link.is_ready());
        assert_eq!(link.streams_max, 9);
        assert_eq!(
            out,
            frames(&[(kind::SETTINGS, flag::ACK, 0, &[]), (kind::PING, flag::ACK, 0, b"12345678")])
        );
    }

    #[test]
    fn frame_in_two_parts_waits_for_the_second() {
        let mut link = Link::default();
        let bytes = frames(&[(kind::SETTINGS, 0, 0, &[]), (kind::DATA, flag::PADDED, 1, &[2, b'x', 0, 0])]);
        assert_eq!(link.receive(&bytes[..bytes.len() - 1], &mut Vec::new(), |_| Ok(())).unwrap(), 9);
        let mut seen = Vec::new();
        let handle = |event: Event<'_>| {
            if let Event::Data { payload, .. } = event {
                seen.extend_from_slice(payload);
            }
            Ok(())
        };
        link.receive(&bytes[9..], &mut Vec::new(), handle).unwrap();
        assert_eq!(seen, b"x");
    }

    #[test]
    fn header_block_in_continuations_is_read_whole() {
        let mut link = Link::default();
        let bytes = frames(&[
            (kind::SETTINGS, 0, 0, &[]),
            (kind::HEADERS, flag::END_STREAM, 3, &[0x08, 3, b'5']),
            (kind::CONTINUATION, flag::END_HEADERS, 3, b"03"),
        ]);
        let mut seen = None;
        let handle = |event: Event<'_>| {
            if let Event::Headers { stream, fields, is_end } = event {
                seen = Some((stream, fields.status, is_end));
            }
            Ok(())
        };
        link.receive(&bytes, &mut Vec::new(), handle).unwrap();
        assert_eq!(seen, Some((3, Some(503), true)));
    }

    #[test]
    fn goaway_stops_new_streams_and_names_its_reason() {
        let mut link = Link::default();
        let bytes =
            frames(&[(kind::SETTINGS, 0, 0, &[]), (kind::GOAWAY, 0, 0, &[0x7f, 255, 255, 255, 0, 0, 0, 0])]);
        link.receive(&bytes, &mut Vec::new(), |_| Ok(())).unwrap();
        assert!(!link.is_ready());
        let calm = frames(&[(kind::GOAWAY, 0, 0, b"\0\0\0\0\0\0\0\x0bcalm")]);
        let fault = link.receive(&calm, &mut Vec::new(), |_| Ok(())).unwrap_err().to_string();
        assert!(fault.contains("code 11: calm"), "{fault}");
    }
}
