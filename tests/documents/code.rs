//! What the code has, read from its source and from the programs themselves: directives, variables,
//! commands.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use harness::{paths, process};

/// A directive as nginx is told of it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Directive {
    /// `http`, `server`, `location`, `upstream`.
    pub contexts: BTreeSet<&'static str>,
    /// The least number of arguments.
    pub least: usize,
    /// The largest; `None` = any.
    pub most: Option<usize>,
}

/// nginx's flag of a context, and how nginx.org names it.
const CONTEXTS: [(&str, &str); 4] = [
    ("NGX_HTTP_MAIN_CONF", "http"),
    ("NGX_HTTP_SRV_CONF", "server"),
    ("NGX_HTTP_LOC_CONF", "location"),
    ("NGX_HTTP_UPS_CONF", "upstream"),
];

/// nginx's flag of a number of arguments.
const ARGUMENTS: [(&str, usize, Option<usize>); 9] = [
    ("NGX_CONF_NOARGS", 0, Some(0)),
    ("NGX_CONF_TAKE1", 1, Some(1)),
    ("NGX_CONF_FLAG", 1, Some(1)),
    ("NGX_CONF_TAKE2", 2, Some(2)),
    ("NGX_CONF_TAKE12", 1, Some(2)),
    ("NGX_CONF_TAKE123", 1, Some(3)),
    ("NGX_CONF_1MORE", 1, None),
    ("NGX_CONF_2MORE", 2, None),
    ("NGX_CONF_ANY", 0, None),
];

/// The text of all Rust files below `folder`, without comments.
fn sources(folder: &Path) -> Vec<String> {
    let mut files: Vec<PathBuf> = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
            let path = entry.expect("an entry").path();
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    let texts = files.iter().filter(|path| path.extension().is_some_and(|end| end == "rs"));
    let code =
        |text: String| text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
    texts.map(|path| code(std::fs::read_to_string(path).expect("a source file"))).collect()
}

fn ffi() -> Vec<String> {
    sources(&paths::repository().join("ngx-module/src/ffi"))
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|sign: char| !sign.is_ascii_alphanumeric() && sign != '_').filter(|word| !word.is_empty())
}

/// The directives: each `c"pincer_…"` that is followed by nginx's flags.
pub fn directives() -> BTreeMap<String, Directive> {
    let sources = ffi();
    // `ANYWHERE` and the like.
    let constants: BTreeMap<&str, &str> = sources
        .iter()
        .flat_map(|text| text.split("const ").skip(1))
        .filter_map(|rest| rest.split_once(": u32 = "))
        .filter_map(|(name, rest)| Some((name, rest.split_once(';')?.0)))
        .filter(|(name, value)| words(name).count() == 1 && value.contains("NGX_"))
        .collect();
    let mut found = BTreeMap::new();
    for rest in sources.iter().flat_map(|text| text.split("c\"pincer_").skip(1)) {
        let Some((name, rest)) = rest.split_once('"') else { continue };
        let flags = rest.trim_start_matches(',').split(',').next().unwrap_or_default();
        let flags = words(flags).map(|word| constants.get(word).copied().unwrap_or(word)).collect::<Vec<_>>().join(" ");
        let mut directive = Directive::default();
        for word in words(&flags) {
            directive.contexts.extend(CONTEXTS.iter().filter(|(flag, _)| *flag == word).map(|(_, name)| name));
            for (_, least, most) in ARGUMENTS.iter().filter(|(flag, ..)| *flag == word) {
                (directive.least, directive.most) = (*least, *most);
            }
        }
        if flags.contains("NGX_CONF_") {
            assert!(!directive.contexts.is_empty(), "pincer_{name}: no context is known in {flags:?}");
            found.insert(format!("pincer_{name}"), directive);
        }
    }
    found
}

/// The variables: each pair of a name and its getter, `("pincer_ttft", ttft)`.
pub fn variables() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for text in ffi() {
        for (at, open) in text.match_indices("(\"pincer_") {
            // A call has its name in front.
            let is_call = text[..at].ends_with(|sign: char| sign.is_ascii_alphanumeric() || sign == '_' || sign == '!');
            let Some((name, rest)) = text[at + open.len()..].split_once('"') else { continue };
            let Some((getter, _)) = rest.strip_prefix(", ").and_then(|rest| rest.split_once(')')) else { continue };
            let is_getter =
                getter.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_:".contains(&byte));
            if !is_call && is_getter {
                found.insert(format!("pincer_{name}"));
            }
        }
    }
    found
}

/// What a program prints with `--help`.
pub async fn help(program: &Path, command: &[String]) -> String {
    let mut running = tokio::process::Command::new(program);
    let told = process::run(running.args(command).arg("--help"), 60.0).await;
    assert_eq!(told.code, 0, "{command:?}: {}", told.errors);
    told.output
}

/// The long flags in a program's help, but `--help` and `--version`.
pub fn flags(help: &str) -> BTreeSet<String> {
    let options = help.split_once("\nOptions:\n").map_or("", |(_, options)| options);
    let lines = options.lines().filter(|line| line.trim_start().starts_with('-'));
    let long = lines.filter_map(|line| line.split_whitespace().find(|word| word.starts_with("--")));
    long.map(|flag| flag.trim_end_matches(',').to_owned())
        .filter(|flag| flag != "--help" && flag != "--version")
        .collect()
}

/// pincerctl's commands, as `peer set`, each with its help.
pub async fn commands() -> BTreeMap<String, String> {
    let program = paths::pincerctl();
    let (mut found, mut open) = (BTreeMap::new(), vec![Vec::new()]);
    while let Some(command) = open.pop() {
        let text = help(&program, &command).await;
        let listed = text.split_once("\nCommands:\n").and_then(|(_, rest)| rest.split_once("\n\n"));
        let Some((listed, _)) = listed else {
            found.insert(command.join(" "), text);
            continue;
        };
        let names = listed.lines().filter_map(|line| line.strip_prefix("  ")).filter(|line| !line.starts_with(' '));
        for name in names.filter_map(|line| line.split_whitespace().next()).filter(|name| *name != "help") {
            open.push([&command[..], &[name.to_owned()]].concat());
        }
    }
    found
}
