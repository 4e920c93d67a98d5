//! What a refused client reads: an error in OpenAI's shape below `/v1/`, else problem details (RFC
//! 9457). Knows no nginx; never names a key.

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Over a rate.
    Rate,
    /// Too many at once.
    Concurrency,
    /// No API key, or one that is not known or not valid any more.
    Unauthenticated,
    /// The key may not be used from the client's address.
    Forbidden,
}

impl Refusal {
    /// OpenAI's `type` and `code`.
    fn openai(self) -> (&'static str, &'static str) {
        match self {
            Self::Rate => ("requests", "rate_limit_exceeded"),
            Self::Concurrency => ("requests", "concurrency_limit_exceeded"),
            Self::Unauthenticated => ("invalid_request_error", "invalid_api_key"),
            Self::Forbidden => ("invalid_request_error", "ip_not_authorized"),
        }
    }

    fn message(self) -> &'static str {
        match self {
            Self::Rate => {
                "Too many requests: the rate of your class is reached. Try again after the time in Retry-After."
            }
            Self::Concurrency => "Too many requests at once: wait for one of yours to end.",
            Self::Unauthenticated => "The API key is missing, not known, or not valid any more.",
            Self::Forbidden => "The API key may not be used from this address.",
        }
    }
}

/// A response's body and its type.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Page {
    pub(crate) content_type: &'static str,
    pub(crate) body: String,
}

/// The response to a request for `path`, refused with `status`. All texts are ours, so nothing
/// needs an escape.
pub(crate) fn page(refusal: Refusal, status: u16, path: &[u8]) -> Page {
    let message = refusal.message();
    if path.starts_with(b"/v1/") {
        let (kind, code) = refusal.openai();
        let body = format!(
            "{{\"error\":{{\"message\":\"{message}\",\"type\":\"{kind}\",\"param\":null,\"code\":\"{code}\"}}}}\n"
        );
        return Page { content_type: "application/json", body };
    }
    let title = title(status);
    let body =
        format!("{{\"type\":\"about:blank\",\"title\":\"{title}\",\"status\":{status},\"detail\":\"{message}\"}}\n");
    Page { content_type: "application/problem+json", body }
}

/// The reason phrase of RFC 9110 and 6585, as problem details of the type `about:blank` want it.
fn title(status: u16) -> &'static str {
    match status {
        401 => "Unauthorized",
        403 => "Forbidden",
        429 => "Too Many Requests",
        503 => "Service Unavailable",
        400..=499 => "Request Refused",
        _ => "Service Not Available",
    }
}
