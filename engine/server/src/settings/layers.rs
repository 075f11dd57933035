//! Laying the sources over each other, keeping for each value the place it came from, and saying all that is wrong
//! at once.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use brokers::nats::Servers;

use figment::{
    Figment, Profile, Provider,
    providers::{Format, Toml},
    value::{Dict, Map, Value},
};
use http::HeaderValue;

use super::{
    Auth, DEFAULT_DIRECTORY, Delivery, DriverChoice, KEYS, Key, Kind, Settings, commented_file,
    delivery::kafka_topics,
    find, nearest,
    value::{check, from_text, shown},
    values::{Origin, Problem, Values},
};
use crate::{reserved_paths::not_for_metrics, role::Part};

/// The sources of a run.
#[derive(Debug, Default)]
pub struct Layers {
    /// The file, if there is one.
    pub file: Option<PathBuf>,
    /// Variables: the process environment over `.env`.
    pub environment: BTreeMap<String, String>,
    /// Flags; of two for one setting the last one counts.
    pub flags: Vec<Flag>,
}

/// One setting, as a flag gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flag {
    /// The setting.
    pub path: String,
    /// Its value.
    pub value: String,
    /// The flag without its value, which may be a secret.
    pub shown: String,
}

/// The settings in force, with their origins.
#[derive(Debug)]
pub struct Resolved {
    /// Typed.
    pub settings: Settings,
    /// As they were read.
    pub checked: Checked,
}

/// Every setting by itself, with the place it came from; whether they go together is not known yet. Commands that need
/// one or two of them ask here.
#[derive(Debug)]
pub struct Checked {
    values: BTreeMap<&'static str, (Value, Origin)>,
    /// What was given and changes nothing, a line each.
    pub notes: Vec<String>,
    /// Settings that a variable names and leaves empty, with its name.
    left_empty: Vec<(&'static str, String)>,
}

impl Checked {
    /// What may be shown of a setting.
    pub fn value(&self, key: &Key) -> Shown<'_> {
        let (value, origin) = &self.values[key.path];
        let text = value.as_str().unwrap_or_default();
        let (text, is_secret) = match key.kind {
            Kind::Secret if !text.is_empty() => ("(secret)".to_owned(), true),
            Kind::NatsServers => match Servers::parse(text) {
                Ok(servers) if servers.has_login() => (shown(&Value::from(servers.to_string())), true),
                _ => (shown(value), false),
            },
            _ => (shown(value), false),
        };
        Shown { text, is_secret, origin }
    }

    /// The settings in force as a commented file, without the secrets among them.
    pub fn commented(&self) -> String {
        let head = "# Tidegate: the settings in force, as `tidegate config print` found them.\n";
        commented_file(head, |key| {
            let Shown { text, is_secret, origin } = self.value(key);
            match origin {
                _ if is_secret => format!("# {} is a secret and left out; it came from {origin}", key.name()),
                Origin::Default => format!("{} = {text}", key.name()),
                origin => format!("{} = {text} # from {origin}", key.name()),
            }
        })
    }

    /// Files that secrets of these settings came from.
    pub fn files_with_secrets(&self) -> Vec<PathBuf> {
        let secret = |key: &&Key| self.value(key).is_secret;
        let file = |key: &Key| match self.value(key).origin {
            Origin::File(path) => Some(path.clone()),
            _ => None,
        };
        KEYS.iter().filter(secret).filter_map(file).collect()
    }

    /// The folder of the log: as it is set, else where `queue.type = log` has it. Whether this queue writes one does not
    /// matter for who wants to look into it.
    pub fn data_directory(&self) -> PathBuf {
        match self.read().text("data.directory").as_str() {
            "" => PathBuf::from(DEFAULT_DIRECTORY),
            directory => PathBuf::from(directory),
        }
    }

    /// Where a server with these settings takes messages of this machine that are sent once more.
    ///
    /// # Errors
    /// Ports that there are none of.
    pub fn processor_url(&self) -> Result<String, Problem> {
        let first = self.read().addresses("listen.processor")?.first().copied();
        Ok(match first {
            Some(address) if !address.ip().is_unspecified() => format!("http://{address}"),
            address => format!("http://localhost:{}", address.map_or(8082, |address| address.port())),
        })
    }

