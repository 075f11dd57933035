//! A disk that forgets what was not synced, as a FUSE file system: it keeps two states of everything, what programs
//! see and what would be left after the power fails. Syncs carry over from one to the other; a cut leaves a random
//! part of what was not synced, page by page and name by name, as a real disk does.
//!
//! Everything is read and written past the kernel's page cache (`FOPEN_DIRECT_IO`), so what a cut takes is gone.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ffi::{OsStr, OsString},
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};

const PAGE: usize = 4096;
/// The kernel keeps no names and no attributes.
const TTL: Duration = Duration::ZERO;
const ROOT: u64 = 1;

#[derive(Debug)]
enum Node {
    File {
        now: Vec<u8>,
        disk: Vec<u8>,
        /// Pages that differ, as far as the kernel knows.
        dirty: BTreeSet<usize>,
    },
    Folder {
        now: BTreeMap<OsString, u64>,
        disk: BTreeMap<OsString, u64>,
    },
}

#[derive(Debug)]
struct State {
    nodes: HashMap<u64, Node>,
    next: u64,
    /// Operations that change something until the power fails; `None`: it does not.
    left: Option<u64>,
    /// The power is gone: everything fails.
    dark: bool,
    faults: Faults,
}

/// What goes wrong next.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Faults {
    /// The next sync of a file fails, and its pages count as clean afterwards, as on Linux.
    pub(crate) sync_fails: bool,
    /// The next write takes a part only.
    pub(crate) short_write: bool,
    /// Nothing can be allocated.
    pub(crate) full: bool,
}

impl State {
    /// Counts an operation that changes something.
    fn change(&mut self) -> Result<(), Errno> {
        if let Some(left) = &mut self.left {
            if *left == 0 {
                self.dark = true;
            }
            *left = left.saturating_sub(1);
        }
        if self.dark { Err(Errno::EIO) } else { Ok(()) }
    }

    fn folder(&mut self, number: INodeNo) -> Result<&mut BTreeMap<OsString, u64>, Errno> {
        match self.nodes.get_mut(&number.0) {
            Some(Node::Folder { now, .. }) => Ok(now),
            _ => Err(Errno::ENOTDIR),
        }
    }

    fn file(&mut self, number: INodeNo) -> Result<(&mut Vec<u8>, &mut BTreeSet<usize>), Errno> {
        match self.nodes.get_mut(&number.0) {
            Some(Node::File { now, dirty, .. }) => Ok((now, dirty)),
            _ => Err(Errno::EISDIR),
        }
    }

    fn add(&mut self, parent: INodeNo, name: &OsStr, node: Node) -> Result<FileAttr, Errno> {
        self.change()?;
        let number = self.next;
        if self.folder(parent)?.contains_key(name) {
            return Err(Errno::EEXIST);
        }
        self.next += 1;
        self.nodes.insert(number, node);
        self.folder(parent)?.insert(name.to_owned(), number);
        self.attributes(INodeNo(number))
    }

    fn attributes(&self, number: INodeNo) -> Result<FileAttr, Errno> {
        let (size, kind, perm) = match self.nodes.get(&number.0).ok_or(Errno::ENOENT)? {
            Node::File { now, .. } => (now.len() as u64, FileType::RegularFile, 0o644),
            Node::Folder { .. } => (0, FileType::Directory, 0o755),
        };
        let time = SystemTime::UNIX_EPOCH;
        Ok(FileAttr {
            ino: number,
            size,
            blocks: size.div_ceil(512),
            atime: time,
            mtime: time,
            ctime: time,
            crtime: time,
            kind,
            perm,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: PAGE as u32,
            flags: 0,
        })
    }

    fn resize(&mut self, number: INodeNo, length: usize) -> Result<(), Errno> {
        self.change()?;
        let (now, dirty) = self.file(number)?;
        let (shorter, longer) = (now.len().min(length), now.len().max(length));
        now.resize(length, 0);
        dirty.extend(shorter / PAGE..longer.div_ceil(PAGE));
        Ok(())
    }

