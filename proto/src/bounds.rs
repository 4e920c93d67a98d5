//! Bounds the counts and lengths of a request before any of it is copied out of its bytes.
//!
//! A message of empty entries takes two bytes for each, and a hundred times as much once it is
//! decoded. So the bytes of every request are walked first, along the descriptors of the services:
//! how many entries a list has, how long a text is, how many messages there are in all. A field
//! that the descriptors do not know is skipped, as the decoder skips it. A field that is not listed
//! here has the default bounds, so a new field is bounded from its first day. Pure. Cost: one pass
//! over the bytes. Bound: the recursion of messages, which the descriptors give and `DEPTH_MAX`
//! ends.

use std::{collections::HashMap, sync::OnceLock};

use prost::Message as _;
use prost_types::{
    DescriptorProto, FileDescriptorSet,
    field_descriptor_proto::{Label, Type},
};

use crate::{FILE_DESCRIPTOR_SET, limits};

/// Entries of a list.
const COUNT_DEFAULT: usize = 256;
/// Bytes of a text.
const BYTES_DEFAULT: usize = 1024;
/// Messages within one message, at any depth.
const MESSAGES_MAX: usize = 4 * limits::PEERS_PER_NODE_MAX;
/// Messages within messages.
const DEPTH_MAX: usize = 16;

/// Bounds other than the default ones: message, field, entries of a list, bytes of a text.
const BOUNDS: &[(&str, &str, usize, usize)] = &[
    ("CacheKey", "text", 1, limits::CACHE_KEY_BYTES_MAX),
    // A longer message of an error is cut, up to where it is no honest one.
    ("Status", "message", 1, 64 << 10),
    ("Status", "details", 8, BYTES_DEFAULT),
    ("Any", "value", 1, 4 << 10),
    ("Key", "cidrs", limits::CIDRS_PER_KEY_MAX, BYTES_DEFAULT),
    ("Node", "upstreams", 0, 0),
    ("Node", "instances", 0, 0),
];

/// Why a message was refused. Always the sender's fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// A list has too many entries.
    Count {
        /// The path of the field.
        field: String,
        /// The bound.
        max: usize,
    },
    /// A text is too long.
    Bytes {
        /// The path of the field.
        field: String,
        /// The bound.
        max: usize,
    },
    /// There are too many messages within the message.
    Messages,
    /// No protobuf.
    Malformed,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Count { field, max } => write!(f, "{field} has more than the {max} entries allowed"),
            Self::Bytes { field, max } => write!(f, "{field} is longer than the {max} bytes allowed"),
            Self::Messages => write!(f, "more than {MESSAGES_MAX} messages within one message"),
            Self::Malformed => write!(f, "the message is malformed"),
        }
    }
}

impl std::error::Error for Fault {}

impl Fault {
    /// The path of the field, as in a request's error details; empty if no field is at fault.
    pub(crate) fn field(&self) -> &str {
        match self {
            Self::Count { field, .. } | Self::Bytes { field, .. } => field,
            Self::Messages | Self::Malformed => "",
        }
    }

    /// The same within a field of the message above.
    fn within(self, above: &str) -> Self {
        match self {
            Self::Count { field, max } => Self::Count { field: format!("{above}.{field}"), max },
            Self::Bytes { field, max } => Self::Bytes { field: format!("{above}.{field}"), max },
            other => other,
        }
    }
}

struct Field {
    name: String,
    is_list: bool,
    /// The index of its message in `Schema`.
    message: Option<usize>,
    count_max: usize,
    bytes_max: usize,
}

struct Shape {
    #[cfg(test)]
    name: String,
    fields: HashMap<u32, Field>,
}

/// All messages of the descriptors.
struct Schema {
    shapes: Vec<Shape>,
    by_name: HashMap<String, usize>,
}

/// Full name with a leading dot, as fields refer to it.
fn collect(prefix: &str, messages: Vec<DescriptorProto>, into: &mut Vec<(String, DescriptorProto)>) {
    for mut message in messages {
        let name = format!("{prefix}.{}", message.name());
        collect(&name, std::mem::take(&mut message.nested_type), into);
        into.push((name, message));
    }
}

impl Schema {
    fn get() -> &'static Self {
        static SCHEMA: OnceLock<Schema> = OnceLock::new();
        SCHEMA.get_or_init(|| Self::of(FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap_or_default()))
    }

    fn of(set: FileDescriptorSet) -> Self {
        let mut all = Vec::new();
        for file in set.file {
            collect(&format!(".{}", file.package()), file.message_type, &mut all);
        }
        let by_name: HashMap<_, _> = all.iter().enumerate().map(|(at, (name, _))| (name.clone(), at)).collect();
        let shapes = all.iter().map(|(name, message)| Shape::of(name, message, &by_name)).collect();
        Self { shapes, by_name }
    }
}

