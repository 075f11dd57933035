//! Ordered funnels: how many users took the first step, the second after it, and so on, each within a time of the one
//! before.

use crate::{chunk::NOBODY, filter::Filter, part::View};

/// Steps at most: they are bits of a number.
pub const STEPS_MAX: usize = 32;

/// What a part contributes to a step.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Step {
    /// Users that came so far.
    pub users: u64,
    /// Milliseconds from the step before, over all of them.
    pub total_ms: u128,
}

/// When an event came, and which steps it meets.
type Taking = (i64, u32);

/// The takings, user by user, each user's in the order they came; and where each user's end. Users have small numbers, so
/// this is three walks and no sort.
fn by_user(taken: &[(u32, Taking)]) -> (Vec<Taking>, Vec<usize>) {
    let users = taken.iter().map(|(user, _)| *user as usize + 1).max().unwrap_or(0);
    // First how many, then where they begin, and when all are placed, where they end.
    let mut places = vec![0; users];
    taken.iter().for_each(|(user, _)| places[*user as usize] += 1);
    let mut begin = 0;
    for place in &mut places {
        begin += std::mem::replace(place, begin);
    }
    let mut takings = vec![(0, 0); taken.len()];
    for (user, taking) in taken {
        let place = &mut places[*user as usize];
        takings[*place] = *taking;
        *place += 1;
    }
    (takings, places)
}

/// Counts a part's users by how far they came. `steps` are conditions; `common` must be met by every event.
///
/// A user takes step *k* with an event that meets it and comes after an event with which it took step *k − 1*, at most
/// `timeout_ms` after it. Of several ways the one counts that gets furthest; the time to a step is that of its first
/// taking, from the latest taking of the step before. Events of one millisecond count in the order they came.
pub fn funnel(
    view: &View,
    steps: &[Filter],
    common: &Filter,
    from_ms: i64,
    to_ms: i64,
    timeout_ms: Option<i64>,
) -> Vec<Step> {
    let steps = &steps[..steps.len().min(STEPS_MAX)];
    let resolved: Vec<_> = steps.iter().map(|step| step.resolve(view, None)).collect();
    let common_resolved = common.resolve(view, None);
    // Steps mostly ask for the same few properties: these are looked up once for each event.
    let mut keys: Vec<&str> = steps.iter().flat_map(|step| &step.properties).map(|(key, _)| &**key).collect();
    keys.sort_unstable();
    keys.dedup();
    let place = |key: &str| keys.iter().position(|known| *known == key).unwrap_or_default();
    let wanted: Vec<Vec<(usize, &[u8])>> = steps
        .iter()
        .map(|step| step.properties.iter().map(|(key, value)| (place(key), value.as_bytes())).collect())
        .collect();
    let mut taken: Vec<(u32, Taking)> = Vec::new();
    for chunk in &view.chunks {
        if chunk.last_ms < from_ms || chunk.first_ms >= to_ms {
            continue;
        }
        let mut values = Vec::with_capacity(keys.len());
        for at in 0..chunk.len() {
            let (time, user) = (chunk.timestamps_ms[at], chunk.users[at]);
            if time < from_ms || time >= to_ms || user == NOBODY {
                continue;
            }
            let mut met = 0_u32;
            if !keys.is_empty() {
                chunk.values(at, &keys, &mut values);
            }
            for (step, (conditions, wanted)) in resolved.iter().zip(&wanted).enumerate() {
                let meets = conditions.meets_but_properties(chunk, at)
                    && wanted.iter().all(|(place, value)| values[*place] == Some(value));
                met |= u32::from(meets) << step;
            }
            if met != 0 && (common.is_open() || common_resolved.meets(chunk, at)) {
                taken.push((user, (time, met)));
            }
        }
    }
    let mut result = vec![Step::default(); steps.len()];
    let (mut takings, ends) = by_user(&taken);
    drop(taken);
    let mut begin = 0;
    for end in ends {
        let events = &mut takings[std::mem::replace(&mut begin, end)..end];
        // Stable: those of one millisecond stay in the order they came. Most come in the order of time anyway.
        events.sort_by_key(|(time, _)| *time);
        // The latest time at which each step was taken: the later, the longer the next one may take.
        let mut latest: [Option<i64>; STEPS_MAX] = [None; STEPS_MAX];
        let mut came = 0;
        for (time, met) in events.iter() {
            // Backwards, so that one event takes one step.
            for step in (0..=came.min(steps.len() - 1)).rev() {
                if met & (1 << step) == 0 {
                    continue;
                }
                let since = if step == 0 { Some(*time) } else { latest[step - 1] };
                let Some(since) = since.filter(|since| timeout_ms.is_none_or(|most| time - since <= most))
                else {
                    continue;
                };
                latest[step] = Some(*time);
                if step == came {
                    came += 1;
                    result[step].users += 1;
                    result[step].total_ms += time.abs_diff(since) as u128;
                }
            }
        }
    }
    result
}
