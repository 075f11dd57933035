//! A made-up day of a million events, on two cores and in SQLite: the same answers.
#![allow(clippy::unwrap_used, reason = "a test may panic, in its common part too")]

use std::{
    collections::BTreeMap,
    sync::{LazyLock, Mutex, MutexGuard, PoisonError},
};

use engine_analytics::{Bounds, Bucket, DAY_MS, Event, Filter, HOUR_MS, Kind, MINUTE_MS, Part, funnel, scan};
use load::day::Day;
use rusqlite::{Connection, params};

const EVENTS: u64 = 1_000_000;
const USERS: u32 = 40_000;
const START_MS: i64 = 1_780_000_000_000 / DAY_MS * DAY_MS;

/// The parts of two cores.
fn parts() -> MutexGuard<'static, Vec<Part>> {
    static PARTS: LazyLock<Mutex<Vec<Part>>> = LazyLock::new(|| {
        let mut parts = vec![Part::new(Bounds::default()), Part::new(Bounds::default())];
        for event in Day::new(1, EVENTS, USERS, START_MS) {
            let core = event.user.bytes().map(usize::from).sum::<usize>() % 2;
            let revenue = event.amount_micros.map(|micros| ("basket", micros as f64 / 1e6));
            let properties: Vec<(&[u8], &[u8])> =
                event.properties.iter().map(|(key, value)| (key.as_bytes(), value.as_bytes())).collect();
            parts[core].add(&Event {
                id: event.id.as_bytes(),
                user: &event.user,
                session: &event.session,
                kind: Kind::Custom,
                name: event.name,
                source: event.source,
                timestamp_ms: event.timestamp_ms,
                amount_micros: event.amount_micros,
                is_error: event.is_error,
                metrics: revenue.as_slice(),
                properties: &properties,
                ..Event::default()
            });
        }
        Mutex::new(parts)
    });
    PARTS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The same day as a table.
fn table() -> Connection {
    let mut sql = Connection::open_in_memory().unwrap();
    sql.execute_batch(
        "CREATE TABLE e (n INTEGER PRIMARY KEY, user TEXT, session TEXT, name TEXT, source TEXT, ms INTEGER,
                         micros INTEGER, error INTEGER, country TEXT, plan TEXT)",
    )
    .unwrap();
    let insert = sql.transaction().unwrap();
    {
        let mut row = insert.prepare("INSERT INTO e VALUES (?,?,?,?,?,?,?,?,?,?)").unwrap();
        for (n, event) in Day::new(1, EVENTS, USERS, START_MS).enumerate() {
            let (country, plan) = (event.properties[0].1, event.properties[1].1);
            row.execute(params![
                n as i64,
                event.user,
                event.session,
                event.name,
                event.source,
                event.timestamp_ms,
                event.amount_micros,
                event.is_error,
                country,
                plan
            ])
            .unwrap();
        }
    }
    insert.commit().unwrap();
    sql.execute_batch("CREATE INDEX by_user ON e (user, ms)").unwrap();
    sql
}

/// All parts' sums, the names in words.
fn sum(from_ms: i64, to_ms: i64) -> (Bucket, BTreeMap<String, u64>) {
    let (mut total, mut by_name) = (Bucket::default(), BTreeMap::new());
    let mut users = 0;
    for part in parts().iter() {
        let mut own = Bucket::default();
        part.cover(from_ms, to_ms).iter().for_each(|bucket| own.merge(bucket));
        users += own.unique_users();
        for (number, count) in &own.by_name {
            *by_name.entry(part.names().name(*number).to_owned()).or_default() += count;
        }
        // Numbers of users mean something in their own part only.
        own.users.clear();
        total.merge(&own);
    }
    total.users.insert_range(0..users as u32);
    (total, by_name)
}

/// Starts of sessions: named ones by user and id, the others cut by gaps of more than 30 minutes.
const SESSION_STARTS: &str = "
    SELECT min(ms) AS start FROM e WHERE user <> '' AND session <> '' GROUP BY user, session
    UNION ALL
    SELECT ms FROM (SELECT ms, lag(ms) OVER (PARTITION BY user ORDER BY ms, n) AS before
                    FROM e WHERE user <> '' AND session = '')
    WHERE before IS NULL OR ms - before > 30 * 60 * 1000";

