//! A run from start to end: bind, start the lanes, wait for a signal, drain, say what became of everything.

use std::{
    io,
    net::{IpAddr, SocketAddr, TcpListener},
    process::ExitCode,
    sync::{
        Arc,
        atomic::Ordering,
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use engine_core::PartitionKey;
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    iterator::Signals,
};
use tidegate_proto::analytics::{
    legacy::{
        self, consumer_service_server::ConsumerServiceServer, producer_service_server::ProducerServiceServer,
    },
    v1::{
        analytics_service_server::AnalyticsServiceServer,
        event_ingestion_service_server::EventIngestionServiceServer,
        metrics_service_server::MetricsServiceServer,
    },
};
use tokio::sync::watch;
use tonic::{codec::CompressionEncoding, service::Routes};
use tonic_health::ServingStatus;
use transports::{AckPolicy, Driver, EventPlan, Fleet, Guard, Plan, Role, bind, choose, inject::injector};

use crate::{
    banner::Banner,
    cold::{self, ColdCounts, CoreView, HealthReport, House, Processor, Rate, RpcCounts},
    delivery::Behind,
    events::{self, Facades, Older, Platform, Rules, producer::Counters},
    live, logging,
    role::Part,
    settings::{Auth, Settings},
};

/// Requests that may wait for the cold lane; further ones are answered 503.
const COLD_CALLS_MAX: usize = 1024;

/// Threads that work out queries which take more than a moment.
const QUERY_THREADS: usize = 2;
/// How far these stand back behind the cores (nice(2)).
const QUERY_NICENESS: i32 = 10;

/// Signals that come so soon after the first are the same wish: `timeout` and shells signal a process and its group.
const SAME_WISH: Duration = Duration::from_secs(1);

/// Exit code after a second signal, as a shell reports an interrupted program.
const INTERRUPTED: i32 = 130;

/// Runs until a signal; the exit code is 0 when nothing that was accepted was lost.
///
/// # Errors
/// What keeps it from starting, with the setting to change.
pub fn run(settings: Settings, part: Part) -> Result<ExitCode> {
    let started = Instant::now();
    let latest = logging::start(&settings.log_level, settings.log_json);
    for note in &settings.notes {
        tracing::info!("{note}");
    }
    // First of all: a signal that comes early must not kill a half-started process with work accepted. A closed terminal
    // sends SIGHUP.
    let signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).context("signal handlers cannot be installed")?;

    let cores = core_count(settings.cores);
    let (driver, refused) = choose(settings.driver)
        .context("engine.driver = io_uring: the kernel refuses a ring; set it to auto or epoll")?;
    if let Some(error) = refused {
        tracing::info!(%error, "io_uring is not available here, the core loops wait on epoll");
    }
    let behind = Behind::open(&settings, cores)?;
    let (listeners, addresses) = bind_all(&settings, part, cores)?;
    look_at_remote(&settings, part, &addresses)?;

    let (sender, calls) = transports::cold::bridge(COLD_CALLS_MAX);
    let (injector, inboxes) = injector(cores);
    let health = Arc::new(HealthReport::default());
    let draining = watch::Sender::new(false);
    let probe_token = random_token();
    let queue_size = settings.queue_size;
    let producer = Arc::<Counters>::default();
    let Auth { guard, scope, .. } = settings.auth.clone();
    let node: Arc<str> = rustix::system::uname().nodename().to_string_lossy().into();
    let fleet = Fleet::start(Plan {
        cores,
        driver,
        pin: settings.pin,
        listeners,
        limits: settings.limits.clone(),
        queue_size,
        queue_bytes_max: settings.queue_bytes_max,
        partition: PartitionKey::from_setting(&settings.partition_key),
        route_by_id: behind.route_by_id(),
        sinks: behind.sinks(),
        acks: AckPolicy { guard: if scope.all { guard.clone() } else { Guard::default() }, ..behind.acks() },
        cold: sender,
        health: Arc::clone(&health) as Arc<_>,
        probe_token: probe_token.clone(),
        events: EventPlan {
            guard: guard.clone(),
            node: Arc::clone(&node),
            rules: Arc::new(Rules::new(Arc::clone(&node))),
            facade: Arc::new(Facades::new(Arc::clone(&producer))),
        },
        inboxes,
    })
    .context("the core threads cannot be started")?;
    let watcher = behind.watch()?;
    let views = fleet.fronts.iter().zip(&fleet.engines);
    let house = Arc::new(House {
        cores: views
            .map(|(front, engine)| CoreView { front: Arc::clone(front), engine: engine.clone() })
            .collect(),
        latest,
        beats: Arc::clone(&fleet.beats),
        queue_capacity: queue_size,
        processor: processor(&settings, &addresses),
        probe_token,
        metrics_path: settings.metrics_path.clone(),
        live_viewers_max: settings.live_viewers_max,
        started,
        draining: draining.clone(),
        behind: Arc::clone(&behind),
        cold: ColdCounts::default(),
        rpcs: RpcCounts::default(),
        rates: std::array::from_fn(|_| Rate::new(started)),
        producer: Arc::clone(&producer),
    });
    health.know(Arc::clone(&house));
    let platform = Platform {
        injector,
        acks: Arc::new(behind.acks()),
        parts: Arc::clone(&behind.parts),
        producer,
        guard,
        scope,
        node,
        queries: events::query_turns(),
    };
    start_cold_lane(calls, house, platform)?;

    let banner = Banner {
        listeners: &addresses,
        driver: driver.name(),
        cores,
        queue_size,
        delivery: &settings.delivery,
        has_page: settings.live_viewers_max > 0,
        took: started.elapsed(),
    };
    if settings.log_json {
        banner.log();
    } else {
        banner.print();
    }
    wait_for_the_end(&fleet, &behind, signals)?;
    draining.send_replace(true);
    // Before anything that waits for a broker: who connects now is better served elsewhere.
    fleet.drain(settings.shutdown_timeout);
    behind.stop_consuming();
    finish(fleet, &behind, driver, watcher)
}

