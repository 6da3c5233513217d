//! Two links that would answer the same requests: each request would be performed twice.
//!
//! [`Twins`] finds those that are described alike, before they are dialled. A broker has more names than one, so
//! [`Served`] finds the others once they are connected, by the id that the broker gives itself. Servers of one
//! cluster have an id each: links to two of them are not recognised.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use parking_lot::Mutex;

use super::config::LinkConfig;
use crate::error::Error;

/// The pairs that were complained about, so that each is in the log once.
#[derive(Debug, Default)]
pub(super) struct Twins {
    said: BTreeSet<(String, String)>,
}

impl Twins {
    /// The links by connection id, the first one where several share their id, or their agent and a URL.
    pub(super) fn without(&mut self, wanted: Vec<LinkConfig>) -> BTreeMap<String, LinkConfig> {
        let mut links: BTreeMap<String, LinkConfig> = BTreeMap::new();
        let mut agents: HashMap<(String, String), Vec<String>> = HashMap::new();
        let mut found = BTreeSet::new();
        for link in wanted {
            let agent = (link.workspace_id.clone(), link.agent_id.clone());
            let same_agent = agents.entry(agent).or_default();
            let same_broker = |id: &&String| links[*id].urls.iter().any(|url| link.urls.contains(url));
            let twin = links
                .get_key_value(&link.connection_id)
                .map(|(id, _)| id)
                .or_else(|| same_agent.iter().find(same_broker));
            if let Some(kept) = twin {
                found.insert((link.connection_id, kept.clone()));
                continue;
            }
            same_agent.push(link.connection_id.clone());
            links.insert(link.connection_id.clone(), link);
        }
        for (ignored, kept) in found.difference(&self.said) {
            tracing::warn!(
                ignored,
                kept,
                "two connections describe one link, and only the first is used; remove the other"
            );
        }
        self.said = found;
        links
    }
}

/// An agent at a broker.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Place {
    broker: String,
    workspace: String,
    agent: String,
}

/// Which link serves which agent at which broker.
#[derive(Debug, Clone, Default)]
pub(super) struct Served {
    places: Arc<Mutex<HashMap<Place, String>>>,
}

/// The right of one link to serve its agent at a broker; given back when dropped.
#[derive(Debug)]
pub(super) struct Claim {
    served: Served,
    place: Place,
}

impl Served {
    /// Claims the agent of `link` at the broker that calls itself `server_id`.
    pub(super) fn claim(&self, server_id: &str, link: &LinkConfig) -> Result<Claim, Error> {
        let place = Place {
            broker: server_id.to_owned(),
            workspace: link.workspace_id.clone(),
            agent: link.agent_id.clone(),
        };
        let mut places = self.places.lock();
        if let Some(other) = places.get(&place) {
            return Err(Error::Conflict {
                what: "the agent of this connection".into(),
                reason: format!("connection {other:?} serves it at the same broker; remove one of the two"),
            });
        }
        places.insert(place.clone(), link.connection_id.clone());
        let served = self.clone();
        Ok(Claim { served, place })
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.served.places.lock().remove(&self.place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doors::nats::config::Credential;

    fn link(id: &str, agent: &str, url: &str) -> LinkConfig {
        LinkConfig {
            connection_id: id.into(),
            workspace_id: "w".into(),
            agent_id: agent.into(),
            root: None,
            urls: vec!["nats://common".replace("common", url)],
            credential: Credential::Anonymous,
            held_epoch: 0,
            whole_machine: true,
            screen_control: false,
            update_channel: "stable".into(),
            relay: None,
        }
    }

    #[test]
    fn the_first_of_two_that_are_alike_is_used_and_the_other_named_once() {
        let wanted = vec![
            link("a", "1", "h"),
            link("b", "1", "h"),
            link("c", "1", "elsewhere"),
            link("d", "2", "h"),
            link("d", "3", "h"),
        ];
        let mut twins = Twins::default();
        let links = twins.without(wanted.clone());
        assert_eq!(links.keys().collect::<Vec<_>>(), ["a", "c", "d"]);
        assert_eq!(links["d"].agent_id, "2");
        let pair = |ignored: &str, kept: &str| (ignored.to_owned(), kept.to_owned());
        let said = BTreeSet::from([pair("b", "a"), pair("d", "d")]);
        assert_eq!(twins.said, said);
        twins.without(wanted);
        assert_eq!(twins.said, said);
    }

    #[test]
    fn thousands_of_links_are_compared_in_no_time() {
        let wanted: Vec<_> = (0..20_000)
            .map(|number| link(&format!("c{number}"), &number.to_string(), "h"))
            .collect();
        let begin = std::time::Instant::now();
        assert_eq!(Twins::default().without(wanted).len(), 20_000);
        assert!(begin.elapsed().as_secs() < 5, "{:?}", begin.elapsed());
    }

    #[test]
    fn an_agent_is_served_once_at_a_broker_until_its_claim_is_given_back() {
        let served = Served::default();
        let first = served.claim("server", &link("a", "1", "h")).unwrap();
        let refused = served.claim("server", &link("b", "1", "other-name")).unwrap_err();
        assert!(refused.to_string().contains("\"a\""), "{refused}");
        let _elsewhere = served.claim("another", &link("b", "1", "h")).unwrap();
        let _another = served.claim("server", &link("b", "2", "h")).unwrap();
        drop(first);
        let _second = served.claim("server", &link("b", "1", "h")).unwrap();
    }
}
