//! Whose turn it is in a queue: the class of the best priority, unless another one is owed a grant;
//! within a class the oldest.
//!
//! Each class is promised a share of the grants while it waits. Its promise is kept as a periodic
//! deadline counted in grants, not in time: a class of share s is due a grant 1/s grants after its
//! `base`, and one that is due goes before every priority, the earliest deadline first (Liu and
//! Layland 1973, with unit jobs; the two phases, promised before preferred, are mClock's, Gulati
//! 2010). Every grant moves the base of its class, whichever phase gave it, so a class that had
//! more than its share before is not made to pay for it, and one that waits is served at least
//! every 1/s grants: that is the share and the bound on the wait (ageing) at once. As long as the
//! shares of those that wait do not pass 100 % no deadline is missed by more than some grants;
//! above that all that are due share alike. A class that starved for a reason of its own (its
//! worker was stopped) is owed a little of what it missed ([`LATE_GRANTS_MAX`]).
//!
//! Pure: numbers in, numbers out. Cost: some ten instructions. Bound: 2^48 grants.

/// Priority of a request without a class, and of a class that sets none. The lower number goes
/// first.
pub const PRIORITY_DEFAULT: u8 = 100;
/// Share of the grants that a class is promised while it waits unless it says otherwise, in
/// percent.
pub const SHARE_DEFAULT: u8 = 5;
/// A class that could not be served in time is owed what it missed in so many grants and one
/// period; what it missed before is lost. With shares of 100 % in all a deadline may be missed by
/// some grants for want of a whole number; a class whose worker stood still must not fill the
/// queue's next minutes.
const LATE_GRANTS_MAX: u64 = 8;
/// One grant, in the unit of bases and deadlines.
const GRANT: u64 = 1 << 16;

/// How a class waits. `Default` is that of a request without one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// The lower number goes first.
    pub priority: u8,
    /// Percent of the grants it is promised while it waits; 0 = none, above 100 counts as 100.
    pub share: u8,
    /// Requests of it that may wait in one queue; 0 = as many as the queue holds.
    pub queue_max: u32,
}

impl Default for Terms {
    fn default() -> Self {
        Self { priority: PRIORITY_DEFAULT, share: SHARE_DEFAULT, queue_max: 0 }
    }
}

impl Terms {
    /// Distance of two deadlines; `None` when nothing is promised.
    fn period(&self) -> Option<u64> {
        (self.share > 0).then(|| 100 * GRANT / u64::from(self.share.min(100)))
    }

    /// The deadline of a class that is owed the next grant after `grants`; `None` when it is not.
    #[must_use]
    pub fn owed(&self, base: u64, grants: u64) -> Option<u64> {
        let due = base.wrapping_add(self.period()?);
        (due <= (grants + 1).wrapping_mul(GRANT)).then_some(due)
    }

    /// The base of a class that begins to wait after `grants`. What it was owed before is forfeit;
    /// what it had lately still counts.
    #[must_use]
    pub fn base_at_begin(&self, base: u64, grants: u64) -> u64 {
        let fresh = self.period().is_some() && self.owed(base, grants).is_none();
        if fresh { base } else { grants.wrapping_mul(GRANT) }
    }

    /// The base of a class that gets grant number `grant`, counted from 1; `owed` is its deadline
    /// if it was.
    #[must_use]
    pub fn base_after(&self, owed: Option<u64>, grant: u64) -> u64 {
        let now = grant.wrapping_mul(GRANT);
        owed.map_or(now, |due| due.max(now.saturating_sub(self.period().unwrap_or(0) + LATE_GRANTS_MAX * GRANT)))
    }

    /// Places of a queue of `size` that others cannot take from it: its share, at least one if it
    /// has any.
    #[must_use]
    pub fn reserved(&self, size: u32) -> u32 {
        let share = u64::from(size) * u64::from(self.share.min(100)) / 100;
        u32::try_from(share).unwrap_or(u32::MAX).max(u32::from(self.share > 0))
    }
}

/// Who goes next is the least of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank {
    /// The deadline of a class that is owed a grant; the greatest number for one that is not.
    due: u64,
    priority: u8,
    /// When it came, as a distance: the lesser one came before.
    came: i64,
}

impl Rank {
    /// The rank of a class' oldest request.
    #[must_use]
    pub fn new(terms: &Terms, owed: Option<u64>, came: i64) -> Self {
        Self { due: owed.unwrap_or(u64::MAX), priority: terms.priority, came }
    }
}

