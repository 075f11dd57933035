//! The disk under the log: the machine's, or a simulated one that loses, tears and refuses by a seed.
//!
//! All paths are as the caller gave them. What is written is durable once its file was synced, and a name once its folder
//! was: the same holds for every implementation, and nothing more.

use std::{
    fmt::Debug,
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read, Write},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
    sync::Arc,
};

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Open {
    /// To be read; it has to be there.
    Read,
    /// To be read and written; it has to be there.
    Write,
    /// To be read and written; made if it is not there.
    Create,
    /// To be read and written, and empty.
    Empty,
    /// The same, and for nobody but this user.
    Private,
}

/// A file. Positions and lengths are in bytes.
pub trait DiskFile: Debug + Send + Sync {
    /// Reads at a position; 0 at the end.
    ///
    /// # Errors
    /// As the system says.
    fn read_at(&self, bytes: &mut [u8], position: u64) -> io::Result<usize>;

    /// Writes all of it.
    ///
    /// # Errors
    /// As the system says; any part of it may be written then.
    fn write_all_at(&self, bytes: &[u8], position: u64) -> io::Result<()>;

    /// Takes room for so many bytes, which are zeros.
    ///
    /// # Errors
    /// When there is no room.
    fn allocate(&self, bytes: u64) -> io::Result<()>;

    /// Cuts the file, or makes it longer by a hole.
    ///
    /// # Errors
    /// As the system says.
    fn set_len(&self, bytes: u64) -> io::Result<()>;

    /// Its length.
    ///
    /// # Errors
    /// As the system says.
    fn length(&self) -> io::Result<u64>;

    /// Makes what was written durable, and of the length what is needed to read it (fdatasync).
    ///
    /// # Errors
    /// As the system says; what was written since the last sync may be lost whatever a later one says.
    fn sync_data(&self) -> io::Result<()>;

    /// Makes it durable with all of its metadata (fsync).
    ///
    /// # Errors
    /// As for [`sync_data`](Self::sync_data).
    fn sync_all(&self) -> io::Result<()>;

    /// The machine's file, for those who have a faster way to it.
    fn as_file(&self) -> Option<&File> {
        None
    }
}

/// A lock on a file, held until it is dropped.
pub trait DiskLock: Debug + Send + Sync {
    /// Whether the file that is locked is still the one of that name: else another process may hold a lock of the same name.
    fn is_still_there(&self) -> bool;
}

/// Folders and files.
pub trait Disk: Debug + Send + Sync {
    /// Opens a file.
    ///
    /// # Errors
    /// As the system says.
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn DiskFile>>;

    /// Makes a folder.
    ///
    /// # Errors
    /// Also when it is there.
    fn create_folder(&self, path: &Path) -> io::Result<()>;

    /// Whether there is a folder or a file.
    fn exists(&self, path: &Path) -> bool;

    /// The names in a folder, in any order.
    ///
    /// # Errors
    /// As the system says.
    fn list(&self, folder: &Path) -> io::Result<Vec<String>>;

    /// Gives a file another name, in place of what had it.
    ///
    /// # Errors
    /// As the system says.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Deletes a file.
    ///
    /// # Errors
    /// As the system says.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Makes the names in a folder durable.
    ///
    /// # Errors
    /// As the system says.
    fn sync_folder(&self, folder: &Path) -> io::Result<()>;

    /// Bytes that are free where this folder is.
    ///
    /// # Errors
    /// As the system says.
    fn free_bytes(&self, folder: &Path) -> io::Result<u64>;

    /// Locks a file, which is made if it is not there, and writes `owner` into it, if that is not empty.
    ///
    /// # Errors
    /// [`NotLocked`].
    fn lock(&self, path: &Path, owner: &str) -> Result<Box<dyn DiskLock>, NotLocked>;
}

/// Why a file was not locked.
#[derive(Debug)]
pub enum NotLocked {
    /// Another process has it, which wrote this about itself.
    Taken(String),
    /// As the system says.
    Io(io::Error),
}

/// The machine's disk.
#[derive(Clone, Copy, Debug, Default)]
pub struct Machine;

/// The machine's disk, for whoever shares it.
pub fn machine() -> Arc<dyn Disk> {
    Arc::new(Machine)
}

impl DiskFile for File {
    fn read_at(&self, bytes: &mut [u8], position: u64) -> io::Result<usize> {
        FileExt::read_at(self, bytes, position)
    }

