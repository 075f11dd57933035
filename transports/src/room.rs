//! The line of connections that wait for room in the queue.
//!
//! Only the first in line takes room, and who got some and wants more goes to the end: so nobody waits longer than all
//! others need for one helping each. Without an order those that are answered most would come first, time and again,
//! for an answer is what brings a connection its turn.
//!
//! The first is woken when room may have come. It then takes some, or finds none and stays, or leaves; a connection
//! that cannot take any, for its client reads nothing, has to leave, so that it holds up nobody.

use std::{cell::RefCell, collections::VecDeque, rc::Rc};

use crate::hook::Hook;

/// A core's line. It holds each connection at most once, so it is bounded by them.
#[derive(Debug, Default)]
pub(crate) struct RoomLine {
    hooks: RefCell<VecDeque<Rc<Hook>>>,
}

impl RoomLine {
    /// Whether this connection may take room: nobody waits before it.
    #[inline]
    pub(crate) fn admits(&self, hook: &Rc<Hook>) -> bool {
        self.hooks.borrow().front().is_none_or(|first| Rc::ptr_eq(first, hook))
    }

    /// A connection has had its turn: it wants room, or does not; and it got some meanwhile, or did not.
    pub(crate) fn had_its_turn(&self, hook: &Rc<Hook>, wants: bool, got_some: bool) {
        if hook.waits_for_room.get() {
            if !wants || got_some {
                self.leave(hook);
            } else {
                return;
            }
        }
        if wants {
            hook.waits_for_room.set(true);
            self.hooks.borrow_mut().push_back(Rc::clone(hook));
        }
    }

    /// A connection does not wait any more; who is first now may find room.
    pub(crate) fn leave(&self, hook: &Hook) {
        if !hook.waits_for_room.replace(false) {
            return;
        }
        let mut hooks = self.hooks.borrow_mut();
        let place = hooks.iter().position(|waiting| std::ptr::eq(&**waiting, hook));
        drop(place.and_then(|place| hooks.remove(place)));
        drop(hooks);
        if place == Some(0) {
            self.wake_first();
        }
    }

    /// There may be room.
    pub(crate) fn wake_first(&self) {
        if let Some(first) = self.hooks.borrow().front() {
            first.nudged.set(true);
            first.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line<const N: usize>() -> (RoomLine, [Rc<Hook>; N]) {
        let (line, hooks) = (RoomLine::default(), std::array::from_fn(|_| Rc::new(Hook::new(0))));
        hooks.iter().for_each(|hook| line.had_its_turn(hook, true, false));
        (line, hooks)
    }

    #[test]
    fn an_empty_line_admits_anybody_and_one_that_is_not_only_its_first() {
        assert!(RoomLine::default().admits(&Rc::new(Hook::new(0))));
        let (line, [first, second]) = line();
        assert!(line.admits(&first) && !line.admits(&second) && !line.admits(&Rc::new(Hook::new(0))));
    }

    #[test]
    fn who_got_some_and_wants_more_goes_to_the_end_and_who_got_none_stays() {
        let (line, [first, second]) = line();
        line.had_its_turn(&first, true, false);
        assert!(line.admits(&first) && !second.nudged.get());
        line.had_its_turn(&first, true, true);
        assert!(line.admits(&second) && second.nudged.get());
        line.had_its_turn(&second, true, true);
        assert!(line.admits(&first));
    }

    #[test]
    fn who_leaves_makes_place_and_wakes_the_next() {
        let (line, [first, second, third]) = line();
        line.leave(&second);
        assert!(line.admits(&first) && !third.nudged.get());
        line.had_its_turn(&first, false, true);
        assert!(line.admits(&third) && third.nudged.get());
        line.leave(&third);
        line.leave(&third);
        assert!(line.admits(&first));
    }

    #[test]
    fn only_the_first_is_woken() {
        let (line, [first, second]) = line();
        line.wake_first();
        assert!(first.nudged.get() && !second.nudged.get());
    }
}
