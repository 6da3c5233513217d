//! `boxd call read|write|ls|stat|mkdir|mv|rm`.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde_json::{Map, Value};

use super::remote::{Remote, WriteRequest, exact_bytes, set_path};
use super::{Shown, output, show_done};
use crate::error::Error;

/// What `stat` exits with when there is nothing at the path.
const NOTHING_THERE: u8 = 1;

/// Print a file or a range of it.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  boxd call read /etc/os-release\n  boxd call read log --offset 1000 --length 500"
)]
pub(super) struct Read {
    /// The file.
    path: PathBuf,
    /// First byte.
    #[arg(long, default_value_t = 0)]
    offset: u64,
    /// Number of bytes; to the end when not given.
    #[arg(long)]
    length: Option<u64>,
}

impl Read {
    pub(super) async fn perform(self, remote: &Remote) -> Result<Shown, Error> {
        if self.length != Some(0) {
            remote.read(&self.path, self.offset, self.length).await?;
        }
        Ok(Shown::OK)
    }
}

/// Write standard input to a file, whole or not at all; missing directories are made.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  boxd call write notes.txt < notes.txt\n  date | boxd call write --append log"
)]
pub(super) struct Write {
    /// The file.
    path: PathBuf,
    /// Append instead of replacing.
    #[arg(long)]
    append: bool,
    /// Permission bits of a new file in octal.
    #[arg(long, value_name = "MODE")]
    mode: Option<String>,
}

impl Write {
    pub(super) async fn perform(self, remote: &Remote, json: bool) -> Result<Shown, Error> {
        let request = WriteRequest {
            path: self.path,
            append: self.append,
            mode: self.mode,
        };
        let answer = remote.write(request, Box::new(tokio::io::stdin())).await?;
        show_done(&answer, json)
    }
}

/// List a directory.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  boxd call ls\n  boxd call ls -l /etc\n  boxd call ls -R --json src")]
pub(super) struct Ls {
    /// The directory; the workspace root when not given.
    path: Option<PathBuf>,
    /// Print kind, permissions, size and time of each entry.
    #[arg(short = 'l', long)]
    long: bool,
    /// Descend into directories.
    #[arg(short = 'R', long)]
    recursive: bool,
    /// End each line with a NUL byte, for names that hold a line end.
    #[arg(short = '0', long)]
    null: bool,
}

impl Ls {
    pub(super) async fn perform(self, remote: &Remote, json: bool) -> Result<Shown, Error> {
        let mut payload = Map::new();
        if let Some(path) = &self.path {
            set_path(&mut payload, "path", path.as_os_str());
        }
        payload.insert("recursive".into(), self.recursive.into());
        let listing = remote.operation("fs.list", &payload.into()).await?;
        if json {
            output::json(&listing)?;
            return Ok(Shown::OK);
        }
        let mut lines = Vec::new();
        for entry in listing["entries"].as_array().into_iter().flatten() {
            if self.long {
                lines.extend_from_slice(described(entry).as_bytes());
            }
            let name = if self.recursive {
                below(&listing, entry)
            } else {
                exact_bytes(entry, "name")
            };
            lines.extend_from_slice(&name);
            lines.push(if self.null { 0 } else { b'\n' });
        }
        output::answer(&lines)?;
        for missing in listing["unreadable"].as_array().into_iter().flatten() {
            let path = missing["path"].as_str().unwrap_or_default();
            let reason = missing["reason"].as_str().unwrap_or_default();
            output::diagnostic(format!("boxd: {path}: {reason}\n").as_bytes())?;
        }
        Ok(Shown::OK)
    }
}

/// The path of an entry relative to the directory that was listed.
fn below(listing: &Value, entry: &Value) -> Vec<u8> {
    let root = listing["path"].as_str().unwrap_or_default().trim_end_matches('/');
    let path = exact_bytes(entry, "path");
    path.strip_prefix(root.as_bytes())
        .and_then(|rest| rest.strip_prefix(b"/"))
        .map_or_else(|| path.clone(), <[u8]>::to_vec)
}

