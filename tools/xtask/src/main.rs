//! Chores of the workspace, run as `cargo xtask <chore>`.
//!
//! `proto` writes `proto/src/gen` and `clients/go/api/proto` from the `.proto` files; `proto --check` only says whether
//! they would change.
//!
//! `structure` fails when modules depend on each other in a circle that is not known.
mod go;
mod structure;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use prost::Message;
use prost_types::FileDescriptorSet;

/// The files that are compiled, in one descriptor set; their paths are what reflection shows.
const PROTO_FILES: [&str; 8] = [
    "diplom/v1/ingest.proto",
    "diplom/v1/messages.proto",
    "compat/ingest.proto",
    "analytics/v1/events.proto",
    "analytics/v1/ingestion.proto",
    "analytics/v1/analytics.proto",
    "analytics/v1/metrics.proto",
    "analytics/legacy/analytics.proto",
];

/// Where a generated service takes its codec.
const SERVICE_CODEC: &str = "tonic::server::Grpc::new(codec)";

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["proto"] => write_generated(),
        ["proto", "--check"] => {
            let descriptors = descriptors()?;
            check_rust(&descriptors)?;
            go::check(&descriptors)
        }
        ["structure"] => structure::check(&root()),
        _ => bail!("usage: cargo xtask proto [--check] | structure"),
    }
}

/// The repository's root.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn proto_root() -> PathBuf {
    root().join("proto")
}

fn descriptors() -> Result<FileDescriptorSet> {
    let root = proto_root();
    let files: Vec<PathBuf> = PROTO_FILES.iter().map(|file| root.join(file)).collect();
    protox::compile(&files, [&root]).context("compiling the .proto files")
}

/// Generates Rust into a scratch folder and returns file name → contents.
fn generate(descriptors: &FileDescriptorSet) -> Result<BTreeMap<String, Vec<u8>>> {
    let scratch = std::env::temp_dir().join(format!("tidegate-proto-{}", std::process::id()));
    fs::create_dir_all(&scratch)?;
    tonic_prost_build::configure()
        .out_dir(&scratch)
        .build_transport(false)
        .compile_fds(descriptors.clone())
        .context("generating Rust")?;
    let mut generated = BTreeMap::new();
    for entry in fs::read_dir(&scratch)? {
        let entry = entry?;
        let text = fs::read_to_string(entry.path())?;
        // One codec can be named for services and clients together only, and this one is for services.
        let text =
            text.replace(SERVICE_CODEC, "tonic::server::Grpc::new(crate::request::RequestCodec(codec))");
        generated.insert(entry.file_name().to_string_lossy().into_owned(), text.into_bytes());
    }
    fs::remove_dir_all(&scratch)?;
    generated.insert("descriptors.bin".to_owned(), descriptors.encode_to_vec());
    Ok(generated)
}

fn write_generated() -> Result<()> {
    let descriptors = descriptors()?;
    let folder = proto_root().join("src/gen");
    fs::create_dir_all(&folder)?;
    for (name, contents) in generate(&descriptors)? {
        fs::write(folder.join(&name), contents)?;
        println!("wrote proto/src/gen/{name}");
    }
    go::write(&descriptors)
}

fn check_rust(descriptors: &FileDescriptorSet) -> Result<()> {
    let folder = proto_root().join("src/gen");
    for (name, contents) in generate(descriptors)? {
        let committed = fs::read(folder.join(&name)).with_context(|| format!("proto/src/gen/{name}"))?;
        if committed != contents {
            bail!("proto/src/gen/{name} has drifted from the .proto files: run `cargo xtask proto`");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_rust_matches_the_proto_files() {
        check_rust(&descriptors().unwrap()).unwrap();
    }

    #[test]
    fn generated_go_matches_the_proto_files() {
        let missing = go::missing();
        if missing.is_empty() {
            go::check(&descriptors().unwrap()).unwrap();
            return;
        }
        assert!(
            std::env::var("CI").as_deref() != Ok("true"),
            "{missing:?} are missing: tools/clients/install"
        );
        println!("skipped, because {missing:?} are missing: tools/clients/install");
    }
}
