//! The Huffman code for header strings (RFC 7541 §5.2 and appendix B).
//!
//! The code is canonical: symbols of one length have consecutive codes in symbol order. So the table of
//! lengths is all there is to write down; codes and decoding tables follow from it at compile time.

use super::CompressionError;

const SYMBOLS: usize = 257;
const EOS: usize = 256;
const LENGTH_MAX: usize = 30;
/// Codes of up to this many bits are found with one look; they cover digits, letters and what URLs use.
const SHORT_BITS: usize = 8;

/// Bits of each symbol's code, appendix B; the last is EOS.
#[rustfmt::skip]
const LENGTHS: [u8; SYMBOLS] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28,
    28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6,
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5,
    6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23,
    21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25,
    19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
    30,
];

struct Code {
    /// Each symbol's code, right-aligned.
    codes: [u32; SYMBOLS],
    /// Symbols ordered by code.
    ordered: [u16; SYMBOLS],
    /// By length: the first code, and its place in `ordered`.
    first_code: [u32; LENGTH_MAX + 1],
    first_place: [u16; LENGTH_MAX + 1],
    /// By length: the first left-aligned 32-bit value that is beyond the codes of this length.
    limit: [u64; LENGTH_MAX + 1],
    /// By the next eight bits: symbol and length, or length 0 where the code is longer.
    short: [(u8, u8); 1 << SHORT_BITS],
}

const fn build() -> Code {
    let mut built = Code {
        codes: [0; SYMBOLS],
        ordered: [0; SYMBOLS],
        first_code: [0; LENGTH_MAX + 1],
        first_place: [0; LENGTH_MAX + 1],
        limit: [0; LENGTH_MAX + 1],
        short: [(0, 0); 1 << SHORT_BITS],
    };
    let mut next = 0u32;
    let mut place = 0;
    let mut length = 1;
    while length <= LENGTH_MAX {
        next <<= 1;
        built.first_code[length] = next;
        built.first_place[length] = place as u16;
        let mut symbol = 0;
        while symbol < SYMBOLS {
            if LENGTHS[symbol] as usize == length {
                built.codes[symbol] = next;
                built.ordered[place] = symbol as u16;
                if length <= SHORT_BITS {
                    let spare = SHORT_BITS - length;
                    let mut tail = 0;
                    while tail < 1 << spare {
                        built.short[((next as usize) << spare) + tail] = (symbol as u8, length as u8);
                        tail += 1;
                    }
                }
                next += 1;
                place += 1;
            }
            symbol += 1;
        }
        built.limit[length] = (next as u64) << (32 - length);
        length += 1;
    }
    built
}

static CODE: Code = build();

/// Appends the decoded string to `out`.
///
/// RFC 7541 §5.2: EOS inside, padding longer than 7 bits and padding that is not the start of EOS (ones)
/// are errors.
pub fn decode(source: &[u8], out: &mut Vec<u8>) -> Result<(), CompressionError> {
    // The shortest code has five bits.
    out.reserve(source.len() * 8 / 5 + 1);
    let mut bytes = source.iter();
    // Unread bits, left-aligned, zeros behind them.
    let mut bits = 0u64;
    let mut have = 0u32;
    loop {
        while have <= 56 {
            let Some(&byte) = bytes.next() else { break };
            bits |= u64::from(byte) << (56 - have);
            have += 8;
        }
        if have == 0 {
            return Ok(());
        }
        let (symbol, length) = CODE.short[(bits >> 56) as usize];
        let length = u32::from(length);
        if length != 0 && length <= have {
            out.push(symbol);
            bits <<= length;
            have -= length;
            continue;
        }
        if have < 8 {
            let ones = u64::MAX << (64 - have);
            return if bits == ones { Ok(()) } else { Err(CompressionError("bad Huffman padding")) };
        }
        let length = long_length(bits >> 32);
        if length as u32 > have {
            return Err(CompressionError("Huffman padding too long"));
        }
        let offset = ((bits >> 32) as u32 >> (32 - length)) - CODE.first_code[length];
        let symbol = CODE.ordered[usize::from(CODE.first_place[length]) + offset as usize];
        if usize::from(symbol) == EOS {
            return Err(CompressionError("EOS in a Huffman string"));
        }
        out.push(symbol as u8);
        bits <<= length;
        have -= length as u32;
    }
}

