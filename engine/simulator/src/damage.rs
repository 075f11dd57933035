//! What can happen to files while nobody looks, once all that was written has reached the disk: a power cut that takes the last
//! writes is another fault, and two at once may take more than a start can notice.

use std::path::PathBuf;

use crate::{disk::SimDisk, plan::Damage};

/// Does it, if there is a file for it; says to which.
pub fn apply(disk: &SimDisk, damage: Damage) -> Option<PathBuf> {
    disk.write_out();
    let pick = |paths: &[PathBuf], which: u32| {
        (!paths.is_empty()).then(|| paths[which as usize % paths.len()].clone())
    };
    let all = segments(disk);
    match damage {
        Damage::BitOfSegment(which, how) => {
            let path = pick(&all, which)?;
            disk.damage(&path, |bytes| flip(bytes, how));
            Some(path)
        }
        Damage::CutSegment(which, how) => cut(disk, pick(&all, which)?, how),
        Damage::EmptySegment(which) => {
            let path = pick(&all, which)?;
            disk.damage(&path, Vec::clear);
            Some(path)
        }
        Damage::LoseSegment(which) => lose(disk, pick(&all, which)?),
        Damage::LoseLastSegment(which) => lose(disk, pick(&last_ones(&all), which)?),
        Damage::CutLastSegment(which, how) => cut(disk, pick(&last_ones(&all), which)?, how),
        Damage::ZeroLastPage(which) => {
            let path = pick(&last_ones(&all), which)?;
            disk.damage(&path, |bytes| {
                if let Some(last) = bytes.iter().rposition(|byte| *byte != 0) {
                    // A page, or a part of it in a short file: never all of it.
                    let from = (last / 512 * 512).max(64).min(last);
                    bytes[from..=last].fill(0);
                }
            });
            Some(path)
        }
        Damage::SwapSegments(which, other) => {
            let (one, other) = (pick(&all, which)?, pick(&all, other)?);
            if one == other {
                return None;
            }
            disk.swap(&one, &other);
            Some(one)
        }
        Damage::BitOfCursor(which, how) => {
            let path = pick(&cursors(disk), which)?;
            disk.damage(&path, |bytes| flip(bytes, how));
            Some(path)
        }
        Damage::LoseCursor(which) => lose(disk, pick(&cursors(disk), which)?),
        Damage::BitOfManifest(which, how) => {
            let path = pick(&manifests(disk), which)?;
            disk.damage(&path, |bytes| flip(bytes, how));
            Some(path)
        }
        Damage::EmptyManifest(which) => {
            let path = pick(&manifests(disk), which)?;
            disk.damage(&path, Vec::clear);
            Some(path)
        }
        Damage::LoseManifest(which) => lose(disk, pick(&manifests(disk), which)?),
    }
}

/// The log's segments, dead letters not included.
fn segments(disk: &SimDisk) -> Vec<PathBuf> {
    let is_segment = |path: &PathBuf| {
        path.starts_with("data")
            && !path.starts_with("data/dead-letter")
            && path.extension().is_some_and(|end| end == "segment")
    };
    disk.paths().into_iter().filter(is_segment).collect()
}

/// Of each folder the last one.
fn last_ones(all: &[PathBuf]) -> Vec<PathBuf> {
    let is_last =
        |(at, path): &(usize, &PathBuf)| all.get(at + 1).is_none_or(|next| next.parent() != path.parent());
    all.iter().enumerate().filter(is_last).map(|(_, path)| path.clone()).collect()
}

fn cursors(disk: &SimDisk) -> Vec<PathBuf> {
    disk.paths().into_iter().filter(|path| path.starts_with("data/cursors")).collect()
}

fn manifests(disk: &SimDisk) -> Vec<PathBuf> {
    disk.paths().into_iter().filter(|path| path.starts_with("data/manifests")).collect()
}

fn flip(bytes: &mut [u8], how: u32) {
    // Somewhere in what was written: behind it there is nothing to damage.
    let written = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    if written > 0 {
        bytes[how as usize / 8 % written] ^= 1 << (how % 8);
    }
}

fn cut(disk: &SimDisk, path: PathBuf, how: u32) -> Option<PathBuf> {
    disk.damage(&path, |bytes| {
        let written = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        bytes.truncate(how as usize % written.max(1));
    });
    Some(path)
}

fn lose(disk: &SimDisk, path: PathBuf) -> Option<PathBuf> {
    disk.lose(&path);
    Some(path)
}
