//! Which terminal belongs to which scope, who looks at it and writes to it, and since when nobody has.
//!
//! Plain bookkeeping: the caller passes the time, holds the lock around it and does what it says.
//!
//! ```text
//!   reserve(scope) ---> New ---> opened(id), named(id, scope) ---> Live(id) ---> closed(id)
//!                  \-> Opening (somebody else is at it)
//!                   \-> Live(id)
//! ```

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::writer::Writer;
use crate::error::Error;
use crate::ids::ProcessId;

/// What a scope has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reserved {
    /// Nothing until now: the caller opens a terminal for it and says how that went, by [`Scopes::named`] or
    /// [`Scopes::failed`].
    New,
    /// Somebody else is opening one.
    Opening,
    /// This live terminal.
    Live(ProcessId),
}

/// One who looks at a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Viewer(u64);

/// The live terminals.
#[derive(Debug)]
pub struct Scopes {
    detach_timeout: Duration,
    by_name: HashMap<String, Reserved>,
    terminals: HashMap<ProcessId, Terminal>,
    viewers: u64,
}

#[derive(Debug)]
struct Terminal {
    scope: Option<String>,
    /// Each with the name by which it holds the writer lock, if it has one.
    viewers: HashMap<Viewer, Option<String>>,
    /// Who only reads its log: they keep it, and cannot answer the program.
    followers: usize,
    writer: Writer,
    /// When it was last looked at or written to.
    last_seen: Instant,
}

impl Scopes {
    /// None yet. A terminal that nobody looks at is due after `detach_timeout`.
    pub fn new(detach_timeout: Duration) -> Self {
        Self {
            detach_timeout,
            by_name: HashMap::new(),
            terminals: HashMap::new(),
            viewers: 0,
        }
    }

    /// Asks for the terminal of a scope, or for the right to open it. Scopes of different principals have to differ,
    /// which is the caller's business.
    pub fn reserve(&mut self, scope: &str) -> Reserved {
        match self.by_name.get(scope) {
            Some(Reserved::New) => Reserved::Opening,
            Some(there) => *there,
            None => {
                self.by_name.insert(scope.to_owned(), Reserved::New);
                Reserved::New
            }
        }
    }

    /// A terminal is there.
    pub fn opened(&mut self, id: ProcessId, now: Instant) {
        let terminal = Terminal {
            scope: None,
            viewers: HashMap::new(),
            followers: 0,
            writer: Writer::default(),
            last_seen: now,
        };
        self.terminals.insert(id, terminal);
    }

    /// It is the one that was promised for `scope`, unless it has ended already: then the scope stays reserved.
    pub fn named(&mut self, id: ProcessId, scope: &str) {
        if let Some(terminal) = self.terminals.get_mut(&id) {
            terminal.scope = Some(scope.to_owned());
            self.by_name.insert(scope.to_owned(), Reserved::Live(id));
        }
    }

    /// It could not be opened: the next one may try.
    pub fn failed(&mut self, scope: &str) {
        if self.by_name.get(scope) == Some(&Reserved::New) {
            self.by_name.remove(scope);
        }
    }

    /// The process has ended: its scope is free.
    pub fn closed(&mut self, id: ProcessId) {
        let Some(terminal) = self.terminals.remove(&id) else {
            return;
        };
        if let Some(scope) = terminal.scope
            && self.by_name.get(&scope) == Some(&Reserved::Live(id))
        {
            self.by_name.remove(&scope);
        }
    }

    /// Somebody looks at it; with a name, the writer lock taken by that name is given up when the viewer goes.
    pub fn attach(&mut self, id: ProcessId, name: Option<&str>) -> Result<Viewer, Error> {
        self.viewers += 1;
        let viewer = Viewer(self.viewers);
        let terminal = self.terminal(id)?;
        terminal.viewers.insert(viewer, name.map(str::to_owned));
        Ok(viewer)
    }

    /// A viewer went. After the last one the time to being due begins.
    pub fn detach(&mut self, id: ProcessId, viewer: Viewer, now: Instant) {
        let Some(terminal) = self.terminals.get_mut(&id) else {
            return;
        };
        let Some(name) = terminal.viewers.remove(&viewer) else {
            return;
        };
        terminal.last_seen = now;
        if let Some(name) = name
            && !terminal
                .viewers
                .values()
                .any(|other| other.as_ref() == Some(&name))
        {
            // Fails when somebody else holds it, which is as it should be.
            let _ = terminal.writer.release(&name, now);
        }
    }

    /// Somebody follows its log; says whether there is such a terminal.
    pub fn follow(&mut self, id: ProcessId) -> bool {
        let terminal = self.terminals.get_mut(&id);
        terminal.map(|terminal| terminal.followers += 1).is_some()
    }

    /// A follower went.
    pub fn unfollow(&mut self, id: ProcessId, now: Instant) {
        if let Some(terminal) = self.terminals.get_mut(&id) {
            terminal.followers -= 1;
            terminal.last_seen = now;
        }
    }

    /// How many look at it; 0 also when there is no such terminal. While it is 0 the daemon answers what the program asks.
    pub fn viewers(&self, id: ProcessId) -> usize {
        self.terminals
            .get(&id)
            .map_or(0, |terminal| terminal.viewers.len())
    }

    /// Whether `name` may write, [`Error::Conflict`] if not; writing counts as looking.
    pub fn check_input(&mut self, id: ProcessId, name: &str, now: Instant) -> Result<(), Error> {
        let terminal = self.terminal(id)?;
        terminal.writer.check(name, now)?;
        terminal.last_seen = now;
        Ok(())
    }

