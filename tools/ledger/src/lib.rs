//! What other tools share with the ledger test: brokers that are started and end with their owner.

pub mod process;
