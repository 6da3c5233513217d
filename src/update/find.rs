//! Finding a release where it is published, and having it beside the executable: nothing is believed on the way that is not
//! signed.

use std::fs::File;
use std::io::{Read, Seek};

use super::apply::{Updater, blocking};
use super::release::{self, Artifact, Manifest, ReleaseKey, TARGET, Wanted};
use super::source::Source;
use super::status::Apply;
use super::trial::Record;
use crate::error::Error;

/// Bytes of a manifest.
const MANIFEST: u64 = 1 << 20;
/// Bytes of a signature.
const SIGNATURE: u64 = 16 << 10;
/// Bytes of a binary: a release that says more is not believed.
const BINARY: u64 = 256 << 20;

impl Updater {
    pub(super) fn keys(&self) -> Result<&[ReleaseKey], Error> {
        if self.config.keys.is_empty() {
            return Err(Error::Unsupported {
                what: "update".into(),
                why: "this build has no release key, so no release could be believed".into(),
                fix: Some(
                    "set update.public_keys to the minisign key that your releases are signed with".into(),
                ),
            });
        }
        Ok(&self.config.keys)
    }

    pub(super) fn source(&self, apply: &Apply) -> Result<Source, Error> {
        let base = apply.base_url.as_ref().or(self.config.base_url.as_ref());
        let base = base.ok_or_else(|| Error::Unsupported {
            what: "update".into(),
            why: "nothing says where releases are".into(),
            fix: Some("set update.base_url, or give --base-url".into()),
        })?;
        Source::parse(base)
    }

    pub(super) fn channel<'a>(&'a self, apply: &'a Apply) -> &'a str {
        apply.channel.as_deref().unwrap_or(&self.config.channel)
    }

    pub(super) fn wanted<'a>(&'a self, apply: &'a Apply, record: &'a Record) -> Wanted<'a> {
        let channel = self.channel(apply);
        Wanted {
            channel,
            version: apply.version.as_deref(),
            signed_after_ms: record.signed_after_ms(channel),
            taken_back: record.rolled_back.as_ref().map(|update| update.sha256.as_str()),
            agent_id: apply.agent_id.as_deref().unwrap_or(&self.config.agent_id),
            force: apply.force,
        }
    }

    pub(super) async fn manifest(&self, apply: &Apply) -> Result<(Source, Manifest), Error> {
        let (keys, source) = (self.keys()?, self.source(apply)?);
        let channel = self.channel(apply);
        if channel.is_empty()
            || !channel
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
        {
            return Err(Error::Invalid {
                field: "channel",
                reason: format!("{channel:?} is no name of a channel"),
            });
        }
        let path = format!("agent/{channel}/manifest.json");
        let bytes = source.small(&path, MANIFEST).await?;
        let signature = source.small(&format!("{path}.minisig"), SIGNATURE).await?;
        release::verify(keys, "the manifest", &bytes, &String::from_utf8_lossy(&signature))?;
        Ok((source, Manifest::parse(&bytes)?))
    }

    /// Stages the binary and checks that it is the one that was signed.
    pub(super) async fn fetch(
        &self,
        source: &Source,
        version: &str,
        artifact: &Artifact,
    ) -> Result<(), Error> {
        if artifact.size > BINARY {
            return Err(Error::TooLarge {
                what: "the executable of the release",
                size: artifact.size,
                limit: BINARY,
            });
        }
        let (place, path) = (&self.origin.place, format!("agent/{version}/boxd-{TARGET}"));
        let signature = source.small(&format!("{path}.minisig"), SIGNATURE).await?;
        let mut file = place.stage()?;
        let received = source
            .binary(&path, artifact.size, &mut file, &place.staged())
            .await?;
        if received.bytes != artifact.size || !received.sha256.eq_ignore_ascii_case(&artifact.sha256) {
            return Err(Error::Untrusted {
                what: "the executable of the release",
                reason: format!(
                    "it has {} bytes with SHA-256 {}, the manifest says {} with {}",
                    received.bytes, received.sha256, artifact.size, artifact.sha256
                ),
            });
        }
        let (keys, place) = (self.config.keys.clone(), place.clone());
        blocking(move || {
            // What is on the disk is checked, not what came.
            let bytes = whole(&mut file)?;
            release::verify(
                &keys,
                "the executable of the release",
                &bytes,
                &String::from_utf8_lossy(&signature),
            )?;
            place.seal(file)
        })
        .await
    }
}

fn whole(file: &mut File) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    file.rewind()
        .and_then(|()| file.read_to_end(&mut bytes))
        .map_err(|source| Error::Io {
            doing: "read the staged executable".into(),
            source,
        })?;
    Ok(bytes)
}
