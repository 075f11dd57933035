//! A made-up day of events, the same for the same seed: users browse, put things into their cart, buy, and some give
//! up on the way; systems report errors. Events come nearly in the order of time, a few of them late.

/// What happens in a day.
#[derive(Clone, Debug)]
pub struct Day {
    random: fastrand::Rng,
    users: u32,
    left: u64,
    count: u64,
    start_ms: i64,
}

/// An event of the day.
#[derive(Clone, Debug, PartialEq)]
pub struct DayEvent {
    /// Different for each.
    pub id: String,
    /// Empty for what systems report.
    pub user: String,
    /// Empty for users that name none.
    pub session: String,
    /// `page_view`, `add_to_cart`, `checkout`, `purchase`, `refund`, `error_event`.
    pub name: &'static str,
    /// `web`, `ios`, `android`, `backend`.
    pub source: &'static str,
    /// Milliseconds of the Unix epoch.
    pub timestamp_ms: i64,
    /// Millionths of a currency unit.
    pub amount_micros: Option<i64>,
    /// Whether it reports an error.
    pub is_error: bool,
    /// `country` and `plan`.
    pub properties: Vec<(&'static str, &'static str)>,
}

/// Milliseconds of a day.
const DAY_MS: i64 = 24 * 60 * 60 * 1000;

impl Day {
    /// `events` events of about so many users, on the day that begins at `start_ms`.
    pub fn new(seed: u64, events: u64, users: u32, start_ms: i64) -> Self {
        Self {
            random: fastrand::Rng::with_seed(seed),
            users: users.max(1),
            left: events,
            count: events,
            start_ms,
        }
    }
}

impl Iterator for Day {
    type Item = DayEvent;

    fn next(&mut self) -> Option<DayEvent> {
        self.left = self.left.checked_sub(1)?;
        let (random, number) = (&mut self.random, self.count - self.left - 1);
        // Some users come often, most seldom.
        let user = (f64::from(self.users) * random.f64().powi(3)) as u32;
        let (name, source) = match random.u32(..1000) {
            0..700 => ("page_view", *random.choice(&["web", "ios", "android"])?),
            700..870 => ("add_to_cart", *random.choice(&["web", "ios", "android"])?),
            870..940 => ("checkout", *random.choice(&["web", "ios"])?),
            940..980 => ("purchase", *random.choice(&["web", "ios"])?),
            980..985 => ("refund", "backend"),
            _ => ("error_event", "backend"),
        };
        let due = self.start_ms + (DAY_MS as f64 * number as f64 / self.count as f64) as i64;
        // One in fifty is up to two hours late, as seen by its own clock.
        let late =
            if random.u32(..50) == 0 { random.i64(0..2 * 60 * 60 * 1000) } else { random.i64(0..3000) };
        let is_error = name == "error_event";
        let cents = random.i64(100..50_000);
        let amount_micros = match name {
            "purchase" => Some(cents * 10_000),
            "refund" => Some(-cents * 10_000),
            _ => None,
        };
        // Every third user names its sessions: four a day.
        let session = if user.is_multiple_of(3) && !is_error {
            format!("s-{user}-{}", (due - self.start_ms) / (DAY_MS / 4))
        } else {
            String::new()
        };
        Some(DayEvent {
            id: format!("e-{number}"),
            user: if is_error { String::new() } else { format!("user-{user}") },
            session,
            name,
            source,
            timestamp_ms: (due - late).max(self.start_ms),
            amount_micros,
            is_error,
            properties: vec![
                ("country", *random.choice(&["DE", "FR", "US", "JP"])?),
                ("plan", if user.is_multiple_of(10) { "paid" } else { "free" }),
            ],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_a_day() {
        let day = || Day::new(7, 1000, 50, 0).collect::<Vec<_>>();
        assert_eq!(day(), day());
        assert!(Day::new(8, 1000, 50, 0).ne(day()));
        assert!(day().iter().all(|event| (0..DAY_MS).contains(&event.timestamp_ms)));
    }
}
