//! The memory of all screens together: one number of cells that every grid draws on.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes that one cell of a screen takes; history is charged by this too.
pub(super) const CELL: usize = 24;

/// How many cells all grids together may hold.
#[derive(Debug)]
pub struct Budget {
    limit: u64,
    used: AtomicU64,
}

impl Budget {
    /// Room for `cells`, at 24 bytes each.
    pub fn new(cells: u64) -> Arc<Self> {
        Arc::new(Self {
            limit: cells,
            used: AtomicU64::new(0),
        })
    }

    /// Cells that are taken.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Cells in all.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// Takes as many of `wanted` as are left, at least `needed`; `None` when not even those are.
    fn take(&self, needed: u64, wanted: u64) -> Option<u64> {
        let mut taken = 0;
        let fits = |used: u64| {
            taken = wanted.min(self.limit.saturating_sub(used));
            (taken >= needed).then(|| used + taken)
        };
        self.used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits)
            .ok()?;
        Some(taken)
    }
}

/// What one grid has of the budget; dropping it gives it back.
#[derive(Debug)]
pub(super) struct Share {
    budget: Arc<Budget>,
    cells: u64,
}

impl Share {
    /// As much of `wanted` as is left, at least `needed`. The error is what is left instead.
    pub(super) fn take(budget: &Arc<Budget>, needed: u64, wanted: u64) -> Result<Self, u64> {
        match budget.take(needed, wanted) {
            Some(cells) => Ok(Self {
                budget: Arc::clone(budget),
                cells,
            }),
            None => Err(budget.limit.saturating_sub(budget.used())),
        }
    }

    /// As much of `wanted` as is left, be it nothing.
    pub(super) fn up_to(budget: &Arc<Budget>, wanted: u64) -> Self {
        Self {
            budget: Arc::clone(budget),
            cells: budget.take(0, wanted).unwrap_or(0),
        }
    }

    /// Grows or shrinks to as much of `wanted` as can be had, at least `needed`; keeps what it has when that fails.
    pub(super) fn change(&mut self, needed: u64, wanted: u64) -> Result<(), u64> {
        if wanted <= self.cells {
            self.give_back(self.cells - wanted);
            return Ok(());
        }
        match self
            .budget
            .take(needed.saturating_sub(self.cells), wanted - self.cells)
        {
            Some(more) => {
                self.cells += more;
                Ok(())
            }
            None => Err(self.budget.limit.saturating_sub(self.budget.used()) + self.cells),
        }
    }

    pub(super) fn cells(&self) -> u64 {
        self.cells
    }

    /// What it is a part of.
    pub(super) fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }

    fn give_back(&mut self, cells: u64) {
        self.budget.used.fetch_sub(cells, Ordering::Relaxed);
        self.cells -= cells;
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.give_back(self.cells);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wanted_is_given_while_it_lasts_and_what_is_needed_or_nothing() {
        let budget = Budget::new(100);
        let one = Share::take(&budget, 10, 60).unwrap();
        assert_eq!(one.cells(), 60);
        let mut other = Share::take(&budget, 10, 60).unwrap();
        assert_eq!((other.cells(), budget.used()), (40, 100));
        assert_eq!(Share::take(&budget, 1, 1).unwrap_err(), 0);
        assert_eq!(other.change(41, 50), Err(40));
        assert_eq!(other.cells(), 40, "it keeps what it has");
        drop(one);
        other.change(41, 70).unwrap();
        assert_eq!((other.cells(), budget.used()), (70, 70));
        other.change(5, 5).unwrap();
        assert_eq!(budget.used(), 5);
        drop(other);
        assert_eq!(budget.used(), 0);
    }
}
