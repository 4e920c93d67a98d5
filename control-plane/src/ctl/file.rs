//! The file of `pincerctl apply`, YAML or JSON:
//!
//! ```yaml
//! upstreams:
//!   llm:
//!     peers:
//!       "127.0.0.1:8001": { weight: 9, max_conns: 4, state: active }
//!       "127.0.0.1:8009": { add: true }
//! classes:
//!   vip: { rate: 100r/s, burst: 20, delay: nodelay, concurrency: 8, bandwidth: 10m,
//!          priority: 0, share: 50, queue: 100, queue_timeout: 10s }
//!   default: { rate: 30r/m }
//! ```
//!
//! The file has all settings of each upstream that it names: a peer that is left out gets the
//! values of nginx.conf again, or is removed if it was added. In the same way `classes` has all
//! classes; without `classes` they keep their settings. Unknown words are refused. A file that
//! starts with `{` is read as JSON.
//! Bound: `FILE_BYTES_MAX`.

use std::{
    collections::BTreeSet,
    fmt,
    fs::File,
    io::{self, Read},
    marker::PhantomData,
    path::{Path, PathBuf},
};

use pincer_proto::v1;
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};

use crate::{classes::Settings, model::State, names, words};

/// Far more than the largest request that the control plane takes.
const FILE_BYTES_MAX: u64 = 16 << 20;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default, deserialize_with = "pairs")]
    upstreams: Vec<(String, Upstream)>,
    #[serde(default, deserialize_with = "some_pairs")]
    classes: Option<Vec<(String, Option<Class>)>>,
}

/// Fields by name, each a word or a number.
#[derive(Debug, Default, Deserialize)]
#[serde(transparent)]
struct Class {
    #[serde(deserialize_with = "pairs")]
    fields: Vec<(String, Option<Scalar>)>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Scalar {
    Number(u64),
    Text(String),
}

fn some_pairs<'de, D: Deserializer<'de>, V: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<Vec<(String, V)>>, D::Error> {
    pairs(deserializer).map(Some)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Upstream {
    #[serde(deserialize_with = "pairs")]
    peers: Vec<(String, Option<Peer>)>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Peer {
    #[serde(default)]
    weight: Option<u32>,
    #[serde(default)]
    max_conns: Option<u32>,
    #[serde(default)]
    state: Option<State>,
    #[serde(default)]
    add: bool,
    #[serde(default)]
    etag: String,
}

/// Reads a map as pairs, so that a name given twice is refused by the control plane and not dropped
/// in silence.
fn pairs<'de, D: Deserializer<'de>, V: Deserialize<'de>>(deserializer: D) -> Result<Vec<(String, V)>, D::Error> {
    struct Pairs<V>(PhantomData<V>);

    impl<'de, V: Deserialize<'de>> Visitor<'de> for Pairs<V> {
        type Value = Vec<(String, V)>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a map")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut all = Vec::new();
            while let Some(pair) = map.next_entry()? {
                all.push(pair);
            }
            Ok(all)
        }
    }

    deserializer.deserialize_map(Pairs(PhantomData))
}

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
#[error("{}: {fault}", path.display())]
pub struct FileFault {
    path: PathBuf,
    fault: Box<Fault>,
}

