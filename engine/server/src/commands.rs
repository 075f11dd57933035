//! What each command does.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result};
use clap::{CommandFactory, Parser};
use http::HeaderValue;

use crate::{
    cli::{Cli, Command, ConfigAction, RunArguments},
    health_check, log_tools, resend,
    role::Part,
    run,
    settings::{
        DEFAULT_DIRECTORY, KEYS, Layers, Resolved, commented_defaults, default_file, expectation, find,
        nearest,
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
    if health_check::is_asked_for(std::env::args().skip(1)) {
        let arguments = RunArguments::default();
        let Some(resolved) = resolve(&arguments)? else { return Ok(ExitCode::FAILURE) };
        health_check::ask(&resolved.settings, part(&arguments))?;
        return Ok(ExitCode::SUCCESS);
    }
    let cli = Cli::parse();
    match cli.command {
        None => start(&cli.run),
        Some(Command::Run(arguments)) => start(&arguments),
        Some(Command::Version) => {
            println!("tidegate {}", env!("CARGO_PKG_VERSION"));
            Ok(ExitCode::SUCCESS)
        }
        Some(Command::Completions { shell }) => {
            clap_complete::generate(shell, &mut Cli::command(), "tidegate", &mut io::stdout());
            Ok(ExitCode::SUCCESS)
        }
        Some(Command::Config { action }) => config(action),
        Some(Command::Topics { action }) => match resolve(&RunArguments::default())? {
            Some(resolved) => topics::run(&action, &resolved.settings),
            None => Ok(ExitCode::FAILURE),
        },
        Some(Command::Replay(arguments)) => {
            let (directory, key) = default_directory()?;
            resend::replay(&arguments, &directory, key)
        }
        Some(Command::Dlq { action }) => {
            let (directory, key) = default_directory()?;
            resend::dead_letters(&action, &directory, key)
        }
        Some(Command::Log { action }) => log_tools::run(&action, default_directory()?.0),
    }
}

/// The part to run: the flag, or the name this program was started under.
fn part(arguments: &RunArguments) -> Part {
    let named = || {
        let program = std::env::args().next()?;
        Part::of_program(Path::new(&program).file_name()?.to_str()?)
    };
    arguments.role.or_else(named).unwrap_or(Part::All)
}

/// Reads every source; `None` when something is wrong, which has been said.
fn resolve(arguments: &RunArguments) -> Result<Option<Resolved>> {
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
    let file = arguments.config.clone().or_else(|| Some(default_file()).filter(|path| path.exists()));
    let layers = Layers { file, environment, flags: arguments.flags()? };
    match layers.resolve(part(arguments)) {
        Ok(resolved) => Ok(Some(resolved)),
        Err(problems) => {
            for problem in problems {
                eprintln!("tidegate: {problem}");
            }
            Ok(None)
        }
    }
}

/// The log's folder, as a server with these settings would use it, and the key that such a server asks for.
fn default_directory() -> Result<(PathBuf, Option<HeaderValue>)> {
    let settings = resolve(&RunArguments::default())?.map(|resolved| resolved.settings);
    let (directory, key) =
        settings.map_or((None, None), |settings| (settings.delivery.data_directory, settings.auth.own_key));
    Ok((directory.unwrap_or_else(|| PathBuf::from(DEFAULT_DIRECTORY)), key))
}

fn start(arguments: &RunArguments) -> Result<ExitCode> {
    match resolve(arguments)? {
        Some(resolved) => run::run(resolved.settings, part(arguments)),
        None => Ok(ExitCode::FAILURE),
    }
}

fn config(action: ConfigAction) -> Result<ExitCode> {
    match action {
        ConfigAction::Check(sources) => {
            let Some(resolved) = resolve(&sources)? else { return Ok(ExitCode::FAILURE) };
            let changed = KEYS.iter().filter(|key| resolved.value(key).1.to_string() != "default").count();
            println!("settings are valid: {changed} of {} differ from their default's source", KEYS.len());
            Ok(ExitCode::SUCCESS)
        }
        ConfigAction::Explain { key, sources } => {
            let Some(found) = find(&key) else {
                anyhow::bail!("there is no setting `{key}`; did you mean `{}`?", nearest(&key));
            };
            let Some(resolved) = resolve(&sources)? else { return Ok(ExitCode::FAILURE) };
            let (value, origin) = resolved.value(found);
            let mut variables: Vec<String> = found.variables.iter().map(|name| (*name).to_owned()).collect();
            variables.push(found.own_variable());
            println!("{} = {value}", found.path);
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
        ConfigAction::Print { sources, .. } => {
            let Some(resolved) = resolve(&sources)? else { return Ok(ExitCode::FAILURE) };
            let mut table = "";
            for key in KEYS {
                if key.table() != table {
                    println!("{}[{}]", if table.is_empty() { "" } else { "\n" }, key.table());
                    table = key.table();
                }
                let (value, origin) = resolved.value(key);
                println!("{} = {value} # {origin}", key.name());
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}
