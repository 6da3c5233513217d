//! A queue in which origins take turns: whoever sends a thousand requests delays others by one at a time. Pure.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// First in, first out within an origin, round robin between them.
#[derive(Debug)]
pub(super) struct FairQueue<T> {
    waiting: HashMap<Arc<str>, VecDeque<T>>,
    /// Origins with something waiting, next turn first.
    turns: VecDeque<Arc<str>>,
}

impl<T> Default for FairQueue<T> {
    fn default() -> Self {
        Self {
            waiting: HashMap::new(),
            turns: VecDeque::new(),
        }
    }
}

impl<T> FairQueue<T> {
    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }

    /// Adds `item` behind those of its origin.
    pub(super) fn push(&mut self, origin: Arc<str>, item: T) {
        let line = self.waiting.entry(Arc::clone(&origin)).or_default();
        if line.is_empty() {
            self.turns.push_back(origin);
        }
        line.push_back(item);
    }

    /// What [`FairQueue::pop`] would give.
    pub(super) fn front(&self) -> Option<&T> {
        self.waiting.get(self.turns.front()?)?.front()
    }

    /// The next item; its origin goes to the end of the round.
    pub(super) fn pop(&mut self) -> Option<T> {
        let origin = self.turns.pop_front()?;
        let line = self.waiting.get_mut(&origin)?;
        let item = line.pop_front();
        if line.is_empty() {
            self.waiting.remove(&origin);
        } else {
            self.turns.push_back(origin);
        }
        item
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn origins_take_turns() {
        let mut queue = FairQueue::default();
        for item in ["a1", "a2", "a3", "b1", "c1", "b2"] {
            queue.push(item[..1].into(), item);
        }
        assert_eq!(queue.front(), Some(&"a1"));
        let order: Vec<_> = std::iter::from_fn(|| queue.pop()).collect();
        assert_eq!(order, ["a1", "b1", "c1", "a2", "b2", "a3"]);
        assert!(queue.is_empty() && queue.front().is_none());
    }

    proptest! {
        #[test]
        fn nothing_is_lost_and_each_origin_keeps_its_order(items in proptest::collection::vec(0u8..4, 0..60)) {
            let mut queue = FairQueue::default();
            for (position, origin) in items.iter().enumerate() {
                queue.push(origin.to_string().into(), (*origin, position));
            }
            let popped: Vec<_> = std::iter::from_fn(|| queue.pop()).collect();
            prop_assert_eq!(popped.len(), items.len());
            for origin in 0..4 {
                let positions: Vec<_> =
                    popped.iter().filter(|(of, _)| *of == origin).map(|(_, position)| *position).collect();
                prop_assert!(positions.is_sorted());
            }
        }
    }
}
