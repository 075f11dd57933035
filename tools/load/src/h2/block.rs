//! Header blocks: a request's, encoded once, and an answer's, read for its two status fields.
//!
//! The first request of a connection puts its fields into the server's dynamic table; every later one is one byte per
//! field. Answers are harder, because the server may use our table: but all that is asked is `:status` and
//! `grpc-status`, so the table here keeps for each entry only what it means to us, and a block that was seen since the
//! table last changed is not read again.

use std::collections::VecDeque;

use anyhow::{Result, bail};

/// Entries of the static table (RFC 7541 appendix A).
const STATIC_ENTRIES: usize = 61;

/// More entries than a table of 4096 bytes can hold at 32 bytes each. Entries that the server has evicted are never
/// named again, so keeping them longer than it does is harmless, and their sizes need not be known.
const TABLE_ENTRIES_MAX: usize = 128;

/// Answers' blocks that are remembered.
const MEMO_MAX: usize = 8;

/// A request's fields as the first block of a connection and as every later one.
#[derive(Clone, Debug)]
pub struct RequestBlock {
    /// Puts the fields into the table.
    pub first: Vec<u8>,
    /// Names them there.
    pub later: Vec<u8>,
    /// Room the fields need in the server's table.
    pub table_bytes: usize,
}

impl RequestBlock {
    /// Encodes a `POST` over cleartext with further fields.
    pub fn post(authority: &str, path: &str, fields: &[(&str, &str)]) -> Self {
        // Static table: 3 is `:method: POST`, 6 is `:scheme: http`.
        let mut block = Self { first: vec![0x83, 0x86], later: vec![0x83, 0x86], table_bytes: 0 };
        let mut all = vec![(":path", path), (":authority", authority)];
        all.extend_from_slice(fields);
        for (position, (name, value)) in all.iter().enumerate() {
            block.first.push(0x40 | static_name(name).unwrap_or(0));
            if static_name(name).is_none() {
                write_string(&mut block.first, name);
            }
            write_string(&mut block.first, value);
            block.table_bytes += name.len() + value.len() + 32;
            // The newest entry is the first of the dynamic table (§2.3.3).
            let index = STATIC_ENTRIES + all.len() - position;
            debug_assert!(index < 127, "a one-byte index");
            block.later.push(0x80 | index as u8);
        }
        block
    }
}

fn static_name(name: &str) -> Option<u8> {
    match name {
        ":authority" => Some(1),
        ":path" => Some(4),
        "content-length" => Some(28),
        "content-type" => Some(31),
        "user-agent" => Some(58),
        _ => None,
    }
}

/// A string literal without Huffman coding.
fn write_string(out: &mut Vec<u8>, text: &str) {
    write_integer(out, 0, 7, text.len());
    out.extend_from_slice(text.as_bytes());
}

/// An integer with a prefix of `bits` bits (§5.1).
pub(super) fn write_integer(out: &mut Vec<u8>, pattern: u8, bits: u8, value: usize) {
    let limit = (1_usize << bits) - 1;
    if value < limit {
        out.push(pattern | value as u8);
        return;
    }
    out.push(pattern | limit as u8);
    let mut rest = value - limit;
    while rest >= 128 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

/// What an answer's header block or trailers say.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct AnswerFields {
    /// `:status`.
    pub status: Option<u16>,
    /// `grpc-status`.
    pub grpc: Option<u8>,
}

/// What a field means to us.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Field {
    Status(u16),
    Grpc(u8),
    /// `grpc-status` with a value that is no number up to 16: only its name is of use.
    GrpcName,
    Other,
}

/// Reads the header blocks of a connection's answers, in their order.
#[derive(Debug, Default)]
pub struct AnswerBlocks {
    /// Newest first.
    table: VecDeque<Field>,
    memo: Vec<(Vec<u8>, AnswerFields)>,
}

