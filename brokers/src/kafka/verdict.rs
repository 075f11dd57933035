//! What an error of the brokers or of librdkafka judges. One table for the publisher, its tests and `docs/brokers.md`.
//!
//! A broker answers a produce request, which holds one batch of one partition. So hardly any code judges a record: what
//! is wrong with one of them refuses all.

use rdkafka::error::RDKafkaErrorCode;

/// What an error judges, and so what must happen to the records it came back with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The batch, because of at least one of its records. It is sent again in halves; a record that is refused alone is
    /// a dead letter.
    Batch,
    /// The broker, or one of the batch's records: it cannot be told. Every record is sent again, in order; when that fails
    /// again and again, it is taken for the batch's.
    Doubt,
    /// The topic, its settings or the right to write to it. Every record waits, in order, until that is mended.
    Topic,
    /// The connection, the broker or the producer. Every record is sent again, in order.
    Connection,
}

/// Every code that does not mean [`Verdict::Connection`] (Kafka's protocol guide, "Error Codes").
pub(super) const VERDICTS: &[(RDKafkaErrorCode, Verdict)] = &[
    (RDKafkaErrorCode::MessageSizeTooLarge, Verdict::Batch),
    (RDKafkaErrorCode::MessageBatchTooLarge, Verdict::Batch),
    (RDKafkaErrorCode::InvalidMessageSize, Verdict::Batch),
    (RDKafkaErrorCode::InvalidRecord, Verdict::Batch),
    (RDKafkaErrorCode::InvalidTimestamp, Verdict::Batch),
    (RDKafkaErrorCode::Unknown, Verdict::Doubt),
    (RDKafkaErrorCode::InvalidMessage, Verdict::Doubt),
    (RDKafkaErrorCode::UnsupportedForMessageFormat, Verdict::Topic),
    (RDKafkaErrorCode::TopicAuthorizationFailed, Verdict::Topic),
    (RDKafkaErrorCode::UnknownTopic, Verdict::Topic),
    (RDKafkaErrorCode::UnknownTopicOrPartition, Verdict::Topic),
    (RDKafkaErrorCode::UnknownPartition, Verdict::Topic),
    (RDKafkaErrorCode::InvalidTopic, Verdict::Topic),
    (RDKafkaErrorCode::PolicyViolation, Verdict::Topic),
];

/// What `code` judges.
pub(super) fn verdict(code: RDKafkaErrorCode) -> Verdict {
    VERDICTS.iter().find(|(known, _)| *known == code).map_or(Verdict::Connection, |(_, verdict)| *verdict)
}
