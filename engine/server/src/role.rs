//! Which part of the house a process is: all of it, or under the name of one of the older programs that program's
//! listeners alone.

use transports::Role as Listener;

/// A part that can be started by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// Everything (the default).
    All,
    /// The public API on 8080.
    ApiGateway,
    /// The ingest service on 8081.
    Ingest,
    /// The processor on 8082.
    Processor,
    /// The older analytics service on 8083.
    Analytics,
    /// gRPC on 50051 to 50053.
    GrpcServer,
    /// The public API on 8080, under another of its old names.
    GrpcGateway,
}

impl Part {
    /// The part that a program name stands for; `None` for `tidegate` and unknown names.
    pub fn of_program(name: &str) -> Option<Self> {
        match name {
            "api-gateway" => Some(Part::ApiGateway),
            "ingest" => Some(Part::Ingest),
            "processor" => Some(Part::Processor),
            "analytics" => Some(Part::Analytics),
            "grpc-server" => Some(Part::GrpcServer),
            "grpc-gateway" => Some(Part::GrpcGateway),
            _ => None,
        }
    }

    /// The listeners it opens; the metrics port comes on top.
    pub fn listeners(self) -> &'static [Listener] {
        match self {
            Part::All => &[
                Listener::Gateway,
                Listener::Ingest,
                Listener::Processor,
                Listener::Analytics,
                Listener::Grpc,
            ],
            Part::Analytics => &[Listener::Analytics],
            Part::ApiGateway | Part::GrpcGateway => &[Listener::Gateway],
            Part::Ingest => &[Listener::Ingest],
            Part::Processor => &[Listener::Processor],
            Part::GrpcServer => &[Listener::Grpc],
        }
    }
}
