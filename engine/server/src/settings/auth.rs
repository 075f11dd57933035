//! The settings of who may ask for what, as far as they must agree with each other.

use http::HeaderValue;
use transports::Guard;

use super::layers::{Problem, Values};

/// What asks for a key, where there are any, beside the routes of events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// Every route, RPC and port, except health and reflection.
    pub all: bool,
    /// Reflection.
    pub reflection: bool,
}

/// Who may ask, and for what.
#[derive(Clone, Debug)]
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
    pub(super) fn key_for_messages(&self) -> Option<HeaderValue> {
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

/// A key as it is sent; it stays out of logs and of HPACK's tables.
fn field(key: &[u8]) -> Result<HeaderValue, &'static str> {
    let sendable = HeaderValue::from_bytes(key).ok().filter(|_| key.iter().all(u8::is_ascii_graphic));
    let mut value = sendable.ok_or("a key is sent on from here, and cannot be: expected visible ASCII")?;
    value.set_sensitive(true);
    Ok(value)
}
