//! RPCs that the cold lane answered, by method and code.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::LazyLock,
};

use http::{HeaderMap, Request, header::CONTENT_TYPE};
use parking_lot::Mutex;
use prost::Message;
use prost_types::FileDescriptorSet;
use transports::GRPC_CODES;

/// gRPC's code of an end without one.
pub(super) const UNKNOWN: usize = 2;
/// gRPC's code of what is out of reach for now.
pub(super) const UNAVAILABLE: usize = 14;

/// The paths of every method that is served. What callers make up is none, or a scan would fill the memory.
static METHODS: LazyLock<BTreeSet<String>> = LazyLock::new(|| {
    let sets = [
        tidegate_proto::FILE_DESCRIPTOR_SET,
        tonic_health::pb::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
    ];
    let mut methods = BTreeSet::new();
    for file in sets.into_iter().flat_map(|set| FileDescriptorSet::decode(set).unwrap_or_default().file) {
        let package = if file.package().is_empty() { String::new() } else { format!("{}.", file.package()) };
        for service in &file.service {
            methods.extend(
                service.method.iter().map(|method| format!("/{package}{}/{}", service.name(), method.name())),
            );
        }
    }
    methods
});

/// The path of the method that a request calls, if it is an RPC of one that there is.
pub(super) fn called<B>(request: &Request<B>) -> Option<&'static str> {
    let content_type = request.headers().get(CONTENT_TYPE)?;
    let is_grpc = content_type.as_bytes().starts_with(b"application/grpc");
    METHODS.get(request.uri().path()).filter(|_| is_grpc).map(String::as_str)
}

/// The code that a head or trailers end an RPC with.
pub(super) fn code(fields: &HeaderMap) -> usize {
    let code = fields.get("grpc-status").and_then(|code| code.to_str().ok()?.parse().ok());
    code.filter(|code| *code < GRPC_CODES).unwrap_or(UNKNOWN)
}

/// How many RPCs ended with which code. Bounded by the methods that there are.
#[derive(Debug, Default)]
pub struct RpcCounts(Mutex<BTreeMap<(&'static str, usize), u64>>);

impl RpcCounts {
    /// Counts one that ended.
    pub(super) fn note(&self, path: &'static str, code: usize) {
        *self.0.lock().entry((path, code)).or_default() += 1;
    }

    /// A copy of all counts, by path and code.
    pub(super) fn all(&self) -> BTreeMap<(&'static str, usize), u64> {
        self.0.lock().clone()
    }
}
