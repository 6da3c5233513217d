//! The operations of the files room: what a caller may do there, and how far its paths reach.

use std::path::{Path, PathBuf};

use super::{Call, Op, Reply, Rooms, Scope};
use crate::error::Error;
use crate::fs::{Chmod, Reach, SetAttribute};

/// Bits that let others act as the owner of a file.
const BORROWED_RIGHTS: u32 = 0o6000;

impl Rooms {
    pub(super) async fn dispatch_files(&self, call: &Call, op: Op) -> Result<Reply, Error> {
        let (files, reach) = (&self.files, self.reach(call));
        match op {
            Op::FsRead(read) => files.open(reach, read).await.map(Reply::File),
            Op::FsWrite(write) => files.write(reach, write).await.map(Reply::Written),
            Op::FsEdit(edit) => files.edit(reach, edit).await.map(Reply::Edited),
            Op::FsUpload(piece) => self.upload_piece(call, *piece).await.map(Reply::UploadTaken),
            Op::FsUploadAbort { id } => self.abort_upload(call, id).await.map(|()| Reply::Done),
            Op::FsList(list) => files.list(reach, list).await.map(Reply::Listing),
            Op::FsMkdir(mkdir) => files.mkdir(reach, mkdir).await.map(Reply::Path),
            Op::FsMove(request) => files.rename(reach, request).await.map(Reply::Moved),
            Op::FsCopy(request) => files.copy(reach, request).await.map(Reply::Moved),
            Op::FsStat { path } => files.stat(reach, path).await.map(Reply::Stat),
            Op::FsDigest { path } => files.digest(reach, path).await.map(Reply::Digest),
            Op::FsChmod(chmod) => {
                check_rights(call, &chmod)?;
                files.chmod(reach, chmod).await.map(Reply::Changed)
            }
            Op::FsSymlink { path, target } => files.symlink(reach, path, target).await.map(Reply::Path),
            Op::FsXattrs { path } => files.attributes(reach, path).await.map(Reply::Attributes),
            Op::FsXattrSet(request) => {
                check_attribute(call, &request)?;
                files.set_attribute(reach, request).await.map(Reply::Path)
            }
            Op::FsRemove(remove) => files.remove(reach, remove).await.map(Reply::Path),
            Op::FsUnpack(unpack) => files.unpack(reach, unpack).await.map(Reply::Unpacked),
            Op::FsPack(pack) => files.pack(reach, pack).await.map(Reply::Packed),
            Op::FsSearch(search) => {
                let running = self.search(call, *search).await?;
                running.answer().await.map(Reply::Searched)
            }
            Op::FsWatch { watch, wait } => self.watch_once(call, *watch, wait).await.map(Reply::Watched),
            other => Err(Error::Internal {
                reason: format!("{} is no operation on files", other.name()),
            }),
        }
    }

    /// The absolute path of what a library will resolve by itself: it cannot be kept inside the workspace, so only
    /// callers who may go anywhere are let through.
    pub(super) fn unconfined(&self, call: &Call, what: &str, path: &Path) -> Result<PathBuf, Error> {
        match self.reach(call) {
            Reach::Machine => self.workspace.resolve(path),
            Reach::Unconsented => Err(Error::ConsentRequired {
                what: "a path that may lead outside the workspace root",
            }),
            Reach::Confined => Err(Error::Unsupported {
                what: what.to_owned(),
                why: "it resolves paths itself and cannot be confined to the workspace root (fs.confine)"
                    .into(),
                fix: None,
            }),
        }
    }

    /// How far the paths of this caller reach.
    pub(super) fn reach(&self, call: &Call) -> Reach {
        match (call.principal.whole_machine, self.confine) {
            (false, _) => Reach::Unconsented,
            (true, true) => Reach::Confined,
            (true, false) => Reach::Machine,
        }
    }
}

/// Who may only work in the workspace must not give files to others, or rights with them: the daemon may be root.
fn check_rights(call: &Call, chmod: &Chmod) -> Result<(), Error> {
    let modes = [chmod.mode, chmod.directory_mode];
    let gives_rights = modes
        .into_iter()
        .flatten()
        .any(|mode| mode & BORROWED_RIGHTS != 0);
    let gives_away = chmod.uid.is_some() || chmod.gid.is_some();
    if call.principal.allows(Scope::Full) || !(gives_rights || gives_away) {
        return Ok(());
    }
    Err(Error::Forbidden {
        reason: "owners, setuid and setgid need the Full scope".into(),
    })
}

fn check_attribute(call: &Call, request: &SetAttribute) -> Result<(), Error> {
    if call.principal.allows(Scope::Full) || request.name.starts_with("user.") {
        return Ok(());
    }
    Err(Error::Forbidden {
        reason: format!(
            "the attribute {:?} needs the Full scope, \"user.\" ones do not",
            request.name
        ),
    })
}
