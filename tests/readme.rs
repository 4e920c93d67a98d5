//! Whoever follows README.md sees what it says: each of its steps runs here as printed, against a
//! real nginx, pincerd and replicas, in a temporary folder laid out as Debian's. Only paths and
//! ports differ.
//!
//! The configurations and the certificates of docs/ are tried as well.

#[path = "readme/markdown.rs"]
mod markdown;
#[path = "readme/newcomer.rs"]
mod newcomer;

use std::path::Path;
use std::time::Instant;

use harness::paths::{self, text as read};
use harness::{Nginx, Pincerd, eventually, process};
use markdown::{Block, blocks};
use newcomer::Newcomer;

/// How far a count of 200 requests may be from the printed one.
const COUNT_TOLERANCE: u32 = 25;
/// What the class `default` of README.md lets through: at once, and each second.
const BURST: u32 = 6;
const PER_SECOND: u32 = 5;

/// The fenced blocks of README.md below a heading that starts so.
fn step(heading: &str) -> Vec<Block> {
    let found: Vec<_> =
        blocks(&read("README.md")).into_iter().filter(|block| block.heading.starts_with(heading)).collect();
    assert!(!found.is_empty(), "README.md has no step {heading:?} with a command");
    found
}

/// `uniq -c`: each line's count.
fn counts(text: &str) -> Vec<(u32, String)> {
    let lines = text.lines().filter_map(|line| line.trim().split_once(' '));
    lines.filter_map(|(count, what)| Some((count.parse().ok()?, what.to_owned()))).collect()
}

/// The count of a name; 0 without a line of it.
fn count(counts: &[(u32, String)], name: &str) -> u32 {
    counts.iter().find(|(_, what)| what == name).map_or(0, |(count, _)| *count)
}