    /// The key that a server with these settings asks for.
    ///
    /// # Errors
    /// Settings of keys that do not go together.
    pub fn own_key(&self) -> Result<Option<HeaderValue>, Problem> {
        Ok(Auth::read(&self.read())?.key_for_messages())
    }

    fn read(&self) -> Values<'_> {
        Values { values: &self.values, left_empty: &self.left_empty }
    }

    /// All of them, typed.
    ///
    /// # Errors
    /// Settings that do not go together.
    pub fn settings(&self, part: Part) -> Result<Settings, Vec<Problem>> {
        let settings = typed(&self.read(), part)?;
        Ok(Settings { notes: self.notes.clone(), ..settings })
    }
}

/// What may be shown of a setting.
#[derive(Debug)]
pub struct Shown<'a> {
    /// The value as it would stand in the file; of a secret what is none of it.
    pub text: String,
    /// Whether something is missing in it, which is a secret.
    pub is_secret: bool,
    /// Where it came from.
    pub origin: &'a Origin,
}

/// A provider of one value, so that figment merges it at its place.
struct One(&'static str, Value);

impl Provider for One {
    fn metadata(&self) -> figment::Metadata {
        figment::Metadata::named(self.0)
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        let dict = match figment::util::nest(self.0, self.1.clone()) {
            Value::Dict(_, dict) => dict,
            _ => Dict::new(),
        };
        Ok(Profile::Default.collect(dict))
    }
}

impl Layers {
    /// Resolves every setting for `part`.
    ///
    /// # Errors
    /// Everything that is wrong, not only the first.
    pub fn resolve(&self, part: Part) -> Result<Resolved, Vec<Problem>> {
        let checked = self.read(part)?;
        let settings = checked.settings(part)?;
        Ok(Resolved { settings, checked })
    }

    /// Reads every setting for `part`, each by itself.
    ///
    /// # Errors
    /// Everything that is wrong, not only the first.
    pub fn read(&self, part: Part) -> Result<Checked, Vec<Problem>> {
        let mut problems = Vec::new();
        let mut origins: BTreeMap<&'static str, Origin> =
            KEYS.iter().map(|key| (key.path, Origin::Default)).collect();
        let mut figment = Figment::from(Toml::string(&super::commented_defaults()));
        for (path, text) in part.defaults() {
            let value = find(path).map(|key| from_text(key.kind, text));
            if let Some(Ok(value)) = value {
                figment = figment.merge(One(path, value));
            }
        }

        if let Some(path) = &self.file {
            match read_file(path) {
                Ok(dict) => self.merge_file(path, &dict, &mut figment, &mut origins, &mut problems),
                Err(problem) => problems.push(problem),
            }
        }
        for key in KEYS {
            match self.of_variables(key, part) {
                Ok(Some((value, name))) => {
                    figment = figment.merge(One(key.path, value));
                    origins.insert(key.path, Origin::Variable(name));
                }
                Ok(None) => {}
                Err(problem) => problems.push(problem),
            }
        }
        self.unknown_variables(&mut problems);
        let notes = self.without_effect(part, &mut problems);
        for Flag { path, value, shown } in &self.flags {
            let Some(key) = find(path) else {
                problems.push(unknown(path, &format!("flag {shown}")));
                continue;
            };
            match from_text(key.kind, value) {
                Ok(value) => {
                    figment = figment.merge(One(key.path, value));
                    origins.insert(key.path, Origin::Flag(shown.clone()));
                }
                Err(wrong) => problems.push(Problem(format!("flag {shown}: setting {path}: {wrong}"))),
            }
        }
        if !problems.is_empty() {
            return Err(problems);
        }

        let mut values = BTreeMap::new();
        for key in KEYS {
            let value = figment.find_value(key.path).map_err(|error| vec![Problem(error.to_string())])?;
            let value = check(key.kind, value)
                .map_err(|wrong| vec![Problem(format!("setting {}: {wrong}", key.path))])?;
            values.insert(key.path, (value, origins[key.path].clone()));
        }
        Ok(Checked { values, notes, left_empty: self.left_empty() })
    }

    fn merge_file(
        &self,
        path: &Path,
        dict: &Dict,
        figment: &mut Figment,
        origins: &mut BTreeMap<&'static str, Origin>,
        problems: &mut Vec<Problem>,
    ) {
        for (table, contents) in dict {
            let Value::Dict(_, entries) = contents else {
                problems.push(unknown(table, &path.display().to_string()));
                continue;
            };
            for (name, value) in entries {
                let full = format!("{table}.{name}");
                let Some(key) = find(&full) else {
                    problems.push(unknown(&full, &path.display().to_string()));
                    continue;
                };
                match check(key.kind, value.clone()) {
                    Ok(value) => {
                        *figment = std::mem::take(figment).merge(One(key.path, value));
                        origins.insert(key.path, Origin::File(path.to_owned()));
                    }
                    Err(wrong) => {
                        problems.push(Problem(format!("{}: setting {full}: {wrong}", path.display())));
                    }
                }
            }
        }
    }
}

/// Reads a settings file. An error names the line and does not repeat it: it may hold a secret.
fn read_file(path: &Path) -> Result<Dict, Problem> {
    let at = path.display();
    let text = std::fs::read_to_string(path).map_err(|error| Problem(format!("{at}: {error}")))?;
    toml::from_str(&text).map_err(|error| {
        let start = error.span().map_or(0, |span| span.start).min(text.len());
        let line = text.as_bytes()[..start].iter().filter(|byte| **byte == b'\n').count() + 1;
        let why = error.message().replace('\n', ", ");
        Problem(format!(
            "{at}, line {line}: {why}; `tidegate config print --defaults` shows how settings are written"
        ))
    })
}

fn unknown(path: &str, place: &str) -> Problem {
    // Else it is a line that went wrong, with a value in it.
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if path.len() > 64 || !path.bytes().all(is_name) {
        return Problem(format!("{place}: a name in it is no setting; did you mean `{}`?", nearest(path)));
    }
    Problem(format!("{place}: there is no setting `{path}`; did you mean `{}`?", nearest(path)))
}

/// Makes the typed settings of checked values.
fn typed(values: &Values<'_>, part: Part) -> Result<Settings, Vec<Problem>> {
    let text = |path: &str| values.text(path);
    let number = |path: &str| values.number(path);
    let truth = |path: &str| values.truth(path);
    let time = |path: &str| values.time(path);
    let addresses = |path: &str| values.addresses(path);
    // Each part says what is wrong with it, and what is wrong with one does not hide what is wrong with another.
    let (auth, wrong_auth) = match Auth::read(values) {
        Ok(auth) => (auth, None),
        Err(problem) => (Auth::default(), Some(problem)),
    };
    let delivery = Delivery::read(values, part, &auth);
    let listeners = ["gateway", "ingest", "processor", "analytics", "grpc", "metrics"].map(|role| {
        (role != "metrics" || truth("metrics.enabled")).then(|| addresses(&format!("listen.{role}")))
    });
    let wrong_listeners = listeners.iter().filter_map(|listener| listener.as_ref()?.as_ref().err().cloned());
    let metrics_path = text("metrics.path");
    let wrong_path = not_for_metrics(&metrics_path)
        .map(|why| values.problem("metrics.path", &format!("{why}; give one such as /numbers")));
    let problems: Vec<Problem> = wrong_path
        .into_iter()
        .chain(wrong_auth)
        .chain(delivery.as_ref().err().cloned())
        .chain(wrong_listeners)
        .collect();
    let (Ok(delivery), true) = (delivery, problems.is_empty()) else { return Err(problems) };
    let [gateway, ingest, processor, analytics, grpc, metrics] =
        listeners.map(|listener| listener.and_then(Result::ok).unwrap_or_default());
    Ok(Settings {
        gateway,
        ingest,
        processor,
        analytics,
        analytics_bounds: truth("analytics.enabled").then(|| engine_analytics::Bounds {
            events: number("analytics.events_max"),
            // Short texts take about 100 bytes an event.
            event_bytes: number("analytics.events_max").saturating_mul(512),
            users: number("analytics.users_max"),
            ..engine_analytics::Bounds::default()
        }),
        analytics_snapshot_interval: time("analytics.snapshot_interval"),
        live_viewers_max: number("live.viewers_max"),
        grpc,
        metrics,
        metrics_path,
        cores: number("engine.cores"),
        driver: match text("engine.driver").as_str() {
            "io_uring" => DriverChoice::IoUring,
            "epoll" => DriverChoice::Epoll,
            _ => DriverChoice::Auto,
        },
        pin: truth("engine.pin"),
        partition_key: text("engine.partition_key"),
        delivery,
        auth,
        kafka_topics: kafka_topics(values),
        remote_named: ["remote.ingest_url", "remote.processor_url"]
            .into_iter()
            .filter(|path| !text(path).is_empty())
            .collect(),
        queue_size: number("queue.size"),
        queue_bytes_max: number("queue.bytes_max"),
        limits: transports::Limits {
            http_body_bytes_max: number("limits.http_body_bytes_max"),
            grpc_message_bytes_max: number("limits.grpc_message_bytes_max"),
            header_list_bytes_max: number("limits.header_list_bytes_max"),
            header_fields_max: number("limits.header_fields_max"),
            concurrent_streams_max: number("limits.concurrent_streams_max"),
            frame_bytes_max: number("limits.frame_bytes_max"),
            connections_max: number("limits.connections_max"),
            connections_per_address_max: number("limits.connections_per_address_max"),
            preface_timeout: time("timeouts.preface"),
            header_timeout: time("timeouts.header"),
            body_idle_timeout: time("timeouts.body_idle"),
            write_timeout: time("timeouts.write"),
            idle_timeout: time("timeouts.idle"),
        },
        shutdown_timeout: time("timeouts.shutdown"),
        log_level: text("log.level"),
        log_json: text("log.format") == "json",
        notes: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::settings::Provider as Place;

    fn environment(pairs: &[(&str, &str)]) -> Layers {
        let environment =
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Layers { environment, ..Layers::default() }
    }

    fn flag(path: &str, value: &str) -> Flag {
        Flag { path: path.to_owned(), value: value.to_owned(), shown: format!("--set {path}") }
    }

    fn first_problem(layers: &Layers) -> String {
        layers.resolve(Part::All).unwrap_err()[0].to_string()
    }

    #[test]
    fn without_any_source_the_defaults_hold() {
        let resolved = Layers::default().resolve(Part::All).unwrap();
        assert_eq!(resolved.settings.queue_size, 1000);
        assert_eq!(resolved.settings.grpc.len(), 3);
        assert_eq!(*resolved.checked.value(find("queue.size").unwrap()).origin, Origin::Default);
    }

    #[test]
    fn a_flag_wins_over_the_environment_and_that_over_the_file() {
        let folder = std::env::temp_dir().join(format!("tidegate-layers-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join("tidegate.toml");
        std::fs::write(&file, "[queue]\nsize = 2\n[log]\nlevel = \"warn\"\n[engine]\ncores = 1\n").unwrap();
        let mut layers = environment(&[("QUEUE_SIZE", "3"), ("LOG_LEVEL", "debug")]);
        layers.file = Some(file);
        layers.flags = vec![flag("queue.size", "4")];
        let resolved = layers.resolve(Part::All).unwrap();
        std::fs::remove_dir_all(folder).unwrap();
        assert_eq!(resolved.settings.queue_size, 4);
        assert_eq!(resolved.settings.log_level, "debug");
        assert_eq!(resolved.settings.cores, 1);
        assert_eq!(
            resolved.checked.value(find("log.level").unwrap()).origin.to_string(),
            "environment LOG_LEVEL"
        );
    }

    #[test]
    fn a_listener_binds_the_union_of_the_addresses_its_variables_name() {
        let layers =
            environment(&[("API_PORT", "8080"), ("SERVER_PORT", "9000"), ("SERVER_ADDRESS", ":8080")]);
        let settings = layers.resolve(Part::All).unwrap().settings;
        let shown: Vec<String> = settings.gateway.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["[::]:8080", "0.0.0.0:9000"]);
    }

    #[test]
    fn an_unqualified_grpc_port_moves_only_the_first_of_the_pair() {
        let layers = environment(&[("GRPC_PORT", "6000")]);
        let ports = |part| -> Vec<u16> {
            layers.resolve(part).unwrap().settings.grpc.iter().map(|address| address.port()).collect()
        };
        assert_eq!(ports(Part::All), [6000, 50052, 50053]);
        assert_eq!(ports(Part::GrpcServer), [6000]);
    }

    #[test]
    fn a_part_has_its_own_grpc_port_and_http_port() {
        let ports = |addresses: &[SocketAddr]| -> Vec<u16> {
            addresses.iter().map(|address| address.port()).collect()
        };
        let layers = environment(&[("HTTP_PORT", "7000")]);
        let of = |part| layers.resolve(part).unwrap().settings;
        assert_eq!(
            (ports(&of(Part::Producer).ingest), ports(&of(Part::Producer).grpc)),
            (vec![7000], vec![50051])
        );
        let consumer = of(Part::Consumer);
        assert_eq!((ports(&consumer.processor), ports(&consumer.ingest)), (vec![7000], vec![8081]));
        assert_eq!(ports(&consumer.grpc), [50052]);
        assert_eq!(
            (ports(&of(Part::Analytics).analytics), ports(&of(Part::Analytics).grpc)),
            (vec![7000], vec![50053])
        );
        let all = of(Part::All);
        assert_eq!(
            (ports(&all.ingest), ports(&all.processor), ports(&all.analytics)),
            (vec![7000], vec![8082], vec![8083])
        );
        let moved = environment(&[("GRPC_PORT", "6000")]).resolve(Part::Analytics).unwrap().settings;
        assert_eq!(ports(&moved.grpc), [6000]);
    }

    #[test]
    fn with_a_broker_a_part_that_takes_in_leaves_the_work_to_others() {
        let layers = environment(&[
            ("QUEUE_TYPE", "kafka"),
            ("CONSUMER_GROUP_ID", "mine"),
            ("KAFKA_CONSUMER_GROUP", "theirs"),
        ]);
        let of = |part| layers.resolve(part).unwrap().settings.delivery;
        for part in [Part::ApiGateway, Part::Producer, Part::GrpcServer, Part::ProducerService] {
            assert!(!of(part).consume, "{part:?}");
        }
        for part in [Part::All, Part::Processor, Part::Consumer, Part::Analytics] {
            assert!(of(part).consume, "{part:?}");
        }
        let groups = [Part::All, Part::Consumer, Part::Analytics].map(|part| of(part).kafka.consumer_group);
        assert_eq!(groups, ["theirs", "mine", "analytics-service-group"]);
        let log = environment(&[("QUEUE_TYPE", "log")]).resolve(Part::Ingest).unwrap().settings.delivery;
        assert!(log.consume);
        let asked = environment(&[("QUEUE_TYPE", "kafka"), ("TIDEGATE_QUEUE_CONSUME", "true")]);
        assert!(asked.resolve(Part::Ingest).unwrap().settings.delivery.consume);
    }

    #[test]
    fn only_a_part_that_works_on_nothing_itself_sends_on() {
        let layers = environment(&[
            ("PROCESSOR_URL", "http://localhost:8082"),
            ("INGEST_URL", "http://localhost:8081"),
        ]);
        let target = |part| {
            let delivery = layers.resolve(part).unwrap().settings.delivery;
            delivery.remote.map(|remote| (remote.setting, remote.target.port))
        };
        assert_eq!((target(Part::All), target(Part::Processor)), (None, None));
        assert_eq!(target(Part::ApiGateway), Some(("remote.ingest_url", 8081)));
        assert_eq!(target(Part::Ingest), Some(("remote.processor_url", 8082)));
        let layers = environment(&[("PROCESSOR_URL", "http://localhost:8082")]);
        let delivery = layers.resolve(Part::ApiGateway).unwrap().settings.delivery;
        assert_eq!(delivery.remote.as_ref().unwrap().setting, "remote.processor_url");
        assert!(delivery.providers.is_empty() && !delivery.has_log());
    }

    #[test]
    fn a_part_that_sends_on_keeps_nothing_and_speaks_no_tls() {
        let refused =
            |pairs: &[(&str, &str)]| environment(pairs).resolve(Part::Ingest).unwrap_err()[0].to_string();
        let both = [("PROCESSOR_URL", "http://far:1"), ("TIDEGATE_DATA_DIRECTORY", "/tmp/x")];
        assert!(refused(&both).contains("remote.processor_url"), "{}", refused(&both));
        let tls = refused(&[("PROCESSOR_URL", "https://far:1")]);
        assert!(tls.contains("PROCESSOR_URL") && tls.contains("TLS"), "{tls}");
    }

    #[test]
    fn an_offset_moves_every_port_but_those_that_the_kernel_picks() {
        let layers = environment(&[("TIDEGATE_LISTEN_PORT_OFFSET", "100"), ("METRICS_PORT", "0")]);
        let settings = layers.resolve(Part::All).unwrap().settings;
        let all = [settings.gateway, settings.ingest, settings.processor, settings.analytics, settings.grpc];
        let ports: Vec<u16> = all.concat().iter().map(SocketAddr::port).collect();
        assert_eq!(ports, [8180, 8181, 8182, 8183, 50151, 50152, 50153]);
        assert_eq!(settings.metrics[0].port(), 0);
        let wrong = first_problem(&environment(&[("TIDEGATE_LISTEN_PORT_OFFSET", "20000")]));
        assert!(wrong.contains("65535") && wrong.contains("listen.grpc"), "{wrong}");
    }

    #[test]
    fn variables_that_differ_on_one_setting_are_refused() {
        let problem = first_problem(&environment(&[("QUEUE_SIZE", "10"), ("TIDEGATE_QUEUE_SIZE", "20")]));
        assert!(problem.contains("QUEUE_SIZE and TIDEGATE_QUEUE_SIZE"), "{problem}");
    }

    #[test]
    fn an_unknown_setting_names_its_neighbour() {
        let problem = first_problem(&environment(&[("TIDEGATE_QUEUE_SISE", "10")]));
        assert!(problem.contains("TIDEGATE_QUEUE_SIZE"), "{problem}");
        let layers = Layers { flags: vec![flag("queue.sise", "1")], ..Layers::default() };
        assert!(first_problem(&layers).contains("`queue.size`"));
    }

    #[test]
    fn a_level_that_the_queue_cannot_reach_is_refused_as_default() {
        let problem = first_problem(&environment(&[("TIDEGATE_ACK_DEFAULT", "durable")]));
        assert!(problem.contains("queue.type = memory") && problem.contains("data.directory"), "{problem}");
        let layers = environment(&[("QUEUE_TYPE", "kafka"), ("KAFKA_REQUIRED_ACKS", "1")]);
        let delivery = layers.resolve(Part::All).unwrap().settings.delivery;
        assert_eq!(delivery.ack_default, engine_core::AckLevel::Queued);
        assert!(delivery.unreachable("1")[2].as_deref().unwrap().contains("KAFKA_REQUIRED_ACKS"));
    }

    #[test]
    fn a_composite_names_its_providers() {
        let pairs = [("QUEUE_TYPE", "composite"), ("COMPOSITE_PROVIDERS", " nats , log")];
        let delivery = environment(&pairs).resolve(Part::All).unwrap().settings.delivery;
        assert_eq!(delivery.providers, [Place::Nats, Place::Log]);
        assert!(delivery.has_log() && !delivery.best_effort);
        let wrong = [("QUEUE_TYPE", "composite"), ("COMPOSITE_PROVIDERS", "nats,rabbit")];
        assert!(first_problem(&environment(&wrong)).contains("`rabbit`"));
        let wrong = [("QUEUE_TYPE", "composite"), ("COMPOSITE_STRATEGY", "slow")];
        assert!(first_problem(&environment(&wrong)).contains("COMPOSITE_STRATEGY"));
    }

    #[test]
    fn kafka_brokers_wins_over_its_other_name() {
        let layers = environment(&[("KAFKA_BROKER_LIST", "b:1"), ("KAFKA_BROKERS", "a:1")]);
        let resolved = layers.resolve(Part::All).unwrap();
        assert_eq!(resolved.checked.value(find("kafka.brokers").unwrap()).text, "\"a:1\"");
    }

    #[test]
    fn every_problem_is_said_at_once() {
        let layers = environment(&[("QUEUE_SIZE", "many"), ("LOG_LEVEL", "loud")]);
        assert_eq!(layers.resolve(Part::All).unwrap_err().len(), 2);
    }
}