/// How many requests of a full queue could be evicted for one more of the class `terms`, of which
/// `own` wait already.
///
/// `others` are the other classes and how many of each wait. A class below its reserve may take the
/// place of any that is above its own; one that is not, only those of lesser priority.
pub fn evictable(terms: &Terms, own: u32, others: impl Iterator<Item = (Terms, u32)>, size: u32) -> u32 {
    let promised = own < terms.reserved(size);
    let yields = others.filter(|(other, _)| promised || other.priority > terms.priority);
    yields.fold(0, |sum, (other, count)| sum.saturating_add(count.saturating_sub(other.reserved(size))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn terms(priority: u8, share: u8) -> Terms {
        Terms { priority, share, ..Terms::default() }
    }

    /// Grants, one after the other, among classes that always wait: the class of each.
    fn saturated(classes: &[Terms], grants: u64) -> Vec<usize> {
        let mut bases = vec![0; classes.len()];
        let mut order = Vec::new();
        for granted in 0..grants {
            let rank = |i: &usize| Rank::new(&classes[*i], classes[*i].owed(bases[*i], granted), 0);
            let next = (0..classes.len()).min_by_key(rank).unwrap();
            let owed = classes[next].owed(bases[next], granted);
            bases[next] = classes[next].base_after(owed, granted + 1);
            order.push(next);
        }
        order
    }

    #[test]
    fn a_low_class_under_a_saturating_high_one_gets_one_grant_in_twenty_from_the_start() {
        let order = saturated(&[terms(1, 5), terms(100, 5)], 2_000);
        let low: Vec<usize> = (0..order.len()).filter(|i| order[*i] == 1).collect();
        assert_eq!(low, (1..=100).map(|n| n * 20 - 1).collect::<Vec<_>>());
    }

    #[test]
    fn a_class_without_a_share_waits_for_those_before_it() {
        assert!(saturated(&[terms(1, 5), terms(100, 0)], 1_000).iter().all(|class| *class == 0));
    }

    #[test]
    fn a_class_that_had_the_queue_for_itself_is_not_made_to_pay_for_it() {
        let low = terms(100, 5);
        let base = (1..=1_000).fold(0, |_, grant| low.base_after(None, grant));
        assert_eq!(low.owed(base, 1_018), None);
        assert!(low.owed(base, 1_019).is_some());
    }

    #[test]
    fn what_a_class_was_owed_before_it_left_is_forfeit_and_what_it_had_still_counts() {
        let low = terms(100, 10);
        assert_eq!(low.base_at_begin(0, 500), 500 * GRANT);
        assert_eq!(low.base_at_begin(495 * GRANT, 500), 495 * GRANT);
    }

    #[test]
    fn after_a_long_hold_up_a_class_is_owed_a_little_and_not_all_that_it_missed() {
        let low = terms(100, 10);
        let (mut base, mut together) = (0, 0);
        while let Some(due) = low.owed(base, 10_000 + together) {
            together += 1;
            base = low.base_after(Some(due), 10_000 + together);
        }
        assert_eq!(together, 3);
    }

    #[test]
    fn a_full_queue_gives_way_to_the_better_class_and_to_one_below_its_reserve() {
        let (vip, free) = (terms(1, 5), terms(100, 5));
        let size = 100;
        assert_eq!(evictable(&vip, 50, [(free, 50)].into_iter(), size), 45);
        assert_eq!(evictable(&free, 50, [(vip, 50)].into_iter(), size), 0);
        assert_eq!(evictable(&free, 4, [(vip, 96)].into_iter(), size), 91);
        assert_eq!(evictable(&vip, 96, [(free, 4)].into_iter(), size), 0);
        assert_eq!(evictable(&free, 100, [].into_iter(), size), 0);
    }

    proptest! {
        #[test]
        fn every_class_gets_its_share_and_never_waits_longer_than_its_period(
            shares in prop::collection::vec((0_u8..=255, 1_u8..=60), 1..8),
        ) {
            let mut left = 100;
            let classes: Vec<Terms> = shares
                .iter()
                .map(|(priority, share)| { let share = (*share).min(left); left -= share; terms(*priority, share) })
                .filter(|class| class.share > 0)
                .collect();
            let order = saturated(&classes, 5_000);
            for (index, class) in classes.iter().enumerate() {
                let at: Vec<usize> = (0..order.len()).filter(|i| order[*i] == index).collect();
                let due = order.len() * usize::from(class.share) / 100;
                prop_assert!(at.len() + 1 >= due, "{class:?}: {} of {due}", at.len());
                let longest = at.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0);
                prop_assert!(longest <= 100_usize.div_ceil(class.share.into()) + classes.len(), "{class:?}: {longest}");
                let first = at.first().copied().unwrap_or(usize::MAX);
                prop_assert!(first < 100_usize.div_ceil(class.share.into()) + classes.len(), "{class:?}: first {first}");
            }
        }
    }
}
