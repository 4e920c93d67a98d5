//! What `nginx-sys` makes of an nginx's headers, read as text.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

/// One of nginx's structures as Rust has it.
#[derive(Clone)]
pub struct Structure {
    /// In Rust: of a C structure with a tag that tag.
    pub name: String,
    /// Fields that have an address.
    pub fields: Vec<String>,
    /// Bit fields.
    pub bits: Vec<String>,
}

/// The structures of an nginx, and the Rust that has them.
pub struct Bindings {
    pub text: String,
    pub structures: Vec<Structure>,
    /// Other names, by the name of what they stand for.
    aliases: BTreeMap<String, String>,
}

impl Bindings {
    /// Has `nginx-sys` built for the nginx in `source`, whose folder `objs` holds its
    /// configuration.
    pub fn of(source: &Path) -> Self {
        let text = built_for(source);
        let mut aliases = BTreeMap::new();
        let types =
            text.lines().filter_map(|line| line.strip_prefix("pub type ")?.strip_suffix(';')?.split_once(" = "));
        for (alias, of) in types.filter(|(alias, _)| alias.ends_with("_t")) {
            aliases.entry(of.to_owned()).or_insert_with(|| alias.to_owned());
        }
        Self { structures: structures(&text), text, aliases }
    }

    /// The name that code has for a structure.
    pub fn name_in_code<'a>(&'a self, structure: &'a Structure) -> &'a str {
        self.aliases.get(&structure.name).unwrap_or(&structure.name)
    }

    /// The structure that code calls `name`.
    pub fn called(&self, name: &str) -> Option<&Structure> {
        self.structures
            .iter()
            .find(|structure| {
                structure.name == name || self.aliases.get(&structure.name).is_some_and(|alias| alias == name)
            })
            .or_else(|| {
                // One structure may have several names: `ngx_http_variable_value_t` and
                // `ngx_variable_value_t`.
                let of = self.aliases.iter().find(|(_, alias)| *alias == name)?.0;
                self.called(of)
            })
    }
}

/// The version that the headers in `source` are of.
pub fn version(source: &Path) -> String {
    let text = std::fs::read_to_string(source.join("src/core/nginx.h")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("#define NGINX_VERSION")).unwrap();
    line.trim().trim_matches('"').to_owned()
}

/// What `nginx-sys` makes of the headers in `source`. All are built in one folder, so one at a
/// time, and each once.
fn built_for(source: &Path) -> String {
    static BUILT: Mutex<BTreeMap<PathBuf, String>> = Mutex::new(BTreeMap::new());
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    built.entry(source.to_owned()).or_insert_with(|| std::fs::read_to_string(build(source)).unwrap()).clone()
}

/// Has cargo build `nginx-sys`; the file that it made.
fn build(source: &Path) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let output = Command::new(env!("CARGO"))
        .current_dir(root)
        .args(["check", "--quiet", "--package", "nginx-sys", "--message-format=json", "--target-dir", "target/layout"])
        .env("NGINX_SOURCE_DIR", source)
        .env("NGINX_BUILD_DIR", source.join("objs"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let messages = said.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let folder = messages
        .filter(|message| message["reason"] == "build-script-executed")
        .filter(|message| message["package_id"].as_str().is_some_and(|id| id.contains("nginx-sys")))
        .find_map(|message| message["out_dir"].as_str().map(PathBuf::from));
    let folder = folder.unwrap_or_else(|| panic!("{}: {}", source.display(), String::from_utf8_lossy(&output.stderr)));
    folder.join("bindings.rs")
}

fn structures(text: &str) -> Vec<Structure> {
    let bits = bits(text);
    let mut found = Vec::new();
    for (name, body) in blocks(text, "pub struct ") {
        let fields =
            body.iter().filter_map(|line| line.strip_prefix("    pub ")?.split_once(": ")).map(|(name, _)| name);
        let fields: Vec<String> = fields.filter(|name| !name.starts_with('_')).map(str::to_owned).collect();
        let bits = bits.get(name).cloned().unwrap_or_default();
        found.push(Structure { name: name.to_owned(), fields, bits });
    }
    found
}

/// The bit fields of each structure, by their setters.
fn bits(text: &str) -> BTreeMap<&str, Vec<String>> {
    let mut found: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (name, body) in blocks(text, "impl ") {
        let setters =
            body.iter().filter_map(|line| line.strip_prefix("    pub fn set_")?.split_once("(&mut self, val: "));
        found.entry(name).or_default().extend(setters.map(|(name, _)| name.to_owned()));
    }
    found
}

/// Blocks of nginx's structures that begin with `opening` and a name, with their lines. Those that
/// C gives no name are left out.
fn blocks<'a>(text: &'a str, opening: &str) -> Vec<(&'a str, Vec<&'a str>)> {
    let mut found: Vec<(&str, Vec<&str>)> = Vec::new();
    let mut open = false;
    for line in text.lines() {
        let begins = line.strip_prefix(opening).and_then(|rest| rest.strip_suffix(" {"));
        if let Some(name) = begins.filter(|name| name.starts_with("ngx_") && !name.contains("__bindgen")) {
            found.push((name, Vec::new()));
            open = true;
        } else if line == "}" {
            open = false;
        } else if let Some((_, body)) = found.last_mut().filter(|_| open) {
            body.push(line);
        }
    }
    found
}
