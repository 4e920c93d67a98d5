//! The command line of `class` and `key`. A value is checked here, by the words that `crate::words`
//! reads, before anything is sent.

use std::time::Duration;

use clap::{Args as ArgGroup, Subcommand, builder::NonEmptyStringValueParser};

use super::{fault::Fault, setting::Setting};
use crate::{
    classes::{FIELDS, Settings},
    names, words,
};

/// Far more than any key lives.
const SPAN_MAX: Duration = Duration::from_secs(100 * 365 * 86_400);

#[derive(Debug, Subcommand)]
pub enum ClassVerb {
    /// All classes: what is in force (* set by an operator), how they are used
    List,
    /// One: what nginx.conf says, what was set, what is in force
    Get {
        /// As in nginx.conf
        class: String,
    },
    /// Set fields of a class; a class that nobody knows is added
    Set {
        /// As in nginx.conf, or a new one
        class: String,
        #[command(flatten)]
        settings: Box<ClassSettingsArgs>,
        /// Fail unless this is the class' current etag
        #[arg(long, value_parser = NonEmptyStringValueParser::new())]
        etag: Option<String>,
    },
    /// Remove a class that was added, or all that was set of a declared one
    Delete {
        /// As in class list
        class: String,
        /// Fail unless this is the class' current etag
        #[arg(long, value_parser = NonEmptyStringValueParser::new())]
        etag: Option<String>,
    },
}

/// A checked value of a class, as written.
pub type Word = Setting<String>;

fn word(field: &'static str) -> impl Fn(&str) -> Result<Word, Fault> + Clone {
    move |text: &str| {
        if text == "unset" {
            return Ok(Setting::Unset);
        }
        let checked = words::set(&mut Settings::default(), field, text);
        checked.map(|()| Setting::To(text.to_owned())).map_err(Fault::ClassSetting)
    }
}

#[derive(Debug, ArgGroup)]
pub struct ClassSettingsArgs {
    /// Requests admitted per key, as 100r/s or 30r/m, or unlimited; "unset", here as below: the
    /// value of nginx.conf
    #[arg(long, value_name = "RATE", value_parser = word("rate"), allow_hyphen_values = true)]
    pub rate: Option<Word>,
    /// Requests above the rate that are not rejected, 0 to 1000000; needs a rate in force, or one
    /// set with it
    #[arg(long, value_name = "N", value_parser = word("burst"), allow_negative_numbers = true)]
    pub burst: Option<Word>,
    /// Requests of the burst that pass without delay, 0 to 1000000, or nodelay: all; the others are
    /// delayed to keep to the rate
    #[arg(long, value_name = "N", value_parser = word("delay"), allow_negative_numbers = true)]
    pub delay: Option<Word>,
    /// Requests at once per key, 0 to 1000000; 0: unlimited
    #[arg(long, value_name = "N", value_parser = word("concurrency"), allow_negative_numbers = true)]
    pub concurrency: Option<Word>,
    /// Bytes per second per key, as 512k or 10m; 0: unlimited
    #[arg(long, value_name = "SIZE", value_parser = word("bandwidth"), allow_hyphen_values = true)]
    pub bandwidth: Option<Word>,
    /// 0 to 255: the lower one leaves a queue first
    #[arg(long, value_name = "N", value_parser = word("priority"), allow_negative_numbers = true)]
    pub priority: Option<Word>,
    /// Percent of the slots that the class gets even if others go first, 0 to 100
    #[arg(long, value_name = "N", value_parser = word("share"), allow_negative_numbers = true)]
    pub share: Option<Word>,
    /// Requests of the class that may wait in one queue, 0 to 1000000; 0: as many as it holds
    #[arg(long, value_name = "N", value_parser = word("queue"), allow_negative_numbers = true)]
    pub queue: Option<Word>,
    /// How long a request may wait in a queue, as 10s; 0: as long as the queue's own timeout
    #[arg(long, value_name = "TIME", value_parser = word("queue_timeout"), allow_hyphen_values = true)]
    pub queue_timeout: Option<Word>,
}

impl ClassSettingsArgs {
    /// The settings, and the names of the fields that were given.
    pub fn read(&self) -> (Settings, Vec<&'static str>) {
        let words = [
            &self.rate,
            &self.burst,
            &self.delay,
            &self.concurrency,
            &self.bandwidth,
            &self.priority,
            &self.share,
            &self.queue,
            &self.queue_timeout,
        ];
        let (mut settings, mut given) = (Settings::default(), Vec::new());
        for (field, word) in FIELDS.into_iter().zip(words) {
            let Some(word) = word else { continue };
            given.push(field);
            if let Setting::To(text) = word {
                // The argument parser has checked it before.
                let _ = words::set(&mut settings, field, text);
            }
        }
        (settings, given)
    }
}

#[derive(Debug, Subcommand)]
pub enum KeyVerb {
    /// All keys, by fingerprint; never a secret
    List,
    /// Make a key and show its secret, once
    Create {
        /// The holder of the key
        #[arg(long, value_parser = tenant)]
        tenant: String,
        /// The class of the key's requests
        #[arg(long, value_parser = class)]
        class: String,
        /// Its name [default: one is made up]
        #[arg(long, value_parser = id)]
        id: Option<String>,
        /// Client addresses that may use the key, as 10.0.0.0/8; up to 16, separated by commas or
        /// in several flags [default: any]
        #[arg(long = "cidr", value_name = "BLOCK", value_delimiter = ',', value_parser = cidr)]
        cidrs: Vec<String>,
        /// When the key expires, as 90d or 12h [default: never]
        #[arg(long, value_name = "TIME", value_parser = span, allow_hyphen_values = true)]
        expires: Option<Duration>,
    },
    /// Give a key another secret and show it, once
    Rotate {
        /// As in key list
        #[arg(value_parser = id)]
        id: String,
        /// How long the old secret stays valid, as 1h; 0: not at all, at most 30d [default: 24h]
        #[arg(long, value_name = "TIME", value_parser = span, allow_hyphen_values = true)]
        overlap: Option<Duration>,
        /// Fail unless this is the key's current etag
        #[arg(long, value_parser = NonEmptyStringValueParser::new())]
        etag: Option<String>,
    },
    /// Revoke a key, now
    Revoke {
        /// As in key list
        #[arg(value_parser = id)]
        id: String,
        /// Fail unless this is the key's current etag
        #[arg(long, value_parser = NonEmptyStringValueParser::new())]
        etag: Option<String>,
    },
    /// Delete a revoked or expired key
    Delete {
        /// As in key list
        #[arg(value_parser = id)]
        id: String,
        /// Fail unless this is the key's current etag
        #[arg(long, value_parser = NonEmptyStringValueParser::new())]
        etag: Option<String>,
    },
}

fn checked(text: &str, check: impl Fn(&str) -> Result<(), names::Fault>) -> Result<String, names::Fault> {
    check(text).map(|()| text.to_owned())
}

fn tenant(text: &str) -> Result<String, names::Fault> {
    checked(text, names::check_tenant)
}

fn class(text: &str) -> Result<String, names::Fault> {
    checked(text, names::check_class)
}

fn id(text: &str) -> Result<String, names::Fault> {
    checked(text, names::check_key)
}

fn cidr(text: &str) -> Result<String, names::Fault> {
    names::parse_cidr(text)
}

fn span(text: &str) -> Result<Duration, words::Fault> {
    words::parse_span(text, SPAN_MAX)
}
