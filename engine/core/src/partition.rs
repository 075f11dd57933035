//! What keeps messages together: the part of a message whose hash picks its core, and which is its key at a broker.

use crate::metadata::MetadataPairs;

/// What keeps messages together on one core and in one partition, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum PartitionKey {
    /// Nothing: a message stays on the core it arrived at.
    #[default]
    Arrival,
    /// The message's source.
    Source,
    /// The value of a metadata key; a message without it has no key.
    Metadata(String),
}

impl PartitionKey {
    /// Reads the setting: empty, `source`, or the name of a metadata key.
    pub fn from_setting(text: &str) -> Self {
        match text {
            "" => PartitionKey::Arrival,
            "source" => PartitionKey::Source,
            key => PartitionKey::Metadata(key.to_owned()),
        }
    }

    /// The key of a message with this source and this metadata (as [`MetadataWriter`](crate::MetadataWriter)
    /// encodes it); `None` when it has none.
    pub fn of<'a>(&self, source: &'a [u8], metadata: &'a [u8]) -> Option<&'a [u8]> {
        match self {
            PartitionKey::Arrival => None,
            PartitionKey::Source => Some(source),
            PartitionKey::Metadata(key) => {
                MetadataPairs::new(metadata).find(|(name, _)| *name == key.as_bytes()).map(|(_, value)| value)
            }
        }
    }
}
