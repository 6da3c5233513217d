//! What a program switched on and off beyond what the emulator keeps: mouse, keyboard, the cursor's shape, and the
//! private modes that mean something to a viewer only. None of it changes a cell; all of it is told to a new viewer.

use std::collections::BTreeMap;

/// How many different modes are remembered, and keyboard modes stacked. Programs use a handful.
const MOST: usize = 64;

/// Modes by their numbers, as in `CSI ? number h`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Modes {
    /// What the mouse reports: 9, 1000, 1001, 1002 or 1003. Only one at a time.
    pub(super) mouse: Option<u16>,
    /// How it reports: 1005, 1006, 1015 or 1016.
    pub(super) mouse_encoding: Option<u16>,
    /// `DECSCUSR`: 0 for the viewer's own, else block, underline or bar, blinking when odd.
    pub(super) cursor_style: u16,
    /// `IRM`: characters push what is right of them.
    pub(super) insert: bool,
    /// xterm's `modifyOtherKeys`.
    pub(super) other_keys: u8,
    /// Every other private mode that was ever set or reset.
    others: BTreeMap<u16, bool>,
    main_keyboard: Keyboard,
    alternate_keyboard: Keyboard,
}

/// The keyboard protocol's flags and those below them on its stack.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Keyboard {
    pub(super) flags: u8,
    pub(super) below: Vec<u8>,
}

impl Modes {
    /// Remembers a private mode that has no field of its own.
    pub(super) fn remember(&mut self, mode: u16, on: bool) {
        if self.others.len() < MOST || self.others.contains_key(&mode) {
            self.others.insert(mode, on);
        }
    }

    pub(super) fn forget(&mut self, mode: u16) {
        self.others.remove(&mode);
    }

    pub(super) fn others(&self) -> impl Iterator<Item = (u16, bool)> {
        self.others.iter().map(|(mode, on)| (*mode, *on))
    }

    /// Whether a mode without a field is on; `None` when nothing was ever said about it.
    pub(super) fn other(&self, mode: u16) -> Option<bool> {
        self.others.get(&mode).copied()
    }

    pub(super) fn set_mouse(&mut self, mode: u16, on: bool) {
        self.mouse = on.then_some(mode);
    }

    pub(super) fn set_mouse_encoding(&mut self, mode: u16, on: bool) {
        self.mouse_encoding = on.then_some(mode);
    }

    /// Each screen has a keyboard of its own.
    pub(super) fn keyboard(&self, is_alternate: bool) -> &Keyboard {
        if is_alternate {
            &self.alternate_keyboard
        } else {
            &self.main_keyboard
        }
    }

    pub(super) fn keyboard_mut(&mut self, is_alternate: bool) -> &mut Keyboard {
        if is_alternate {
            &mut self.alternate_keyboard
        } else {
            &mut self.main_keyboard
        }
    }
}

impl Keyboard {
    pub(super) fn push(&mut self, flags: u8) {
        if self.below.len() == MOST {
            self.below.remove(0);
        }
        self.below.push(self.flags);
        self.flags = flags;
    }

    pub(super) fn pop(&mut self, count: u16) {
        for _ in 0..count {
            let Some(flags) = self.below.pop() else {
                self.flags = 0;
                return;
            };
            self.flags = flags;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keyboard_modes_are_a_bounded_stack() {
        let mut keyboard = Keyboard::default();
        for flags in 0..200 {
            keyboard.push(flags);
        }
        assert_eq!((keyboard.flags, keyboard.below.len()), (199, MOST));
        keyboard.pop(2);
        assert_eq!(keyboard.flags, 197);
        keyboard.pop(u16::MAX);
        assert_eq!(keyboard, Keyboard::default());
    }

    #[test]
    fn a_program_cannot_have_any_number_of_modes_remembered() {
        let mut modes = Modes::default();
        for mode in 0..u16::MAX {
            modes.remember(mode, true);
        }
        modes.remember(3, false);
        assert_eq!(modes.others().count(), MOST);
        assert_eq!((modes.other(3), modes.other(9999)), (Some(false), None));
    }
}
