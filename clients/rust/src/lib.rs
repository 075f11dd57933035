//! Sends messages and events to Tidegate over gRPC, and asks for the analytics that come of them.
//!
//! ```no_run
//! use tidegate_client::{AckLevel, CallOptions, Client, Config, proto::analytics::v1::{Event, EventType}};
//!
//! # async fn example() -> Result<(), tidegate_client::Error> {
//! let client = Client::new(Config::new("http://localhost:50051"))?;
//! let event = Event { user_id: "ada".into(), event_type: EventType::User.into(), ..Event::default() };
//! let answer = client.ingest_event(event, &CallOptions::new()).await?;
//! println!("{} after {:?}", answer.message.event_id, answer.timing.total);
//!
//! let durably = CallOptions::new().ack(AckLevel::Durable);
//! let answer = client.ingest("shop", b"an order".to_vec(), [("kind", "order")], &durably).await?;
//! println!("{} is {:?}", answer.message.message_id, answer.ack);
//! # Ok(())
//! # }
//! ```
//!
//! **Retries.** A call is sent again only when that can do no harm: it reads, or it carries an id by which the server
//! recognises a repeat. Events and messages without one get one before they are sent first. Without an id (see
//! [`Config::give_ids`]) a call is sent again only when the server itself says, with `RetryInfo`, that it did not take it.
//!
//! **One budget.** A call has a budget of time for everything: connecting, waiting, retrying. The server is told what is
//! left of it (`grpc-timeout`). A wait that would outlast it is not begun.
//!
//! **Batches.** [`Batcher`] collects events, sends them together, and says of each what became of it.

mod analytics;
mod batcher;
mod call;
mod config;
mod connection;
mod error;
mod events;
mod messages;
mod retry;

pub use batcher::{BatchConfig, Batcher, Fate, Receipt};
pub use call::{AckLevel, Answer, CallOptions, Client, Timing};
pub use config::Config;
pub use error::Error;
/// The messages of the services.
pub use tidegate_proto as proto;
pub use tonic::{Code, Status, Streaming};
