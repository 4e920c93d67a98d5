//! The fuzz targets' corpus as an ordinary test: what once broke something, and a seed for each
//! path.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../../../fuzz/checks.rs"]
mod checks;

use std::path::Path;

fn run(target: &str, check: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let mut count = 0;
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        println!("{}", path.display());
        check(&std::fs::read(&path).unwrap());
        count += 1;
    }
    assert!(count >= 10, "{} has only {count} files", folder.display());
}

#[test]
fn the_json_corpus_holds() {
    run("json", checks::json);
}

#[test]
fn the_multipart_corpus_holds() {
    run("multipart", checks::multipart);
}

#[test]
fn the_split_corpus_holds() {
    run("split", checks::split);
}
