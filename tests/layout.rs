//! Rust's view of nginx's structures is C's: offset and size of every field of every structure of
//! nginx's headers, for each nginx that `make setup` prepares. `PINCER_LAYOUT=FOLDER,…` names
//! others: nginx's source, configured into its folder `objs`.
//!
//! Two programs print where everything is, one in C and one in Rust over what `nginx-sys` makes of
//! the same headers; no line may differ. Bit fields are compared too and only counted: bindgen 0.72
//! has those of a request elsewhere from nginx 1.29.3 on, which is why the module reads them in C
//! (`ngx-module/src/ffi/base/bits.c`), and tidy holds it to that. Cost: some seconds for each
//! nginx.

#[path = "layout/bindings.rs"]
mod bindings;
#[path = "layout/programs.rs"]
mod programs;

use bindings::{Bindings, Structure};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Fewer were looked at than any nginx has: the check itself is broken.
const FIELDS_MIN: usize = 1_500;
const BITS_MIN: usize = 300;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Folders of nginx's source.
fn prepared() -> Vec<PathBuf> {
    let others = std::env::var("PINCER_LAYOUT").unwrap_or_default();
    let others = others.split(',').filter(|folder| !folder.is_empty()).map(PathBuf::from);
    ["debian", "trixie", "stable", "sid"].iter().map(|name| root().join(".nginx").join(name)).chain(others).collect()
}

/// What differs between what C says and what Rust says.
fn differences(c: &str, rust: &str) -> Vec<String> {
    assert_eq!(c.lines().count(), rust.lines().count(), "the programs do not look at the same fields");
    let pairs = c.lines().zip(rust.lines()).filter(|(c, rust)| c != rust);
    pairs.map(|(c, rust)| format!("C {c}, Rust {rust}")).collect()
}

/// What fields of one kind are in C and in Rust: how many, and what differs.
fn compared(source: &Path, bindings: &Bindings, which: fn(&Structure) -> Structure) -> (usize, Vec<String>) {
    let structures: Vec<Structure> = bindings.structures.iter().map(which).collect();
    let (c, rust) = (programs::in_c(source, &structures), programs::in_rust(bindings, &structures));
    (c.lines().count(), differences(&c, &rust))
}

fn fields_only(structure: &Structure) -> Structure {
    Structure { bits: Vec::new(), ..structure.clone() }
}

fn bits_only(structure: &Structure) -> Structure {
    Structure { fields: Vec::new(), ..structure.clone() }
}

#[test]
fn every_field_is_where_c_has_it() {
    for source in prepared() {
        let bindings = Bindings::of(&source);
        let (fields, wrong) = compared(&source, &bindings, fields_only);
        let (bits, elsewhere) = compared(&source, &bindings, bits_only);
        println!(
            "nginx {}: {fields} fields, {} differ; {bits} bit fields, bindgen has {} elsewhere",
            bindings::version(&source),
            wrong.len(),
            elsewhere.len()
        );
        assert!(wrong.is_empty(), "{}: {}", source.display(), wrong.join("\n"));
        assert!(fields >= FIELDS_MIN && bits >= BITS_MIN, "{}: {fields} fields, {bits} bit fields", source.display());
    }
}

#[test]
fn headers_of_another_nginx_are_told_apart() {
    let [old, new] = ["debian", "sid"].map(|name| root().join(".nginx").join(name));
    let (bindings, other) = (Bindings::of(&old), Bindings::of(&new));
    let [mut request, in_both] = [&bindings, &other].map(|all| fields_only(all.called("ngx_http_request_t").unwrap()));
    request.fields.retain(|field| in_both.fields.contains(field));
    let request = [request];
    assert!(!differences(&programs::in_c(&new, &request), &programs::in_rust(&bindings, &request)).is_empty());
}

/// What stands behind a dot in the module's border and is no call: names of fields, of nginx's
/// structures or of ours.
fn names_behind_a_dot() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for path in files(&root().join("ngx-module/src/ffi")) {
        let text = std::fs::read_to_string(path).unwrap();
        for line in text.lines().map(|line| line.split("//").next().unwrap_or_default()) {
            for behind in line.split('.').skip(1) {
                let end =
                    behind.find(|sign: char| !sign.is_ascii_alphanumeric() && sign != '_').unwrap_or(behind.len());
                let (name, rest) = behind.split_at(end);
                if !rest.starts_with(['(', '!']) && !rest.starts_with("::") {
                    names.insert(name.to_owned());
                }
            }
        }
    }
    names
}

/// Structures and their fields, as a list of `ngx-module/src/ffi/base` has them.
fn lists(text: &str) -> Vec<(&str, BTreeSet<&str>)> {
    let lines = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once(": "));
    lines.map(|(name, fields)| (name, fields.split_whitespace().collect())).collect()
}

/// All Rust files below `folder`.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let nested = entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] });
    nested.filter(|path| path.extension().is_some_and(|end| end == "rs")).collect()
}

#[test]
fn the_build_checks_every_field_that_the_module_uses() {
    let [listed, wrapped] =
        ["layout", "wrapper"].map(|list| root().join("ngx-module/src/ffi/base").join(list).with_extension("txt"));
    let [listed, wrapped] = [listed, wrapped].map(|list| std::fs::read_to_string(list).unwrap());
    let [listed, wrapped] = [&listed, &wrapped].map(|list| lists(list));
    let bindings = Bindings::of(&root().join(".nginx/debian"));
    let used = names_behind_a_dot();
    let mut missing = Vec::new();
    for (name, fields) in &listed {
        let structure = bindings.called(name).unwrap_or_else(|| panic!("layout.txt: {name} is no structure"));
        let has = structure.fields.iter().filter(|field| used.contains(*field) && !fields.contains(field.as_str()));
        missing.extend(has.map(|field| format!("{name}: {field}")));
    }
    // Of a structure that is not listed at all nothing may be used.
    let known: BTreeSet<&str> = listed.iter().flat_map(|(_, fields)| fields.iter().copied()).collect();
    let sources: String =
        files(&root().join("ngx-module/src/ffi")).iter().map(|path| std::fs::read_to_string(path).unwrap()).collect();
    for structure in &bindings.structures {
        let name = bindings.name_in_code(structure);
        let named = sources.split(|sign: char| !sign.is_ascii_alphanumeric() && sign != '_').any(|word| word == name);
        if !named || listed.iter().chain(&wrapped).any(|(listed, _)| *listed == name) {
            continue;
        }
        let has = structure.fields.iter().filter(|field| used.contains(*field) && !known.contains(field.as_str()));
        missing.extend(has.map(|field| format!("{name}: {field}")));
    }
    assert!(listed.len() > 50 && used.len() > 200, "{} structures, {} names", listed.len(), used.len());
    assert!(missing.is_empty(), "add to ngx-module/src/ffi/base/layout.txt: {missing:#?}");
}
