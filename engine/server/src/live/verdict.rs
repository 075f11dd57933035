//! One word for the top of the page: good, degraded or refusing, and why. It is made of what `/ready` goes by
//! ([`Condition`]) and of what happened in the last seconds, because a full queue refuses while every place behind it is well.

use std::collections::VecDeque;

use serde::Serialize;

use crate::cold::Condition;

/// Seconds that are looked back on.
pub const LOOK_BACK: usize = 10;
/// One of so many turned away, and the server counts as refusing.
const REFUSED_ONE_IN: u64 = 10;

/// How the process is, in a word.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// `good`, `degraded` or `refusing`.
    pub state: &'static str,
    /// Why it is not good.
    pub reason: Option<String>,
}

impl Verdict {
    fn new(state: &'static str, reason: impl Into<String>) -> Self {
        Self { state, reason: Some(reason.into()) }
    }
}

/// Running counts at one moment, one second after those before.
#[derive(Clone, Copy, Debug, Default)]
pub struct Moment {
    /// Messages accepted, and repeats of these.
    pub taken: u64,
    /// Messages that did not go into the queue.
    pub refused: u64,
    /// Of these, because every slot was in use.
    pub full: u64,
    /// Of these, because the bytes were used up.
    pub budget: u64,
    /// Requests that the server could not serve: some before their messages were looked at.
    pub unavailable: u64,
    /// Messages that the workers finished or gave up.
    pub finished: u64,
    /// Messages that wait for the workers, at this moment.
    pub waiting: u64,
}

/// The last seconds' numbers.
#[derive(Debug, Default)]
pub struct Recent(VecDeque<Moment>);

impl Recent {
    /// A second has passed.
    pub fn push(&mut self, moment: Moment) {
        if self.0.len() > LOOK_BACK {
            self.0.pop_front();
        }
        self.0.push_back(moment);
    }

    /// What a count gained meanwhile.
    fn gained(&self, pick: impl Fn(&Moment) -> u64) -> u64 {
        match (self.0.front(), self.0.back()) {
            (Some(first), Some(last)) => pick(last).saturating_sub(pick(first)),
            _ => 0,
        }
    }

    /// Messages that were waiting all the time while the workers finished none.
    pub fn standing_still(&self) -> Option<u64> {
        let is_whole = self.0.len() > LOOK_BACK;
        let all_wait = self.0.iter().all(|moment| moment.waiting > 0);
        let least = self.0.iter().map(|moment| moment.waiting).min();
        least.filter(|_| is_whole && all_wait && self.gained(|moment| moment.finished) == 0)
    }

    /// What the workers do, if nothing keeps them from it.
    pub fn working(&self) -> &'static str {
        let mut newest = self.0.iter().rev();
        let (last, before) = (newest.next(), newest.next());
        let finished = last.zip(before).is_some_and(|(last, before)| last.finished > before.finished);
        if self.standing_still().is_some() {
            "standing still"
        } else if finished || last.is_some_and(|last| last.waiting > 0) {
            "working"
        } else {
            "idle"
        }
    }

    /// How many of how many were turned away, and for which cause. Requests and messages are two counts of the same
    /// refusals, and each misses some: the larger is taken.
    fn refusals(&self, level: Option<&str>) -> Option<(u64, u64, String)> {
        let refused = self.gained(|moment| moment.refused).max(self.gained(|moment| moment.unavailable));
        if refused == 0 {
            return None;
        }
        let all = refused + self.gained(|moment| moment.taken);
        let cause = if self.gained(|moment| moment.full) > 0 {
            "the queue is full (queue.size)".to_owned()
        } else if self.gained(|moment| moment.budget) > 0 {
            "the queue's bytes are used up (queue.bytes_max)".to_owned()
        } else {
            let level = level.map(str::to_owned);
            level.unwrap_or_else(|| "see the answers to the requests".to_owned())
        };
        Some((refused, all, cause))
    }
}