    /// Its writer lock.
    pub fn writer(&mut self, id: ProcessId) -> Result<&mut Writer, Error> {
        self.terminal(id).map(|terminal| &mut terminal.writer)
    }

    /// Terminals that nobody has looked at for too long.
    pub fn due(&self, now: Instant) -> Vec<ProcessId> {
        let due = self.deadlines().filter(|(_, at)| *at <= now).map(|(id, _)| id);
        due.collect()
    }

    /// When the next one will be due.
    pub fn next_due(&self) -> Option<Instant> {
        self.deadlines().map(|(_, at)| at).min()
    }

    fn deadlines(&self) -> impl Iterator<Item = (ProcessId, Instant)> {
        let alone = self
            .terminals
            .iter()
            .filter(|(_, terminal)| terminal.viewers.is_empty() && terminal.followers == 0);
        // A time beyond what the clock can tell never comes.
        alone.filter_map(|(id, terminal)| Some((*id, terminal.last_seen.checked_add(self.detach_timeout)?)))
    }

    fn terminal(&mut self, id: ProcessId) -> Result<&mut Terminal, Error> {
        self.terminals.get_mut(&id).ok_or_else(|| Error::NotFound {
            what: "terminal",
            name: id.to_string(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;

    const HOUR: Duration = Duration::from_secs(3600);
    const ONE: ProcessId = ProcessId(1);
    const TWO: ProcessId = ProcessId(2);

    #[test]
    fn a_scope_has_one_terminal_while_it_lives() {
        let (mut scopes, now) = (Scopes::new(HOUR), Instant::now());
        assert_eq!(scopes.reserve("a"), Reserved::New);
        assert_eq!(scopes.reserve("a"), Reserved::Opening);
        scopes.failed("a");
        assert_eq!(scopes.reserve("a"), Reserved::New);
        scopes.opened(ONE, now);
        scopes.named(ONE, "a");
        assert_eq!(scopes.reserve("a"), Reserved::Live(ONE));
        scopes.failed("a");
        assert_eq!(scopes.reserve("a"), Reserved::Live(ONE), "it did open");
        assert_eq!(scopes.reserve("b"), Reserved::New);
        scopes.opened(TWO, now);
        scopes.closed(TWO);
        scopes.closed(TWO);
        scopes.closed(ONE);
        assert_eq!(scopes.reserve("a"), Reserved::New);
        assert_eq!(scopes.attach(ONE, None).unwrap_err().code(), Code::NotFound);
        assert_eq!(
            scopes.writer(ONE).unwrap_err().to_string(),
            "terminal \"proc_1\" not found"
        );
    }

    #[test]
    fn a_terminal_is_due_when_nobody_looked_for_the_whole_time() {
        let (mut scopes, start) = (Scopes::new(HOUR), Instant::now());
        scopes.opened(ONE, start);
        scopes.opened(TWO, start);
        let (first, second) = (
            scopes.attach(ONE, None).unwrap(),
            scopes.attach(ONE, None).unwrap(),
        );
        assert_eq!(scopes.viewers(ONE), 2);
        assert_eq!(scopes.next_due(), Some(start + HOUR));
        assert_eq!(scopes.due(start + HOUR / 2), []);
        assert_eq!(scopes.due(start + HOUR * 9), [TWO], "the other is looked at");
        scopes.check_input(TWO, "", start + HOUR).unwrap();
        assert_eq!(scopes.due(start + HOUR), [], "it was written to");

        scopes.detach(ONE, first, start + HOUR);
        scopes.detach(ONE, first, start + HOUR * 2);
        assert_eq!(scopes.viewers(ONE), 1);
        scopes.detach(ONE, second, start + HOUR * 3);
        assert_eq!(scopes.due(start + HOUR * 7 / 2), [TWO]);
        assert_eq!(scopes.due(start + HOUR * 4).len(), 2);
        let back = scopes.attach(ONE, None).unwrap();
        assert_eq!(scopes.due(start + HOUR * 4), [TWO]);
        scopes.closed(ONE);
        scopes.detach(ONE, back, start);
        assert_eq!(scopes.viewers(ONE), 0);
    }

    #[test]
    fn a_timeout_without_end_is_none() {
        let (mut scopes, now) = (Scopes::new(Duration::MAX), Instant::now());
        scopes.opened(ONE, now);
        assert_eq!((scopes.next_due(), scopes.due(now + HOUR)), (None, vec![]));
    }

    #[test]
    fn the_writer_lock_goes_with_the_last_viewer_of_that_name() {
        let (mut scopes, now) = (Scopes::new(HOUR), Instant::now());
        scopes.opened(ONE, now);
        let window = scopes.attach(ONE, Some("ada")).unwrap();
        let other_window = scopes.attach(ONE, Some("ada")).unwrap();
        let bob = scopes.attach(ONE, Some("bob")).unwrap();
        scopes.writer(ONE).unwrap().take("ada", HOUR, now).unwrap();
        scopes.check_input(ONE, "ada", now).unwrap();
        let refused = scopes.check_input(ONE, "bob", now).unwrap_err();
        assert_eq!(refused.code(), Code::Conflict);
        assert!(refused.to_string().contains("\"ada\""), "{refused}");
        scopes.detach(ONE, window, now);
        scopes.detach(ONE, bob, now);
        assert!(scopes.check_input(ONE, "bob", now).is_err());
        scopes.detach(ONE, other_window, now);
        scopes.check_input(ONE, "bob", now).unwrap();
    }
}
