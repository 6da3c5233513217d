//! Why the daemon leaves: for an update, because someone stopped it, or because the whole machine goes down.

use std::path::Path;
use std::time::Duration;

use crate::exec::{Command, Keep, ProcessSpec};
use crate::ops::Rooms;
use crate::update::Stage;
use crate::wire::proto::GoingOfflineReason;

/// There exactly while systemd runs the machine.
const SYSTEMD: &str = "/run/systemd/system";
/// A manager that does not answer by then has better things to do than to shut down in order.
const ASK_LIMIT: Duration = Duration::from_millis(300);

/// The reason for a stop: an update, or what a signal asked for. systemd answers `stopping` once the shutdown target is begun.
pub(super) async fn reason(rooms: &Rooms) -> GoingOfflineReason {
    let progress = rooms.updater().status().progress;
    if progress.is_some_and(|progress| progress.stage == Stage::Restarting) {
        return GoingOfflineReason::Update;
    }
    if !Path::new(SYSTEMD).is_dir() {
        return GoingOfflineReason::UserStop;
    }
    let keep = Keep::first(64);
    let command = Command::Argv(["systemctl", "is-system-running"].map(Into::into).to_vec());
    let question = ProcessSpec {
        timeout: Some(ASK_LIMIT),
        ..ProcessSpec::new(command, "/", keep)
    };
    match rooms.engine().clone().run(question, keep).await {
        Ok(answer) if answer.stdout.head.trim_ascii() == b"stopping" => GoingOfflineReason::HostShutdown,
        Ok(_) | Err(_) => GoingOfflineReason::UserStop,
    }
}