    fn write(&mut self, number: INodeNo, position: usize, data: &[u8]) -> Result<usize, Errno> {
        self.change()?;
        let short = std::mem::take(&mut self.faults.short_write) && data.len() > 1;
        let data = if short { &data[..data.len() / 2] } else { data };
        let (now, dirty) = self.file(number)?;
        let end = position + data.len();
        if now.len() < end {
            now.resize(end, 0);
        }
        now[position..end].copy_from_slice(data);
        dirty.extend(position / PAGE..end.div_ceil(PAGE));
        Ok(data.len())
    }

    fn sync(&mut self, number: INodeNo) -> Result<(), Errno> {
        self.change()?;
        let fails = std::mem::take(&mut self.faults.sync_fails);
        match self.nodes.get_mut(&number.0).ok_or(Errno::ENOENT)? {
            Node::File { dirty, .. } if fails => {
                dirty.clear();
                Err(Errno::EIO)
            }
            Node::File { now, disk, dirty } => {
                disk.resize(now.len(), 0);
                for page in std::mem::take(dirty) {
                    carry_over(now, disk, page);
                }
                Ok(())
            }
            Node::Folder { now, disk } => {
                disk.clone_from(now);
                Ok(())
            }
        }
    }

    /// What is left when the power comes back.
    fn restore(&mut self, random: &mut fastrand::Rng) {
        for node in self.nodes.values_mut() {
            match node {
                Node::File { now, disk, dirty } => {
                    if !dirty.is_empty() && random.bool() {
                        disk.resize(now.len(), 0);
                    }
                    for page in std::mem::take(dirty) {
                        if random.bool() {
                            carry_over(now, disk, page);
                        }
                    }
                    now.clone_from(disk);
                }
                Node::Folder { now, disk } => {
                    let names: BTreeSet<OsString> = now.keys().chain(disk.keys()).cloned().collect();
                    for name in names {
                        if now.get(&name) != disk.get(&name) && random.bool() {
                            match now.get(&name) {
                                Some(number) => disk.insert(name, *number),
                                None => disk.remove(&name),
                            };
                        }
                    }
                    now.clone_from(disk);
                }
            }
        }
        self.dark = false;
        self.left = None;
    }
}

/// Copies a page as far as the file on disk reaches.
fn carry_over(now: &[u8], disk: &mut [u8], page: usize) {
    let end = ((page + 1) * PAGE).min(now.len()).min(disk.len());
    if let (Some(from), Some(to)) = (now.get(page * PAGE..end), disk.get_mut(page * PAGE..end)) {
        to.copy_from_slice(from);
    }
}

/// A mounted disk.
pub(crate) struct Disk {
    state: Arc<Mutex<State>>,
    session: Option<BackgroundSession>,
    path: PathBuf,
}

