//! Who gives up the core comes back behind everybody who could run.
//!
//! The executor puts a task that wakes itself while it runs before all others (monoio's `yield_now`), so a connection
//! whose client keeps up would have the core for itself. Here another task, which stands in the queue like everybody
//! else, wakes those that gave way.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    rc::Rc,
    task::{Poll, Waker},
};

/// Whoever gave way, until the task that wakes them has its turn. Each task of the core is in it at most once.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    waiting: RefCell<Vec<(Waker, Rc<Cell<bool>>)>>,
    usher: RefCell<Option<Waker>>,
}

/// One task's part in it.
#[derive(Debug, Default)]
pub(crate) struct Turn {
    /// Whether it is its turn; being woken alone does not say so.
    called: Rc<Cell<bool>>,
}

impl Turns {
    /// Lets every other task that is ready run first.
    pub(crate) async fn give_way(&self, turn: &Turn) {
        turn.called.set(false);
        let mut waits = false;
        poll_fn(|context| {
            if !waits {
                waits = true;
                self.waiting.borrow_mut().push((context.waker().clone(), Rc::clone(&turn.called)));
                if let Some(usher) = &*self.usher.borrow() {
                    usher.wake_by_ref();
                }
            }
            if turn.called.get() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// Calls those who gave way, for ever.
    pub(crate) async fn usher(&self) {
        let mut called = Vec::new();
        poll_fn(|context| {
            *self.usher.borrow_mut() = Some(context.waker().clone());
            std::mem::swap(&mut called, &mut *self.waiting.borrow_mut());
            for (waker, turn) in called.drain(..) {
                turn.set(true);
                waker.wake();
            }
            Poll::<()>::Pending
        })
        .await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_that_gives_way_comes_behind_those_that_are_ready() {
        let turns = Rc::new(Turns::default());
        let order = Rc::new(RefCell::new(Vec::new()));
        let run = monoio::RuntimeBuilder::<monoio::LegacyDriver>::new().build();
        run.unwrap().block_on(async {
            monoio::spawn({
                let turns = Rc::clone(&turns);
                async move { turns.usher().await }
            });
            let tasks = [0, 1, 2].map(|task| {
                let (turns, order) = (Rc::clone(&turns), Rc::clone(&order));
                monoio::spawn(async move {
                    let turn = Turn::default();
                    for _ in 0..3 {
                        order.borrow_mut().push(task);
                        turns.give_way(&turn).await;
                    }
                })
            });
            for task in tasks {
                task.await;
            }
        });
        assert_eq!(order.borrow()[..], [0, 1, 2, 0, 1, 2, 0, 1, 2]);
    }
}
