//! One event, one batch, one stream: `cargo run -p tidegate-client --example start [http://host:port]`
#![allow(clippy::print_stdout, reason = "it is what it is for")]

use futures_util::stream;
use tidegate_client::{
    CallOptions, Client, Config,
    proto::analytics::v1::{Event, EventType},
};

fn click(user: &str) -> Event {
    Event { user_id: user.into(), event_type: EventType::User.into(), ..Event::default() }
}

/// Sends to a server at `http://host:port`.
pub async fn send(address: &str) -> Result<(), Box<dyn std::error::Error>> {
    let client = Client::new(Config::new(address))?;
    let options = CallOptions::new();

    let one = client.ingest_event(click("ada"), &options).await?;
    println!("{} is {:?}", one.message.event_id, one.ack);

    let batch = client.ingest_events(vec![click("ada"), click("bob")], &options).await?;
    println!("{} stored, {} not", batch.message.processed_count, batch.message.failed_count);

    let events = stream::iter([click("ada"), click("bob")]);
    let mut answers = client.stream_events(events, &options).await?.message;
    while let Some(answer) = answers.message().await? {
        println!("{:?}", answer.response); // one for each event, in their order
    }
    Ok(())
}

#[allow(dead_code, reason = "a test takes the rest of this file as a module")]
#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    send(&std::env::args().nth(1).unwrap_or_else(|| "http://localhost:50051".to_owned())).await
}
