//! Benches of the parts, each beside its peers; they live in `benches/`. This library holds nothing.
