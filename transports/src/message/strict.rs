//! A walk over JSON text that serde_json has found to be well-formed, for the rules that go beyond the
//! grammar: no key twice in an object, no lone surrogate, no deeper than [`JSON_DEPTH_MAX`], no number that readers take for
//! infinite or refuse (RFC 8259 §6).
//!
//! It relies on the grammar having been checked and is no parser of its own; on text that is not JSON its
//! verdict means nothing, though it still ends without harm.

use std::borrow::Cow;

use super::{JSON_DEPTH_MAX, MessageError};

/// A broken rule, with the offset in the text and the pointer below the value that was walked.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Breach {
    pub(super) what: &'static str,
    pub(super) at: usize,
    pub(super) pointer: String,
}

pub(super) const DUPLICATE_KEY: &str = "duplicate key";
const LONE_SURROGATE: &str = "lone surrogate in a string";
const TOO_DEEP: &str = "nested deeper than 64";
const TOO_LARGE: &str = "a number beyond what a double holds (1.8e308)";
/// Digits of the largest double.
const DOUBLE_DIGITS_MAX: usize = 309;

/// One object or array that is open.
struct Open {
    is_object: bool,
    /// Where its keys begin in the list of all open objects' keys.
    first_key: usize,
    /// How many elements of an array were passed.
    index: usize,
    expects_key: bool,
}

/// Walks one value that stands inside `depth` open objects and arrays.
pub(super) fn check(text: &str, depth: usize) -> Result<(), Breach> {
    let bytes = text.as_bytes();
    let mut keys: Vec<(Cow<'_, str>, usize)> = Vec::new();
    let mut open: Vec<Open> = Vec::new();
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'"' => {
                let end = string_end(bytes, at);
                let is_key = open.last().is_some_and(|inner| inner.expects_key);
                let raw = text.get(at..end).unwrap_or_default();
                let decoded = decode(raw);
                if let (true, Ok(key)) = (is_key, &decoded) {
                    keys.push((key.clone(), at));
                }
                if decoded.is_err() {
                    return Err(breach(LONE_SURROGATE, at, &open, &keys));
                }
                at = end;
                continue;
            }
            b'-' | b'0'..=b'9' => {
                let rest = bytes.get(at..).unwrap_or_default();
                let length = rest.iter().position(|byte| !b"+-.0123456789Ee".contains(byte));
                let number = text.get(at..at + length.unwrap_or(rest.len())).unwrap_or_default();
                if is_too_large(number) {
                    return Err(breach(TOO_LARGE, at, &open, &keys));
                }
                at += number.len();
                continue;
            }
            b'{' | b'[' => {
                if depth + open.len() >= JSON_DEPTH_MAX {
                    return Err(breach(TOO_DEEP, at, &open, &keys));
                }
                let is_object = byte == b'{';
                open.push(Open { is_object, first_key: keys.len(), index: 0, expects_key: is_object });
            }
            b':' => {
                if let Some(inner) = open.last_mut() {
                    inner.expects_key = false;
                }
            }
            b',' => {
                if let Some(inner) = open.last_mut() {
                    inner.expects_key = inner.is_object;
                    inner.index += 1;
                }
            }
            b'}' | b']' => {
                if let Some(inner) = open.pop() {
                    // Sorting at the end keeps many keys at n log n; equal keys keep their order of coming.
                    let own = &mut keys[inner.first_key..];
                    own.sort_unstable();
                    if let Some(pair) = own.windows(2).find(|pair| pair[0].0 == pair[1].0) {
                        let (key, at) = pair[1].clone();
                        let mut found = breach(DUPLICATE_KEY, at, &open, &keys[..inner.first_key]);
                        push_token(&mut found.pointer, &key);
                        return Err(found);
                    }
                    keys.truncate(inner.first_key);
                }
            }
            _ => {}
        }
        at += 1;
    }
    Ok(())
}

fn is_too_large(number: &str) -> bool {
    let may_be =
        number.len() >= DOUBLE_DIGITS_MAX || memchr::memchr2(b'e', b'E', number.as_bytes()).is_some();
    may_be && number.parse().is_ok_and(f64::is_infinite)
}

/// Checks JSON that was found to be well-formed, or several texts of it one behind the other, for what two readers would
/// understand differently.
///
/// # Errors
/// A key comes twice in an object, a string holds half a surrogate pair, a number is beyond what a double holds, or it nests
/// too deep; the error says where.
pub fn check_json(body: &[u8]) -> Result<(), MessageError> {
    let text =
        std::str::from_utf8(body).map_err(|error| MessageError::NotUtf8 { at: error.valid_up_to() })?;
    check(text, 0).map_err(|breach| located(body, breach.at, breach.what, breach.pointer))
}

/// An error at this offset of the body.
pub(super) fn located(body: &[u8], at: usize, what: &str, pointer: String) -> MessageError {
    let before = body.get(..at).unwrap_or_default();
    let line_start = memchr::memrchr(b'\n', before).map_or(0, |newline| newline + 1);
    MessageError::Json {
        what: what.to_owned(),
        pointer,
        line: memchr::memchr_iter(b'\n', before).count() + 1,
        column: before.len() - line_start + 1,
    }
}

