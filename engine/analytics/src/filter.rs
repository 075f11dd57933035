//! What a query asks for, resolved against the numbers of one part.

use crate::{chunk::Chunk, part::View};

/// Conditions that an event must meet, all of them; what is `None` or empty does not matter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// One of these names.
    pub names: Vec<String>,
    /// This user.
    pub user: Option<String>,
    /// This session, as events name it.
    pub session: Option<String>,
    /// This source.
    pub source: Option<String>,
    /// These properties have these values.
    pub properties: Vec<(String, String)>,
}

impl Filter {
    /// Whether everything meets it.
    pub fn is_open(&self) -> bool {
        *self == Filter::default()
    }

    /// With the part's numbers; `user` is that of the user asked for.
    pub(crate) fn resolve<'a>(&'a self, view: &View, user: Option<u32>) -> Resolved<'a> {
        let names = self.names.iter().filter_map(|name| view.names.find(name)).collect();
        let source = self.source.as_ref().map(|source| view.sources.find(source));
        Resolved { filter: self, names, source, user }
    }
}

/// A filter with numbers for names.
pub(crate) struct Resolved<'a> {
    filter: &'a Filter,
    names: Vec<u16>,
    source: Option<Option<u16>>,
    user: Option<u32>,
}

impl Resolved<'_> {
    /// Cheapest conditions first.
    pub(crate) fn meets(&self, chunk: &Chunk, at: usize) -> bool {
        self.meets_but_properties(chunk, at)
            && self.filter.properties.iter().all(|(key, value)| chunk.has(at, key, value))
    }

    /// All conditions but those on properties.
    fn meets_but_properties(&self, chunk: &Chunk, at: usize) -> bool {
        self.takes_name(chunk.names[at])
            && self.takes_source(chunk.sources[at])
            && self.takes_user_and_session(chunk, at)
    }

    pub(crate) fn takes_name(&self, name: u16) -> bool {
        self.filter.names.is_empty() || self.names.contains(&name)
    }

    pub(crate) fn takes_source(&self, source: u16) -> bool {
        self.source.is_none_or(|wanted| wanted == Some(source))
    }

    pub(crate) fn takes_user_and_session(&self, chunk: &Chunk, at: usize) -> bool {
        let Filter { user, session, .. } = self.filter;
        (user.is_none() || self.user == Some(chunk.users[at]))
            && session.as_ref().is_none_or(|session| chunk.session(at) == session)
    }
}
