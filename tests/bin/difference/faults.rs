//! Faults that the error logs of both sides show, and which of them are nginx's own.

use std::collections::BTreeSet;

use crate::crash;

/// How a line begins that says that another worker runs than before.
pub const GONE: &str = "the worker ";

/// What the error logs of both sides have shown.
#[derive(Default)]
pub struct Faults {
    /// The [`signature`]s of what stock nginx has logged since the run began.
    own: BTreeSet<(String, String)>,
    /// Faults of the side with the module that nobody has looked at yet.
    pincer: Vec<String>,
}

impl Faults {
    /// Adds faults of stock nginx; those that are new.
    pub fn add_plain(&mut self, faults: Vec<String>) -> Vec<String> {
        faults.into_iter().filter(|line| signature(line).is_none_or(|at| self.own.insert(at))).collect()
    }

    /// Adds faults of the side with the module.
    pub fn add_pincer(&mut self, faults: Vec<String>) {
        self.pincer.extend(faults);
    }

    /// The faults of the side with the module that nobody has looked at yet.
    pub fn take(&mut self) -> Vec<String> {
        std::mem::take(&mut self.pincer)
    }

    /// These faults without those that stock nginx has as well. That a worker is gone follows from
    /// its death.
    pub fn without_own(&self, faults: &[String]) -> Vec<String> {
        let is_own = |line: &String| signature(line).is_some_and(|at| self.own.contains(&at));
        let follows = faults.iter().any(is_own);
        let counts = |line: &&String| !(is_own(line) || follows && line.starts_with(GONE));
        faults.iter().filter(counts).cloned().collect()
    }
}

/// What two faults of two nginx have in common if they are one: the message and the request at
/// which it was logged, or the place in nginx's code where a worker died.
fn signature(line: &str) -> Option<(String, String)> {
    let died = || crash::place_in_nginx(line).map(|place| ("a worker died", place));
    at_request(line).or_else(died).map(|(what, at)| (what.to_owned(), at.to_owned()))
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

    fn gone() -> String {
        format!("{GONE}[3] is gone, there is [4]")
    }

    #[test]
    fn a_fault_of_both_sides_at_one_request_is_nginxs_own() {
        let mut faults = Faults::default();
        assert_eq!(faults.add_plain(vec![line(ZERO, 1, "/a"), line(ZERO, 4, "/a")]).len(), 1);
        assert!(faults.without_own(&[line(ZERO, 2, "/a")]).is_empty());
    }

    #[test]
    fn so_is_a_death_at_one_place_of_nginxs_code() {
        let died = |process, place| format!("worker process {process} exited on signal 11, at {place}");
        let mut faults = Faults::default();
        faults.add_plain(vec![died(1, "nginx+78be6"), died(2, "libc.so.6+1"), gone()]);
        assert!(faults.without_own(&[gone(), died(3, "nginx+78be6")]).is_empty());
        for place in ["nginx+78be7", "libc.so.6+1", "libngx_http_pincer_module.so+78be6"] {
            assert_eq!(faults.without_own(&[died(3, place), gone()]).len(), 2, "{place}");
        }
    }

    #[test]
    fn another_message_another_request_or_a_death_somewhere_is_not() {
        let death = "2026/01/02 03:04:05 [alert] 2#2: worker process 3 exited on signal 11".to_owned();
        let mut faults = Faults::default();
        let plain = vec![line(ZERO, 1, "/a"), line("header already sent", 1, "/b"), death.clone(), gone()];
        assert_eq!(faults.add_plain(plain.clone()), plain);
        for line in [line("header already sent", 2, "/a"), line(ZERO, 2, "/b"), death, gone()] {
            assert_eq!(faults.without_own(std::slice::from_ref(&line)), [line]);
        }
    }
}
