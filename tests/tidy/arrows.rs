//! Arrows between the files and the folders of a crate: no circle, and none but those in the table.

use std::collections::BTreeSet;
use std::path::Path;

use super::modules::Crate;
use super::root;

/// What is checked of a crate.
struct Rules {
    /// The crate's root file.
    root: &'static str,
    /// A reader that finds fewer arrows than these does not read all of them.
    arrows_min: usize,
    /// Whether a module may use what the modules around it define: such an arrow closes no circle.
    uses_parents: bool,
    /// Which folder may import which others. A module's own file belongs to its folder: `ctl.rs` to
    /// `ctl`. The crate's top folder is `.`. `a/*` are all folders in `a`; at the left, those
    /// without a row of their own.
    folders: &'static [(&'static str, &'static [&'static str])],
}

/// All crates that are checked.
const CRATES: &[Rules] = &[
    Rules {
        root: "control-plane/src/lib.rs",
        arrows_min: 150,
        uses_parents: false,
        folders: &[
            (".", &["classes", "keys", "service", "store"]),
            ("classes", &["."]),
            ("ctl", &[".", "classes", "ctl/args", "ctl/show"]),
            ("ctl/args", &[".", "classes", "ctl"]),
            ("ctl/show", &[".", "classes", "ctl"]),
            ("keys", &["."]),
            ("service", &[".", "classes", "keys"]),
            ("store", &[".", "classes", "keys"]),
        ],
    },
    Rules {
        root: "bench/src/main.rs",
        arrows_min: 80,
        uses_parents: false,
        folders: &[(".", &["contender", "scenario"]), ("contender", &["."]), ("scenario", &[".", "contender"])],
    },
    Rules {
        root: "ngx-module/core/src/lib.rs",
        arrows_min: 350,
        uses_parents: false,
        // `.` are the files without a folder, which pick and zone are made of: estimates, the
        // breaker and the like.
        folders: &[
            (".", &["pick"]),
            ("digest", &["digest/json", "digest/multipart"]),
            ("digest/json", &["digest"]),
            ("digest/multipart", &["digest"]),
            ("limit", &["."]),
            ("pick", &["."]),
            ("zone", &[".", "digest", "limit", "pick", "zone/keys"]),
            ("zone/keys", &[".", "zone"]),
            ("status", &[".", "digest", "limit", "pick", "zone"]),
            ("metrics", &[".", "digest", "pick", "status", "zone"]),
        ],
    },
    Rules { root: "proto/src/lib.rs", arrows_min: 1, uses_parents: false, folders: &[] },
    Rules {
        root: "ngx-module/src/lib.rs",
        arrows_min: 500,
        uses_parents: false,
        // `ffi` is module.rs: it alone knows all features.
        folders: &[
            ("ffi", &["ffi/*", "ffi/limit/bandwidth"]),
            // What each feature may import; one that imports more has a row.
            ("ffi/*", &["conf", "ffi/base", "ffi/feed", "ffi/zone"]),
            ("ffi/base", &["conf"]),
            ("ffi/zone", &["conf", "ffi/base"]),
            ("ffi/feed", &["conf", "feed", "feed/shared", "feed/translate", "ffi/base", "ffi/zone"]),
            ("ffi/body", &["conf", "ffi/base", "ffi/zone"]),
            ("ffi/limit", &["conf", "feed", "phase", "ffi/base", "ffi/feed", "ffi/limit/bandwidth", "ffi/zone"]),
            ("ffi/limit/bandwidth", &["conf", "ffi/base", "ffi/limit"]),
            ("ffi/status", &["conf", "ffi/base", "ffi/feed", "ffi/limit", "ffi/zone"]),
            ("ffi/balance", &["conf", "phase", "ffi/base", "ffi/body", "ffi/feed", "ffi/limit", "ffi/zone"]),
            (
                "ffi/cache",
                &["cache", "conf", "feed/shared", "ffi/base", "ffi/body", "ffi/feed", "ffi/limit", "ffi/zone"],
            ),
            ("feed", &["conf", "feed/shared"]),
            ("feed/shared", &["feed"]),
            ("feed/translate", &["conf"]),
        ],
    },
];

#[test]
fn no_file_imports_a_file_that_imports_it() {
    for rules in CRATES {
        let (name, read) = (rules.root, Crate::read(&root().join(rules.root)));
        let (arrows, circle) = (read.arrows().len(), read.circle(rules.uses_parents));
        assert!(arrows >= rules.arrows_min, "{name}: only {arrows} arrows were found");
        assert!(circle.is_empty(), "{name}: these files reach each other:\n{}", circle.join("\n"));
    }
}

