//! The machine's key: an ed25519 seed of 32 bytes in a file of its own, made once and kept for good.

use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use ed25519_dalek::SigningKey;

use super::store;
use crate::error::Error;

/// Its name in the configuration directory.
const NAME: &str = "machine-identity.ed25519";

/// The public key in base64 without padding; the key is made when there is none.
///
/// # Errors
///
/// [`Error::Forbidden`] when others can read it, [`Error::Invalid`] when it is no key, [`Error::Io`] as the disk says.
pub fn public(config_dir: &Path) -> Result<String, Error> {
    let path = config_dir.join(NAME);
    let seed = match read(&path)? {
        Some(seed) => seed,
        None => make(config_dir, &path)?,
    };
    Ok(STANDARD_NO_PAD.encode(SigningKey::from_bytes(&seed).verifying_key().as_bytes()))
}

fn read(path: &Path) -> Result<Option<[u8; 32]>, Error> {
    let failed = |source| Error::Io {
        doing: format!("read {path:?}"),
        source,
    };
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    store::private(path, metadata.mode())?;
    let bytes = std::fs::read(path).map_err(failed)?;
    bytes
        .try_into()
        .map(Some)
        .map_err(|bytes: Vec<u8>| Error::Invalid {
            field: "machine key",
            reason: format!(
                "{path:?} has {} bytes and not 32; move it away to get a new one",
                bytes.len()
            ),
        })
}

/// Two that make one at the same time end with the same.
fn make(config_dir: &Path, path: &Path) -> Result<[u8; 32], Error> {
    let failed = |source| Error::Io {
        doing: format!("write {path:?}"),
        source,
    };
    store::directory(config_dir)?;
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(|error| Error::Internal {
        reason: format!("no random bytes: {error}"),
    })?;
    // Whole before it has its name: a full disk must not leave half a key for good.
    let draft = config_dir.join(format!("{NAME}.{}", uuid::Uuid::new_v4().simple()));
    let written = write(&draft, &seed).and_then(|()| std::fs::hard_link(&draft, path));
    let _gone_already = std::fs::remove_file(&draft);
    match written {
        Ok(()) => Ok(seed),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            read(path)?.ok_or_else(|| failed(error))
        }
        Err(error) => Err(failed(error)),
    }
}

fn write(path: &Path, seed: &[u8]) -> std::io::Result<()> {
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(seed)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn it_is_made_once_and_kept_private() {
        let directory = tempfile::tempdir().unwrap();
        let config = directory.path().join("boxd");
        let key = public(&config).unwrap();
        assert_eq!((key.len(), public(&config).unwrap()), (43, key.clone()));
        let path = config.join(NAME);
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&config), mode(&path)), (0o700, 0o600));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        let error = public(&config).unwrap_err().to_string();
        assert!(error.contains("chmod 600"), "{error}");
        std::fs::write(&path, "short").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert!(public(&config).unwrap_err().to_string().contains("5 bytes"));
    }
}
