//! `pincer_body_hash off|blake3|sha256|xxh3 [form=raw|json|multipart|auto] [ignore=POINTER,…]
//! [max=SIZE]`.

use super::args;
use super::error::{ConfError, Problem};
use pincer_core::digest::{Algorithm, Form, Ignore, Params};

/// How request bodies are hashed.
pub(crate) type BodyHashArgs = Params;

const NAME: &str = "pincer_body_hash";

/// Bodies up to this are put into canonical form as JSON, unless `max=` says otherwise: a prompt of
/// some 250,000 words.
const JSON_BYTES_MAX_DEFAULT: u64 = 1 << 20;
/// Bounds of `max`. Above, the memory of many requests at once and the time of one step of the
/// event loop become noticeable.
const JSON_BYTES_MAX: std::ops::RangeInclusive<u64> = 1 << 10..=16 << 20;

/// `None` = off.
pub(crate) fn parse(arguments: &[&[u8]]) -> Result<Option<BodyHashArgs>, ConfError> {
    let Some((first, rest)) = arguments.split_first() else {
        return Err(ConfError::new(NAME, Problem::Missing { what: "algorithm", need: "off, blake3, sha256 or xxh3" }));
    };
    let Some(algorithm) = algorithm(args::text(NAME, first)?)? else {
        return match rest.first() {
            None => Ok(None),
            Some(extra) => Err(ConfError::unknown(NAME, args::text(NAME, extra)?, "none after \"off\"")),
        };
    };
    let (mut form, mut ignore, mut max) = (None, None, None);
    for argument in rest {
        let argument = args::text(NAME, argument)?;
        match argument.split_once('=') {
            Some(("form", value)) => args::set_once(&mut form, parse_form(value)?, NAME, "form")?,
            Some(("ignore", value)) => {
                if value.is_empty() {
                    let need = "JSON pointers as in \"/user,/metadata\", or no \"ignore=\"";
                    return Err(ConfError::invalid(NAME, "ignore", value, need));
                }
                let pointers = Ignore::parse(value)
                    .map_err(|error| ConfError::new(NAME, Problem::Pointers { value: value.to_owned(), error }))?;
                args::set_once(&mut ignore, pointers, NAME, "ignore")?;
            }
            Some(("max", value)) => {
                let bytes = args::size_bytes(value)
                    .filter(|bytes| JSON_BYTES_MAX.contains(bytes))
                    .ok_or_else(|| ConfError::invalid(NAME, "max", value, "a size from 1k to 16m"))?;
                args::set_once(&mut max, bytes, NAME, "max")?;
            }
            _ => return Err(ConfError::unknown(NAME, argument, "form=, ignore= and max=")),
        }
    }
    let form = form.unwrap_or(Form::Raw);
    let only_json = |key| ConfError::new(NAME, Problem::OnlyJson { key, form });
    if !matches!(form, Form::Json | Form::Auto) {
        if ignore.is_some() {
            return Err(only_json("ignore"));
        }
        if max.is_some() {
            return Err(only_json("max"));
        }
    }
    let json_bytes_max = usize::try_from(max.unwrap_or(JSON_BYTES_MAX_DEFAULT)).unwrap_or(usize::MAX);
    Ok(Some(Params { algorithm, form, ignore: ignore.unwrap_or_default(), json_bytes_max }))
}

fn algorithm(value: &str) -> Result<Option<Algorithm>, ConfError> {
    match value {
        "off" => Ok(None),
        "blake3" => Ok(Some(Algorithm::Blake3)),
        "sha256" => Ok(Some(Algorithm::Sha256)),
        "xxh3" => Ok(Some(Algorithm::Xxh3)),
        _ => Err(ConfError::invalid(NAME, "algorithm", value, "off, blake3, sha256 or xxh3")),
    }
}

fn parse_form(value: &str) -> Result<Form, ConfError> {
    match value {
        "raw" => Ok(Form::Raw),
        "json" => Ok(Form::Json),
        "multipart" => Ok(Form::Multipart),
        "auto" => Ok(Form::Auto),
        _ => Err(ConfError::invalid(NAME, "form", value, "raw, json, multipart or auto")),
    }
}
