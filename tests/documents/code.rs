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

/// The functions of `base/directive.rs` that make a directive, and what they say of its context.
const LEVELS: [(&str, &str); 4] = [
    ("in_http(", "NGX_HTTP_MAIN_CONF"),
    ("in_upstream(", "NGX_HTTP_UPS_CONF"),
    ("in_location(", "NGX_HTTP_LOC_CONF"),
    ("anywhere(", "ANYWHERE"),
];

/// The directives: each `c"pincer_…"` that is the first argument of such a function, with nginx's
/// flags behind it.
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
    let named = sources.iter().flat_map(|text| {
        text.match_indices("c\"pincer_").map(|(at, open)| (text[..at].trim_end(), &text[at + open.len()..]))
    });
    for (before, rest) in named {
        let Some((name, rest)) = rest.split_once('"') else { continue };
        let Some((_, level)) = LEVELS.iter().find(|(level, _)| before.ends_with(level)) else { continue };
        let flags = rest.trim_start_matches(',').split(',').next().unwrap_or_default();
        let flags = &format!("{level} {flags}");
        let flags = words(flags).map(|word| constants.get(word).copied().unwrap_or(word)).collect::<Vec<_>>().join(" ");
        let mut directive = Directive::default();
        for word in words(&flags) {
            directive.contexts.extend(CONTEXTS.iter().filter(|(flag, _)| *flag == word).map(|(_, name)| name));
            for (_, least, most) in ARGUMENTS.iter().filter(|(flag, ..)| *flag == word) {
                (directive.least, directive.most) = (*least, *most);
            }
        }
        assert!(!directive.contexts.is_empty(), "pincer_{name}: no context is known in {flags:?}");
        found.insert(format!("pincer_{name}"), directive);
    }
    found
}

/// The variables: each `Variable::new("pincer_…", getter)`.
pub fn variables() -> BTreeSet<String> {
    let sources = ffi();
    let named = sources.iter().flat_map(|text| text.split("Variable::new(\"pincer_").skip(1));
    named.filter_map(|rest| rest.split_once('"')).map(|(name, _)| format!("pincer_{name}")).collect()
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
