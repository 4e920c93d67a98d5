//! Which replica is called when: all of them in random order, one at a time, with a pause that
//! grows while nothing comes of it.
//!
//! What an operator is told of it is decided in [`pincer_core::journal`]. The pause and its reasons
//! are in [`pincer_core::backoff`]; it starts over only after a session that was of use, so a
//! snapshot too large to read makes no tight loop. Beside that it shows every [`PULSE`] that this
//! thread runs. Ends only when told to. Bound: one connection at a time.

use std::time::Duration;

use pincer_core::backoff::Backoff;
use pincer_proto::v1::Hello;

use super::connect::Target;
use super::session;
use super::shared::Shared;

/// How often the thread shows that it runs. Readers believe a link for three times as long
/// (`pincer_core::zone::PULSE_NS_MAX`).
pub(super) const PULSE: Duration = Duration::from_millis(500);

/// What the client needs besides the board.
pub(super) struct Plan {
    pub(super) targets: Vec<Target>,
    pub(super) hello: Hello,
    pub(super) seed: u64,
}

/// Keeps a session with some replica until told to stop.
pub(super) async fn run(shared: &Shared, plan: &Plan) {
    tokio::select! {
        _ = shared.stopped() => {}
        never = serve(shared, plan) => match never {},
        never = beat(shared) => match never {},
    }
    shared.disconnected("the feed was stopped");
}

/// The first pulse comes late: until then an older configuration's worker, whose link may still
/// stand, keeps the lease.
async fn beat(shared: &Shared) -> std::convert::Infallible {
    loop {
        tokio::time::sleep(PULSE).await;
        shared.pulse();
    }
}

async fn serve(shared: &Shared, plan: &Plan) -> std::convert::Infallible {
    let mut random = SplitMix(plan.seed);
    let mut backoff = Backoff::default();
    let mut route = Route::default();
    let replicas = u32::try_from(plan.targets.len()).unwrap_or(u32::MAX);
    loop {
        let index = route.next(plan.targets.len(), &mut random);
        let target = &plan.targets[index];
        let ended = session::run(shared, target, index, &plan.hello).await;
        shared.failed(index, &target.name, ended.opened, &ended.fault);
        if ended.useful {
            backoff.reset();
        }
        let pause_ms = backoff.next_ms(ended.fault.ending, replicas, random.next());
        tokio::time::sleep(Duration::from_millis(pause_ms)).await;
    }
}

/// Goes through all replicas in random order, then through all again in another.
#[derive(Default)]
struct Route {
    rest: Vec<usize>,
}

impl Route {
    fn next(&mut self, replicas: usize, random: &mut SplitMix) -> usize {
        if self.rest.is_empty() {
            self.rest = (0..replicas).collect();
        }
        let at = random.below(self.rest.len());
        self.rest.swap_remove(at)
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014): enough to spread machines apart.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, 0 if that is 0.
    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % (bound.max(1) as u64)).unwrap_or(0)
    }
}
