//! The damage table: what becomes of a data directory of the real binary when its files are emptied, cut, removed,
//! swapped, bent by a bit, copied while they are written. Each damage is refused by name or harmless, never silent.

mod examine;
mod row;
mod running;
mod server;
mod template;
mod wounds;

use std::{collections::BTreeMap, fs, path::PathBuf, thread};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use ledger::process;

use self::{
    examine::{Case, examine, positions},
    row::Row,
    server::{Life, Setup, Start},
    template::{Template, Variant, copy},
    wounds::{Patient, WOUNDS, Wound},
};
use crate::Queue;

/// What is asked of the table.
#[derive(Args)]
pub struct Damage {
    /// log; or nats, with the log as its outbox.
    #[arg(long, value_enum, default_value = "log")]
    queue: Queue,
    /// How the directory came to be; all of them otherwise.
    #[arg(long, value_enum)]
    variant: Option<Variant>,
    /// Only damages with this in their name.
    #[arg(long, default_value = "")]
    only: String,
    /// Chooses shards, segments and bits; random and printed otherwise.
    #[arg(long)]
    seed: Option<u64>,
    /// The binary.
    #[arg(long, env = "TIDEGATE", default_value = "target/release/tidegate")]
    tidegate: PathBuf,
    /// Keep everything in this folder; a fresh one under the temporary one otherwise, removed at the end.
    #[arg(long)]
    folder: Option<PathBuf>,
}

/// Further cases, which are more than damaged files: name, what is done, cores of each start, settings.
fn restarts(cores: usize) -> Vec<(&'static str, Vec<usize>, Vec<String>)> {
    let mut fewer = vec![cores];
    while let Some(half) = fewer.last().map(|last| last / 2).filter(|half| *half > 0) {
        fewer.push(half);
    }
    let down = fewer[1..].to_vec();
    let up = down.iter().rev().copied().skip(1).chain([cores]).collect::<Vec<_>>();
    let there_and_back = [down.clone(), up].concat();
    // More than have a key, and fewer than there are messages.
    let entries = vec!["idempotency.entries=900".to_owned()];
    vec![
        ("fewer-cores", down, Vec::new()),
        ("fewer-cores-and-more-again", there_and_back, Vec::new()),
        ("keys-far-apart", vec![cores], entries),
    ]
}

/// Makes the table; whether every line of it is good.
pub fn run(damage: &Damage) -> Result<bool> {
    ensure!(matches!(damage.queue, Queue::Log | Queue::Nats), "--queue log or --queue nats");
    let cores = thread::available_parallelism().map_or(1, usize::from).min(4);
    ensure!(cores > 1, "the table needs two shards, so two cores");
    let seed = damage.seed.unwrap_or_else(|| fastrand::u64(..1 << 32));
    let folder = damage
        .folder
        .clone()
        .unwrap_or_else(|| std::env::temp_dir().join(format!("ledger-damage-{}", std::process::id())));
    fs::create_dir_all(&folder)?;
    let nats = if damage.queue == Queue::Nats {
        process::install_services()?;
        Some(process::nats(&folder)?)
    } else {
        None
    };
    let tidegate = damage
        .tidegate
        .canonicalize()
        .with_context(|| format!("{}: build it first", damage.tidegate.display()))?;
    let nats_url = nats.as_ref().map(|nats| format!("nats://127.0.0.1:{}", nats.port));
    let table = Table {
        setup: Setup { tidegate, queue: damage.queue, nats: nats_url },
        folder: folder.clone(),
        seed,
        only: damage.only.clone(),
        cores,
    };
    println!("damage: queue {:?}, {cores} cores, seed {seed}, folder {}", damage.queue, folder.display());
    let variants =
        damage.variant.map_or(vec![Variant::Killed, Variant::Stopped, Variant::Unread], |one| vec![one]);
    let (mut lines, mut bad) = (0, 0);
    for variant in variants {
        let (all, wrong) = table.fill(variant)?;
        lines += all;
        bad += wrong;
    }
    println!("\n{lines} damages, {bad} of them silent or stuck");
    if bad > 0 {
        println!("again: the same command with --seed {seed}; one alone with --variant and --only NAME");
    }
    drop(nats);
    if damage.folder.is_none() {
        fs::remove_dir_all(&folder)?;
    }
    ensure!(lines > 0, "no damage has `{}` in its name", damage.only);
    Ok(bad == 0)
}

/// What all lines share.
struct Table {
    setup: Setup,
    folder: PathBuf,
    seed: u64,
    only: String,
    cores: usize,
}

