//! The peers: axum and tonic, each on tokio's current-thread runtime, doing the work Tidegate does per message.
//!
//! Decode the message, make an id that sorts by time, push a copy into a bounded queue that a task drains and counts,
//! answer with the id. Written as their own documentation would have it; TCP_NODELAY is set, and tonic's windows are
//! large, because its default window ends long streams with ENHANCE_YOUR_CALM.

use std::{collections::HashMap, net::Ipv4Addr};

use anyhow::Result;
use axum::{Json, Router, extract::State, http::StatusCode, routing::post, serve::ListenerExt};
use serde::{Deserialize, Serialize};
use tidegate_proto::diplom::v1::{
    IngestRequest, IngestResponse,
    ingest_service_server::{IngestService, IngestServiceServer},
};
use tokio::{net::TcpListener, sync::mpsc};
use tokio_stream::StreamExt;
use tonic::{Request, Response, Status, Streaming};
use uuid::Uuid;

/// Messages that may wait in the queue: Tidegate's default.
const QUEUE_MESSAGES: usize = 65_536;
/// The queue is drained so many at a time.
const DRAIN_BATCH: usize = 256;
/// Window of each gRPC stream.
const STREAM_WINDOW_BYTES: u32 = 16 << 20;
/// Window of a gRPC connection. `h2` 0.4.20 bounds the small DATA frames it holds by this window, and says
/// ENHANCE_YOUR_CALM (`too_many_data_frames`) to a stream of one small message per frame with one of 16 MiB.
const CONNECTION_WINDOW_BYTES: u32 = 1 << 30;

/// The line that says where a peer listens.
pub const READY: &str = "listening on ";

/// A bounded queue whose other end is drained by a task.
#[derive(Clone)]
struct Queue(mpsc::Sender<Vec<u8>>);

impl Queue {
    fn start() -> Self {
        let (sender, mut receiver) = mpsc::channel(QUEUE_MESSAGES);
        tokio::spawn(async move {
            let mut batch: Vec<Vec<u8>> = Vec::with_capacity(DRAIN_BATCH);
            let mut bytes = 0_u64;
            while receiver.recv_many(&mut batch, DRAIN_BATCH).await > 0 {
                bytes += batch.drain(..).map(|message| message.len() as u64).sum::<u64>();
                std::hint::black_box(bytes);
            }
        });
        Self(sender)
    }

    /// Pushes a copy; false when the queue is full.
    fn push(&self, data: &[u8]) -> bool {
        self.0.try_send(data.to_vec()).is_ok()
    }
}

#[derive(Deserialize)]
struct JsonMessage {
    #[serde(default)]
    source: String,
    #[serde(default)]
    data: String,
    #[serde(default)]
    metadata: HashMap<String, String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct JsonAnswer {
    message_id: Uuid,
    status: &'static str,
    ack: &'static str,
}

async fn ingest(
    State(queue): State<Queue>,
    Json(message): Json<JsonMessage>,
) -> Result<Json<JsonAnswer>, StatusCode> {
    std::hint::black_box((&message.source, &message.metadata));
    if !queue.push(message.data.as_bytes()) {
        return Err(StatusCode::SERVICE_UNAVAILABLE);
    }
    Ok(Json(JsonAnswer { message_id: Uuid::now_v7(), status: "accepted", ack: "queued" }))
}

/// Serves `POST /api/v1/ingest` over HTTP/1.1 and h2c until it is killed.
///
/// # Errors
/// When the port cannot be opened.
pub fn serve_axum(port: u16) -> Result<()> {
    run(async {
        let listener = listen(port).await?;
        let listener = listener.tap_io(|socket| {
            // A socket that is gone already will be noticed by its first read.
            let _ = socket.set_nodelay(true);
        });
        let router = Router::new().route("/api/v1/ingest", post(ingest)).with_state(Queue::start());
        Ok(axum::serve(listener, router).await?)
    })
}

struct Grpc(Queue);

impl Grpc {
    fn take(&self, message: &IngestRequest) -> Result<(), Status> {
        std::hint::black_box((&message.source, &message.metadata));
        if self.0.push(&message.data) { Ok(()) } else { Err(Status::resource_exhausted("queue is full")) }
    }
}

#[tonic::async_trait]
impl IngestService for Grpc {
    async fn ingest(&self, request: Request<IngestRequest>) -> Result<Response<IngestResponse>, Status> {
        self.take(request.get_ref())?;
        let message_id = Uuid::now_v7().to_string();
        Ok(Response::new(IngestResponse { message_id, status: "accepted".to_owned() }))
    }

    async fn ingest_stream(
        &self,
        request: Request<Streaming<IngestRequest>>,
    ) -> Result<Response<IngestResponse>, Status> {
        let mut messages = request.into_inner();
        let mut count = 0_u64;
        while let Some(message) = messages.next().await {
            let message = message?;
            std::hint::black_box((&message.source, &message.metadata));
            // A full queue holds a stream back, as Tidegate does by its window.
            if self.0.0.send(message.data.to_vec()).await.is_err() {
                return Err(Status::unavailable("the queue is gone"));
            }
            count += 1;
        }
        Ok(Response::new(IngestResponse {
            message_id: format!("batch-{count}"),
            status: "completed".to_owned(),
        }))
    }
}

/// Serves `diplom.v1.IngestService` until it is killed.
///
/// # Errors
/// When the port cannot be opened.
pub fn serve_tonic(port: u16) -> Result<()> {
    run(async {
        let incoming =
            tonic::transport::server::TcpIncoming::from(listen(port).await?).with_nodelay(Some(true));
        let service = IngestServiceServer::new(Grpc(Queue::start()));
        let server = tonic::transport::Server::builder()
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .add_service(service);
        Ok(server.serve_with_incoming(incoming).await?)
    })
}

async fn listen(port: u16) -> Result<TcpListener> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    println!("{READY}{}", listener.local_addr()?);
    Ok(listener)
}

fn run(server: impl Future<Output = Result<()>>) -> Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(server)
}
