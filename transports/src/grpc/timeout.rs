//! The `grpc-timeout` field: at most eight digits and a unit.

use std::time::Duration;

use super::{Code, Status};

/// The field is no timeout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("grpc-timeout is not one to eight digits followed by one of H, M, S, m, u, n")]
pub struct TimeoutError;

impl From<TimeoutError> for Status {
    fn from(error: TimeoutError) -> Self {
        // What grpc-go answers: the client's library is broken, not the caller's argument.
        Self::new(Code::Internal, error.to_string())
    }
}

/// Reads a timeout. The largest, `99999999H`, is eleven thousand years: add it to a clock with care.
///
/// # Errors
/// The value has another form.
pub fn parse_timeout(value: &[u8]) -> Result<Duration, TimeoutError> {
    let Some((unit, digits)) = value.split_last() else { return Err(TimeoutError) };
    if !(1..=8).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
        return Err(TimeoutError);
    }
    let count = digits.iter().fold(0u64, |sum, digit| sum * 10 + u64::from(digit - b'0'));
    match unit {
        b'H' => Ok(Duration::from_secs(count * 3600)),
        b'M' => Ok(Duration::from_secs(count * 60)),
        b'S' => Ok(Duration::from_secs(count)),
        b'm' => Ok(Duration::from_millis(count)),
        b'u' => Ok(Duration::from_micros(count)),
        b'n' => Ok(Duration::from_nanos(count)),
        _ => Err(TimeoutError),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_have_up_to_eight_digits_and_a_unit() {
        for (text, timeout) in [
            ("1H", Duration::from_secs(3600)),
            ("2M", Duration::from_secs(120)),
            ("10S", Duration::from_secs(10)),
            ("00000001S", Duration::from_secs(1)),
            ("250m", Duration::from_millis(250)),
            ("7u", Duration::from_micros(7)),
            ("99999999n", Duration::from_nanos(99_999_999)),
            ("0n", Duration::ZERO),
            ("99999999H", Duration::from_secs(359_999_996_400)),
        ] {
            assert_eq!(parse_timeout(text.as_bytes()), Ok(timeout), "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for bad in [
            "",
            "S",
            "1",
            "123456789S",
            "-1S",
            "+1S",
            "1.5S",
            "1 S",
            " 1S",
            "1s",
            "1h",
            "1SS",
            "0x1S",
            "1\u{661}",
        ] {
            assert_eq!(parse_timeout(bad.as_bytes()), Err(TimeoutError), "{bad}");
        }
    }
}
