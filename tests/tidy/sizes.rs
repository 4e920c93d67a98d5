//! Sizes: what a person can read at once.

use std::path::{Path, PathBuf};

use syn::spanned::Spanned as _;
use syn::visit::Visit;

use super::modules::is_for_tests;
use super::{root, tracked};

/// Columns of a line that is a comment.
const COMMENT_COLUMNS_MAX: usize = 100;

/// Lines of an unsafe block.
const UNSAFE_LINES_MAX: usize = 20;

/// Lines that nine of ten functions have at most.
const FUNCTION_LINES_P90: usize = 25;

/// Lines that nine of ten files have at most.
const FILE_LINES_P90: usize = 350;

/// Folders whose comments are that narrow.
const NARROW: &[&str] = &["bench", "build.rs", "control-plane", "fuzz", "ngx-module", "proto", "tests"];

/// Folders whose unsafe blocks are that short.
const UNSAFE: &[&str] = &["bench", "ngx-module", "tests"];

/// Folders whose functions and files are that short.
const SHORT: &[&str] = &["bench", "control-plane", "ngx-module", "proto"];

#[derive(Default)]
struct Blocks {
    functions: Vec<usize>,
    /// First line and length.
    unsafe_blocks: Vec<(usize, usize)>,
}

fn lines(span: proc_macro2::Span) -> usize {
    span.end().line - span.start().line + 1
}

impl Blocks {
    fn of(path: &Path) -> Self {
        let parsed = syn::parse_file(&super::read(path)).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let mut blocks = Self::default();
        blocks.visit_file(&parsed);
        blocks
    }

    fn function(&mut self, attributes: &[syn::Attribute], signature: &syn::Signature, block: &syn::Block) {
        if !is_for_tests(attributes) {
            self.functions.push(block.span().end().line - signature.span().start().line + 1);
        }
    }
}

impl<'a> Visit<'a> for Blocks {
    fn visit_item_mod(&mut self, item: &'a syn::ItemMod) {
        if !is_for_tests(&item.attrs) {
            syn::visit::visit_item_mod(self, item);
        }
    }

    fn visit_item_fn(&mut self, item: &'a syn::ItemFn) {
        self.function(&item.attrs, &item.sig, &item.block);
        syn::visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'a syn::ImplItemFn) {
        self.function(&item.attrs, &item.sig, &item.block);
        syn::visit::visit_impl_item_fn(self, item);
    }

    fn visit_trait_item_fn(&mut self, item: &'a syn::TraitItemFn) {
        if let Some(block) = &item.default {
            self.function(&item.attrs, &item.sig, block);
        }
        syn::visit::visit_trait_item_fn(self, item);
    }

    fn visit_expr_unsafe(&mut self, block: &'a syn::ExprUnsafe) {
        self.unsafe_blocks.push((block.span().start().line, lines(block.span())));
        syn::visit::visit_expr_unsafe(self, block);
    }
}

fn p90(mut sizes: Vec<usize>) -> usize {
    sizes.sort_unstable();
    sizes[sizes.len() * 9 / 10]
}

/// Files of Rust in `folder`, without those that are tests.
fn sources(folder: &str) -> Vec<PathBuf> {
    let is_test = |path: &PathBuf| {
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        stem.ends_with("tests") || path.strip_prefix(root()).unwrap().iter().any(|part| part == "tests")
    };
    tracked(folder, ".rs").into_iter().filter(|path| !is_test(path)).collect()
}

#[test]
fn comment_lines_are_of_a_readable_width() {
    let mut found = Vec::new();
    for path in NARROW.iter().flat_map(|folder| [tracked(folder, ".rs"), tracked(folder, ".proto")]).flatten() {
        for (number, line) in super::read(&path).lines().enumerate() {
            if line.trim_start().starts_with("//") && line.chars().count() > COMMENT_COLUMNS_MAX {
                found.push(format!("{}:{}", path.display(), number + 1));
            }
        }
    }
    assert!(found.is_empty(), "comments wider than {COMMENT_COLUMNS_MAX} columns:\n{}", found.join("\n"));
}

#[test]
fn unsafe_blocks_are_short() {
    let mut found = Vec::new();
    for path in UNSAFE.iter().flat_map(|folder| tracked(folder, ".rs")) {
        for (line, length) in Blocks::of(&path).unsafe_blocks {
            if length > UNSAFE_LINES_MAX {
                found.push(format!("{}:{line}: {length} lines", path.display()));
            }
        }
    }
    assert!(found.is_empty(), "unsafe blocks of more than {UNSAFE_LINES_MAX} lines:\n{}", found.join("\n"));
}

#[test]
fn nine_of_ten_functions_and_files_are_short() {
    for folder in SHORT {
        let sources = sources(folder);
        let functions = p90(sources.iter().flat_map(|path| Blocks::of(path).functions).collect());
        let files = p90(sources.iter().map(|path| super::read(path).lines().count()).collect());
        assert!(functions <= FUNCTION_LINES_P90, "{folder}: one of ten functions has {functions} lines or more");
        assert!(files <= FILE_LINES_P90, "{folder}: one of ten files has {files} lines or more");
    }
}
