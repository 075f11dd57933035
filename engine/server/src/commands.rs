//! What each command does.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs,
    io::{self, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use anyhow::{Context, Result};
use clap::{CommandFactory, Parser};
use rustix::fs::fstat;
use signal_hook::consts::SIGXFSZ;

use crate::{
    cli::{Cli, Command, ConfigAction, Sources, With},
    health_check, log_tools,
    resend::{self, Server},
    role::Part,
    run,
    settings::{
        Checked, KEYS, Key, Layers, Origin, Problem, Resolved, Shown, WITHOUT_EFFECT, commented_defaults,
        default_file, expectation, named, nearest, read_dotenv,
    },
    simulate, topics,
};

/// Runs the program; every error goes to standard error with the way out.
pub fn main() -> ExitCode {
    // A write beyond the process's limit of a file's size (RLIMIT_FSIZE) is an error then, as on a full disk, and not the end.
    let beyond_limit = signal_hook::flag::register(SIGXFSZ, Arc::default());
    match beyond_limit.map_err(Into::into).and_then(|_| dispatch()) {
        Ok(code) => code,
        // The reader (`head`) has seen enough.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// Says what is wrong, if there is still somebody who reads it.
fn complain(what: &str) {
    let _ = writeln!(io::stderr(), "tidegate: {what}");
}

fn dispatch() -> Result<ExitCode> {
    let cli = Cli::parse_from(arguments());
    let asks_for_health = cli.health_check;
    let (command, sources) = cli.into_parts()?;
    match command {
        None | Some(Command::Run(_)) if asks_for_health => {
            let Some(resolved) = resolve(&sources)? else { return Ok(ExitCode::FAILURE) };
            health_check::ask(&resolved.settings, part(&sources))?;
            Ok(ExitCode::SUCCESS)
        }
        None | Some(Command::Run(_)) => match resolve(&sources)? {
            Some(resolved) => run::run(resolved.settings, part(&sources)),
            None => Ok(ExitCode::FAILURE),
        },
        Some(Command::Simulate(arguments)) => {
            // What lies about as tidegate.toml is not meant, but for who names it.
            let resolved = if sources.names_settings() { resolve(&sources)? } else { None };
            if sources.names_settings() && resolved.is_none() {
                return Ok(ExitCode::FAILURE);
            }
            simulate::simulate(&arguments, resolved.as_ref().map(|resolved| &resolved.settings))
        }
        Some(Command::Version) => say(&format!("tidegate {}\n", env!("CARGO_PKG_VERSION"))),
        Some(Command::Completions { shell }) => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "tidegate", &mut script);
            say(&String::from_utf8_lossy(&script))
        }
        Some(Command::Config(With { action, .. })) => config(action, &sources),
        Some(Command::Topics(With { action, .. })) => match resolve(&sources)? {
            Some(resolved) => topics::run(&action, &resolved.settings),
            None => Ok(ExitCode::FAILURE),
        },
        Some(Command::Replay(arguments)) => {
            let Some(checked) = read(&sources)? else { return Ok(ExitCode::FAILURE) };
            resend::replay(&arguments, &checked.data_directory(), there(&checked)?)
        }
        Some(Command::Dlq(With { action, .. })) => {
            let Some(checked) = read(&sources)? else { return Ok(ExitCode::FAILURE) };
            resend::dead_letters(&action, &checked.data_directory(), there(&checked)?)
        }
        Some(Command::Log(With { action, .. })) => {
            let Some(checked) = read(&sources)? else { return Ok(ExitCode::FAILURE) };
            log_tools::run(&action, checked.data_directory())
        }
    }
}

/// The server that messages are sent to once more, if no other is named.
fn there(checked: &Checked) -> Result<Server> {
    Ok(Server { url: checked.processor_url()?, path: resend::ENQUEUE.to_owned(), key: checked.own_key()? })
}

/// The command line, with `-health-check` as clap can read it: in front of all, with two dashes.
fn arguments() -> Vec<OsString> {
    let mut arguments: Vec<OsString> = std::env::args_os().collect();
    let asks = |argument: &OsString| argument == "-health-check" || argument == "--health-check";
    if arguments.iter().skip(1).any(asks) {
        arguments.retain(|argument| !asks(argument));
        arguments.insert(1, "--health-check".into());
    }
    arguments
}

/// The part to run: the flag, or the name this program was started under.
fn part(sources: &Sources) -> Part {
    let named = || {
        let program = std::env::args().next()?;
        Part::of_program(Path::new(&program).file_name()?.to_str()?)
    };
    sources.role.or_else(named).unwrap_or(Part::All)
}

/// Where settings come from, with the variables.
fn layers(sources: &Sources) -> Result<Layers> {
    // `.env` first, the process environment over it.
    let real: BTreeMap<String, String> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let mut environment = read_dotenv(Path::new(".env"), &real)?;
    environment.extend(real);
    let named = environment.get("TIDEGATE_CONFIG").filter(|path| !path.is_empty()).map(PathBuf::from);
    let file = sources.config.clone().or(named);
    let file = file.or_else(|| Some(default_file()).filter(|path| path.exists()));
    Ok(Layers { file, environment, flags: sources.flags()? })
}

/// Says what is wrong.
fn said<T>(outcome: Result<T, Vec<Problem>>) -> Option<T> {
    outcome.map_err(|problems| problems.iter().for_each(|problem| complain(&problem.to_string()))).ok()
}

/// Reads every source; `None` when something is wrong, which has been said.
fn resolve(sources: &Sources) -> Result<Option<Resolved>> {
    Ok(said(layers(sources)?.resolve(part(sources))))
}

/// The same, for a command that needs few of the settings, whether all of them go together or not.
fn read(sources: &Sources) -> Result<Option<Checked>> {
    Ok(said(layers(sources)?.read(part(sources))))
}

fn config(action: ConfigAction, sources: &Sources) -> Result<ExitCode> {
    match action {
        ConfigAction::Check(_) => {
            let Some(resolved) = resolve(sources)? else { return Ok(ExitCode::FAILURE) };
            let is_set = |key: &&Key| *resolved.checked.value(key).origin != Origin::Default;
            let mut said = format!(
                "settings are valid: {} of {} are set, the others have their default\n",
                KEYS.iter().filter(is_set).count(),
                KEYS.len()
            );
            resolved.checked.notes.iter().for_each(|note| said.push_str(&format!("{note}\n")));
            said.push_str(&format!("this binary speaks {} with Kafka\n", crate::settings::kafka_kind()));
            say(&said)
        }
        ConfigAction::Explain { key, .. } => {
            let said = explain(&key, sources)?;
            said.map_or(Ok(ExitCode::FAILURE), |said| say(&said))
        }
        ConfigAction::Print { defaults, output, .. } => {
            let (text, kept_in) = if defaults {
                (commented_defaults(), Vec::new())
            } else {
                refuse_to_empty(sources)?;
                let Some(resolved) = resolve(sources)? else { return Ok(ExitCode::FAILURE) };
                (resolved.checked.commented(), resolved.checked.files_with_secrets())
            };
            match output {
                None => say(&text),
                Some(path) => write_settings(&path, &text, &kept_in),
            }
        }
    }
}

/// What there is to know about the settings that a word names; `None` when they cannot be read, which has been said.
fn explain(word: &str, sources: &Sources) -> Result<Option<String>> {
    let found = named(word);
    if found.is_empty() {
        if let Some(idle) = WITHOUT_EFFECT.iter().find(|idle| idle.variable == word) {
            return Ok(Some(format!("{word} is known and has no effect: {}\n", idle.why)));
        }
        anyhow::bail!("there is no setting and no variable `{word}`; did you mean `{}`?", nearest(word));
    }
    let Some(resolved) = resolve(sources)? else { return Ok(None) };
    let explained = found.into_iter().map(|key| {
        let Shown { text, is_secret, origin } = resolved.checked.value(key);
        let hidden = match is_secret && text != "(secret)" {
            true => " with a user and password, which are not shown",
            false => "",
        };
        format!(
            "{path} = {text}{hidden}\n  from     {origin}\n  default  {}\n  means    {}\n  values   {}\n  \
             set by   --set {path}=…, environment {}, [{}] {} = … in the file\n",
            key.default,
            key.text,
            expectation(key.kind),
            key.all_variables().join(" or "),
            key.table(),
            key.name(),
            path = key.path,
        )
    });
    Ok(Some(explained.collect::<Vec<_>>().join("\n")))
}

/// `config print > tidegate.toml` empties the file before this program can read it.
fn refuse_to_empty(sources: &Sources) -> Result<()> {
    let Ok(out) = fstat(io::stdout()) else { return Ok(()) };
    let layers = layers(sources)?;
    for path in layers.file.iter().map(PathBuf::as_path).chain([Path::new(".env")]) {
        let is_read =
            fs::metadata(path).is_ok_and(|file| (file.dev(), file.ino()) == (out.st_dev, out.st_ino));
        anyhow::ensure!(
            !is_read,
            "{path} is what this command reads, and the shell has emptied it for the output; restore it, and write with `tidegate config print --output {path}`",
            path = path.display()
        );
    }
    Ok(())
}

/// Writes a settings file beside its place and moves it there: whatever happens, one of the two is whole.
fn write_settings(path: &Path, text: &str, kept_in: &[PathBuf]) -> Result<ExitCode> {
    // A link stays one: what it leads to is written.
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    for kept in kept_in {
        anyhow::ensure!(
            fs::canonicalize(kept).ok().as_ref() != Some(&path),
            "{} holds a secret, which would be lost: secrets are not written; name another file, or give the secret through the environment first",
            path.display()
        );
    }
    let name = path.file_name().with_context(|| format!("{} is no file", path.display()))?;
    let mut beside = OsString::from(".");
    beside.push(name);
    beside.push(format!(".{}", std::process::id()));
    let beside = path.with_file_name(beside);
    let written = || -> io::Result<()> {
        let mut file = fs::OpenOptions::new().write(true).create_new(true).open(&beside)?;
        if let Ok(before) = fs::metadata(&path) {
            file.set_permissions(before.permissions())?;
        }
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&beside, &path)
    };
    written().map_err(|error| {
        // What is left of it is of no use to anybody.
        let _ = fs::remove_file(&beside);
        anyhow::anyhow!("{} cannot be written: {error}", path.display())
    })?;
    say(&format!("written to {}\n", path.display()))
}

/// Answers on standard output.
fn say(text: &str) -> Result<ExitCode> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}