#[test]
fn folders_import_only_the_folders_that_the_table_allows() {
    for rules in CRATES {
        let (name, allowed) = (rules.root, rules.folders);
        let read = Crate::read(&root().join(name));
        let folders: BTreeSet<&Path> = read.sources.iter().filter_map(|source| source.path.parent()).collect();
        let folder = |index: usize| folder_of(&read.sources[index].path, &folders);
        let mut seen = BTreeSet::new();
        for arrow in read.arrows() {
            let (from, to) = (folder(arrow.from), folder(arrow.to));
            let (file, path) = (read.sources[arrow.from].path.display(), &arrow.name);
            let may = row_of(allowed, &from).is_some_and(|others| others.iter().any(|other| is_in(&to, other)));
            assert!(may || from == to, "{name}: {from} must not import {to}: {file} uses {path}");
            seen.insert((from, to));
        }
        for (from, others) in allowed {
            for to in *others {
                let is_seen = from.ends_with('*') || seen.iter().any(|(f, t)| f == from && is_in(t, to));
                assert!(is_seen, "{name}: {from} imports {to} no more: take it out of the table");
            }
        }
    }
}

/// What `folder` may import.
fn row_of<'a>(allowed: &[(&'a str, &'a [&'a str])], folder: &str) -> Option<&'a [&'a str]> {
    let own = allowed.iter().find(|(from, _)| *from == folder);
    own.or_else(|| allowed.iter().find(|(from, _)| is_in(folder, from))).map(|(_, others)| *others)
}

/// Whether `folder` is `pattern`, or `pattern` is `a/*` and it is in `a`.
fn is_in(folder: &str, pattern: &str) -> bool {
    let inside = |outer: &str| folder.strip_prefix(outer).is_some_and(|rest| !rest.is_empty() && !rest.contains('/'));
    folder == pattern || pattern.strip_suffix('*').is_some_and(inside)
}

/// The folder that a file belongs to.
fn folder_of(path: &Path, folders: &BTreeSet<&Path>) -> String {
    let own = path.with_extension("");
    let folder = if folders.contains(own.as_path()) { &own } else { path.parent().unwrap() };
    if folder == Path::new("") { ".".to_owned() } else { folder.display().to_string() }
}

/// Reads a crate of these files, the first of which is its root.
fn crate_of(files: &[(&str, &str)]) -> Crate {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    Crate::read(&folder.path().join(files[0].0))
}

#[test]
fn every_way_to_name_another_file_is_an_arrow() {
    // What a.rs says, and whether it leads to b.rs, which leads back.
    for (a, is_round) in [
        ("use crate::b::Y;", true),
        ("use super::{b::{Y, Z}};", true),
        ("use crate::b as other; fn f() { other::g() }", true),
        ("fn f() -> crate::b::Y { loop {} }", true),
        ("fn f() { assert_eq!(1, super::b::Y::default().len()) }", true),
        ("mod inner { use super::super::b::*; }", true),
        ("use crate::c; fn f() { c::d::g() }", true),
        ("use crate::c::Y;", true),
        ("macro_rules! m { () => { pub(super) struct Y; } }", false),
        ("use std::collections::b::Y; fn b() { b() }", false),
        ("#[cfg(test)] mod tests { use crate::b::Y; }", false),
        ("#[cfg(all(test, not(loom)))] mod tests { use crate::b::Y; }", false),
        ("#[cfg(not(test))] mod real { use crate::b::Y; }", true),
    ] {
        let files = [
            ("lib.rs", "mod a; mod b; mod c;"),
            ("a.rs", a),
            ("b.rs", "use crate::a::X;"),
            ("c/mod.rs", "pub mod d; pub use super::b::Y;"),
            ("c/d.rs", "use crate::b::Y;"),
        ];
        let circle = crate_of(&files).circle(false);
        assert_eq!(!circle.is_empty(), is_round, "{a}: {circle:?}");
    }
}

#[test]
fn a_star_stands_for_folders_without_a_row_of_their_own() {
    let allowed: [(&str, &[&str]); 2] = [("ffi/*", &["base"]), ("ffi/base", &[])];
    assert_eq!(row_of(&allowed, "ffi/new"), Some(&["base"][..]));
    assert_eq!(row_of(&allowed, "ffi/base"), Some(&[][..]));
    assert_eq!((row_of(&allowed, "ffi/new/part"), row_of(&allowed, "ffi")), (None, None));
}

#[test]
fn a_name_that_is_only_passed_on_leads_to_its_own_file() {
    let facade = ("lib.rs", "mod a; mod b; pub use a::A; pub use b::B; pub struct C;");
    let passed_on = crate_of(&[facade, ("a.rs", ""), ("b.rs", "use super::A;")]).circle(false);
    assert!(passed_on.is_empty(), "{passed_on:?}");
    let of_parent = crate_of(&[facade, ("a.rs", ""), ("b.rs", "use super::C;")]);
    assert_eq!((of_parent.circle(false).len(), of_parent.circle(true).len()), (2, 0));
}