/// Cores to use: all, or as many as asked for and there.
fn core_count(wanted: usize) -> usize {
    let there = thread::available_parallelism().map_or(1, usize::from);
    // What happens when the number changes has to be seen on small machines, too.
    #[cfg(debug_assertions)]
    let there = std::env::var("DEBUG_CORES_THERE").ok().and_then(|text| text.parse().ok()).unwrap_or(there);
    if wanted > there {
        tracing::info!(
            wanted,
            there,
            "engine.cores (PROCESSOR_WORKERS) is more than this machine has: using what is there"
        );
    }
    if wanted == 0 { there } else { wanted.min(there) }
}

type Bound = (Vec<(Role, Vec<TcpListener>)>, Vec<(Role, SocketAddr)>);

fn bind_all(settings: &Settings, part: Part, cores: usize) -> Result<Bound> {
    let mut listeners = Vec::new();
    let mut addresses = Vec::new();
    for role in part.listeners().iter().copied().chain([Role::Metrics]) {
        let (setting, wanted) = match role {
            Role::Gateway => ("listen.gateway (API_PORT)", &settings.gateway),
            Role::Ingest => ("listen.ingest (INGEST_PORT)", &settings.ingest),
            Role::Processor => ("listen.processor (PROCESSOR_PORT)", &settings.processor),
            Role::Analytics => ("listen.analytics", &settings.analytics),
            Role::Grpc => ("listen.grpc (GRPC_PORT)", &settings.grpc),
            Role::Metrics => ("listen.metrics (METRICS_PORT)", &settings.metrics),
        };
        for address in wanted {
            match bind(*address, cores) {
                Ok(sockets) => {
                    addresses.push((role, sockets[0].local_addr().unwrap_or(*address)));
                    listeners.push((role, sockets));
                }
                Err(error) if role == Role::Metrics => {
                    tracing::warn!(%address, %error, "{setting}: not opened; metrics are on every other port, too");
                }
                Err(error) => {
                    let why = why_not(&error);
                    return Err(error)
                        .with_context(|| format!("{setting}: {address} cannot be opened: {why}"));
                }
            }
        }
    }
    Ok((listeners, addresses))
}

/// What to do about an address that cannot be listened on.
fn why_not(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "another program has it; choose another port there, or move all of this process's with --port-offset 100"
        }
        io::ErrorKind::PermissionDenied => {
            "ports below 1024 are root's, or need CAP_NET_BIND_SERVICE; choose a higher one there"
        }
        io::ErrorKind::AddrNotAvailable => "this machine has no such address; choose one of its own there",
        _ => "choose another address there",
    }
}

/// The processor that `/api/v1/trace` measures.
fn processor(settings: &Settings, addresses: &[(Role, SocketAddr)]) -> Option<Processor> {
    if let Some(remote) = &settings.delivery.remote {
        let target = &remote.target;
        return Some(Processor {
            host: target.host.clone(),
            port: target.port,
            path: target.path().to_owned(),
            key: remote.key.clone(),
        });
    }
    let own = addresses.iter().find(|(role, _)| *role == Role::Processor);
    own.map(|(_, address)| Processor::own(*address, settings.auth.key_for_messages()))
}

