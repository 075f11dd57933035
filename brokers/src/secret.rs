//! What is for nobody's eyes: a password, a key, the user info of an address. It is never displayed, and taken out of
//! what libraries say.

use std::{borrow::Cow, fmt};

/// Shorter ones are in many words by chance; taking them out would spoil a text and hide nothing.
const HIDDEN_MIN: usize = 4;

/// A text that is handed to whom it is meant for, and shown to nobody.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(Box<str>);

impl Secret {
    /// Keeps a text.
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The text, for the one that it is meant for.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Takes it out of a text that others have written.
    pub fn hide_in<'a>(&self, text: Cow<'a, str>) -> Cow<'a, str> {
        if self.0.len() < HIDDEN_MIN || !text.contains(&*self.0) {
            return text;
        }
        Cow::Owned(text.replace(&*self.0, "(secret)"))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_empty() { "Secret(none)" } else { "Secret(set)" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_not_shown_and_is_taken_out_of_a_text() {
        let secret = Secret::new("swordfish");
        assert_eq!(format!("{secret:?}"), "Secret(set)");
        assert_eq!(secret.hide_in("login swordfish failed".into()), "login (secret) failed");
        assert_eq!(Secret::new("a").hide_in("a text".into()), "a text");
        assert_eq!(Secret::default().hide_in("a text".into()), "a text");
    }
}
