//! The processing step, and the sink that does nothing else: `QUEUE_TYPE=memory`.

use crate::outcome::Outcome;
use crate::sink::{Batch, Completions, Sink};
use crate::slab::Record;

/// What a worker does with a message. Also any `FnMut(&Record, &mut Vec<u8>) -> Outcome`.
pub trait Process {
    /// Appends the message's result to `result`, which comes empty and is reused; says [`Outcome::Processed`] or
    /// [`Outcome::Failed`].
    fn process(&mut self, record: &Record<'_>, result: &mut Vec<u8>) -> Outcome;

    /// There is nothing more to process for now: what was held for a run of messages is let go of.
    fn rest(&mut self) {}
}

impl<F: FnMut(&Record<'_>, &mut Vec<u8>) -> Outcome> Process for F {
    #[inline]
    fn process(&mut self, record: &Record<'_>, result: &mut Vec<u8>) -> Outcome {
        self(record, result)
    }
}

/// What the older processor did: the result is `PROCESSED_` and the payload.
#[derive(Clone, Copy, Debug, Default)]
pub struct Prefix;

impl Process for Prefix {
    #[inline]
    fn process(&mut self, record: &Record<'_>, result: &mut Vec<u8>) -> Outcome {
        result.extend_from_slice(b"PROCESSED_");
        result.extend_from_slice(record.payload);
        Outcome::Processed
    }
}

/// Processes each message on the spot and completes it at once; the result goes nowhere.
#[derive(Clone, Debug, Default)]
pub struct MemorySink<P> {
    process: P,
    /// As large as the largest result so far, which the slab's budget bounds.
    result: Vec<u8>,
    result_bytes: u64,
}

impl<P: Process> MemorySink<P> {
    /// A sink that processes with `process`.
    pub fn new(process: P) -> Self {
        Self { process, result: Vec::new(), result_bytes: 0 }
    }

    /// Bytes of all results so far.
    pub fn result_bytes(&self) -> u64 {
        self.result_bytes
    }

    /// The processing step, for a caller that keeps state in it.
    pub fn process_mut(&mut self) -> &mut P {
        &mut self.process
    }
}

impl<P: Process> Sink for MemorySink<P> {
    #[inline]
    fn submit(&mut self, batch: &mut Batch<'_>) {
        while let Some(ticket) = batch.take() {
            self.result.clear();
            let outcome = self.process.process(&batch.read(&ticket).record(), &mut self.result);
            self.result_bytes += self.result.len() as u64;
            batch.complete(ticket, outcome);
        }
    }

    fn poll(&mut self, _done: &mut Completions<'_>) {}
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::{Record, Shard, SlabConfig, mesh};

    fn one_core<P: Process>(process: P) -> Shard<MemorySink<P>> {
        let port = mesh(1, &SlabConfig::new(8, 1 << 20)).remove(0);
        Shard::new(port, MemorySink::new(process))
    }

    #[test]
    fn prefix_stands_before_the_payload() {
        let mut results = Vec::new();
        let mut shard = one_core(|record: &Record<'_>, result: &mut Vec<u8>| {
            assert!(result.is_empty());
            let outcome = Prefix.process(record, result);
            results.push(result.clone());
            outcome
        });
        for payload in [&b"one"[..], b""] {
            shard.submit(0, &Record { payload, ..Record::default() }).unwrap();
        }
        shard.poll();
        assert_eq!((shard.in_flight(), shard.sink().result_bytes()), (0, 23));
        drop(shard);
        assert_eq!(results, [&b"PROCESSED_one"[..], b"PROCESSED_"]);
    }

    #[test]
    fn failure_to_process_is_counted_and_frees_the_slot() {
        let mut shard = one_core(|_: &Record<'_>, _: &mut Vec<u8>| Outcome::Failed);
        shard.submit(0, &Record::default()).unwrap();
        shard.poll();
        let snapshot = shard.counters().snapshot();
        assert_eq!((snapshot.processed, snapshot.failed, shard.in_flight()), (0, 1, 0));
    }
}
