//! What one changes and others look at: it is copied only when it changes while somebody still has it.
//!
//! `Arc::make_mut` does the same with an atomic operation for each change, which waits until all the core has written is
//! in its cache: two of them for every event.

use std::sync::Arc;

/// A value of one owner that can be lent to others, who see it as it was when they got it.
#[derive(Clone, Debug)]
pub(crate) enum Lendable<T> {
    /// Nobody else has it.
    Own(T),
    /// Somebody may have it.
    Lent(Arc<T>),
}

impl<T: Clone + Default> Lendable<T> {
    /// As it is now, for others.
    pub(crate) fn lend(&mut self) -> Arc<T> {
        if let Self::Own(value) = self {
            *self = Self::Lent(Arc::new(std::mem::take(value)));
        }
        match self {
            Self::Lent(value) => Arc::clone(value),
            Self::Own(value) => Arc::new(value.clone()),
        }
    }

    /// To look at.
    #[inline]
    pub(crate) fn get(&self) -> &T {
        match self {
            Self::Own(value) => value,
            Self::Lent(value) => value,
        }
    }

    /// To change; copied first if somebody still has it.
    #[inline]
    pub(crate) fn get_mut(&mut self) -> &mut T {
        if let Self::Lent(value) = self {
            *self = Self::Own(Arc::unwrap_or_clone(std::mem::take(value)));
        }
        match self {
            Self::Own(value) => value,
            Self::Lent(value) => Arc::make_mut(value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_lent_it_sees_it_as_it_was() {
        let mut owner = Lendable::Own(vec![1]);
        let seen = owner.lend();
        owner.get_mut().push(2);
        assert_eq!((&seen[..], &owner.get()[..]), (&[1][..], &[1, 2][..]));
    }

    #[test]
    fn what_was_given_back_is_not_copied() {
        let mut owner = Lendable::Own(vec![1]);
        let place = owner.get().as_ptr();
        drop(owner.lend());
        assert_eq!(owner.get_mut().as_ptr(), place);
    }
}
