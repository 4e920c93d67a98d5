//! The seeds of the heats: the same for every contender.

/// Seeds of so many heats. The first is not 0, which would leave the first lane first.
pub fn seeds(count: u64) -> Vec<u64> {
    (1..=count).collect()
}
