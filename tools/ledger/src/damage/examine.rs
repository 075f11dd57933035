//! What becomes of a damaged directory: what the tools say, what the start says, what is missing, whether it goes on.

use std::{
    collections::{HashMap, HashSet},
    fs,
    path::{Path, PathBuf},
};

use anyhow::Result;

use super::{
    row::{Row, Tool},
    server::{self, Kept, Life, Server, Setup, Start, name_of, names, subject_of},
    template::Template,
    wounds::Wound,
};
use crate::{downstream, verdict::Sent};

/// Messages sent again, from the first and from the last ones with a key.
const REPEATS: usize = 64;
/// New messages after a start.
const NEW: u64 = 160;

/// A damaged directory, and how it is started.
pub struct Case<'a> {
    /// What the damage is called.
    pub name: &'a str,
    /// The directory.
    pub directory: PathBuf,
    /// Where the rest of the case is kept.
    pub folder: PathBuf,
    /// Where it came from.
    pub template: &'a Template,
    /// What was done.
    pub wound: Wound,
    /// By shard, the offset up to which all was passed before.
    pub passed: HashMap<u64, u64>,
    /// What was acknowledged and must be there.
    pub kept: Vec<Kept>,
    /// All that was sent.
    pub sent: Vec<Sent>,
    /// Cores of each start, one after the other.
    pub cores: Vec<usize>,
    /// Further settings.
    pub set: Vec<String>,
    /// The stream it delivers to.
    pub stream: String,
    /// The streams that earlier lives delivered to.
    pub earlier: Vec<String>,
    /// A server that `replay` sends to.
    pub replay_to: u16,
}

/// Does everything with a case.
pub fn examine(setup: &Setup, mut case: Case<'_>) -> Result<Row> {
    let mut row = Row::new(case.name, &case.wound);
    if let Some(url) = &setup.nats {
        downstream::create_stream(url, &case.stream, &subject_of(&case.stream))?;
    }
    ask_the_tools(setup, &case, &mut row)?;
    for (number, cores) in case.cores.clone().into_iter().enumerate() {
        let (directory, stream) = (case.directory.clone(), case.stream.clone());
        let (folder, set) = (case.folder.clone(), case.set.clone());
        let life = |label: &str| Life {
            directory: &directory,
            output: folder.join(format!("{label}-{number}")),
            cores,
            onward: Some(&stream),
            set: set.clone(),
        };
        let refusal = match setup.start(&life("start"))? {
            Start::Up(server) => work(setup, &mut case, &format!("new-{number}"), server, &mut row)?,
            Start::Refused(why) => Some(why),
        };
        let Some(why) = refusal else { continue };
        row.refused(&why, &case.wound);
        repair(setup, &case, &mut row)?;
        let life = life("after-repair");
        match setup.start(&life)? {
            Start::Up(server) => {
                let ended = work(setup, &mut case, &format!("repaired-{number}"), server, &mut row)?;
                row.stuck.extend(ended.map(|why| format!("after the repair it ends: {why}")));
            }
            Start::Refused(why) => {
                row.processed = None;
                row.stuck.push(format!("after the repair it is refused: {why}"));
            }
        }
    }
    look_for_all(setup, &case, &mut row)?;
    Ok(row)
}