/// The verdict on a process that is `draining` or in this condition. `lost` are threads that have ended by themselves, and
/// `level` says why an ack level other than the usual one is refused now.
pub fn judge(
    draining: bool,
    condition: &Condition,
    lost: &[&str],
    level: Option<&str>,
    recent: &Recent,
) -> Verdict {
    if draining {
        return Verdict::new("refusing", "a shutdown has begun");
    }
    if let Condition::Unhealthy(why) = condition {
        return Verdict::new("refusing", why);
    }
    let refusals = recent.refusals(level).map(|(refused, all, cause)| {
        let text = format!("{refused} of {all} messages were turned away in the last {LOOK_BACK} s: {cause}");
        (refused * REFUSED_ONE_IN >= all, text)
    });
    let state = if refusals.as_ref().is_some_and(|(many, _)| *many) { "refusing" } else { "degraded" };
    let lost = (!lost.is_empty())
        .then(|| format!("a thread has ended by itself ({}): restart the process", lost.join(", ")));
    // With a broker away the workers' standstill is no news.
    let still = recent
        .standing_still()
        .filter(|_| condition.trouble().is_none())
        .map(|waiting| format!("workers: {waiting} messages wait and none was finished in {LOOK_BACK} s"));
    let trouble = condition.trouble().map(str::to_owned);
    let reasons: Vec<String> =
        [refusals.map(|(_, why)| why), lost, trouble, still].into_iter().flatten().collect();
    if reasons.is_empty() {
        Verdict { state: "good", reason: None }
    } else {
        Verdict::new(state, reasons.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recent(moments: impl IntoIterator<Item = Moment>) -> Recent {
        let mut recent = Recent::default();
        moments.into_iter().for_each(|moment| recent.push(moment));
        recent
    }

    fn judged(condition: &Condition, recent: &Recent) -> (&'static str, String) {
        let verdict = judge(false, condition, &[], None, recent);
        (verdict.state, verdict.reason.unwrap_or_default())
    }

    #[test]
    fn a_server_that_turns_a_tenth_away_is_refusing_and_less_is_degraded() {
        let turned = |refused, taken| {
            recent([Moment::default(), Moment { taken, refused, full: refused, ..Moment::default() }])
        };
        assert_eq!(judged(&Condition::Healthy, &turned(0, 50)), ("good", String::new()));
        let (state, why) = judged(&Condition::Healthy, &turned(10, 90));
        assert!(state == "refusing" && why.contains("10 of 100") && why.contains("queue.size"), "{why}");
        assert_eq!(judged(&Condition::Healthy, &turned(9, 91)).0, "degraded");
    }

    #[test]
    fn refusals_are_forgotten_after_the_last_seconds() {
        let before = Moment::default();
        let after = Moment { refused: 5, unavailable: 7, ..before };
        let mut numbers = recent([before, after]);
        assert_eq!(judged(&Condition::Healthy, &numbers).0, "refusing");
        (1..LOOK_BACK).for_each(|_| numbers.push(after));
        assert_eq!(judged(&Condition::Healthy, &numbers).0, "refusing");
        numbers.push(after);
        assert_eq!(judged(&Condition::Healthy, &numbers).0, "good");
    }

    #[test]
    fn what_ready_goes_by_comes_first() {
        let away = Condition::Unhealthy("nats: away".to_owned());
        assert_eq!(judged(&away, &Recent::default()), ("refusing", "nats: away".to_owned()));
        let less = Condition::Degraded("disk: low".to_owned());
        assert_eq!(judged(&less, &Recent::default()), ("degraded", "disk: low".to_owned()));
        let ending = judge(true, &Condition::Healthy, &[], None, &Recent::default());
        assert_eq!(ending.state, "refusing");
        assert_eq!(judge(false, &Condition::Healthy, &["kafka"], None, &Recent::default()).state, "degraded");
    }

    #[test]
    fn workers_that_finish_nothing_while_messages_wait_stand_still() {
        let stands = Moment { waiting: 3, ..Moment::default() };
        let mut numbers = recent((0..LOOK_BACK).map(|_| stands));
        assert_eq!((numbers.standing_still(), numbers.working()), (None, "working"));
        numbers.push(stands);
        assert_eq!((numbers.standing_still(), numbers.working()), (Some(3), "standing still"));
        assert_eq!(judged(&Condition::Healthy, &numbers).0, "degraded");
        numbers.push(Moment { finished: 3, ..Moment::default() });
        assert_eq!(numbers.working(), "working");
        numbers.push(Moment { finished: 3, ..Moment::default() });
        assert_eq!(numbers.working(), "idle");
    }
}
