//! What happens to a request, in words that the core understands. Knows no nginx; `ffi` gathers the
//! facts.

pub(crate) mod outcome;
pub(crate) mod refusal;
pub(crate) mod times;
