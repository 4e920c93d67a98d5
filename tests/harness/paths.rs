//! Where the build put what the tests run: the module, pincerd, pincerctl; and the repository's own
//! files.
//!
//! Everything is found from the running executable (`target/PROFILE/` or `…/deps/`), so a
//! `--target-dir` or a `--release` finds its own files. Environment variables win. Builds pincerd
//! when it is missing, because cargo does not build a dependency's programs.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::SystemTime;

/// The module's file name.
pub const MODULE: &str = "libngx_http_pincer_module.so";

/// The repository's root.
#[must_use]
pub fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The text of one of the repository's files.
///
/// # Panics
/// When it cannot be read.
#[must_use]
pub fn text(path: &str) -> String {
    let path = repository().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// `target/PROFILE` of the running executable.
///
/// # Panics
/// When the executable cannot be told.
#[must_use]
pub fn profile_dir() -> PathBuf {
    let exe = std::env::current_exe().expect("own path");
    let folder = exe.parent().expect("an executable is in a folder");
    if folder.ends_with("deps") || folder.ends_with("examples") {
        return folder.parent().expect("target/PROFILE").to_owned();
    }
    folder.to_owned()
}

/// The module to load: `PINCER_MODULE`, else the newer of `target/PROFILE/` and
/// `target/PROFILE/deps/`.
///
/// # Panics
/// When there is none.
#[must_use]
pub fn module() -> PathBuf {
    if let Some(path) = std::env::var_os("PINCER_MODULE") {
        return path.into();
    }
    let folder = profile_dir();
    let built = [folder.join(MODULE), folder.join("deps").join(MODULE)];
    let newest = built.into_iter().filter_map(|path| Some((modified(&path)?, path))).max();
    let (_, path) =
        newest.unwrap_or_else(|| panic!("no {MODULE} in {}: cargo build -p ngx_http_pincer_module", folder.display()));
    path
}

fn modified(path: &Path) -> Option<SystemTime> {
    path.metadata().and_then(|data| data.modified()).ok()
}

/// The control plane's service: `PINCERD`, else the build's own.
#[must_use]
pub fn pincerd() -> PathBuf {
    program("PINCERD", "pincerd")
}

/// The operators' command: `PINCERCTL`, else the build's own.
#[must_use]
pub fn pincerctl() -> PathBuf {
    program("PINCERCTL", "pincerctl")
}

fn program(variable: &str, name: &str) -> PathBuf {
    static BUILDING: Mutex<()> = Mutex::new(());
    if let Some(path) = std::env::var_os(variable) {
        return path.into();
    }
    let folder = profile_dir();
    let path = folder.join(name);
    let _one = BUILDING.lock();
    if !path.exists() {
        build_control_plane(&folder);
    }
    assert!(path.exists(), "no {}: cargo build -p pincer-control", path.display());
    path
}

fn build_control_plane(profile: &Path) {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(repository()).args(["build", "--quiet", "--package", "pincer-control", "--bins"]);
    if profile.ends_with("release") {
        cargo.arg("--release");
    }
    if let Some(target) = profile.parent() {
        cargo.arg("--target-dir").arg(target);
    }
    let _ = cargo.status();
}
