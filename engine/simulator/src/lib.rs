//! Tidegate without sockets, disks, brokers and time: the same code in a world that one seed decides.

pub mod broker;
pub mod damage;
pub mod disk;
pub mod ledger;
pub mod plan;
pub mod process;
pub mod run;
pub mod trace;
