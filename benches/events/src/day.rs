//! A made-up day as typed events, sent in batches.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use load::day::{Day, DayEvent};
use tidegate_proto::analytics::v1::{
    CustomEvent, Event, EventType, IngestEventsRequest, TransactionEvent, TransactionStatus, TransactionType,
    event::EventData, event_ingestion_service_client::EventIngestionServiceClient,
};
use tonic::transport::Endpoint;

/// 2026-05-29T00:00:00Z.
pub const START_MS: i64 = 1_780_012_800_000;

fn typed(day: DayEvent) -> Event {
    let name = day.name.to_owned();
    let mut properties: std::collections::HashMap<String, String> =
        day.properties.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    properties.insert("name".to_owned(), name.clone());
    let (event_type, data) = match day.amount_micros {
        Some(micros) => {
            let kind = if micros < 0 { TransactionType::Refund } else { TransactionType::Purchase };
            let transaction = TransactionEvent {
                transaction_id: day.id.clone(),
                r#type: kind.into(),
                amount: micros.abs() as f64 / 1e6,
                currency: "EUR".to_owned(),
                status: TransactionStatus::Completed.into(),
                ..TransactionEvent::default()
            };
            (EventType::Transaction, EventData::TransactionEvent(transaction))
        }
        None => (EventType::Custom, EventData::CustomEvent(CustomEvent { name, ..CustomEvent::default() })),
    };
    Event {
        id: day.id,
        user_id: if day.user.is_empty() { "system".to_owned() } else { day.user },
        session_id: day.session,
        event_type: event_type.into(),
        timestamp: Some(at(day.timestamp_ms)),
        source: day.source.to_owned(),
        properties,
        event_data: Some(data),
    }
}

fn at(ms: i64) -> prost_types::Timestamp {
    prost_types::Timestamp { seconds: ms / 1000, nanos: (ms % 1000 * 1_000_000) as i32 }
}

/// Sends a day of so many events; returns how many a second were taken.
pub fn fill(address: SocketAddr, events: u64) -> Result<f64> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let channel = Endpoint::from_shared(format!("http://{address}"))?.connect().await?;
        let mut client = EventIngestionServiceClient::new(channel);
        let mut day = Day::new(17, events, 20_000, START_MS).map(typed);
        let started = std::time::Instant::now();
        loop {
            let batch: Vec<Event> = day.by_ref().take(1000).collect();
            if batch.is_empty() {
                return Ok(events as f64 / started.elapsed().as_secs_f64());
            }
            let answer = client.ingest_events(IngestEventsRequest { events: batch, options: None }).await?;
            ensure!(answer.get_ref().success, "not all was taken: {:?}", answer.get_ref());
        }
    })
}