/// The length of the code that these 32 bits begin with, known to be longer than `SHORT_BITS`. The code is
/// complete (EOS is all ones), so a length is always found.
fn long_length(top: u64) -> usize {
    let mut length = SHORT_BITS + 1;
    while length < LENGTH_MAX && top >= CODE.limit[length] {
        length += 1;
    }
    length
}

/// How many bytes `source` takes when encoded.
pub fn encoded_len(source: &[u8]) -> usize {
    let bits: usize = source.iter().map(|&byte| usize::from(LENGTHS[usize::from(byte)])).sum();
    bits.div_ceil(8)
}

/// Appends `source` encoded, padded with ones.
pub fn encode(source: &[u8], out: &mut Vec<u8>) {
    let mut bits = 0u64;
    let mut have = 0u32;
    for &byte in source {
        let length = u32::from(LENGTHS[usize::from(byte)]);
        bits = (bits << length) | u64::from(CODE.codes[usize::from(byte)]);
        have += length;
        while have >= 8 {
            have -= 8;
            out.push((bits >> have) as u8);
        }
    }
    if have > 0 {
        out.push(((bits << (8 - have)) as u8) | (0xff >> have));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(source: &[u8]) -> Result<Vec<u8>, CompressionError> {
        let mut out = Vec::new();
        decode(source, &mut out).map(|()| out)
    }

    fn encoded(source: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        encode(source, &mut out);
        assert_eq!(out.len(), encoded_len(source));
        out
    }

    #[test]
    fn codes_of_appendix_b() {
        for (symbol, code, length) in [
            (usize::from(b'0'), 0x0, 5),
            (usize::from(b'a'), 0x3, 5),
            (usize::from(b'%'), 0x15, 6),
            (usize::from(b'Z'), 0xfd, 8),
            (usize::from(b'!'), 0x3f8, 10),
            (usize::from(b'\\'), 0x7fff0, 19),
            (0, 0x1ff8, 13),
            (10, 0x3fff_fffc, 30),
            (249, 0xfff_fffe, 28),
            (255, 0x3ff_ffee, 26),
            (EOS, 0x3fff_ffff, 30),
        ] {
            assert_eq!((CODE.codes[symbol], LENGTHS[symbol]), (code, length), "{symbol}");
        }
    }

    #[test]
    fn every_byte_survives_the_round_trip() {
        for byte in 0..=255u8 {
            for count in 1..9 {
                let source = vec![byte; count];
                assert_eq!(decoded(&encoded(&source)), Ok(source), "{byte} × {count}");
            }
        }
        let all: Vec<u8> = (0..=255).chain((0..=255).rev()).collect();
        assert_eq!(decoded(&encoded(&all)), Ok(all));
    }

    #[test]
    fn rfc_7541_c4_example() {
        let bytes = [0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff];
        assert_eq!(decoded(&bytes), Ok(b"www.example.com".to_vec()));
        assert_eq!(encoded(b"www.example.com"), bytes);
    }

    #[test]
    fn padding_must_be_ones_and_short() {
        assert!(decoded(&[0b0001_1111]).is_ok(), "'a' and three ones");
        assert!(decoded(&[0b0001_1110]).is_err(), "a zero in the padding");
        assert!(decoded(&[0b0001_1111, 0xff]).is_err(), "eleven bits of padding");
        assert!(decoded(&[0xff]).is_err(), "eight bits of padding");
    }

    #[test]
    fn eos_is_refused() {
        assert!(decoded(&[0xff, 0xff, 0xff, 0xff]).is_err());
        assert!(decoded(&[0x1f, 0xff, 0xff, 0xff, 0xff, 0xff]).is_err());
    }
}
