//! The settings of who may ask for what, as far as they must agree with each other.

use http::HeaderValue;
use transports::Guard;

use super::values::{Problem, Values};
use crate::scope::Scope;

/// Who may ask, and for what.
#[derive(Clone, Debug, Default)]
pub struct Auth {
    /// The keys and tokens that are good.
    pub guard: Guard,
    /// What asks for one.
    pub scope: Scope,
    /// What this process shows itself, and others that have the same settings; `None` where nobody asks for it.
    pub own_key: Option<HeaderValue>,
}

impl Auth {
    pub(super) fn read(values: &Values) -> Result<Self, Problem> {
        for path in ["auth.api_keys", "auth.tokens"] {
            look_at(&values.text(path)).map_err(|wrong| values.problem(path, &wrong))?;
        }
        let guard = Guard::new(&values.text("auth.api_keys"), &values.text("auth.tokens"));
        let scope = Scope {
            all: values.text("auth.scope") == "all",
            reflection: values.text("auth.reflection") == "key",
        };
        for (path, wanted) in [("auth.scope", scope.all), ("auth.reflection", scope.reflection)] {
            if wanted && guard.is_open() {
                let text =
                    "asks for a key, and there is none: set API_KEYS or AUTH_TOKENS, or leave this out";
                return Err(values.problem(path, text));
            }
        }
        let own_key = match guard.first().filter(|_| scope.all) {
            Some(first) => Some(field(first).map_err(|wrong| values.problem("auth.api_keys", wrong))?),
            None => None,
        };
        Ok(Self { guard, scope, own_key })
    }

    /// What is shown with messages that are sent on: also where only events ask for a key, as a message may be one.
    pub fn key_for_messages(&self) -> Option<HeaderValue> {
        self.own_key.clone().or_else(|| field(self.guard.first()?).ok())
    }

    /// What is shown to the process that messages are sent on to.
    pub(super) fn key_for_remote(&self, values: &Values) -> Result<Option<HeaderValue>, Problem> {
        let path = "remote.api_key";
        match values.text(path).as_str() {
            "" => Ok(self.key_for_messages()),
            key => field(key.as_bytes()).map(Some).map_err(|wrong| values.problem(path, wrong)),
        }
    }
}

/// What is odd in a list of keys: each such one would be less than its owner takes it for. Never says a key.
fn look_at(list: &str) -> Result<(), String> {
    if list.trim().is_empty() {
        return Ok(());
    }
    let keys: Vec<&str> = list.split(',').map(str::trim).collect();
    for (place, key) in keys.iter().enumerate() {
        let number = place + 1;
        if key.is_empty() {
            return Err(format!(
                "key {number} of {} is empty: leave out the comma that nothing follows",
                keys.len()
            ));
        }
        if key.contains(char::is_whitespace) {
            return Err(format!(
                "key {number} of {} has a blank in it: expected visible ASCII, and a comma between two keys",
                keys.len()
            ));
        }
        if let Some(before) = keys[..place].iter().position(|other| other == key) {
            return Err(format!(
                "key {number} of {} is the same as key {}: leave one out",
                keys.len(),
                before + 1
            ));
        }
    }
    Ok(())
}

/// A key as it is sent; it stays out of logs and of HPACK's tables.
fn field(key: &[u8]) -> Result<HeaderValue, &'static str> {
    let sendable = HeaderValue::from_bytes(key).ok().filter(|_| key.iter().all(u8::is_ascii_graphic));
    let mut value = sendable.ok_or("a key is sent on from here, and cannot be: expected visible ASCII")?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_is_empty_has_a_blank_or_stands_twice_is_a_mistake_and_is_not_shown() {
        for good in ["", "  ", "one", "one, two"] {
            assert_eq!(look_at(good), Ok(()), "{good}");
        }
        for (list, wrong) in [
            ("one,", "key 2 of 2 is empty"),
            (",one", "key 1 of 2 is empty"),
            (",", "key 1 of 2 is empty"),
            ("one,se cret", "key 2 of 2 has a blank"),
            ("secret,two, secret", "key 3 of 3 is the same as key 1"),
        ] {
            let said = look_at(list).unwrap_err();
            assert!(said.starts_with(wrong) && !said.contains("secret"), "{list}: {said}");
        }
    }
}
