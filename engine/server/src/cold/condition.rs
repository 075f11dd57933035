//! How the process is at this moment: one judgement, which `/health`, `/ready`, `/api/v1/status`, gRPC health and the live
//! page give in their own words.

use serde_json::{Map, Value, json};
use transports::Role;

use super::house::House;

/// What a part of the process can do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// All of it.
    Healthy,
    /// All that is asked of it by default; why it is less than it could be.
    Degraded(String),
    /// Not what is asked of it by default; why.
    Unhealthy(String),
}

impl Condition {
    /// The word of `/health`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Degraded(_) => "degraded",
            Self::Unhealthy(_) => "unhealthy",
        }
    }

    /// Whether it does what is asked of it by default.
    pub fn is_able(&self) -> bool {
        !matches!(self, Self::Unhealthy(_))
    }

    /// What is wrong.
    pub fn trouble(&self) -> Option<&str> {
        match self {
            Self::Healthy => None,
            Self::Degraded(why) | Self::Unhealthy(why) => Some(why),
        }
    }
}

impl House {
    /// Every place behind the queue by name, and what is in its way.
    pub fn places(&self) -> Vec<(&'static str, Option<String>)> {
        let behind = &self.behind;
        let log = behind.log.is_some().then(|| ("log", behind.log_trouble()));
        let disk = behind.disk().map(|(free, needed)| {
            let low = format!(
                "{free} bytes are free where data.directory is, and the next segment needs {needed}: what is finished is \
                 deleted first, then messages are refused"
            );
            ("disk", (free < needed).then_some(low))
        });
        let brokers = behind.brokers.iter().map(|broker| {
            let trouble = broker.status.is_open().then(|| broker.status.trouble());
            let trouble = trouble.map(|why| why.unwrap_or_else(|| "out of reach".to_owned()));
            (broker.provider.name(), trouble)
        });
        let remote = behind.remote.iter().map(|remote| {
            let trouble = remote.side.is_open().then(|| remote.side.trouble());
            ("remote", trouble.map(|why| why.unwrap_or_else(|| "out of reach".to_owned())))
        });
        log.into_iter().chain(disk).chain(brokers).chain(remote).collect()
    }

    fn troubles(&self) -> Option<String> {
        let troubles =
            self.places().into_iter().filter_map(|(name, trouble)| Some(format!("{name}: {}", trouble?)));
        let troubles: Vec<String> = troubles.collect();
        (!troubles.is_empty()).then(|| troubles.join("; "))
    }

    /// Taking messages in, at the level of who names none.
    pub fn intake(&self) -> Condition {
        match (self.behind.trouble_of(self.behind.delivery.ack_default), self.troubles()) {
            (Some(why), _) => Condition::Unhealthy(why),
            (None, Some(why)) => Condition::Degraded(why),
            (None, None) => Condition::Healthy,
        }
    }

    /// Working on messages: unhealthy when none of the places that they come from can be read.
    pub fn workers(&self) -> Condition {
        let behind = &self.behind;
        let Some(why) = self.troubles() else { return Condition::Healthy };
        let sources: Vec<_> =
            self.places().into_iter().filter(|(name, _)| !["log", "disk"].contains(name)).collect();
        // Memory and log are read whatever happens to brokers, and to the disk.
        let reads_here = behind.delivery.providers.iter().any(|provider| !provider.is_broker());
        let all_away = !sources.is_empty() && sources.iter().all(|(_, trouble)| trouble.is_some());
        if !reads_here && all_away {
            // What is in the way of reading is what is wrong with these; the log's trouble is in the way of taking in.
            let away =
                sources.iter().filter_map(|(name, trouble)| Some(format!("{name}: {}", trouble.as_ref()?)));
            Condition::Unhealthy(away.collect::<Vec<_>>().join("; "))
        } else {
            Condition::Degraded(why)
        }
    }

    /// What the port of this role is for.
    pub fn of_port(&self, role: Role) -> Condition {
        match role {
            Role::Gateway | Role::Ingest | Role::Grpc => self.intake(),
            // It takes messages in (`/enqueue`), and works on them.
            Role::Processor => match (self.intake(), self.workers()) {
                (Condition::Unhealthy(why), _) => Condition::Unhealthy(why),
                // One of the two goes on.
                (_, Condition::Unhealthy(why) | Condition::Degraded(why)) => Condition::Degraded(why),
                (intake, Condition::Healthy) => intake,
            },
            // Questions are answered from what is here.
            Role::Analytics | Role::Metrics => match self.troubles() {
                Some(why) => Condition::Degraded(why),
                None => Condition::Healthy,
            },
        }
    }

    /// The places as `/ready` lists them.
    pub fn checks(&self) -> Map<String, Value> {
        let places = self.places().into_iter();
        places
            .map(|(name, trouble)| (name.to_owned(), json!(trouble.unwrap_or_else(|| "ok".to_owned()))))
            .collect()
    }
}
