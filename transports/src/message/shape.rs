//! The messages of `analytics.v1` that carry an event, as tables: what a walker over their wire form or their JSON
//! has to know of each field. A test holds them against the descriptors.

/// What a field holds.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    /// `string`.
    Text,
    /// `double`.
    Double,
    /// `int32`.
    Int32,
    /// `bool`.
    Bool,
    /// An enum: its names, by number.
    Enum(&'static [&'static str]),
    /// Another message.
    Message(&'static Shape),
    /// `map<string, string>`.
    Pairs,
    /// `google.protobuf.Timestamp`.
    Time,
}

/// A field of a message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Field {
    pub(super) number: u32,
    /// As the `.proto` has it; proto JSON calls it the same in lower camel case, and takes both.
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) repeated: bool,
    /// Whether it is one of the `oneof` of its message; no message here has two.
    pub(super) one_of: bool,
}

/// A message.
#[derive(Debug)]
pub(super) struct Shape {
    pub(super) fields: &'static [Field],
}

impl Shape {
    #[inline]
    pub(super) fn numbered(&self, number: u32) -> Option<&'static Field> {
        // Most messages number their fields without a gap.
        match self.fields.get(number.wrapping_sub(1) as usize) {
            Some(field) if field.number == number => Some(field),
            _ => self.fields.iter().find(|field| field.number == number),
        }
    }

    /// The field of this name, in either spelling.
    pub(super) fn named(&self, name: &str) -> Option<&'static Field> {
        self.fields.iter().find(|field| field.name == name || is_camel_case_of(name, field.name))
    }
}

/// Whether `name` is the lower camel case of a name with underscores.
fn is_camel_case_of(name: &str, snake: &str) -> bool {
    let mut expected = snake.bytes();
    for byte in name.bytes() {
        let wanted = match expected.next() {
            Some(b'_') => expected.next().map(|letter| letter.to_ascii_uppercase()),
            other => other,
        };
        if wanted != Some(byte) {
            return false;
        }
    }
    expected.next().is_none()
}

const fn field(number: u32, name: &'static str, kind: Kind) -> Field {
    Field { number, name, kind, repeated: false, one_of: false }
}

const fn list(number: u32, name: &'static str, shape: &'static Shape) -> Field {
    Field { number, name, kind: Kind::Message(shape), repeated: true, one_of: false }
}

const fn pairs(number: u32, name: &'static str) -> Field {
    Field { number, name, kind: Kind::Pairs, repeated: true, one_of: false }
}

const fn choice(number: u32, name: &'static str, shape: &'static Shape) -> Field {
    Field { number, name, kind: Kind::Message(shape), repeated: false, one_of: true }
}

/// An entry of a map; the walkers know it by heart.
#[cfg(test)]
static PAIR: Shape = Shape { fields: &[field(1, "key", Kind::Text), field(2, "value", Kind::Text)] };

pub(super) static EVENT: Shape = Shape {
    fields: &[
        field(1, "id", Kind::Text),
        field(2, "user_id", Kind::Text),
        field(3, "session_id", Kind::Text),
        field(4, "event_type", Kind::Enum(&EVENT_TYPES)),
        field(5, "timestamp", Kind::Time),
        field(6, "source", Kind::Text),
        pairs(7, "properties"),
        choice(10, "user_event", &USER_EVENT),
        choice(11, "transaction_event", &TRANSACTION_EVENT),
        choice(12, "system_event", &SYSTEM_EVENT),
        choice(13, "custom_event", &CUSTOM_EVENT),
    ],
};

pub(super) static USER_EVENT: Shape = Shape {
    fields: &[
        field(1, "action", Kind::Text),
        field(2, "page_url", Kind::Text),
        field(3, "referrer", Kind::Text),
        field(4, "user_agent", Kind::Text),
        field(5, "ip_address", Kind::Text),
        pairs(6, "metadata"),
        field(7, "user_context", Kind::Message(&USER_CONTEXT)),
    ],
};

static USER_CONTEXT: Shape = Shape {
    fields: &[
        field(1, "device_type", Kind::Text),
        field(2, "browser", Kind::Text),
        field(3, "os", Kind::Text),
        field(4, "country", Kind::Text),
        field(5, "city", Kind::Text),
        field(6, "is_new_user", Kind::Bool),
    ],
};

pub(super) static TRANSACTION_EVENT: Shape = Shape {
    fields: &[
        field(1, "transaction_id", Kind::Text),
        field(2, "type", Kind::Enum(&TRANSACTION_TYPES)),
        field(3, "amount", Kind::Double),
        field(4, "currency", Kind::Text),
        field(5, "status", Kind::Enum(&TRANSACTION_STATUSES)),
        field(6, "payment_method", Kind::Text),
        list(7, "items", &TRANSACTION_ITEM),
        field(8, "metadata", Kind::Message(&TRANSACTION_METADATA)),
    ],
};

static TRANSACTION_ITEM: Shape = Shape {
    fields: &[
        field(1, "item_id", Kind::Text),
        field(2, "name", Kind::Text),
        field(3, "category", Kind::Text),
        field(4, "price", Kind::Double),
        field(5, "quantity", Kind::Int32),
    ],
};

static TRANSACTION_METADATA: Shape = Shape {
    fields: &[
        field(1, "merchant_id", Kind::Text),
        field(2, "store_id", Kind::Text),
        field(3, "campaign_id", Kind::Text),
        pairs(4, "custom_fields"),
    ],
};