/// Says what is made of a URL of another process, and refuses one that leads back here.
fn look_at_remote(settings: &Settings, part: Part, addresses: &[(Role, SocketAddr)]) -> Result<()> {
    let Some(remote) = &settings.delivery.remote else {
        if !settings.remote_named.is_empty() {
            tracing::info!(
                settings = settings.remote_named.join(", "),
                role = part.name(),
                "not used: this role works on its messages itself"
            );
        }
        return Ok(());
    };
    let (target, setting) = (&remote.target, remote.setting);
    let ip: Option<IpAddr> = target.host.parse().ok();
    let here = target.host == "localhost" || ip.is_some_and(|ip| ip.is_loopback() || ip.is_unspecified());
    anyhow::ensure!(
        !here || addresses.iter().all(|(_, address)| address.port() != target.port),
        "{setting} = {target} is this process itself: messages would go round for ever; name another process, or unset it"
    );
    tracing::info!(setting, url = %target, "messages are not worked on here: all are sent on");
    Ok(())
}

/// Starts the thread of the cold lane.
fn start_cold_lane(
    calls: transports::cold::ColdReceiver,
    house: Arc<House>,
    platform: Platform,
) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        // Those that work queries out.
        .max_blocking_threads(QUERY_THREADS)
        .thread_name("queries")
        .on_thread_start(|| {
            // In Linux this is a thread's own. Where it is refused, queries compete as equals.
            let _ = rustix::process::nice(QUERY_NICENESS);
        })
        .build()
        .context("the cold lane's runtime cannot be started")?;
    thread::Builder::new()
        .name("cold".to_owned())
        .spawn(move || {
            runtime.block_on(async move {
                let grpc = grpc_services(&house, &platform).await;
                let page = live::routes(Arc::clone(&house), platform.clone(), cold::not_found);
                let router = cold::router(Arc::clone(&house), grpc, platform, page);
                cold::serve(calls, router, house).await;
            });
        })
        .context("the cold lane's thread cannot be started")?;
    Ok(())
}

/// What a service needs to be of use.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Needs {
    /// That messages are taken in.
    Intake,
    /// That messages are worked on.
    Workers,
    /// That the process is there.
    Nothing,
}

/// The services whose health is told.
const SERVICES: [(&str, Needs); 9] = [
    ("", Needs::Intake),
    ("diplom.v1.IngestService", Needs::Intake),
    ("IngestService", Needs::Intake),
    ("analytics.v1.EventIngestionService", Needs::Intake),
    ("analytics.v1.AnalyticsService", Needs::Nothing),
    ("analytics.v1.MetricsService", Needs::Nothing),
    ("analytics.ProducerService", Needs::Intake),
    ("analytics.ConsumerService", Needs::Workers),
    ("analytics.AnalyticsService", Needs::Nothing),
];

/// How often gRPC's health is brought up to date.
const HEALTH_EVERY: Duration = Duration::from_millis(250);

/// Tells gRPC's health service how the services are.
struct HealthTeller {
    reporter: tonic_health::server::HealthReporter,
    house: Arc<House>,
    told: [Option<bool>; SERVICES.len()],
}

impl HealthTeller {
    async fn tell(&mut self) {
        let draining = self.house.is_draining();
        let (intake, workers) = (self.house.intake().is_able(), self.house.workers().is_able());
        for ((name, needs), told) in SERVICES.into_iter().zip(&mut self.told) {
            let able = match needs {
                Needs::Intake => intake,
                Needs::Workers => workers,
                Needs::Nothing => true,
            };
            let able = able && !draining;
            // Whoever watches is told of changes only.
            if told.replace(able) != Some(able) {
                let status = if able { ServingStatus::Serving } else { ServingStatus::NotServing };
                self.reporter.set_service_status(name, status).await;
            }
        }
    }

    async fn go_on(mut self) {
        while !self.house.is_draining() {
            tokio::select! {
                () = self.house.until_draining() => {}
                () = tokio::time::sleep(HEALTH_EVERY) => {}
            }
            self.tell().await;
        }
    }
}

/// Longest message of the events platform, each way: the older analytics system's.
const EVENT_MESSAGE_BYTES_MAX: usize = 10 << 20;

