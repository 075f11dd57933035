//! A disk that keeps what POSIX promises and nothing more.
//!
//! What was written is in a cache that every reader sees; it is on the disk once its file was synced, and a name once its
//! folder was. A power cut ([`SimDisk::power_off`] or the step set by [`SimDisk::cut_power_at`]) keeps of the rest any part,
//! sector by sector, in any order; names are kept up to some point of the order in which they were changed, as a journal
//! does. A failed sync has lost what it was to make durable though readers still see it, as in Linux.

mod file;
mod folders;

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use brokers::disk::{Disk, DiskFile, DiskLock, NotLocked, Open};
use parking_lot::Mutex;

use self::{
    file::{Content, SimFile},
    folders::Folders,
};

/// The unit that is written as a whole or not at all, in bytes.
const SECTOR_BYTES: usize = 512;

/// A simulated disk. Clones share it.
#[derive(Clone, Debug)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    files: Vec<Content>,
    folders: Folders,
    /// Bytes that fit.
    capacity: u64,
    /// Steps that change something, so far.
    steps: u64,
    /// The step at which the power goes.
    cut_at: Option<u64>,
    /// The step that fails with an I/O error, once.
    fail_at: Option<u64>,
    /// The write from this step on that lands elsewhere in its file, once.
    misdirect_at: Option<u64>,
    off: bool,
    /// Locks that are held, by file.
    locks: Vec<usize>,
    random: fastrand::Rng,
}

fn no_power() -> io::Error {
    io::Error::from_raw_os_error(rustix::io::Errno::IO.raw_os_error())
}

impl State {
    /// Counts a step; an error when it is not to happen.
    fn step(&mut self) -> io::Result<()> {
        if self.off {
            return Err(no_power());
        }
        self.steps += 1;
        if self.cut_at.is_some_and(|at| self.steps >= at) {
            (self.off, self.cut_at) = (true, None);
            return Err(no_power());
        }
        if self.fail_at.is_some_and(|at| self.steps >= at) {
            self.fail_at = None;
            return Err(no_power());
        }
        Ok(())
    }

    fn used(&self) -> u64 {
        self.folders.files().map(|file| self.files[file].length()).sum()
    }

    /// Whether a file may become this long.
    fn room_for(&self, file: usize, length: u64) -> io::Result<()> {
        let more = length.saturating_sub(self.files[file].length());
        if more > 0 && self.used() + more > self.capacity {
            return Err(io::Error::from_raw_os_error(rustix::io::Errno::NOSPC.raw_os_error()));
        }
        Ok(())
    }
}

