//! What the numbers mean, against SQL that says it: 50,000 seeded events, late ones, many of one time, many with exactly 30
//! minutes between them. See "What is counted" in `docs/analytics.md`.
#![allow(clippy::unwrap_used, reason = "a test may panic, in its common part too")]

use std::collections::BTreeMap;

use engine_analytics::{
    Bounds, DAY_MS, Event, Filter, HOUR_MS, Kind, MINUTE_MS, Part, funnel, scan, sessions_begun,
};
use rusqlite::{Connection, params};

const EVENTS: u64 = 50_000;
const USERS: u64 = 400;
const START_MS: i64 = 1_780_000_000_000 / DAY_MS * DAY_MS;
const NAMES: [&str; 4] = ["came", "chose", "paid", "left"];
const SOURCES: [&str; 3] = ["web", "ios", "android"];

struct Made {
    user: String,
    session: String,
    name: &'static str,
    source: &'static str,
    ms: i64,
    micros: Option<i64>,
}

/// xorshift64* (Vigna, 2016).
fn next(state: &mut u64) -> u64 {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 16
}

fn made() -> Vec<Made> {
    let mut seed = 20_261_128;
    let mut below = |most: u64| next(&mut seed) % most;
    let mut all = Vec::new();
    for number in 0..EVENTS {
        let user = below(USERS);
        // 36 hours, up to 6 late.
        let at = (number * 36 * 3600 / EVENTS + below(6 * 3600)) as i64 * 1000 + below(1000) as i64;
        let grid = match user % 4 {
            0 => 10 * MINUTE_MS,
            1 => 1000,
            _ => 1,
        };
        let session = if below(3) == 0 { format!("s-{}", below(8)) } else { String::new() };
        all.push(Made {
            user: if below(50) == 0 { String::new() } else { format!("u-{user}") },
            session,
            name: NAMES[below(4) as usize],
            source: SOURCES[below(3) as usize],
            ms: START_MS + at / grid * grid,
            micros: (below(5) == 0).then(|| below(90_000_000) as i64 - 10_000_000),
        });
    }
    all
}

fn part(events: &[Made]) -> Part {
    let mut part = Part::new(Bounds::default());
    for (number, event) in events.iter().enumerate() {
        part.add(&Event {
            id: number.to_string().as_bytes(),
            user: &event.user,
            session: &event.session,
            kind: Kind::Custom,
            name: event.name,
            source: event.source,
            timestamp_ms: event.ms,
            amount_micros: event.micros,
            ..Event::default()
        });
    }
    part
}

/// `e` has the events; `s` those of users with the session each belongs to, `sid`.
fn table(events: &[Made]) -> Connection {
    let mut sql = Connection::open_in_memory().unwrap();
    sql.execute_batch(
        "CREATE TABLE e (n INTEGER PRIMARY KEY, user TEXT, session TEXT, name TEXT, source TEXT, ms INTEGER, micros INTEGER)",
    )
    .unwrap();
    let insert = sql.transaction().unwrap();
    for (n, event) in events.iter().enumerate() {
        let Made { user, session, name, source, ms, micros } = event;
        insert
            .execute(
                "INSERT INTO e VALUES (?,?,?,?,?,?,?)",
                params![n as i64, user, session, name, source, ms, micros],
            )
            .unwrap();
    }
    insert.commit().unwrap();
    sql.execute_batch(
        "CREATE TABLE s AS
           SELECT *, 'id ' || session AS sid FROM e WHERE user <> '' AND session <> ''
           UNION ALL
           SELECT n, user, session, name, source, ms, micros, 'gap ' || sum(cut) OVER (PARTITION BY user ORDER BY ms, n)
           FROM (SELECT *, coalesce(ms - lag(ms) OVER (PARTITION BY user ORDER BY ms, n) > 30 * 60 * 1000, 0) AS cut
                 FROM e WHERE user <> '' AND session = '');
         CREATE INDEX by_user ON e (user, ms, n);",
    )
    .unwrap();
    sql
}

