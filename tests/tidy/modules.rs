//! The modules of a crate and the arrows between its files, read from the source without its tests.
//!
//! An arrow goes from a file to each other file whose module one of its paths begins with: `use`
//! paths, paths in code, and paths inside of a macro's arguments. `mod x;` alone is no arrow, and
//! neither is a call of a method. A name that is re-exported counts for the file that re-exports
//! it. Items for tests only are left out: `#[cfg(test)]`, and `all` of that and others.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::Visit;

/// Imports of imports that are followed.
const IMPORTS_DEPTH_MAX: usize = 8;

/// The names from the crate's root to a module.
type Module = Vec<String>;

/// A source file and the module that it holds.
pub struct Source {
    /// Relative to the folder of the crate's root file.
    pub path: PathBuf,
    module: Module,
    /// Each path in it, with the module that it is written in.
    paths: Vec<(Module, Vec<String>)>,
}

/// A crate's files.
pub struct Crate {
    pub sources: Vec<Source>,
    /// All modules, inline ones too, each with the index of its file.
    modules: BTreeMap<Module, usize>,
    /// Names that a module imports, with their paths.
    imports: BTreeMap<Module, BTreeMap<String, Vec<String>>>,
}

/// The path of an arrow, and where it leads.
pub struct Arrow {
    pub from: usize,
    pub to: usize,
    /// As it is written, for the message.
    pub name: String,
}

impl Crate {
    /// Reads the crate whose root file is `root`.
    pub fn read(root: &Path) -> Self {
        let mut all = Self { sources: Vec::new(), modules: BTreeMap::new(), imports: BTreeMap::new() };
        let folder = root.parent().unwrap();
        all.add(folder, root, folder, Vec::new());
        all
    }

    /// Reads `file` and the files of its modules, which are in `below`.
    fn add(&mut self, folder: &Path, file: &Path, below: &Path, module: Module) {
        let text = std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let items = syn::parse_file(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display())).items;
        let index = self.sources.len();
        let path = file.strip_prefix(folder).unwrap_or(file).to_owned();
        let mut paths = Paths { module: module.clone(), imports: &mut self.imports, found: Vec::new() };
        items.iter().for_each(|item| paths.visit_item(item));
        self.sources.push(Source { path, module: module.clone(), paths: paths.found });
        self.modules.insert(module.clone(), index);
        self.add_children(folder, file, below, &module, index, &items);
    }

    fn add_children(
        &mut self,
        folder: &Path,
        file: &Path,
        below: &Path,
        module: &Module,
        index: usize,
        items: &[syn::Item],
    ) {
        for item in items {
            let syn::Item::Mod(child) = item else { continue };
            if is_for_tests(&child.attrs) {
                continue;
            }
            let name = child.ident.to_string();
            let path: Module = module.iter().cloned().chain([name.clone()]).collect();
            if let Some((_, nested)) = &child.content {
                self.modules.insert(path.clone(), index);
                self.add_children(folder, file, &below.join(&name), &path, index, nested);
                continue;
            }
            let inside = below.join(&name);
            let found = match path_of(&child.attrs) {
                Some(given) => file.parent().unwrap().join(given),
                None => Some(below.join(format!("{name}.rs"))).filter(|f| f.exists()).unwrap_or(inside.join("mod.rs")),
            };
            self.add(folder, &found, &inside, path);
        }
    }

    /// All arrows between different files, each pair once.
    pub fn arrows(&self) -> Vec<Arrow> {
        let mut arrows = BTreeMap::new();
        for (index, source) in self.sources.iter().enumerate() {
            for (module, path) in &source.paths {
                let Some(target) = self.resolve(module, path, IMPORTS_DEPTH_MAX) else { continue };
                if target != index {
                    arrows.entry((index, target)).or_insert_with(|| path.join("::"));
                }
            }
        }
        arrows.into_iter().map(|((from, to), name)| Arrow { from, to, name }).collect()
    }

    /// The file that `path`, written in `module`, leads to; `None` outside of the crate.
    fn resolve(&self, module: &[String], path: &[String], depth: usize) -> Option<usize> {
        let (mut at, mut rest) = (module.to_vec(), path);
        while let Some((first, others)) = rest.split_first() {
            match first.as_str() {
                "crate" => at.clear(),
                "self" => {}
                "super" => drop(at.pop()?),
                _ => break,
            }
            rest = others;
        }
        let is_rooted = rest.len() < path.len();
        let mut file = *self.modules.get(&at)?;
        for (index, name) in rest.iter().enumerate() {
            let imported = self.imports.get(&at).and_then(|imports| imports.get(name));
            at.push(name.clone());
            match self.modules.get(&at) {
                Some(found) => file = *found,
                None if index == 0 && !is_rooted && imported.is_none() => return None,
                None => {
                    at.pop();
                    let Some(imported) = imported.filter(|_| depth > 0) else { break };
                    let whole: Vec<String> = imported.iter().chain(&rest[index + 1..]).cloned().collect();
                    return self.resolve(&at, &whole, depth - 1).or((is_rooted || index > 0).then_some(file));
                }
            }
        }
        Some(file)
    }

    /// The arrows from files to files that reach them again. With `uses_parents`, arrows to the
    /// files of the modules around a file are left out.
    pub fn circle(&self, uses_parents: bool) -> Vec<String> {
        let is_parent = |arrow: &Arrow| {
            let (from, to) = (&self.sources[arrow.from].module, &self.sources[arrow.to].module);
            from.starts_with(to)
        };
        let arrows: Vec<Arrow> = self.arrows().into_iter().filter(|arrow| !uses_parents || !is_parent(arrow)).collect();
        let mut reach = vec![BTreeSet::new(); self.sources.len()];
        for arrow in &arrows {
            reach[arrow.from].insert(arrow.to);
        }
        loop {
            let before: usize = reach.iter().map(BTreeSet::len).sum();
            for at in 0..reach.len() {
                let further: Vec<usize> = reach[at].iter().flat_map(|next| reach[*next].iter().copied()).collect();
                reach[at].extend(further);
            }
            if before == reach.iter().map(BTreeSet::len).sum::<usize>() {
                break;
            }
        }
        let is_round = |arrow: &&Arrow| reach[arrow.to].contains(&arrow.from);
        let name = |index: usize| self.sources[index].path.display();
        arrows.iter().filter(is_round).map(|a| format!("{} -> {}: {}", name(a.from), name(a.to), a.name)).collect()
    }
}