#[test]
fn counts_users_sessions_and_revenue_equal_sql_over_any_range() {
    let sql = table();
    sql.execute_batch(&format!("CREATE TABLE starts AS {SESSION_STARTS}")).unwrap();
    for (from, to) in [(0, 1440), (0, 60), (437, 438), (59, 1381), (720, 2000)] {
        let (from_ms, to_ms) = (START_MS + from * MINUTE_MS, START_MS + to * MINUTE_MS);
        let (total, by_name) = sum(from_ms, to_ms);
        let range = "ms >= ?1 AND ms < ?2";
        let number =
            |query: &str| -> i64 { sql.query_row(query, [from_ms, to_ms], |row| row.get(0)).unwrap() };
        let count = |what: &str| number(&format!("SELECT count(*) FROM e WHERE {range} AND {what}"));
        assert_eq!(total.events as i64, count("true"), "{from}..{to}");
        assert_eq!(total.errors as i64, count("error"), "{from}..{to}");
        assert_eq!(total.transactions as i64, count("micros IS NOT NULL"), "{from}..{to}");
        let revenue = number(&format!("SELECT coalesce(sum(micros), 0) FROM e WHERE {range}"));
        assert_eq!(total.revenue_micros, i128::from(revenue), "{from}..{to}");
        // Both parts know one metric only, so its number is the same in both.
        let baskets: Vec<_> =
            total.metrics.iter().map(|(_, values)| (values.count as i64, values.min, values.max)).collect();
        let row = sql.query_row(
            &format!("SELECT count(micros), min(micros) / 1e6, max(micros) / 1e6 FROM e WHERE {range}"),
            [from_ms, to_ms],
            |row| Ok((row.get::<_, i64>(0)?, row.get::<_, f64>(1)?, row.get::<_, f64>(2)?)),
        );
        assert_eq!(baskets, [row.unwrap()], "{from}..{to}");
        let users = number(&format!("SELECT count(DISTINCT user) FROM e WHERE {range} AND user <> ''"));
        assert_eq!(total.users.len() as i64, users, "{from}..{to}");
        let sessions = number("SELECT count(*) FROM starts WHERE start >= ?1 AND start < ?2");
        assert_eq!(total.sessions, sessions, "{from}..{to}");
        for (name, counted) in by_name {
            assert_eq!(counted as i64, count(&format!("name = '{name}'")), "{name} in {from}..{to}");
        }
    }
}

#[test]
fn a_series_equals_sql_in_every_bucket() {
    let sql = table();
    for width in [MINUTE_MS, HOUR_MS] {
        let query =
            format!("SELECT ms / {width}, count(*), count(DISTINCT nullif(user, '')) FROM e GROUP BY 1");
        let mut rows = sql.prepare(&query).unwrap();
        let rows = rows
            .query_map([], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, i64>(2)?)));
        let mut buckets = 0;
        for row in rows.unwrap() {
            let (number, events, users) = row.unwrap();
            let (total, _) = sum(number * width, (number + 1) * width);
            assert_eq!((total.events as i64, total.users.len() as i64), (events, users), "{number}");
            buckets += 1;
        }
        assert!(buckets as i64 >= DAY_MS / width - 1);
    }
}

#[test]
fn counting_with_conditions_equals_sql() {
    let sql = table();
    let filter = Filter {
        names: vec!["page_view".into(), "purchase".into()],
        source: Some("ios".into()),
        properties: vec![("country".into(), "DE".into()), ("plan".into(), "paid".into())],
        ..Filter::default()
    };
    let mut found: BTreeMap<i64, (u64, usize, i128)> = BTreeMap::new();
    for part in parts().iter_mut() {
        let by_hour = scan(&part.view(), &filter, None, START_MS, START_MS + DAY_MS, |ms| ms / HOUR_MS);
        for (hour, counted) in by_hour {
            let sum = found.entry(hour).or_default();
            sum.0 += counted.events;
            sum.1 += counted.users.len();
            sum.2 += counted.revenue_micros;
        }
    }
    let mut rows = sql
        .prepare(&format!(
            "SELECT ms / {HOUR_MS}, count(*), count(DISTINCT user), coalesce(sum(micros), 0) FROM e
             WHERE name IN ('page_view', 'purchase') AND source = 'ios' AND country = 'DE' AND plan = 'paid' GROUP BY 1"
        ))
        .unwrap();
    let rows = rows.query_map([], |row| {
        let (events, users, micros): (i64, i64, i64) = (row.get(1)?, row.get(2)?, row.get(3)?);
        Ok((row.get::<_, i64>(0)?, (events as u64, users as usize, i128::from(micros))))
    });
    assert_eq!(found, rows.unwrap().map(Result::unwrap).collect());
}

