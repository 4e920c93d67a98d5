//! Words that were replaced by nginx's and the RFCs' own do not come back.

use super::{read, root, tracked};

/// Where they are not allowed. Not this file.
const FOLDERS: [&str; 6] = ["ngx-module", "control-plane", "proto", "bench", "tests", "docs"];

/// Names, each with the one in its place.
const NAMES: [(&str, &str); 13] = [
    ("GivingWay", "ReadThrottle"),
    ("giving_way", "throttle"),
    ("GaveWay", "Evicted"),
    ("give_way", "evictable"),
    ("heed", "apply_fences"),
    ("heeded", "applied"),
    ("heed_nothing", "nothing_to_fence"),
    ("unheeding", "workers_behind"),
    ("meet_as", "purge_entry"),
    ("fn meet", "fn purge_file"),
    ("fn go_on", "fn purge_batch, or what goes on"),
    ("fn bar", "fn insert_tombstone"),
    ("fn void", "fn mark_uncacheable, or what is invalid"),
];

/// Parts of sentences, each with what is said in its place.
const PHRASES: [(&str, &str); 12] = [
    ("What mostly stays", "Fields that rarely change"),
    ("let seldom", "stable_fields"),
    ("memory is out", "out of memory"),
    ("is duplicate, one is needed", "directive is duplicate"),
    ("goes on without pincer", "internal error, request handled without pincer"),
    ("it gives way in the queue", "evicted from queue"),
    ("refuses a request, reason", "request rejected, reason"),
    ("what came with the head goes back", "body bytes that arrived with the headers are pushed back"),
    ("a level without any has those above", "inherited from the previous level"),
    ("Who finds no place", "If the queue is full"),
    ("Each request is held once", "A request is checked against limits only once"),
    ("mute answer", "mute response"),
];

/// Whether `text` has `name` as a whole word.
fn has_word(text: &str, name: &str) -> bool {
    let is_part = |sign: Option<char>| sign.is_some_and(|sign| sign.is_alphanumeric() || sign == '_');
    text.match_indices(name)
        .any(|(at, _)| !is_part(text[..at].chars().next_back()) && !is_part(text[at + name.len()..].chars().next()))
}

#[test]
fn no_word_that_was_replaced_is_left() {
    let mut found = Vec::new();
    let endings = [".rs", ".md", ".proto", ".c"];
    let files = FOLDERS.iter().flat_map(|folder| endings.iter().flat_map(|ending| tracked(folder, ending)));
    let documents = ["README.md", "ARCHITECTURE.md"].map(|name| root().join(name));
    for path in files.chain(documents).filter(|path| !path.ends_with("tidy/words.rs")) {
        for (number, line) in read(&path).lines().enumerate() {
            let names = NAMES.iter().filter(|(name, _)| has_word(line, name));
            let phrases = PHRASES.iter().filter(|(phrase, _)| line.contains(phrase));
            for (word, better) in names.chain(phrases) {
                found.push(format!("{}:{}: \"{word}\" is \"{better}\" here", path.display(), number + 1));
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn a_word_is_found_whole_and_nowhere_within_another() {
    for (text, is_found) in [("store::heed();", true), ("heed", true), ("take heed!", true), ("heedless", false)] {
        assert_eq!(has_word(text, "heed"), is_found, "{text}");
    }
    assert!(has_word("pub fn void(&mut self)", "fn void") && !has_word("fn voids()", "fn void"));
}
