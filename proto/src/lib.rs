//! The `.proto` files of Tidegate and what is generated from them.
//!
//! The generated files are committed, so a build needs no `protoc`; `cargo xtask proto` writes them anew with a
//! compiler that is a crate (protox), and a test of `xtask` fails when they drift from the `.proto` files.
//!
//! The hot lane does not decode with these types (it walks the bytes in place); clients, tests and the cold lane do.

mod request;

pub use request::wrong_value;

/// Package `diplom.v1`: ingestion and the records between the stages.
#[allow(missing_docs, clippy::all, rustdoc::all)]
pub mod diplom {
    /// Version 1.
    pub mod v1 {
        include!("gen/diplom.v1.rs");
    }
}

/// Package `analytics.v1`: typed events, and the answers computed from them.
#[allow(missing_docs, clippy::all, rustdoc::all)]
pub mod analytics {
    /// The older system's services; their package has no version.
    pub mod legacy {
        include!("gen/analytics.rs");
    }

    /// Version 1.
    pub mod v1 {
        include!("gen/analytics.v1.rs");
    }
}

/// The package-less `IngestService`, for older command lines.
#[allow(missing_docs, clippy::all, rustdoc::all)]
pub mod compat {
    include!("gen/_.rs");
}

/// Every file above as one serialised `google.protobuf.FileDescriptorSet`, for gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!("gen/descriptors.bin");
