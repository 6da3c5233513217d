//! Other daemons that answer as the same agent: a machine that was copied with its identity. Every request would be
//! performed by each of them, so each is to say so.
//!
//! A link listens to the Hellos of its agent in the instance family, where the subject names the process. Who hears another
//! one says Hello again, once for each, so that the other one hears of it, too. Where only the plain family is
//! served, or the account may not listen there, copies can not be told.

use std::collections::BTreeSet;

use parking_lot::Mutex;

use crate::ids::InstanceId;

/// More than these are not remembered: each of them may be in the log again.
const MOST: usize = 1024;

/// Who is known to answer as our agents.
#[derive(Debug, Default)]
pub(super) struct Doubles {
    /// The instances of this process, which changes its own when the machine was asleep.
    ours: Mutex<BTreeSet<String>>,
    others: Mutex<BTreeSet<String>>,
}

impl Doubles {
    /// An instance that is ourselves.
    pub(super) fn is_ours(&self, instance: InstanceId) {
        self.ours.lock().insert(instance.to_string());
    }

    /// A Hello was heard on `subject`; answers the instance that said it when it is another one and was not known.
    pub(super) fn hear(&self, subject: &str) -> Option<String> {
        let instance = subject.rsplit('.').nth(1)?;
        if self.ours.lock().contains(instance) {
            return None;
        }
        let mut others = self.others.lock();
        if others.len() >= MOST {
            others.clear();
        }
        others.insert(instance.to_owned()).then(|| instance.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_one_is_told_once_and_we_are_none() {
        let (doubles, ours, earlier, other) = (
            Doubles::default(),
            InstanceId::mint(),
            InstanceId::mint(),
            InstanceId::mint(),
        );
        doubles.is_ours(earlier);
        doubles.is_ours(ours);
        let said = |instance: InstanceId| doubles.hear(&format!("agent.w.a.connection.{instance}.hello"));
        assert_eq!((said(ours), said(earlier)), (None, None));
        assert_eq!(said(other), Some(other.to_string()));
        assert_eq!(said(other), None);
        assert_eq!(doubles.hear("hello"), None);
    }
}
