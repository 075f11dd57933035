//! Who may ask: API keys and bearer tokens (docs/events.md, "Who may ask").

use std::sync::Arc;

use subtle::ConstantTimeEq;

/// The keys and tokens that are good. None: everybody may ask.
#[derive(Clone, Default)]
pub struct Guard {
    secrets: Arc<[Box<[u8]>]>,
}

/// Why somebody may not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// No key and no token was given.
    #[error("missing authentication credentials: give x-api-key, or authorization: Bearer <token>")]
    Missing,
    /// Nobody has this one.
    #[error("this key or token is not known")]
    Unknown,
}

impl std::fmt::Debug for Guard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Guard({} secrets)", self.secrets.len())
    }
}

impl Guard {
    /// Keys and tokens, each list separated by commas.
    pub fn new(api_keys: &str, tokens: &str) -> Self {
        let secrets = [api_keys, tokens].into_iter().flat_map(|list| list.split(','));
        let secrets = secrets.map(str::trim).filter(|secret| !secret.is_empty());
        Self { secrets: secrets.map(|secret| secret.as_bytes().into()).collect() }
    }

    /// Whether everybody may ask.
    pub fn is_open(&self) -> bool {
        self.secrets.is_empty()
    }

    /// The first of them: what this process shows another one that has the same.
    pub fn first(&self) -> Option<&[u8]> {
        self.secrets.first().map(|secret| &**secret)
    }

    /// Looks at the values of `x-api-key` and `authorization`.
    ///
    /// # Errors
    /// When neither is a key or token that is known.
    pub fn admits(&self, api_key: Option<&[u8]>, authorization: Option<&[u8]>) -> Result<(), Denied> {
        if self.is_open() {
            return Ok(());
        }
        let bearer = authorization.map(|value| {
            // The scheme is not case-sensitive (RFC 9110 §11.1); the older system takes a bare token, too.
            match value.split_at_checked(7) {
                Some((scheme, token)) if scheme.eq_ignore_ascii_case(b"bearer ") => token,
                _ => value,
            }
        });
        let given = api_key.or(bearer).map(<[u8]>::trim_ascii).filter(|given| !given.is_empty());
        let given = given.ok_or(Denied::Missing)?;
        // All of them are compared, each in a time that does not depend on where they differ.
        let good = self.secrets.iter().fold(false, |good, secret| good | bool::from(secret.ct_eq(given)));
        if good { Ok(()) } else { Err(Denied::Unknown) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_or_a_token_opens_and_nothing_else_does() {
        let guard = Guard::new("one, two", "three");
        let key = |value: &str| guard.admits(Some(value.as_bytes()), None);
        let token = |value: &str| guard.admits(None, Some(value.as_bytes()));
        for good in
            [key("one"), key(" two "), key("three"), token("Bearer two"), token("bearer three"), token("one")]
        {
            assert_eq!(good, Ok(()));
        }
        for bad in [key("on"), key("ones"), token("Bearer x"), token("Basic one")] {
            assert_eq!(bad, Err(Denied::Unknown));
        }
        for missing in [key(""), token("Bearer "), guard.admits(None, None)] {
            assert_eq!(missing, Err(Denied::Missing));
        }
        assert!(Guard::new("", " , ").is_open() && Guard::default().admits(None, None).is_ok());
    }
}
