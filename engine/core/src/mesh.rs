//! The mesh: a slab for every core and, between every two of them, a submission ring one way and a
//! completion ring the other.
//!
//! ```text
//!            submission ring A→B: Handle
//!   core A ───────────────────────────────▶ core B
//!          ◀───────────────────────────────
//!            completion ring B→A: Completed
//! ```
//!
//! A core has no ring to itself; its [`Shard`](crate::Shard) queues what stays at home.
//!
//! Each ring holds as many entries as the slab of the messages in it has slots. A handle exists once, so
//! a ring cannot be full: the slab is the only bound, and a push is asserted, not handled.
//!
//! # Memory
//!
//! [`mesh_bytes_worst_case`] is the rings' documented sum. A ring is touched from end to end as it turns,
//! so this memory does become resident between cores that talk.

use crossbeam_utils::CachePadded;

use crate::outcome::Outcome;
use crate::ring::{Consumer, Producer, ring};
use crate::slab::{Handle, SlabConfig, SlabOwner, SlabReader, slab};
use crate::sync::{Arc, AtomicBool, Ordering, WakerCell};

/// A message on its way home.
#[derive(Debug)]
pub struct Completed {
    /// The message, to be freed by its home core.
    pub handle: Handle,
    /// How it ended.
    pub outcome: Outcome,
}

/// What one core holds towards one other core. Padded, because the neighbouring allocation may be
/// another core's.
#[derive(Debug)]
pub(crate) struct Lane {
    /// Our messages that the other core works on.
    pub(crate) submissions_out: Producer<Handle>,
    /// The other core's messages that we work on.
    pub(crate) submissions_in: Consumer<Handle>,
    /// The other core's messages that we are done with.
    pub(crate) completions_out: Producer<Completed>,
    /// Our messages that the other core is done with.
    pub(crate) completions_in: Consumer<Completed>,
}

/// One core's end of the mesh: its slab, and all its rings. Goes to the core's thread.
#[derive(Debug)]
pub struct Port {
    pub(crate) core: usize,
    pub(crate) slab: SlabOwner,
    /// Every core's slab, by core.
    pub(crate) readers: Vec<SlabReader>,
    /// By core; `None` at our own place.
    pub(crate) lanes: Vec<Option<CachePadded<Lane>>>,
    /// Every core's doorbell, by core.
    pub(crate) doorbells: Vec<Doorbell>,
}

/// The ports of `cores` cores, in order, each with a slab of this configuration.
///
/// # Panics
/// When `cores` is 0 or does not fit 16 bits, or the configuration is one that [`slab()`] refuses.
pub fn mesh(cores: usize, config: &SlabConfig) -> Vec<Port> {
    let numbers = 0..u16::try_from(cores).unwrap_or(u16::MAX);
    assert!(cores > 0 && numbers.len() == cores, "a mesh has 1 to 65,535 cores, not {cores}");
    let (owners, readers): (Vec<_>, Vec<_>) = numbers.map(|core| slab(core, config)).unzip();
    let doorbells: Vec<_> = (0..cores).map(|_| Doorbell::new()).collect();

    let mut lanes: Vec<Vec<Option<CachePadded<Lane>>>> = (0..cores).map(|_| Vec::new()).collect();
    let entries = ring_entries(config);
    // Core by core, each joined with those before it and itself, so every core's lanes come in order.
    for core in 0..cores {
        let (earlier, own) = lanes.split_at_mut(core);
        for theirs in earlier {
            let (submissions_out, submissions_to_them) = ring(entries);
            let (submissions_to_us, submissions_in) = ring(entries);
            let (completions_out, completions_to_them) = ring(entries);
            let (completions_to_us, completions_in) = ring(entries);
            let lane = Lane { submissions_out, submissions_in, completions_out, completions_in };
            own[0].push(Some(CachePadded::new(lane)));
            theirs.push(Some(CachePadded::new(Lane {
                submissions_out: submissions_to_us,
                submissions_in: submissions_to_them,
                completions_out: completions_to_us,
                completions_in: completions_to_them,
            })));
        }
        own[0].push(None);
    }
    let ports = owners.into_iter().zip(lanes).enumerate();
    let port = |(core, (slab, lanes))| Port {
        core,
        slab,
        lanes,
        readers: readers.clone(),
        doorbells: doorbells.clone(),
    };
    ports.map(port).collect()
}

