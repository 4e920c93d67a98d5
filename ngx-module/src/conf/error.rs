//! Why a configuration is refused: which directive, what is wrong with it, and where it stands.
//!
//! All but [`Problem::Memory`], [`Problem::Panicked`] and [`Problem::OwnMemory`] is for the
//! operator to mend, in nginx.conf or in what it names. Never on the request path, so errors own
//! their strings.

use super::target::TargetFault;
use pincer_core::digest::{Form, IgnoreError};
use pincer_core::zone::ZoneError;
use std::borrow::Cow;
use std::fmt;
use std::path::PathBuf;

/// A refused directive.
#[derive(Debug)]
pub(crate) struct ConfError {
    /// Its name.
    pub(crate) directive: &'static str,
    /// What is wrong.
    pub(crate) problem: Box<Problem>,
    /// Where it stands.
    pub(crate) place: Place,
}

/// Where a directive stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// It is being read: nginx appends ` in FILE:LINE` to the message.
    BeingRead,
    /// It was read before: `in FILE:LINE`.
    At(String),
}

/// What is wrong with a directive.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Problem {
    /// It has a parameter that nobody knows.
    #[error("has the unknown parameter \"{parameter}\", known are {known}")]
    Unknown {
        /// The parameter as written.
        parameter: String,
        /// Those that it takes.
        known: &'static str,
    },
    /// A parameter stands twice.
    #[error("has \"{key}\" twice")]
    Repeated {
        /// The parameter's name.
        key: &'static str,
    },
    /// A value is not what is needed.
    #[error("{key} \"{value}\" is invalid, {need} is needed")]
    Invalid {
        /// What the value is of.
        key: &'static str,
        /// The value as written.
        value: String,
        /// What it must be.
        need: Cow<'static, str>,
    },
    /// An argument is no text.
    #[error("has an argument that is not UTF-8 at its byte {at}, UTF-8 is needed")]
    NotUtf8 {
        /// Its first byte that is none.
        at: usize,
    },
    /// Something that it must have is not there.
    #[error("has no {what}, {need} is needed")]
    Missing {
        /// What is not there.
        what: &'static str,
        /// What must be.
        need: &'static str,
    },
    /// The directive stands twice.
    #[error("directive is duplicate")]
    Duplicate,
    /// The directive stands twice with this argument.
    #[error("\"{argument}\" is duplicate")]
    DuplicateOf {
        /// The argument, or the arguments that count.
        argument: String,
    },
    /// Another directive must stand too.
    #[error("needs {need}")]
    Needs {
        /// What must stand, and where.
        need: &'static str,
    },
    /// nginx has no memory left.
    #[error("cannot be used: out of memory")]
    Memory,
    /// The module's own fault.
    #[error("cannot be used: internal error")]
    Panicked,

    /// `pincer_body_hash`: the pointers cannot be read.
    #[error("ignore \"{value}\" is invalid: {error}")]
    Pointers {
        /// The value of `ignore=`.
        value: String,
        /// What is wrong with it.
        error: IgnoreError,
    },
    /// `pincer_body_hash`: a parameter for JSON without JSON.
    #[error("has \"{key}=\" with form=\"{form}\", form=json or form=auto is needed", form = form.name())]
    OnlyJson {
        /// The parameter.
        key: &'static str,
        /// The form in force.
        form: Form,
    },

    /// `pincer_class`: `burst=` or `delay=` without `rate=`.
    #[error("\"{class}\" has a burst or delay and no rate, \"rate=\" is needed")]
    NoRate {
        /// The class.
        class: String,
    },
    /// `pincer_limit` stands beside `pincer_limit off`.
    #[error("stands beside \"pincer_limit off\", only one of them is allowed in one place")]
    BesideOff,
    /// `pincer_limit` stands too often in one place.
    #[error("stands more than {max} times, as many are allowed in one place")]
    TooMany {
        /// How often it may.
        max: usize,
    },
    /// `pincer_limit` names a class that is not declared.
    #[error("names the unknown class \"{class}\", \"pincer_class {class} …\" in http is needed")]
    UnknownClass {
        /// The class.
        class: String,
    },
    /// `pincer_class`: with those that were added at run time there are too many.
    #[error("{have} classes are declared and others added at run time, {all} in all, at most {max} are allowed")]
    ClassesAdded {
        /// Classes declared.
        have: usize,
        /// Those and the others.
        all: usize,
        /// Classes allowed.
        max: usize,
    },
    /// `pincer_key_required on` where no key can be shown.
    #[error(
        "refuses every request of location \"{location}\", where no \"pincer_key\" is in force, that or \"pincer_key_required off\" is needed there"
    )]
    NoKeyHere {
        /// The location.
        location: String,
    },
    /// `pincer_key_required on` and no `pincer_key` anywhere.
    #[error(
        "is on and no \"pincer_key\" says where a key stands, \"pincer_key $http_authorization\" or the like is needed"
    )]
    NoKey,

    /// `pincer_zone`: below the least size.
    #[error("size {size} is too small, at least 64k is needed")]
    TooSmall {
        /// The size as written.
        size: String,
    },
    /// `pincer_zone`: above the largest size.
    #[error("size {size} is too large, at most 4g is allowed")]
    TooLarge {
        /// The size as written.
        size: String,
    },
    /// `pincer_zone`: what nginx.conf declares does not fit.
    #[error(
        "size {size_kib}k is too small, {need_kib}k needed for {peers} peers in {upstreams} upstreams and {classes} classes"
    )]
    NoRoom {
        /// Its size.
        size_kib: usize,
        /// The size that would do.
        need_kib: usize,
        /// Peers declared.
        peers: usize,
        /// Upstreams declared.
        upstreams: usize,
        /// Classes declared.
        classes: usize,
    },
    /// `pincer_zone`: nginx does not add it.
    #[error("\"{name}\" cannot be added")]
    NotAdded {
        /// Its name.
        name: String,
    },
    /// `pincer_zone`: the slab allocator refuses what must fit.
    #[error("cannot use {bytes} bytes of its own memory")]
    OwnMemory {
        /// What was asked for.
        bytes: usize,
    },
    /// `pincer_zone`: its memory was laid out by another version.
    #[error("was made by another version of the module, restart nginx or rename the zone")]
    OtherVersion,
    /// `pincer_zone`: `state=` names a folder.
    #[error("state \"{path}\" is a folder, a file's path is needed", path = path.display())]
    StateIsFolder {
        /// The path.
        path: PathBuf,
    },
    /// The zone refuses what nginx.conf declares.
    #[error(transparent)]
    Zone(ZoneError),

    /// `pincer_balance`: the upstream has a balancer already.
    #[error("stands after \"keepalive\" or another balancing method, it must stand before \"keepalive\" and alone")]
    NotFirst,
    /// `pincer_balance`: another balancer has taken its place.
    #[error("was replaced by another balancing method that stands after it, only one is allowed")]
    Replaced,
    /// `pincer_balance`: the upstream cannot be named to the control plane.
    #[error("is in an upstream whose name has \"/\", white space or a control character, one without is needed")]
    UpstreamName,

    /// `pincer_control_plane`: none or too many.
    #[error("has {have} addresses, 1 to {max} are needed")]
    Addresses {
        /// Addresses given.
        have: usize,
        /// Addresses allowed.
        max: usize,
    },
    /// `pincer_control_plane`: plaintext to another machine.
    #[error("address \"{address}\" is not local, \"plaintext\" goes only to a loopback address or unix:")]
    NotLocal {
        /// The address.
        address: String,
    },
    /// `pincer_control_plane`: a file that mutual TLS needs is not named.
    #[error("needs \"{directive}\" for its mutual TLS, or \"plaintext\" to a local address")]
    NoCertificate {
        /// The directive that names it.
        directive: &'static str,
    },
    /// A file of certificates or keys is not there, or may not be read.
    #[error("file \"{path}\" cannot be read: {error}", path = path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// A file of certificates or keys has neither.
    #[error("file \"{path}\" holds no PEM block, \"-----BEGIN …\" is needed", path = path.display())]
    NoPem {
        /// The file.
        path: PathBuf,
    },
    /// `pincer_control_plane`: an address, certificate or key is of no use.
    #[error(transparent)]
    Target(#[from] TargetFault),
}

