//! Ordered funnels: how many users took the first step, the second after it, and so on, each within a time of the one
//! before.

use crate::{
    chunk::NOBODY,
    filter::{Filter, Resolved},
    part::View,
};

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

/// Users some of whose events came after later ones. Those of all others need no sorting.
fn late_users(view: &View, from_ms: i64, to_ms: i64) -> Vec<bool> {
    let (mut latest, mut late) = (vec![i64::MIN; view.users], vec![false; view.users]);
    for chunk in view.chunks_of(from_ms, to_ms) {
        for (time, user) in chunk.timestamps_ms.iter().zip(&chunk.users) {
            if *user != NOBODY && (from_ms..to_ms).contains(time) {
                let latest = &mut latest[*user as usize];
                late[*user as usize] |= time < latest;
                *latest = *time;
            }
        }
    }
    late
}

/// How far each user came: 8 bytes for each step of each user, while the query lasts.
struct Walk {
    timeout_ms: Option<i64>,
    /// How many steps each user took.
    came: Vec<u8>,
    /// When each user took each step last: the later, the longer the next one may take.
    latest: Vec<i64>,
    result: Vec<Step>,
}

impl Walk {
    fn new(users: usize, steps: usize, timeout_ms: Option<i64>) -> Self {
        let result = vec![Step::default(); steps];
        Self { timeout_ms, came: vec![0; users], latest: vec![0; users * steps], result }
    }

    /// A user's next event, in the order of time.
    #[inline]
    fn take(&mut self, user: u32, (time, met): Taking) {
        let (steps, user) = (self.result.len(), user as usize);
        let came = usize::from(self.came[user]);
        let latest = &mut self.latest[user * steps..][..steps];
        // Backwards, so that one event takes one step.
        for step in (0..=came.min(steps - 1)).rev() {
            if met & (1 << step) == 0 {
                continue;
            }
            let since = if step == 0 { time } else { latest[step - 1] };
            if self.timeout_ms.is_some_and(|most| time - since > most) {
                continue;
            }
            latest[step] = time;
            if step == came {
                self.came[user] += 1;
                self.result[step].users += 1;
                self.result[step].total_ms += u128::from(time.abs_diff(since));
            }
        }
    }
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
    if steps.is_empty() {
        return Vec::new();
    }
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
    // Which steps, as bits, an event of this name, of this source, may meet.
    let bits = |takes: &dyn Fn(&Resolved<'_>) -> bool| -> u32 {
        resolved.iter().enumerate().map(|(step, conditions)| u32::from(takes(conditions)) << step).sum()
    };
    let by_name: Vec<u32> =
        view.names.numbers().map(|name| bits(&|conditions| conditions.takes_name(name))).collect();
    let by_source: Vec<u32> =
        view.sources.numbers().map(|source| bits(&|conditions| conditions.takes_source(source))).collect();
    let of = |bits: &[u32], number: u16| bits.get(usize::from(number)).copied().unwrap_or_default();
    let late = late_users(view, from_ms, to_ms);
    let mut walk = Walk::new(view.users, steps.len(), timeout_ms);
    let mut taken: Vec<(u32, Taking)> = Vec::new();
    for chunk in view.chunks_of(from_ms, to_ms) {
        let mut values = Vec::with_capacity(keys.len());
        for at in 0..chunk.len() {
            let (time, user) = (chunk.timestamps_ms[at], chunk.users[at]);
            if time < from_ms || time >= to_ms || user == NOBODY {
                continue;
            }
            let mut met = of(&by_name, chunk.names[at]) & of(&by_source, chunk.sources[at]);
            if met != 0 && !keys.is_empty() {
                chunk.values(at, &keys, &mut values);
            }
            let mut left = met;
            while left != 0 {
                let step = left.trailing_zeros() as usize;
                left &= left - 1;
                let meets = resolved[step].takes_user_and_session(chunk, at)
                    && wanted[step].iter().all(|(place, value)| values[*place] == Some(value));
                met &= !(u32::from(!meets) << step);
            }
            if met != 0 && (common.is_open() || common_resolved.meets(chunk, at)) {
                match late[user as usize] {
                    false => walk.take(user, (time, met)),
                    true => taken.push((user, (time, met))),
                }
            }
        }
    }
    let (mut takings, ends) = by_user(&taken);
    drop(taken);
    let mut begin = 0;
    for (user, end) in (0..).zip(ends) {
        let events = &mut takings[std::mem::replace(&mut begin, end)..end];
        // Stable: those of one millisecond stay in the order they came.
        events.sort_by_key(|(time, _)| *time);
        events.iter().for_each(|taking| walk.take(user, *taking));
    }
    walk.result
}
