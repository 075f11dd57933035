//! The embedded durable log: per-shard segments with group commit.