impl AnswerBlocks {
    /// Reads one complete block.
    ///
    /// # Errors
    /// When it is cut short or names an entry that is not there.
    pub fn read(&mut self, block: &[u8]) -> Result<AnswerFields> {
        if let Some((_, fields)) = self.memo.iter().find(|(seen, _)| seen == block) {
            return Ok(*fields);
        }
        let mut fields = AnswerFields::default();
        let mut changes_the_table = false;
        let mut rest = block;
        while let Some(&first) = rest.first() {
            let field = if first & 0x80 != 0 {
                let index = read_integer(&mut rest, 7)?;
                self.indexed(index)?
            } else if first & 0x40 != 0 {
                changes_the_table = true;
                let field = self.literal(&mut rest, 6)?;
                self.table.push_front(field);
                self.table.truncate(TABLE_ENTRIES_MAX);
                field
            } else if first & 0x20 != 0 {
                // A new size of the table: entries only ever leave, see TABLE_ENTRIES_MAX.
                read_integer(&mut rest, 5)?;
                Field::Other
            } else {
                self.literal(&mut rest, 4)?
            };
            match field {
                Field::Status(status) => fields.status = Some(status),
                Field::Grpc(code) => fields.grpc = Some(code),
                Field::GrpcName => fields.grpc = Some(u8::MAX),
                Field::Other => {}
            }
        }
        if changes_the_table {
            self.memo.clear();
        } else {
            if self.memo.len() == MEMO_MAX {
                self.memo.clear();
            }
            self.memo.push((block.to_vec(), fields));
        }
        Ok(fields)
    }

    fn indexed(&self, index: usize) -> Result<Field> {
        match index {
            0 => bail!("HPACK index 0"),
            // 8 to 14 are `:status` 200, 204, 206, 304, 400, 404, 500.
            8..=14 => Ok(Field::Status([200, 204, 206, 304, 400, 404, 500][index - 8])),
            1..=STATIC_ENTRIES => Ok(Field::Other),
            _ => match self.table.get(index - STATIC_ENTRIES - 1) {
                Some(field) => Ok(*field),
                None => bail!("HPACK index {index} of a table with {} entries", self.table.len()),
            },
        }
    }

    fn literal(&self, rest: &mut &[u8], bits: u8) -> Result<Field> {
        let index = read_integer(rest, bits)?;
        let name = if index > 0 {
            self.indexed(index)?
        } else {
            let (is_huffman, name) = read_string(rest)?;
            match (is_huffman, name) {
                (false, b"grpc-status") => Field::GrpcName,
                (true, name) if name == GRPC_STATUS_HUFFMAN => Field::GrpcName,
                (false, b":status") => Field::Status(0),
                _ => Field::Other,
            }
        };
        let (is_huffman, value) = read_string(rest)?;
        Ok(match name {
            Field::Status(_) => Field::Status(number(is_huffman, value).unwrap_or(0)),
            Field::Grpc(_) | Field::GrpcName => {
                let code = number(is_huffman, value).and_then(|code| u8::try_from(code).ok());
                code.map_or(Field::GrpcName, Field::Grpc)
            }
            Field::Other => Field::Other,
        })
    }
}

/// `grpc-status` in the Huffman code of RFC 7541 appendix B.
const GRPC_STATUS_HUFFMAN: &[u8] = &[0x9a, 0xca, 0xc8, 0xb2, 0x12, 0x34, 0xda, 0x8f];

/// A number in plain digits or in Huffman-coded ones: `0`–`2` have five bits, `3`–`9` six, ones pad the end.
fn number(is_huffman: bool, value: &[u8]) -> Option<u16> {
    let mut sum = 0_u16;
    let mut push = |digit: u8| {
        sum = sum.checked_mul(10)?.checked_add(u16::from(digit))?;
        Some(())
    };
    if !is_huffman {
        for byte in value {
            push(byte.is_ascii_digit().then(|| byte - b'0')?)?;
        }
        return (!value.is_empty()).then_some(sum);
    }
    if value.is_empty() || value.len() > 7 {
        return None;
    }
    let bits = value.len() * 8;
    let word = value.iter().fold(0_u64, |word, byte| word << 8 | u64::from(*byte));
    let mut at = 0;
    while bits - at >= 5 {
        let five = (word >> (bits - at - 5) & 0x1f) as u8;
        if five < 3 {
            push(five)?;
            at += 5;
        } else if bits - at >= 6 {
            let six = (word >> (bits - at - 6) & 0x3f) as u8;
            if six == 0x3f {
                break;
            }
            push((0x19..=0x1f).contains(&six).then(|| six - 0x19 + 3)?)?;
            at += 6;
        } else {
            break;
        }
    }
    // What is left must be padding: fewer than eight ones.
    let left = bits - at;
    let padding = (1_u64 << left) - 1;
    (at > 0 && left < 8 && word & padding == padding).then_some(sum)
}

