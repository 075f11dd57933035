//! The requests that carry events, from their wire form: which bytes of them are events.

use super::{
    MessageError,
    wire::{Value, Wire},
};

/// The event of an `IngestEventRequest`. `None`: it has options, or not exactly one event.
pub fn event_of_request(bytes: &[u8]) -> Option<&[u8]> {
    let mut events = events_of_request(bytes)?;
    let event = events.next()?;
    events.next().is_none().then_some(event)
}

/// The events of an `IngestEventsRequest`. `None`: it has options, or is broken.
pub fn events_of_request(bytes: &[u8]) -> Option<impl Iterator<Item = &[u8]>> {
    let mut wire = Wire { bytes, at: 0 };
    while !wire.is_done() {
        match wire.next().ok()? {
            (2, Value::Delimited(options)) if options.bytes.is_empty() => {}
            (1, Value::Delimited(_)) | (3.., _) => {}
            _ => return None,
        }
    }
    let mut wire = Wire { bytes, at: 0 };
    Some(std::iter::from_fn(move || {
        while !wire.is_done() {
            if let (1, Value::Delimited(event)) = wire.next().ok()? {
                return Some(event.bytes);
            }
        }
        None
    }))
}

/// A `StreamEventsRequest`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamedRequest<'a> {
    /// An event.
    Event(&'a [u8]),
    /// How often the stream wants to hear how it is; 0: as usual.
    Config {
        /// After so many events.
        batch_size: u64,
        /// And after so long, in milliseconds.
        flush_interval_ms: u64,
    },
    /// Neither.
    Nothing,
}

/// Reads a `StreamEventsRequest`.
///
/// # Errors
/// When the bytes are no message, or carry more than one event or config: protobuf would make one of two, and of which
/// half was meant nobody could be told.
pub fn read_streamed(bytes: &[u8]) -> Result<StreamedRequest<'_>, MessageError> {
    let mut request = StreamedRequest::Nothing;
    let mut wire = Wire { bytes, at: 0 };
    while !wire.is_done() {
        let at = wire.at;
        let field = wire.next()?;
        if matches!(field, (1 | 2, Value::Delimited(_))) && request != StreamedRequest::Nothing {
            return Err(MessageError::Protobuf { what: "a second event or config in one message", at });
        }
        match field {
            (1, Value::Delimited(event)) => request = StreamedRequest::Event(event.bytes),
            (2, Value::Delimited(config)) => {
                let (mut batch_size, mut interval) = (0, Interval::default());
                let mut wire = Wire { bytes: config.bytes, at: 0 };
                while !wire.is_done() {
                    match wire.next()? {
                        // A negative one is as good as none.
                        (1, Value::Varint(size)) => batch_size = not_negative(size),
                        (2, Value::Delimited(duration)) => {
                            interval.read(duration.bytes)?;
                        }
                        _ => {}
                    }
                }
                let flush_interval_ms = interval.seconds_ms + interval.nanos_ms;
                request = StreamedRequest::Config { batch_size, flush_interval_ms };
            }
            _ => {}
        }
    }
    Ok(request)
}

/// A `google.protobuf.Duration` in milliseconds; what is negative is 0.
#[derive(Default)]
struct Interval {
    seconds_ms: u64,
    nanos_ms: u64,
}

impl Interval {
    fn read(&mut self, bytes: &[u8]) -> Result<(), MessageError> {
        let mut wire = Wire { bytes, at: 0 };
        while !wire.is_done() {
            match wire.next()? {
                (1, Value::Varint(seconds)) => {
                    self.seconds_ms = u64::from(u32::try_from(seconds).unwrap_or(0)) * 1000;
                }
                (2, Value::Varint(nanos)) => self.nanos_ms = not_negative(nanos) / 1_000_000,
                _ => {}
            }
        }
        Ok(())
    }
}

/// The value of an `int32`: the lower half of its varint, as the general decoder takes it; 0 for a negative one.
fn not_negative(varint: u64) -> u64 {
    u64::from(u32::try_from(varint as i32).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use tidegate_proto::analytics::v1::{
        Event, IngestEventRequest, IngestEventsRequest, IngestOptions, StreamConfig, StreamEventsRequest,
        stream_events_request::Request,
    };

    use super::*;

    fn event(user: &str) -> Event {
        Event { user_id: user.into(), ..Event::default() }
    }

    #[test]
    fn the_event_of_a_request_is_found_unless_there_are_options() {
        let request = |options| IngestEventRequest { event: Some(event("u")), options }.encode_to_vec();
        assert_eq!(event_of_request(&request(None)), Some(event("u").encode_to_vec().as_slice()));
        assert!(event_of_request(&request(Some(IngestOptions::default()))).is_some());
        assert!(
            event_of_request(&request(Some(IngestOptions { r#async: true, ..Default::default() }))).is_none()
        );
        assert!(event_of_request(b"").is_none());
        assert!(event_of_request(&[request(None), request(None)].concat()).is_none());
        assert!(event_of_request(b"\x0a\x05x").is_none());
    }

    #[test]
    fn the_events_of_a_batch_come_in_order() {
        let batch =
            IngestEventsRequest { events: vec![event("a"), Event::default(), event("b")], options: None };
        let bytes = batch.encode_to_vec();
        let events: Vec<Event> =
            events_of_request(&bytes).unwrap().map(|event| Event::decode(event).unwrap()).collect();
        assert_eq!(events, batch.events);
        assert!(events_of_request(b"\x08\x01").is_none());
    }

    #[test]
    fn a_streamed_request_is_an_event_or_a_config() {
        let bytes = StreamEventsRequest { request: Some(Request::Event(event("u"))) }.encode_to_vec();
        assert!(matches!(read_streamed(&bytes).unwrap(), StreamedRequest::Event(bytes) if bytes.len() == 3));
        let flush_interval = Some(prost_types::Duration { seconds: 2, nanos: 5_000_000 });
        let config = Request::Config(StreamConfig { batch_size: 7, flush_interval });
        let bytes = StreamEventsRequest { request: Some(config) }.encode_to_vec();
        let expected = StreamedRequest::Config { batch_size: 7, flush_interval_ms: 2005 };
        assert_eq!(read_streamed(&bytes).unwrap(), expected);
        let negative = Request::Config(StreamConfig { batch_size: -1, flush_interval: None });
        let bytes = StreamEventsRequest { request: Some(negative) }.encode_to_vec();
        let expected = StreamedRequest::Config { batch_size: 0, flush_interval_ms: 0 };
        assert_eq!(read_streamed(&bytes).unwrap(), expected);
        assert_eq!(read_streamed(b"").unwrap(), StreamedRequest::Nothing);
        assert!(read_streamed(b"\x0a\x05x").is_err());
        let error = read_streamed(b"\x0a\x00\x12\x00").unwrap_err().to_string();
        assert!(error.contains("second event or config") && error.contains("byte 2"), "{error}");
    }
}
