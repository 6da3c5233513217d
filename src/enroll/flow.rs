//! The device flow: a person says yes elsewhere, and until then the control plane is asked at the pace that it wants.

use std::time::Duration;

use tokio::time::Instant;

use super::api::{Api, Credentials, Machine, Polled, Started};
use crate::error::Error;

/// Added to the pause each time that the control plane asks for slower questions (RFC 8628).
const SLOWER: Duration = Duration::from_secs(5);
/// The pause is never shorter, whatever it says.
const SHORTEST: Duration = Duration::from_millis(100);
/// It is not waited longer for a person, whatever it says.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// Enrolls; `show` has the person told where to go.
///
/// # Errors
///
/// [`Error::Forbidden`] when the person said no, [`Error::Timeout`] when it took too long, else why it cannot be asked.
pub async fn device(
    api: &Api,
    workspace_id: &str,
    machine: &Machine,
    show: impl FnOnce(&Started) -> Result<(), Error>,
) -> Result<Credentials, Error> {
    let started = api.start(workspace_id, machine).await?;
    show(&started)?;
    let limit = Duration::from_secs(started.expires_in_seconds).min(LONGEST);
    let end = Instant::now() + limit;
    let expired = Error::Timeout {
        what: "the approval of this machine",
        after: limit,
    };
    let mut pause = Duration::from_secs(started.interval_seconds).clamp(SHORTEST, LONGEST);
    let mut out_of_reach = None;
    loop {
        if Instant::now() + pause > end {
            tokio::time::sleep_until(end).await;
            return Err(out_of_reach.unwrap_or(expired));
        }
        tokio::time::sleep(pause).await;
        match api.poll(&started.device_code).await {
            Ok(Polled::Pending) => out_of_reach = None,
            Ok(Polled::SlowDown(at_least)) => {
                out_of_reach = None;
                pause = (pause + SLOWER).max(at_least.unwrap_or_default()).min(LONGEST);
            }
            Ok(Polled::Authorized(credentials)) => return Ok(*credentials),
            Ok(Polled::Denied) => {
                return Err(Error::Forbidden {
                    reason: "the request of this machine was denied".into(),
                });
            }
            Ok(Polled::Expired) => return Err(expired),
            Ok(Polled::Disabled) => {
                return Err(Error::Unavailable {
                    what: "enrollment".into(),
                    reason: "the control plane has it switched off".into(),
                });
            }
            // It may be back before this is over.
            Err(error @ Error::Unavailable { .. }) => {
                tracing::warn!(%error, "the control plane cannot be asked, it is tried again");
                out_of_reach = Some(error);
            }
            Err(error) => return Err(error),
        }
    }
}