fn ring_entries(config: &SlabConfig) -> usize {
    (config.slots as usize).max(1).next_power_of_two()
}

/// What the rings of a mesh take, the slabs not included:
/// `cores × (cores − 1) × slots rounded up to a power of two × (16 submission + 32 completion)`.
pub fn mesh_bytes_worst_case(cores: usize, config: &SlabConfig) -> usize {
    cores * cores.saturating_sub(1) * ring_entries(config) * (size_of::<Handle>() + size_of::<Completed>())
}

impl Port {
    /// The core this port belongs to.
    pub fn core(&self) -> usize {
        self.core
    }

    /// How many cores the mesh has.
    pub fn cores(&self) -> usize {
        self.doorbells.len()
    }

    /// This core's doorbell, for whoever must wake it.
    pub fn doorbell(&self) -> Doorbell {
        self.doorbells[self.core].clone()
    }
}

/// Wakes a core that sleeps. Clones ring the same bell.
///
/// # No wake is lost
///
/// Whoever gives a core work publishes it first and rings then: [`ring`](Self::ring) sets `rung`, then
/// wakes the registered waker, if there is one. The core, before it sleeps, checks, registers, and
/// checks again ([`poll_rung`](Self::poll_rung)). Either the ring came before the registration, then
/// the second check sees `rung`; or after it, then the waker is called.
#[derive(Clone, Debug)]
pub struct Doorbell {
    bell: Arc<CachePadded<Bell>>,
}

#[derive(Debug)]
struct Bell {
    rung: AtomicBool,
    waker: WakerCell,
}

impl Doorbell {
    fn new() -> Self {
        let bell = Bell { rung: AtomicBool::new(false), waker: WakerCell::default() };
        Self { bell: Arc::new(CachePadded::new(bell)) }
    }

    /// Tells the core that there is work. Cheap when it was told already and has not looked yet.
    pub fn ring(&self) {
        // Release: what was published before is visible to the Acquire in `answer`. If the bell was
        // rung already, whoever rang it wakes the core, and our swap is in its release sequence.
        if !self.bell.rung.swap(true, Ordering::AcqRel) {
            self.bell.waker.wake();
        }
    }

    /// Whether it was rung since the last answer; it is quiet afterwards. A core answers first and
    /// looks for work then, so that what is published meanwhile rings again.
    #[inline]
    pub fn answer(&self) -> bool {
        // The plain load keeps the common case, quiet, from taking the line away from the ringers.
        // Acquire: pairs with the Release in `ring`.
        self.bell.rung.load(Ordering::Relaxed) && self.bell.rung.swap(false, Ordering::AcqRel)
    }

    /// Ready when the bell was rung (and answers it); otherwise `waker` is called when it is.
    pub fn poll_rung(&self, waker: &std::task::Waker) -> std::task::Poll<()> {
        if !self.answer() {
            self.bell.waker.register(waker);
            if !self.answer() {
                return std::task::Poll::Pending;
            }
        }
        std::task::Poll::Ready(())
    }
}

/// The core that works on a key: the high bits of `key_hash × cores` (multiply-shift). It spreads
/// evenly for any number of cores, without a division, as long as the hash's high bits are good.
#[inline]
pub fn shard_of(key_hash: u64, cores: usize) -> usize {
    ((u128::from(key_hash) * cores as u128) >> 64) as usize
}