impl Disk {
    /// Mounts an empty one. It takes root, and `/dev/fuse`.
    pub(crate) fn mount() -> io::Result<Self> {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("tidegate-lossy-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path)?;
        let root = Node::Folder { now: BTreeMap::new(), disk: BTreeMap::new() };
        let state = Arc::new(Mutex::new(State {
            nodes: HashMap::from([(ROOT, root)]),
            next: ROOT + 1,
            left: None,
            dark: false,
            faults: Faults::default(),
        }));
        let session = fuser::spawn_mount(Mounted(Arc::clone(&state)), &path, &Config::default());
        match session {
            Ok(session) => Ok(Self { state, session: Some(session), path }),
            Err(error) => {
                std::fs::remove_dir(&path)?;
                Err(error)
            }
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// The power fails after so many more changes.
    pub(crate) fn fail_after(&self, changes: u64) {
        self.lock().left = Some(changes);
    }

    /// The power fails now.
    pub(crate) fn fail(&self) {
        self.lock().dark = true;
    }

    /// The power is back: programs see what is left.
    pub(crate) fn restore(&self, random: &mut fastrand::Rng) {
        self.lock().restore(random);
    }

    /// What goes wrong next.
    pub(crate) fn set_faults(&self, faults: Faults) {
        self.lock().faults = faults;
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Some(session) = self.session.take() {
            // A failing test has said enough.
            let _ = session.umount_and_join();
        }
        let _ = std::fs::remove_dir(&self.path);
    }
}

struct Mounted(Arc<Mutex<State>>);

impl Mounted {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }
}

impl Filesystem for Mounted {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let mut state = self.state();
        let number = state.folder(parent).and_then(|folder| folder.get(name).copied().ok_or(Errno::ENOENT));
        match number.and_then(|number| state.attributes(INodeNo(number))) {
            Ok(attributes) => reply.entry(&TTL, &attributes, Generation(0)),
            Err(error) => reply.error(error),
        }
    }

    fn getattr(&self, _: &Request, number: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.state().attributes(number) {
            Ok(attributes) => reply.attr(&TTL, &attributes),
            Err(error) => reply.error(error),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        number: INodeNo,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let mut state = self.state();
        let resized = size.map_or(Ok(()), |size| state.resize(number, size as usize));
        match resized.and_then(|()| state.attributes(number)) {
            Ok(attributes) => reply.attr(&TTL, &attributes),
            Err(error) => reply.error(error),
        }
    }

    fn mkdir(&self, _: &Request, parent: INodeNo, name: &OsStr, _: u32, _: u32, reply: ReplyEntry) {
        let folder = Node::Folder { now: BTreeMap::new(), disk: BTreeMap::new() };
        match self.state().add(parent, name, folder) {
            Ok(attributes) => reply.entry(&TTL, &attributes, Generation(0)),
            Err(error) => reply.error(error),
        }
    }

    fn create(&self, _: &Request, parent: INodeNo, name: &OsStr, _: u32, _: u32, _: i32, reply: ReplyCreate) {
        let file = Node::File { now: Vec::new(), disk: Vec::new(), dirty: BTreeSet::new() };
        match self.state().add(parent, name, file) {
            Ok(attributes) => {
                reply.created(&TTL, &attributes, Generation(0), FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
            }
            Err(error) => reply.error(error),
        }
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn read(
        &self,
        _: &Request,
        number: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.state().file(number) {
            Ok((now, _)) => {
                let start = now.len().min(offset as usize);
                let end = now.len().min(start + size as usize);
                reply.data(&now[start..end]);
            }
            Err(error) => reply.error(error),
        }
    }

    fn write(
        &self,
        _: &Request,
        number: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.state().write(number, offset as usize, data) {
            Ok(written) => reply.written(written as u32),
            Err(error) => reply.error(error),
        }
    }

    fn fallocate(
        &self,
        _: &Request,
        number: INodeNo,
        _: FileHandle,
        offset: u64,
        length: u64,
        _: i32,
        reply: ReplyEmpty,
    ) {
        let mut state = self.state();
        let full = state.faults.full;
        let grown = if full { Err(Errno::ENOSPC) } else { state.resize(number, (offset + length) as usize) };
        match grown {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(error),
        }
    }

    fn fsync(&self, _: &Request, number: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        match self.state().sync(number) {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(error),
        }
    }

    fn fsyncdir(
        &self,
        request: &Request,
        number: INodeNo,
        handle: FileHandle,
        only: bool,
        reply: ReplyEmpty,
    ) {
        self.fsync(request, number, handle, only, reply);
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let mut state = self.state();
        let removed = state.change().and_then(|()| state.folder(parent)?.remove(name).ok_or(Errno::ENOENT));
        match removed {
            Ok(_) => reply.ok(),
            Err(error) => reply.error(error),
        }
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        _: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let mut state = self.state();
        let renamed = state.change().and_then(|()| {
            let number = state.folder(parent)?.remove(name).ok_or(Errno::ENOENT)?;
            state.folder(new_parent)?.insert(new_name.to_owned(), number);
            Ok(())
        });
        match renamed {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(error),
        }
    }

    fn readdir(&self, _: &Request, number: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let mut state = self.state();
        let entries = match state.folder(number) {
            Ok(folder) => folder.clone(),
            Err(error) => return reply.error(error),
        };
        for (place, (name, number)) in entries.iter().enumerate().skip(offset as usize) {
            let kind = match state.nodes.get(number) {
                Some(Node::Folder { .. }) => FileType::Directory,
                _ => FileType::RegularFile,
            };
            if reply.add(INodeNo(*number), place as u64 + 1, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let free = if self.state().faults.full { 0 } else { 1 << 20 };
        reply.statfs(1 << 20, free, free, 1 << 20, 1 << 20, PAGE as u32, 255, PAGE as u32);
    }
}