    fn write_all_at(&self, bytes: &[u8], position: u64) -> io::Result<()> {
        FileExt::write_all_at(self, bytes, position)
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        match rustix::fs::fallocate(self, rustix::fs::FallocateFlags::empty(), 0, bytes) {
            Ok(()) => Ok(()),
            // A file system without it: written out, which allocates as well.
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {
                let zeros = vec![0; 1 << 20];
                let mut at = 0;
                while at < bytes {
                    let piece = zeros.len().min(usize::try_from(bytes - at).unwrap_or(usize::MAX));
                    FileExt::write_all_at(self, &zeros[..piece], at)?;
                    at += piece as u64;
                }
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        File::set_len(self, bytes)
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn sync_data(&self) -> io::Result<()> {
        File::sync_data(self)
    }

    fn sync_all(&self) -> io::Result<()> {
        File::sync_all(self)
    }

    fn as_file(&self) -> Option<&File> {
        Some(self)
    }
}

/// A lock of the operating system, which a crash gives back, too.
#[derive(Debug)]
struct MachineLock {
    file: File,
    path: std::path::PathBuf,
}

impl DiskLock for MachineLock {
    fn is_still_there(&self) -> bool {
        use std::os::unix::fs::MetadataExt;
        match (self.file.metadata(), fs::metadata(&self.path)) {
            (Ok(ours), Ok(named)) => (ours.dev(), ours.ino()) == (named.dev(), named.ino()),
            (_, Err(error)) => error.kind() != io::ErrorKind::NotFound,
            (Err(_), _) => true,
        }
    }
}

impl Disk for Machine {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        options.read(true).write(how != Open::Read);
        options.create(matches!(how, Open::Create | Open::Empty | Open::Private));
        options.truncate(matches!(how, Open::Empty | Open::Private));
        if how == Open::Private {
            options.mode(0o600);
        }
        Ok(Arc::new(options.open(path)?))
    }

    fn create_folder(&self, path: &Path) -> io::Result<()> {
        fs::create_dir(path)
    }

    fn exists(&self, path: &Path) -> bool {
        path.exists()
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        let name = |entry: io::Result<fs::DirEntry>| Ok(entry?.file_name().into_string().ok());
        fs::read_dir(folder)?.filter_map(|entry| name(entry).transpose()).collect()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        File::open(folder)?.sync_all()
    }

    fn free_bytes(&self, folder: &Path) -> io::Result<u64> {
        let disk = rustix::fs::statvfs(folder)?;
        Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
    }

    fn lock(&self, path: &Path, owner: &str) -> Result<Box<dyn DiskLock>, NotLocked> {
        let mut options = OpenOptions::new();
        let opened = options.read(true).write(true).create(true).truncate(false).open(path);
        let mut file = opened.map_err(NotLocked::Io)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut taken_by = String::new();
                // For the message only.
                let _ = file.read_to_string(&mut taken_by);
                return Err(NotLocked::Taken(taken_by.trim().to_owned()));
            }
            Err(TryLockError::Error(error)) => return Err(NotLocked::Io(error)),
        }
        if !owner.is_empty() {
            file.set_len(0).and_then(|()| file.write_all(owner.as_bytes())).map_err(NotLocked::Io)?;
        }
        Ok(Box::new(MachineLock { file, path: path.to_owned() }))
    }
}

/// A file's bytes, all of them.
///
/// # Errors
/// As the system says.
pub fn read(disk: &dyn Disk, path: &Path) -> io::Result<Vec<u8>> {
    let file = disk.open(path, Open::Read)?;
    let length = usize::try_from(file.length()?).map_err(|_| io::Error::other("longer than memory"))?;
    let mut bytes = vec![0; length];
    let filled = read_up_to(&*file, &mut bytes, 0)?;
    bytes.truncate(filled);
    Ok(bytes)
}

/// Whether there is no room for what was to be written: on the disk, or for this user or process.
pub fn is_full(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}

/// Reads until `bytes` are full or the file ends; returns how many were read.
///
/// # Errors
/// As the system says.
pub fn read_up_to(file: &dyn DiskFile, bytes: &mut [u8], position: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < bytes.len() {
        match file.read_at(&mut bytes[filled..], position + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Creates a folder and those above it, so that they are durable: their names, too.
///
/// # Errors
/// As the system says.
pub fn create_folders(disk: &dyn Disk, folder: &Path) -> io::Result<()> {
    if disk.exists(folder) {
        return Ok(());
    }
    let above = match folder.parent() {
        Some(above) if above.as_os_str().is_empty() => Path::new("."),
        Some(above) => above,
        None => return Ok(()),
    };
    create_folders(disk, above)?;
    match disk.create_folder(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    disk.sync_folder(above)
}
