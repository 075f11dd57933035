//! Taking messages: a durable pull consumer, each message acknowledged after it was worked on.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Wake, Waker},
    time::{Duration, Instant},
};

use async_nats::{
    Client, HeaderMap,
    jetstream::{
        self, AckKind, Message,
        consumer::{AckPolicy, PullConsumer, pull},
    },
};
use bytes::Bytes;
use engine_core::clock;
use futures_util::StreamExt;
use tokio::runtime::Runtime;

use super::{Broken, Link, NatsConfig, PACK_HEADER, connect, stream};
use crate::{
    inbound::{Source, Taken, take_data_message},
    raw_message,
    status::SideStatus,
};

/// Time to work on a message before it is given to another: the older system's.
const ACK_WAIT: Duration = Duration::from_secs(30);
/// Messages that one pull asks for.
const PULL_MAX: usize = 500;
/// How often the lag is asked for.
const LAG_EVERY: Duration = Duration::from_secs(2);
/// Wait for more when there is something already.
const SHORTLY: Duration = Duration::from_millis(1);
/// How long the server may take, at the end, to say that it has every acknowledgement.
const FINISH_TIMEOUT: Duration = Duration::from_secs(2);
/// Pause before a lost consumer is looked for again.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// Taker of the stream's messages.
pub struct NatsSource {
    config: NatsConfig,
    status: Arc<SideStatus>,
    runtime: Arc<Runtime>,
    link: Arc<Link>,
    client: Client,
    consumer: Option<PullConsumer>,
    look_at: Instant,
    lag_at: Instant,
    next: u64,
    /// Records that were not asked for yet: what a pack held more.
    unpacked: VecDeque<(u64, Value)>,
    /// The message of each record that is being worked on.
    under_way: HashMap<u64, u64>,
    /// Messages, with how many of their records are not done.
    messages: HashMap<u64, (usize, Message)>,
    done: Vec<Message>,
    /// When the server is told again that these are being worked on.
    tell_at: Instant,
    bell: Arc<Bell>,
}

/// A record as it came.
enum Value {
    /// A `DataMessage`, or what should be one.
    DataMessage(Bytes),
    /// A payload, and headers with the rest.
    Raw(HeaderMap, Bytes),
}

impl Value {
    fn hand_on(&self, tag: u64, each: &mut dyn FnMut(u64, Taken<'_>)) {
        let (headers, payload) = match self {
            Value::DataMessage(value) => return take_data_message(tag, value, each),
            Value::Raw(headers, payload) => (headers, payload),
        };
        let mut read = Vec::new();
        for (name, values) in headers.iter() {
            let name =
                String::from_utf8_lossy(&raw_message::unescape(name.to_string().as_bytes())).into_owned();
            for value in values {
                read.push((name.clone(), raw_message::unescape(value.as_str().as_bytes())));
            }
        }
        // The headers of this client have no order.
        read.sort_by(|(one, _), (other, _)| one.cmp(other));
        let read: Vec<(&str, &[u8])> =
            read.iter().map(|(name, value)| (name.as_str(), value.as_slice())).collect();
        raw_message::read(&read, payload, |record| each(tag, Taken::Message(record)));
    }
}

struct Bell {
    link: Arc<Link>,
    rung: AtomicBool,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        if !self.rung.swap(true, Ordering::AcqRel) {
            self.link.wake.notify_one();
        }
    }
}