/// Reads an integer with a prefix of `bits` bits.
fn read_integer(rest: &mut &[u8], bits: u8) -> Result<usize> {
    let Some((&first, mut tail)) = rest.split_first() else { bail!("header block cut short") };
    let limit = (1_usize << bits) - 1;
    let mut value = usize::from(first) & limit;
    if value == limit {
        let mut shift = 0;
        loop {
            let Some((&byte, after)) = tail.split_first() else { bail!("header block cut short") };
            tail = after;
            value += usize::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
            if shift > 28 {
                bail!("an integer in a header block is too large");
            }
        }
    }
    *rest = tail;
    Ok(value)
}

/// Reads a string literal: whether it is Huffman-coded, and its bytes.
fn read_string<'a>(rest: &mut &'a [u8]) -> Result<(bool, &'a [u8])> {
    let is_huffman = rest.first().is_some_and(|first| first & 0x80 != 0);
    let len = read_integer(rest, 7)?;
    if rest.len() < len {
        bail!("header block cut short");
    }
    let (string, tail) = rest.split_at(len);
    *rest = tail;
    Ok((is_huffman, string))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_blocks_are_one_byte_per_field() {
        let block =
            RequestBlock::post("a:1", "/x", &[("content-type", "application/json"), ("te", "trailers")]);
        assert_eq!(block.later, [0x83, 0x86, 0x80 | 65, 0x80 | 64, 0x80 | 63, 0x80 | 62]);
        assert_eq!(&block.first[..6], [0x83, 0x86, 0x44, 2, b'/', b'x']);
    }

    #[test]
    fn indexed_and_literal_statuses_are_read() {
        let mut blocks = AnswerBlocks::default();
        assert_eq!(blocks.read(&[0x88]).unwrap().status, Some(200));
        assert_eq!(blocks.read(&[0x08, 3, b'5', b'0', b'3']).unwrap().status, Some(503));
        // RFC 7541 §C.6.1: "302" is 0x6402 in the Huffman code.
        assert_eq!(blocks.read(&[0x48, 0x82, 0x64, 0x02]).unwrap().status, Some(302));
        assert_eq!(blocks.read(&[0xbe]).unwrap().status, Some(302));
        // §C.6.2: "307" is 0x640eff.
        assert_eq!(blocks.read(&[0x48, 0x83, 0x64, 0x0e, 0xff]).unwrap().status, Some(307));
        assert_eq!(blocks.read(&[0xbf]).unwrap().status, Some(302));
    }

    #[test]
    fn grpc_status_is_read_from_either_coding_and_from_the_table() {
        let mut blocks = AnswerBlocks::default();
        let plain = [&[0x40, 11], b"grpc-status".as_slice(), &[1, b'8']].concat();
        assert_eq!(blocks.read(&plain).unwrap(), AnswerFields { status: None, grpc: Some(8) });
        assert_eq!(blocks.read(&[0xbe]).unwrap().grpc, Some(8));
        let huffman = [&[0x40, 0x88], GRPC_STATUS_HUFFMAN, &[0x81, 0x07]].concat();
        assert_eq!(blocks.read(&huffman).unwrap().grpc, Some(0));
        // The name from the table, another value.
        assert_eq!(blocks.read(&[0x0f, 0x2f, 2, b'1', b'3']).unwrap().grpc, Some(13));
    }

    #[test]
    fn memo_does_not_outlive_a_change_of_the_table() {
        let mut blocks = AnswerBlocks::default();
        blocks.read(&[0x48, 3, b'5', b'0', b'3']).unwrap();
        assert_eq!(blocks.read(&[0xbe]).unwrap().status, Some(503));
        blocks.read(&[0x48, 3, b'4', b'2', b'9']).unwrap();
        assert_eq!(blocks.read(&[0xbe]).unwrap().status, Some(429));
    }

    #[test]
    fn cut_block_and_missing_entry_are_faults() {
        let mut blocks = AnswerBlocks::default();
        assert!(blocks.read(&[0x48, 3, b'5']).is_err());
        assert!(blocks.read(&[0xbe]).is_err());
        assert!(blocks.read(&[0x80]).is_err());
    }

    #[test]
    fn huffman_digits_with_wrong_padding_are_no_number() {
        assert_eq!(number(true, &[0x07]), Some(0));
        assert_eq!(number(true, &[0x64, 0x0e, 0xff]), Some(307));
        assert_eq!(number(true, &[0x00]), None);
        assert_eq!(number(true, &[0xff]), None);
    }
}
