//! What a release says of itself, whether that is to be believed, and whether it is for this machine. Pure.

use std::cmp::Ordering;

use minisign_verify::{PublicKey, Signature};
use semver::Version;
use serde::Deserialize;

use crate::error::Error;

/// What this build runs on, as artifacts name it.
pub(super) const TARGET: &str = env!("TARGET_TRIPLE");
/// The version that runs.
pub(super) const CURRENT: &str = env!("CARGO_PKG_VERSION");

/// Whom releases are signed by: a minisign public key.
#[derive(Clone)]
pub struct ReleaseKey {
    key: PublicKey,
    text: String,
}

impl std::fmt::Debug for ReleaseKey {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_tuple("ReleaseKey").field(&self.text).finish()
    }
}

impl ReleaseKey {
    /// The key of its one line of base64, `RW...`.
    ///
    /// # Errors
    ///
    /// Why it is none.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let key = PublicKey::from_base64(text);
        let key = key.map_err(|error| format!("is no minisign public key: {error}"))?;
        Ok(Self {
            key,
            text: text.to_owned(),
        })
    }

    /// The line that it was read from.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The key that this build was made with, where it was made for releases.
    pub fn built_in() -> Option<Self> {
        option_env!("RELEASE_PUBLIC_KEY").and_then(|text| Self::parse(text).ok())
    }
}

/// Believes `bytes` when one of the keys has signed them.
pub(super) fn verify(
    keys: &[ReleaseKey],
    what: &'static str,
    bytes: &[u8],
    signature: &str,
) -> Result<(), Error> {
    let signature = Signature::decode(signature).map_err(|error| Error::Untrusted {
        what,
        reason: format!("its signature cannot be read: {error}"),
    })?;
    // What was signed before digests were is believed, too.
    let is_signed = |key: &ReleaseKey| key.key.verify(bytes, &signature, true).is_ok();
    if keys.iter().any(is_signed) {
        return Ok(());
    }
    Err(Error::Untrusted {
        what,
        reason: "it was not signed by the release key".into(),
    })
}

/// One release, as `manifest.json` has it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Manifest {
    pub(super) channel: String,
    pub(super) version: Version,
    /// The oldest version that may update to it directly.
    #[serde(default)]
    pub(super) min_supported: Option<String>,
    #[serde(default = "everybody")]
    pub(super) rollout_percent: u32,
    #[serde(default)]
    pub(super) cohort_salt: String,
    pub(super) artifacts: Vec<Artifact>,
    pub(super) signed_at_ms: i64,
    #[serde(default)]
    pub(super) force: bool,
}

fn everybody() -> u32 {
    100
}

/// One binary of a release. Where it is to be had follows from the layout.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Artifact {
    pub(super) target: String,
    pub(super) size: u64,
    /// Lower-case hex.
    pub(super) sha256: String,
}

/// What is asked for.
#[derive(Debug, Clone, Default)]
pub(super) struct Wanted<'a> {
    pub(super) channel: &'a str,
    /// This version and no other.
    pub(super) version: Option<&'a str>,
    /// When the newest manifest of this channel was signed that was ever believed, unix milliseconds.
    pub(super) signed_after_ms: i64,
    /// Who asks, for a staged rollout.
    pub(super) agent_id: &'a str,
    /// Digest of the executable that was taken back here.
    pub(super) taken_back: Option<&'a str>,
    /// Whether to take it before its turn, or again.
    pub(super) force: bool,
}

/// What is to be done with a release.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Judgement<'a> {
    /// It runs already, or a newer one.
    Current,
    /// It is not this machine's turn yet.
    NotYet,
    /// It did not come up here before.
    TakenBack,
    /// It is to be taken.
    Take(&'a Artifact),
}

impl Manifest {
    /// Reads one whose signature was believed.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Error> {
        serde_json::from_slice(bytes).map_err(|error| Error::Protocol {
            reason: format!("the manifest of the release cannot be read: {error}"),
        })
    }

    /// Whether it is for us.
    ///
    /// # Errors
    ///
    /// [`Error::Untrusted`] when it is another one than was asked for, or an old one; [`Error::Unsupported`] when it has
    /// nothing for this machine.
    pub(super) fn judge(&self, wanted: &Wanted<'_>) -> Result<Judgement<'_>, Error> {
        let untrusted = |reason: String| Error::Untrusted {
            what: "the release",
            reason,
        };
        if self.channel != wanted.channel {
            return Err(untrusted(format!(
                "its manifest is of channel {:?}, {:?} was asked for",
                self.channel, wanted.channel
            )));
        }
        if self.signed_at_ms < wanted.signed_after_ms {
            return Err(untrusted(
                "its manifest is older than one that was seen before: somebody shows an old release".into(),
            ));
        }
        if let Some(version) = wanted.version
            && self.version.to_string() != version
        {
            return Err(Error::NotFound {
                what: "release",
                name: format!("{version} (channel {} has {})", self.channel, self.version),
            });
        }
        let current = current();
        // Not as `Ord` has it, which tells builds of one version apart.
        match (self.version.cmp_precedence(&current), wanted.version) {
            (Ordering::Greater, _) => {}
            (Ordering::Equal, _) | (Ordering::Less, None) => return Ok(Judgement::Current),
            (Ordering::Less, Some(_)) => {
                return Err(untrusted(format!(
                    "{} is older than {current}, which runs",
                    self.version
                )));
            }
        }
        self.is_supported(&current)?;
        let artifact = self
            .artifacts
            .iter()
            .find(|artifact| artifact.target == TARGET)
            .ok_or_else(|| Error::Unsupported {
                what: format!("release {}", self.version),
                why: format!("it has nothing for {TARGET}"),
                fix: None,
            })?;
        let is_known = |sha256: &str| sha256.eq_ignore_ascii_case(&artifact.sha256);
        if !wanted.force && wanted.taken_back.is_some_and(is_known) {
            return Ok(Judgement::TakenBack);
        }
        let is_our_turn =
            wanted.force || self.force || cohort(wanted.agent_id, &self.cohort_salt) < self.rollout_percent;
        Ok(if is_our_turn {
            Judgement::Take(artifact)
        } else {
            Judgement::NotYet
        })
    }

    fn is_supported(&self, current: &Version) -> Result<(), Error> {
        let Some(oldest) = self.min_supported.as_deref().filter(|oldest| !oldest.is_empty()) else {
            return Ok(());
        };
        let oldest = Version::parse(oldest).map_err(|error| Error::Protocol {
            reason: format!("min_supported of the manifest is {oldest:?}: {error}"),
        })?;
        if current.cmp_precedence(&oldest).is_ge() {
            return Ok(());
        }
        Err(Error::Unsupported {
            what: format!("release {}", self.version),
            why: format!("it can follow {oldest} and newer ones, {current} runs"),
            fix: Some(format!("update to {oldest} first, or install again")),
        })
    }
}

/// The version that runs, comparable.
pub(super) fn current() -> Version {
    match Version::parse(CURRENT) {
        Ok(version) => version,
        Err(error) => unreachable!("cargo takes no other versions: {error}"),
    }
}

/// Where a machine stands in a staged rollout, 0 to 99: the first eight bytes of blake3 of its id and the salt of the
/// release, little-endian, modulo 100.
fn cohort(agent_id: &str, salt: &str) -> u32 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(agent_id.as_bytes()).update(salt.as_bytes());
    let mut first = [0; 8];
    first.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    (u64::from_le_bytes(first) % 100) as u32
}

#[cfg(test)]
#[path = "release_tests.rs"]
mod tests;