/// A stable hash of a partition key: the same on every machine and in every version, because what was
/// stored under it must be found again.
///
/// Eight bytes at a time: the state, xor the next eight (little endian, the last ones padded with
/// zeros), is multiplied to 128 bits whose halves are xored. It starts from the length, so padding is
/// unambiguous. Not keyed: who chooses keys can choose a core, which one key does anyway.
#[inline]
pub fn key_hash(key: &[u8]) -> u64 {
    /// The fraction of the golden ratio, and of the square root of 2 (made odd): no structure of ours.
    const A: u64 = 0x9e37_79b9_7f4a_7c15;
    const B: u64 = 0x6a09_e667_f3bc_c909;
    let fold = |x: u64, by: u64| {
        let product = u128::from(x) * u128::from(by);
        product as u64 ^ (product >> 64) as u64
    };
    let (words, rest) = key.as_chunks::<8>();
    let mut state = A ^ key.len() as u64;
    for word in words {
        state = fold(state ^ u64::from_le_bytes(*word), B);
    }
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    fold(fold(state ^ u64::from_le_bytes(last), A), B)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::slab::Record;
    use std::sync::atomic::AtomicUsize;
    use std::task::{Wake, Waker};

    #[test]
    fn every_pair_of_cores_is_joined_both_ways() {
        let mut ports = mesh(3, &SlabConfig::new(4, 1 << 20));
        for a in 0..3 {
            assert!(ports[a].lanes[a].is_none());
            for b in (0..3).filter(|b| *b != a) {
                let handle =
                    ports[a].slab.insert(&Record { payload: &[a as u8, b as u8], ..Record::default() });
                let lane = ports[a].lanes[b].as_mut().unwrap();
                lane.submissions_out.push(handle.unwrap()).unwrap();

                let handle = ports[b].lanes[a].as_mut().unwrap().submissions_in.pop().unwrap();
                assert_eq!(handle.core(), a);
                assert_eq!(ports[b].readers[a].read(&handle).payload(), [a as u8, b as u8]);
                let completed = Completed { handle, outcome: Outcome::Processed };
                ports[b].lanes[a].as_mut().unwrap().completions_out.push(completed).unwrap();

                let completed = ports[a].lanes[b].as_mut().unwrap().completions_in.pop().unwrap();
                ports[a].slab.free(completed.handle);
            }
            assert_eq!(ports[a].slab.in_use(), 0);
        }
    }

    #[test]
    fn rings_hold_every_slot() {
        let config = SlabConfig::new(5, 1 << 20);
        let ports = mesh(2, &config);
        let lane = ports[0].lanes[1].as_ref().unwrap();
        assert_eq!((lane.submissions_out.capacity(), lane.completions_out.capacity()), (8, 8));
        assert_eq!(mesh_bytes_worst_case(2, &config), 2 * 8 * 48);
        assert_eq!(mesh_bytes_worst_case(1, &config), 0);
    }

    struct CountsWakes(AtomicUsize);

    impl Wake for CountsWakes {
        fn wake(self: std::sync::Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn doorbell_wakes_once_and_is_quiet_after_an_answer() {
        let bell = Doorbell::new();
        let wakes = std::sync::Arc::new(CountsWakes(AtomicUsize::new(0)));
        let waker = Waker::from(std::sync::Arc::clone(&wakes));
        assert!(bell.poll_rung(&waker).is_pending());
        bell.ring();
        bell.ring();
        assert_eq!(wakes.0.load(Ordering::Relaxed), 1);
        assert!(bell.poll_rung(&waker).is_ready());
        assert!(!bell.answer());
        assert!(bell.poll_rung(&waker).is_pending());
        bell.clone().ring();
        assert_eq!(wakes.0.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn key_hash_is_fixed_for_ever() {
        // Computed by a separate program from the description above `key_hash`.
        let vectors: [(&[u8], u64); 6] = [
            (b"", 0x05a4_c0a3_1cef_469e),
            (b"a", 0xecfb_88e4_8024_29ac),
            (b"user-42", 0x9858_e994_7506_f8a0),
            (b"12345678", 0xfc7a_d4f2_386b_97d3),
            (b"123456789", 0x394c_0e1c_a519_0bfc),
            (b"018f3b2e-7c1d-7a55-9e2b-0123456789ab", 0x76e4_9f44_f8e0_2cd9),
        ];
        vectors.iter().for_each(|(key, hash)| assert_eq!(key_hash(key), *hash, "{key:?}"));
    }

    #[test]
    fn similar_keys_spread_evenly_over_any_number_of_cores() {
        for cores in [1, 2, 3, 7, 16] {
            for prefix in ["", "user-", "a-rather-long-user-id-"] {
                let mut per_core = vec![0_usize; cores];
                (0..10_000).for_each(|n| {
                    per_core[shard_of(key_hash(format!("{prefix}{n}").as_bytes()), cores)] += 1
                });
                let fair = 10_000 / cores;
                assert!(
                    per_core.iter().all(|count| count.abs_diff(fair) < fair / 5),
                    "{prefix}: {per_core:?}"
                );
            }
        }
    }

    #[test]
    fn shard_of_stays_below_the_number_of_cores() {
        assert_eq!((shard_of(u64::MAX, 3), shard_of(0, 3), shard_of(u64::MAX, 1)), (2, 0, 0));
    }
}
