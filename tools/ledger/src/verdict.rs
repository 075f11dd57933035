//! What must hold between what was acknowledged and what is found downstream.

use std::collections::{BTreeMap, HashMap, HashSet};

/// A message as the client knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Its id.
    pub id: String,
    /// What it is ordered by.
    pub key: String,
    /// Its number within the key.
    pub n: u64,
    /// Its content.
    pub payload: String,
}

/// A message as it was found, in the order of its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its id.
    pub id: String,
    /// Its content.
    pub payload: String,
}

/// The comparison.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Messages acknowledged.
    pub acknowledged: usize,
    /// Messages found, repeats included.
    pub found: usize,
    /// Acknowledged, and nowhere.
    pub missing: Vec<String>,
    /// Found, and never sent.
    pub invented: Vec<String>,
    /// Found with another content.
    pub altered: Vec<String>,
    /// First found after a later one of its key.
    pub disordered: Vec<String>,
    /// Found more than once: how many more.
    pub duplicates: usize,
}

impl Verdict {
    /// Whether all is well; duplicates are.
    pub fn is_clean(&self) -> bool {
        self.missing.is_empty()
            && self.invented.is_empty()
            && self.altered.is_empty()
            && self.disordered.is_empty()
    }
}

/// Compares. `sent` is every message ever sent, `acknowledged` the ids that were acknowledged.
pub fn compare(sent: &[Sent], acknowledged: &HashSet<String>, found: &[Found]) -> Verdict {
    let by_id: HashMap<&str, &Sent> = sent.iter().map(|sent| (sent.id.as_str(), sent)).collect();
    let mut verdict = Verdict { acknowledged: acknowledged.len(), found: found.len(), ..Verdict::default() };
    let mut seen: HashSet<&str> = HashSet::new();
    let mut last: BTreeMap<&str, u64> = BTreeMap::new();
    for one in found {
        let Some(sent) = by_id.get(one.id.as_str()) else {
            verdict.invented.push(one.id.clone());
            continue;
        };
        if sent.payload != one.payload {
            verdict.altered.push(one.id.clone());
        }
        if !seen.insert(&sent.id) {
            verdict.duplicates += 1;
            continue;
        }
        let last = last.entry(&sent.key).or_default();
        // Numbers begin at 1.
        if sent.n < *last {
            verdict.disordered.push(one.id.clone());
        }
        *last = sent.n.max(*last);
    }
    verdict.missing = acknowledged.iter().filter(|id| !seen.contains(id.as_str())).cloned().collect();
    verdict.missing.sort();
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(n: u64) -> Sent {
        Sent { id: format!("k-{n}"), key: "k".into(), n, payload: format!("payload {n}") }
    }

    fn found(n: u64) -> Found {
        Found { id: format!("k-{n}"), payload: format!("payload {n}") }
    }

    fn run(numbers: &[u64]) -> Verdict {
        let all: Vec<Sent> = (1..=4).map(sent).collect();
        let acknowledged = [1, 2, 3].map(|n| format!("k-{n}")).into();
        compare(&all, &acknowledged, &numbers.iter().map(|n| found(*n)).collect::<Vec<_>>())
    }

    #[test]
    fn all_of_it_in_order_is_clean_and_so_is_what_was_never_acknowledged() {
        assert!(run(&[1, 2, 3]).is_clean());
        assert!(run(&[1, 2, 3, 4]).is_clean());
    }

    #[test]
    fn repeats_are_counted_and_clean() {
        let verdict = run(&[1, 2, 1, 2, 3]);
        assert!(verdict.is_clean());
        assert_eq!(verdict.duplicates, 2);
    }

    #[test]
    fn a_lost_one_is_named() {
        assert_eq!(run(&[1, 3]).missing, ["k-2"]);
    }

    #[test]
    fn one_that_comes_first_after_a_later_one_is_named() {
        assert_eq!(run(&[2, 1, 3]).disordered, ["k-1"]);
    }

    #[test]
    fn an_invented_and_an_altered_one_are_named() {
        let all = [sent(1)];
        let acknowledged = ["k-1".to_owned()].into();
        let altered = Found { payload: "other".into(), ..found(1) };
        let verdict = compare(&all, &acknowledged, &[altered, found(9)]);
        assert_eq!((verdict.altered, verdict.invented), (vec!["k-1".to_owned()], vec!["k-9".to_owned()]));
    }
}
