//! Where a process died, as the kernel's log tells it.

use std::process::Command;

/// The line of the error log that says that a worker died, with the place where it did, if the
/// kernel's log can be read. Other lines as they are.
pub fn with_place(line: String) -> String {
    let Some(process) = died(&line) else { return line };
    let log = Command::new("dmesg").output().map(|output| output.stdout).unwrap_or_default();
    let place = String::from_utf8_lossy(&log).lines().rev().find_map(|entry| place(entry, process));
    place.map_or_else(|| line.clone(), |place| format!("{line}{AT}{place}"))
}

/// The place that [`with_place`] added, if it is in nginx's own code.
pub fn place_in_nginx(line: &str) -> Option<&str> {
    line.rsplit_once(AT).map(|(_, place)| place).filter(|place| place.starts_with("nginx+"))
}

const AT: &str = ", at ";

/// The process of "worker process 7 exited on signal 11".
fn died(line: &str) -> Option<u32> {
    let (_, rest) = line.split_once("worker process ")?;
    rest.split_once(" exited on signal ")?.0.parse().ok()
}

/// File and offset of an entry like "nginx[7]: segfault at 8 ip … error 4 in
/// nginx[78be6,55…+c0000]".
fn place(entry: &str, process: u32) -> Option<String> {
    let (_, entry) = entry.split_once(&format!("[{process}]: "))?;
    let (file, rest) = entry.rsplit_once(" in ")?.1.split_once('[')?;
    let (offset, _) = rest.split_once(',')?;
    u64::from_str_radix(offset, 16).ok().map(|offset| format!("{file}+{offset:x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENTRY: &str = "[ 2212.980853] nginx[10846]: segfault at 8 ip 000055ac97599be6 sp 00007fff95bdd2c0 error 4 in \
                         nginx[78be6,55ac97544000+c0000] likely on CPU 0 (core 0, socket 0)";

    #[test]
    fn the_kernels_entry_names_file_and_offset() {
        assert_eq!(place(ENTRY, 10846), Some("nginx+78be6".to_owned()));
        assert_eq!(place(ENTRY, 10847), None);
        assert_eq!(place("[ 1.0] nginx[7]: segfault at 8 ip 0 sp 0 error 4 in nginx[55ac97544000+c0000]", 7), None);
    }

    #[test]
    fn only_a_worker_that_a_signal_ended_has_a_place() {
        assert_eq!(died("2026/01/02 03:04:05 [alert] 1#1: worker process 10846 exited on signal 11"), Some(10846));
        assert_eq!(died("2026/01/02 03:04:05 [alert] 1#1: worker process 10846 exited with code 2"), None);
        assert_eq!(place_in_nginx("exited on signal 11, at nginx+78be6"), Some("nginx+78be6"));
        assert_eq!(place_in_nginx("exited on signal 11, at libngx_http_pincer_module.so+78be6"), None);
    }
}
