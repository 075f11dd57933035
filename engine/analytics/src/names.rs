//! Names with small numbers: event names, sources, metrics. Bounded: what comes when all numbers are taken is `other`.

use std::{collections::HashMap, sync::Arc};

/// Numbers for names, from 0 in the order of their first use.
#[derive(Clone, Debug)]
pub struct Names {
    numbers: HashMap<Arc<str>, u16>,
    names: Vec<Arc<str>>,
    max: usize,
    /// The number asked for last: names come in runs.
    last: u16,
}

impl Names {
    /// What all further ones are.
    pub(crate) const OTHER: &str = "other";

    /// At most `max` names, of which the last is `other`.
    pub fn new(max: usize) -> Self {
        Self { numbers: HashMap::new(), names: Vec::new(), max: max.clamp(1, usize::from(u16::MAX)), last: 0 }
    }

    /// Those of a snapshot, by number.
    pub(crate) fn restored(names: Vec<Arc<str>>, max: usize) -> Self {
        let number = |(number, name): (usize, &Arc<str>)| (Arc::clone(name), number as u16);
        let numbers = names.iter().enumerate().take(usize::from(u16::MAX)).map(number).collect();
        Self { numbers, names, ..Self::new(max) }
    }

    /// The number of a name, given now if it has none.
    pub fn number(&mut self, name: &str) -> u16 {
        if self.names.get(usize::from(self.last)).is_some_and(|last| **last == *name) {
            return self.last;
        }
        if let Some(number) = self.numbers.get(name) {
            self.last = *number;
            return *number;
        }
        let name: Arc<str> =
            if self.names.len() + 1 >= self.max { Arc::from(Self::OTHER) } else { Arc::from(name) };
        if let Some(number) = self.numbers.get(&name) {
            return *number;
        }
        let number = self.names.len() as u16;
        self.names.push(Arc::clone(&name));
        self.numbers.insert(name, number);
        number
    }

    /// The number of a name that has one.
    pub fn find(&self, name: &str) -> Option<u16> {
        self.numbers.get(name).copied()
    }

    /// The name of a number.
    pub fn name(&self, number: u16) -> &str {
        self.names.get(usize::from(number)).map_or(Self::OTHER, |name| name)
    }

    /// All of them, to be kept.
    pub(crate) fn shared(&self) -> Vec<Arc<str>> {
        self.names.clone()
    }

    /// Every number that there is.
    pub(crate) fn numbers(&self) -> impl Iterator<Item = u16> + use<> {
        0..self.names.len() as u16
    }

    /// All names, by number.
    pub fn all(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(|name| &**name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_keep_their_numbers_and_the_bound_makes_the_rest_other() {
        let mut names = Names::new(3);
        assert_eq!((names.number("a"), names.number("b"), names.number("a")), (0, 1, 0));
        assert_eq!((names.number("c"), names.number("d")), (2, 2));
        assert_eq!((names.name(1), names.name(2)), ("b", "other"));
        assert_eq!(names.find("c"), None);
        assert_eq!(names.all().count(), 3);
    }
}
