//! Metadata pairs of a JSON message: eight of them without allocating.

use std::borrow::Cow;

type Pair<'a> = (Cow<'a, str>, Cow<'a, str>);

/// Key–value pairs in the order they came, keys unique.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pairs<'a> {
    inline: [Option<Pair<'a>>; Pairs::INLINE],
    len: usize,
    text_bytes: usize,
    spilled: Vec<Pair<'a>>,
}

impl<'a> Pairs<'a> {
    const INLINE: usize = 8;

    /// How many pairs there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The bytes of all keys and values together.
    #[must_use]
    pub fn text_bytes(&self) -> usize {
        self.text_bytes
    }

    /// The value of `key`.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.iter().find(|(name, _)| *name == key).map(|(_, value)| value)
    }

    /// All pairs in order.
    #[must_use]
    pub fn iter(&self) -> PairsIter<'_, 'a> {
        PairsIter { inline: self.inline.iter(), spilled: self.spilled.iter() }
    }

    pub(super) fn push(&mut self, key: Cow<'a, str>, value: Cow<'a, str>) {
        self.text_bytes += key.len() + value.len();
        match self.inline.get_mut(self.len) {
            Some(place) => *place = Some((key, value)),
            None => self.spilled.push((key, value)),
        }
        self.len += 1;
    }
}

/// Iterates over [`Pairs`].
#[derive(Clone, Debug)]
pub struct PairsIter<'p, 'a> {
    inline: std::slice::Iter<'p, Option<Pair<'a>>>,
    spilled: std::slice::Iter<'p, Pair<'a>>,
}

impl<'p> Iterator for PairsIter<'p, '_> {
    type Item = (&'p str, &'p str);

    fn next(&mut self) -> Option<Self::Item> {
        let pair = match self.inline.next() {
            Some(Some(pair)) => pair,
            _ => self.spilled.next()?,
        };
        Some((&pair.0, &pair.1))
    }
}

impl<'p, 'a> IntoIterator for &'p Pairs<'a> {
    type Item = (&'p str, &'p str);
    type IntoIter = PairsIter<'p, 'a>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_keep_their_order_beyond_the_inline_ones() {
        let mut pairs = Pairs::default();
        for n in 0..20 {
            pairs.push(format!("k{n:02}").into(), "v".into());
        }
        assert_eq!((pairs.len(), pairs.text_bytes()), (20, 80));
        let keys: Vec<_> = pairs.iter().map(|(key, _)| key.to_owned()).collect();
        assert!(keys.is_sorted());
        assert_eq!(keys.len(), 20);
        assert_eq!(pairs.get("k19"), Some("v"));
        assert_eq!(pairs.get("k20"), None);
    }
}
