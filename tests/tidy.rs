//! Rules that keep the project as ARCHITECTURE.md says: arrows between crates, unsafe in one
//! folder, every unsafe block explained, files of a readable size. Reads files only; takes a few
//! seconds. tests/documents.rs has the rules for what people read.

#[path = "tidy/arrows.rs"]
mod arrows;
#[path = "tidy/errors.rs"]
mod errors;
#[path = "tidy/modules.rs"]
mod modules;
#[path = "tidy/sizes.rs"]
mod sizes;
#[path = "tidy/words.rs"]
mod words;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Lines of the longest file allowed.
const LINES_MAX: usize = 500;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All files that git tracks below `folder` with this ending.
fn tracked(folder: &str, ending: &str) -> Vec<PathBuf> {
    let output = Command::new("git").args(["ls-files", "-z", folder]).current_dir(root()).output().unwrap();
    assert!(output.status.success(), "git ls-files: {}", String::from_utf8_lossy(&output.stderr));
    let names = String::from_utf8(output.stdout).unwrap();
    let files = names.split('\0').filter(|name| name.ends_with(ending)).map(|name| root().join(name));
    files.filter(|path| path.exists()).collect()
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Code only: no comment, no string that spans a line's end.
fn code(line: &str) -> &str {
    line.split("//").next().unwrap_or_default()
}

#[test]
fn crates_depend_on_each_other_only_as_the_architecture_says() {
    let allowed: [(&str, &[&str]); 6] = [
        ("pincer-core", &[]),
        ("pincer-proto", &[]),
        ("ngx_http_pincer_module", &["pincer-core", "pincer-proto"]),
        ("pincer-control", &["pincer-core", "pincer-proto"]),
        ("pincer-bench", &["pincer-core", "pincer-proto", "pincer-control", "pincer-e2e"]),
        ("pincer-e2e", &["pincer-core", "pincer-proto", "pincer-control", "ngx_http_pincer_module", "pincer-bench"]),
    ];
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(root())
        .output()
        .unwrap();
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let ours: BTreeSet<&str> = allowed.iter().map(|(name, _)| *name).collect();
    let mut seen = 0;
    for package in metadata["packages"].as_array().unwrap() {
        let name = package["name"].as_str().unwrap();
        let (_, may) = allowed
            .iter()
            .find(|(known, _)| *known == name)
            .unwrap_or_else(|| panic!("{name} is new: add it to this test"));
        for dependency in package["dependencies"].as_array().unwrap() {
            let to = dependency["name"].as_str().unwrap();
            assert!(!ours.contains(to) || may.contains(&to), "{name} must not depend on {to}");
            let nginx = ["ngx", "nginx-sys"].contains(&to);
            assert!(!nginx || name == "ngx_http_pincer_module", "only the module may depend on {to}, not {name}");
        }
        seen += 1;
    }
    assert!(seen >= 5, "{seen} packages are fewer than the layout has");
}

#[test]
fn unsafe_stands_only_in_the_folder_that_borders_nginx() {
    let mut checked = 0;
    for path in tracked(".", ".rs") {
        let inside = path.strip_prefix(root()).unwrap().starts_with("ngx-module/src/ffi");
        let bordering_libc = path.strip_prefix(root()).unwrap().starts_with("tests")
            || path.strip_prefix(root()).unwrap().starts_with("bench");
        if inside || bordering_libc {
            continue;
        }
        checked += 1;
        for (number, line) in read(&path).lines().enumerate() {
            let words = code(line);
            let found = words.contains("unsafe {")
                || words.contains("unsafe fn")
                || words.contains("unsafe impl")
                || words.contains("unsafe extern");
            assert!(!found, "{}:{}: unsafe outside ngx-module/src/ffi", path.display(), number + 1);
        }
    }
    assert!(checked > 30, "only {checked} files were looked at");
}

#[test]
fn every_unsafe_block_says_why_it_is_sound() {
    let mut blocks = 0;
    for path in tracked("ngx-module/src/ffi", ".rs") {
        let text = read(&path);
        let lines: Vec<&str> = text.lines().collect();
        for (index, line) in lines.iter().enumerate() {
            if !code(line).contains("unsafe {") && !code(line).contains("unsafe impl") {
                continue;
            }
            blocks += 1;
            // Up to the start of the statement: a note may be a few lines long and stand above a
            // multi-line expression.
            let above = &lines[index.saturating_sub(8)..=index];
            let explained = above.iter().any(|line| line.contains("SAFETY:"));
            assert!(explained, "{}:{}: unsafe without a SAFETY note above it", path.display(), index + 1);
        }
    }
    assert!(blocks > 50, "only {blocks} unsafe blocks were found");
}

#[test]
fn the_core_forbids_unsafe_and_knows_no_clock_randomness_or_io() {
    let library = read(&root().join("ngx-module/core/src/lib.rs"));
    assert!(library.contains("#![forbid(unsafe_code)]"));
    for path in tracked("ngx-module/core/src", ".rs") {
        for (number, line) in read(&path).lines().enumerate() {
            for banned in ["Instant::now", "SystemTime", "std::fs", "std::net::Tcp", "rand::rng", "std::thread::sleep"]
            {
                assert!(!code(line).contains(banned), "{}:{}: {banned} in the core", path.display(), number + 1);
            }
        }
    }
}

#[test]
fn files_stay_short_enough_to_read() {
    for path in tracked(".", ".rs") {
        let lines = read(&path).lines().count();
        assert!(lines <= LINES_MAX, "{}: {lines} lines, {LINES_MAX} are allowed", path.display());
    }
}

#[test]
fn every_source_file_says_what_it_is() {
    for path in tracked(".", ".rs") {
        let text = read(&path);
        let first = text.lines().next().unwrap_or_default();
        assert!(first.starts_with("//!"), "{}: the first line is no //! header", path.display());
    }
}

/// Names of bit fields that ffi/ calls methods of other types by; not of what a pointer of nginx's
/// points to.
const OTHERS_TOO: [&str; 17] = [
    "block",
    "cache_status",
    "count",
    "exists",
    "first",
    "index",
    "is_dir",
    "is_file",
    "len",
    "purged",
    "read",
    "set",
    "shared",
    "skip",
    "store",
    "waiting",
    "write",
];

/// Whether `receiver` ends with what a raw pointer points to: `(*r)`, not `call(*r)`.
fn is_behind_a_pointer(receiver: &str) -> bool {
    let mut depth = 0_i32;
    let start = receiver.char_indices().rev().find(|(_, sign)| {
        depth += i32::from(*sign == ')') - i32::from(*sign == '(');
        depth <= 0
    });
    let Some((at, _)) = start.filter(|_| receiver.ends_with(')')) else { return false };
    let is_call = receiver[..at].ends_with(|sign: char| sign.is_ascii_alphanumeric() || sign == '_' || sign == '>');
    receiver[at..].starts_with("(*") && !is_call
}

#[test]
fn bit_fields_are_left_to_the_c_compiler() {
    let mut fields = BTreeSet::new();
    for header in headers(&root().join(".nginx/debian/src")).into_iter().chain(headers(&root().join(".nginx/sid/src")))
    {
        for line in read(&header).lines().filter_map(|line| line.trim().strip_prefix("unsigned")) {
            let Some((name, width)) = line.trim().split_once(':') else { continue };
            if width.trim_end().ends_with(';') || width.contains("; ") {
                fields.insert(name.trim().to_owned());
            }
        }
    }
    assert!(fields.len() > 250, "only {} bit fields were found: run `make setup`", fields.len());
    let mut found = Vec::new();
    for path in tracked("ngx-module/src/ffi", ".rs") {
        for (number, line) in read(&path).lines().enumerate() {
            let place = format!("{}:{}", path.display(), number + 1);
            let line = code(line);
            for (dot, _) in line.match_indices('.') {
                let Some((call, _)) = line[dot + 1..].split_once('(') else { continue };
                let field = call.strip_prefix("set_").unwrap_or(call);
                let may_be_other = OTHERS_TOO.contains(&field) && !is_behind_a_pointer(&line[..dot]);
                if fields.contains(field) && !may_be_other {
                    found.push(format!("{place}: {call}() is bindgen's accessor of a bit field"));
                }
            }
            for wrapper in ["add_timer", "del_timer", "post_event", "delete_posted_event"] {
                if line.contains(&format!("nginx_sys::ngx_{wrapper}")) {
                    found.push(format!("{place}: ngx_{wrapper} of nginx-sys reads bit fields"));
                }
            }
        }
    }
    assert!(found.is_empty(), "bits.rs has C's own:\n{}", found.join("\n"));
}

/// nginx's headers below `folder`.
fn headers(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path());
    let nested = entries.flat_map(|path| if path.is_dir() { headers(&path) } else { vec![path] });
    nested.filter(|path| path.extension().is_some_and(|end| end == "h")).collect()
}
