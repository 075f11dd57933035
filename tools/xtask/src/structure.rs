//! Which way the modules of a crate depend on each other, for `cargo xtask structure`.
//!
//! In every folder the files and subfolders stand one above the other: what one names of another is named in one direction
//! only. A folder's `mod.rs` (and a crate's `lib.rs`) is the folder's own face and takes part in the folder above; what it
//! re-exports counts as its real place. Test modules do not count.
//!
//! The circles that are still there are listed in [`KNOWN`]: a new one fails, and so does a line that is true no more.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use syn::visit::{self, Visit};

/// The crates that are looked at, by folder.
const CRATES: [&str; 5] = ["engine/core", "engine/analytics", "engine/server", "transports", "brokers"];

/// Protocol state machines: crate, module, and what of their crate they may name beside themselves.
const ALONE: [(&str, &str, &[&str]); 3] =
    [("transports", "h1", &["token"]), ("transports", "h2", &["token"]), ("transports", "grpc", &[])];

/// Circles that are to be untied: crate, folder, and the units in it, in order.
const KNOWN: &[(&str, &str, &[&str])] = &[
    ("engine/core", "", &["shard", "sink"]),
    ("engine/analytics", "", &["part", "snapshot"]),
    (
        "transports",
        "",
        &[
            "answer",
            "connection",
            "core",
            "counters",
            "events",
            "facade",
            "grpc_answer",
            "hook",
            "ingest",
            "inject",
            "lane",
            "room",
            "routes",
            "service_h2",
            "session_h1",
            "session_h2",
            "terms",
            "waiting",
        ],
    ),
    ("brokers", "", &["direct", "pipeline", "remote", "stored"]),
    ("brokers", "log", &["keys", "writer"]),
];

/// A module by its path in the crate: `["log", "reader"]`.
type Place = Vec<String>;

/// One crate's modules.
struct Crate {
    /// By path; the face of a folder has the folder's path.
    modules: BTreeMap<Place, Module>,
}

struct Module {
    /// Names it re-exports, with the path they come from.
    exports: BTreeMap<String, Place>,
    /// Everything of this crate that it names, from the crate's root.
    names: BTreeSet<Place>,
}

/// Fails when the modules depend on each other in a circle that is not known.
pub fn check(root: &Path) -> Result<()> {
    let mut wrong = Vec::new();
    let mut known: BTreeSet<(String, String, Vec<String>)> = KNOWN
        .iter()
        .map(|(name, folder, units)| {
            ((*name).to_owned(), (*folder).to_owned(), units.iter().map(|unit| (*unit).to_owned()).collect())
        })
        .collect();
    let mut left = 0;
    for name in CRATES {
        let krate = Crate::read(&root.join(name).join("src"))?;
        for (folder, edges) in krate.folders() {
            for circle in circles(&edges) {
                let place = folder.join("::");
                if known.remove(&(name.to_owned(), place.clone(), circle.clone())) {
                    left += 1;
                    continue;
                }
                let mut text = format!("{name}: a circle in `{place}`: {}", circle.join(", "));
                for ((from, to), why) in &edges {
                    if circle.contains(from) && circle.contains(to) {
                        text += &format!(
                            "\n    {from} -> {to}: {}",
                            why.iter().cloned().collect::<Vec<_>>().join(", ")
                        );
                    }
                }
                wrong.push(text);
            }
        }
        for (of, unit, beside) in ALONE.iter().filter(|(of, ..)| *of == name) {
            for (from, to) in krate.edges_out_of(unit) {
                if !beside.contains(&to.as_str()) {
                    wrong.push(format!("{of}: `{from}` names `{to}`: `{unit}` is to know nobody"));
                }
            }
        }
    }
    for (name, folder, units) in known {
        wrong.push(format!(
            "{name}: `{folder}` has no circle of {} any more: take it off the list",
            units.join(", ")
        ));
    }
    if !wrong.is_empty() {
        bail!("{}", wrong.join("\n"));
    }
    println!("no circle between modules of {}, {left} known ones aside", CRATES.join(", "));
    Ok(())
}

impl Crate {
    fn read(source: &Path) -> Result<Self> {
        let mut krate = Self { modules: BTreeMap::new() };
        krate.read_folder(source, &[])?;
        Ok(krate)
    }

