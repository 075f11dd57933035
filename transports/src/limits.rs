//! What a client may do, and for how long.

use std::time::Duration;

/// The bounds of the front ends; every one is configuration, hitting one is counted with its reason.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Largest HTTP body, in bytes.
    pub http_body_bytes_max: usize,
    /// Largest gRPC message after decompression, in bytes.
    pub grpc_message_bytes_max: usize,
    /// Largest header list, in bytes (names, values and 32 each: RFC 9113 §6.5.2).
    pub header_list_bytes_max: usize,
    /// Most header fields.
    pub header_fields_max: usize,
    /// HTTP/2 streams open at once on one connection.
    pub concurrent_streams_max: usize,
    /// Largest HTTP/2 frame from a client, in bytes.
    pub frame_bytes_max: usize,
    /// Connections in all, over all cores; 0 derives it from the limit on open files.
    pub connections_max: usize,
    /// Connections of one address that is not loopback.
    pub connections_per_address_max: usize,
    /// From accept to the bytes that tell the protocol.
    pub preface_timeout: Duration,
    /// For a whole request head.
    pub header_timeout: Duration,
    /// Between two pieces of a body.
    pub body_idle_timeout: Duration,
    /// Without progress while an answer waits to be taken.
    pub write_timeout: Duration,
    /// With nothing to do.
    pub idle_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            http_body_bytes_max: 10 << 20,
            grpc_message_bytes_max: 10 << 20,
            header_list_bytes_max: 16 << 10,
            header_fields_max: 100,
            concurrent_streams_max: 128,
            frame_bytes_max: 16_384,
            connections_max: 0,
            connections_per_address_max: 256,
            preface_timeout: Duration::from_secs(5),
            header_timeout: Duration::from_secs(10),
            body_idle_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(120),
        }
    }
}
