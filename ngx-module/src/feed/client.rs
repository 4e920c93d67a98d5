//! Which replica is called when: all of them in random order, one at a time, with a pause that grows while nothing comes of it.
//!
//! Says once per change what an operator should know: connected, lost, not reachable and why. The pause and its reasons are in
//! [`pincer_core::backoff`]; it starts over only after a session that was of use, so a snapshot too large to read makes no tight loop.
//! Ends only when told to. Bound: one connection at a time, [`REASONS_MAX`] remembered reasons for each replica.

use std::time::Duration;

use pincer_core::backoff::Backoff;
use pincer_proto::v1::Hello;

use super::connect::Target;
use super::session::{self, Ended};
use super::shared::{Level, Shared};

/// Different reasons why one replica cannot be reached that are logged during one outage. One cause can show itself in two ways by turns.
const REASONS_MAX: usize = 4;

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
    }
    shared.disconnected("the feed was stopped");
}

async fn serve(shared: &Shared, plan: &Plan) -> std::convert::Infallible {
    let mut random = SplitMix(plan.seed);
    let mut backoff = Backoff::default();
    let mut route = Route::default();
    let mut journal = Journal { shared, plan, reasons: vec![Vec::new(); plan.targets.len()] };
    let replicas = u32::try_from(plan.targets.len()).unwrap_or(u32::MAX);
    loop {
        let index = route.next(plan.targets.len(), &mut random);
        let ended = session::run(shared, &plan.targets[index], index, &plan.hello, || journal.connected(index)).await;
        journal.ended(index, &ended);
        if ended.useful {
            backoff.reset();
        }
        let pause_ms = backoff.next_ms(ended.fault.ending, replicas, random.next());
        tokio::time::sleep(Duration::from_millis(pause_ms)).await;
    }
}

/// What has been said about each replica, so that it is said once.
struct Journal<'j> {
    shared: &'j Shared,
    plan: &'j Plan,
    /// Why each could not be reached, as logged; forgotten when any replica is.
    reasons: Vec<Vec<String>>,
}

impl Journal<'_> {
    fn connected(&mut self, index: usize) {
        self.reasons.iter_mut().for_each(Vec::clear);
        let address = &self.plan.targets[index].name;
        self.shared.event(Level::Notice, format!("connected to control plane, address={address}"));
    }

    fn ended(&mut self, index: usize, ended: &Ended) {
        let reason = ended.fault.reason.as_str();
        self.shared.disconnected(reason);
        let address = &self.plan.targets[index].name;
        if ended.opened {
            self.shared.event(Level::Warn, format!("lost control plane, address={address}, reason={reason}"));
            return;
        }
        let known = &mut self.reasons[index];
        if known.len() < REASONS_MAX && !known.iter().any(|known| known == reason) {
            self.shared.event(Level::Warn, format!("cannot reach control plane, address={address}, reason={reason}"));
            known.push(reason.to_owned());
        }
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
