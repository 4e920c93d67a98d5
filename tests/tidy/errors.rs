//! Errors are types that say whose fault they are, not text.

use syn::visit::Visit;

use super::{read, root, tracked};

/// Where errors are types. The harness of the tests is not among them: it only shows its errors.
const CRATES: [&str; 5] = ["ngx-module", "control-plane", "proto", "bench", "build.rs"];

/// The lines of a file in which the error of a `Result` is text.
#[derive(Default)]
struct Texts {
    lines: Vec<usize>,
}

impl<'a> Visit<'a> for Texts {
    fn visit_path_segment(&mut self, segment: &'a syn::PathSegment) {
        if let syn::PathArguments::AngleBracketed(arguments) = &segment.arguments
            && segment.ident == "Result"
            && let Some(syn::GenericArgument::Type(error)) = arguments.args.iter().nth(1)
            && is_text(error)
        {
            self.lines.push(segment.ident.span().start().line);
        }
        syn::visit::visit_path_segment(self, segment);
    }
}

/// `String`, `&str` and the like.
fn is_text(error: &syn::Type) -> bool {
    match error {
        syn::Type::Path(path) => path.path.segments.last().is_some_and(|last| last.ident == "String"),
        syn::Type::Reference(reference) => {
            matches!(&*reference.elem, syn::Type::Path(path) if path.path.is_ident("str"))
        }
        _ => false,
    }
}

fn texts(source: &str) -> Vec<usize> {
    let mut texts = Texts::default();
    texts.visit_file(&syn::parse_file(source).unwrap());
    texts.lines
}

#[test]
fn no_result_has_text_for_an_error() {
    let mut found = Vec::new();
    for path in CRATES.iter().flat_map(|folder| tracked(folder, ".rs")) {
        let name = path.strip_prefix(root()).unwrap().display().to_string();
        found.extend(texts(&read(&path)).iter().map(|line| format!("{name}:{line}")));
    }
    assert!(found.is_empty(), "an enum of its own says whose fault it is:\n{}", found.join("\n"));
}

#[test]
fn text_for_an_error_is_found_wherever_a_result_may_stand() {
    for (source, is_found) in [
        ("fn f() -> Result<(), String> {}", true),
        ("fn f() -> Result<Vec<u8>, std::string::String> {}", true),
        ("type R = Result<u8, &'static str>;", true),
        ("fn f() { let g = || -> Result<u8, String> { Ok(1) }; }", true),
        ("struct S { f: fn(Option<Result<u8, String>>) }", true),
        ("fn f() -> Result<String, Fault> {}", false),
        ("fn f() -> BTreeMap<u8, String> {}", false),
    ] {
        assert_eq!(!texts(source).is_empty(), is_found, "{source}");
    }
}