/// Whether an item is compiled for tests only.
pub fn is_for_tests(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("test")
            || attribute.path().is_ident("cfg")
                && attribute.parse_args::<syn::Meta>().is_ok_and(|condition| needs_test(&condition))
    })
}

/// Whether a condition is `test`, or an `all` of it and others.
fn needs_test(condition: &syn::Meta) -> bool {
    let syn::Meta::List(list) = condition else { return condition.path().is_ident("test") };
    let all = list
        .path
        .is_ident("all")
        .then(|| list.parse_args_with(syn::punctuated::Punctuated::<syn::Meta, syn::Token![,]>::parse_terminated));
    all.is_some_and(|all| all.is_ok_and(|all| all.iter().any(needs_test)))
}

/// `#[path = "…"]`.
fn path_of(attributes: &[syn::Attribute]) -> Option<String> {
    let value = attributes.iter().find_map(|a| a.meta.require_name_value().ok().filter(|v| v.path.is_ident("path")))?;
    match &value.value {
        syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(text), .. }) => Some(text.value()),
        _ => None,
    }
}

/// Collects the paths of a file.
struct Paths<'a> {
    /// The module that is read.
    module: Module,
    imports: &'a mut BTreeMap<Module, BTreeMap<String, Vec<String>>>,
    found: Vec<(Module, Vec<String>)>,
}

impl Paths<'_> {
    fn tree(&mut self, tree: &syn::UseTree, before: &mut Vec<String>) {
        match tree {
            syn::UseTree::Path(path) => {
                before.push(path.ident.to_string());
                self.tree(&path.tree, before);
                before.pop();
            }
            syn::UseTree::Group(group) => group.items.iter().for_each(|tree| self.tree(tree, before)),
            syn::UseTree::Name(name) => self.import(before, &name.ident, &name.ident),
            syn::UseTree::Rename(renamed) => self.import(before, &renamed.ident, &renamed.rename),
            syn::UseTree::Glob(_) => self.found.push((self.module.clone(), before.clone())),
        }
    }

    fn import(&mut self, before: &[String], last: &syn::Ident, called: &syn::Ident) {
        let mut path = before.to_vec();
        let called = if last == "self" { path.last().cloned().unwrap_or_default() } else { called.to_string() };
        if last != "self" {
            path.push(last.to_string());
        }
        self.found.push((self.module.clone(), path.clone()));
        self.imports.entry(self.module.clone()).or_default().insert(called, path);
    }

    /// Paths among a macro's arguments.
    fn tokens(&mut self, tokens: TokenStream) {
        let (mut path, mut colons) = (Vec::new(), 0);
        for token in tokens {
            match token {
                TokenTree::Ident(name) if colons == 2 || path.is_empty() => {
                    path.push(name.to_string());
                    colons = 0;
                }
                TokenTree::Punct(sign) if sign.as_char() == ':' && colons < 2 && !path.is_empty() => colons += 1,
                other => {
                    self.found_in_tokens(std::mem::take(&mut path));
                    colons = 0;
                    match other {
                        TokenTree::Group(group) => self.tokens(group.stream()),
                        TokenTree::Ident(name) => path.push(name.to_string()),
                        _ => {}
                    }
                }
            }
        }
        self.found_in_tokens(path);
    }

    /// One name alone is no path to another file, as in `visit_path`; `super` in `pub(super)` is
    /// none either.
    fn found_in_tokens(&mut self, path: Vec<String>) {
        if path.len() > 1 {
            self.found.push((self.module.clone(), path));
        }
    }
}

impl<'a> Visit<'a> for Paths<'_> {
    fn visit_item(&mut self, item: &'a syn::Item) {
        let attributes = match item {
            syn::Item::Fn(item) => &item.attrs,
            syn::Item::Impl(item) => &item.attrs,
            syn::Item::Mod(item) => &item.attrs,
            syn::Item::Use(item) => &item.attrs,
            _ => &Vec::new(),
        };
        if !is_for_tests(attributes) {
            syn::visit::visit_item(self, item);
        }
    }

    fn visit_item_mod(&mut self, item: &'a syn::ItemMod) {
        self.module.push(item.ident.to_string());
        syn::visit::visit_item_mod(self, item);
        self.module.pop();
    }

    fn visit_item_use(&mut self, item: &'a syn::ItemUse) {
        self.tree(&item.tree, &mut Vec::new());
    }

    /// `pub(in super::super)` names a module and imports nothing.
    fn visit_visibility(&mut self, _: &'a syn::Visibility) {}

    fn visit_path(&mut self, path: &'a syn::Path) {
        // One name alone is never a path to another file: a `use` has brought it in.
        if path.leading_colon.is_none() && path.segments.len() > 1 {
            self.found.push((self.module.clone(), path.segments.iter().map(|s| s.ident.to_string()).collect()));
        }
        syn::visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, invocation: &'a syn::Macro) {
        self.visit_path(&invocation.path);
        self.tokens(invocation.tokens.clone());
    }
}