impl Shape {
    fn of(full_name: &str, message: &DescriptorProto, by_name: &HashMap<String, usize>) -> Self {
        let fields = message.field.iter().filter(|field| {
            field.label() == Label::Repeated || matches!(field.r#type(), Type::String | Type::Bytes | Type::Message)
        });
        let name = full_name.rsplit('.').next().unwrap_or_default().to_owned();
        let fields = fields.map(|field| {
            let bounds = BOUNDS.iter().find(|(message, of, ..)| *message == name && *of == field.name());
            let (_, _, count_max, bytes_max) = bounds.copied().unwrap_or(("", "", COUNT_DEFAULT, BYTES_DEFAULT));
            let number = u32::try_from(field.number()).unwrap_or_default();
            let message = by_name.get(field.type_name()).copied();
            let is_list = field.label() == Label::Repeated;
            (number, Field { name: field.name().to_owned(), is_list, message, count_max, bytes_max })
        });
        Self {
            fields: fields.collect(),
            #[cfg(test)]
            name,
        }
    }
}

/// Reads a number of the wire.
fn varint(bytes: &mut &[u8]) -> Result<u64, Fault> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first().ok_or(Fault::Malformed)?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(Fault::Malformed)
}

fn take<'a>(bytes: &mut &'a [u8], count: u64) -> Result<&'a [u8], Fault> {
    let count = usize::try_from(count).map_err(|_| Fault::Malformed)?;
    let (taken, rest) = bytes.split_at_checked(count).ok_or(Fault::Malformed)?;
    *bytes = rest;
    Ok(taken)
}

struct Walk<'a> {
    schema: &'a Schema,
    messages_left: usize,
}

impl Walk<'_> {
    fn message(&mut self, shape: &Shape, mut bytes: &[u8], depth: usize) -> Result<(), Fault> {
        if depth > DEPTH_MAX {
            return Err(Fault::Malformed);
        }
        let mut counts: HashMap<u32, usize> = HashMap::new();
        while !bytes.is_empty() {
            let tag = varint(&mut bytes)?;
            let number = u32::try_from(tag >> 3).map_err(|_| Fault::Malformed)?;
            let content = match tag & 7 {
                0 => varint(&mut bytes).map(|_| None)?,
                1 => take(&mut bytes, 8).map(|_| None)?,
                2 => {
                    let length = varint(&mut bytes)?;
                    Some(take(&mut bytes, length)?)
                }
                5 => take(&mut bytes, 4).map(|_| None)?,
                // Groups are not in proto3. The decoder skips them, however deep they are.
                _ => return Err(Fault::Malformed),
            };
            let Some(field) = shape.fields.get(&number) else { continue };
            let mut at = None;
            if field.is_list {
                let count = counts.entry(number).or_default();
                if *count >= field.count_max {
                    return Err(Fault::Count { field: field.name.clone(), max: field.count_max });
                }
                at = Some(*count);
                *count += 1;
            }
            let place = || at.map_or_else(|| field.name.clone(), |at| format!("{}[{at}]", field.name));
            let Some(content) = content else { continue };
            match field.message.map(|at| &self.schema.shapes[at]) {
                Some(inner) => {
                    self.messages_left = self.messages_left.checked_sub(1).ok_or(Fault::Messages)?;
                    self.message(inner, content, depth + 1).map_err(|fault| fault.within(&place()))?;
                }
                None if content.len() > field.bytes_max => {
                    return Err(Fault::Bytes { field: place(), max: field.bytes_max });
                }
                None => {}
            }
        }
        Ok(())
    }
}

/// Whether a Rust type is the request of a service.
pub(crate) fn is_request(type_name: &str) -> bool {
    let name = type_name.rsplit("::").next().unwrap_or_default();
    name.ends_with("Request") || name == "NodeMessage"
}

