//! Protobuf's wire form, written: the few pieces that answers and transcoded events are made of.

/// A varint.
#[inline]
pub(super) fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// A number as a field; a default value is not written.
#[inline]
pub(super) fn number(out: &mut Vec<u8>, field: u32, value: u64) {
    if value != 0 {
        varint(out, u64::from(field << 3));
        varint(out, value);
    }
}

/// A text or bytes as a field; a default value is not written.
#[inline]
pub(super) fn text(out: &mut Vec<u8>, field: u32, text: &[u8]) {
    if !text.is_empty() {
        varint(out, u64::from(field << 3 | 2));
        varint(out, text.len() as u64);
        out.extend_from_slice(text);
    }
}

/// A `double` as a field, default or not.
#[inline]
pub(super) fn double(out: &mut Vec<u8>, field: u32, value: f64) {
    varint(out, u64::from(field << 3 | 1));
    out.extend_from_slice(&value.to_le_bytes());
}

/// A message as a field, written by `content`.
#[inline]
pub(super) fn message<T>(out: &mut Vec<u8>, field: u32, content: impl FnOnce(&mut Vec<u8>) -> T) -> T {
    varint(out, u64::from(field << 3 | 2));
    let start = begin(out);
    let result = content(out);
    end(out, start);
    result
}

/// Room for a length of one byte, which most are.
#[inline]
fn begin(out: &mut Vec<u8>) -> usize {
    out.push(0);
    out.len()
}

/// Writes the length of what stands behind `start`, and makes room when it takes more than a byte.
#[inline]
fn end(out: &mut Vec<u8>, start: usize) {
    let length = out.len() - start;
    if length < 0x80 {
        out[start - 1] = length as u8;
        return;
    }
    let mut bytes = Vec::with_capacity(5);
    varint(&mut bytes, length as u64);
    out.splice(start - 1..start, bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nested_message_has_its_length_before_it_however_long() {
        for length in [0, 1, 127, 128, 300, 70_000] {
            let mut out = Vec::new();
            message(&mut out, 3, |out| out.resize(out.len() + length, 7));
            let mut expected = vec![0x1a];
            varint(&mut expected, length as u64);
            expected.resize(expected.len() + length, 7);
            assert!(out == expected, "{length}");
        }
    }

    #[test]
    fn defaults_are_not_written() {
        let mut out = Vec::new();
        number(&mut out, 1, 0);
        text(&mut out, 2, b"");
        assert!(out.is_empty());
        number(&mut out, 1, 300);
        text(&mut out, 16, b"x");
        assert_eq!(out, [0x08, 0xac, 0x02, 0x82, 0x01, 0x01, b'x']);
    }
}
