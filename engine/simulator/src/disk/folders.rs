//! Names of files: as readers see them, and as a power cut leaves them.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

/// A change to the names, in the order in which it was made.
#[derive(Clone, Debug)]
enum Change {
    Create(PathBuf),
    Link(PathBuf, usize),
    Unlink(PathBuf),
    /// A rename within a folder: all of it or nothing.
    Rename(PathBuf, PathBuf),
}

impl Change {
    /// The folder that has to be synced for it.
    fn folder(&self) -> PathBuf {
        let (Change::Create(path) | Change::Link(path, _) | Change::Unlink(path) | Change::Rename(path, _)) =
            self;
        above(path)
    }
}

/// The folder that a path's name is in.
fn above(path: &Path) -> PathBuf {
    path.parent().map(Path::to_path_buf).unwrap_or_default()
}

/// Folders, and which file each name is.
#[derive(Clone, Debug, Default)]
struct Names {
    folders: Vec<PathBuf>,
    files: BTreeMap<PathBuf, usize>,
}

impl Names {
    fn apply(&mut self, change: &Change) {
        match change {
            Change::Create(folder) => self.folders.push(folder.clone()),
            Change::Link(path, file) => {
                self.files.insert(path.clone(), *file);
            }
            Change::Unlink(path) => {
                self.files.remove(path);
            }
            Change::Rename(from, to) => {
                if let Some(file) = self.files.remove(from) {
                    self.files.insert(to.clone(), file);
                }
            }
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Folders {
    seen: Names,
    durable: Names,
    changes: Vec<Change>,
}

impl Folders {
    fn change(&mut self, change: Change) {
        self.seen.apply(&change);
        self.changes.push(change);
    }

    pub(super) fn has_folder(&self, path: &Path) -> bool {
        path.as_os_str().is_empty()
            || path == Path::new(".")
            || self.seen.folders.iter().any(|folder| folder == path)
    }

    pub(super) fn create(&mut self, path: &Path) {
        self.change(Change::Create(path.to_owned()));
    }

    pub(super) fn find(&self, path: &Path) -> Option<usize> {
        self.seen.files.get(path).copied()
    }

    pub(super) fn link(&mut self, path: &Path, file: usize) -> io::Result<()> {
        if !self.has_folder(&above(path)) {
            return Err(io::ErrorKind::NotFound.into());
        }
        self.change(Change::Link(path.to_owned(), file));
        Ok(())
    }

    pub(super) fn unlink(&mut self, path: &Path) -> io::Result<()> {
        self.find(path).ok_or(io::ErrorKind::NotFound)?;
        self.change(Change::Unlink(path.to_owned()));
        Ok(())
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        self.find(from).ok_or(io::ErrorKind::NotFound)?;
        self.change(Change::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    pub(super) fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        if !self.has_folder(folder) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let paths = self.seen.folders.iter().chain(self.seen.files.keys());
        let name = |path: &PathBuf| {
            (above(path) == folder).then(|| path.file_name()?.to_str().map(str::to_owned)).flatten()
        };
        Ok(paths.filter_map(name).collect())
    }

    /// Makes what was changed in a folder durable, and what was changed anywhere before it: a journal has one order.
    pub(super) fn sync(&mut self, folder: &Path) {
        let folder = if folder == Path::new(".") { Path::new("") } else { folder };
        if let Some(last) = self.changes.iter().rposition(|change| change.folder() == folder) {
            for change in self.changes.drain(..=last) {
                self.durable.apply(&change);
            }
        }
    }

    /// Keeps the changes up to some point.
    pub(super) fn crash(&mut self, random: &mut fastrand::Rng) {
        let kept = random.usize(0..=self.changes.len());
        for change in self.changes.drain(..).take(kept) {
            self.durable.apply(&change);
        }
        self.seen = self.durable.clone();
    }

    pub(super) fn files(&self) -> impl Iterator<Item = usize> + '_ {
        self.seen.files.values().copied()
    }

    pub(super) fn paths(&self) -> Vec<PathBuf> {
        self.seen.files.keys().cloned().collect()
    }

    /// Makes all changes durable.
    pub(super) fn settle(&mut self) {
        for change in self.changes.drain(..) {
            self.durable.apply(&change);
        }
    }

    pub(super) fn lose(&mut self, path: &Path) {
        self.change(Change::Unlink(path.to_owned()));
        self.settle();
    }

    pub(super) fn swap(&mut self, one: &Path, other: &Path) {
        if let (Some(first), Some(second)) = (self.find(one), self.find(other)) {
            self.change(Change::Link(one.to_owned(), second));
            self.change(Change::Link(other.to_owned(), first));
            self.settle();
        }
    }
}
