//! `pincer_balance [signal=…] [half_life=TIME] [slow_start=TIME] [affinity=VAR]` and
//! `pincer_queue size=N timeout=TIME`.

use super::args;
use super::error::{ConfError, Problem};
use pincer_core::zone::Signal;

/// The balancer of one upstream as configured; `None` leaves the core's default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct BalanceArgs {
    pub(crate) signal: Option<Signal>,
    pub(crate) half_life_ms: Option<u64>,
    pub(crate) slow_start_ms: Option<u64>,
    pub(crate) affinity: Option<String>,
}

/// The queue of one upstream as configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct QueueArgs {
    /// Requests that may wait at once, over all workers.
    pub(crate) size: u32,
    /// How long one may wait.
    pub(crate) timeout_ms: u64,
}

const BALANCE: &str = "pincer_balance";
const QUEUE: &str = "pincer_queue";

/// Bounds of `half_life`: below 100 ms one sample is the whole memory; a day is longer than any
/// pool stays the same.
const HALF_LIFE_MS: std::ops::RangeInclusive<u64> = 100..=86_400_000;
/// The longest `slow_start`, a day.
const SLOW_START_MS_MAX: u64 = 86_400_000;
/// The most requests that may wait for one upstream.
const QUEUE_SIZE_MAX: u64 = 1_000_000;
/// The longest wait, a day.
const QUEUE_TIMEOUT_MS_MAX: u64 = 86_400_000;

pub(crate) fn parse_balance(arguments: &[&[u8]]) -> Result<BalanceArgs, ConfError> {
    let mut parsed = BalanceArgs::default();
    for argument in arguments {
        let argument = args::text(BALANCE, argument)?;
        match argument.split_once('=') {
            Some(("signal", value)) => args::set_once(&mut parsed.signal, signal(value)?, BALANCE, "signal")?,
            Some(("half_life", value)) => {
                let ms = args::time_ms(value)
                    .filter(|ms| HALF_LIFE_MS.contains(ms))
                    .ok_or_else(|| ConfError::invalid(BALANCE, "half_life", value, "a time from 100ms to 1d"))?;
                args::set_once(&mut parsed.half_life_ms, ms, BALANCE, "half_life")?;
            }
            Some(("slow_start", value)) => {
                let ms = args::time_ms(value)
                    .filter(|&ms| ms <= SLOW_START_MS_MAX)
                    .ok_or_else(|| ConfError::invalid(BALANCE, "slow_start", value, "a time up to 1d"))?;
                args::set_once(&mut parsed.slow_start_ms, ms, BALANCE, "slow_start")?;
            }
            Some(("affinity", value)) if value.contains('$') => {
                args::set_once(&mut parsed.affinity, value.to_owned(), BALANCE, "affinity")?;
            }
            Some(("affinity", value)) => {
                return Err(ConfError::invalid(BALANCE, "affinity", value, "a variable such as $http_x_session"));
            }
            _ => {
                let known = "signal=, half_life=, slow_start= and affinity=";
                return Err(ConfError::unknown(BALANCE, argument, known));
            }
        }
    }
    Ok(parsed)
}

fn signal(value: &str) -> Result<Signal, ConfError> {
    match value {
        "first_byte" => Ok(Signal::FirstByte),
        "header" => Ok(Signal::Header),
        "last_byte" => Ok(Signal::LastByte),
        _ => Err(ConfError::invalid(BALANCE, "signal", value, "first_byte, header or last_byte")),
    }
}

pub(crate) fn parse_queue(arguments: &[&[u8]]) -> Result<QueueArgs, ConfError> {
    let (mut size, mut timeout_ms) = (None, None);
    for argument in arguments {
        let argument = args::text(QUEUE, argument)?;
        match argument.split_once('=') {
            Some(("size", value)) => {
                let count = args::count(value)
                    .filter(|count| (1..=QUEUE_SIZE_MAX).contains(count))
                    .and_then(|count| u32::try_from(count).ok())
                    .ok_or_else(|| ConfError::invalid(QUEUE, "size", value, "a count from 1 to 1000000"))?;
                args::set_once(&mut size, count, QUEUE, "size")?;
            }
            Some(("timeout", value)) => {
                let ms = args::time_ms(value)
                    .filter(|ms| (1..=QUEUE_TIMEOUT_MS_MAX).contains(ms))
                    .ok_or_else(|| ConfError::invalid(QUEUE, "timeout", value, "a time from 1ms to 1d"))?;
                args::set_once(&mut timeout_ms, ms, QUEUE, "timeout")?;
            }
            _ => return Err(ConfError::unknown(QUEUE, argument, "size= and timeout=")),
        }
    }
    let missing = |what| ConfError::new(QUEUE, Problem::Missing { what, need: "size=N timeout=TIME" });
    Ok(QueueArgs {
        size: size.ok_or_else(|| missing("\"size=\""))?,
        timeout_ms: timeout_ms.ok_or_else(|| missing("\"timeout=\""))?,
    })
}