impl NatsSource {
    /// A taker; it need not reach a server yet.
    ///
    /// # Errors
    /// What is wrong with the configuration.
    pub fn new(config: NatsConfig, status: Arc<SideStatus>) -> Result<Self, String> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| format!("nats: no runtime: {error}"))?;
        let link = Arc::new(Link::default());
        let client = runtime.block_on(connect(&config, &status, &link, Broken::Reconnect))?;
        let bell = Arc::new(Bell { link: Arc::clone(&link), rung: AtomicBool::new(false) });
        Ok(Self {
            config,
            status,
            runtime: Arc::new(runtime),
            link,
            client,
            consumer: None,
            look_at: clock::now(),
            lag_at: clock::now(),
            next: 0,
            unpacked: VecDeque::new(),
            under_way: HashMap::new(),
            messages: HashMap::new(),
            done: Vec::new(),
            tell_at: clock::now(),
            bell,
        })
    }

    /// The consumer; made if it is not there.
    async fn look(&mut self) {
        if self.consumer.is_some()
            || clock::now() < self.look_at
            || !self.link.connected.load(Ordering::Acquire)
        {
            return;
        }
        self.look_at = clock::now() + LOOK_AGAIN;
        let context = jetstream::new(self.client.clone());
        let found = async {
            let stream = stream(&context, &self.config).await?;
            let wanted = pull::Config {
                durable_name: Some(self.config.consumer.clone()),
                ack_policy: AckPolicy::Explicit,
                ack_wait: ACK_WAIT,
                // Until it was worked on; what never can be is a dead letter of ours.
                max_deliver: -1,
                max_ack_pending: 20_000,
                ..Default::default()
            };
            stream
                .get_or_create_consumer(&self.config.consumer, wanted)
                .await
                .map_err(|error| format!("nats.consumer = {}: {error}", self.config.consumer))
        };
        match found.await {
            Ok(consumer) => self.consumer = Some(consumer),
            Err(error) => tracing::debug!(broker = self.status.name, error, "no consumer yet"),
        }
    }

    /// Cores may take longer than the ack wait, and what waits for one is as good as being worked on: nobody else is to get it.
    fn tell_of_work(&mut self) {
        let Some(consumer) = self.consumer.as_ref().filter(|_| clock::now() >= self.tell_at) else { return };
        self.tell_at = clock::now() + consumer.cached_info().config.ack_wait / 3;
        let messages = &self.messages;
        self.runtime.block_on(async {
            for (_, message) in messages.values() {
                if let Err(error) = message.ack_with(AckKind::Progress).await {
                    tracing::debug!(broker = self.status.name, %error, "the server is not told of work");
                }
            }
        });
    }

    async fn pull(&mut self, max: usize, timeout: Duration, each: &mut dyn FnMut(u64, Taken<'_>)) {
        self.look().await;
        let link = Arc::clone(&self.link);
        let Some(consumer) = &mut self.consumer else {
            tokio::time::sleep(timeout).await;
            return;
        };
        if clock::now() >= self.lag_at {
            self.lag_at = clock::now() + LAG_EVERY;
            match consumer.info().await {
                Ok(info) => {
                    let lag = info.num_pending + info.num_ack_pending as u64;
                    self.status.lag.store(lag, Ordering::Relaxed);
                }
                Err(error) => {
                    tracing::debug!(broker = self.status.name, %error, "the consumer does not answer");
                    self.consumer = None;
                    return;
                }
            }
        }
        if max == 0 {
            tokio::select! {
                () = link.wake.notified() => {}
                () = tokio::time::sleep(timeout) => {}
            }
            self.bell.rung.store(false, Ordering::Release);
            return;
        }
        let mut given = 0;
        while given < max
            && let Some((tag, record)) = self.unpacked.pop_front()
        {
            given += 1;
            record.hand_on(tag, each);
        }
        if given == max {
            return;
        }
        let timeout = if given > 0 { SHORTLY } else { timeout };
        let pulled =
            consumer.fetch().max_messages((max - given).min(PULL_MAX)).expires(timeout).messages().await;
        let mut messages = match pulled {
            Ok(messages) => messages,
            Err(error) => {
                tracing::debug!(broker = self.status.name, %error, "nothing to take");
                self.consumer = None;
                return;
            }
        };
        while let Some(message) = messages.next().await {
            let Ok(message) = message else { break };
            if message.info().is_ok_and(|info| info.delivered > 1) {
                self.status.redelivered.fetch_add(1, Ordering::Relaxed);
            }
            self.status.consumed.fetch_add(1, Ordering::Relaxed);
            let number = self.next;
            let records = records(&message);
            let count = records.len();
            for record in records {
                let tag = self.next;
                self.next += 1;
                self.under_way.insert(tag, number);
                if given < max {
                    given += 1;
                    record.hand_on(tag, each);
                } else {
                    self.unpacked.push_back((tag, record));
                }
            }
            self.messages.insert(number, (count, message));
        }
    }
}

/// What a message holds: one record, or those of a pack.
fn records(message: &Message) -> Vec<Value> {
    let headers = message.headers.as_ref();
    let header = |name: &str| headers.and_then(|headers| headers.get(name));
    let payload = &message.payload;
    if let Some(headers) =
        headers.filter(|_| header("schema").is_some_and(|name| name.as_str() == raw_message::SCHEMA))
    {
        return vec![Value::Raw(headers.clone(), payload.clone())];
    }
    if header(PACK_HEADER).is_none() {
        return vec![Value::DataMessage(payload.clone())];
    }
    payload.split(|byte| *byte == b'\n').map(|line| Value::DataMessage(payload.slice_ref(line))).collect()
}

impl Source for NatsSource {
    fn take(&mut self, max: usize, timeout: Duration, each: &mut dyn FnMut(u64, Taken<'_>)) {
        let runtime = Arc::clone(&self.runtime);
        runtime.block_on(self.pull(max, timeout, each));
    }

    fn done(&mut self, tag: u64) {
        let Some(number) = self.under_way.remove(&tag) else { return };
        let Some((left, _)) = self.messages.get_mut(&number) else { return };
        *left -= 1;
        if *left == 0 {
            self.done.extend(self.messages.remove(&number).map(|(_, message)| message));
        }
    }

    fn flush(&mut self) {
        self.tell_of_work();
        if self.done.is_empty() {
            return;
        }
        let done = std::mem::take(&mut self.done);
        let runtime = Arc::clone(&self.runtime);
        runtime.block_on(async {
            for message in done {
                if let Err(error) = message.ack_with(AckKind::Ack).await {
                    // It comes again after the ack wait.
                    tracing::debug!(broker = self.status.name, %error, "a message is not acknowledged");
                }
            }
        });
    }

    fn finish(&mut self) {
        self.flush();
        let runtime = Arc::clone(&self.runtime);
        let Some(consumer) = &mut self.consumer else { return };
        // The server reads a connection in order: when it answers, it has read every acknowledgement.
        let told = runtime.block_on(async { tokio::time::timeout(FINISH_TIMEOUT, consumer.info()).await });
        if !matches!(told, Ok(Ok(_))) {
            tracing::warn!(
                broker = self.status.name,
                "the server did not say that it has the last acknowledgements; those messages may come again"
            );
        }
    }

    fn left(&self) -> usize {
        self.unpacked.len()
    }

    fn waker(&self) -> Waker {
        Waker::from(Arc::clone(&self.bell))
    }

    fn name(&self) -> &str {
        &self.status.name
    }
}
