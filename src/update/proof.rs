//! A new executable is run twice before it is trusted: as `doctor --self-test`, and as a rehearsal of the daemon with the
//! arguments and the environment of this one, on a port and with a state directory of its own.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::origin::Origin;
use crate::error::Error;
use crate::exec::{Command, Engine, Environment, Exit, Keep, ProcessSpec, Stdin};

/// How long a new executable has for each of its proofs.
const PROOF: Duration = Duration::from_secs(60);
/// Output of a proof that is told when it fails, bytes.
const SAID: u64 = 2048;

/// Runs what is staged: its self-test, and a rehearsal of this daemon.
pub(super) async fn prove(engine: &Arc<Engine>, origin: &Origin) -> Result<(), Error> {
    let (staged, scratch) = (origin.place.staged(), Scratch::make()?);
    let start = origin.start.encode()?;
    proof(
        engine,
        &staged,
        &scratch,
        &["doctor", "--self-test"],
        Bytes::new(),
    )
    .await?;
    proof(engine, &staged, &scratch, &["rehearse"], start).await
}

async fn proof(
    engine: &Arc<Engine>,
    staged: &Path,
    scratch: &Scratch,
    arguments: &[&str],
    stdin: Bytes,
) -> Result<(), Error> {
    let mut words = vec![staged.as_os_str().to_owned()];
    words.extend(arguments.iter().map(Into::into));
    let keep = Keep::both_ends(SAID);
    let home = scratch.0.clone().into_os_string();
    let environment = [("PATH", "/usr/local/bin:/usr/bin:/bin".into()), ("HOME", home)];
    let spec = ProcessSpec {
        stdin: Stdin::Bytes(stdin),
        environment: Environment::Exact(
            environment
                .into_iter()
                .map(|(name, value)| (name.into(), value))
                .collect(),
        ),
        timeout: Some(PROOF),
        ..ProcessSpec::new(Command::Argv(words), &scratch.0, keep)
    };
    let proof = arguments.join(" ");
    let refused = |why: String| Error::Unsupported {
        what: "the executable of the release".into(),
        why: format!("`boxd {proof}` of it {why}"),
        fix: None,
    };
    let finished = engine
        .run(spec, keep)
        .await
        .map_err(|error| refused(format!("cannot be started: {error}")))?;
    if finished.end.exit == Exit::Code(0) && !finished.end.timed_out {
        return Ok(());
    }
    let said = [finished.stderr.head, finished.stderr.tail].concat();
    let said = String::from_utf8_lossy(&said).trim().to_owned();
    Err(refused(format!("ended with {:?}: {said}", finished.end.exit)))
}

/// An empty directory for a proof.
struct Scratch(PathBuf);

impl Scratch {
    fn make() -> Result<Self, Error> {
        let path = std::env::temp_dir().join(format!("boxd-proof-{}", uuid::Uuid::new_v4().simple()));
        std::fs::create_dir(&path)
            .map_err(|error| Error::from_path_io("scratch directory", "make", &path, error))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
