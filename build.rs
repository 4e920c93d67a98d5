//! Asks the nginx that the end-to-end tests will run (`nginx -V`) for its version.
//!
//! Warns when nginx is missing, or when the headers the module is built from are another version's:
//! nginx refuses such a module. Tells the tests nothing: the harness asks nginx itself, so another
//! `PINCER_NGINX` needs no new build. Never fails and downloads nothing. Cost: one `nginx -V`.

use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    for name in ["NGINX_SOURCE_DIR", "PATH"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    println!("cargo::rerun-if-changed=build.rs");
    let nginx = std::env::var("PINCER_NGINX").unwrap_or_else(|_| "nginx".into());
    if let Some(path) = in_path(&nginx) {
        println!("cargo::rerun-if-changed={}", path.display());
    }
    let told = ask(&nginx).unwrap_or_else(|| {
        println!(
            "cargo::warning=`{nginx} -V` did not answer: the end-to-end tests cannot run; `make setup` installs nginx"
        );
        String::new()
    });
    let version = after(&told, "nginx version: nginx/").split_whitespace().next().unwrap_or_default();
    compare_with_headers(version);
}

/// What nginx prints about itself, on whichever stream it prints it.
fn ask(nginx: &str) -> Option<String> {
    let output = Command::new(nginx).arg("-V").output().ok()?;
    let told = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    output.status.success().then_some(told)
}

/// The rest of the line that follows `label`, empty when there is none.
fn after<'a>(text: &'a str, label: &str) -> &'a str {
    text.split_once(label).and_then(|(_, rest)| rest.lines().next()).unwrap_or_default()
}

/// Warns when the module's headers are of another version than the nginx that will load it.
fn compare_with_headers(version: &str) {
    let Ok(source) = std::env::var("NGINX_SOURCE_DIR") else { return };
    let header = Path::new(&source).join("src/core/nginx.h");
    println!("cargo::rerun-if-changed={}", header.display());
    let text = std::fs::read_to_string(header).unwrap_or_default();
    let built_for = after(&text, "#define NGINX_VERSION").trim().trim_matches('"');
    if !built_for.is_empty() && !version.is_empty() && built_for != version {
        println!(
            "cargo::warning=the module is built for nginx {built_for}, the tests run nginx {version}: it will not load; \
             set PINCER_NGINX, or NGINX_SOURCE_DIR and NGINX_BUILD_DIR"
        );
    }
}

/// Where the shell would find `program`, so that a new package rebuilds us.
fn in_path(program: &str) -> Option<PathBuf> {
    if program.contains('/') {
        return Some(PathBuf::from(program));
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file())
}
