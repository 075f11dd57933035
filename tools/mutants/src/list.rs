//! The lists of mutations.

use std::{fs, path::Path};

use anyhow::{Context, bail};
use serde::Deserialize;

/// An error that is to be planted.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Mutant {
    /// What the mutated code does, as a fact.
    pub name: String,
    /// Which file, from the root of the tree.
    pub file: String,
    /// The text that stands there once.
    pub from: String,
    /// What stands there instead.
    pub to: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    mutant: Vec<Mutant>,
}

impl Mutant {
    /// Whether this is in its name or its file's.
    pub fn is_called(&self, what: &str) -> bool {
        self.name.contains(what) || self.file.contains(what)
    }

    /// The file's text with the error in it.
    pub fn planted(&self, text: &str) -> String {
        text.replacen(&self.from, &self.to, 1)
    }

    fn trouble(&self, root: &Path) -> Option<String> {
        let Self { name, file, from, to } = self;
        let text = match fs::read_to_string(root.join(file)) {
            Ok(text) => text,
            Err(error) => return Some(format!("`{name}`: {file}: {error}")),
        };
        match text.matches(from.as_str()).count() {
            1 if from == to => Some(format!("`{name}`: it changes nothing")),
            1 => None,
            count => Some(format!("`{name}`: its text stands {count} times in {file}, not once")),
        }
    }
}

/// Reads the lists of a folder, in the order of their files' names.
///
/// # Errors
/// When one cannot be read, names are used twice, or a text does not stand exactly once in its file.
pub fn read(root: &Path, folder: &Path) -> anyhow::Result<Vec<Mutant>> {
    let folder = root.join(folder);
    let entries = fs::read_dir(&folder).with_context(|| folder.display().to_string())?;
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<anyhow::Result<Vec<_>>>()?;
    paths.sort();
    let mut mutants: Vec<Mutant> = Vec::new();
    for path in paths {
        let text = fs::read_to_string(&path)?;
        let list: List = toml::from_str(&text).with_context(|| path.display().to_string())?;
        mutants.extend(list.mutant);
    }
    let mut troubles: Vec<String> = mutants.iter().filter_map(|mutant| mutant.trouble(root)).collect();
    let is_twice =
        |(at, mutant): (usize, &Mutant)| mutants[..at].iter().any(|other| other.name == mutant.name);
    let twice = mutants.iter().enumerate().filter(|(at, mutant)| is_twice((*at, mutant)));
    troubles.extend(twice.map(|(_, mutant)| format!("`{}`: the name is used twice", mutant.name)));
    if !troubles.is_empty() {
        bail!("the list of mutations does not fit the tree:\n{}", troubles.join("\n"));
    }
    Ok(mutants)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mutation_fits_the_tree() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let mutants = read(&root, Path::new(crate::LISTS)).unwrap();
        assert!(mutants.len() >= 50, "{}", mutants.len());
    }

    #[test]
    fn a_text_that_is_not_there_once_is_refused() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mutant = |from: &str, to: &str| Mutant {
            name: "a".to_owned(),
            file: "Cargo.toml".to_owned(),
            from: from.to_owned(),
            to: to.to_owned(),
        };
        assert_eq!(mutant("[dependencies]", "").trouble(root), None);
        for (from, to) in [("no such text", ""), ("workspace = true", ""), ("[lints]", "[lints]")] {
            assert!(mutant(from, to).trouble(root).is_some(), "{from}");
        }
    }
}
