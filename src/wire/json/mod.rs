//! The JSON of every door that speaks it: HTTP bodies, extension payloads over NATS and `boxd call op`.
//!
//! One struct per shape, each with its conversion to [`crate::ops::Op`] or from [`crate::ops::Reply`], and its schema
//! for the `OpenAPI` document. Names are `camelCase`, times are RFC 3339 in `...At` fields (and `modified`) and unix
//! milliseconds in `...Ms` fields, absent values are left out, and bytes that may not be UTF-8 stand base64-encoded in
//! a `...B64` field beside the readable one. Nothing here does I/O.

mod batch;
mod decode;
mod end;
mod events;
mod file_changes;
mod file_metadata;
mod file_requests;
mod files;
mod git_replies;
mod git_requests;
mod host;
mod launch;
mod log_events;
mod log_text;
mod logs;
mod operation;
mod process;
mod process_info;
mod process_requests;
mod run;
mod search;
mod terminal;
mod text;
mod time;
mod update;
mod watch;

pub use batch::{BatchReply, BatchRequest};
pub use decode::{Unknown, decode};
pub use end::{End, exit_code};
pub use events::decode_stream;
pub use file_changes::{EditRequest, Edited, UploadArguments, UploadId, UploadReply};
pub use file_metadata::{
    Archive, Changed, ChmodRequest, DigestReply, Done, PackArguments, SymlinkRequest, XattrRequest, Xattrs,
};
pub use file_requests::{
    ArchiveArguments, ListArguments, MkdirArguments, MoveRequest, ReadArguments, RemoveArguments,
    StatArguments, WriteArguments, base, mode, path,
};
pub use files::{
    Entry, FileContent, Listing, Moved, PathReply, Stat, Unpacked, Unreadable, Written, next_cursor,
};
pub use git_replies::{GitProgress, git_answer, git_did};
pub use git_requests::{GitChange, GitQuery, GitTransfer};
pub use host::{Capabilities, Capability, Gpu, Limits, Metrics, Ping, Pong};
pub use launch::LimitsRequest;
pub use log_events::Framing;
pub use log_text::LogsText;
pub use logs::{FollowArguments, LogEntry, LogFormat, LogGap, LogLeftOut, LogsReply, LogsRequest, left_out};
pub use operation::{Decoded, decode_op, encode_archive, encode_file, encode_reply};
pub use process::{Config, ConfigPatch};
pub use process_info::{Exited, Info, Infos, InputReply, Owner, SignalReply};
pub use process_requests::{
    CreateRequest, IdArguments, InputEncoding, InputRequest, ProcessListArguments, SignalRequest,
    WaitArguments, input_bytes, process_id,
};
pub use run::{Encoding, RunReply, RunRequest};
pub use search::{Globs, Match, SearchEnd, SearchReply, SearchRequest};
pub use terminal::{ClientMessage, LockRequest, ResizeRequest, SizeReply, Snapshot, SnapshotArguments};
pub use time::{http_date, rfc3339};
pub use update::{UpdateAvailable, UpdateBegun, UpdateRequest, UpdateStatus};
pub use watch::{WatchArguments, WatchEvent, WatchReady, WatchReply};