fn described(entry: &Value) -> String {
    let text = |field: &str| entry[field].as_str().unwrap_or("?").to_owned();
    format!(
        "{:9} {} {:>12} {} ",
        text("kind"),
        text("mode"),
        entry["size"],
        text("modified")
    )
}

/// Look at one entry; exits 1 when there is nothing at the path.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  boxd call stat Makefile\n  boxd call stat --json /etc/passwd")]
pub(super) struct Stat {
    /// The entry; a symbolic link is looked at, not followed.
    path: PathBuf,
}

impl Stat {
    pub(super) async fn perform(self, remote: &Remote, json: bool) -> Result<Shown, Error> {
        let answer = remote
            .operation("fs.stat", &path_only(self.path.as_os_str()).into())
            .await?;
        let exists = answer["exists"].as_bool().unwrap_or(false);
        if json {
            output::json(&answer)?;
        } else if exists {
            let mut line = described(&answer["entry"]).into_bytes();
            line.extend_from_slice(&exact_bytes(&answer["entry"], "path"));
            line.push(b'\n');
            output::answer(&line)?;
        } else {
            output::diagnostic(format!("boxd: {:?} does not exist\n", self.path).as_bytes())?;
        }
        let exit = if exists {
            ExitCode::SUCCESS
        } else {
            ExitCode::from(NOTHING_THERE)
        };
        Ok(Shown { exit })
    }
}

/// Make a directory.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  boxd call mkdir build\n  boxd call mkdir -p a/b/c --mode 0700")]
pub(super) struct Mkdir {
    /// The directory.
    path: PathBuf,
    /// Make missing parents, and accept a directory that exists.
    #[arg(short = 'p', long)]
    parents: bool,
    /// Permission bits in octal.
    #[arg(long, value_name = "MODE")]
    mode: Option<String>,
}

impl Mkdir {
    pub(super) async fn perform(self, remote: &Remote, json: bool) -> Result<Shown, Error> {
        let mut payload = path_only(self.path.as_os_str());
        payload.insert("parents".into(), self.parents.into());
        if let Some(mode) = self.mode {
            payload.insert("mode".into(), mode.into());
        }
        show_done(&remote.operation("fs.mkdir", &payload.into()).await?, json)
    }
}

/// Move or rename.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  boxd call mv draft.txt final.txt\n  boxd call mv --overwrite new.conf app.conf"
)]
pub(super) struct Mv {
    /// What is moved.
    from: PathBuf,
    /// Where it goes.
    to: PathBuf,
    /// Replace what is there.
    #[arg(long)]
    overwrite: bool,
}

impl Mv {
    pub(super) async fn perform(self, remote: &Remote, json: bool) -> Result<Shown, Error> {
        let mut payload = Map::new();
        set_path(&mut payload, "from", self.from.as_os_str());
        set_path(&mut payload, "to", self.to.as_os_str());
        payload.insert("overwrite".into(), self.overwrite.into());
        show_done(&remote.operation("fs.move", &payload.into()).await?, json)
    }
}

/// Remove a file, a symbolic link or a directory.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  boxd call rm old.log\n  boxd call rm -r build")]
pub(super) struct Rm {
    /// What is removed; a symbolic link is removed, not followed.
    path: PathBuf,
    /// Remove a directory with everything in it.
    #[arg(short = 'r', long)]
    recursive: bool,
}

impl Rm {
    pub(super) async fn perform(self, remote: &Remote, json: bool) -> Result<Shown, Error> {
        let mut payload = path_only(self.path.as_os_str());
        payload.insert("recursive".into(), self.recursive.into());
        show_done(&remote.operation("fs.remove", &payload.into()).await?, json)
    }
}

fn path_only(path: &OsStr) -> Map<String, Value> {
    let mut payload = Map::new();
    set_path(&mut payload, "path", path);
    payload
}
