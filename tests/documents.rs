//! The documents have what the code has, and nothing else: each directive with its context and
//! arguments, each variable, metric and command. Links lead somewhere, and README.md stays short.

#[path = "documents/code.rs"]
mod code;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use harness::nginx::workers;
use harness::paths::{self, text as read};
use harness::{Nginx, Pincerd, Replica};

/// Bytes of README.md, at most.
const README_BYTES_MAX: usize = 8 << 10;

/// The documents that people read, and that link to each other.
const DOCUMENTS: [&str; 15] = [
    "README.md",
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "CHANGELOG.md",
    "bench/README.md",
    "docs/install.md",
    "docs/directives.md",
    "docs/balancing.md",
    "docs/classes.md",
    "docs/cache.md",
    "docs/control-plane.md",
    "docs/metrics.md",
    "docs/troubleshooting.md",
    "docs/performance.md",
];

/// The sections of a document below headings of the third level, by heading.
fn sections(document: &str) -> BTreeMap<String, String> {
    let text = read(document);
    let mut found = BTreeMap::new();
    for section in text.split("\n### ").skip(1) {
        let (heading, rest) = section.split_once('\n').unwrap_or((section, ""));
        let body = rest.split("\n## ").next().unwrap_or_default().to_owned();
        assert!(found.insert(heading.trim().to_owned(), body).is_none(), "{document} has {heading} twice");
    }
    found
}

/// Of a directive's section, the lines that begin so, without the code's marks.
fn fields<'a>(section: &'a str, name: &str) -> Vec<&'a str> {
    let prefix = format!("- {name}: ");
    section.lines().filter_map(|line| line.strip_prefix(prefix.as_str())).collect()
}

#[test]
fn each_directive_has_its_heading_with_its_context_and_arguments() {
    let code = code::directives();
    assert!(code.len() >= 17, "only {code:?} were found");
    let documented = sections("docs/directives.md");
    let names: BTreeSet<_> = documented.keys().filter(|heading| heading.starts_with("pincer_")).cloned().collect();
    assert_eq!(names, code.keys().cloned().collect(), "docs/directives.md beside the code's directives");
    for (name, directive) in &code {
        let section = &documented[name];
        let place = format!("docs/directives.md, {name}");
        let contexts = fields(section, "Context");
        assert_eq!(contexts.len(), 1, "{place}: one line \"- Context:\" is needed");
        let contexts: BTreeSet<&str> = contexts[0].split(',').map(|word| word.trim().trim_matches('`')).collect();
        assert_eq!(contexts, directive.contexts, "{place}: Context beside the code's flags");
        assert_eq!(fields(section, "Default").len(), 1, "{place}: one line \"- Default:\" is needed");
        let forms: Vec<_> = fields(section, "Syntax").into_iter().map(|form| arguments(name, form)).collect();
        let least = forms.iter().map(|(least, _)| *least).min().expect("a line \"- Syntax:\"");
        let most = forms.iter().map(|(_, most)| *most).max();
        let fits = match directive.most {
            Some(_) => (least, most) == (directive.least, directive.most),
            // nginx's flag says no more than whether there must be one.
            None => (least > 0) == (directive.least > 0),
        };
        assert!(fits, "{place}: Syntax has {least} to {most:?} arguments, the code takes {directive:?}");
    }
}

/// How many arguments a line of syntax needs, and how many it shows.
fn arguments(name: &str, form: &str) -> (usize, usize) {
    let bare = form.strip_prefix('`').and_then(|form| form.strip_suffix(";`"));
    let bare = bare.unwrap_or_else(|| panic!("{name}: Syntax is no `{name} …;`: {form}"));
    let rest = bare.strip_prefix(name).unwrap_or_else(|| panic!("{name}: another directive: {form}"));
    let (mut least, mut most, mut depth, mut is_choice) = (0, 0, 0_u32, false);
    for word in rest.split_whitespace() {
        let opens = u32::try_from(word.matches('[').count()).expect("a short word");
        let closes = u32::try_from(word.matches(']').count()).expect("a short word");
        let is_inside = depth > 0 || opens > 0;
        depth = (depth + opens).checked_sub(closes).unwrap_or_else(|| panic!("{name}: brackets: {form}"));
        if word == "|" {
            is_choice = true;
        } else if word != "…" && !std::mem::take(&mut is_choice) {
            least += usize::from(!is_inside);
            most += 1;
        }
    }
    assert_eq!(depth, 0, "{name}: brackets: {form}");
    (least, most)
}

