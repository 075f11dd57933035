//! The Go client's generated code, `clients/go/api/proto`: Go's own plugins write it, asked over stdin as `protoc` would.
//!
//! The plugins come from `tools/clients/install`. What the Go import path is says an option of the plugins (`M`), so the
//! `.proto` files know nothing of Go.
use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    path::PathBuf,
    process::{Command, Stdio},
    thread,
};

use anyhow::{Context, Result, bail};
use prost::Message;
use prost_types::{
    FileDescriptorSet,
    compiler::{CodeGeneratorRequest, CodeGeneratorResponse},
};

use crate::root;

/// What the client's users import, and where it lies in the repository.
const MODULE: &str = "real-time-analytics-platform";
const MODULE_FOLDER: &str = "clients/go";
const IMPORT_PATH: &str = "real-time-analytics-platform/api/proto";
const PACKAGE: &str = "analytics.v1";
const PLUGINS: [&str; 2] = ["protoc-gen-go", "protoc-gen-go-grpc"];

fn plugin(name: &str) -> PathBuf {
    root().join(".tools/bin").join(name)
}

/// The plugins that are not installed.
#[cfg(test)]
pub fn missing() -> Vec<&'static str> {
    PLUGINS.into_iter().filter(|name| !plugin(name).is_file()).collect()
}

/// Path from the repository's root → contents.
pub fn generate(descriptors: &FileDescriptorSet) -> Result<BTreeMap<PathBuf, Vec<u8>>> {
    let files: Vec<String> = descriptors
        .file
        .iter()
        .filter(|file| file.package() == PACKAGE)
        .map(|file| file.name().to_owned())
        .collect();
    let mut options = vec![format!("module={MODULE}")];
    options.extend(files.iter().map(|file| format!("M{file}={IMPORT_PATH}")));
    let request = CodeGeneratorRequest {
        file_to_generate: files,
        parameter: Some(options.join(",")),
        proto_file: descriptors.file.clone(),
        compiler_version: None,
    };
    let mut generated = BTreeMap::new();
    for name in PLUGINS {
        for file in ask(name, request.encode_to_vec())?.file {
            let path = PathBuf::from(MODULE_FOLDER).join(file.name());
            generated.insert(path, file.content().as_bytes().to_vec());
        }
    }
    Ok(generated)
}

fn ask(name: &str, request: Vec<u8>) -> Result<CodeGeneratorResponse> {
    let mut child = Command::new(plugin(name))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("{name}: install it with tools/clients/install"))?;
    let mut stdin = child.stdin.take().context("a child's stdin")?;
    // Written beside the reading: a plugin may answer before it has read everything.
    let writing = thread::spawn(move || stdin.write_all(&request));
    let output = child.wait_with_output()?;
    if writing.join().is_err() || !output.status.success() {
        bail!("{name}: {}", output.status);
    }
    let response =
        CodeGeneratorResponse::decode(output.stdout.as_slice()).with_context(|| name.to_owned())?;
    match response.error {
        Some(error) => bail!("{name}: {error}"),
        None => Ok(response),
    }
}

/// Writes the files.
pub fn write(descriptors: &FileDescriptorSet) -> Result<()> {
    for (path, contents) in generate(descriptors)? {
        fs::write(root().join(&path), contents).with_context(|| path.display().to_string())?;
        println!("wrote {}", path.display());
    }
    Ok(())
}

/// Fails when a file is not what would be written.
pub fn check(descriptors: &FileDescriptorSet) -> Result<()> {
    for (path, contents) in generate(descriptors)? {
        let committed = fs::read(root().join(&path)).with_context(|| path.display().to_string())?;
        if committed != contents {
            bail!("{} has drifted from the .proto files: run `cargo xtask proto`", path.display());
        }
    }
    Ok(())
}
