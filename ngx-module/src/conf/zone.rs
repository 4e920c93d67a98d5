//! `pincer_zone NAME:SIZE [state=PATH]`.

use super::args;
use super::error::{ConfError, Problem};

/// The zone as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ZoneArgs {
    pub(crate) name: String,
    pub(crate) size_bytes: usize,
    /// Where the last good revision is kept; `None` keeps it in memory only.
    pub(crate) state: Option<String>,
}

const DIRECTIVE: &str = "pincer_zone";

/// The least size a zone may have, in bytes: one upstream and what nginx keeps of the memory.
const SIZE_BYTES_MIN: u64 = 64 << 10;
/// The largest size a zone may have, in bytes: 4 GiB keeps every offset within 32 bits.
const SIZE_BYTES_MAX: u64 = 1 << 32;

pub(crate) fn parse(arguments: &[&[u8]]) -> Result<ZoneArgs, ConfError> {
    let (first, rest) = arguments
        .split_first()
        .ok_or_else(|| ConfError::new(DIRECTIVE, Problem::Missing { what: "argument", need: "NAME:SIZE" }))?;
    let first = args::text(DIRECTIVE, first)?;
    let (name, size) = first
        .split_once(':')
        .filter(|(name, _)| !name.is_empty())
        .ok_or_else(|| ConfError::invalid(DIRECTIVE, "argument", first, "NAME:SIZE such as pincer:1m"))?;
    let size_bytes =
        args::size_bytes(size).ok_or_else(|| ConfError::invalid(DIRECTIVE, "size", size, "a size such as 1m"))?;
    if size_bytes < SIZE_BYTES_MIN {
        return Err(ConfError::new(DIRECTIVE, Problem::TooSmall { size: size.to_owned() }));
    }
    let size_bytes = usize::try_from(size_bytes)
        .ok()
        .filter(|_| size_bytes <= SIZE_BYTES_MAX)
        .ok_or_else(|| ConfError::new(DIRECTIVE, Problem::TooLarge { size: size.to_owned() }))?;
    let mut state = None;
    for argument in rest {
        let argument = args::text(DIRECTIVE, argument)?;
        match argument.split_once('=') {
            Some(("state", "")) => return Err(ConfError::invalid(DIRECTIVE, "state", "", "a file's path")),
            Some(("state", path)) => args::set_once(&mut state, path.to_owned(), DIRECTIVE, "state")?,
            _ => return Err(ConfError::unknown(DIRECTIVE, argument, "state=PATH")),
        }
    }
    Ok(ZoneArgs { name: name.to_owned(), size_bytes, state })
}
