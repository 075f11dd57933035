//! Waiting for one of two things.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    task::Poll,
};

/// Resolves with the first of two; the second is dropped.
pub(crate) async fn first<A>(a: impl Future<Output = A>, b: impl Future<Output = ()>) -> Option<A> {
    let (mut a, mut b) = (pin!(a), pin!(b));
    poll_fn(|context| {
        if let Poll::Ready(value) = a.as_mut().poll(context) {
            return Poll::Ready(Some(value));
        }
        b.as_mut().poll(context).map(|()| None)
    })
    .await
}
