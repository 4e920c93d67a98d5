//! Makes an input small that still shows what it showed: delta debugging (Zeller and Hildebrandt
//! 2002) over segments, then over the bytes of each.
//!
//! Bound: the deadline, after which the smallest so far is taken.

use std::time::Instant;

use crate::input::{End, Input, Pace};

/// The smallest input found for which `still` holds, as it does for `input`.
pub async fn shrink(mut input: Input, deadline: Instant, still: impl AsyncFn(&Input) -> bool) -> Input {
    for (pace, end) in [(Pace::Together, End::Quiet), (Pace::Together, input.end), (input.pace, End::Quiet)] {
        let simpler = Input { pace, end, ..input.clone() };
        if simpler != input && still(&simpler).await {
            input = simpler;
            break;
        }
    }
    // The first server, or the first of those where bodies are not hashed.
    let no_place = Input { place: input.place % 2, ..input.clone() };
    if no_place != input && still(&no_place).await {
        input = no_place;
    }
    let with = |segments: Vec<Vec<u8>>, input: &Input| Input { segments, ..input.clone() };
    input.segments =
        fewer(input.segments.clone(), deadline, async |segments| still(&with(segments.to_vec(), &input)).await).await;
    for index in 0..input.segments.len() {
        let smaller = fewer(input.segments[index].clone(), deadline, async |bytes| {
            let mut segments = input.segments.clone();
            segments[index] = bytes.to_vec();
            still(&with(segments, &input)).await
        });
        let smaller = smaller.await;
        input.segments[index] = smaller;
    }
    input
}

/// Removes runs of items, long ones first, for as long as `still` holds.
async fn fewer<T: Clone>(mut items: Vec<T>, deadline: Instant, still: impl AsyncFn(&[T]) -> bool) -> Vec<T> {
    let mut run = items.len().div_ceil(2).max(1);
    loop {
        let mut at = 0;
        while at < items.len() && Instant::now() < deadline {
            let without = [&items[..at], &items[(at + run).min(items.len())..]].concat();
            if !without.is_empty() && still(&without).await {
                items = without;
            } else {
                at += run;
            }
        }
        if run == 1 || Instant::now() >= deadline {
            return items;
        }
        run = run.div_ceil(2);
    }
}
