//! Quantiles of named values, each within 1 % of the exact one, mergeable: DDSketch (Masson, Rim, Lee 2019).
//!
//! A value counts in the bin of its magnitude; bins grow by γ = 1.01 / 0.99, so the middle of a bin is at most 1 % from
//! everything in it. Our own and not a crate's: `sketches-ddsketch` keeps a dense array over the range of the values, 1 KiB
//! at least, and there is one of these for each metric of each minute, where most hold a few values. Here a bin takes 8
//! bytes and only bins that count something are kept.

use serde::{Deserialize, Serialize};

/// Relative error of a quantile.
const ERROR: f64 = 0.01;
/// Bins of one metric in one bucket: values over 8 to 9 powers of ten without a gap. Beyond, the two lowest are joined: high
/// quantiles stay what they are, low ones are told too high.
const BINS_MAX: usize = 1024;
/// Bins on either side of zero: magnitudes from 10^-139 to 10^139. What is smaller counts as zero, what is larger as that.
const SIDE: i32 = 16_000;
const COUNT_BITS: u32 = 48;
const COUNT_MASK: u64 = (1 << COUNT_BITS) - 1;

/// How often values of each magnitude came.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quantiles {
    /// Lowest values first: 16 bits of bin, 48 of count.
    bins: Vec<u64>,
}

fn log_gamma() -> f64 {
    ((1.0 + ERROR) / (1.0 - ERROR)).ln()
}

/// The number of a value's bin: in the order of values, zero in the middle.
fn bin_of(value: f64) -> u64 {
    let place = (value.abs().ln() / log_gamma()).ceil();
    let magnitude = if place < f64::from(-SIDE) { 0 } else { (place as i32).min(SIDE) + SIDE + 1 };
    let signed = if value < 0.0 { -magnitude } else { magnitude };
    u64::from((signed + i32::from(i16::MAX) + 1).unsigned_abs())
}

/// The middle of a bin.
fn value_of(bin: u64) -> f64 {
    let signed = bin as i32 - i32::from(i16::MAX) - 1;
    if signed == 0 {
        return 0.0;
    }
    let upper = (f64::from(signed.abs() - SIDE - 1) * log_gamma()).exp();
    // γ^k · 2 / (γ + 1) is as far from both ends of the bin.
    (upper * (1.0 - ERROR)).copysign(f64::from(signed))
}

impl Quantiles {
    /// Counts a value; what is no number is not counted.
    pub fn add(&mut self, value: f64) {
        if !value.is_nan() {
            self.count(bin_of(value), 1);
        }
    }

    fn count(&mut self, bin: u64, by: u64) {
        let place = self.bins.partition_point(|known| known >> COUNT_BITS < bin);
        match self.bins.get_mut(place) {
            Some(known) if *known >> COUNT_BITS == bin => {
                // 2^48 values of a magnitude in a day would be three billion a second.
                let count = (*known & COUNT_MASK).saturating_add(by).min(COUNT_MASK);
                *known = bin << COUNT_BITS | count;
            }
            _ => {
                self.bins.insert(place, bin << COUNT_BITS | by);
                if self.bins.len() > BINS_MAX {
                    let lowest = self.bins.remove(0);
                    let count = (self.bins[0] & COUNT_MASK).saturating_add(lowest & COUNT_MASK);
                    self.bins[0] = (self.bins[0] & !COUNT_MASK) | count.min(COUNT_MASK);
                }
            }
        }
    }

    /// Counts everything that another one counted.
    pub fn merge(&mut self, other: &Quantiles) {
        other.bins.iter().for_each(|bin| self.count(bin >> COUNT_BITS, bin & COUNT_MASK));
    }

    /// The lowest value that at least this share of all is not above; `None` when nothing was counted.
    pub fn quantile(&self, share: f64) -> Option<f64> {
        let all: u64 = self.bins.iter().map(|bin| bin & COUNT_MASK).sum();
        let rank = ((all as f64 * share).ceil() as u64).clamp(1, all.max(1));
        let mut below = 0;
        self.bins.iter().find_map(|bin| {
            below += bin & COUNT_MASK;
            (below >= rank).then(|| value_of(bin >> COUNT_BITS))
        })
    }

    /// Bins that count something; each takes 8 bytes.
    pub(crate) fn bins(&self) -> usize {
        self.bins.len()
    }

    /// Whether it is one that values can have made.
    pub(crate) fn is_sound(&self) -> bool {
        let rising = self.bins.windows(2).all(|two| two[0] >> COUNT_BITS < two[1] >> COUNT_BITS);
        rising && self.bins.len() <= BINS_MAX && self.bins.iter().all(|bin| bin & COUNT_MASK > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exact(values: &mut [f64], share: f64) -> f64 {
        values.sort_by(f64::total_cmp);
        values[((values.len() as f64 * share).ceil() as usize).max(1) - 1]
    }

    fn of(values: &[f64]) -> Quantiles {
        let mut quantiles = Quantiles::default();
        values.iter().for_each(|value| quantiles.add(*value));
        assert!(quantiles.is_sound());
        quantiles
    }

    #[test]
    fn quantiles_are_within_one_per_cent_of_the_exact_ones() {
        let mut random = fastrand::Rng::with_seed(7);
        type Draw = fn(&mut fastrand::Rng) -> f64;
        let draws: [(&str, Draw); 4] = [
            ("latencies", |random| (random.f64() * 12.0 - 6.0).exp()),
            ("around zero", |random| random.f64() * 200.0 - 100.0),
            ("whole numbers", |random| f64::from(random.i32(-5..50))),
            ("heavy tail", |random| 1.0 / random.f64().max(1e-9)),
        ];
        for (name, draw) in draws {
            for count in [1, 2, 19, 1000, 50_000] {
                let mut values: Vec<f64> = (0..count).map(|_| draw(&mut random)).collect();
                let quantiles = of(&values);
                for share in [0.0, 0.01, 0.5, 0.95, 0.99, 1.0] {
                    let (told, exact) = (quantiles.quantile(share).unwrap(), exact(&mut values, share));
                    let error = (told - exact).abs();
                    assert!(
                        error <= exact.abs() * ERROR * 1.000_001,
                        "{name} {count} {share}: {told}, {exact}"
                    );
                }
            }
        }
    }

    #[test]
    fn merged_is_as_if_it_had_counted_both() {
        let mut random = fastrand::Rng::with_seed(8);
        let values: Vec<f64> = (0..10_000).map(|_| random.f64().powi(8) * 1e4 - 10.0).collect();
        let mut merged = of(&values[..3000]);
        merged.merge(&of(&values[3000..]));
        assert_eq!(merged, of(&values));
    }

    #[test]
    fn bins_are_bounded_and_high_quantiles_stay() {
        let mut random = fastrand::Rng::with_seed(9);
        let mut values: Vec<f64> = (0..50_000).map(|_| (random.f64() * 600.0 - 300.0).exp()).collect();
        values.extend([f64::MAX, f64::MIN_POSITIVE, 0.0, -0.0, f64::INFINITY, f64::NEG_INFINITY]);
        let quantiles = of(&values);
        assert_eq!(quantiles.bins(), BINS_MAX);
        let (told, exact) = (quantiles.quantile(0.99).unwrap(), exact(&mut values, 0.99));
        assert!((told - exact).abs() <= exact * ERROR * 1.000_001, "{told}, {exact}");
        assert_eq!((Quantiles::default().quantile(0.5), of(&[f64::NAN]).bins()), (None, 0));
    }
}