impl Table {
    /// The lines of one variant: how many, and how many are bad.
    fn fill(&self, variant: Variant) -> Result<(usize, usize)> {
        let template = Template::make(&self.setup, variant, self.cores, &self.folder)?;
        println!("\n{} messages acknowledged; then {variant:?}", template.kept.len());
        Row::heading();
        let (replay, replay_folder) = (self.replay_target()?, self.folder.join("replay-target"));
        let (mut lines, mut bad) = (0, 0);
        let mut line = |row: Option<Row>| {
            if let Some(row) = row {
                lines += 1;
                bad += usize::from(!row.print());
            }
        };
        for (name, inflict) in WOUNDS {
            if self.wants(name) {
                line(self.wound(&template, name, *inflict, replay.port())?);
            }
        }
        for (name, cores, set) in restarts(self.cores) {
            if self.wants(name) {
                let what = format!("started with {cores:?} cores {}", set.join(", "));
                let case = self.case(&template, name, Wound { what, names: Vec::new() }, replay.port())?;
                line(Some(examine(&self.setup, Case { cores, set, ..case })?));
            }
        }
        if self.wants("more-cores") && variant == Variant::Killed {
            let narrow = Template::make(&self.setup, variant, 1, &self.folder)?;
            let wound = Wound { what: format!("1 core, then {}", self.cores), names: Vec::new() };
            let case = self.case(&narrow, "more-cores", wound, replay.port())?;
            line(Some(examine(&self.setup, Case { cores: vec![self.cores], ..case })?));
        }
        for (name, damage) in running::WHILE_RUNNING {
            if self.wants(name) && variant == Variant::Stopped {
                let wound = Wound { what: String::new(), names: Vec::new() };
                let case = self.case(&template, name, wound, replay.port())?;
                line(Some(damage(&self.setup, case)?));
            }
        }
        replay.kill();
        fs::remove_dir_all(replay_folder)?;
        Ok((lines, bad))
    }

    fn wants(&self, name: &str) -> bool {
        name.contains(&self.only)
    }

    /// A server that takes what is replayed, and forgets it.
    fn replay_target(&self) -> Result<server::Server> {
        let folder = self.folder.join("replay-target");
        let life = Life {
            directory: &folder,
            output: folder.clone(),
            cores: 1,
            onward: None,
            set: vec![
                "queue.type=memory".to_owned(),
                "queue.consume=true".to_owned(),
                "data.directory=".to_owned(),
            ],
        };
        match self.setup.start(&life)? {
            Start::Up(server) => Ok(server),
            Start::Refused(why) => bail!("what takes the replays does not start: {why}"),
        }
    }

    /// A copy of the template.
    fn case<'a>(
        &self,
        template: &'a Template,
        name: &'a str,
        wound: Wound,
        replay_to: u16,
    ) -> Result<Case<'a>> {
        let folder = self.folder.join(format!("{:?}-{name}", template.variant).to_lowercase());
        fs::create_dir_all(&folder)?;
        let directory = folder.join("data");
        ensure!(copy(&template.directory, &directory)?, "the template cannot be copied");
        Ok(Case {
            name,
            directory,
            folder,
            template,
            wound,
            passed: positions(&self.setup, &template.directory)?,
            kept: template.kept.clone(),
            sent: template.sent.clone(),
            cores: vec![template.cores],
            set: Vec::new(),
            stream: format!("{:?}-{name}", template.variant).to_uppercase(),
            earlier: vec![template.stream.clone()],
            replay_to,
        })
    }

    fn wound(
        &self,
        template: &Template,
        name: &str,
        inflict: wounds::Inflict,
        replay: u16,
    ) -> Result<Option<Row>> {
        let case = self.case(template, name, Wound { what: String::new(), names: Vec::new() }, replay)?;
        let needed: BTreeMap<usize, u64> =
            case.passed.iter().map(|(shard, offset)| (*shard as usize, *offset)).collect();
        // The same choice whichever lines are asked for.
        let mixed =
            name.bytes().fold(self.seed, |mixed, byte| mixed.wrapping_mul(31).wrapping_add(byte.into()));
        let random = fastrand::Rng::with_seed(mixed);
        let wound = inflict(&mut Patient::new(&case.directory, template, random, needed)?)?;
        match wound {
            Some(wound) => Ok(Some(examine(&self.setup, Case { wound, ..case })?)),
            None => Ok(None),
        }
    }
}