#[test]
fn a_users_profile_equals_sql() {
    let sql = table();
    for user in ["user-0", "user-1", "user-777", "user-39990"] {
        let known = parts().iter_mut().find_map(|part| part.user(user));
        let row = sql.query_row(
            "SELECT count(*), min(ms), max(ms), count(micros), coalesce(sum(micros), 0), count(DISTINCT ms / 86400000)
             FROM e WHERE user = ?",
            [user],
            |row| {
                let (transactions, micros, days): (i64, i64, i64) = (row.get(3)?, row.get(4)?, row.get(5)?);
                Ok((row.get::<_, i64>(0)?, row.get(1).ok(), row.get(2).ok(), transactions, micros, days))
            },
        );
        let row = row.unwrap();
        let Some((profile, view)) = known else {
            assert_eq!(row.0, 0, "{user}");
            continue;
        };
        assert_eq!(
            (profile.events as i64, Some(profile.first_ms), Some(profile.last_ms)),
            (row.0, row.1, row.2),
            "{user}"
        );
        let (transactions, micros) = (profile.transactions as i64, profile.revenue_micros);
        assert_eq!(
            (transactions, micros, i64::from(profile.days_active())),
            (row.3, i128::from(row.4), row.5)
        );
        // Newest first, by time.
        let latest = view.history(&profile, i64::MIN, i64::MAX, 50).latest;
        let ids: Vec<String> = latest.iter().map(|event| event.texts().next().unwrap().to_owned()).collect();
        let mut newest =
            sql.prepare("SELECT n FROM e WHERE user = ? ORDER BY ms DESC, n DESC LIMIT 50").unwrap();
        let newest = newest.query_map([user], |row| Ok(format!("e-{}", row.get::<_, i64>(0)?))).unwrap();
        assert_eq!(ids, newest.map(Result::unwrap).collect::<Vec<_>>(), "{user}");
    }
}

#[test]
fn a_funnel_equals_sql() {
    let sql = table();
    let steps = ["page_view", "add_to_cart", "checkout", "purchase"];
    for (timeout_ms, paid) in [(None, false), (Some(HOUR_MS), false), (Some(2 * HOUR_MS), true)] {
        let filter = |name: &str| Filter { names: vec![name.into()], ..Filter::default() };
        let filters: Vec<Filter> = steps.iter().map(|name| filter(name)).collect();
        let common = Filter {
            properties: if paid { vec![("plan".into(), "paid".into())] } else { Vec::new() },
            ..Filter::default()
        };
        let (from_ms, to_ms) = (START_MS, START_MS + DAY_MS);
        let mut users = [0_u64; 4];
        for part in parts().iter_mut() {
            let counted = funnel(&part.view(), &filters, &common, from_ms, to_ms, timeout_ms);
            counted.iter().zip(&mut users).for_each(|(step, users)| *users += step.users);
        }
        // Who took a step: an event of it behind one that took the step before, by time and then by arrival.
        sql.execute_batch("DROP TABLE IF EXISTS s0; DROP TABLE IF EXISTS s1; DROP TABLE IF EXISTS s2; DROP TABLE IF EXISTS s3")
            .unwrap();
        let condition = if paid { "AND e.plan = 'paid'" } else { "" };
        let within = timeout_ms.map_or(String::new(), |most| format!("AND e.ms - b.ms <= {most}"));
        for (number, name) in steps.iter().enumerate() {
            let before = match number.checked_sub(1) {
                None => String::new(),
                Some(before) => format!(
                    "AND EXISTS (SELECT 1 FROM s{before} b WHERE b.user = e.user AND (b.ms, b.n) < (e.ms, e.n) {within})"
                ),
            };
            sql.execute_batch(&format!(
                "CREATE TABLE s{number} AS SELECT user, ms, n FROM e WHERE user <> '' AND name = '{name}' {condition} {before};
                 CREATE INDEX i{number}_{paid}_{} ON s{number} (user, ms, n)",
                timeout_ms.unwrap_or(0)
            ))
            .unwrap();
            let counted: i64 = sql
                .query_row(&format!("SELECT count(DISTINCT user) FROM s{number}"), [], |row| row.get(0))
                .unwrap();
            assert_eq!(users[number] as i64, counted, "{name}, {timeout_ms:?}, {paid}");
        }
        assert!(users[3] > 0 && users[3] < users[0]);
    }
}