/// Verify, dump and replay of the directory as it was found.
fn ask_the_tools(setup: &Setup, case: &Case<'_>, row: &mut Row) -> Result<()> {
    let directory = case.directory.display().to_string();
    let (whole, said) = setup.tool(&["log", "verify", "--directory", &directory])?;
    row.verify = Tool { content: whole, missing: 0 };
    row.note(said.lines().find(|line| line.starts_with("DAMAGED")).map(|line| format!("verify: {line}")));
    let (found, trouble) = downstream::dump(&setup.tidegate, &case.directory)?;
    let there: HashSet<&str> = found.iter().map(|(_, found)| name_of(&found.payload)).collect();
    let missing = case.kept.iter().filter(|kept| !there.contains(kept.sent.id.as_str())).count();
    row.dump = Tool { content: trouble.is_none(), missing };
    let url = format!("http://127.0.0.1:{}", case.replay_to);
    let (content, said) = setup.tool(&["replay", "--directory", &directory, "--url", &url])?;
    let sent = said.lines().find_map(|line| line.split_once(" messages sent to")?.0.parse::<usize>().ok());
    // It sends what was not acknowledged, too: the dump says how many of these there are.
    let known = names(&case.kept);
    let others = found.iter().filter(|(_, found)| !known.contains(name_of(&found.payload))).count();
    row.replay = Tool { content, missing: (case.kept.len() + others).saturating_sub(sent.unwrap_or(0)) };
    Ok(())
}

/// How far the slowest consumer is, by shard.
pub fn positions(setup: &Setup, directory: &Path) -> Result<HashMap<u64, u64>> {
    let (_, said) = setup.tool(&["log", "stat", "--directory", &directory.display().to_string()])?;
    let mut positions: HashMap<u64, u64> = HashMap::new();
    for line in said.lines().filter(|line| line.starts_with("consumer ")) {
        let places = line.split_once('(').map_or("", |(_, places)| places.trim_end_matches(')'));
        for place in places.split(", ") {
            let Some((shard, offset)) =
                place.strip_prefix("shard ").and_then(|place| place.split_once(" at "))
            else {
                continue;
            };
            let (shard, offset) = (shard.parse()?, offset.parse::<u64>()?);
            positions.entry(shard).and_modify(|known| *known = offset.min(*known)).or_insert(offset);
        }
    }
    Ok(positions)
}

/// Sends repeats and new messages to a server, and waits until nothing waits. `Some` when it ends by itself.
fn work(
    setup: &Setup,
    case: &mut Case<'_>,
    name: &str,
    mut server: Server,
    row: &mut Row,
) -> Result<Option<String>> {
    let keyed: Vec<(Sent, bool)> =
        case.kept.iter().filter(|kept| kept.keyed).map(|kept| (kept.sent.clone(), true)).collect();
    let ends = keyed.len().min(REPEATS / 2);
    let repeats = [&keyed[..ends], &keyed[keyed.len() - ends..]].concat();
    let again: Vec<Kept> = server.send_all(&repeats).into_iter().filter(|answer| !answer.duplicate).collect();
    let messages: Vec<(Sent, bool)> = (1..=NEW).map(|n| (server::message(name, n), n % 2 == 0)).collect();
    case.sent.extend(messages.iter().map(|(sent, _)| sent.clone()));
    let new = server.send_all(&messages);
    let known: HashMap<(u64, u64), &str> =
        case.kept.iter().map(|kept| (kept.place, kept.sent.id.as_str())).collect();
    for one in new.iter().chain(&again) {
        if let Some(old) = known.get(&one.place).filter(|old| **old != one.sent.id) {
            row.offsets_twice += 1;
            let (shard, offset) = one.place;
            row.note((row.offsets_twice == 1).then(|| format!("shard {shard} offset {offset} was {old}'s")));
        }
    }
    row.taken_again.extend(again.iter().map(|again| again.sent.id.clone()));
    let taken = new.len();
    case.kept.extend(new);
    let behind = setup.settle(&case.directory)?;
    if let Some(why) = server.ended() {
        // What it did is in no last line.
        row.processed = None;
        return Ok(Some(why));
    }
    if taken < messages.len() {
        row.stuck.push(format!("{taken} of {NEW} new messages were taken"));
    }
    if behind > 0 {
        row.stuck.push(format!("{behind} messages are not passed on"));
    }
    let processed = server.stop()?;
    row.processed = row.processed.zip(processed).map(|(before, more)| before + more as usize);
    Ok(None)
}

