//! The arrivals and the work that every contender of a round gets: Poisson arrivals, lognormal
//! work, both from one seed.
//!
//! A part of the requests may be those of VIPs, drawn from the same seed. Knows no clock and no
//! socket. Work is a factor of mean 1 that a replica multiplies with its own mean service time, so
//! one trace means the same load to replicas of any speed. Cost: one pass, 24 bytes a request.
//! Bound: the span times the rate.

use std::time::Duration;

use anyhow::{Context, Result};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rand_distr::{Exp, LogNormal};

/// One request: when it is meant to start, counted from the start of the round, and how much work
/// it carries (mean 1).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Arrival {
    /// Intended start. Latency is measured from here, whenever the request really leaves.
    pub at: Duration,
    /// Factor of the replica's mean service time.
    pub work: f64,
    /// Whose request it is; None where a scenario knows no classes.
    pub class: Option<Class>,
}

/// Whose request it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// A request of a VIP, which goes first.
    Vip,
    /// Any other request.
    Free,
}

impl Class {
    /// Its name in configurations and in `X-Class`.
    pub fn name(self) -> &'static str {
        match self {
            Class::Vip => "vip",
            Class::Free => "free",
        }
    }

    /// The class of that name.
    pub fn named(name: &str) -> Option<Self> {
        [Class::Vip, Class::Free].into_iter().find(|class| class.name() == name)
    }
}

/// Where the randomness of a trace comes from and what shape it has.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Mean arrivals per second, over 0.
    pub rate_per_s: f64,
    /// Length of the trace.
    pub span: Duration,
    /// Coefficient of variation of the work; 0 makes every request the same.
    pub work_cv: f64,
    /// Part of the requests that are of VIPs, 0 to 1; None leaves classes out.
    pub vip_part: Option<f64>,
}

/// Draws the trace of `seed`. The same seed and shape give the same trace. Fails on a rate that is
/// not positive.
///
/// # Panics
/// On a part of VIPs outside 0 to 1.
pub fn draw(shape: Shape, seed: u64) -> Result<Vec<Arrival>> {
    let mut random = StdRng::seed_from_u64(seed);
    let gap_s = Exp::new(shape.rate_per_s).context("the arrival rate must be over 0")?;
    let variance = shape.work_cv.mul_add(shape.work_cv, 1.0).ln();
    let work = LogNormal::new(-variance / 2.0, variance.sqrt()).context("the work's variation must be finite")?;
    let mut at_s: f64 = 0.0;
    let mut arrivals = Vec::new();
    loop {
        at_s += random.sample(gap_s);
        let at = Duration::from_secs_f64(at_s);
        if at >= shape.span {
            return Ok(arrivals);
        }
        let work = random.sample(work);
        let class = shape.vip_part.map(|part| if random.random_bool(part) { Class::Vip } else { Class::Free });
        arrivals.push(Arrival { at, work, class });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape { rate_per_s: 100.0, span: Duration::from_secs(1_000), work_cv: 1.2, vip_part: None };

    #[test]
    fn a_seed_gives_the_same_trace_again() {
        assert_eq!(draw(SHAPE, 7).unwrap(), draw(SHAPE, 7).unwrap());
        assert_ne!(draw(SHAPE, 7).unwrap(), draw(SHAPE, 8).unwrap());
    }

    #[test]
    fn work_has_mean_one_and_the_variation_asked_for() {
        let trace = draw(SHAPE, 1).unwrap();
        let count = trace.len() as f64;
        let mean = trace.iter().map(|a| a.work).sum::<f64>() / count;
        let deviation = (trace.iter().map(|a| (a.work - mean).powi(2)).sum::<f64>() / count).sqrt();
        assert!((mean - 1.0).abs() < 0.03, "mean {mean}");
        assert!((deviation / mean - 1.2).abs() < 0.1, "variation {}", deviation / mean);
        assert!((count / 100_000.0 - 1.0).abs() < 0.02, "{count} arrivals");
    }

    #[test]
    fn so_many_are_of_vips_as_asked_for() {
        let trace = draw(Shape { vip_part: Some(0.2), ..SHAPE }, 1).unwrap();
        let vips = trace.iter().filter(|arrival| arrival.class == Some(Class::Vip)).count() as f64;
        assert!((vips / trace.len() as f64 - 0.2).abs() < 0.01);
    }

    #[test]
    fn a_rate_that_is_not_positive_is_refused() {
        assert!(draw(Shape { rate_per_s: -1.0, ..SHAPE }, 1).is_err());
    }
}
