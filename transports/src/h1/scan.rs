//! Looking at bytes quickly: classes by table, control bytes eight at a time.

use crate::token::is_tchar;

const TOKEN: u8 = 1;
const TARGET: u8 = 2;
const HOST: u8 = 4;

/// One look-up answers three questions; a byte's bits say which sets it is in.
const CLASS: [u8; 256] = {
    let mut class = [0u8; 256];
    let mut byte = 0usize;
    while byte < 256 {
        let b = byte as u8;
        if is_tchar(b) {
            class[byte] |= TOKEN;
        }
        // Visible ASCII without `#`: a fragment never travels (RFC 9112 §3.2). Bytes such as `{` that RFC 3986
        // forbids do no harm here and clients send them.
        if b.is_ascii_graphic() && b != b'#' {
            class[byte] |= TARGET;
        }
        // RFC 3986 §3.2.2: reg-name; no comma, because a list of hosts is an attack and not a name.
        if b.is_ascii_alphanumeric()
            || matches!(
                b,
                b'-' | b'.'
                    | b'_'
                    | b'~'
                    | b'!'
                    | b'$'
                    | b'&'
                    | b'\''
                    | b'('
                    | b')'
                    | b'*'
                    | b'+'
                    | b';'
                    | b'='
            )
        {
            class[byte] |= HOST;
        }
        byte += 1;
    }
    class
};

/// A byte of a method or a field name.
pub(super) fn is_token_byte(byte: u8) -> bool {
    CLASS[byte as usize] & TOKEN != 0
}

/// The first byte at or after `from` that is no token byte, or the length of the input.
#[inline]
pub(super) fn token_end(bytes: &[u8], from: usize) -> usize {
    run_end(bytes, from, TOKEN)
}

/// The first byte at or after `from` that cannot be part of a request target, or the length of the input.
#[inline]
pub(super) fn target_end(bytes: &[u8], from: usize) -> usize {
    run_end(bytes, from, TARGET)
}

#[inline]
fn run_end(bytes: &[u8], from: usize, class: u8) -> usize {
    let mut at = from;
    while let Some(&byte) = bytes.get(at) {
        if CLASS[byte as usize] & class == 0 {
            return at;
        }
        at += 1;
    }
    at
}

const ONES: u64 = u64::MAX / 255;
const HIGHS: u64 = ONES * 0x80;

/// The first byte at or after `from` that may not stand in a field value (a control byte other than the
/// tab, or DEL), or the length of the input. It finds the line's end and its errors in one sweep.
#[inline]
pub(super) fn value_end(bytes: &[u8], from: usize) -> usize {
    let mut at = from;
    loop {
        at = control_at(bytes, at);
        match bytes.get(at) {
            Some(b'\t') => at += 1,
            _ => return at,
        }
    }
}

#[inline]
fn control_at(bytes: &[u8], from: usize) -> usize {
    let mut at = from;
    while let Some(eight) = bytes.get(at..).and_then(<[u8]>::first_chunk::<8>) {
        let word = u64::from_le_bytes(*eight);
        // The borrow of a subtraction can only spoil bytes above the first hit, so the lowest hit is exact.
        let below_space = word.wrapping_sub(ONES * 0x20) & !word;
        let not_del = word ^ (ONES * 0x7f);
        let del = not_del.wrapping_sub(ONES) & !not_del;
        let hits = (below_space | del) & HIGHS;
        if hits != 0 {
            return at + (hits.trailing_zeros() / 8) as usize;
        }
        at += 8;
    }
    while let Some(&byte) = bytes.get(at) {
        if byte < 0x20 || byte == 0x7f {
            return at;
        }
        at += 1;
    }
    at
}

/// `uri-host [ ":" port ]` (RFC 9110 §7.2): a name, an IPv4 address or a bracketed IPv6 address. An empty
/// host is refused: no http URI has one (RFC 9110 §4.2.1).
pub(super) fn is_host(value: &[u8]) -> bool {
    let port = if let Some(rest) = value.strip_prefix(b"[") {
        let Some(close) = memchr::memchr(b']', rest) else { return false };
        let address = &rest[..close];
        let is_address = !address.is_empty()
            && address.len() <= 45
            && address.iter().all(|b| b.is_ascii_hexdigit() || matches!(b, b':' | b'.'));
        if !is_address || !address.contains(&b':') {
            return false;
        }
        match &rest[close + 1..] {
            [] => return true,
            [b':', port @ ..] => port,
            _ => return false,
        }
    } else {
        let (name, port) = match value.iter().position(|&b| b == b':') {
            Some(colon) => (&value[..colon], &value[colon + 1..]),
            None => (value, &[][..]),
        };
        if name.is_empty() || name.len() > 255 || !is_reg_name(name) {
            return false;
        }
        port
    };
    port.len() <= 5
        && port
            .iter()
            .try_fold(0u32, |sum, b| b.is_ascii_digit().then(|| sum * 10 + u32::from(b - b'0')))
            .is_some_and(|port| port <= 65_535)
}

fn is_reg_name(name: &[u8]) -> bool {
    let mut rest = name;
    while let [first, tail @ ..] = rest {
        rest = match (first, tail) {
            (b'%', [high, low, tail @ ..]) if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => tail,
            (byte, tail) if CLASS[*byte as usize] & HOST != 0 => tail,
            _ => return false,
        };
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn value_end_agrees_with_a_byte_loop() {
        for length in 0..40 {
            for bad_at in 0..=length {
                for bad in 0..=255u8 {
                    let mut bytes = vec![b'a'; length];
                    if bad_at < length {
                        bytes[bad_at] = bad;
                    }
                    let slow =
                        bytes.iter().position(|&b| (b < 0x20 && b != b'\t') || b == 0x7f).unwrap_or(length);
                    assert_eq!(value_end(&bytes, 0), slow, "{bytes:?}");
                }
            }
        }
    }

    #[test]
    fn hosts_are_names_or_addresses_with_a_port() {
        for good in ["a", "localhost:8080", "a.b_c-d", "127.0.0.1:1", "[::1]", "[::1]:80", "x:", "a%20b"] {
            assert!(is_host(good.as_bytes()), "{good}");
        }
        for bad in [
            "", ":80", "a b", "a,b", "u@h", "h/p", "a:b", "a:65536", "a:123456", "[", "[]", "[::1", "[::1]x",
            "[1234]", "a%2", "a%zz", "é", "a:-1", "a?b", "a\\b",
        ] {
            assert!(!is_host(bad.as_bytes()), "{bad}");
        }
    }
}
