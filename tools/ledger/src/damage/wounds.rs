//! What is done to a copy of a data directory before a server is started on it.

use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};

use super::template::{Template, copy};

/// Bytes of a page.
const PAGE: u64 = 4096;
/// Bytes of a segment's header.
const HEADER: u64 = 64;
/// Bytes of one of a cursor's two slots.
const SLOT: u64 = 4096;

/// The copy, before it is damaged.
pub struct Patient<'a> {
    /// It.
    pub directory: &'a Path,
    /// What it was.
    pub template: &'a Template,
    /// Chooses, where there is a choice.
    pub random: fastrand::Rng,
    /// Its segments by shard, oldest first, each with its first offset.
    segments: BTreeMap<usize, Vec<(u64, PathBuf)>>,
    /// By shard, the offset of the first message that nobody has passed.
    needed: BTreeMap<usize, u64>,
}

/// What was done.
pub struct Wound {
    /// In words.
    pub what: String,
    /// What a refusal has to name; one of them is enough.
    pub names: Vec<String>,
}

impl Wound {
    fn of(path: &Path, what: &str) -> Option<Self> {
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let folder =
            path.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy().into_owned();
        let shard = folder.strip_prefix("shard-").and_then(|number| number.parse::<usize>().ok());
        let mut names = vec![file.clone()];
        names.extend(shard.map(|shard| format!("shard {shard}")));
        let digits = file.strip_suffix(".segment").and_then(|digits| digits.parse::<u64>().ok());
        names.extend(digits.map(|first| format!("offset {first},")));
        Some(Self { what: format!("{folder}/{file}: {what}"), names })
    }
}

