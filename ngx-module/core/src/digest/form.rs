//! The forms of a body: how it is to be read, and what was in fact hashed.

/// How a location's bodies are to be hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// As they came.
    Raw,
    /// As JSON, whatever their Content-Type.
    Json,
    /// By their parts.
    Multipart,
    /// By their Content-Type.
    Auto,
}

impl Form {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Raw, Self::Json, Self::Multipart, Self::Auto];

    /// As written in the configuration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Json => "json",
            Self::Multipart => "multipart",
            Self::Auto => "auto",
        }
    }

    /// The form of that name, exactly as written.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|form| form.name() == name)
    }
}

/// What was in fact hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hashed {
    /// The bytes as they came (with the content coding's name, if there is one).
    Raw,
    /// A JSON value.
    Json,
    /// The parts of a multipart body.
    Multipart,
    /// The bytes of a body that is not what it should be, too large or too deep.
    Unparsed,
}

impl Hashed {
    /// All of them, in the order of [`Hashed::index`].
    pub const ALL: [Self; 4] = [Self::Raw, Self::Json, Self::Multipart, Self::Unparsed];

    /// A place in a table of counters, below `ALL.len()`. Cache keys are made with it: it never
    /// changes.
    #[must_use]
    pub const fn index(self) -> usize {
        match self {
            Self::Raw => 0,
            Self::Json => 1,
            Self::Multipart => 2,
            Self::Unparsed => 3,
        }
    }

    /// As written in labels.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Json => "json",
            Self::Multipart => "multipart",
            Self::Unparsed => "unparsed",
        }
    }
}
