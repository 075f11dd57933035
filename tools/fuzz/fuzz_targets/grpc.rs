//! gRPC framing, compression and timeouts: no input panics, and messages do not depend on how the input is cut.
#![no_main]

use libfuzzer_sys::fuzz_target;
use transports::grpc::{Deframer, Encoding, Inflater, Take, parse_timeout};

fn messages(data: &[u8], step: usize) -> Vec<Vec<u8>> {
    let (mut deframer, mut found) = (Deframer::new(1 << 16), Vec::new());
    for piece in data.chunks(step.max(1)) {
        let fed = deframer.feed(piece, |message| {
            found.push(message.bytes.to_vec());
            let _ = Inflater::new(1 << 16).plain(message, Encoding::Gzip).is_ok();
            Take::Next
        });
        if fed.is_err() {
            break;
        }
    }
    found
}

fuzz_target!(|data: &[u8]| {
    assert_eq!(messages(data, data.len()), messages(data, 1));
    let _ = parse_timeout(data).is_ok();
});
