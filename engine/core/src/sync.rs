//! The std/loom shim: the same sources run on real atomics and, under `--cfg loom`, on loom's, which
//! try every interleaving and every value that the memory model lets a load return.
//!
//! `UnsafeCell` is used through `with`/`with_mut` only, so that loom sees each access as an event and
//! reports two that race.
#![allow(unsafe_code)]

use std::mem::MaybeUninit;

#[cfg(not(loom))]
mod imp {
    pub(crate) use std::sync::Arc;
    pub(crate) use std::sync::atomic::{AtomicBool, AtomicUsize};

    /// `std::cell::UnsafeCell` with loom's interface.
    #[derive(Debug)]
    #[repr(transparent)]
    pub(crate) struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

    impl<T> UnsafeCell<T> {
        /// Calls `read` with a pointer that is only read through.
        #[inline(always)]
        pub(crate) fn with<R>(&self, read: impl FnOnce(*const T) -> R) -> R {
            read(self.0.get())
        }

        /// Calls `write` with a pointer that nobody else uses meanwhile.
        #[inline(always)]
        pub(crate) fn with_mut<R>(&self, write: impl FnOnce(*mut T) -> R) -> R {
            write(self.0.get())
        }
    }

    /// The one waker of a core. Registering and waking may race; no wake is lost between them.
    #[derive(Debug, Default)]
    pub(crate) struct WakerCell(atomic_waker::AtomicWaker);

    impl WakerCell {
        pub(crate) fn register(&self, waker: &std::task::Waker) {
            self.0.register(waker);
        }

        pub(crate) fn wake(&self) {
            self.0.wake();
        }
    }
}

#[cfg(loom)]
mod imp {
    pub(crate) use loom::cell::UnsafeCell;
    pub(crate) use loom::sync::Arc;
    pub(crate) use loom::sync::atomic::{AtomicBool, AtomicUsize};

    /// The one waker of a core, loom's.
    #[derive(Debug, Default)]
    pub(crate) struct WakerCell(loom::future::AtomicWaker);

    impl WakerCell {
        pub(crate) fn register(&self, waker: &std::task::Waker) {
            self.0.register_by_ref(waker);
        }

        pub(crate) fn wake(&self) {
            self.0.wake();
        }
    }
}

pub(crate) use imp::{Arc, AtomicBool, AtomicUsize, UnsafeCell, WakerCell};
pub(crate) use std::sync::atomic::Ordering;

/// Cells whose contents nobody has written yet, shared between a writer and a reader.
pub(crate) type UninitCells<T> = Box<[UnsafeCell<MaybeUninit<T>>]>;

/// `count` cells without touching their memory: the pages of a large array cost nothing until used.
#[cfg(not(loom))]
pub(crate) fn uninit_cells<T>(count: usize) -> UninitCells<T> {
    let cells = Box::<[UnsafeCell<MaybeUninit<T>>]>::new_uninit_slice(count);
    // SAFETY: a cell is `repr(transparent)` over `MaybeUninit<T>`, for which any bytes, also
    // uninitialised ones, are a valid value.
    unsafe { cells.assume_init() }
}

/// The same for loom, whose cells have a state of their own and must be built one by one.
#[cfg(loom)]
pub(crate) fn uninit_cells<T>(count: usize) -> UninitCells<T> {
    (0..count).map(|_| UnsafeCell::new(MaybeUninit::uninit())).collect()
}
