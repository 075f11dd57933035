//! The client in front of a server that refuses, stalls and hangs up.
#![allow(clippy::unwrap_used, reason = "a test may panic, in its common part too")]

use std::{
    collections::VecDeque,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tidegate_client::{
    BatchConfig, Batcher, CallOptions, Client, Code, Config, Error, Fate, Status, Streaming,
    proto::analytics::v1::{
        Event, HealthResponse, IngestEventRequest, IngestEventResponse, IngestEventsRequest,
        IngestEventsResponse, StreamEventsRequest, StreamEventsResponse,
        event_ingestion_service_server::{EventIngestionService, EventIngestionServiceServer},
    },
};
use tokio::{net::TcpListener, sync::Semaphore};
use tokio_stream::{Stream, StreamExt, wrappers::TcpListenerStream};
use tonic::{
    Request, Response,
    metadata::MetadataMap,
    transport::{Identity, Server, ServerTlsConfig},
};
use tonic_types::{ErrorDetails, StatusExt};

/// What a call said: its metadata and its events.
type Seen = (MetadataMap, Vec<Event>);

/// Answers calls in turn as it was told; behind the last answer everything succeeds.
#[derive(Clone)]
struct Scripted {
    answers: Arc<Mutex<VecDeque<Status>>>,
    seen: Arc<Mutex<Vec<Seen>>>,
    /// A call takes one before it is answered.
    permits: Arc<Semaphore>,
    connections: Arc<AtomicUsize>,
}

impl Scripted {
    async fn next(&self, metadata: &MetadataMap, events: Vec<Event>) -> Result<(), Status> {
        self.seen.lock().unwrap().push((metadata.clone(), events));
        self.permits.acquire().await.unwrap().forget();
        self.answers.lock().unwrap().pop_front().map_or(Ok(()), Err)
    }

    fn calls(&self) -> usize {
        self.seen.lock().unwrap().len()
    }

    fn field(&self, call: usize, name: &str) -> String {
        self.seen.lock().unwrap()[call].0.get(name).unwrap().to_str().unwrap().to_owned()
    }

    fn ids(&self) -> Vec<Vec<String>> {
        let seen = self.seen.lock().unwrap();
        seen.iter().map(|(_, events)| events.iter().map(|event| event.id.clone()).collect()).collect()
    }
}

#[tonic::async_trait]
impl EventIngestionService for Scripted {
    type StreamEventsStream = Pin<Box<dyn Stream<Item = Result<StreamEventsResponse, Status>> + Send>>;

    async fn ingest_event(
        &self,
        request: Request<IngestEventRequest>,
    ) -> Result<Response<IngestEventResponse>, Status> {
        let event = request.get_ref().event.clone().unwrap();
        let event_id = event.id.clone();
        self.next(request.metadata(), vec![event]).await?;
        Ok(Response::new(IngestEventResponse { success: true, event_id, ..Default::default() }))
    }

    async fn ingest_events(
        &self,
        request: Request<IngestEventsRequest>,
    ) -> Result<Response<IngestEventsResponse>, Status> {
        self.next(request.metadata(), request.get_ref().events.clone()).await?;
        Ok(Response::new(IngestEventsResponse { success: true, ..Default::default() }))
    }

    async fn stream_events(
        &self,
        request: Request<Streaming<StreamEventsRequest>>,
    ) -> Result<Response<Self::StreamEventsStream>, Status> {
        self.next(request.metadata(), Vec::new()).await?;
        Ok(Response::new(Box::pin(tokio_stream::empty())))
    }

    async fn health(&self, _: Request<()>) -> Result<Response<HealthResponse>, Status> {
        Ok(Response::new(HealthResponse::default()))
    }
}

/// Serves these answers; hangs up on the first `dropped` connections.
async fn serve(answers: impl IntoIterator<Item = Status>, dropped: usize) -> (Scripted, SocketAddr) {
    let (scripted, address) = serve_held(answers, dropped).await;
    scripted.permits.add_permits(1000);
    (scripted, address)
}

/// The same, but nothing is answered until there are permits.
async fn serve_held(answers: impl IntoIterator<Item = Status>, dropped: usize) -> (Scripted, SocketAddr) {
    serve_from(Server::builder(), answers, dropped).await
}

async fn serve_from(
    mut server: Server,
    answers: impl IntoIterator<Item = Status>,
    dropped: usize,
) -> (Scripted, SocketAddr) {
    let scripted = Scripted {
        answers: Arc::new(Mutex::new(answers.into_iter().collect())),
        seen: Arc::default(),
        permits: Arc::new(Semaphore::new(0)),
        connections: Arc::default(),
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let connections = Arc::clone(&scripted.connections);
    let incoming = TcpListenerStream::new(listener).skip(dropped).map(move |stream| {
        connections.fetch_add(1, Ordering::Relaxed);
        stream
    });
    let service = EventIngestionServiceServer::new(scripted.clone());
    tokio::spawn(server.add_service(service).serve_with_incoming(incoming));
    (scripted, address)
}

fn quick(address: SocketAddr) -> Config {
    Config::new(format!("http://{address}")).retry_delay(Duration::from_millis(1), Duration::from_millis(1))
}

fn event() -> Event {
    Event { user_id: "u".into(), event_type: 1, ..Event::default() }
}

#[tokio::test]
async fn a_repeat_carries_the_same_id_and_what_is_left_of_the_budget() {
    let (server, address) = serve([Status::unavailable("no"), Status::deadline_exceeded("slow")], 0).await;
    let client = Client::new(quick(address).api_key("secret")).unwrap();
    let answer = client.ingest_event(event(), &CallOptions::new().request_id("r-1")).await.unwrap();
    assert_eq!(answer.timing.attempts, 3);
    let ids = server.ids();
    assert!(
        ids.iter().all(|sent| *sent == [answer.message.event_id.clone()] && !sent[0].is_empty()),
        "{ids:?}"
    );
    for call in 0..3 {
        assert_eq!(server.field(call, "x-api-key"), "secret");
        assert_eq!(server.field(call, "x-request-id"), "r-1");
    }
    // Microseconds, as tonic writes less than 100 s.
    let left = |call| server.field(call, "grpc-timeout").trim_end_matches('u').parse::<u64>().unwrap();
    assert!(
        left(2) < left(1) && left(1) < left(0) && left(0) <= 30_000_000,
        "{} {} {}",
        left(0),
        left(1),
        left(2)
    );
}

#[tokio::test]
async fn the_wait_of_retry_info_is_waited() {
    let wait = Duration::from_millis(300);
    let full = ErrorDetails::with_retry_info(Some(wait));
    let (server, address) =
        serve([Status::with_error_details(Code::ResourceExhausted, "full", full)], 0).await;
    let client = Client::new(quick(address)).unwrap();
    let answer = client.ingest_events(vec![event()], &CallOptions::new()).await.unwrap();
    assert!(answer.timing.total >= wait && server.calls() == 2, "{:?}", answer.timing);
}

#[tokio::test]
async fn without_an_id_only_the_servers_word_is_reason_enough() {
    let (server, address) = serve([Status::unavailable("perhaps")], 0).await;
    let client = Client::new(quick(address).give_ids(false)).unwrap();
    let refused = client.ingest_event(event(), &CallOptions::new()).await.unwrap_err();
    assert_eq!((refused.status().unwrap().code(), server.calls()), (Code::Unavailable, 1));

    let details = ErrorDetails::with_retry_info(Some(Duration::ZERO));
    let (server, address) =
        serve([Status::with_error_details(Code::Unavailable, "not taken", details)], 0).await;
    let client = Client::new(quick(address).give_ids(false)).unwrap();
    assert!(client.ingest_event(event(), &CallOptions::new()).await.is_ok());
    assert_eq!(server.calls(), 2);
}

#[tokio::test]
async fn what_is_wrong_is_not_sent_again() {
    for code in [Code::InvalidArgument, Code::Unauthenticated, Code::AlreadyExists, Code::FailedPrecondition]
    {
        let (server, address) = serve([Status::new(code, "no")], 0).await;
        let client = Client::new(quick(address)).unwrap();
        let refused = client.ingest_event(event(), &CallOptions::new()).await.unwrap_err();
        assert_eq!((refused.status().unwrap().code(), server.calls()), (code, 1));
    }
}

#[tokio::test]
async fn a_connection_that_breaks_is_opened_again() {
    let (server, address) = serve([], 2).await;
    let client = Client::new(quick(address).connections(1)).unwrap();
    let answer = client.ingest_event(event(), &CallOptions::new()).await.unwrap();
    assert!(answer.message.success && server.calls() == 1, "{:?}", answer.timing);
    assert!(answer.timing.attempts >= 2 && answer.timing.connect.is_some(), "{:?}", answer.timing);
    let again = client.ingest_event(event(), &CallOptions::new()).await.unwrap();
    assert!(again.timing.connect.is_none() && again.timing.first_byte <= Some(again.timing.total));
}

#[tokio::test]
async fn the_budget_ends_a_call_that_nobody_answers() {
    // A listener that takes connections and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let budget = Duration::from_millis(200);
    let client = Client::new(quick(silent.local_addr().unwrap()).budget(budget)).unwrap();
    let since = Instant::now();
    let outcome = client.ingest_event(event(), &CallOptions::new()).await;
    assert!(matches!(outcome, Err(Error::BudgetSpent { attempts: 1, .. })), "{outcome:?}");
    assert!(since.elapsed() >= budget);
}

/// An address at which nobody listens.
async fn nowhere() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

#[tokio::test]
async fn who_cannot_be_reached_is_named_with_the_cause() {
    let address = nowhere().await;
    let client = Client::new(quick(address).retries_max(1)).unwrap();
    let error = client.ingest_event(event(), &CallOptions::new()).await.unwrap_err().to_string();
    assert!(error.starts_with(&format!("http://{address} (2 attempts): ")), "{error}");
    assert!(error.contains("Connection refused"), "{error}");
    let opened = client.stream_events(tokio_stream::empty(), &CallOptions::new()).await.unwrap_err();
    assert!(opened.to_string().contains(&address.to_string()), "{opened}");
    let batcher = Batcher::new(client, BatchConfig::default()).unwrap();
    let receipt = batcher.send(event()).await.unwrap();
    batcher.close().await.unwrap();
    let Fate::BatchFailed { error, .. } = receipt.fate().await.unwrap() else { panic!("it was stored") };
    assert!(error.contains(&address.to_string()) && error.contains("Connection refused"), "{error}");
}

#[tokio::test]
async fn what_never_left_is_sent_again_also_without_an_id() {
    let client = Client::new(quick(nowhere().await).retries_max(2).give_ids(false)).unwrap();
    let refused = client.ingest_event(event(), &CallOptions::new()).await.unwrap_err();
    assert!(matches!(refused, Error::Refused { attempts: 3, .. }), "{refused:?}");
}

#[tokio::test]
async fn many_calls_at_once_share_a_few_connections() {
    let (server, address) = serve([], 0).await;
    let client = Client::new(quick(address).connections(3)).unwrap();
    let calls = (0..100).map(|_| {
        let client = client.clone();
        tokio::spawn(async move { client.ingest_event(event(), &CallOptions::new()).await.unwrap() })
    });
    for call in calls.collect::<Vec<_>>() {
        call.await.unwrap();
    }
    assert_eq!((server.calls(), server.connections.load(Ordering::Relaxed)), (100, 3));
}

#[tokio::test]
async fn a_full_batcher_gives_the_event_back_and_sends_what_it_has() {
    let (server, address) = serve_held([], 0).await;
    let config = BatchConfig { events_max: 2, queue_events: 2, in_flight_max: 1, ..BatchConfig::default() };
    let batcher = Batcher::new(Client::new(quick(address)).unwrap(), config).unwrap();
    let mut receipts = Vec::new();
    // 2 under way, 2 collected, 2 in the queue; the worker takes them when it runs.
    let back = loop {
        match batcher.try_send(event()) {
            Ok(receipt) => receipts.push(receipt),
            Err(back) if server.calls() == 1 && receipts.len() == 6 => break back,
            Err(_) => tokio::task::yield_now().await,
        }
    };
    assert_eq!(back.user_id, "u");
    server.permits.add_permits(1000);
    batcher.close().await.unwrap();
    let mut stored = Vec::new();
    for receipt in receipts {
        match receipt.fate().await.unwrap() {
            Fate::Stored { id } => stored.push(id),
            other => panic!("{other:?}"),
        }
    }
    let sent: Vec<String> = server.ids().concat();
    assert_eq!((sent, server.calls()), (stored, 3));
}

#[tokio::test]
async fn one_id_twice_goes_into_two_batches() {
    let (server, address) = serve([], 0).await;
    let batcher = Batcher::new(Client::new(quick(address)).unwrap(), BatchConfig::default()).unwrap();
    for id in ["a", "b", "a"] {
        batcher.send(Event { id: id.into(), ..event() }).await.unwrap();
    }
    batcher.close().await.unwrap();
    let mut ids = server.ids();
    ids.sort_by_key(Vec::len);
    assert_eq!(ids, [vec!["a"], vec!["a", "b"]]);
}

#[tokio::test]
async fn over_tls_only_a_trusted_server_is_spoken_to() {
    let sign = || rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (signed, another) = (sign(), sign());
    let certificate = signed.cert.pem();
    let identity = Identity::from_pem(&certificate, signed.signing_key.serialize_pem());
    let tls = Server::builder().tls_config(ServerTlsConfig::new().identity(identity)).unwrap();
    let (server, address) = serve_from(tls, [], 0).await;
    server.permits.add_permits(1);
    let config = || Config::new(format!("https://localhost:{}", address.port())).retries_max(0);

    let stranger = Client::new(config().authority(another.cert.pem())).unwrap();
    let refused = stranger.ingest_event(event(), &CallOptions::new()).await.unwrap_err();
    assert!(refused.status().is_some() && server.calls() == 0, "{refused}");
    let trusting = Client::new(config().authority(certificate)).unwrap();
    assert!(trusting.ingest_event(event(), &CallOptions::new()).await.unwrap().message.success);
    assert_eq!(server.calls(), 1);
}

#[tokio::test]
async fn what_is_too_large_is_not_sent_at_all() {
    let (server, address) = serve([], 0).await;
    let client = Client::new(quick(address)).unwrap();
    let large = Event { source: "x".repeat(10 << 20), ..event() };
    let outcome = client.ingest_event(large, &CallOptions::new()).await;
    assert!(matches!(outcome, Err(Error::TooLarge { bytes }) if bytes > 10 << 20), "{outcome:?}");
    assert_eq!(server.calls(), 0);
}
