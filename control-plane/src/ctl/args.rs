//! pincerctl's command line, and where it finds pincerd.
//!
//! The endpoint, the CA, the certificate and the key come from the first of these that is set: the
//! flag, `--dev`, the environment variable, `PINCER_DEV_DIR`. A flag takes precedence over the
//! environment. Pure but for reading the environment and `DIR/endpoint`.

mod class;
mod fault;
mod setting;

use std::{env, ffi::OsString, path::PathBuf, time::Duration};

use clap::{Args as ArgGroup, Parser, Subcommand, ValueEnum};
use pincer_proto::limits;

use super::failure::Failure;
use crate::{
    client::{self, Target},
    dev::{self, Name},
    model::State,
};

pub use class::{ClassSettingsArgs, ClassVerb, KeyVerb};
use fault::Fault;
pub use setting::Setting;

/// The endpoint if only certificates are given.
const ENDPOINT_DEFAULT: &str = "127.0.0.1:9443";

/// Reads and changes what Pincer's control plane feeds to nginx.
#[derive(Debug, Parser)]
#[command(
    name = "pincerctl",
    version,
    after_help = "Exit status: 0 done, 2 usage, 3 conflict (an old etag, exists already, or its state forbids it), 4 pincerd not reachable, 5 refused by a node or not in time"
)]
pub struct Args {
    /// How results are printed
    #[arg(short, long, value_enum, default_value_t = Output::Table, global = true)]
    pub output: Output,
    /// After a change, wait at most TIME (as 500ms, 10s, 1m) until every connected node has it
    #[arg(long, value_name = "TIME", value_parser = parse_time, allow_hyphen_values = true, global = true)]
    pub wait: Option<Duration>,
    #[command(flatten)]
    pub target: TargetArgs,
    #[command(subcommand)]
    pub noun: Noun,
}

/// Forms of output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people
    Table,
    /// For programs: one object, or one a line for watch
    Json,
}

/// Where pincerd is.
#[derive(Debug, ArgGroup)]
pub struct TargetArgs {
    /// Address of pincerd, HOST:PORT [env: PINCER_ENDPOINT] [default: 127.0.0.1:9443]
    #[arg(long, value_name = "ADDRESS", global = true)]
    endpoint: Option<String>,
    /// The CA that signed pincerd's certificate, PEM [env: PINCER_CA]
    #[arg(long, value_name = "FILE", global = true)]
    ca: Option<PathBuf>,
    /// Your certificate (OU=pincer-operator), PEM [env: PINCER_CERT]
    #[arg(long, value_name = "FILE", global = true)]
    cert: Option<PathBuf>,
    /// Its key, PEM [env: PINCER_KEY]
    #[arg(long, value_name = "FILE", global = true)]
    key: Option<PathBuf>,
    /// The folder of a pincerd --dev, which has all of these [env: PINCER_DEV_DIR]
    #[arg(long, value_name = "DIR", global = true)]
    dev: Option<PathBuf>,
}

