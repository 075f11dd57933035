//! Which calls are sent again, and when.

use std::{error::Error as _, time::Duration};

use backon::{BackoffBuilder, ExponentialBuilder, Retryable};
use tokio::time::Instant;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::{Config, Error, connection::NotConnected, error::Told};

/// With less time left than this, a call is not sent again.
const LEFT_MIN: Duration = Duration::from_millis(5);

/// Whether doing a call twice does harm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Repeat {
    /// It only reads, or carries an id.
    Harmless,
    /// It may be done twice.
    Harmful,
}

/// Retries of one call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Policy {
    /// `None`: as many as the budget has room for.
    retries_max: Option<usize>,
    delay: Duration,
    delay_max: Duration,
}

impl From<&Config> for Policy {
    fn from(config: &Config) -> Self {
        Self { retries_max: config.retries_max, delay: config.retry_delay, delay_max: config.retry_delay_max }
    }
}

/// An attempt that failed.
enum Failed {
    Said(Status),
    OutOfTime,
}

/// The wait that the server asks for: its word that it did not take the call.
fn asked(status: &Status) -> Option<Duration> {
    status.get_details_retry_info().map(|info| info.retry_delay.unwrap_or_default())
}

/// Whether there was no connection that the call could have gone over.
fn never_left(status: &Status) -> bool {
    let mut cause = status.source();
    while let Some(known) = cause {
        if known.is::<NotConnected>() {
            return true;
        }
        cause = known.source();
    }
    false
}

/// Whether the next answer may be another one.
fn may_retry(status: &Status, repeat: Repeat) -> bool {
    if never_left(status) {
        return true;
    }
    // A status with a source was made here, of a broken connection: whether the call arrived is unknown.
    let broken = status.source().is_some();
    match status.code() {
        Code::Unavailable | Code::ResourceExhausted => {
            repeat == Repeat::Harmless || (!broken && asked(status).is_some())
        }
        Code::DeadlineExceeded => repeat == Repeat::Harmless,
        Code::Unknown | Code::Internal | Code::Cancelled => broken && repeat == Repeat::Harmless,
        _ => false,
    }
}