/// What tonic serves: the events platform, health and reflection.
async fn grpc_services(house: &Arc<House>, platform: &Platform) -> Routes {
    let (reporter, health) = tonic_health::server::health_reporter();
    let mut teller = HealthTeller { reporter, house: Arc::clone(house), told: [None; SERVICES.len()] };
    // Before the first question.
    teller.tell().await;
    tokio::spawn(teller.go_on());
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(tidegate_proto::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let ingestion = EventIngestionServiceServer::new(platform.clone())
        .max_decoding_message_size(EVENT_MESSAGE_BYTES_MAX)
        .max_encoding_message_size(EVENT_MESSAGE_BYTES_MAX)
        .accept_compressed(CompressionEncoding::Gzip);
    let analytics = AnalyticsServiceServer::new(platform.clone())
        .max_decoding_message_size(EVENT_MESSAGE_BYTES_MAX)
        .max_encoding_message_size(EVENT_MESSAGE_BYTES_MAX)
        .accept_compressed(CompressionEncoding::Gzip);
    let metrics = MetricsServiceServer::new(platform.clone()).accept_compressed(CompressionEncoding::Gzip);
    let behind = Arc::clone(house);
    let older = Older::new(platform.clone(), move || cold::consumed_so_far(&behind));
    let producer = ProducerServiceServer::new(older.clone()).accept_compressed(CompressionEncoding::Gzip);
    let consumer = ConsumerServiceServer::new(older.clone()).accept_compressed(CompressionEncoding::Gzip);
    let older = legacy::analytics_service_server::AnalyticsServiceServer::new(older);
    let mut services = Routes::new(health.accept_compressed(CompressionEncoding::Gzip))
        .add_service(ingestion)
        .add_service(analytics)
        .add_service(metrics)
        .add_service(producer)
        .add_service(consumer)
        .add_service(older.accept_compressed(CompressionEncoding::Gzip));
    match (reflection().build_v1(), reflection().build_v1alpha()) {
        (Ok(v1), Ok(v1alpha)) => {
            services = services
                .add_service(v1.accept_compressed(CompressionEncoding::Gzip))
                .add_service(v1alpha.accept_compressed(CompressionEncoding::Gzip));
        }
        (Err(error), _) | (_, Err(error)) => tracing::error!(%error, "gRPC reflection is not served"),
    }
    services
}

/// Blocks until the first signal; a second one, [`SAME_WISH`] later or more, ends the process at once. SIGHUP is neither.
fn wait_for_the_end(fleet: &Fleet, behind: &Behind, mut signals: Signals) -> Result<()> {
    let (sender, asked) = mpsc::channel();
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        let mut first: Option<Instant> = None;
        for signal in signals.forever() {
            if signal == SIGHUP {
                tracing::info!(
                    "SIGHUP is ignored: settings are read at the start only; SIGTERM ends the process"
                );
                continue;
            }
            match first {
                None => {
                    first = Some(Instant::now());
                    // The receiver lives as long as the process.
                    let _ = sender.send(signal);
                }
                Some(at) if at.elapsed() < SAME_WISH => {}
                Some(_) => {
                    tracing::warn!("second signal: ending at once, what is under way is lost");
                    std::process::exit(INTERRUPTED);
                }
            }
        }
    })?;
    loop {
        match asked.recv_timeout(Duration::from_millis(250)) {
            Ok(signal) => {
                let name = if signal == SIGTERM { "SIGTERM" } else { "SIGINT" };
                tracing::info!(
                    signal = name,
                    "draining: readiness is 503, no connection is taken any more, open requests are finished"
                );
                return Ok(());
            }
            Err(RecvTimeoutError::Timeout) if fleet.has_ended() => {
                tracing::error!("a core thread has ended by itself");
                return Ok(());
            }
            Err(RecvTimeoutError::Timeout) if behind.failed.load(Ordering::Acquire) => {
                tracing::error!(
                    "the log has failed: ending, so that the next start reads back what is on the disk"
                );
                return Ok(());
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => anyhow::bail!("the signal thread has ended"),
        }
    }
}

fn finish(
    fleet: Fleet,
    behind: &Behind,
    driver: Driver,
    watcher: thread::JoinHandle<()>,
) -> Result<ExitCode> {
    let end = fleet.join().with_context(|| format!("a core loop on {} failed", driver.name()))?;
    behind.keep_numbers();
    let unfinished = behind.stop(watcher);
    let lost = end.lost + unfinished.lost;
    let worked = behind.worked();
    let consumed: u64 =
        behind.brokers.iter().map(|broker| broker.status.consumed.load(Ordering::Relaxed)).sum();
    tracing::info!(
        accepted = end.accepted,
        done = end.done,
        rejected = end.rejected,
        lost,
        dead_letters = behind.dead_letters.count(),
        duplicates = end.duplicates,
        conflicts = end.conflicts,
        refused = end.refused,
        consumed,
        processed = worked.processed,
        failed = worked.failed,
        repeated = worked.repeated,
        kept = behind.kept(),
        connections_cut = end.cut,
        "stopped"
    );
    let whole = lost == 0 && !behind.failed.load(Ordering::Acquire);
    Ok(if whole { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn random_token() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_cannot_be_had_says_what_to_do() {
        for (kind, way_out) in [
            (io::ErrorKind::AddrInUse, "--port-offset"),
            (io::ErrorKind::PermissionDenied, "CAP_NET_BIND_SERVICE"),
            (io::ErrorKind::AddrNotAvailable, "no such address"),
        ] {
            assert!(why_not(&kind.into()).contains(way_out), "{kind}");
        }
    }
}
