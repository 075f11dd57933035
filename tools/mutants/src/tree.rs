//! A copy of the tree, to plant errors in.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, bail};

/// A copy of the tree's files, as they are now, and what is built of it.
pub struct Copy {
    path: PathBuf,
    target: PathBuf,
}

impl Copy {
    /// Copies to a folder what git knows or would know. What is there and the same stays untouched, so that it is not built again.
    ///
    /// # Errors
    /// When there is no git, or a file cannot be copied.
    pub fn of(root: &Path, to: &Path) -> anyhow::Result<Self> {
        // A folder of its own to build in: cargo takes a workspace's crate in another place for the same one.
        let folder = root.join(to);
        let copy = Self { path: folder.join("tree"), target: folder.join("target") };
        let listed = Command::new("git")
            .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
            .current_dir(root)
            .output()
            .context("git cannot be run")?;
        if !listed.status.success() {
            bail!("git ls-files: {}", String::from_utf8_lossy(&listed.stderr));
        }
        let names = String::from_utf8_lossy(&listed.stdout);
        let names: Vec<&str> = names.split_terminator('\0').collect();
        for name in &names {
            let from = root.join(name);
            // Deleted, and git was not told; or a link to tools.
            if from.is_file() {
                let bytes = fs::read(&from).with_context(|| from.display().to_string())?;
                copy.write_bytes(name, &bytes)?;
            }
        }
        copy.remove_others(&copy.path, &names)?;
        Ok(copy)
    }

    /// Its folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where it is built.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Gives a file this text.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, name: &str, text: &str) -> anyhow::Result<()> {
        self.write_bytes(name, text.as_bytes())
    }

    fn write_bytes(&self, name: &str, bytes: &[u8]) -> anyhow::Result<()> {
        let path = self.path.join(name);
        if fs::read(&path).is_ok_and(|there| there == bytes) {
            return Ok(());
        }
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(&path, bytes).with_context(|| path.display().to_string())
    }

    /// Cargo builds what it finds: an example, a test.
    fn remove_others(&self, folder: &Path, names: &[&str]) -> anyhow::Result<()> {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                self.remove_others(&path, names)?;
            } else if !path
                .strip_prefix(&self.path)
                .is_ok_and(|name| names.iter().any(|n| Path::new(n) == name))
            {
                fs::remove_file(&path)?;
            }
        }
        Ok(())
    }
}
