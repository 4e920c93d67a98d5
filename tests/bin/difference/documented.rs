//! Differences that are meant: each with the reason, as README.md gives it. Everything else is a
//! fault.

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

/// Faults of stock nginx that it logs on both sides: a part of the line. Each was seen without the module.
pub const OWN_FAULTS: [&str; 1] = [
    // A response of 412 to If-Match for an entry that is being fetched under proxy_cache_lock.
    "stalled cache updating",
];

/// Whether two outcomes differ only in this: a request that cannot be told to the end came to the
/// origin where nothing waits, and was given up before its turn where `pincer_queue` has it wait for
/// a slot of the one origin that has `max_conns`.
pub fn waited(plain: &Outcome, pincer: &Outcome) -> bool {
    let given_up = |line: &&String| line.contains("[Host: uw]") && line.ends_with(PARTIAL);
    let others = |outcome: &Outcome| -> Vec<String> {
        outcome.received.iter().filter(|line| !given_up(line)).cloned().collect()
    };
    plain.response == pincer.response && others(plain) == others(pincer)
}

/// Whether two outcomes that differ do so as README.md says of `pincer_body_hash` ("Read early"),
/// which is in force here. `whole`: the input has no body that does not end as it should.
pub fn read_early(plain: &Outcome, pincer: &Outcome, whole: bool) -> bool {
    // An unbuffered upload becomes a buffered one: with a length, known to mirrors too; what is cut
    // off or wrong is not passed on.
    let received = [plain, pincer].map(|outcome| buffered(&outcome.received));
    let same_received = same_buffered(&received[0], &received[1]);
    if plain.response == pincer.response && same_received {
        return true;
    }
    let partial = |outcome: &Outcome| outcome.received.iter().any(|line| line.ends_with(PARTIAL));
    if partial(plain) && !partial(pincer) {
        return true;
    }
    // Only a stream whose body is kept gets a window beyond the first 65,535 bytes, which is all that
    // this client waits for.
    if plain.response.iter().any(|line| line.ends_with(FLOW_CONTROL_ERROR)) {
        return true;
    }
    // The body is read in the first location, and its fault is answered there: not in the one that
    // `try_files` would have gone on to.
    let faulty =
        |outcome: &Outcome| outcome.response.iter().any(|line| BODY_FAULTS.iter().any(|fault| line.contains(fault)));
    let placeless = |outcome: &Outcome| -> Vec<String> {
        outcome.response.iter().filter(|line| !line.to_ascii_lowercase().contains("x-place")).cloned().collect()
    };
    if faulty(plain) && faulty(pincer) && same_received && placeless(plain) == placeless(pincer) {
        return true;
    }
    // A body is awaited, and its faults answered, where `try_files` and some handlers do without
    // it. Streams that were read to the end need no RST_STREAM, others do.
    // Who asks first is asked for the body.
    let meant = |line: &String| line.ends_with(NO_ERROR) || line == "HTTP/1.1 100 Continue";
    let within = |few: &[String], many: &[String]| few.iter().all(|line| many.contains(line) || meant(line));
    let less = within(&pincer.response, &plain.response) && within(&received[1], &received[0]);
    !whole && (less || [plain, pincer].into_iter().any(|outcome| faulty(outcome) || partial(outcome)))
}

/// How the line of a RST_STREAM ends that says FLOW_CONTROL_ERROR.
const FLOW_CONTROL_ERROR: &str = ": reset \\x00\\x00\\x00\\x03";

/// How the line of a RST_STREAM ends that says NO_ERROR.
const NO_ERROR: &str = ": reset \\x00\\x00\\x00\\x00";

/// Whether both are the same, but for bodies that an error page's location can pass on only once
/// they are buffered.
fn same_buffered(plain: &[String], pincer: &[String]) -> bool {
    let same = |(plain, pincer): (&String, &String)| {
        let (head, body) = plain.split_once(" body ").unwrap_or_default();
        plain == pincer
            || body.starts_with("0 bytes") && pincer.split_once(" body ").is_some_and(|(other, _)| head == other)
    };
    plain.len() == pincer.len() && plain.iter().zip(pincer).all(same)
}

/// What the origin received, but for what changes with buffering.
fn buffered(received: &[String]) -> Vec<String> {
    let lines = received.iter().filter(|line| !line.contains(" /mirrored"));
    let mut lines: Vec<_> = lines
        .map(|line| {
            let mut line = line.clone();
            for field in ["[content-length: ", "[transfer-encoding: ", "[content_length: "] {
                while let Some(at) = line.to_ascii_lowercase().find(field) {
                    let end = line[at..].find(']').map_or(line.len(), |end| at + end + 1);
                    line.replace_range(at..end, "");
                }
            }
            line.split_whitespace().collect::<Vec<_>>().join(" ")
        })
        .collect();
    lines.sort();
    // A body that is kept can be sent again: each error page that follows another is proxied with it.
    lines.dedup_by(|line, before| {
        line.split_once(" body ").map(|at| at.0) == before.split_once(" body ").map(|at| at.0)
    });
    lines
}

/// How the origin's note of a request ends whose body did not.
pub const PARTIAL: &str = " (not complete)";

/// What says that a request's body is wrong; 500 where the error page's location reads it again, and
/// so on until nginx counts a cycle.
const BODY_FAULTS: [&str; 8] =
    [" 400 ", " 408 ", " 413 ", " 500 ", ":status: 400", ":status: 408", ":status: 413", ":status: 500"];
