//! Which core of the machine each program of a closed loop runs on.

/// The core of the proxy's worker.
pub const PROXY_CORE: usize = 0;
/// The core of the program that sends requests; the proxy has the other core.
pub const CLIENT_CORE: usize = 1;

/// The start of a command line that keeps to one core, on a machine that has two.
pub fn pinned(core: usize) -> Vec<String> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    if cores < 2 { Vec::new() } else { ["taskset", "-c", &core.to_string()].map(String::from).to_vec() }
}
