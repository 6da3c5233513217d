//! Which requests are operations, and what is answered to those that are not. Pure.

use crate::error::Error;
use crate::exec::Keep;
use crate::ops::Op;
use crate::wire::proto::control_request::Op as WireOp;
use crate::wire::request;

/// What the request calls itself, for error details and the log.
pub(super) fn name(op: &WireOp) -> &'static str {
    match op {
        WireOp::Ping(_) => "ping",
        WireOp::Hello(_) => "hello",
        WireOp::Resume(_) => "resume",
        WireOp::Exec(_) => "exec",
        WireOp::FsRead(_) => "fs_read",
        WireOp::FsWrite(_) => "fs_write",
        WireOp::FsList(_) => "fs_list",
        WireOp::FsMkdir(_) => "fs_mkdir",
        WireOp::FsMove(_) => "fs_move",
        WireOp::FsStat(_) => "fs_stat",
        WireOp::FsRemove(_) => "fs_remove",
        WireOp::Git(_) => "git",
        WireOp::PtyOpen(_) => "pty_open",
        WireOp::PtyWrite(_) => "pty_write",
        WireOp::PtyResize(_) => "pty_resize",
        WireOp::PtyClose(_) => "pty_close",
        WireOp::DesktopEnsure(_) => "desktop_ensure",
        WireOp::Metrics(_) => "metrics",
        WireOp::UpdateMayProceed(_) => "update_may_proceed",
        WireOp::DesktopInput(_) => "desktop_input",
        WireOp::DesktopScreenshot(_) => "desktop_screenshot",
        WireOp::OpStart(_) => "op_start",
        WireOp::OpCancel(_) => "op_cancel",
        WireOp::OpQuery(_) => "op_query",
        WireOp::OpAttach(_) => "op_attach",
        WireOp::WriteChunk(_) => "write_chunk",
        WireOp::Reserved36(_) => "reserved_36",
        WireOp::Reserved37(_) => "reserved_37",
        WireOp::Reserved38(_) => "reserved_38",
        WireOp::AgentUpdateApply(_) => "agent_update_apply",
        WireOp::Ext(_) => "ext",
    }
}

/// The operation that a request stands for; `max_payload` bounds what its answer may hold, bytes.
pub(super) fn operation(op: WireOp, max_payload: u64) -> Result<Op, Error> {
    let why = match op {
        WireOp::Exec(exec) => return request::exec(exec, Keep::first(max_payload)),
        WireOp::FsRead(read) => return Ok(request::fs_read(read)),
        WireOp::FsWrite(write) => return Ok(request::fs_write(write)),
        WireOp::FsList(list) => return Ok(request::fs_list(list)),
        WireOp::FsMkdir(mkdir) => return Ok(request::fs_mkdir(mkdir)),
        WireOp::FsMove(rename) => return Ok(request::fs_move(rename)),
        WireOp::FsStat(stat) => return Ok(request::fs_stat(stat.path)),
        WireOp::FsRemove(remove) => return Ok(request::fs_remove(remove)),
        WireOp::Metrics(_) => return Ok(Op::HostMetrics),
        WireOp::AgentUpdateApply(apply) => return Ok(request::agent_update_apply(apply)),
        WireOp::Ping(ping) => return Ok(Op::Ping { nonce: ping.nonce }),
        WireOp::Hello(_) | WireOp::Resume(_) | WireOp::UpdateMayProceed(_) => {
            let reason = format!("{} is sent by agents, not to them", name(&op));
            return Err(Error::Protocol { reason });
        }
        WireOp::OpQuery(_)
        | WireOp::OpCancel(_)
        | WireOp::OpAttach(_)
        | WireOp::OpStart(_)
        | WireOp::WriteChunk(_) => {
            let reason = format!("{} is the affair of the op stream", name(&op));
            return Err(Error::Internal { reason });
        }
        WireOp::Ext(_) => {
            let reason = "an extension is known by its name alone".into();
            return Err(Error::Internal { reason });
        }
        WireOp::Git(_) => {
            let reason = "git is answered by a run of its program".into();
            return Err(Error::Internal { reason });
        }
        WireOp::PtyOpen(_) | WireOp::PtyWrite(_) | WireOp::PtyResize(_) | WireOp::PtyClose(_) => {
            let reason = format!("{} is the affair of terminals", name(&op));
            return Err(Error::Internal { reason });
        }
        WireOp::DesktopEnsure(_) | WireOp::DesktopInput(_) | WireOp::DesktopScreenshot(_) => {
            "this version of boxd has no desktop"
        }
        WireOp::Reserved36(_) | WireOp::Reserved37(_) | WireOp::Reserved38(_) => {
            "it belongs to a browser sidecar, which boxd is not"
        }
    };
    Err(Error::Unsupported {
        what: name(&op).into(),
        why: why.into(),
        fix: None,
    })
}