impl SimDisk {
    /// An empty disk of so many bytes.
    pub fn new(capacity: u64, seed: u64) -> Self {
        let state = State {
            files: Vec::new(),
            folders: Folders::default(),
            capacity,
            steps: 0,
            cut_at: None,
            fail_at: None,
            misdirect_at: None,
            off: false,
            locks: Vec::new(),
            random: fastrand::Rng::with_seed(seed),
        };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// Steps that change something, so far.
    pub fn steps(&self) -> u64 {
        self.state.lock().steps
    }

    /// Cuts the power at this many steps from now.
    pub fn cut_power_at(&self, steps: u64) {
        let mut state = self.state.lock();
        state.cut_at = Some(state.steps + steps.max(1));
    }

    /// Lets one step fail with an I/O error.
    pub fn fail_once_at(&self, steps: u64) {
        let mut state = self.state.lock();
        state.fail_at = Some(state.steps + steps.max(1));
    }

    /// Lets one write land in another place of its file.
    pub fn misdirect_once_at(&self, steps: u64) {
        let mut state = self.state.lock();
        state.misdirect_at = Some(state.steps + steps.max(1));
    }

    /// Nothing fails any more by what was set.
    pub fn heal(&self) {
        let mut state = self.state.lock();
        (state.cut_at, state.fail_at, state.misdirect_at) = (None, None, None);
    }

    /// Sets the bytes that fit.
    pub fn set_capacity(&self, capacity: u64) {
        self.state.lock().capacity = capacity;
    }

    /// Bytes that are used.
    pub fn used(&self) -> u64 {
        self.state.lock().used()
    }

    /// Whether the power is off.
    pub fn is_off(&self) -> bool {
        self.state.lock().off
    }

    /// Cuts the power now.
    pub fn power_off(&self) {
        self.state.lock().off = true;
    }

    /// Powers on: what was not durable is there in part.
    pub fn power_on(&self) {
        let mut state = self.state.lock();
        let State { files, folders, random, .. } = &mut *state;
        folders.crash(random);
        // Most often all of it is lost or all is there: what lies between is rarer in nature, and easier to get right.
        let luck = random.u8(0..4);
        for file in files {
            file.crash(random, luck);
        }
        (state.off, state.cut_at) = (false, None);
        state.locks.clear();
    }

    /// The process has ended: its locks are given back, what it wrote is still in the cache.
    pub fn process_ended(&self) {
        self.state.lock().locks.clear();
    }

    /// All files, by path.
    pub fn paths(&self) -> Vec<PathBuf> {
        self.state.lock().folders.paths()
    }

    /// Lets what is in the cache reach the disk.
    pub fn write_out(&self) {
        let mut state = self.state.lock();
        state.folders.settle();
        state.files.iter_mut().for_each(Content::sync);
    }

    /// Changes a file's bytes behind everybody's back, durably.
    ///
    /// # Panics
    /// When there is no such file: the simulator asks for those that it has listed.
    pub fn damage(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.state.lock();
        let file = state.folders.find(path).expect("a file that was listed");
        state.files[file].damage(change);
    }

    /// Deletes a file behind everybody's back, durably.
    pub fn lose(&self, path: &Path) {
        self.state.lock().folders.lose(path);
    }

    /// Gives two files each other's names, durably.
    pub fn swap(&self, one: &Path, other: &Path) {
        self.state.lock().folders.swap(one, other);
    }
}

#[derive(Debug)]
struct SimLock {
    disk: SimDisk,
    file: usize,
    path: PathBuf,
}

impl DiskLock for SimLock {
    fn is_still_there(&self) -> bool {
        self.disk.state.lock().folders.find(&self.path) == Some(self.file)
    }
}

impl Drop for SimLock {
    fn drop(&mut self) {
        self.disk.state.lock().locks.retain(|file| *file != self.file);
    }
}

impl Disk for SimDisk {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.state.lock();
        if state.off {
            return Err(no_power());
        }
        let known = state.folders.find(path);
        let file = match known {
            Some(file) => file,
            None if matches!(how, Open::Read | Open::Write) => return Err(io::ErrorKind::NotFound.into()),
            None => {
                state.step()?;
                let file = state.files.len();
                state.files.push(Content::default());
                state.folders.link(path, file)?;
                file
            }
        };
        if matches!(how, Open::Empty | Open::Private) && state.files[file].length() > 0 {
            state.step()?;
            state.files[file].set_length(0);
        }
        Ok(Arc::new(SimFile { state: Arc::clone(&self.state), file, writes: how != Open::Read }))
    }

    fn create_folder(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        if state.folders.has_folder(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        state.step()?;
        state.folders.create(path);
        Ok(())
    }

    fn exists(&self, path: &Path) -> bool {
        let state = self.state.lock();
        state.folders.has_folder(path) || state.folders.find(path).is_some()
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        let state = self.state.lock();
        if state.off {
            return Err(no_power());
        }
        state.folders.list(folder)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        state.step()?;
        state.folders.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        if !state.off && state.folders.find(path).is_none() {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.step()?;
        state.folders.unlink(path)
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        state.step()?;
        state.folders.sync(folder);
        Ok(())
    }

    fn free_bytes(&self, _folder: &Path) -> io::Result<u64> {
        let state = self.state.lock();
        Ok(state.capacity.saturating_sub(state.used()))
    }

    fn lock(&self, path: &Path, owner: &str) -> Result<Box<dyn DiskLock>, NotLocked> {
        let opened = self.open(path, Open::Create).map_err(NotLocked::Io)?;
        let file = {
            let mut state = self.state.lock();
            let Some(file) = state.folders.find(path) else { return Err(NotLocked::Io(no_power())) };
            if state.locks.contains(&file) {
                return Err(NotLocked::Taken("another simulated process".to_owned()));
            }
            state.locks.push(file);
            file
        };
        if !owner.is_empty() {
            opened
                .set_len(0)
                .and_then(|()| opened.write_all_at(owner.as_bytes(), 0))
                .map_err(NotLocked::Io)?;
        }
        Ok(Box::new(SimLock { disk: self.clone(), file, path: path.to_owned() }))
    }
}

#[cfg(test)]
mod tests;