/// Runs a step's commands up to its printed output, and compares the shares of the replicas.
fn shares(newcomer: &mut Newcomer, command: &Block, printed: &Block) {
    assert_eq!((command.language.as_str(), printed.language.as_str()), ("sh", "text"), "{command:?}");
    let output = newcomer.run(command);
    let (found, expected) = (counts(&output), counts(&printed.text));
    assert!(expected.len() >= 3, "README.md shows no counts: {printed:?}");
    let total: u32 = found.iter().map(|(count, _)| count).sum();
    assert_eq!(total, 200, "{output}");
    for (expected, name) in &expected {
        let found = count(&found, name);
        assert!(found.abs_diff(*expected) <= COUNT_TOLERANCE, "README.md says {expected} {name}: {output}");
    }
    // `pincerctl --wait` says which revision it made, and that the node has it.
    for line in printed.text.lines().filter(|line| line.starts_with("revision ")) {
        assert!(output.lines().any(|other| other == line), "README.md says {line:?}: {output}");
    }
    let applied = |text: &str| text.lines().any(|line| line.starts_with("node ") && line.contains(" applied in "));
    assert_eq!(applied(&output), applied(&printed.text), "{output}");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_step_of_the_readme_does_what_it_says() {
    let mut newcomer = Newcomer::new();

    let [build] = &step("1. ")[..] else { panic!("one block builds and loads the module") };
    let output = newcomer.run(build);
    assert!(output.contains("test is successful"), "{output}");

    let [start, ask, seen] = &step("2. ")[..] else { panic!("replicas, requests, what one sees") };
    newcomer.run(start);
    newcomer.replicas_listen().await;
    shares(&mut newcomer, ask, seen);
    let status = newcomer.status().await;
    let learned = status["upstreams"][0]["peers"][2]["service_ms"].as_f64();
    assert!(learned.is_none_or(|ms| (700.0..2000.0).contains(&ms)), "{status}");

    let [start, tell, set, seen] = &step("3. ")[..] else { panic!("pincerd, its address, a weight, what one sees") };
    newcomer.run(start);
    newcomer.prints("pincerd ready").await;
    newcomer.run(tell);
    newcomer.node_is_connected(tell).await;
    shares(&mut newcomer, set, seen);

    let [classes, ask, seen] = &step("4. ")[..] else { panic!("classes and a key, requests, what one sees") };
    newcomer.run(classes);
    newcomer.classes_are_in_force().await;
    let begin = Instant::now();
    let output = newcomer.run(ask);
    let seconds = u32::try_from(begin.elapsed().as_secs()).expect("a short while");
    let (found, expected) = (counts(&output), counts(&seen.text));
    let names = |counts: &[(u32, String)]| counts.iter().map(|(_, what)| what.clone()).collect::<Vec<_>>();
    assert_eq!((names(&expected), names(&found)), (["200", "429", "200"].map(String::from).to_vec(), names(&expected)));
    // As many as the class allows in the time that this machine took, and in the second of the
    // printed run.
    assert!(
        classes.text.contains("pincer_class default rate=5r/s burst=5 nodelay;"),
        "{BURST} and {PER_SECOND} are README.md's"
    );
    for (passed, seconds) in [(found[0].0, seconds), (expected[0].0, 1)] {
        assert!((BURST..=BURST + PER_SECOND * (seconds + 1)).contains(&passed), "{passed} in {seconds} s: {output}");
    }
    assert_eq!((found[0].0 + found[1].0, expected[0].0 + expected[1].0), (50, 50), "{output}");
    assert_eq!(found[2].0, 50, "no request with the key is refused: {output}");

    let text = read("README.md");
    let stop = text.split('`').find(|code| code.starts_with("kill %")).expect("README.md says how to stop");
    newcomer.run(&Block { text: stop.to_owned(), ..classes.clone() });
    newcomer.everything_has_ended().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nginx_accepts_every_configuration_in_the_documents() {
    let pincerd = Pincerd::start().await;
    let mut tried = 0;
    for document in ["balancing", "cache", "classes", "control-plane", "install"] {
        for block in blocks(&read(&format!("docs/{document}.md"))) {
            if block.language != "nginx" {
                continue;
            }
            tried += 1;
            // Relative paths are inside the prefix.
            let text = surrounded(&block.text)
                .replace("/tmp/pincer/", &format!("{}/", pincerd.dev().display()))
                .replace("/var/cache/", "cache/")
                .replace("/var/lib/pincer/", "state/");
            let checked = Nginx::builder().http(text).check().await;
            assert!(checked.ok, "docs/{document}.md, {}: {}\n{}", block.heading, block.text, checked.output);
            assert!(!checked.output.contains("[warn]"), "docs/{document}.md, {}: {}", block.heading, checked.output);
        }
    }
    assert!(tried >= 7, "only {tried} configurations were found");
}

/// A configuration of the documents with what it leaves out: the zone, the upstream that it names,
/// the server around a location.
fn surrounded(text: &str) -> String {
    let mut whole = String::new();
    if !text.contains("pincer_zone ") {
        whole += "pincer_zone pincer:2m;\n";
    }
    if text.contains("http://chat;") && !text.contains("upstream chat {") {
        whole += "upstream chat { pincer_balance; server 127.0.0.1:9; }\n";
    }
    if text.contains("pincer_key ") && !text.contains("pincer_control_plane ") {
        whole += "pincer_control_plane 127.0.0.1:9443 plaintext;\n";
    }
    if text.starts_with("location") { whole + "server { listen 127.0.0.1:9; " + text + "}" } else { whole + text }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_documented_certificates_let_each_one_in_for_its_role() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let document = blocks(&read("docs/control-plane.md"));
    let make = document.iter().find(|block| block.heading == "Certificates" && block.language == "sh");
    let make = &make.expect("docs/control-plane.md says how certificates are made").text;
    let mut bash = tokio::process::Command::new("bash");
    let made = process::run(bash.args(["-e", "-c", make]).current_dir(folder.path()), 60.0).await;
    assert_eq!(made.code, 0, "{}", made.errors);

    let path = |name: &str| folder.path().join(name);
    let pincerd = newcomer::Pincerd::with_certificates(folder.path()).await;
    let ask = async |who: &str| {
        let mut command = tokio::process::Command::new(paths::pincerctl());
        command.args(["--endpoint", &pincerd.endpoint(), "--ca"]).arg(path("ca.pem"));
        command.arg("--cert").arg(path(&format!("{who}.pem"))).arg("--key").arg(path(&format!("{who}.key")));
        process::run(command.args(["node", "list"]), 60.0).await
    };
    assert_eq!(ask("web-1").await.code, 2, "a node's certificate is no operator's");
    let nginx = Nginx::builder()
        .http(format!(
            "pincer_zone pincer:1m; pincer_control_plane {} node=web-1; pincer_control_plane_certificate {};
             pincer_control_plane_certificate_key {}; pincer_control_plane_trusted_certificate {};",
            pincerd.endpoint(),
            path("web-1.pem").display(),
            path("web-1.key").display(),
            path("ca.pem").display()
        ))
        .start()
        .await;
    nginx.connected().await;
    eventually("the operator sees the node", 10.0, || async {
        let told = ask("alice").await;
        assert_eq!(told.code, 0, "{}", told.errors);
        told.output.lines().any(|line| line.starts_with("web-1 ") && line.contains(" yes "))
    })
    .await;
    assert!(Path::new(&path("ca.key")).exists());
}