    fn read_folder(&mut self, folder: &Path, place: &[String]) -> Result<()> {
        let mut entries = fs::read_dir(folder)
            .with_context(|| folder.display().to_string())?
            .map(|entry| Ok(entry?.path()))
            .collect::<Result<Vec<PathBuf>>>()?;
        entries.sort();
        for path in entries {
            let name = path.file_stem().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
            let below = || place.iter().cloned().chain([name.clone()]).collect::<Place>();
            if path.is_dir() {
                self.read_folder(&path, &below())?;
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let is_own_face = name == "mod" || name == "lib";
                // A program, and tests in a file of their own.
                if name == "main" || name == "tests" {
                    continue;
                }
                let at = if is_own_face { place.to_vec() } else { below() };
                let text = fs::read_to_string(&path)?;
                let file = syn::parse_file(&text).with_context(|| path.display().to_string())?;
                let mut reading =
                    Reading { place: at.clone(), exports: BTreeMap::new(), names: BTreeSet::new() };
                reading.visit_file(&file);
                let Reading { exports, names, .. } = reading;
                self.modules.insert(at, Module { exports, names });
            }
        }
        Ok(())
    }

    /// The module that a name belongs to.
    fn home(&self, name: &[String]) -> Place {
        let mut name = name.to_vec();
        // A re-export of a re-export, at most so often.
        for _ in 0..8 {
            let length = (0..=name.len()).rev().find(|length| self.modules.contains_key(&name[..*length]));
            let module = name[..length.unwrap_or(0)].to_vec();
            let next = name.get(module.len()).and_then(|item| self.modules.get(&module)?.exports.get(item));
            match next {
                Some(real) if *real != name => name = real.clone(),
                _ => return module,
            }
        }
        name
    }

    /// For each folder what of it names what else of it, and by which names.
    fn folders(&self) -> BTreeMap<Place, Edges> {
        let mut folders: BTreeMap<Place, Edges> = BTreeMap::new();
        for (from, module) in &self.modules {
            for name in &module.names {
                let to = self.home(name);
                let common = from.iter().zip(&to).take_while(|(one, other)| one == other).count();
                let (Some(one), Some(other)) = (from.get(common), to.get(common)) else {
                    // A folder's face, and what is below it.
                    continue;
                };
                let edges = folders.entry(from[..common].to_vec()).or_default();
                edges.entry((one.clone(), other.clone())).or_default().insert(name.join("::"));
            }
        }
        folders
    }

    fn edges_out_of(&self, unit: &str) -> BTreeSet<(String, String)> {
        let inside = self.modules.iter().filter(|(from, _)| from.first().is_some_and(|first| first == unit));
        let names = inside.flat_map(|(from, module)| module.names.iter().map(move |name| (from, name)));
        names
            .map(|(from, name)| (from.join("::"), self.home(name)))
            .filter(|(_, to)| to.first().is_none_or(|first| first != unit))
            .map(|(from, to)| (from, if to.is_empty() { "lib.rs".to_owned() } else { to.join("::") }))
            .collect()
    }
}

/// Who names whom, by which names.
type Edges = BTreeMap<(String, String), BTreeSet<String>>;

/// The groups of units that can all be reached from each other.
fn circles(edges: &Edges) -> Vec<Vec<String>> {
    let units: BTreeSet<&String> = edges.keys().flat_map(|(from, to)| [from, to]).collect();
    let reach = |start: &String| {
        let (mut seen, mut open) = (BTreeSet::new(), vec![start.clone()]);
        while let Some(at) = open.pop() {
            for (_, to) in edges.keys().filter(|(from, to)| *from == at && from != to) {
                if seen.insert(to.clone()) {
                    open.push(to.clone());
                }
            }
        }
        seen
    };
    let reached: BTreeMap<&String, BTreeSet<String>> =
        units.iter().map(|unit| (*unit, reach(unit))).collect();
    let mut circles: BTreeSet<Vec<String>> = BTreeSet::new();
    for unit in &units {
        if reached[*unit].contains(*unit) {
            let both = units
                .iter()
                .filter(|other| reached[*unit].contains(**other) && reached[**other].contains(*unit));
            circles.insert(both.map(|other| (*other).clone()).collect());
        }
    }
    circles.into_iter().collect()
}

/// What a file names.
struct Reading {
    place: Place,
    exports: BTreeMap<String, Place>,
    names: BTreeSet<Place>,
}

impl Reading {
    /// A path as it is written, from the crate's root; `None`: it is another crate's, or of this module.
    fn resolve(&self, path: &[String]) -> Option<Place> {
        let mut at = match path.first()?.as_str() {
            "crate" => Vec::new(),
            "self" => self.place.clone(),
            "super" => self.place[..self.place.len().checked_sub(1)?].to_vec(),
            _ => return None,
        };
        for name in &path[1..] {
            if name == "super" {
                at.pop();
            } else {
                at.push(name.clone());
            }
        }
        Some(at)
    }

