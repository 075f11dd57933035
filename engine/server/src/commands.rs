//! What each command does.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    io,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result};
use clap::{CommandFactory, Parser};

use crate::{
    cli::{Cli, Command, ConfigAction, Sources, With},
    health_check, log_tools, resend,
    role::Part,
    run,
    settings::{
        Checked, KEYS, Layers, Origin, Problem, Resolved, Shown, commented_defaults, default_file,
        expectation, find, nearest,
    },
    topics,
};

/// Runs the program; every error goes to standard error with the way out.
pub fn main() -> ExitCode {
    match dispatch() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("tidegate: {error:#}");
            ExitCode::FAILURE
        }
    }
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
        Some(Command::Version) => {
            println!("tidegate {}", env!("CARGO_PKG_VERSION"));
            Ok(ExitCode::SUCCESS)
        }
        Some(Command::Completions { shell }) => {
            clap_complete::generate(shell, &mut Cli::command(), "tidegate", &mut io::stdout());
            Ok(ExitCode::SUCCESS)
        }
        Some(Command::Config(With { action, .. })) => config(action, &sources),
        Some(Command::Topics(With { action, .. })) => match resolve(&sources)? {
            Some(resolved) => topics::run(&action, &resolved.settings),
            None => Ok(ExitCode::FAILURE),
        },
        Some(Command::Replay(arguments)) => {
            let Some(checked) = read(&sources)? else { return Ok(ExitCode::FAILURE) };
            resend::replay(&arguments, &checked.data_directory(), checked.own_key()?)
        }
        Some(Command::Dlq(With { action, .. })) => {
            let Some(checked) = read(&sources)? else { return Ok(ExitCode::FAILURE) };
            resend::dead_letters(&action, &checked.data_directory(), checked.own_key()?)
        }
        Some(Command::Log(With { action, .. })) => {
            let Some(checked) = read(&sources)? else { return Ok(ExitCode::FAILURE) };
            log_tools::run(&action, checked.data_directory())
        }
    }
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
    let mut environment: BTreeMap<String, String> = BTreeMap::new();
    match dotenvy::from_path_iter(".env") {
        Ok(pairs) => {
            for pair in pairs {
                let (name, value) = pair.context(".env: a line is not NAME=VALUE")?;
                environment.insert(name, value);
            }
        }
        Err(dotenvy::Error::Io(error)) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).context(".env cannot be read"),
    }
    let real = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    environment.extend(real);
    let named = environment.get("TIDEGATE_CONFIG").filter(|path| !path.is_empty()).map(PathBuf::from);
    let file = sources.config.clone().or(named);
    let file = file.or_else(|| Some(default_file()).filter(|path| path.exists()));
    Ok(Layers { file, environment, flags: sources.flags()? })
}

/// Says what is wrong.
fn said<T>(outcome: Result<T, Vec<Problem>>) -> Option<T> {
    outcome.map_err(|problems| problems.iter().for_each(|problem| eprintln!("tidegate: {problem}"))).ok()
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
            let changed =
                KEYS.iter().filter(|key| *resolved.checked.value(key).origin != Origin::Default).count();
            println!("settings are valid: {changed} of {} differ from their default's source", KEYS.len());
            Ok(ExitCode::SUCCESS)
        }
        ConfigAction::Explain { key, .. } => {
            let Some(found) = find(&key) else {
                anyhow::bail!("there is no setting `{key}`; did you mean `{}`?", nearest(&key));
            };
            let Some(resolved) = resolve(sources)? else { return Ok(ExitCode::FAILURE) };
            let Shown { text, is_secret, origin } = resolved.checked.value(found);
            let hidden = if is_secret && text != "(secret)" {
                " with a user and password, which are not shown"
            } else {
                ""
            };
            let mut variables: Vec<String> = found.variables.iter().map(|name| (*name).to_owned()).collect();
            variables.push(found.own_variable());
            println!("{} = {text}{hidden}", found.path);
            println!("  from     {origin}");
            println!("  default  {}", found.default);
            println!("  means    {}", found.text);
            println!("  values   {}", expectation(found.kind));
            println!(
                "  set by   --set {}=…, environment {}, [{}] {} = … in the file",
                found.path,
                variables.join(" or "),
                found.table(),
                found.name()
            );
            Ok(ExitCode::SUCCESS)
        }
        ConfigAction::Print { defaults: true, .. } => {
            print!("{}", commented_defaults());
            Ok(ExitCode::SUCCESS)
        }
        ConfigAction::Print { .. } => {
            let Some(resolved) = resolve(sources)? else { return Ok(ExitCode::FAILURE) };
            let mut table = "";
            for key in KEYS {
                if key.table() != table {
                    println!("{}[{}]", if table.is_empty() { "" } else { "\n" }, key.table());
                    table = key.table();
                }
                let Shown { text, is_secret, origin } = resolved.checked.value(key);
                match is_secret {
                    true => println!("# {} = … # a secret, left out; it came from {origin}", key.name()),
                    false => println!("{} = {text} # {origin}", key.name()),
                }
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}
