//! Reads nginx's error log for what must not be there: alerts, emergencies and workers that died
//! without the test's doing.

/// What the test itself did, so that its trace in the log is no fault.
#[derive(Clone, Debug, Default)]
pub struct Expected {
    /// Workers the test killed. Besides their end the master reports a lock that they held: a
    /// revision or a purge was on its way into the zone.
    pub killed: Vec<i32>,
    /// Texts that a line may contain.
    pub allowed: Vec<String>,
}

/// The lines of `log` that are faults.
#[must_use]
pub fn faults(log: &str, expected: &Expected) -> Vec<String> {
    log.lines().filter(|line| is_fault(line) && !is_expected(line, expected)).map(str::to_owned).collect()
}

/// The faults, behind all that the log says of the connections that they name (`*NUMBER`).
#[must_use]
pub fn report(log: &str, faults: &[String]) -> String {
    let connections: Vec<&str> = faults.iter().filter_map(|line| connection(line)).collect();
    let of_them = |line: &&str| connection(line).is_some_and(|number| connections.contains(&number));
    let lines: Vec<_> = log.lines().filter(of_them).collect();
    format!("--- log of these connections\n{}\n--- faults\n{}", lines.join("\n"), faults.join("\n"))
}

fn connection(line: &str) -> Option<&str> {
    line.split(' ').nth(4).filter(|word| word.starts_with('*'))
}

fn is_fault(line: &str) -> bool {
    ["[alert]", "[emerg]", "AddressSanitizer", "panicked at"].iter().any(|sign| line.contains(sign))
        || (line.contains("worker process")
            && (line.contains("exited on signal") || line.contains("exited with fatal")))
}

fn is_expected(line: &str, expected: &Expected) -> bool {
    let killed = |pid: &i32| {
        line.contains(&format!("process {pid} exited on signal")) || line.ends_with(&format!("was locked by {pid}"))
    };
    expected.killed.iter().any(killed) || expected.allowed.iter().any(|text| line.contains(text.as_str()))
}

/// The last `count` lines.
#[must_use]
pub fn tail(log: &str, count: usize) -> String {
    let lines: Vec<_> = log.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "2026/01/01 00:00:00 [notice] 1#1: start worker process 7
2026/01/01 00:00:01 [alert] 1#1: worker process 7 exited on signal 9
2026/01/01 00:00:02 [alert] 1#1: worker process 8 exited on signal 11
2026/01/01 00:00:02 [alert] 1#1: shared memory zone \"pincer\" was locked by 7
2026/01/01 00:00:02 [alert] 1#1: shared memory zone \"pincer\" was locked by 77
2026/01/01 00:00:03 [alert] 9#9: *3 open socket #12 left in connection 4
2026/01/01 00:00:03 [error] 9#9: *3 connect() failed
2026/01/01 00:00:03 [error] 9#9: *30 connect() failed";

    #[test]
    fn only_what_the_test_did_itself_is_forgiven() {
        let expected = Expected { killed: vec![7], allowed: vec!["open socket #12".into()] };
        let faults = faults(LOG, &expected);
        assert_eq!(faults.len(), 2, "{faults:?}");
        assert!(faults[0].contains("process 8 exited on signal 11"));
        assert!(faults[1].contains("was locked by 77"));
    }

    #[test]
    fn faults_are_reported_with_what_their_connections_did() {
        let faults = faults(LOG, &Expected { killed: vec![7, 8, 77], allowed: Vec::new() });
        let report = report(LOG, &faults);
        let (log, faults) = report.split_once("--- faults").expect("two parts");
        assert_eq!(log.matches('*').count(), 2, "{log}");
        assert!(log.contains("*3 connect() failed") && faults.contains("open socket #12"), "{report}");
    }

    #[test]
    fn without_expectations_every_alert_is_a_fault() {
        assert_eq!(faults(LOG, &Expected::default()).len(), 5);
    }
}
