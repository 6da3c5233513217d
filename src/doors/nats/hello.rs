//! What boxd says about itself: Hello, heartbeats and going offline as messages. Nothing is sent here.

use crate::capability::Capability;
use crate::error::Retry;
use crate::ops::Rooms;
use crate::update;
use crate::wire::proto::{
    AdmissionTelemetry, AgentEvent, AgentUpdateProgress, AgentUpdateStage, Arch, Capabilities, GoingOffline,
    GoingOfflineReason, Heartbeat, Hello, Os, agent_event,
};
use crate::wire::reply;

use super::Door;
use super::config::LinkConfig;
use super::opstream::Ops;

/// Hello of `link`, with what works at this moment; the executable's digest is still to be filled in.
pub(super) fn hello(door: &Door, link: &LinkConfig, works: &[Capability]) -> Hello {
    Hello {
        agent_id: link.agent_id.clone(),
        workspace_id: link.workspace_id.clone(),
        agent_version: door.config.version.clone(),
        os: os().into(),
        arch: arch().into(),
        machine_name: door.config.machine_name.clone(),
        workspace_root: door.rooms.workspace().root.to_string_lossy().into_owned(),
        capabilities: Some(capabilities(link, works)),
        update_channel: link.update_channel.clone(),
        ..completed(door.rooms.updater().status().completed)
    }
}

/// The update that led to this start.
fn completed(update: Option<update::Completed>) -> Hello {
    let Some(update) = update else {
        return Hello::default();
    };
    Hello {
        completed_update_operation_id: update.operation_id,
        completed_update_target_version: update.version,
        completed_update_binary_sha256: update.sha256,
        ..Hello::default()
    }
}

/// Rooms that do not exist are not advertised: their fields stay false.
fn capabilities(link: &LinkConfig, works: &[Capability]) -> Capabilities {
    let available = |name: &str| works.iter().any(|row| row.name == name && row.available);
    Capabilities {
        exec: available("process.run"),
        filesystem: [
            "fs.read",
            "fs.write",
            "fs.list",
            "fs.mkdir",
            "fs.move",
            "fs.stat",
            "fs.remove",
        ]
        .into_iter()
        .all(available),
        git: available("git.status") && available("git.commit"),
        op_stream: available("process.create"),
        pty: available("process.create") && link.relay.is_some(),
        operation_resource_policy: [
            "process.limits.memory_max",
            "process.limits.memory_high",
            "process.limits.cpu_millicores",
        ]
        .into_iter()
        .all(available),
        consented_whole_machine: link.whole_machine,
        consented_screen_control: link.screen_control,
        desktop_unavailable_reason: "this version of boxd has no desktop".into(),
        ..Capabilities::default()
    }
}

fn os() -> Os {
    match std::env::consts::OS {
        "linux" => Os::Linux,
        "macos" => Os::Macos,
        "windows" => Os::Windows,
        _ => Os::Unspecified,
    }
}

fn arch() -> Arch {
    match std::env::consts::ARCH {
        "x86_64" => Arch::X8664,
        "aarch64" => Arch::Aarch64,
        _ => Arch::Unspecified,
    }
}

/// Heartbeat number `seq`, from samples that are there already.
pub(super) fn heartbeat(door: &Door, ops: &Ops, agent_id: &str, seq: u64) -> AgentEvent {
    let rooms: &Rooms = &door.rooms;
    let counts = door.admission.counts();
    let heartbeat = Heartbeat {
        seq,
        uptime_ms: rooms.uptime_ms(),
        active_sessions: counts.heavy_running as u32 + ops.live() as u32,
        metrics: Some(reply::metrics(&rooms.host().sample())),
        draining: door.tasks.is_stopping(),
        capacity: Some(reply::capacity(&rooms.host().capacity())),
        admission: Some(AdmissionTelemetry {
            light_running: counts.light_running,
            light_queued: counts.light_queued,
            heavy_running: counts.heavy_running,
            heavy_queued: counts.heavy_queued,
            live_ops: ops.live() as u64,
            op_frames_dropped_total: 0,
            evicted_unacked_total: ops.evictions().unacked,
        }),
    };
    event(agent_id, agent_event::Event::Heartbeat(heartbeat))
}

/// How far an update is; nothing where the wire has no stage for it.
pub(super) fn update_progress(agent_id: &str, progress: &update::Progress) -> Option<AgentEvent> {
    let stage = match progress.stage {
        update::Stage::Accepted => AgentUpdateStage::Accepted,
        update::Stage::Downloading => AgentUpdateStage::Downloading,
        update::Stage::Verifying => AgentUpdateStage::Verifying,
        update::Stage::WaitingForIdle => AgentUpdateStage::WaitingForIdle,
        update::Stage::Applying => AgentUpdateStage::Applying,
        update::Stage::Restarting => AgentUpdateStage::Restarting,
        update::Stage::Failed => AgentUpdateStage::Failed,
        update::Stage::UpToDate => return None,
    };
    let error = progress.error.as_deref();
    let progress = AgentUpdateProgress {
        operation_id: progress.operation_id.clone(),
        target_version: progress.version.clone(),
        stage: stage.into(),
        expected_binary_sha256: progress.sha256.clone(),
        error_code: error.map_or_else(String::new, |error| error.code().as_str().into()),
        retryable: error.is_some_and(|error| error.retry() != Retry::Never),
        rolled_back: false,
    };
    Some(event(agent_id, agent_event::Event::AgentUpdateProgress(progress)))
}

/// The last update did not come up and was taken back.
pub(super) fn rolled_back(agent_id: &str, update: &update::Completed) -> AgentEvent {
    let progress = AgentUpdateProgress {
        operation_id: update.operation_id.clone(),
        target_version: update.version.clone(),
        stage: AgentUpdateStage::Failed.into(),
        expected_binary_sha256: update.sha256.clone(),
        error_code: "rolled_back".into(),
        retryable: false,
        rolled_back: true,
    };
    event(agent_id, agent_event::Event::AgentUpdateProgress(progress))
}

/// Going offline, with the reason in words.
pub(super) fn going_offline(agent_id: &str, reason: GoingOfflineReason) -> AgentEvent {
    let message = match reason {
        GoingOfflineReason::Update => "boxd restarts for an update",
        GoingOfflineReason::HostShutdown => "the machine shuts down",
        GoingOfflineReason::UserStop | GoingOfflineReason::Unspecified => "boxd was asked to stop",
    };
    let leaving = GoingOffline {
        reason: reason.into(),
        message: message.into(),
    };
    event(agent_id, agent_event::Event::GoingOffline(leaving))
}

fn event(agent_id: &str, event: agent_event::Event) -> AgentEvent {
    AgentEvent {
        agent_id: agent_id.to_owned(),
        event: Some(event),
    }
}