/// Damages the copy; `None` where the template has nothing to damage in this way.
pub type Inflict = fn(&mut Patient<'_>) -> Result<Option<Wound>>;

/// What can be done to files, with names.
pub const WOUNDS: &[(&str, Inflict)] = &[
    ("nothing", |_| Ok(Some(Wound { what: "nothing".to_owned(), names: Vec::new() }))),
    ("last-segment-emptied", |patient| patient.cut(Place::Last, |_| 0)),
    ("last-segment-cut-to-2000-bytes", |patient| patient.cut(Place::Last, |_| 2000)),
    ("last-segment-halved", |patient| patient.cut(Place::Last, |used| used / 2)),
    ("last-segment-removed", |patient| patient.remove(Place::Last)),
    ("first-segment-removed", |patient| patient.remove(Place::First)),
    ("first-needed-segment-removed", |patient| patient.remove(Place::FirstNeeded)),
    ("middle-segment-removed", |patient| patient.remove(Place::Middle)),
    ("last-page-zeroed", last_page_zeroed),
    ("bit-flipped-in-the-last-segment", |patient| patient.flip(Place::Last)),
    ("bit-flipped-in-a-middle-segment", |patient| patient.flip(Place::Middle)),
    ("bit-flipped-in-the-first-needed-segment", |patient| patient.flip(Place::FirstNeeded)),
    ("bit-flipped-in-a-passed-segment", |patient| patient.flip(Place::Passed)),
    ("header-zeroed-of-the-last-segment", |patient| patient.zero_header(Place::Last)),
    ("header-zeroed-of-a-middle-segment", |patient| patient.zero_header(Place::Middle)),
    ("header-zeroed-of-a-passed-segment", |patient| patient.zero_header(Place::Passed)),
    ("segments-of-one-name-swapped-between-shards", first_segments_swapped),
    ("middle-segments-swapped-within-a-shard", middle_segments_swapped),
    ("segment-moved-to-another-shard", segment_moved),
    ("segment-copied-over-its-neighbour", segment_copied_over),
    ("segment-copied-over-another-shards", segment_copied_over_another_shards),
    ("cursor-emptied", |patient| patient.cursor(|path, _| Ok(file(path)?.set_len(0)?), "emptied")),
    ("cursor-bit-flipped", |patient| {
        patient.cursor(|path, bit| flip_cursor(path, bit, false), "a bit flipped")
    }),
    ("cursor-bits-flipped-in-both-slots", |patient| {
        patient.cursor(|path, bit| flip_cursor(path, bit, true), "a bit flipped in each slot")
    }),
    ("cursor-removed", |patient| patient.cursor(|path, _| Ok(fs::remove_file(path)?), "removed")),
    ("cursor-replaced-by-an-older-one", older_cursors),
    ("id-removed", |patient| {
        let path = patient.directory.join("id");
        fs::remove_file(&path)?;
        Ok(Some(Wound { what: "id removed".to_owned(), names: vec!["/id".to_owned()] }))
    }),
    ("id-changed", |patient| {
        let path = patient.directory.join("id");
        fs::write(&path, format!("{:032x}\n", patient.random.u128(..)))?;
        Ok(Some(Wound { what: "another id".to_owned(), names: vec!["/id".to_owned()] }))
    }),
    ("shard-directory-removed", |patient| {
        let shard = patient.any_shard();
        let path = patient.directory.join(format!("shard-{shard:03}"));
        fs::remove_dir_all(&path)?;
        let names = vec![format!("shard-{shard:03}"), format!("shard {shard}")];
        Ok(Some(Wound { what: format!("shard-{shard:03} removed"), names }))
    }),
];

/// Which segment of a shard.
#[derive(Clone, Copy)]
enum Place {
    First,
    /// The one with the first message that nobody has passed.
    FirstNeeded,
    /// One that everybody has passed.
    Passed,
    /// One that is needed, and neither the first of these nor the last.
    Middle,
    Last,
}

impl<'a> Patient<'a> {
    /// Looks at a copy.
    pub fn new(
        directory: &'a Path,
        template: &'a Template,
        random: fastrand::Rng,
        needed: BTreeMap<usize, u64>,
    ) -> Result<Self> {
        let mut segments = BTreeMap::new();
        for shard in 0..template.cores {
            let folder = directory.join(format!("shard-{shard:03}"));
            let mut found = Vec::new();
            for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
                let path = entry?.path();
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                let first = name.strip_suffix(".segment").and_then(|digits| digits.parse().ok());
                found.extend(first.map(|first: u64| (first, path)));
            }
            found.sort();
            ensure!(found.len() >= 4, "{} has {} segments, which is too few", folder.display(), found.len());
            segments.insert(shard, found);
        }
        Ok(Self { directory, template, random, segments, needed })
    }

    fn any_shard(&mut self) -> usize {
        self.random.usize(..self.template.cores)
    }

    /// The segment at such a place of a shard.
    fn segment_of(&mut self, shard: usize, place: Place) -> Option<PathBuf> {
        let segments = &self.segments[&shard];
        let needed = self.needed.get(&shard).copied().unwrap_or(0);
        let first_needed = segments.iter().rposition(|(first, _)| *first <= needed).unwrap_or(0);
        let last = segments.len() - 1;
        let index = match place {
            Place::First => 0,
            Place::FirstNeeded => first_needed,
            Place::Passed => self.random.choice(0..first_needed)?,
            Place::Middle => self.random.choice(first_needed + 1..last)?,
            Place::Last => last,
        };
        Some(segments[index].1.clone())
    }

    fn segment(&mut self, place: Place) -> Option<PathBuf> {
        let shard = self.any_shard();
        self.segment_of(shard, place)
    }

    fn cut(&mut self, place: Place, length: impl FnOnce(u64) -> u64) -> Result<Option<Wound>> {
        let Some(path) = self.segment(place) else { return Ok(None) };
        let (used, length) = (used(&path)?, length(used(&path)?));
        file(&path)?.set_len(length)?;
        Ok(Wound::of(&path, &format!("cut to {length} of the {used} bytes in use")))
    }

    fn remove(&mut self, place: Place) -> Result<Option<Wound>> {
        let Some(path) = self.segment(place) else { return Ok(None) };
        fs::remove_file(&path)?;
        Ok(Wound::of(&path, "removed"))
    }

    /// A bit in the second quarter of what is in use: in the last segment what was never acknowledged is behind that, mostly.
    fn flip(&mut self, place: Place) -> Result<Option<Wound>> {
        let Some(path) = self.segment(place) else { return Ok(None) };
        let used = used(&path)?;
        let at = self.random.u64(HEADER + (used - HEADER) / 4..HEADER + (used - HEADER) / 2);
        let bit = self.random.u8(..8);
        flip(&path, at, bit)?;
        Ok(Wound::of(&path, &format!("bit {bit} of byte {at} flipped")))
    }

    fn zero_header(&mut self, place: Place) -> Result<Option<Wound>> {
        let Some(path) = self.segment(place) else { return Ok(None) };
        file(&path)?.write_all_at(&[0; HEADER as usize], 0)?;
        Ok(Wound::of(&path, "its header zeroed"))
    }

    fn cursor(&mut self, damage: impl FnOnce(&Path, u64) -> Result<()>, what: &str) -> Result<Option<Wound>> {
        let Some(entry) = fs::read_dir(self.directory.join("cursors"))?.next() else { return Ok(None) };
        let path = entry?.path();
        // Within what is in use of a slot: sequence, count, and a position.
        damage(&path, self.random.u64(..20 * 8))?;
        Ok(Wound::of(&path, what))
    }
}

fn file(path: &Path) -> Result<fs::File> {
    OpenOptions::new().read(true).write(true).open(path).with_context(|| path.display().to_string())
}

