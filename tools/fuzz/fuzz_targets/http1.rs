//! HTTP/1.1: no input panics, and what is answered does not depend on how the input is cut.
#![no_main]

use libfuzzer_sys::fuzz_target;
use transports::h1::{Accept, Answer, Application, Connection, Limits, Ready, Reply, RequestHead};

const DATE: &[u8; 29] = b"Sun, 06 Nov 1994 08:49:37 GMT";

struct Echo(Ready);

impl Application for Echo {
    fn head(&mut self, _: &RequestHead<'_>, _: Reply<'_>) -> Accept {
        Accept::Body
    }

    fn request(&mut self, _: &RequestHead<'_>, body: &[u8], reply: Reply<'_>) -> Answer {
        reply.ready(&self.0, body)
    }
}

fn answers(pieces: impl Iterator<Item = u8>, step: usize) -> Vec<u8> {
    let (mut app, mut out) = (Echo(Ready::json(200)), Vec::new());
    let mut connection = Connection::new(Limits::default());
    let (mut input, mut pieces) = (Vec::new(), pieces.peekable());
    while pieces.peek().is_some() {
        input.extend(pieces.by_ref().take(step));
        loop {
            let Ok(used) = connection.receive(&input, DATE, &mut app, &mut out) else { return out };
            input.drain(..used);
            if used == 0 || input.is_empty() {
                break;
            }
        }
        if connection.should_close() {
            break;
        }
    }
    out
}

fuzz_target!(|data: &[u8]| {
    let data = &data[..data.len().min(4096)];
    let whole = answers(data.iter().copied(), data.len().max(1));
    let bytes = answers(data.iter().copied(), 1);
    // An interim 100 Continue is only said while the body is still to come.
    if !whole.windows(4).any(|word| word == b" 100") && !bytes.windows(4).any(|word| word == b" 100") {
        assert_eq!(whole, bytes);
    }
});