fn ranges() -> [(i64, i64); 5] {
    [(0, 48), (3, 4), (10, 20), (20, 40), (41, 48)]
        .map(|(from, to)| (START_MS + from * HOUR_MS, START_MS + to * HOUR_MS))
}

fn filters() -> [(Filter, &'static str); 4] {
    let source = Filter { source: Some("ios".into()), ..Filter::default() };
    let named = Filter { names: vec!["paid".into()], source: Some("web".into()), ..Filter::default() };
    let session = Filter { session: Some("s-3".into()), ..Filter::default() };
    [
        (Filter::default(), "1"),
        (source, "source = 'ios'"),
        (named, "name = 'paid' AND source = 'web'"),
        (session, "session = 's-3'"),
    ]
}

#[test]
fn a_session_counts_where_it_began_with_filters_and_without() {
    let events = made();
    let (mut part, sql) = (part(&events), table(&events));
    for (from, to) in ranges() {
        for (filter, condition) in filters() {
            let found = sessions_begun(&part.view(), &filter, None, from, to, |ms| ms / HOUR_MS);
            let mut rows = sql
                .prepare(&format!(
                    "SELECT start / {HOUR_MS}, count(*) FROM (SELECT min(ms) AS start, max({condition}) AS meets
                     FROM s GROUP BY user, sid) WHERE meets AND start >= {from} AND start < {to} GROUP BY 1"
                ))
                .unwrap();
            let rows = rows.query_map([], |row| Ok((row.get(0)?, row.get::<_, i64>(1)? as u64))).unwrap();
            let rows: BTreeMap<i64, u64> = rows.map(Result::unwrap).collect();
            assert_eq!(found, rows, "{from}..{to} {condition}");
            if filter.is_open() {
                let counted: i64 = part.cover(from, to).iter().map(|bucket| bucket.sessions).sum();
                assert_eq!(counted, rows.values().sum::<u64>() as i64, "{from}..{to}");
            }
        }
    }
}

#[test]
fn counts_with_a_filter_that_all_meet_are_those_without() {
    let events = made();
    let mut part = part(&events);
    let all = Filter { names: NAMES.map(str::to_owned).into(), ..Filter::default() };
    for (from, to) in ranges() {
        let scanned = scan(&part.view(), &all, None, from, to, |_| 0).remove(&0).unwrap_or_default();
        let begun = sessions_begun(&part.view(), &all, None, from, to, |_| 0).remove(&0).unwrap_or_default();
        let mut sum = engine_analytics::Bucket::default();
        part.cover(from, to).iter().for_each(|bucket| sum.merge(bucket));
        assert_eq!(
            (
                scanned.events,
                scanned.users.len() as u64,
                begun as i64,
                scanned.transactions,
                scanned.revenue_micros
            ),
            (sum.events, sum.unique_users(), sum.sessions, sum.transactions, sum.revenue_micros),
            "{from}..{to}"
        );
    }
}

