//! Tools from outside: found in `.tools/bin` or on the path.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

/// The repository's root.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// A tool's path. `None` when it is missing, which is said; in CI that is a failure instead.
pub(crate) fn tool(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    // Of some, only ours is there in the version that was pinned.
    let pinned = match name {
        "python" => Some(".tools/python/bin/python"),
        "schemathesis" => Some(".tools/python/bin/schemathesis"),
        "openapi-python-client" => Some(".tools/generators/python/bin/openapi-python-client"),
        // Written when all of the modules are there.
        "openapi-typescript" => Some(".tools/generators/installed"),
        "playwright-core" => Some(".tools/browser/installed"),
        _ => None,
    };
    let found = match pinned {
        Some(place) => Some(root().join(place)).filter(|path| path.is_file()),
        None => std::iter::once(root().join(".tools/bin"))
            .chain(env::split_paths(&path))
            .map(|place| place.join(name))
            .find(|path| path.is_file()),
    };
    if found.is_none() {
        assert!(env::var("CI").as_deref() != Ok("true"), "{name} is missing: tools/clients/install");
        println!("skipped, because {name} is missing: tools/clients/install");
    }
    found
}

/// Runs curl; its exit status must be 0. Standard output and standard error.
#[track_caller]
pub(crate) fn curl(arguments: &[&str]) -> Option<(String, String)> {
    let output = Command::new(tool("curl")?)
        .args(["--silent", "--show-error", "--noproxy", "*", "--max-time", "30"])
        .args(arguments)
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "curl {arguments:?}: {} {stderr}", output.status);
    Some((String::from_utf8(output.stdout).unwrap(), stderr))
}