/// Bytes up to the last one that is not zero: the rest of a segment is preallocated.
fn used(path: &Path) -> Result<u64> {
    let bytes = fs::read(path)?;
    Ok(bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last as u64 + 1))
}

fn flip(path: &Path, at: u64, bit: u8) -> Result<()> {
    let file = file(path)?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at)?;
    byte[0] ^= 1 << bit;
    Ok(file.write_all_at(&byte, at)?)
}

/// Flips a bit of the newer slot, or the same one of both.
fn flip_cursor(path: &Path, bit: u64, both: bool) -> Result<()> {
    let bytes = fs::read(path)?;
    let sequence =
        |slot: u64| bytes.get(slot as usize..)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
    let newer = if sequence(SLOT) > sequence(0) { SLOT } else { 0 };
    for slot in [0, SLOT] {
        if both || slot == newer {
            flip(path, slot + bit / 8, (bit % 8) as u8)?;
        }
    }
    Ok(())
}

fn last_page_zeroed(patient: &mut Patient<'_>) -> Result<Option<Wound>> {
    let Some(path) = patient.segment(Place::Last) else { return Ok(None) };
    let used = used(&path)?;
    let start = used.saturating_sub(1) / PAGE * PAGE;
    let file = file(&path)?;
    let length = PAGE.min(file.metadata()?.len() - start);
    file.write_all_at(&vec![0; length as usize], start)?;
    Ok(Wound::of(&path, &format!("bytes {start} to {used}, its last page in use, zeroed")))
}

/// The first segments of two shards have one name.
fn first_segments_swapped(patient: &mut Patient<'_>) -> Result<Option<Wound>> {
    let (Some(one), Some(other)) = (patient.segment_of(0, Place::First), patient.segment_of(1, Place::First))
    else {
        return Ok(None);
    };
    if one.file_name() != other.file_name() {
        return Ok(None);
    }
    swap(&one, &other)?;
    let wound = Wound::of(&one, "swapped with the one of shard 1");
    Ok(wound.map(|wound| Wound { names: [wound.names, vec!["shard 1".to_owned()]].concat(), ..wound }))
}

fn middle_segments_swapped(patient: &mut Patient<'_>) -> Result<Option<Wound>> {
    let shard = patient.any_shard();
    let (Some(one), Some(other)) =
        (patient.segment_of(shard, Place::Middle), patient.segment_of(shard, Place::FirstNeeded))
    else {
        return Ok(None);
    };
    swap(&one, &other)?;
    let other = Wound::of(&other, "").map(|wound| wound.names).unwrap_or_default();
    let wound = Wound::of(&one, &format!("swapped with {}", other.join(", ")));
    Ok(wound.map(|wound| Wound { names: [wound.names, other].concat(), ..wound }))
}

fn segment_moved(patient: &mut Patient<'_>) -> Result<Option<Wound>> {
    let Some(path) = patient.segment_of(0, Place::Middle) else { return Ok(None) };
    let to = patient.directory.join("shard-001").join(path.file_name().unwrap_or_default());
    fs::rename(&path, &to)?;
    let names = ["shard-000", "shard-001", "shard 0", "shard 1"].map(str::to_owned).to_vec();
    Ok(Wound::of(&path, "moved to shard-001").map(|wound| Wound { names, ..wound }))
}

fn segment_copied_over(patient: &mut Patient<'_>) -> Result<Option<Wound>> {
    let shard = patient.any_shard();
    let (Some(from), Some(to)) =
        (patient.segment_of(shard, Place::FirstNeeded), patient.segment_of(shard, Place::Middle))
    else {
        return Ok(None);
    };
    fs::copy(&from, &to)?;
    Ok(Wound::of(&to, "an older one of its shard copied over it"))
}

fn segment_copied_over_another_shards(patient: &mut Patient<'_>) -> Result<Option<Wound>> {
    let (Some(from), Some(to)) = (patient.segment_of(0, Place::First), patient.segment_of(1, Place::First))
    else {
        return Ok(None);
    };
    fs::copy(&from, &to)?;
    Ok(Wound::of(&to, "the first one of shard 0 copied over it"))
}

fn swap(one: &Path, other: &Path) -> Result<()> {
    let aside = one.with_extension("aside");
    fs::rename(one, &aside)?;
    fs::rename(other, one)?;
    Ok(fs::rename(aside, other)?)
}

fn older_cursors(patient: &mut Patient<'_>) -> Result<Option<Wound>> {
    let Some(older) = &patient.template.older_cursors else { return Ok(None) };
    let path = patient.directory.join("cursors");
    fs::remove_dir_all(&path)?;
    copy(older, &path)?;
    Ok(Wound::of(&path, "as they were earlier"))
}
