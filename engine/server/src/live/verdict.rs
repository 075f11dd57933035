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
    /// Requests that were served.
    pub served: u64,
    /// Requests that the server could not serve: some before their messages were looked at.
    pub unavailable: u64,
    /// Messages accepted, and repeats of these.
    pub taken: u64,
    /// Messages that did not go into the queue.
    pub refused: u64,
    /// Of these, because every slot was in use.
    pub full: u64,
    /// Of these, because the bytes were used up.
    pub budget: u64,
    /// Of the accepted, messages that were given up, or refused for ever where they go.
    pub rejected: u64,
    /// Dead letters.
    pub buried: u64,
    /// Messages that the workers finished or gave up.
    pub finished: u64,
    /// Messages that wait for the workers, at this moment.
    pub waiting: u64,
}

/// The last seconds' numbers.
#[derive(Debug, Default)]
pub struct Recent(VecDeque<Moment>);

impl Recent {
    /// From the start of the process on, when so many dead letters were there: what happens in its first second counts, too.
    pub fn from_start(buried: u64) -> Self {
        Self(VecDeque::from([Moment { buried, ..Moment::default() }]))
    }

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

    /// What in the queue turned messages away, if something there did.
    pub fn cause(&self) -> Option<&'static str> {
        if self.gained(|moment| moment.full) > 0 {
            Some("the queue is full (queue.size)")
        } else if self.gained(|moment| moment.budget) > 0 {
            Some("the queue's bytes are used up (queue.bytes_max)")
        } else {
            None
        }
    }

    /// What was turned away: whether that is much, and how many of how many of what, and why. Requests are counted; but of a
    /// batch or a stream that is answered well as a whole, messages may have been turned away, so where these are the larger
    /// part, they are.
    fn refusals(&self, level: Option<&str>) -> Option<(bool, String)> {
        let requests =
            Part::of(self.gained(|moment| moment.unavailable), self.gained(|moment| moment.served));
        let messages = Part::of(self.gained(|moment| moment.refused), self.gained(|moment| moment.taken));
        let (part, what) = match (requests, messages) {
            (None, None) => return None,
            (Some(requests), Some(messages)) if messages.is_larger_than(&requests) => (messages, "messages"),
            (Some(requests), _) => (requests, "requests"),
            (None, Some(messages)) => (messages, "messages"),
        };
        let cause = self.cause().or(level).unwrap_or("see the answers to the requests");
        Some((part.is_much(), part.said(what, "turned away", cause)))
    }

    /// Messages that were accepted and then refused where they go, in the same way; `why` is the latest reason.
    fn rejections(&self, why: Option<&str>) -> Option<(bool, String)> {
        let buried = self.gained(|moment| moment.buried);
        let (rejected, taken) = (self.gained(|moment| moment.rejected), self.gained(|moment| moment.taken));
        let cause = why.unwrap_or("the dead letters have the reason");
        let Some(part) = Part::of(rejected, taken.saturating_sub(rejected)) else {
            // Of messages that were accepted as durable, perhaps long ago, it comes out later.
            let said = format!("{buried} messages became dead letters in the last {LOOK_BACK} s: {cause}");
            return (buried > 0).then_some((false, said));
        };
        Some((part.is_much(), part.said("accepted messages", "refused for ever where they go", cause)))
    }
}

/// A part of a whole.
#[derive(Clone, Copy, Debug)]
struct Part {
    part: u64,
    whole: u64,
}

impl Part {
    /// `None`: no part at all.
    fn of(part: u64, rest: u64) -> Option<Self> {
        (part > 0).then_some(Self { part, whole: part + rest })
    }

    fn is_much(&self) -> bool {
        self.part * REFUSED_ONE_IN >= self.whole
    }

    fn is_larger_than(&self, other: &Self) -> bool {
        u128::from(self.part) * u128::from(other.whole) > u128::from(other.part) * u128::from(self.whole)
    }

    fn said(&self, what: &str, became: &str, cause: &str) -> String {
        format!("{} of {} {what} were {became} in the last {LOOK_BACK} s: {cause}", self.part, self.whole)
    }
}

/// What the verdict goes by, beside what happened in the last seconds.
#[derive(Debug)]
pub struct Facts<'a> {
    /// A shutdown has begun.
    pub draining: bool,
    /// What `/ready` goes by.
    pub condition: &'a Condition,
    /// Threads that have ended by themselves.
    pub lost: &'a [&'a str],
    /// Cores whose loops stand still, as `/livez` names them, and how many there are.
    pub stalled: &'a [usize],
    /// All of them.
    pub cores: usize,
    /// Why an ack level other than the usual one is refused now.
    pub level: Option<&'a str>,
    /// Why a broker refused a message for ever, when that last happened.
    pub rejection: Option<&'a str>,
}

