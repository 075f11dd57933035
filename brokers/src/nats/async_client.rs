//! The client of production: async-nats, each connection with a runtime of its own on the publisher's thread.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Wake, Waker},
    thread,
    time::Duration,
};

use async_nats::{HeaderMap, Message, StatusCode, Subject, Subscriber, client::PublishErrorKind, jetstream};
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use tokio::sync::Notify;

use super::{
    Broken, Link, NatsConfig,
    client::{Answer, Client, Reply, Runtime, Session, Unsent},
    connect, stream,
};
use crate::status::SideStatus;

/// How long the server may take to say that the stream is there. Longer, and it counts as gone: it may stand still and
/// keep its connections.
const STILL_THERE_TIMEOUT: Duration = Duration::from_secs(2);
/// How often the stream is looked for.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// async-nats.
pub struct AsyncNats {
    config: NatsConfig,
    status: Arc<SideStatus>,
    bell: Arc<Bell>,
}

impl AsyncNats {
    /// A client; it connects with its first session.
    pub fn new(config: &NatsConfig, status: &Arc<SideStatus>) -> Self {
        let bell = Arc::new(Bell { wake: Arc::default(), rung: AtomicBool::new(false) });
        Self { config: config.clone(), status: Arc::clone(status), bell }
    }
}

impl Client for AsyncNats {
    type Runtime = tokio::runtime::Runtime;
    type Session = Connection;

    fn start(&mut self) -> Result<(Self::Runtime, Self::Session), String> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| format!("nats: no runtime: {error}"))?;
        let link = Arc::new(Link { wake: Arc::clone(&self.bell.wake), ..Link::default() });
        let (client, replies, inbox) = runtime.block_on(async {
            let client = connect(&self.config, &self.status, &link, Broken::StayBroken).await?;
            let inbox = client.new_inbox();
            let replies = client.subscribe(format!("{inbox}.*")).await.map_err(|error| error.to_string())?;
            Ok::<_, String>((client, replies, inbox))
        })?;
        let found = Arc::new(Found {
            ready: AtomicBool::new(false),
            message_bytes_max: AtomicUsize::new(usize::MAX),
        });
        runtime.spawn(keep_stream(
            client.clone(),
            self.config.clone(),
            Arc::clone(&self.status),
            Arc::clone(&link),
            Arc::clone(&found),
        ));
        Ok((runtime, Connection { link, client, replies, inbox, found, bell: Arc::clone(&self.bell) }))
    }

    fn pause(&mut self, time: Duration) {
        thread::sleep(time);
        self.bell.rung.store(false, Ordering::Release);
    }

    fn waker(&self) -> Waker {
        Waker::from(Arc::clone(&self.bell))
    }
}

impl Runtime for tokio::runtime::Runtime {
    fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.block_on(future)
    }

    fn end(self) {
        self.shutdown_background();
    }
}

/// A connection. Its tasks end with its runtime.
pub struct Connection {
    link: Arc<Link>,
    client: async_nats::Client,
    replies: Subscriber,
    inbox: String,
    found: Arc<Found>,
    bell: Arc<Bell>,
}

impl Session for Connection {
    fn is_connected(&self) -> bool {
        self.link.connected.load(Ordering::Acquire) && self.found.ready.load(Ordering::Acquire)
    }

    fn is_broken(&self) -> bool {
        self.link.broke.load(Ordering::Acquire)
    }

    fn max_payload(&self) -> usize {
        self.client.max_payload()
    }

    fn message_bytes_max(&self) -> usize {
        self.found.message_bytes_max.load(Ordering::Acquire)
    }

    async fn publish(
        &mut self,
        number: u64,
        subject: Subject,
        headers: HeaderMap,
        payload: Bytes,
    ) -> Result<(), Unsent> {
        let reply = format!("{}.{number}", self.inbox);
        let sent = self.client.publish_with_reply_and_headers(subject, reply, headers, payload).await;
        sent.map_err(|error| match error.kind() {
            PublishErrorKind::MaxPayloadExceeded => Unsent::TooLarge(error.to_string()),
            _ => Unsent::Broken(error.to_string()),
        })
    }

    async fn wait(&mut self, timeout: Duration) -> Option<Reply> {
        let message = tokio::select! {
            message = self.replies.next() => message,
            () = self.bell.wake.notified() => None,
            () = tokio::time::sleep(timeout) => None,
        };
        self.bell.rung.store(false, Ordering::Release);
        message.map(reply)
    }

    fn next(&mut self) -> Option<Reply> {
        self.replies.next().now_or_never().flatten().map(reply)
    }
}

fn reply(message: Message) -> Reply {
    let number = message.subject.rsplit('.').next().and_then(|number| number.parse().ok());
    let answer = match message.status {
        Some(StatusCode::NO_RESPONDERS) => Answer::NoResponders,
        _ => Answer::Json(message.payload),
    };
    // A number that nothing has.
    Reply { number: number.unwrap_or(u64::MAX), answer }
}

/// What is known of the stream.
struct Found {
    /// It is there.
    ready: AtomicBool,
    /// Its `max_msg_size`: most bytes of a message with its headers.
    message_bytes_max: AtomicUsize,
}

impl Found {
    fn note(&self, stream: &jetstream::stream::Stream) {
        // -1 is none.
        let limit = usize::try_from(stream.cached_info().config.max_message_size);
        let limit = limit.ok().filter(|limit| *limit > 0);
        self.message_bytes_max.store(limit.unwrap_or(usize::MAX), Ordering::Release);
    }
}

struct Bell {
    wake: Arc<Notify>,
    rung: AtomicBool,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.rung.swap(true, Ordering::AcqRel) {
            self.wake.notify_one();
        }
    }
}

/// Looks for the stream until it is there, and once a second whether it still is.
async fn keep_stream(
    client: async_nats::Client,
    config: NatsConfig,
    status: Arc<SideStatus>,
    link: Arc<Link>,
    found: Arc<Found>,
) {
    let context = jetstream::new(client);
    loop {
        if link.connected.load(Ordering::Acquire) && !found.ready.load(Ordering::Acquire) {
            match stream(&context, &config).await {
                Ok(stream) => {
                    found.note(&stream);
                    found.ready.store(true, Ordering::Release);
                    link.wake.notify_one();
                }
                Err(error) => status.set_trouble(Some(error)),
            }
        } else if link.connected.load(Ordering::Acquire) {
            let look = tokio::time::timeout(STILL_THERE_TIMEOUT, context.get_stream(&config.stream));
            let trouble = match look.await {
                Ok(Ok(stream)) => {
                    found.note(&stream);
                    config.not_covered(&stream.cached_info().config.subjects)
                }
                Ok(Err(error)) => Some(error.to_string()),
                Err(_) => Some(format!("no answer for {} ms", STILL_THERE_TIMEOUT.as_millis())),
            };
            if let Some(why) = trouble {
                found.ready.store(false, Ordering::Release);
                status.set_trouble(Some(format!(
                    "nats.stream = {} at {}: {why}",
                    config.stream, config.servers
                )));
                link.wake.notify_one();
            }
        }
        tokio::time::sleep(if found.ready.load(Ordering::Acquire) { LOOK_AGAIN } else { LOOK_AGAIN / 5 })
            .await;
    }
}
