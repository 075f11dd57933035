//! What the process behind this one says of itself, for `/api/v1/status`: the older gateway asked its services, too.
//!
//! A Tidegate there may have another one behind it, which it asks in turn; a field counts how far that has gone.

use std::time::Duration;

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::probe::Processor;

/// Longest wait for all of it (the older gateway's).
const TIMEOUT: Duration = Duration::from_secs(3);
/// Longest answer that is read.
const ANSWER_BYTES_MAX: u64 = 256 << 10;
/// The field that counts the processes that were asked on the way here.
pub const HOPS: &str = "tidegate-hops";
/// Processes in a row that are asked. More would be a circle.
const HOPS_MAX: u32 = 4;

/// The `processor` part of the other process' status, `hops` processes into the row.
///
/// # Errors
/// Why it is not known.
pub async fn processor(behind: &Processor, hops: u32) -> Result<Value, String> {
    if hops >= HOPS_MAX {
        return Err(format!("not asked: {HOPS_MAX} processes in a row were"));
    }
    // A Tidegate knows of all that is behind it; the older processor has its own counts only.
    match timeout(TIMEOUT, get(behind, "/api/v1/status", hops + 1)).await {
        Ok(Ok(mut status)) => Ok(status["processor"].take()),
        Ok(Err(Asked::NotThere)) => match timeout(TIMEOUT, get(behind, "/stats", hops + 1)).await {
            Ok(Ok(stats)) => Ok(serde_json::json!({ "healthy": true, "stats": stats })),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("no answer in time".to_owned()),
        },
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("no answer in time".to_owned()),
    }
}

#[derive(Debug, thiserror::Error)]
enum Asked {
    #[error("{0}")]
    Broken(#[from] std::io::Error),
    #[error("it does not know /stats")]
    NotThere,
    #[error("its answer is not understood")]
    NotUnderstood,
}

/// One GET on a connection of its own.
async fn get(behind: &Processor, path: &str, hops: u32) -> Result<Value, Asked> {
    let mut stream = TcpStream::connect((behind.host.as_str(), behind.port)).await?;
    let base = behind.path.strip_suffix("/enqueue").unwrap_or_default();
    let request = format!(
        "GET {base}{path} HTTP/1.1\r\nHost: {}\r\n{HOPS}: {hops}\r\n{}Connection: close\r\n\r\n",
        behind.host,
        behind.key_line()
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).await?;
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").ok_or(Asked::NotUnderstood)?;
    let (head, body) = answer.split_at(end + 4);
    match head.get(9..12) {
        Some(b"200") => serde_json::from_slice(body).map_err(|_| Asked::NotUnderstood),
        Some(b"404") => Err(Asked::NotThere),
        _ => Err(Asked::NotUnderstood),
    }
}
