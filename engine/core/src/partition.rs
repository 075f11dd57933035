//! What keeps messages together: the part of a message whose hash picks its core, and which is its key at a broker.

use crate::{metadata::MetadataPairs, trace::TRACE_KEY};

/// The metadata key whose value keeps a message together whatever the setting says: events belong to their user. It
/// stands first in the metadata or it is an ordinary pair: looking further would cost every message.
pub const KEY_OVERRIDE: &[u8] = b"tidegate-key";

/// The metadata key that says how a message was sent: `async`, `batch`.
pub const HOW_SENT: &[u8] = b"tidegate-sent";

/// Metadata that says how a message came and not what it is: a repeat may differ in it.
pub const OF_ITS_WAY: [&[u8]; 2] = [HOW_SENT, TRACE_KEY];

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
        if let Some((KEY_OVERRIDE, key)) = MetadataPairs::new(metadata).next() {
            return Some(key);
        }
        match self {
            PartitionKey::Arrival => None,
            PartitionKey::Source => Some(source),
            PartitionKey::Metadata(key) => {
                MetadataPairs::new(metadata).find(|(name, _)| *name == key.as_bytes()).map(|(_, value)| value)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MetadataWriter;

    #[test]
    fn a_messages_own_key_comes_before_the_setting() {
        let mut metadata = Vec::new();
        MetadataWriter::new(&mut metadata).push(b"region", b"eu");
        let by_region = PartitionKey::from_setting("region");
        assert_eq!(by_region.of(b"s", &metadata), Some(&b"eu"[..]));
        assert_eq!(PartitionKey::Arrival.of(b"s", &metadata), None);
        metadata.clear();
        let mut writer = MetadataWriter::new(&mut metadata);
        writer.push(KEY_OVERRIDE, b"user-1");
        writer.push(b"region", b"eu");
        for setting in ["", "source", "region"] {
            assert_eq!(PartitionKey::from_setting(setting).of(b"s", &metadata), Some(&b"user-1"[..]));
        }
    }
}
