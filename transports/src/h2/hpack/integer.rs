//! Integers with a prefix (RFC 7541 §5.1).

use super::CompressionError;

/// Reads an integer whose first `prefix_bits` (1 to 8) share the byte at `at`; moves `at` behind it.
///
/// Values stop at `u32::MAX`, and an encoding at six bytes: nothing in HTTP/2 is longer than that.
pub fn read(prefix_bits: u32, bytes: &[u8], at: &mut usize) -> Result<u32, CompressionError> {
    let Some(&first) = bytes.get(*at) else { return Err(CompressionError("integer cut off")) };
    *at += 1;
    let mask = (1u32 << prefix_bits) - 1;
    let prefix = u32::from(first) & mask;
    if prefix < mask {
        return Ok(prefix);
    }
    let mut value = u64::from(mask);
    let mut shift = 0;
    loop {
        let Some(&byte) = bytes.get(*at) else { return Err(CompressionError("integer cut off")) };
        *at += 1;
        value += u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return u32::try_from(value).map_err(|_| CompressionError("integer overflow"));
        }
        shift += 7;
        if shift > 28 {
            return Err(CompressionError("integer overflow"));
        }
    }
}

/// Writes `value` behind the bits of `first`, which sit above the prefix.
pub fn write(prefix_bits: u32, first: u8, value: usize, out: &mut Vec<u8>) {
    let mask = (1usize << prefix_bits) - 1;
    if value < mask {
        out.push(first | value as u8);
        return;
    }
    out.push(first | mask as u8);
    let mut rest = value - mask;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_all(prefix_bits: u32, bytes: &[u8]) -> Result<u32, CompressionError> {
        let mut at = 0;
        let value = read(prefix_bits, bytes, &mut at)?;
        assert_eq!(at, bytes.len());
        Ok(value)
    }

    #[test]
    fn rfc_7541_c1_examples() {
        assert_eq!(read_all(5, &[0b0000_1010]), Ok(10));
        assert_eq!(read_all(5, &[0b0001_1111, 0b1001_1010, 0b0000_1010]), Ok(1337));
        assert_eq!(read_all(8, &[0b0010_1010]), Ok(42));
    }

    #[test]
    fn every_width_survives_the_round_trip() {
        for prefix_bits in 1..=8 {
            for value in [0, 1, 30, 31, 126, 127, 128, 254, 255, 256, 16_383, 16_384, 1 << 20, 1 << 27] {
                let mut out = Vec::new();
                write(prefix_bits, 0, value, &mut out);
                assert_eq!(read_all(prefix_bits, &out), Ok(value as u32), "{prefix_bits} {value}");
            }
        }
    }

    #[test]
    fn overflow_is_an_error() {
        assert!(read_all(7, &[0x7f, 0xff, 0xff, 0xff, 0xff, 0x7f]).is_err());
        assert!(read_all(7, &[0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]).is_err());
        assert!(read_all(7, &[0xff, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x00]).is_err());
    }

    #[test]
    fn cut_off_is_an_error() {
        assert!(read_all(7, &[]).is_err());
        assert!(read_all(7, &[0x7f]).is_err());
        assert!(read_all(7, &[0x7f, 0x80]).is_err());
    }
}
