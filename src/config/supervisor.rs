//! What a service manager tells the process that it starts, all of it in variables. Pure.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::time::Duration;

/// The service manager that started us; empty when none did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Supervisor {
    /// `NOTIFY_SOCKET`: where it wants to be told how we are.
    pub notify_socket: Option<OsString>,
    /// `WATCHDOG_USEC`, unless `WATCHDOG_PID` says that it is meant for another process: how long it waits for a sign of
    /// life.
    pub watchdog: Option<Duration>,
    /// `JOURNAL_STREAM`: device and inode of what it connected us to.
    journal_stream: Option<OsString>,
}

impl Supervisor {
    /// What `environment` says to the process `pid`. What makes no sense is as good as not there: the daemon runs without.
    pub(super) fn of(environment: &BTreeMap<OsString, OsString>, pid: u32) -> Self {
        let variable = |name: &str| {
            let value = environment.get(OsStr::new(name));
            value.filter(|value| !value.is_empty())
        };
        let number = |name| variable(name)?.to_str()?.parse::<u64>().ok();
        let is_ours = variable("WATCHDOG_PID").is_none() || number("WATCHDOG_PID") == Some(u64::from(pid));
        let watchdog = number("WATCHDOG_USEC").filter(|microseconds| *microseconds > 0 && is_ours);
        Self {
            notify_socket: variable("NOTIFY_SOCKET").cloned(),
            watchdog: watchdog.map(Duration::from_micros),
            journal_stream: variable("JOURNAL_STREAM").cloned(),
        }
    }

    /// Device and inode of the journal's end, as it writes them: `8:1234`.
    pub fn journal(&self) -> Option<&str> {
        self.journal_stream.as_deref()?.to_str()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(variables: &[(&str, &str)]) -> Supervisor {
        let environment = variables.iter().map(|(name, value)| (name.into(), value.into()));
        Supervisor::of(&environment.collect(), 7)
    }

    #[test]
    fn a_watchdog_of_another_process_is_not_fed() {
        let watchdog = |variables: &[(&str, &str)]| told(variables).watchdog;
        let seconds = Some(Duration::from_secs(3));
        assert_eq!(watchdog(&[("WATCHDOG_USEC", "3000000")]), seconds);
        assert_eq!(
            watchdog(&[("WATCHDOG_USEC", "3000000"), ("WATCHDOG_PID", "7")]),
            seconds
        );
        for other in ["8", "nonsense"] {
            assert_eq!(
                watchdog(&[("WATCHDOG_USEC", "3000000"), ("WATCHDOG_PID", other)]),
                None
            );
        }
        for nothing in ["0", "", "-1", "3s"] {
            assert_eq!(watchdog(&[("WATCHDOG_USEC", nothing)]), None, "{nothing:?}");
        }
    }

    #[test]
    fn nobody_says_nothing() {
        assert_eq!(told(&[("NOTIFY_SOCKET", "")]), Supervisor::default());
        assert_eq!(told(&[("JOURNAL_STREAM", "8:12")]).journal(), Some("8:12"));
    }
}
