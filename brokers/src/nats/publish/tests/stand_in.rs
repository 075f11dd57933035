//! What JetStream cannot be brought to say: a nats-server without it, and a client of it that answers in its place.

use std::thread;

use serde_json::json;
use tokio::sync::oneshot;

use super::{super::super::verdict::VERDICTS, *};

/// What becomes of a publish.
#[derive(Clone, Copy)]
enum Answer {
    Take,
    Refuse(u64, &'static str),
    /// It is stored, and the acknowledgement is lost.
    TakeInSilence,
}

#[derive(Default)]
struct Told {
    /// For the publishes that come next.
    answers: VecDeque<Answer>,
    /// For those behind, when they are not taken.
    then: Option<Answer>,
    /// A record that is refused with this, whatever it is packed with.
    unwanted: Option<(u64, u64, &'static str)>,
    stored: Vec<(String, Vec<u64>)>,
    /// Said to be the stream's `max_msg_size`.
    limit: Option<u32>,
    /// How often each record was refused.
    refusals: HashMap<u64, u32>,
}

/// Answers for JetStream until it is dropped.
struct StandIn {
    told: Arc<Mutex<Told>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl StandIn {
    fn start(broker: &Broker) -> Self {
        let told = Arc::new(Mutex::new(Told::default()));
        let (stop, stopped) = oneshot::channel();
        let (up, is_up) = crossbeam_channel::bounded(1);
        let (port, shared) = (broker.process.port, Arc::clone(&told));
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let client = async_nats::connect(format!("nats://127.0.0.1:{port}")).await.unwrap();
                let asked = client.subscribe(format!("$JS.API.STREAM.INFO.{STREAM}")).await.unwrap();
                let published = client.subscribe(SUBJECT).await.unwrap();
                client.flush().await.unwrap();
                up.send(()).unwrap();
                let mut messages = futures_util::stream::select(asked, published);
                let answering = async {
                    while let Some(message) = messages.next().await {
                        let answer = if message.subject.as_str() == SUBJECT {
                            shared.lock().answer(&message)
                        } else {
                            Some(info(shared.lock().limit))
                        };
                        if let (Some(answer), Some(reply)) = (answer, message.reply) {
                            client.publish(reply, answer.to_string().into()).await.unwrap();
                        }
                    }
                };
                tokio::select! {
                    () = answering => {}
                    _ = stopped => {}
                }
            });
        });
        is_up.recv_timeout(PATIENCE).unwrap();
        Self { told, stop: Some(stop), thread: Some(thread) }
    }

    fn tell(&self, answers: impl IntoIterator<Item = Answer>) {
        *self.told.lock() = Told { answers: answers.into_iter().collect(), ..Told::default() };
    }

    /// The numbers of all stored records, in order.
    fn numbers(&self) -> Vec<u64> {
        self.told.lock().stored.iter().flat_map(|(_, numbers)| numbers.clone()).collect()
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        drop(self.stop.take());
        // A test that failed says so by itself.
        let _ = self.thread.take().map(thread::JoinHandle::join);
    }
}

impl Told {
    fn answer(&mut self, message: &Message) -> Option<serde_json::Value> {
        let (id, numbers) = read(message.headers.as_ref().unwrap(), &message.payload);
        let mut refusal = |code: u64, description: &str| {
            numbers.iter().for_each(|number| *self.refusals.entry(*number).or_default() += 1);
            Some(json!({
                "stream": STREAM, "seq": 0,
                "error": { "code": 400, "err_code": code, "description": description },
            }))
        };
        if let Some((unwanted, code, description)) = self.unwanted
            && numbers.contains(&unwanted)
        {
            return refusal(code, description);
        }
        let answer = self.answers.pop_front().or(self.then).unwrap_or(Answer::Take);
        if let Answer::Refuse(code, description) = answer {
            return refusal(code, description);
        }
        let duplicate = self.stored.iter().any(|(known, _)| *known == id);
        if !duplicate {
            self.stored.push((id, numbers));
        }
        let taken = json!({ "stream": STREAM, "seq": self.stored.len(), "duplicate": duplicate });
        matches!(answer, Answer::Take).then_some(taken)
    }
}

fn info(limit: Option<u32>) -> serde_json::Value {
    let limit = limit.map_or(-1, i64::from);
    json!({
        "type": "io.nats.jetstream.api.v1.stream_info_response",
        "config": {
            "name": STREAM, "subjects": ["tests.*"], "retention": "workqueue", "discard": "new", "storage": "file",
            "max_consumers": -1, "max_msgs": -1, "max_bytes": -1, "max_age": 0, "max_msgs_per_subject": -1,
            "max_msg_size": limit, "num_replicas": 1, "duplicate_window": 120_000_000_000_u64,
        },
        "created": "2026-01-01T00:00:00Z",
        "state": {
            "messages": 0, "bytes": 0, "first_seq": 0, "first_ts": "0001-01-01T00:00:00Z",
            "last_seq": 0, "last_ts": "0001-01-01T00:00:00Z", "consumer_count": 0,
        },
    })
}

