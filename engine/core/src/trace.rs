//! The trace that a message belongs to (W3C Trace Context, level 1 §3.2 and level 2 §3.2).

use crate::metadata::MetadataPairs;

/// The metadata key that joins a message to its trace; the header of the same name at a broker.
pub const TRACE_KEY: &[u8] = TRACE_FIELD.as_bytes();

/// The field of a request that says so.
pub const TRACE_FIELD: &str = "traceparent";

/// A valid `traceparent`: `version "-" trace-id "-" parent-id "-" trace-flags`, which are 2, 32, 16 and 2 lower-case hex
/// digits.
///
/// Whoever takes a message in, or writes it to a broker, takes a trace through this type: it is the sender's text, goes
/// into headers that have limits of their own, and one that is wrong concerns nobody but the sender's tracing. So what is
/// wrong is dropped, and the message goes on without it.
///
/// A version above 00 may be longer (§3.2.4). There is none, and here a trace is only passed on, so what is not exactly
/// [`BYTES`](Self::BYTES) long is dropped whatever its version says: every header then has a known length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traceparent([u8; Traceparent::BYTES]);

impl Traceparent {
    /// Its length, in bytes.
    pub const BYTES: usize = 55;

    /// Reads a field's value. `None`: it is none.
    pub fn read(value: &[u8]) -> Option<Self> {
        let value: [u8; Self::BYTES] = value.try_into().ok()?;
        let is_well_formed = value.iter().enumerate().all(|(place, byte)| match place {
            2 | 35 | 52 => *byte == b'-',
            _ => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
        });
        let is_zero = |digits: &[u8]| digits.iter().all(|digit| *digit == b'0');
        // Version ff is forbidden, and so are ids of zeros only (§3.2.2.1, §3.2.2.3, §3.2.2.4).
        let is_valid = is_well_formed
            && !value.starts_with(b"ff")
            && !is_zero(&value[3..35])
            && !is_zero(&value[36..52]);
        is_valid.then_some(Self(value))
    }

    /// The one that a request carries; `values` are those of its fields of that name. Of two there is none: which of
    /// them would it be?
    pub fn of_request<'a>(values: impl IntoIterator<Item = &'a [u8]>) -> Option<Self> {
        let mut values = values.into_iter();
        match (values.next(), values.next()) {
            (Some(value), None) => Self::read(value),
            _ => None,
        }
    }

    /// The one in a message's metadata, as [`MetadataWriter`](crate::MetadataWriter) encodes it. A record that an earlier
    /// version took in may have one that is none.
    pub fn of(metadata: &[u8]) -> Option<Self> {
        MetadataPairs::new(metadata)
            .find(|(name, _)| *name == TRACE_KEY)
            .and_then(|(_, value)| Self::read(value))
    }

    /// Its text.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::MetadataWriter;

    const VALID: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn what_the_standard_allows_is_read() {
        for flags in ["00", "01", "02", "03", "ff"] {
            for version in ["00", "01", "cc", "fe"] {
                let text = format!("{version}{}{flags}", &VALID[2..53]);
                let read = Traceparent::read(text.as_bytes());
                assert_eq!(read.as_ref().map(Traceparent::as_bytes), Some(text.as_bytes()), "{text}");
            }
        }
    }

    #[test]
    fn what_the_standard_forbids_is_none() {
        let zeros =
            |from: usize, to: usize| format!("{}{}{}", &VALID[..from], "0".repeat(to - from), &VALID[to..]);
        for text in [
            String::new(),
            VALID[..54].to_owned(),
            format!("{VALID} "),
            format!("{VALID}-"),
            format!("{VALID}-what-the-future-brings"),
            format!("01{}-what-the-future-brings", &VALID[2..]),
            format!("ff{}", &VALID[2..]),
            VALID.to_uppercase(),
            VALID.replace('-', "_"),
            zeros(3, 35),
            zeros(36, 52),
            "t".repeat(Traceparent::BYTES),
            "0".repeat(6000),
        ] {
            assert_eq!(Traceparent::read(text.as_bytes()), None, "{text:?}");
        }
    }

    #[test]
    fn a_byte_that_is_no_digit_and_no_dash_is_found_at_every_place() {
        for place in 0..Traceparent::BYTES {
            for wrong in [b'g', b'A', b' ', b'/', b':', b'`', 0, 0xff] {
                let mut bytes = VALID.as_bytes().to_vec();
                bytes[place] = wrong;
                assert_eq!(Traceparent::read(&bytes), None, "{place} {wrong}");
            }
            let mut bytes = VALID.as_bytes().to_vec();
            bytes[place] = if bytes[place] == b'-' { b'a' } else { b'-' };
            assert_eq!(Traceparent::read(&bytes), None, "{place}");
        }
    }

    #[test]
    fn a_request_has_one_or_none() {
        let of = |values: &[&str]| Traceparent::of_request(values.iter().map(|value| value.as_bytes()));
        assert!(of(&[VALID]).is_some());
        assert_eq!((of(&[]), of(&["00-1-2-3"]), of(&[VALID, VALID])), (None, None, None));
    }

    #[test]
    fn the_metadata_of_a_message_has_it_or_has_none() {
        let with = |value: &[u8]| {
            let mut metadata = Vec::new();
            let mut writer = MetadataWriter::new(&mut metadata);
            writer.push(b"region", b"eu");
            writer.push(TRACE_KEY, value);
            metadata
        };
        assert_eq!(Traceparent::of(&with(VALID.as_bytes())), Traceparent::read(VALID.as_bytes()));
        assert_eq!(Traceparent::of(&with(&[b't'; 6000])), None);
        assert_eq!(Traceparent::of(&[]), None);
    }
}
