//! The hot routes: what takes messages in. Everything else goes to the cold lane.

use crate::facade::FACADE_PATHS;

/// Fails while the process cannot go on by itself, and for nothing else.
pub(crate) const LIVENESS_PATH: &str = "/livez";

/// How a request of a hot route is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hot {
    /// A JSON object with `source`, `data` and `metadata`.
    IngestJson,
    /// A `DataMessage` in Go's JSON.
    EnqueueJson,
    /// Unary `Ingest`; `data` must be text in the package-less service.
    GrpcIngest {
        /// Whether `data` is declared as text.
        text: bool,
    },
    /// Client-streaming `IngestStream`.
    GrpcIngestStream {
        /// Whether `data` is declared as text.
        text: bool,
    },
    /// The health object.
    Health,
    /// Unary `IngestEvent`.
    GrpcEvent,
    /// Unary `IngestEvents`.
    GrpcEvents,
    /// Bidirectional `StreamEvents`.
    GrpcEventStream,
    /// An event as proto JSON.
    EventJson,
    /// A batch of events as proto JSON, or as lines of it.
    EventsJson,
    /// A route of an older system, by its number in [`FACADE_PATHS`](crate::facade::FACADE_PATHS).
    Facade {
        /// Which.
        route: usize,
        /// Whether it speaks gRPC.
        is_grpc: bool,
    },
}

/// A hot route as it is counted: its pattern is the `endpoint` label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Position in [`ENDPOINTS`].
    pub index: usize,
}

/// One row of the route table.
#[derive(Debug)]
pub struct Row {
    /// The path, which is also the label.
    pub path: &'static str,
    /// The method it answers; gRPC is always POST.
    pub method: &'static str,
    pub(crate) hot: Hot,
}

const fn row(path: &'static str, method: &'static str, hot: Hot) -> Row {
    Row { path, method, hot }
}

/// The route table of the hot lane.
pub const ENDPOINTS: [Row; 24] = [
    row("/api/v1/ingest", "POST", Hot::IngestJson),
    row("/ingest", "POST", Hot::IngestJson),
    row("/api/ingest", "POST", Hot::IngestJson),
    row("/enqueue", "POST", Hot::EnqueueJson),
    row("/health", "GET", Hot::Health),
    row(LIVENESS_PATH, "GET", Hot::Health),
    row("/diplom.v1.IngestService/Ingest", "POST", Hot::GrpcIngest { text: false }),
    row("/diplom.v1.IngestService/IngestStream", "POST", Hot::GrpcIngestStream { text: false }),
    row("/IngestService/Ingest", "POST", Hot::GrpcIngest { text: true }),
    row("/IngestService/IngestStream", "POST", Hot::GrpcIngestStream { text: true }),
    row("/analytics.v1.EventIngestionService/IngestEvent", "POST", Hot::GrpcEvent),
    row("/analytics.v1.EventIngestionService/IngestEvents", "POST", Hot::GrpcEvents),
    row("/analytics.v1.EventIngestionService/StreamEvents", "POST", Hot::GrpcEventStream),
    row("/v1/events", "POST", Hot::EventJson),
    row("/v1/events/batch", "POST", Hot::EventsJson),
    facade(0),
    facade(1),
    facade(2),
    facade(3),
    facade(4),
    facade(5),
    facade(6),
    facade(7),
    facade(8),
];

const fn facade(route: usize) -> Row {
    row(FACADE_PATHS[route], "POST", Hot::Facade { route, is_grpc: route + 1 == FACADE_PATHS.len() })
}

impl Endpoint {
    /// The row of this endpoint.
    pub fn row(self) -> &'static Row {
        &ENDPOINTS[self.index]
    }

    /// Whether it speaks gRPC.
    pub fn is_grpc(self) -> bool {
        match self.row().hot {
            Hot::GrpcIngest { .. } | Hot::GrpcIngestStream { .. } => true,
            Hot::GrpcEvent | Hot::GrpcEvents | Hot::GrpcEventStream => true,
            Hot::Facade { is_grpc, .. } => is_grpc,
            Hot::IngestJson | Hot::EnqueueJson | Hot::Health | Hot::EventJson | Hot::EventsJson => false,
        }
    }

    /// Whether it takes messages in.
    pub fn is_ingest(self) -> bool {
        !matches!(self.row().hot, Hot::Health) && !self.is_event()
    }

    /// Whether it takes messages or events in.
    pub fn brings_messages(self) -> bool {
        self.is_ingest() || self.is_event()
    }

    /// Whether it takes events in. What of these is not plain, another method among it, is the cold lane's to answer.
    pub(crate) fn is_event(self) -> bool {
        use Hot::{EventJson, EventsJson, Facade, GrpcEvent, GrpcEventStream, GrpcEvents};
        let hot = self.row().hot;
        matches!(hot, GrpcEvent | GrpcEvents | GrpcEventStream | EventJson | EventsJson | Facade { .. })
    }

    /// The route of an older system that it is.
    pub(crate) fn facade(self) -> Option<usize> {
        match self.row().hot {
            Hot::Facade { route, .. } => Some(route),
            _ => None,
        }
    }

    /// Whether a request of it carries several events.
    pub(crate) fn is_batch_of_events(self) -> bool {
        matches!(self.row().hot, Hot::GrpcEvents | Hot::EventsJson)
    }

    /// Whether a request of it carries one event.
    pub(crate) fn is_single_event(self) -> bool {
        matches!(self.row().hot, Hot::GrpcEvent | Hot::EventJson)
    }

    /// Every endpoint.
    pub fn all() -> impl Iterator<Item = Endpoint> {
        (0..ENDPOINTS.len()).map(|index| Endpoint { index })
    }
}

/// Where a request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// To a hot route.
    Hot(Endpoint),
    /// The path is a hot route's, the method is not.
    MethodNotAllowed(Endpoint),
    /// To the cold lane.
    Cold,
}

/// Finds the route of a request; `path` is without the query.
pub(crate) fn route(method: &[u8], path: &[u8]) -> Route {
    for endpoint in Endpoint::all() {
        let row = endpoint.row();
        if row.path.as_bytes() != path {
            continue;
        }
        let get_as_head = method == b"HEAD" && row.method == "GET";
        if row.method.as_bytes() == method || get_as_head {
            return Route::Hot(endpoint);
        }
        // OPTIONS asks about the resource; the cold lane answers it for every path alike.
        let is_cold = method == b"OPTIONS" || endpoint.is_event();
        return if is_cold { Route::Cold } else { Route::MethodNotAllowed(endpoint) };
    }
    Route::Cold
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_hot_path_leads_to_its_own_row() {
        for endpoint in Endpoint::all() {
            let row = endpoint.row();
            assert_eq!(route(row.method.as_bytes(), row.path.as_bytes()), Route::Hot(endpoint));
        }
    }

    #[test]
    fn another_method_on_a_hot_path_is_not_allowed() {
        assert!(matches!(route(b"GET", b"/ingest"), Route::MethodNotAllowed(_)));
        assert!(matches!(route(b"HEAD", b"/health"), Route::Hot(_)));
    }

    #[test]
    fn a_prefix_of_a_hot_path_is_not_that_path() {
        assert_eq!(route(b"POST", b"/ingestX"), Route::Cold);
        assert_eq!(route(b"POST", b"/ingest/"), Route::Cold);
    }
}