    fn flatten(&mut self, tree: &syn::UseTree, so_far: &[String], is_public: bool) {
        let with = |ident: &syn::Ident| so_far.iter().cloned().chain([ident.to_string()]).collect::<Place>();
        let mut leaf = |path: &[String], known_as: String| {
            if let Some(name) = self.resolve(path) {
                if is_public {
                    self.exports.insert(known_as, name.clone());
                }
                self.names.insert(name);
            }
        };
        match tree {
            syn::UseTree::Path(path) => self.flatten(&path.tree, &with(&path.ident), is_public),
            // `self` in braces is the module itself.
            syn::UseTree::Name(name) if name.ident == "self" => {
                leaf(so_far, so_far.last().cloned().unwrap_or_default());
            }
            syn::UseTree::Name(name) => leaf(&with(&name.ident), name.ident.to_string()),
            syn::UseTree::Rename(name) => leaf(&with(&name.ident), name.rename.to_string()),
            syn::UseTree::Glob(_) => leaf(so_far, "*".to_owned()),
            syn::UseTree::Group(group) => {
                for tree in &group.items {
                    self.flatten(tree, so_far, is_public);
                }
            }
        }
    }
}

impl<'ast> Visit<'ast> for Reading {
    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        let is_public = !matches!(item.vis, syn::Visibility::Inherited);
        self.flatten(&item.tree, &[], is_public);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let names: Place = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        // `self` alone is the value, `super::` and `crate::` are paths.
        if names.len() > 1
            && let Some(name) = self.resolve(&names)
        {
            self.names.insert(name);
        }
        visit::visit_path(self, path);
    }

    /// `pub(in path)` names nothing.
    fn visit_visibility(&mut self, _visibility: &'ast syn::Visibility) {}

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        // Of modules in the file there are only the tests.
        let is_of_tests = item.attrs.iter().any(|attribute| attribute.path().is_ident("cfg"));
        if !is_of_tests {
            visit::visit_item_mod(self, item);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn krate(files: &[(&str, &str)]) -> Crate {
        let module = |(place, text): &(&str, &str)| {
            let place: Place = place.split_terminator("::").map(str::to_owned).collect();
            let mut reading =
                Reading { place: place.clone(), exports: BTreeMap::new(), names: BTreeSet::new() };
            reading.visit_file(&syn::parse_file(text).unwrap());
            let Reading { exports, names, .. } = reading;
            (place, Module { exports, names })
        };
        Crate { modules: files.iter().map(module).collect() }
    }

    fn all_circles(krate: &Crate) -> Vec<(String, Vec<String>)> {
        let folders = krate.folders();
        let found = folders
            .iter()
            .flat_map(|(folder, edges)| circles(edges).into_iter().map(|circle| (folder.join("::"), circle)));
        found.collect()
    }

    #[test]
    fn this_tree_has_no_circle_that_is_not_known() {
        check(&crate::root()).unwrap();
    }

    #[test]
    fn a_circle_is_found_through_a_use_a_path_and_a_re_export() {
        let krate = krate(&[
            ("", "mod a; mod b; mod c; mod d; pub use self::c::Thing;"),
            ("a", "use crate::b::B;"),
            ("b", "fn f() { super::c::call() }"),
            ("c", "use super::a; pub struct Thing;"),
            ("d", "use crate::Thing;"),
        ]);
        let names = ["a", "b", "c"].map(str::to_owned).to_vec();
        assert_eq!(all_circles(&krate), [(String::new(), names)]);
        assert!(krate.edges_out_of("d").contains(&("d".to_owned(), "c".to_owned())));
    }

    #[test]
    fn a_folder_counts_as_one_above_and_its_files_each_within() {
        let krate = krate(&[
            ("a", "mod x; mod y; use crate::b::B;"),
            ("a::x", "use super::y::Y; use super::Own;"),
            ("a::y", "use super::x::X;"),
            ("b", "use crate::a::x::X;"),
        ]);
        let pair = |names: [&str; 2]| names.map(str::to_owned).to_vec();
        let expected = [(String::new(), pair(["a", "b"])), ("a".to_owned(), pair(["x", "y"]))];
        assert_eq!(all_circles(&krate), expected);
    }

    #[test]
    fn tests_and_other_crates_tie_nothing() {
        let krate = krate(&[
            ("a", "use b::B; use std::fmt; #[cfg(test)] mod tests { use crate::b::B; }"),
            ("b", "use crate::a::A;"),
        ]);
        assert_eq!(all_circles(&krate), []);
    }
}
