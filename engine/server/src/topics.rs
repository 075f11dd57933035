//! `tidegate topics create|list`: Tidegate's topics at the Kafka of the settings.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use anyhow::{Result, anyhow};
use brokers::kafka::topics;

use crate::{cli::TopicsAction, settings::Settings};

/// Does what was asked.
///
/// # Errors
/// What stands in the way, with the setting to look at.
pub fn run(action: &TopicsAction, settings: &Settings) -> Result<ExitCode> {
    let kafka = &settings.delivery.kafka;
    let mut wanted = settings.kafka_topics.all_topics();
    for topic in kafka.topics() {
        if wanted.iter().all(|known| known.name != topic.name) {
            wanted.push(topic);
        }
    }
    match action {
        TopicsAction::Create(_) => {
            // One after the other: each is said, also when the next cannot be had.
            for topic in &wanted {
                let made =
                    topics::create(kafka, std::slice::from_ref(topic)).map_err(|error| anyhow!(error))?;
                let kept = topic.retention.map(|time| format!(", kept {}", humantime::format_duration(time)));
                match made.first() {
                    Some(true) => {
                        writeln!(
                            io::stdout(),
                            "{}: created, {} partitions{}",
                            topic.name,
                            topic.partitions,
                            kept.unwrap_or_default()
                        )?;
                    }
                    _ => writeln!(io::stdout(), "{}: is there; left as it is", topic.name)?,
                }
            }
        }
        TopicsAction::List(_) => {
            let found = topics::list(kafka).map_err(|error| anyhow!(error))?;
            writeln!(io::stdout(), "{:<32} {:>10} {:>12} {:>12}", "topic", "partitions", "records", "lag")?;
            for topic in &found {
                let lag = topic.lag.map_or_else(|| "-".to_owned(), |lag| lag.to_string());
                writeln!(
                    io::stdout(),
                    "{:<32} {:>10} {:>12} {lag:>12}",
                    topic.name,
                    topic.partitions,
                    topic.records
                )?;
            }
            for topic in wanted.iter().filter(|topic| found.iter().all(|found| found.name != topic.name)) {
                writeln!(io::stdout(), "{:<32} is not there: tidegate topics create", topic.name)?;
            }
            writeln!(
                io::stdout(),
                "lag: what the group {} has not worked on (kafka.consumer_group)",
                kafka.consumer_group
            )?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