/// The verdict on a process of which this is known.
pub fn judge(facts: &Facts<'_>, recent: &Recent) -> Verdict {
    if facts.draining {
        return Verdict::new("refusing", "a shutdown has begun");
    }
    if let Condition::Unhealthy(why) = facts.condition {
        return Verdict::new("refusing", why);
    }
    let stalled = (!facts.stalled.is_empty()).then(|| {
        let numbers: Vec<String> = facts.stalled.iter().map(usize::to_string).collect();
        let (all, numbers) = (facts.stalled.len() >= facts.cores, numbers.join(", "));
        let of = facts.cores;
        (all, format!("core {numbers} of {of} stands still, and its connections with it: restart the process (/livez is 503, too)"))
    });
    let lost = (!facts.lost.is_empty()).then(|| {
        (false, format!("a thread has ended by itself ({}): restart the process", facts.lost.join(", ")))
    });
    let trouble = facts.condition.trouble().map(|why| (false, why.to_owned()));
    // With a broker away the workers' standstill is no news.
    let still = recent
        .standing_still()
        .filter(|_| trouble.is_none())
        .map(|waiting| format!("workers: {waiting} messages wait and none was finished in {LOOK_BACK} s"))
        .map(|why| (false, why));
    let found =
        [recent.refusals(facts.level), recent.rejections(facts.rejection), stalled, lost, trouble, still];
    let found: Vec<(bool, String)> = found.into_iter().flatten().collect();
    let state = if found.iter().any(|(much, _)| *much) { "refusing" } else { "degraded" };
    let mut reasons: Vec<&str> = Vec::new();
    for (_, why) in &found {
        // What turned requests away is often the trouble itself.
        if !reasons.iter().any(|said| said.contains(why.as_str())) {
            reasons.push(why);
        }
    }
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

    fn facts(condition: &Condition) -> Facts<'_> {
        Facts { draining: false, condition, lost: &[], stalled: &[], cores: 2, level: None, rejection: None }
    }

    fn judged(condition: &Condition, recent: &Recent) -> (&'static str, String) {
        let verdict = judge(&facts(condition), recent);
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
        let well = || facts(&Condition::Healthy);
        let state = |facts: Facts<'_>| judge(&facts, &Recent::default()).state;
        assert_eq!(state(Facts { draining: true, ..well() }), "refusing");
        assert_eq!(state(Facts { lost: &["kafka"], ..well() }), "degraded");
    }

    #[test]
    fn a_trouble_that_turns_requests_away_is_named_once() {
        let away = Condition::Degraded("nats: away".to_owned());
        let turned = recent([Moment::default(), Moment { unavailable: 5, ..Moment::default() }]);
        let why = judge(&Facts { level: Some("nats: away"), ..facts(&away) }, &turned).reason.unwrap();
        assert_eq!(why.matches("nats: away").count(), 1, "{why}");
        let other = judge(&Facts { level: Some("kafka: away"), ..facts(&away) }, &turned).reason.unwrap();
        assert!(other.ends_with(": kafka: away; nats: away"), "{other}");
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

    #[test]
    fn a_core_that_stands_still_is_named_and_when_all_do_nobody_is_served() {
        let judged = |stalled: &[usize]| {
            let verdict = judge(&Facts { stalled, ..facts(&Condition::Healthy) }, &Recent::default());
            (verdict.state, verdict.reason.unwrap_or_default())
        };
        let (state, why) = judged(&[1]);
        assert!(state == "degraded" && why.starts_with("core 1 of 2 stands still"), "{why}");
        assert_eq!(judged(&[0, 1]).0, "refusing");
    }

    #[test]
    fn what_a_broker_refuses_after_it_was_accepted_is_no_good_state() {
        let rejected = |rejected, taken| {
            recent([Moment::default(), Moment { taken, served: taken, rejected, ..Moment::default() }])
        };
        let (state, why) = judged(&Condition::Healthy, &rejected(3, 100));
        assert!(state == "degraded" && why.starts_with("3 of 100 accepted messages were refused"), "{why}");
        assert_eq!(judged(&Condition::Healthy, &rejected(100, 100)).0, "refusing");
        let later = recent([Moment::default(), Moment { buried: 7, ..Moment::default() }]);
        let (state, why) = judged(&Condition::Healthy, &later);
        assert!(state == "degraded" && why.starts_with("7 messages became dead letters"), "{why}");
        let known = Facts { rejection: Some("too large"), ..facts(&Condition::Healthy) };
        assert!(judge(&known, &rejected(1, 1)).reason.unwrap().ends_with(": too large"));
    }

    #[test]
    fn requests_are_counted_with_requests_and_messages_with_messages() {
        let of = |moment| judged(&Condition::Healthy, &recent([Moment::default(), moment])).1;
        // Each of these requests had one message; some were turned away before it was looked at.
        let alone = Moment { served: 60, unavailable: 40, taken: 60, refused: 30, ..Moment::default() };
        assert!(of(alone).starts_with("40 of 100 requests "), "{}", of(alone));
        // A batch is answered as a whole, whatever became of its messages.
        let batches = Moment { served: 10, taken: 500, refused: 500, ..Moment::default() };
        assert!(of(batches).starts_with("500 of 1000 messages "), "{}", of(batches));
        let both = Moment { unavailable: 1, ..batches };
        assert!(of(both).starts_with("500 of 1000 messages "), "{}", of(both));
    }
}