#[tokio::test(flavor = "multi_thread")]
async fn each_variable_has_its_heading() {
    let documented = sections("docs/directives.md");
    let documented: BTreeSet<_> = documented.keys().filter_map(|heading| heading.strip_prefix('$')).collect();
    let code = code::variables();
    assert_eq!(documented, code.iter().map(String::as_str).collect(), "docs/directives.md beside the code's variables");
    let format: String = documented.iter().map(|name| format!("${name} ")).collect();
    let checked = Nginx::builder().http(format!("pincer_zone pincer:1m; log_format all '{format}';")).check().await;
    assert!(checked.ok, "{}", checked.output);
}

/// A metric: its type, and its labels where it has a sample.
type Metric = (String, Option<BTreeSet<String>>);

/// The families of an exposition in the text format.
fn families(text: &str) -> BTreeMap<String, Metric> {
    let mut found: BTreeMap<String, Metric> = BTreeMap::new();
    for line in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').expect("a name and a type");
        found.insert(name.to_owned(), (kind.to_owned(), None));
    }
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let name = line.split(['{', ' ']).next().unwrap_or_default();
        let family = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
        let family = family.filter(|family| found.contains_key(*family)).unwrap_or(name);
        let labels = line.split_once('{').and_then(|(_, rest)| rest.rsplit_once('}')).map_or("", |(labels, _)| labels);
        let names = labels.split("\",").filter_map(|label| label.split_once('=')).map(|(name, _)| name.to_owned());
        let (_, seen) = found.get_mut(family).unwrap_or_else(|| panic!("a sample without a type: {line}"));
        seen.get_or_insert_default().extend(names.filter(|name| name != "le"));
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn each_metric_has_its_row_with_its_type_and_labels() {
    let pincerd = Pincerd::start().await;
    let replica = Replica::named("a").start().await;
    let folder = workers::folder();
    let nginx = Nginx::builder()
        .http(format!("pincer_zone pincer:1m state={};", folder.path().join("state").display()))
        .http(pincerd.directives("edge-1"))
        .http("pincer_class vip rate=10r/s;")
        .upstream("u", format!("pincer_balance; pincer_queue size=1 timeout=1s; server {};", replica.server()))
        .start()
        .await;
    nginx.connected().await;
    assert_eq!(nginx.client().get("/").await.status, 200);
    pincerd.must(&["--wait", "10s", "peer", "set", "u", replica.server(), "--weight", "2"]).await;
    let mut code = families(&nginx.metrics().await);
    let reply = pincerd.http().get("/metrics").await;
    code.extend(families(&String::from_utf8_lossy(&reply.body)));
    assert!(code.len() > 70, "{code:?}");

    let mut documented = BTreeMap::new();
    let text = read("docs/metrics.md");
    for cells in text.lines().filter(|line| line.starts_with("| `pincer_")).map(cells) {
        let [name, kind, labels, meaning] = &cells[..] else { continue };
        let labels = labels.split(',').map(|label| label.trim().to_owned()).filter(|label| !label.is_empty());
        assert!(!meaning.is_empty(), "docs/metrics.md: {name} has no meaning");
        let name = name.trim_matches('`').to_owned();
        let twice = documented.insert(name.clone(), (kind.clone(), labels.collect::<BTreeSet<_>>()));
        assert!(twice.is_none(), "docs/metrics.md has {name} twice");
    }
    let names = |all: BTreeSet<&String>| all.into_iter().cloned().collect::<BTreeSet<_>>();
    assert_eq!(
        names(documented.keys().collect()),
        names(code.keys().collect()),
        "docs/metrics.md beside what is exported"
    );
    for (name, (kind, labels)) in &code {
        let row = &documented[name];
        assert_eq!(kind, &row.0, "docs/metrics.md: the type of {name}");
        assert!(labels.as_ref().is_none_or(|labels| labels == &row.1), "docs/metrics.md: {name} has {labels:?}");
    }
}