/// The codes that judge a message, with what is said with them.
const OF_MESSAGES: [(u64, &str); 3] = [
    (10054, "message size exceeds maximum allowed"),
    (10097, "header size exceeds maximum allowed of 64k"),
    (10077, "message too large"),
];

#[test]
fn no_code_of_the_stream_or_the_server_buries_a_message_or_changes_the_order() {
    let Some(broker) = Broker::start_with(false) else { return };
    let stand_in = StandIn::start(&broker);
    let judged = VERDICTS.iter().filter(|row| row.verdict != Verdict::Message).map(|row| row.code);
    // What nobody has heard of yet.
    let unknown = [0, 10_003, 19_999];
    for (code, pack_messages) in judged.chain(unknown).zip([1, 4].into_iter().cycle()) {
        // As a stream does that takes nothing any more.
        stand_in.tell([Answer::Take, Answer::Take]);
        stand_in.told.lock().then = Some(Answer::Refuse(code, "for now"));
        let mut publisher = broker.publisher(pack_messages);
        offer(&mut publisher, 0..80, |_| 10);
        let mut outcomes = HashMap::new();
        // Twice: nothing of the first try is under way any more.
        drive(&mut publisher, &mut outcomes, |_, _| {
            stand_in.told.lock().refusals.values().any(|count| *count > 1)
        });
        let said = publisher.status.trouble().unwrap_or_default();
        assert!(said.contains(&format!("code {code};")), "{said}");
        stand_in.told.lock().then = None;
        drive(&mut publisher, &mut outcomes, |publisher, _| publisher.in_flight() == 0);
        assert_eq!(outcomes.len(), 80, "{code}");
        assert_eq!(refused(&outcomes), [], "{code}");
        assert_eq!(stand_in.numbers(), (0..80).collect::<Vec<_>>(), "{code}, packs of {pack_messages}");
    }
}

#[test]
fn a_code_that_judges_a_message_takes_a_pack_apart_and_buries_a_record_alone() {
    let Some(broker) = Broker::start_with(false) else { return };
    let stand_in = StandIn::start(&broker);
    for (code, description) in OF_MESSAGES {
        stand_in.tell([]);
        stand_in.told.lock().unwanted = Some((7, code, description));
        let mut publisher = broker.publisher(16);
        offer(&mut publisher, 0..16, |_| 10);
        let outcomes = decide(&mut publisher);
        assert_eq!(outcomes.len(), 16, "{code}");
        assert_eq!(refused(&outcomes), [(7, code.to_string().as_str())]);
        assert_eq!(stand_in.numbers(), (0..16).filter(|number| *number != 7).collect::<Vec<_>>());
        // 8 to 15, 0 to 3, 4 and 5, and 6, which is alone: as few as can be.
        assert_eq!(stand_in.told.lock().stored.len(), 4);
    }
}

#[test]
fn a_pack_that_was_refused_without_a_record_to_blame_is_stored_in_halves() {
    let Some(broker) = Broker::start_with(false) else { return };
    let stand_in = StandIn::start(&broker);
    for (code, description) in OF_MESSAGES {
        stand_in.tell([Answer::Refuse(code, description)]);
        let mut publisher = broker.publisher(16);
        offer(&mut publisher, 0..16, |_| 10);
        let outcomes = decide(&mut publisher);
        assert_eq!(refused(&outcomes), []);
        let stored = stand_in.told.lock().stored.iter().map(|(_, numbers)| numbers.len()).collect::<Vec<_>>();
        assert_eq!(stored, [8, 8]);
        assert_eq!(stand_in.numbers(), (0..16).collect::<Vec<_>>());
    }
}

#[test]
fn a_piece_whose_acknowledgement_is_lost_is_stored_once() {
    let Some(broker) = Broker::start_with(false) else { return };
    let stand_in = StandIn::start(&broker);
    for records in [2, 16] {
        stand_in.tell([Answer::Refuse(10054, "message size exceeds maximum allowed"), Answer::TakeInSilence]);
        let mut publisher = broker.publisher_with(16, Duration::from_millis(500));
        offer(&mut publisher, 0..records, |_| 10);
        let outcomes = decide(&mut publisher);
        assert_eq!(refused(&outcomes), []);
        assert_eq!(stand_in.numbers(), (0..records).collect::<Vec<_>>());
    }
}

#[test]
fn a_pack_that_may_be_stored_is_not_taken_apart_because_the_limit_is_lower_now() {
    let Some(broker) = Broker::start_with(false) else { return };
    let stand_in = StandIn::start(&broker);
    stand_in.tell([Answer::TakeInSilence]);
    let mut publisher = broker.publisher_with(16, Duration::from_millis(500));
    stand_in.told.lock().limit = Some(1000);
    offer(&mut publisher, 0..16, |_| 100);
    let outcomes = decide(&mut publisher);
    assert_eq!(refused(&outcomes), []);
    assert_eq!(stand_in.numbers(), (0..16).collect::<Vec<_>>());
}
