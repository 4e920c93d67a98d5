//! Who asks, and what the class of a request may have.

pub(crate) mod answer;
pub(crate) mod api_key;
pub(crate) mod bandwidth;
pub(crate) mod class_header;
pub(crate) mod delay;
pub(crate) mod hold;
