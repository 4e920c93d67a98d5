//! Differences that are meant: each with the reason, as README.md gives it. Everything else is a fault.

/// A header field that only one side has, or has differently.
struct Field {
    name: &'static str,
    #[allow(dead_code)]
    reason: &'static str,
}

/// In responses to clients.
const TO_CLIENT: &[Field] = &[
    Field { name: "date", reason: "the clock" },
    Field { name: "ratelimit", reason: "where a rate is in force every response tells what is left, dry_run or not" },
    Field { name: "ratelimit-policy", reason: "likewise the rate itself" },
    Field { name: "x-ratelimit-limit-requests", reason: "likewise, as OpenAI's clients know it" },
    Field { name: "x-ratelimit-remaining-requests", reason: "likewise" },
    Field { name: "x-ratelimit-reset-requests", reason: "likewise" },
];

/// In requests to the origin.
const TO_ORIGIN: &[Field] = &[
    Field {
        name: "x-pincer-class",
        reason: "pincer_limit tells the upstream the class, and removes what a client sent under this name",
    },
    Field { name: "x-pincer-tenant", reason: "likewise the tenant" },
    Field { name: "http-x-pincer-class", reason: "X-Pincer-Class as FastCGI spells it" },
    Field { name: "http-x-pincer-tenant", reason: "X-Pincer-Tenant as FastCGI spells it" },
];

/// Whether a field of a response is not compared.
pub fn to_client(name: &[u8]) -> bool {
    has(TO_CLIENT, name)
}

/// Whether a field of a request to the origin is not compared. Every byte that is no letter counts as `-`, as for the module.
pub fn to_origin(name: &[u8]) -> bool {
    has(TO_ORIGIN, name)
}

fn has(fields: &[Field], name: &[u8]) -> bool {
    let same =
        |byte: &u8, ours: u8| byte.eq_ignore_ascii_case(&ours) || (ours == b'-' && !byte.is_ascii_alphanumeric());
    fields.iter().any(|field| {
        field.name.len() == name.len() && name.iter().zip(field.name.bytes()).all(|(byte, ours)| same(byte, ours))
    })
}