impl ConfError {
    /// What is wrong with the directive that is being read.
    pub(crate) fn new(directive: &'static str, problem: Problem) -> Self {
        Self { directive, problem: Box::new(problem), place: Place::BeingRead }
    }

    /// What is wrong with a directive that was read before, at `place`.
    pub(crate) fn at(directive: &'static str, problem: Problem, place: &str) -> Self {
        Self { directive, problem: Box::new(problem), place: Place::At(place.to_owned()) }
    }

    /// `directive` has a parameter that nobody knows; `known` lists those it takes.
    pub(crate) fn unknown(directive: &'static str, parameter: &str, known: &'static str) -> Self {
        Self::new(directive, Problem::Unknown { parameter: parameter.to_owned(), known })
    }

    /// `value` of `key` is not what is needed.
    pub(crate) fn invalid(
        directive: &'static str,
        key: &'static str,
        value: &str,
        need: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self::new(directive, Problem::Invalid { key, value: value.to_owned(), need: need.into() })
    }
}

impl fmt::Display for ConfError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { directive, problem, place } = self;
        // What is a sentence of its own.
        let colon = if matches!(**problem, Problem::Zone(_) | Problem::ClassesAdded { .. }) { ":" } else { "" };
        write!(f, "\"{directive}\"{colon} {problem}")?;
        match place {
            Place::BeingRead => Ok(()),
            Place::At(place) => write!(f, " {place}"),
        }
    }
}