/// Checks the bytes of the request that decodes to this Rust type. What is no request has no
/// bounds here.
pub(crate) fn check(type_name: &str, bytes: &[u8]) -> Result<(), Fault> {
    if !is_request(type_name) {
        return Ok(());
    }
    let schema = Schema::get();
    let name = format!(".pincer.v1.{}", type_name.rsplit("::").next().unwrap_or_default());
    let Some(shape) = schema.by_name.get(&name).map(|at| &schema.shapes[*at]) else { return Ok(()) };
    Walk { schema, messages_left: MESSAGES_MAX }.message(shape, bytes, 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1::{self, node_message::Message};

    fn node(message: Message) -> Result<(), Fault> {
        let bytes = v1::NodeMessage { message: Some(message) }.encode_to_vec();
        check("pincer_proto::pincer::v1::NodeMessage", &bytes)
    }

    fn stats(upstreams: usize, peers: usize) -> Message {
        let peers = vec![v1::PeerStats::default(); peers];
        let upstream = v1::UpstreamStats { peers, ..v1::UpstreamStats::default() };
        Message::Stats(v1::Stats { upstreams: vec![upstream; upstreams], ..v1::Stats::default() })
    }

    #[test]
    fn counts_and_lengths_are_bounded_wherever_they_stand() {
        assert_eq!(node(stats(32, 128)), Ok(()));
        let count = |field: &str| Err(Fault::Count { field: field.to_owned(), max: COUNT_DEFAULT });
        assert_eq!(node(stats(1, 257)), count("stats.upstreams[0].peers"));
        assert_eq!(node(stats(257, 1)), count("stats.upstreams"));
        assert_eq!(node(stats(200, 200)), Err(Fault::Messages));
        let long = v1::Hello { node: "a".repeat(1025), ..v1::Hello::default() };
        assert_eq!(node(Message::Hello(long)), Err(Fault::Bytes { field: "hello.node".to_owned(), max: 1024 }));
        let key = v1::Key { cidrs: vec![String::new(); 17], ..v1::Key::default() };
        let bytes = v1::CreateKeyRequest { key: Some(key), ..Default::default() }.encode_to_vec();
        assert!(check("pincer_proto::pincer::v1::CreateKeyRequest", &bytes).is_err());
    }

    #[test]
    fn the_largest_honest_messages_pass() {
        let text = |bytes: usize| "x".repeat(bytes);
        let peer = v1::DeclaredPeer { address: text(112), server: text(255), ..v1::DeclaredPeer::default() };
        let upstream = v1::DeclaredUpstream { name: text(255), peers: vec![peer; 128] };
        let classes = vec![v1::DeclaredClass { name: text(64), settings: Some(v1::ClassSettings::default()) }; 64];
        let hello = v1::Hello { upstreams: vec![upstream; 32], classes, ..v1::Hello::default() };
        assert_eq!(node(Message::Hello(hello)), Ok(()));
        let zero = Some(prost_types::Duration::default());
        let peer = v1::PeerStats { service_time: zero, first_byte: zero, ..v1::PeerStats::default() };
        let upstream = v1::UpstreamStats { peers: vec![peer; 128], ..v1::UpstreamStats::default() };
        assert_eq!(node(Message::Stats(v1::Stats { upstreams: vec![upstream; 32], ..v1::Stats::default() })), Ok(()));
    }

    #[test]
    fn bytes_that_are_no_message_are_refused() {
        for bytes in [&[0x0a][..], &[0x0a, 5, 1], &[0xff; 11], &[0x0b, 0x0c], &[0x09, 1], &[0x0d, 1]] {
            assert_eq!(check("NodeMessage", bytes), Err(Fault::Malformed), "{bytes:?}");
        }
        assert_eq!(check("NodeMessage", &[0xf8, 0x01, 0x01]), Ok(()), "a field of a newer module is skipped");
    }

    #[test]
    fn each_request_of_each_service_is_checked_and_no_response() {
        let set = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap();
        let services = set.file.iter().filter(|file| file.package() == "pincer.v1").flat_map(|file| &file.service);
        let methods: Vec<_> = services.flat_map(|service| &service.method).collect();
        assert!(methods.len() > 20);
        for method in methods {
            let name = |full: &str| full.rsplit('.').next().unwrap().to_owned();
            assert!(is_request(&name(method.input_type())), "{}", method.input_type());
            assert!(!is_request(&name(method.output_type())), "{}", method.output_type());
            assert!(Schema::get().by_name.contains_key(method.input_type()));
        }
    }

    #[test]
    fn each_bound_names_a_field() {
        for (message, field, ..) in BOUNDS {
            let shapes = Schema::get().shapes.iter().filter(|shape| shape.name == *message);
            let mut fields = shapes.flat_map(|shape| shape.fields.values());
            assert!(fields.any(|known| known.name == *field), "{message}.{field}");
        }
    }
}
