//! Faults that the error logs of both sides show, and which of them are nginx's own.

use std::collections::BTreeSet;

/// What the error logs of both sides have shown.
#[derive(Default)]
pub struct Faults {
    /// What stock nginx has logged, and at which requests, since the run began.
    own: BTreeSet<(String, String)>,
    /// Faults of the side with the module that nobody has looked at yet.
    pincer: Vec<String>,
}

impl Faults {
    /// Adds faults of stock nginx; those that are new.
    pub fn add_plain(&mut self, faults: Vec<String>) -> Vec<String> {
        faults.into_iter().filter(|line| at_request(line).is_none_or(|at| self.own.insert(owned(at)))).collect()
    }

    /// Adds faults of the side with the module.
    pub fn add_pincer(&mut self, faults: Vec<String>) {
        self.pincer.extend(faults);
    }

    /// The faults of the side with the module that nobody has looked at yet.
    pub fn take(&mut self) -> Vec<String> {
        std::mem::take(&mut self.pincer)
    }

    /// Whether stock nginx logs the same at the same request.
    pub fn is_own(&self, line: &str) -> bool {
        at_request(line).is_some_and(|at| self.own.contains(&owned(at)))
    }
}

fn owned((message, request): (&str, &str)) -> (String, String) {
    (message.to_owned(), request.to_owned())
}

/// Whether a line of the error log says at which request it was logged; that a worker died does not.
pub fn names_request(line: &str) -> bool {
    at_request(line).is_some()
}

/// The message of a line of the error log and the request at which it was logged, without what
/// differs between two sides: the time, process, connection, client and upstream. `None` for a line
/// that names no request.
fn at_request(line: &str) -> Option<(&str, &str)> {
    let (_, message) = line.split_once(": *")?.1.split_once(' ')?;
    let (message, rest) = message.split_once(", client: ")?;
    let (_, request) = rest.split_once(", request: \"")?;
    Some((message, request.split_once("\", upstream: ").map_or(request, |(request, _)| request)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ZERO: &str = "http request count is zero while sending to client";

    fn line(message: &str, process: u16, path: &str) -> String {
        format!(
            "2026/01/02 03:04:05 [alert] {process}#{process}: *7{process} {message}, client: 127.64.0.{process}, \
             server: fuzz.test, request: \"POST {path} HTTP/1.1\", upstream: \"http://127.0.0.1:{process}/auth\", \
             host: \"fuzz.test\""
        )
    }

    #[test]
    fn a_fault_of_both_sides_at_one_request_is_nginxs_own() {
        let mut faults = Faults::default();
        assert_eq!(faults.add_plain(vec![line(ZERO, 1, "/a"), line(ZERO, 4, "/a")]).len(), 1);
        assert!(faults.is_own(&line(ZERO, 2, "/a")));
    }

    #[test]
    fn another_message_another_request_or_a_death_is_not() {
        let death = "2026/01/02 03:04:05 [alert] 2#2: worker process 3 exited on signal 11".to_owned();
        let mut faults = Faults::default();
        let plain = vec![line(ZERO, 1, "/a"), line("header already sent", 1, "/b"), death.clone()];
        assert_eq!(faults.add_plain(plain.clone()), plain);
        for line in [line("header already sent", 2, "/a"), line(ZERO, 2, "/b"), death] {
            assert!(!faults.is_own(&line), "{line}");
        }
    }
}
