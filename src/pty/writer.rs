//! Who may write to a terminal: anybody, or the one who holds the lock for as long as its lease lasts.
//!
//! ```text
//!            take                    take by the holder
//!   nobody --------> held by A ------------------------> held by A, longer
//!     ^                | |  steal by B
//!     +----------------+ +------------------------------> held by B
//!      release by A, lease over
//! ```

use std::time::{Duration, Instant};

use crate::error::Error;

/// The longest lease: a holder that is gone without a word blocks the others no longer than this.
pub const LONGEST_LEASE: Duration = Duration::from_secs(3600);

/// The writer lock of one terminal.
#[derive(Debug, Clone, Default)]
pub struct Writer {
    holder: Option<Holder>,
}

#[derive(Debug, Clone)]
struct Holder {
    name: String,
    until: Instant,
}

impl Writer {
    /// Who holds it now.
    pub fn holder(&self, now: Instant) -> Option<&str> {
        self.held(now).map(|holder| holder.name.as_str())
    }

    /// Takes it, or holds it longer. [`Error::Conflict`] names who has it.
    pub fn take(&mut self, name: &str, lease: Duration, now: Instant) -> Result<(), Error> {
        self.check(name, now)?;
        self.hold(name, lease, now)
    }

    /// Takes it from whoever has it; says who that was.
    pub fn steal(&mut self, name: &str, lease: Duration, now: Instant) -> Result<Option<String>, Error> {
        let before = self
            .holder(now)
            .filter(|holder| *holder != name)
            .map(str::to_owned);
        self.hold(name, lease, now)?;
        Ok(before)
    }

    /// Gives it up. Nothing to give up is fine, somebody else's is [`Error::Conflict`].
    pub fn release(&mut self, name: &str, now: Instant) -> Result<(), Error> {
        self.check(name, now)?;
        self.holder = None;
        Ok(())
    }

    /// Whether `name` may write now: the lock is its own or nobody's.
    pub fn check(&self, name: &str, now: Instant) -> Result<(), Error> {
        match self.held(now) {
            Some(holder) if holder.name != name => Err(Error::Conflict {
                what: "terminal input".into(),
                reason: format!(
                    "{:?} holds the writer lock for another {} s",
                    holder.name,
                    (holder.until - now).as_secs_f64().ceil()
                ),
            }),
            _ => Ok(()),
        }
    }

    fn hold(&mut self, name: &str, lease: Duration, now: Instant) -> Result<(), Error> {
        if lease.is_zero() || lease > LONGEST_LEASE {
            return Err(Error::Invalid {
                field: "lease",
                reason: format!("{lease:?} is not within 1 ms and {LONGEST_LEASE:?}"),
            });
        }
        self.holder = Some(Holder {
            name: name.to_owned(),
            until: now + lease,
        });
        Ok(())
    }

    fn held(&self, now: Instant) -> Option<&Holder> {
        self.holder.as_ref().filter(|holder| holder.until > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;

    const LEASE: Duration = Duration::from_secs(30);

    #[test]
    fn only_the_holder_writes_until_it_lets_go() {
        let (mut writer, now) = (Writer::default(), Instant::now());
        writer.check("anybody", now).unwrap();
        writer.take("ada", LEASE, now).unwrap();
        writer.check("ada", now).unwrap();
        let refused = writer.check("bob", now).unwrap_err();
        assert_eq!(refused.code(), Code::Conflict);
        assert_eq!(
            refused.to_string(),
            "terminal input: \"ada\" holds the writer lock for another 30 s"
        );
        assert_eq!(writer.take("bob", LEASE, now).unwrap_err().code(), Code::Conflict);
        assert_eq!(writer.release("bob", now).unwrap_err().code(), Code::Conflict);
        assert_eq!(writer.holder(now), Some("ada"));
        writer.release("ada", now).unwrap();
        writer.release("ada", now).unwrap();
        writer.take("bob", LEASE, now).unwrap();
        assert_eq!(writer.holder(now), Some("bob"));
    }

    #[test]
    fn a_lease_ends_and_can_be_made_longer() {
        let (mut writer, now) = (Writer::default(), Instant::now());
        writer.take("ada", LEASE, now).unwrap();
        let later = now + LEASE / 2;
        writer.take("ada", LEASE, later).unwrap();
        let past_the_first = now + LEASE;
        assert_eq!(writer.holder(past_the_first), Some("ada"));
        let past_both = later + LEASE;
        assert_eq!(writer.holder(past_both), None);
        writer.check("bob", past_both).unwrap();
        writer.take("bob", LEASE, past_both).unwrap();
    }

    #[test]
    fn stealing_says_from_whom() {
        let (mut writer, now) = (Writer::default(), Instant::now());
        assert_eq!(writer.steal("ada", LEASE, now).unwrap(), None);
        assert_eq!(writer.steal("ada", LEASE, now).unwrap(), None);
        assert_eq!(writer.steal("bob", LEASE, now).unwrap(), Some("ada".into()));
        assert_eq!(writer.check("ada", now).unwrap_err().code(), Code::Conflict);
        assert_eq!(
            writer.steal("eve", LEASE, now + LEASE).unwrap(),
            None,
            "it was over"
        );
    }

    #[test]
    fn a_lease_has_an_end() {
        let (mut writer, now) = (Writer::default(), Instant::now());
        for lease in [Duration::ZERO, LONGEST_LEASE * 2, Duration::MAX] {
            assert_eq!(writer.take("ada", lease, now).unwrap_err().code(), Code::Invalid);
            assert_eq!(writer.steal("ada", lease, now).unwrap_err().code(), Code::Invalid);
        }
        assert_eq!(writer.holder(now), None);
    }
}