fn variable(name: &str) -> Option<PathBuf> {
    env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

impl TargetArgs {
    /// Where pincerd is, after flags and environment.
    pub fn resolve(self) -> Result<Target, Failure> {
        let dev_variable = variable("PINCER_DEV_DIR");
        let file =
            |flag: Option<PathBuf>, name: &'static str, option: &'static str, in_dev: fn(&PathBuf) -> PathBuf| {
                flag.or_else(|| self.dev.as_ref().map(in_dev))
                    .or_else(|| variable(name))
                    .or_else(|| dev_variable.as_ref().map(in_dev))
                    .ok_or(Failure::NoIdentity { option, variable: name })
            };
        let ca = file(self.ca, "PINCER_CA", "--ca", |dev| dev.join(dev::CA_FILE))?;
        let certificate = file(self.cert, "PINCER_CERT", "--cert", |dev| Name::Operator.certificate(dev))?;
        let key = file(self.key, "PINCER_KEY", "--key", |dev| Name::Operator.key(dev))?;
        let endpoint = match (self.endpoint, &self.dev, env::var("PINCER_ENDPOINT"), &dev_variable) {
            (Some(endpoint), ..) => endpoint,
            (None, Some(dev), ..) => client::dev_endpoint(dev)?,
            (None, None, Ok(endpoint), _) if !endpoint.is_empty() => endpoint,
            (None, None, _, Some(dev)) => client::dev_endpoint(dev)?,
            _ => ENDPOINT_DEFAULT.to_owned(),
        };
        Ok(Target { endpoint, ca, certificate, key })
    }
}

/// The noun of a command.
#[derive(Debug, Subcommand)]
pub enum Noun {
    /// Upstreams that nginx declares
    Upstream {
        #[command(subcommand)]
        verb: UpstreamVerb,
    },
    /// Peers of an upstream
    Peer {
        #[command(subcommand)]
        verb: PeerVerb,
    },
    /// Rate classes
    Class {
        #[command(subcommand)]
        verb: ClassVerb,
    },
    /// API keys, which give a client its class
    Key {
        #[command(subcommand)]
        verb: KeyVerb,
    },
    /// The nginx instances that are fed: list, delete those that are gone
    Node {
        #[command(subcommand)]
        verb: NodeVerb,
    },
    /// nginx's own caches
    Cache {
        #[command(subcommand)]
        verb: CacheVerb,
    },
    /// Make the settings of the upstreams in a file, and all classes if it has any, exactly those
    /// in the file, in one revision
    Apply {
        /// YAML or JSON; - for standard input
        #[arg(short, long, value_name = "FILE")]
        file: PathBuf,
        /// Check, show what would change, change nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Print nodes and revisions as they change
    Watch,
}

impl Noun {
    /// Whether it makes a revision.
    pub fn is_change(&self) -> bool {
        match self {
            Self::Peer { verb } => !matches!(verb, PeerVerb::List { .. }),
            Self::Class { verb } => matches!(verb, ClassVerb::Set { .. } | ClassVerb::Delete { .. }),
            Self::Key { verb } => !matches!(verb, KeyVerb::List),
            Self::Apply { dry_run, .. } => !dry_run,
            Self::Upstream { .. } | Self::Node { .. } | Self::Cache { .. } | Self::Watch => false,
        }
    }
}

#[derive(Debug, Subcommand)]
pub enum UpstreamVerb {
    /// All upstreams
    List,
    /// One, with its peers
    Get {
        /// As in nginx.conf
        upstream: String,
    },
}

#[derive(Debug, Subcommand)]
pub enum NodeVerb {
    /// All nodes, and what they have applied
    List,
    /// Forget a node that is gone for good, and what it declared; one that is connected is not
    /// forgotten
    Delete {
        /// As in node list
        node: String,
    },
}

#[derive(Debug, Subcommand)]
pub enum CacheVerb {
    /// Remove one response, or all, from the caches of an upstream or a location, on every
    /// connected node, now
    Purge(PurgeArgs),
}

#[derive(Debug, ArgGroup)]
#[group(skip)]
pub struct PurgeArgs {
    #[command(flatten)]
    pub place: PlaceArgs,
    #[command(flatten)]
    pub entries: EntriesArgs,
    /// Only on this node
    #[arg(long, value_name = "NODE")]
    pub node: Option<String>,
    /// How long nodes may take, 10ms to 5m [default: 30s]
    #[arg(long, value_name = "TIME", value_parser = parse_time, allow_hyphen_values = true)]
    pub timeout: Option<Duration>,
    /// Ask the nodes whether they know what is named, remove nothing
    #[arg(long)]
    pub dry_run: bool,
}

#[derive(Debug, ArgGroup)]
#[group(required = true, multiple = false)]
pub struct PlaceArgs {
    /// The caches of the locations that pass requests to this upstream
    #[arg(long, value_name = "UPSTREAM")]
    pub upstream: Option<String>,
    /// The caches of the locations of this name, as in nginx.conf
    #[arg(long, value_name = "LOCATION")]
    pub location: Option<String>,
    /// The cache with this keys_zone
    #[arg(long, value_name = "ZONE")]
    pub cache: Option<String>,
    /// Every cache
    #[arg(long)]
    pub every_cache: bool,
}

#[derive(Debug, ArgGroup)]
#[group(required = true, multiple = false)]
pub struct EntriesArgs {
    /// The entry of this key, as proxy_cache_key renders it; - for one line of standard input,
    /// which other users of this machine cannot see
    // `--key` is the certificate's.
    #[arg(long, value_name = "KEY")]
    pub cache_key: Option<Key>,
    /// All entries
    #[arg(long)]
    pub all: bool,
}

/// A cache key, which is printed nowhere.
#[derive(Clone)]
pub struct Key(pub OsString);

impl From<OsString> for Key {
    fn from(text: OsString) -> Self {
        Self(text)
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key")
    }
}

#[derive(Debug, Subcommand)]
pub enum PeerVerb {
    /// An upstream's peers
    List {
        /// As in nginx.conf
        upstream: String,
    },
    /// Set a peer's weight, slots or state
    Set {
        #[command(flatten)]
        peer: PeerArgs,
        #[command(flatten)]
        settings: SettingsArgs,
        /// Fail unless this is the peer's current etag
        #[arg(value_parser = clap::builder::NonEmptyStringValueParser::new())]
        #[arg(long)]
        etag: Option<String>,
    },
    /// Add a peer that nginx.conf does not declare
    Add {
        #[command(flatten)]
        peer: PeerArgs,
        #[command(flatten)]
        settings: SettingsArgs,
    },
    /// Remove a peer that was added
    Remove {
        #[command(flatten)]
        peer: PeerArgs,
        /// Fail unless this is the peer's current etag
        #[arg(value_parser = clap::builder::NonEmptyStringValueParser::new())]
        #[arg(long)]
        etag: Option<String>,
    },
}

#[derive(Debug, ArgGroup)]
pub struct PeerArgs {
    /// As in nginx.conf
    pub upstream: String,
    /// IPv4:port, [IPv6]:port or unix:/path
    pub address: String,
}

#[derive(Debug, ArgGroup)]
pub struct SettingsArgs {
    /// Share of the requests among peers of like speed, 0 to 65535; 0: no new ones; "unset":
    /// nginx.conf's
    #[arg(long, value_name = "N", value_parser = parse_number, allow_negative_numbers = true)]
    pub weight: Option<Setting<u32>>,
    /// Requests at once, 0 to 65535; 0: unlimited; "unset": nginx.conf's
    #[arg(long, value_name = "N", value_parser = parse_number, allow_negative_numbers = true)]
    pub max_conns: Option<Setting<u32>>,
    /// active, draining or down; "unset": nginx.conf's
    #[arg(long, value_name = "STATE", value_parser = parse_state)]
    pub state: Option<Setting<State>>,
}

fn parse_number(text: &str) -> Result<Setting<u32>, Fault> {
    match text.parse() {
        _ if text == "unset" => Ok(Setting::Unset),
        Ok(number) if number <= limits::PEER_VALUE_MAX => Ok(Setting::To(number)),
        _ => Err(Fault::Number),
    }
}

fn parse_state(text: &str) -> Result<Setting<State>, Fault> {
    match text {
        "active" => Ok(Setting::To(State::Active)),
        "draining" => Ok(Setting::To(State::Draining)),
        "down" => Ok(Setting::To(State::Down)),
        "unset" => Ok(Setting::Unset),
        _ => Err(Fault::State),
    }
}

/// A time as nginx writes it, of one unit: `500ms`, `10s`, `1m`, `1h`; without a unit seconds. At
/// most a day.
fn parse_time(text: &str) -> Result<Duration, Fault> {
    const DAY_MS: u64 = 24 * 3600 * 1000;
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit_ms = match &text[digits.len()..] {
        _ if digits.is_empty() => return Err(Fault::Time),
        "ms" => 1,
        "s" | "" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(Fault::TimeUnit),
    };
    let number: u64 = digits.parse().map_err(|_| Fault::Time)?;
    match number.checked_mul(unit_ms) {
        Some(time_ms) if time_ms <= DAY_MS => Ok(Duration::from_millis(time_ms)),
        _ => Err(Fault::TimeTooLong),
    }
}

#[cfg(test)]
mod tests;