pub(super) static SYSTEM_EVENT: Shape = Shape {
    fields: &[
        field(1, "component", Kind::Text),
        field(2, "type", Kind::Enum(&SYSTEM_EVENT_TYPES)),
        field(3, "severity", Kind::Enum(&SYSTEM_SEVERITIES)),
        field(4, "message", Kind::Text),
        pairs(5, "tags"),
        field(6, "metrics", Kind::Message(&SYSTEM_METRICS)),
    ],
};

static SYSTEM_METRICS: Shape = Shape {
    fields: &[
        field(1, "cpu_usage", Kind::Double),
        field(2, "memory_usage", Kind::Double),
        field(3, "disk_usage", Kind::Double),
        field(4, "active_connections", Kind::Int32),
        field(5, "response_time", Kind::Double),
    ],
};

pub(super) static CUSTOM_EVENT: Shape = Shape {
    fields: &[
        field(1, "name", Kind::Text),
        field(2, "category", Kind::Text),
        pairs(3, "attributes"),
        list(4, "metrics", &CUSTOM_METRIC),
    ],
};

static CUSTOM_METRIC: Shape = Shape {
    fields: &[field(1, "name", Kind::Text), field(2, "value", Kind::Double), field(3, "unit", Kind::Text)],
};

static EVENT_TYPES: [&str; 5] = [
    "EVENT_TYPE_UNSPECIFIED",
    "EVENT_TYPE_USER",
    "EVENT_TYPE_TRANSACTION",
    "EVENT_TYPE_SYSTEM",
    "EVENT_TYPE_CUSTOM",
];
static TRANSACTION_TYPES: [&str; 5] = [
    "TRANSACTION_TYPE_UNSPECIFIED",
    "TRANSACTION_TYPE_PURCHASE",
    "TRANSACTION_TYPE_REFUND",
    "TRANSACTION_TYPE_SUBSCRIPTION",
    "TRANSACTION_TYPE_TRANSFER",
];
static TRANSACTION_STATUSES: [&str; 5] = [
    "TRANSACTION_STATUS_UNSPECIFIED",
    "TRANSACTION_STATUS_PENDING",
    "TRANSACTION_STATUS_COMPLETED",
    "TRANSACTION_STATUS_FAILED",
    "TRANSACTION_STATUS_CANCELLED",
];
static SYSTEM_EVENT_TYPES: [&str; 5] = [
    "SYSTEM_EVENT_TYPE_UNSPECIFIED",
    "SYSTEM_EVENT_TYPE_ERROR",
    "SYSTEM_EVENT_TYPE_WARNING",
    "SYSTEM_EVENT_TYPE_INFO",
    "SYSTEM_EVENT_TYPE_METRIC",
];
static SYSTEM_SEVERITIES: [&str; 5] = [
    "SYSTEM_SEVERITY_UNSPECIFIED",
    "SYSTEM_SEVERITY_LOW",
    "SYSTEM_SEVERITY_MEDIUM",
    "SYSTEM_SEVERITY_HIGH",
    "SYSTEM_SEVERITY_CRITICAL",
];

#[cfg(test)]
mod tests {
    use prost_reflect::{DescriptorPool, Kind as Described, MessageDescriptor};

    use super::*;

    fn compare(shape: &Shape, descriptor: &MessageDescriptor) {
        let name = descriptor.full_name();
        assert_eq!(shape.fields.len(), descriptor.fields().len(), "{name}");
        for field in shape.fields {
            let described = descriptor.get_field(field.number).unwrap();
            assert_eq!(described.name(), field.name, "{name}");
            assert!(shape.named(described.json_name()).is_some_and(|found| found.number == field.number));
            assert_eq!(described.is_list() || described.is_map(), field.repeated, "{name}.{}", field.name);
            assert_eq!(described.containing_oneof().is_some(), field.one_of, "{name}.{}", field.name);
            match (field.kind, described.kind()) {
                (Kind::Text, Described::String)
                | (Kind::Double, Described::Double)
                | (Kind::Int32, Described::Int32)
                | (Kind::Bool, Described::Bool) => {}
                (Kind::Enum(names), Described::Enum(described)) => {
                    let known: Vec<String> =
                        described.values().map(|value| value.name().to_owned()).collect();
                    assert_eq!(known, names);
                    assert!(described.values().enumerate().all(|(at, value)| value.number() == at as i32));
                }
                (Kind::Time, Described::Message(inner)) => {
                    assert_eq!(inner.full_name(), "google.protobuf.Timestamp");
                }
                (Kind::Pairs, Described::Message(entry)) => {
                    assert!(described.is_map());
                    compare(&PAIR, &entry);
                }
                (Kind::Message(shape), Described::Message(inner)) => compare(shape, &inner),
                (kind, described) => panic!("{name}.{}: {kind:?} is {described:?}", field.name),
            }
        }
    }

    #[test]
    fn the_tables_are_the_descriptors() {
        let pool = DescriptorPool::decode(tidegate_proto::FILE_DESCRIPTOR_SET).unwrap();
        compare(&EVENT, &pool.get_message_by_name("analytics.v1.Event").unwrap());
    }

    #[test]
    fn both_spellings_are_known_and_no_other() {
        for (name, known) in
            [("user_id", true), ("userId", true), ("UserId", false), ("userid", false), ("user_Id", false)]
        {
            assert_eq!(EVENT.named(name).is_some(), known, "{name}");
        }
    }
}