/// The fault, without the file's name. It is the fault of whoever wrote the file, except for
/// `Read`.
#[derive(Debug, thiserror::Error)]
enum Fault {
    /// The system does not let it be read, or it is no text.
    #[error(transparent)]
    Read(#[from] io::Error),
    #[error("the file is longer than {FILE_BYTES_MAX} bytes")]
    TooLong,
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    #[error(transparent)]
    Yaml(#[from] serde_saphyr::Error),
    #[error("the file names neither upstreams nor classes")]
    Empty,
    #[error("class {class}: {field} is given twice")]
    Twice { class: String, field: String },
    #[error("class {class}: {field}: {word:?} {fault}")]
    Word { class: String, field: String, word: String, fault: words::Fault },
}

/// Reads the file; `-` is standard input.
pub fn read(path: &Path) -> Result<v1::ApplyUpstreamsRequest, FileFault> {
    let read = text_of(path).and_then(|text| parse(&text));
    read.map_err(|fault| FileFault { path: path.to_owned(), fault: Box::new(fault) })
}

fn text_of(path: &Path) -> Result<String, Fault> {
    let mut text = String::new();
    let source: Box<dyn Read> =
        if path == Path::new("-") { Box::new(io::stdin()) } else { Box::new(File::open(path)?) };
    source.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > FILE_BYTES_MAX { Err(Fault::TooLong) } else { Ok(text) }
}

fn parse(text: &str) -> Result<v1::ApplyUpstreamsRequest, Fault> {
    let document: Document =
        if text.trim_start().starts_with('{') { serde_json::from_str(text)? } else { serde_saphyr::from_str(text)? };
    if document.upstreams.is_empty() && document.classes.is_none() {
        return Err(Fault::Empty);
    }
    let classes = document.classes.map(|classes| classes.into_iter().map(class).collect::<Result<_, _>>());
    Ok(v1::ApplyUpstreamsRequest {
        upstreams: document.upstreams.into_iter().map(upstream).collect(),
        classes: classes.transpose()?.map(|classes| v1::ApplyClasses { classes }),
        validate_only: false,
    })
}

fn class((name, given): (String, Option<Class>)) -> Result<v1::ApplyClass, Fault> {
    let (mut settings, mut etag, mut seen) = (Settings::default(), String::new(), BTreeSet::new());
    for (field, value) in given.unwrap_or_default().fields {
        let text = match value {
            None => continue,
            Some(Scalar::Number(number)) => number.to_string(),
            Some(Scalar::Text(text)) => text,
        };
        if !seen.insert(field.clone()) {
            return Err(Fault::Twice { class: name, field });
        }
        if field == "etag" {
            etag = text;
            continue;
        }
        if let Err(fault) = words::set(&mut settings, &field, &text) {
            return Err(Fault::Word { class: name, field, word: names::cut(&text, 100).to_owned(), fault });
        }
    }
    Ok(v1::ApplyClass { name: names::class_name(&name), settings: Some(settings.to_proto()), etag })
}

fn upstream((name, upstream): (String, Upstream)) -> v1::UpstreamSettings {
    v1::UpstreamSettings {
        name: names::upstream_name(&name),
        peers: upstream.peers.into_iter().map(|(address, given)| peer(address, given.unwrap_or_default())).collect(),
    }
}

fn peer(peer_id: String, given: Peer) -> v1::PeerSettings {
    v1::PeerSettings {
        peer_id,
        weight: given.weight,
        max_conns: given.max_conns,
        state: State::to_proto(given.state).into(),
        add: given.add,
        etag: given.etag,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn yaml_and_json_say_the_same() {
        let yaml = "
upstreams:
  llm:
    peers:
      127.0.0.1:8001: { weight: 9, state: draining }
      '[::1]:80':
        add: true
      unix:/run/a.sock:
  other:
    peers: {}
";
        let json = r#"{"upstreams": {
            "llm": {"peers": {
                "127.0.0.1:8001": {"weight": 9, "state": "draining"}, "[::1]:80": {"add": true}, "unix:/run/a.sock": null}},
            "other": {"peers": {}}}}"#;
        let read = parse(yaml).unwrap();
        assert_eq!(read, parse(json).unwrap());
        let read = read.upstreams;
        assert_eq!((read.len(), read[0].peers.len()), (2, 3));
        assert_eq!((read[0].peers[0].weight, read[0].peers[0].state()), (Some(9), v1::PeerState::Draining));
        assert!(read[0].peers[1].add);
    }

    #[test]
    fn a_key_given_twice_is_not_lost() {
        let json = r#"{"upstreams": {"llm": {"peers": {"127.0.0.1:1": {"weight": 1}, "127.0.0.1:1": {"weight": 2}}}}}"#;
        assert_eq!(parse(json).unwrap().upstreams[0].peers.len(), 2);
    }

    #[test]
    fn classes_are_read_by_their_words() {
        let yaml = "
classes:
  vip: { rate: 100r/s, burst: 20, delay: nodelay, bandwidth: 10m, priority: 0, queue_timeout: 10s, etag: r7 }
  default: { rate: 30r/m, queue: }
  empty:
";
        let json = r#"{"classes": {
            "vip": {"rate": "100r/s", "burst": "20", "delay": "nodelay", "bandwidth": 10485760, "priority": 0,
                "queue_timeout": "10s", "etag": "r7"},
            "default": {"rate": "30r/m"}, "empty": null}}"#;
        let read = parse(yaml).unwrap();
        assert_eq!(read, parse(json).unwrap());
        assert!(read.upstreams.is_empty());
        let classes = read.classes.unwrap().classes;
        assert_eq!((classes.len(), classes[0].name.as_str(), classes[0].etag.as_str()), (3, "classes/vip", "r7"));
        let vip = classes[0].settings.unwrap();
        assert_eq!((vip.rate.unwrap().requests, vip.burst, vip.bandwidth), (100, Some(20), Some(10 << 20)));
        assert_eq!((vip.delay, vip.priority, vip.share), (Some(u32::MAX), Some(0), None));
        assert_eq!(classes[2].settings, Some(v1::ClassSettings::default()));
        assert_eq!(parse("classes: {}").unwrap().classes, Some(v1::ApplyClasses::default()));
        assert_eq!(parse("upstreams: {llm: {peers: {}}}").unwrap().classes, None);
    }

    #[test]
    fn what_the_format_does_not_know_is_refused() {
        for text in [
            "",
            "{}",
            "[]",
            "upstreams: 1",
            "upstreams: {llm: {}}",
            "upstreams: {llm: {peers: {a: {wieght: 1}}}}",
            "upstreams: {llm: {peers: {a: {weight: -1}}}}",
            "upstreams: {llm: {peers: {a: {state: off}}}}",
            "upstreams: {}",
            "classes: {vip: {rait: 1r/s}}",
            "classes: {vip: {rate: 1}}",
            "classes: {vip: {rate: [1]}}",
            "classes: {vip: {share: -1}}",
            r#"{"classes": {"vip": {"burst": 1, "burst": 2}}}"#,
            "keys: {}",
        ] {
            assert!(parse(text).is_err(), "{text:?} was taken");
        }
    }
}
