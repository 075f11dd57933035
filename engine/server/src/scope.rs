//! How far authentication reaches.

/// What asks for a key, where there are any, beside the routes of events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// Every route, RPC and port, except health and reflection.
    pub all: bool,
    /// Reflection.
    pub reflection: bool,
}