#[test]
fn a_users_latest_are_by_time_and_a_range_limits_all_that_is_told_of_it() {
    let events = made();
    let (mut part, sql) = (part(&events), table(&events));
    for (user, (from, to)) in (0..USERS).flat_map(|user| ranges().map(|range| (user, range))) {
        let user = format!("u-{user}");
        let Some((profile, view)) = part.user(&user) else { continue };
        assert!(
            profile.sessions.list().len() < engine_analytics::SESSIONS_MAX
                && profile.sessions.forgotten_ms() == 0
        );
        let history = view.history(&profile, from, to, 20);
        let ids: Vec<i64> =
            history.latest.iter().map(|event| event.texts().next().unwrap().parse().unwrap()).collect();
        let mut latest = sql
            .prepare(
                "SELECT n FROM e WHERE user = ? AND ms >= ? AND ms < ? ORDER BY ms DESC, n DESC LIMIT 20",
            )
            .unwrap();
        let latest = latest.query_map(params![user, from, to], |row| row.get(0)).unwrap();
        assert_eq!(ids, latest.map(Result::unwrap).collect::<Vec<i64>>(), "{user} {from}..{to}");
        let told = sql.query_row(
            "SELECT count(*), count(DISTINCT ms / 86400000), count(micros), coalesce(sum(micros), 0)
             FROM e WHERE user = ? AND ms >= ? AND ms < ?",
            params![user, from, to],
            |row| {
                Ok((
                    row.get::<_, i64>(0)?,
                    row.get::<_, i64>(1)?,
                    row.get::<_, i64>(2)?,
                    row.get::<_, i64>(3)?,
                ))
            },
        );
        let (transactions, micros) = (history.transactions as i64, history.revenue_micros as i64);
        let known = (history.events as i64, i64::from(history.days_active), transactions, micros);
        assert_eq!(known, told.unwrap(), "{user} {from}..{to}");
        let mut sessions = sql
            .prepare(
                "SELECT min(ms), max(ms), count(*) FROM s WHERE user = ? GROUP BY sid
                 HAVING min(ms) >= ? AND min(ms) < ? ORDER BY 1, 2, 3",
            )
            .unwrap();
        let sessions = sessions
            .query_map(params![user, from, to], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
            .unwrap();
        let mut found: Vec<(i64, i64, u32)> = profile
            .sessions
            .list()
            .iter()
            .filter(|session| (from..to).contains(&session.start_ms))
            .map(|session| (session.start_ms, session.end_ms, session.events))
            .collect();
        found.sort_unstable();
        assert_eq!(found, sessions.map(Result::unwrap).collect::<Vec<_>>(), "{user} {from}..{to}");
    }
}

#[test]
fn a_step_is_taken_in_the_order_of_time_then_of_arrival_and_its_time_runs_from_the_latest_step_before() {
    let events = made();
    let (mut part, sql) = (part(&events), table(&events));
    for (round, ((from, to), timeout)) in ranges()
        .into_iter()
        .flat_map(|range| [None, Some(HOUR_MS), Some(10 * MINUTE_MS)].map(|most| (range, most)))
        .enumerate()
    {
        let steps = ["came", "chose", "paid"];
        let filters = steps.map(|name| Filter { names: vec![name.into()], ..Filter::default() });
        let counted = funnel(&part.view(), &filters, &Filter::default(), from, to, timeout);
        let within = timeout.map_or(String::new(), |most| format!("AND e.ms - b.ms <= {most}"));
        for (number, name) in steps.iter().enumerate() {
            let table = format!("f{round}_{number}");
            let before = format!(
                "(SELECT max(b.ms) FROM f{round}_{} b WHERE b.user = e.user AND (b.ms, b.n) < (e.ms, e.n) {within})",
                number.saturating_sub(1)
            );
            let since = if number == 0 { "e.ms" } else { &before };
            sql.execute_batch(&format!(
                "CREATE TABLE {table} AS SELECT * FROM (SELECT user, ms, n, {since} AS since FROM e
                 WHERE user <> '' AND name = '{name}' AND ms >= {from} AND ms < {to}) WHERE since IS NOT NULL;
                 CREATE INDEX i_{table} ON {table} (user, ms, n)"
            ))
            .unwrap();
            let (users, total_ms): (i64, i64) = sql
                .query_row(
                    &format!(
                        "SELECT count(*), coalesce(sum(ms - since), 0) FROM (SELECT *, row_number() OVER
                         (PARTITION BY user ORDER BY ms, n) AS place FROM {table}) WHERE place = 1"
                    ),
                    [],
                    |row| Ok((row.get(0)?, row.get(1)?)),
                )
                .unwrap();
            assert_eq!(
                (counted[number].users as i64, counted[number].total_ms as i64),
                (users, total_ms),
                "{name} {from}..{to} {timeout:?}"
            );
        }
    }
}
