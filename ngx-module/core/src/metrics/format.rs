//! The dialects of the metrics, and which of them a request asks for.

/// The two dialects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `text/plain; version=0.0.4`.
    Prometheus,
    /// `application/openmetrics-text; version=1.0.0`: units, exact counter names, an end mark.
    OpenMetrics,
}

impl Format {
    /// The dialect for a request's `Accept` header: OpenMetrics when it is named, else Prometheus.
    pub fn of_accept(accept: &[u8]) -> Self {
        let wanted = b"application/openmetrics-text";
        let named = accept.windows(wanted.len()).any(|window| window.eq_ignore_ascii_case(wanted));
        if named { Self::OpenMetrics } else { Self::Prometheus }
    }

    /// The response's `Content-Type`.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}