impl Policy {
    /// Sends until there is an answer that stays, or the retries or the time are spent.
    pub(crate) async fn run<T, F>(
        self,
        method: &str,
        server: &str,
        repeat: Repeat,
        deadline: Instant,
        mut send: impl FnMut() -> F,
    ) -> Result<(T, u32), Error>
    where
        F: Future<Output = Result<T, Status>>,
    {
        let mut attempts = 0_u32;
        let attempt = || {
            attempts += 1;
            let sent = send();
            async move {
                match tokio::time::timeout_at(deadline, sent).await {
                    Ok(outcome) => outcome.map_err(Failed::Said),
                    Err(_) => Err(Failed::OutOfTime),
                }
            }
        };
        let backoff = ExponentialBuilder::new().with_min_delay(self.delay).with_max_delay(self.delay_max);
        let backoff = match self.retries_max {
            Some(retries) => backoff.with_max_times(retries),
            None => backoff.without_max_times(),
        };
        let outcome = attempt
            .retry(backoff.build())
            .sleep(tokio::time::sleep)
            .when(|failed| matches!(failed, Failed::Said(status) if may_retry(status, repeat)))
            .adjust(|failed, delay| {
                let Failed::Said(status) = failed else { return None };
                // Full jitter: clients that were refused together do not come back together.
                let own = delay?.mul_f64(fastrand::f64());
                // A wait of ours leaves half of the time for the attempt behind it, until there is none worth it.
                let left = deadline.saturating_duration_since(Instant::now());
                let wait = own.min(left / 2).max(asked(status).unwrap_or_default());
                (left >= LEFT_MIN && wait < left).then_some(wait)
            })
            .notify(|failed, wait| {
                if let Failed::Said(status) = failed {
                    tracing::warn!(method, server, error = %Told(status), ?wait, "sending again");
                }
            })
            .await;
        match outcome {
            Ok(answer) => Ok((answer, attempts)),
            // Our own clock and the channel's, which has the same deadline, end a call together.
            Err(Failed::Said(status)) if status.code() == Code::Cancelled && Instant::now() >= deadline => {
                Err(Error::BudgetSpent { server: server.to_owned(), attempts })
            }
            Err(Failed::Said(status)) => Err(Error::Refused { server: server.to_owned(), status, attempts }),
            Err(Failed::OutOfTime) => Err(Error::BudgetSpent { server: server.to_owned(), attempts }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use tonic_types::ErrorDetails;

    use super::*;

    const POLICY: Policy =
        Policy { retries_max: None, delay: Duration::from_millis(100), delay_max: Duration::from_secs(5) };

    fn refused(code: Code, after: Duration) -> Status {
        Status::with_error_details(code, "full", ErrorDetails::with_retry_info(Some(after)))
    }

    /// What becomes of a call that is answered so, in turn, and then well; how long it took.
    async fn call(
        repeat: Repeat,
        budget: Duration,
        answers: impl IntoIterator<Item = Status>,
    ) -> (Result<u32, Error>, Duration) {
        let mut answers: VecDeque<Status> = answers.into_iter().collect();
        let since = Instant::now();
        let outcome = POLICY
            .run("test", "http://server", repeat, since + budget, || {
                let answer = answers.pop_front();
                async move { answer.map_or(Ok(()), Err) }
            })
            .await;
        (outcome.map(|((), attempts)| attempts), since.elapsed())
    }

    const MINUTE: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn a_harmless_call_is_sent_again_when_the_code_may_change() {
        for code in (1..=16).map(Code::from_i32) {
            let (outcome, _) = call(Repeat::Harmless, MINUTE, [Status::new(code, "no")]).await;
            match code {
                Code::Unavailable | Code::ResourceExhausted | Code::DeadlineExceeded => {
                    assert_eq!(outcome.unwrap(), 2, "{code:?}");
                }
                _ => assert!(matches!(outcome, Err(Error::Refused { attempts: 1, .. })), "{code:?}"),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_harmful_call_is_sent_again_only_on_the_servers_word() {
        for code in [Code::Unavailable, Code::ResourceExhausted, Code::DeadlineExceeded] {
            let (outcome, _) = call(Repeat::Harmful, MINUTE, [Status::new(code, "no")]).await;
            assert!(matches!(outcome, Err(Error::Refused { attempts: 1, .. })), "{code:?}");
            let (outcome, _) = call(Repeat::Harmful, MINUTE, [refused(code, Duration::ZERO)]).await;
            assert_eq!(outcome.is_ok(), code != Code::DeadlineExceeded, "{code:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_servers_wait_is_waited() {
        let wait = Duration::from_secs(7);
        let (outcome, took) = call(Repeat::Harmless, MINUTE, [refused(Code::Unavailable, wait)]).await;
        assert_eq!(outcome.unwrap(), 2);
        assert!(took >= wait, "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_that_would_outlast_the_budget_is_not_begun() {
        let asked = refused(Code::ResourceExhausted, MINUTE);
        let (outcome, took) = call(Repeat::Harmless, Duration::from_secs(10), [asked]).await;
        assert!(matches!(outcome, Err(Error::Refused { attempts: 1, .. })), "{outcome:?}");
        assert_eq!(took, Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn the_budget_is_never_exceeded() {
        let budget = Duration::from_millis(350);
        let since = Instant::now();
        let outcome = POLICY
            .run("test", "http://server", Repeat::Harmless, since + budget, || async {
                tokio::time::sleep(Duration::from_millis(200)).await;
                Err::<(), Status>(Status::unavailable("slow"))
            })
            .await;
        assert!(outcome.is_err() && since.elapsed() <= budget + Duration::from_millis(1), "{outcome:?}");
        let since = Instant::now();
        let outcome = POLICY
            .run(
                "test",
                "http://server",
                Repeat::Harmless,
                since + budget,
                std::future::pending::<Result<(), Status>>,
            )
            .await;
        assert!(matches!(outcome, Err(Error::BudgetSpent { attempts: 1, .. })), "{outcome:?}");
        assert!(since.elapsed() <= budget + Duration::from_millis(1), "{:?}", since.elapsed());
    }

    /// What becomes of a call to a server that is away for so long; how long it took.
    async fn call_while_away(away: Duration, budget: Duration) -> (Result<u32, Error>, Duration) {
        let since = Instant::now();
        let outcome = POLICY
            .run("test", "http://server", Repeat::Harmless, since + budget, || async move {
                if since.elapsed() < away { Err(Status::unavailable("away")) } else { Ok(()) }
            })
            .await;
        (outcome.map(|((), attempts)| attempts), since.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_comes_back_within_the_budget_gets_the_call() {
        let budget = Duration::from_secs(30);
        // The last wait is random, and never so long that there is no time left behind it.
        for away_ms in [350, 3_000, 10_000, 25_000, 29_900] {
            let away = Duration::from_millis(away_ms);
            let (outcome, took) = call_while_away(away, budget).await;
            assert!(
                outcome.is_ok() && took >= away && took <= budget,
                "{away:?}: {outcome:?} after {took:?}"
            );
        }
        // Not a storm: the waits grow.
        let (outcome, took) = call_while_away(MINUTE, budget).await;
        let Err(Error::Refused { attempts, .. }) = outcome else { panic!("{outcome:?}") };
        assert!((5..80).contains(&attempts), "{attempts}");
        assert!(took <= budget && took >= budget - Duration::from_millis(10), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn retries_end_with_their_number_where_one_is_set() {
        let policy = Policy { retries_max: Some(3), ..POLICY };
        let since = Instant::now();
        let refuse = || async { Err::<(), _>(Status::unavailable("no")) };
        let outcome = policy.run("test", "http://server", Repeat::Harmless, since + MINUTE, refuse).await;
        assert!(matches!(outcome, Err(Error::Refused { attempts: 4, .. })), "{outcome:?}");
        // At most 100, 200 and 400 ms, and the clock's resolution of a millisecond each.
        assert!(since.elapsed() <= Duration::from_millis(703), "{:?}", since.elapsed());
    }
}