/// The text of a JSON string with its quotes; borrowed when nothing is escaped. The error is a lone
/// surrogate: serde_json checks pairs only when it decodes.
pub(super) fn decode(raw: &str) -> Result<Cow<'_, str>, ()> {
    let inner = raw.get(1..raw.len().saturating_sub(1)).unwrap_or_default();
    if memchr::memchr(b'\\', inner.as_bytes()).is_none() {
        return Ok(Cow::Borrowed(inner));
    }
    serde_json::from_str::<String>(raw).map(Cow::Owned).map_err(|_| ())
}

/// The text without the whitespace between its tokens; numbers and strings stay as they were written.
pub(super) fn compact(text: &str) -> Cow<'_, str> {
    let bytes = text.as_bytes();
    let mut compact: Option<String> = None;
    let mut kept_from = 0;
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'"' => at = string_end(bytes, at),
            b' ' | b'\t' | b'\n' | b'\r' => {
                compact.get_or_insert_default().push_str(text.get(kept_from..at).unwrap_or_default());
                at += 1;
                kept_from = at;
            }
            _ => at += 1,
        }
    }
    match compact {
        None => Cow::Borrowed(text),
        Some(mut compact) => {
            compact.push_str(text.get(kept_from..).unwrap_or_default());
            Cow::Owned(compact)
        }
    }
}

/// The offset behind the string that opens at `start`.
fn string_end(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while let Some(found) = bytes.get(at..).and_then(|rest| memchr::memchr2(b'"', b'\\', rest)) {
        at += found;
        if bytes[at] == b'"' {
            return at + 1;
        }
        at += 2;
    }
    bytes.len()
}

/// Appends one reference token, escaped as RFC 6901 §3 asks.
pub(super) fn push_token(pointer: &mut String, token: &str) {
    pointer.push('/');
    for part in token.chars() {
        match part {
            '~' => pointer.push_str("~0"),
            '/' => pointer.push_str("~1"),
            other => pointer.push(other),
        }
    }
}

fn breach(what: &'static str, at: usize, open: &[Open], keys: &[(Cow<'_, str>, usize)]) -> Breach {
    let mut pointer = String::new();
    for (level, inner) in open.iter().enumerate() {
        // The last key of an open object is the one whose value is being walked.
        let end = open.get(level + 1).map_or(keys.len(), |next| next.first_key);
        if !inner.is_object {
            push_token(&mut pointer, itoa::Buffer::new().format(inner.index));
        } else if let Some((key, _)) = keys.get(inner.first_key..end).and_then(<[_]>::last) {
            push_token(&mut pointer, key);
        }
    }
    Breach { what, at, pointer }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn breach_of(text: &str) -> (&'static str, String) {
        let breach = check(text, 1).unwrap_err();
        (breach.what, breach.pointer)
    }

    #[test]
    fn duplicate_keys_are_found_at_every_level() {
        assert_eq!(breach_of(r#"{"a":1,"a":2}"#), (DUPLICATE_KEY, "/a".into()));
        assert_eq!(breach_of(r#"{"a":1,"\u0061":2}"#), (DUPLICATE_KEY, "/a".into()));
        assert_eq!(breach_of(r#"{"x":[0,{"a":{},"b":1,"a":[]}]}"#), (DUPLICATE_KEY, "/x/1/a".into()));
        assert_eq!(breach_of(r#"{"x~/y":{"":1,"":1}}"#), (DUPLICATE_KEY, "/x~0~1y/".into()));
        assert_eq!(check(r#"{"a":{"a":{"a":[{"a":1},{"a":1}]}},"b":"a","c":"a"}"#, 1), Ok(()));
    }

    #[test]
    fn lone_surrogates_are_found_in_keys_and_values() {
        for bad in [r#""\ud800""#, r#"["\ud800\u0061"]"#, r#"{"\udc00":1}"#, r#"{"a":"\ud800\ud800"}"#] {
            assert_eq!(breach_of(bad).0, LONE_SURROGATE, "{bad}");
        }
        assert_eq!(check(r#"["\ud83d\ude00","\\ud800","a\"b"]"#, 1), Ok(()));
    }

    #[test]
    fn numbers_that_no_double_holds_are_found_and_others_stay() {
        for bad in ["1e400", "-1E+309", r#"{"a":[0,2e308]}"#, &"9".repeat(310)] {
            assert_eq!(breach_of(bad).0, TOO_LARGE, "{bad}");
        }
        assert_eq!(breach_of(r#"{"a":[0,2e308]}"#).1, "/a/1");
        for good in [
            "1e308",
            "1e-400",
            "-0.1",
            &"9".repeat(308),
            r#"{"1e400":"1e400"}"#,
            "123456789012345678901234567890",
        ] {
            assert_eq!(check(good, 1), Ok(()), "{good}");
        }
    }

    #[test]
    fn depth_counts_from_the_document() {
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        assert_eq!(check(&nested(63), 1), Ok(()));
        assert_eq!(breach_of(&nested(64)).0, TOO_DEEP);
        assert_eq!(check(&nested(64), 0), Ok(()));
    }

    #[test]
    fn compacting_touches_only_whitespace_between_tokens() {
        assert_eq!(
            compact("{ \"a b\" :\t[1.0 ,\r\n 1e5],\"c\\\" \": \" \" }"),
            "{\"a b\":[1.0,1e5],\"c\\\" \":\" \"}"
        );
        assert!(matches!(compact("{\"a\":1}"), Cow::Borrowed("{\"a\":1}")));
    }
}