/// The cells of a table's row. A `|` inside of a cell is escaped.
fn cells(line: &str) -> Vec<String> {
    let line = line.trim().trim_start_matches('|').trim_end_matches('|').replace("\\|", "\u{0}");
    line.split('|').map(|cell| cell.replace('\u{0}', "|").trim().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_command_and_each_flag_is_documented() {
    let code = code::commands().await;
    assert!(code.len() >= 20, "{:?}", code.keys());
    let text = read("docs/control-plane.md");
    let mut documented = BTreeSet::new();
    for line in text.lines().filter(|line| line.starts_with("| `pincerctl ")) {
        let row = cells(line);
        let command = row[0].trim_start_matches("`pincerctl ").trim_end_matches('`');
        let names = || (1..=2).rev().map(|count| command.split(' ').take(count).collect::<Vec<_>>().join(" "));
        let name = names().find(|name| code.contains_key(name));
        let name = name.unwrap_or_else(|| panic!("docs/control-plane.md: pincerctl has no command {command:?}"));
        let known = code::flags(&code[&name]);
        for flag in words_of(&row.join(" ")).filter(|word| word.starts_with("--")) {
            assert!(known.contains(flag), "docs/control-plane.md: pincerctl {name} has no {flag}");
        }
        assert!(documented.insert(name.clone()), "docs/control-plane.md has {name:?} twice");
    }
    assert_eq!(documented, code.keys().cloned().collect(), "docs/control-plane.md beside pincerctl's commands");

    let all = text + &read("docs/cache.md");
    let mentioned: BTreeSet<&str> = words_of(&all).filter(|word| word.starts_with("--")).collect();
    let pincerd = code::help(&paths::pincerd(), &[]).await;
    for flag in code.values().chain([&pincerd]).flat_map(|help| code::flags(help)) {
        assert!(mentioned.contains(flag.as_str()), "the documents do not mention {flag}");
    }
}

/// Words with their dashes, without the marks around them.
fn words_of(text: &str) -> impl Iterator<Item = &str> {
    text.split(|sign: char| !sign.is_ascii_alphanumeric() && sign != '-' && sign != '_').filter(|word| !word.is_empty())
}

#[test]
fn every_link_leads_somewhere() {
    let mut followed = 0;
    for document in DOCUMENTS {
        let text = without_code(&read(document));
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if target.starts_with("http") {
                continue;
            }
            let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
            let folder = Path::new(document).parent().expect("a folder");
            let path = if path.is_empty() { Path::new(document).to_owned() } else { folder.join(path) };
            let on_disk = paths::repository().join(&path);
            assert!(on_disk.exists(), "{document}: there is no {target}");
            if !anchor.is_empty() {
                let anchors = anchors(&std::fs::read_to_string(&on_disk).expect("a document"));
                assert!(anchors.contains(anchor), "{document}: {} has no heading for #{anchor}", path.display());
            }
            followed += 1;
        }
    }
    assert!(followed > 60, "only {followed} links were found");
}

/// The text outside of fenced blocks.
fn without_code(text: &str) -> String {
    text.split("\n```").step_by(2).collect::<Vec<_>>().join("\n")
}

/// The anchors that GitHub makes of headings.
fn anchors(text: &str) -> BTreeSet<String> {
    let text = format!("\n{text}");
    let text = without_code(&text);
    let headings = text.lines().filter(|line| line.starts_with('#'));
    let anchor = |heading: &str| -> String {
        let kept = heading.trim_start_matches('#').trim().to_lowercase();
        kept.chars()
            .filter(|sign| sign.is_alphanumeric() || "-_ ".contains(*sign))
            .collect::<String>()
            .replace(' ', "-")
    };
    headings.map(anchor).collect()
}

#[test]
fn the_readme_is_short_and_names_every_document() {
    let readme = read("README.md");
    assert!(readme.len() <= README_BYTES_MAX, "{} bytes, {README_BYTES_MAX} are allowed", readme.len());
    for document in DOCUMENTS.iter().filter(|document| **document != "README.md" && !document.starts_with("bench/")) {
        assert!(readme.contains(&format!("]({document})")), "README.md does not name {document}");
    }
    let of_disk = std::fs::read_dir(paths::repository().join("docs")).expect("docs/");
    for entry in of_disk {
        let name = format!("docs/{}", entry.expect("an entry").file_name().to_string_lossy());
        assert!(DOCUMENTS.contains(&name.as_str()), "{name} is new: add it to this test and to README.md");
    }
}

#[test]
fn the_targets_that_documents_name_are_in_the_makefile() {
    let makefile = read("Makefile");
    let targets: BTreeSet<&str> = makefile
        .lines()
        .filter(|line| line.contains("## "))
        .filter_map(|line| line.split_once(':'))
        .map(|(name, _)| name)
        .collect();
    assert!(targets.contains("demo") && targets.contains("test") && targets.contains("help"), "{targets:?}");
    let mut named = BTreeSet::new();
    for document in DOCUMENTS {
        let text = read(document);
        for rest in text.split("`make ").skip(1) {
            let name: String = rest.chars().take_while(|sign| sign.is_ascii_lowercase() || *sign == '-').collect();
            assert!(targets.contains(name.as_str()), "{document}: there is no `make {name}`");
            named.insert(name);
        }
    }
    assert!(named.contains("demo") && named.contains("test"), "{named:?}");
    let ci = read(".ci/run");
    assert_eq!(ci.lines().last(), Some("exec make test"), ".ci/run does what README.md says");
}
