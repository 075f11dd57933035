//! Text that others wrote, on a terminal: it may move the cursor, or begin a line that looks like one of ours.

use std::fmt::{self, Display, Write};

/// Bytes that should be text, with control characters escaped.
pub(crate) struct Printable<'a>(pub(crate) &'a [u8]);

impl Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in String::from_utf8_lossy(self.0).chars() {
            if character.is_control() {
                write!(f, "{}", character.escape_default())?;
            } else {
                f.write_char(character)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_escaped_and_nothing_else_is() {
        assert_eq!(
            Printable("a\r\nb\0\u{1b}[2J\u{9b}é \"\\".as_bytes()).to_string(),
            r#"a\r\nb\u{0}\u{1b}[2J\u{9b}é "\"#
        );
    }
}
