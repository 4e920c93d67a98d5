//! Differences that are meant: each with the reason, as docs/ gives it. Everything else is a
//! fault.

use crate::conf;
use crate::input::Input;
use crate::send::Outcome;

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

/// Whether a field of a request to the origin is not compared. Every byte that is no letter counts
/// as `-`, as for the module.
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

/// Faults of stock nginx that it logs on both sides: a part of the line. Each was seen without the
/// module.
pub const OWN_FAULTS: [&str; 1] = [
    // A response of 412 to If-Match for an entry that is being fetched under proxy_cache_lock.
    "stalled cache updating",
];

/// A fault of stock nginx's that it logs now and then, by chance, on either side: where
/// `error_page` of 413 leads to a proxied location, and more of the refused body and the client's
/// end arrive while that response is sent. 42 of 72,028 such requests to stock nginx 1.22.1 logged
/// it, and 32 with the module. So it is counted on both sides, and a finding only by
/// [`is_unlike_chance`].
pub const OWN_RACE: &str = "http request count is zero while sending to client";

/// Whether the side with the module logs [`OWN_RACE`] so often that chance does not explain it.
pub fn is_unlike_chance(plain: u64, pincer: u64) -> bool {
    pincer > 3 * plain + 10
}

/// Whether two outcomes are the same but for requests that could not be told to the end. How much
/// of a body that was cut off went on depends on how it was read: where it is hashed, what came
/// with the head is read again, in one piece with the rest. And nginx closes a connection of HTTP/2
/// for an error of the client at once: how far its streams came is a race, on either side.
pub fn same(plain: &Outcome, pincer: &Outcome) -> bool {
    let told = |outcome: &Outcome| -> Vec<String> {
        let lines = outcome.received.iter();
        lines.map(|line| if line.ends_with(PARTIAL) { head(line) } else { line }.to_owned()).collect()
    };
    if is_broken_off(plain) && is_broken_off(pincer) {
        return true;
    }
    plain.response == pincer.response && told(plain) == told(pincer)
}

/// Whether nginx gave the connection up with a GOAWAY that names an error.
fn is_broken_off(outcome: &Outcome) -> bool {
    let goaway = |line: &&String| line.starts_with("frame 7 ");
    outcome.response.iter().filter(goaway).any(|line| !line.ends_with("\\x00\\x00\\x00\\x00\""))
}

/// The origin's note of a request, without its body.
fn head(line: &str) -> &str {
    line.split_once(" body ").map_or(line, |(head, _)| head)
}

/// Whether the input asks for the one location whose bodies are read earlier than by stock nginx
/// (docs/cache.md, "Reading a body early"), or was answered there. What a body that is read,
/// buffered and kept changes is much: a length for the origin, windows of streams, what error pages
/// see of it. Nothing is compared then; workers that die, faults in the log and counts left over
/// count there as anywhere.
pub fn reads_early(input: &Input, plain: &Outcome, pincer: &Outcome) -> bool {
    let asks = |bytes: Vec<u8>| bytes.windows(conf::EARLY.len()).any(|window| window == conf::EARLY.as_bytes());
    // A path in several frames shows at the origin only.
    let mut told = [plain, pincer].into_iter().flat_map(|outcome| outcome.response.iter().chain(&outcome.received));
    asks(input.segments.concat()) || told.any(|line| line.contains(conf::EARLY))
}

/// Whether the input sends a field that `pincer_limit` removes, with a value that the origin may
/// refuse: a control character, or one that is not ASCII. Stock nginx passes it on.
pub fn loses_a_bad_field(input: &Input) -> bool {
    input.segments.concat().split(|byte| *byte == b'\n').any(|line| {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { return false };
        let (name, value) = line.split_at(colon);
        let value = value[1..].strip_suffix(b"\r").unwrap_or(&value[1..]);
        to_origin(name.trim_ascii()) && value.iter().any(|byte| !matches!(byte, b'\t' | b' '..=b'~'))
    })
}

/// How the origin's note of a request ends whose body did not.
pub const PARTIAL: &str = " (not complete)";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::input::{Door, End, Pace};

    #[test]
    fn a_race_counts_when_it_is_lost_much_more_often_than_by_stock_nginx() {
        assert!(!is_unlike_chance(0, 10) && !is_unlike_chance(42, 32) && !is_unlike_chance(42, 136));
        assert!(is_unlike_chance(0, 11) && is_unlike_chance(42, 137));
    }

    #[test]
    fn a_removed_field_counts_when_its_value_may_be_refused() {
        let sends = |bytes: &[u8]| {
            let segments = vec![bytes.to_vec()];
            let (door, pace, end) = (Door::Http, Pace::Together, End::Quiet);
            loses_a_bad_field(&Input { number: 0, kind: "", place: 0, door, segments, pace, end })
        };
        assert!(sends(b"GET / HTTP/1.1\nX-Pincer-Class:\x1d\n\n"));
        assert!(sends(b"GET / HTTP/1.1\r\nx_pincer-tenant: \xc3\xa4\r\n\r\n"));
        assert!(!sends(b"GET / HTTP/1.1\r\nX-Pincer-Class: vip\r\n\r\n"));
        assert!(!sends(b"GET / HTTP/1.1\r\nX-Other: \x1d\r\n\r\n"));
    }
}