/// Repairs, and reads what that said.
fn repair(setup: &Setup, case: &Case<'_>, row: &mut Row) -> Result<()> {
    let (directory, salvage) = (case.directory.display().to_string(), case.folder.join("salvage"));
    let salvage = salvage.display().to_string();
    let (content, said) = setup.tool(&["log", "repair", "--directory", &directory, "--salvage", &salvage])?;
    let lost = said.lines().filter_map(|line| line.trim().strip_prefix("lost: ")?.rsplit_once('('));
    let lost = lost.filter_map(|(_, count)| count.split(' ').next()?.parse::<usize>().ok());
    row.repair_said = Some(lost.sum());
    row.note((!content).then(|| format!("repair fails: {}", said.trim())));
    let vague = said.contains("if there were any, are lost, too");
    row.note(vague.then(|| "repair: \"messages behind …, if there were any, are lost, too\"".to_owned()));
    row.note(said.contains("nothing is damaged").then(|| "repair: \"nothing is damaged\"".to_owned()));
    fs::write(case.folder.join("repair.txt"), said)?;
    Ok(())
}

/// What is missing, altered or invented at the end, in the log and downstream.
fn look_for_all(setup: &Setup, case: &Case<'_>, row: &mut Row) -> Result<()> {
    let (found, _) = downstream::dump(&setup.tidegate, &case.directory)?;
    let sent: HashMap<&str, &str> =
        case.sent.iter().map(|sent| (sent.id.as_str(), sent.payload.as_str())).collect();
    row.strange += found
        .iter()
        .filter(|(_, found)| sent.get(name_of(&found.payload)) != Some(&found.payload.as_str()))
        .count();
    let in_log: HashSet<String> = found.iter().map(|(_, found)| name_of(&found.payload).to_owned()).collect();
    let mut times: HashMap<&str, usize> = HashMap::new();
    for (_, one) in &found {
        *times.entry(name_of(&one.payload)).or_default() += 1;
    }
    // What was lost and is sent again is taken, and is there once.
    row.taken_twice =
        row.taken_again.iter().filter(|id| times.get(id.as_str()).is_some_and(|times| *times > 1)).count();
    let again: HashSet<&String> =
        row.taken_again.iter().filter(|id| times.get(id.as_str()) == Some(&1)).collect();
    let all = names(&case.kept);
    let mut places: HashMap<&str, Vec<(u64, u64)>> = HashMap::new();
    for (place, one) in &found {
        places.entry(name_of(&one.payload)).or_default().push(*place);
    }
    let elsewhere = |kept: &&Kept| {
        let there = places.get(kept.sent.id.as_str());
        !again.contains(&kept.sent.id) && there.is_some_and(|there| !there.contains(&kept.place))
    };
    row.misplaced = case.kept.iter().filter(elsewhere).count();
    row.missing = all.iter().filter(|id| !in_log.contains(*id) || again.contains(id)).cloned().collect();
    row.missing.sort();
    if let Some(url) = &setup.nats {
        let mut passed: HashSet<String> = HashSet::new();
        for stream in case.earlier.iter().chain([&case.stream]) {
            let found = downstream::nats(url, stream)?;
            passed.extend(found.iter().map(|found| name_of(&found.payload).to_owned()));
        }
        row.not_worked_on = all.iter().filter(|id| in_log.contains(*id) && !passed.contains(*id)).count();
        // What is downstream is not lost, though the log has it no longer; unless it came there with its repeat.
        let behind = |id: &&String| passed.contains(*id) && !again.contains(id);
        row.missing_behind = row.missing.iter().filter(behind).count();
    } else {
        let passed = |kept: &&Kept| case.passed.get(&kept.place.0).is_some_and(|upto| kept.place.1 < *upto);
        let passed = names(case.kept.iter().filter(passed));
        row.missing_behind = row.missing.iter().filter(|id| passed.contains(*id)).count();
        let waited = all.iter().filter(|id| !passed.contains(*id) && in_log.contains(*id)).count();
        row.not_worked_on = row.processed.map_or(0, |processed| waited.saturating_sub(processed));
    }
    Ok(())
}
