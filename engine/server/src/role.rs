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
    /// gRPC on 50051 to 50053.
    GrpcServer,
    /// The public API on 8080 and gRPC on 50051, under another of the old names.
    GrpcGateway,
    /// The older analytics system's producer: 8081 and gRPC on 50051.
    Producer,
    /// Its consumer: 8082 and gRPC on 50052.
    Consumer,
    /// Its analytics: 8083 and gRPC on 50053.
    Analytics,
    /// The users and events service on 8080.
    HighloadMicroservice,
    /// The producer service on 8080.
    ProducerService,
}

impl Part {
    /// Every part with the program name that it stands for.
    const PROGRAMS: [(Part, &str); 10] = [
        (Part::ApiGateway, "api-gateway"),
        (Part::Ingest, "ingest"),
        (Part::Processor, "processor"),
        (Part::GrpcServer, "grpc-server"),
        (Part::GrpcGateway, "grpc-gateway"),
        (Part::Producer, "producer"),
        (Part::Consumer, "consumer"),
        (Part::Analytics, "analytics"),
        (Part::HighloadMicroservice, "highload-microservice"),
        (Part::ProducerService, "producer-service"),
    ];

    /// The part that a program name stands for; `None` for `tidegate` and unknown names.
    pub fn of_program(name: &str) -> Option<Self> {
        Self::PROGRAMS.iter().find(|(_, program)| *program == name).map(|(part, _)| *part)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        Self::PROGRAMS.iter().find(|(part, _)| *part == self).map_or("all", |(_, name)| name)
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
            Part::ApiGateway | Part::HighloadMicroservice | Part::ProducerService => &[Listener::Gateway],
            Part::GrpcGateway => &[Listener::Gateway, Listener::Grpc],
            Part::Ingest => &[Listener::Ingest],
            Part::Processor => &[Listener::Processor],
            Part::GrpcServer => &[Listener::Grpc],
            Part::Producer => &[Listener::Ingest, Listener::Grpc],
            Part::Consumer => &[Listener::Processor, Listener::Grpc],
            Part::Analytics => &[Listener::Analytics, Listener::Grpc],
        }
    }

    /// Where its defaults are others than those of everything together: setting and value.
    pub fn defaults(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Part::Producer | Part::GrpcGateway => &[("listen.grpc", ":50051")],
            // Groups of their own: each has every event, whoever else reads the topic.
            Part::Consumer => {
                &[("listen.grpc", ":50052"), ("kafka.consumer_group", "analytics-consumer-group")]
            }
            Part::Analytics => {
                &[("listen.grpc", ":50053"), ("kafka.consumer_group", "analytics-service-group")]
            }
            _ => &[],
        }
    }

    /// Whether it only takes messages in when a broker is behind it: others work on what the broker holds.
    pub fn only_takes_in(self) -> bool {
        !self.sends_on_to().is_empty()
    }

    /// The settings, best first, that name a process which works on this part's messages; none for a part that works
    /// on them itself.
    pub fn sends_on_to(self) -> &'static [&'static str] {
        match self {
            Part::All | Part::Processor | Part::Consumer | Part::Analytics => &[],
            Part::ApiGateway | Part::GrpcGateway | Part::HighloadMicroservice | Part::ProducerService => {
                &["remote.ingest_url", "remote.processor_url"]
            }
            Part::Ingest | Part::GrpcServer | Part::Producer => &["remote.processor_url"],
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    #[test]
    fn every_part_is_found_under_the_name_that_the_flag_has() {
        for part in Part::value_variants() {
            let flag = part.to_possible_value().unwrap();
            assert_eq!(flag.get_name(), part.name());
            if *part != Part::All {
                assert_eq!(Part::of_program(part.name()), Some(*part));
            }
        }
    }
}
