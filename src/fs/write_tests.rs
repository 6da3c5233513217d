//! Writing through the room: atomic replacement, what it keeps, and the ways around it.

use std::io::Read as _;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use rustix::fs::{CWD, Mode, XattrFlags, getxattr, lgetxattr, mkfifoat, setxattr};
use rustix::process::geteuid;

use super::fixture::{Room, names, pieces, write};
use super::{Body, Config, Durability, InPlace, Reach};
use crate::error::{Code, Error};

fn body_error() -> Error {
    Error::Protocol {
        reason: "the peer went away".into(),
    }
}

#[tokio::test]
async fn what_is_written_is_read_back() {
    let room = Room::new();
    let written = room.write("a.txt", "hello").await.unwrap();
    assert_eq!(written.path, room.at("a.txt"));
    assert_eq!((written.bytes, written.atomic), (5, true));
    assert_eq!(room.read("a.txt").await.unwrap(), "hello");
    let mut request = write("a.txt", "");
    request.body = pieces(vec![Ok("one ".into()), Ok("two".into())]);
    assert_eq!(room.send(request).await.unwrap().bytes, 7);
    assert_eq!(room.read("a.txt").await.unwrap(), "one two");
    assert_eq!(room.names(), ["a.txt"]);
}

#[tokio::test]
async fn every_durability_writes_and_is_named() {
    for durability in [Durability::None, Durability::File, Durability::Dir] {
        let room = Room::with(
            Config {
                durability,
                ..Config::default()
            },
            Reach::Machine,
        );
        assert_eq!(room.write("a", "x").await.unwrap().durability, durability);
        let mut more = write("a", "y");
        more.append = true;
        assert_eq!(room.send(more).await.unwrap().durability, durability);
        assert_eq!(room.read("a").await.unwrap(), "xy");
    }
}

#[tokio::test]
async fn a_large_streamed_body_arrives_whole() {
    let room = Room::new();
    let chunks = (0..300_u32)
        .map(|number| Ok(Bytes::from(vec![number as u8; 10_007])))
        .collect();
    let mut request = write("large", "");
    request.body = pieces(chunks);
    assert_eq!(room.send(request).await.unwrap().bytes, 300 * 10_007);
    let content = std::fs::read(room.at("large")).unwrap();
    assert!(
        content
            .chunks(10_007)
            .enumerate()
            .all(|(number, chunk)| chunk == vec![number as u8; 10_007])
    );
}

#[tokio::test]
async fn a_replaced_file_keeps_mode_owner_and_attributes_but_no_rights_to_run() {
    let room = Room::new();
    let path = room.at("tool");
    std::fs::write(&path, "old").unwrap();
    setxattr(&path, "user.origin", b"here", XattrFlags::empty()).unwrap();
    if geteuid().is_root() {
        std::os::unix::fs::chown(&path, Some(1234), Some(4321)).unwrap();
        // A file capability in its on-disk form: version 2, CAP_NET_BIND_SERVICE.
        let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        setxattr(&path, "security.capability", &capability, XattrFlags::empty()).unwrap();
    }
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o6751)).unwrap();
    let before = std::fs::metadata(&path).unwrap();
    assert!(room.write("tool", "new").await.unwrap().atomic);
    let after = std::fs::metadata(&path).unwrap();
    assert_ne!(after.ino(), before.ino(), "it is a new file");
    assert_eq!(after.mode() & 0o7777, 0o751);
    assert_eq!((after.uid(), after.gid()), (before.uid(), before.gid()));
    let mut value = [0; 16];
    assert_eq!(getxattr(&path, "user.origin", &mut value).unwrap(), 4);
    assert!(lgetxattr(&path, "security.capability", &mut [0; 64]).is_err());
}

#[tokio::test]
async fn a_new_file_has_the_mode_that_was_asked_for() {
    let room = Room::new();
    let mut request = write("script", "#!/bin/sh\n");
    request.mode = Some(0o777);
    room.send(request).await.unwrap();
    assert_eq!(
        std::fs::metadata(room.at("script")).unwrap().mode() & 0o7777,
        0o777
    );
    room.write("plain", "").await.unwrap();
    std::fs::write(room.at("by-std"), "").unwrap();
    let mode = |name: &str| std::fs::metadata(room.at(name)).unwrap().mode();
    assert_eq!(mode("plain"), mode("by-std"), "both follow the umask");
    let mut request = write("script", "again");
    request.mode = Some(0o600);
    room.send(request).await.unwrap();
    assert_eq!(
        mode("script") & 0o7777,
        0o777,
        "the mode is for files that did not exist"
    );
}

#[tokio::test]
async fn parents_are_made_only_when_asked_and_belong_to_the_owner_around_them() {
    let room = Room::new();
    assert_eq!(room.write("a/b/c", "x").await.unwrap_err().code(), Code::NotFound);
    if geteuid().is_root() {
        std::os::unix::fs::chown(room.root(), Some(1234), Some(4321)).unwrap();
    }
    let mut request = write("a/b/c", "x");
    request.create_parents = true;
    room.send(request).await.unwrap();
    let root = std::fs::metadata(room.root()).unwrap();
    for directory in ["a", "a/b"] {
        let made = std::fs::metadata(room.at(directory)).unwrap();
        assert_eq!((made.uid(), made.gid()), (root.uid(), root.gid()), "{directory}");
    }
    let mut request = write("a/b/c/d", "x");
    request.create_parents = true;
    assert_eq!(
        room.send(request).await.unwrap_err().code(),
        Code::WrongKind,
        "c is a file"
    );
}

#[tokio::test]
async fn a_body_that_breaks_off_leaves_what_was() {
    let room = Room::new();
    room.write("kept", "old").await.unwrap();
    for append in [false, true] {
        for name in ["kept", "never"] {
            let mut request = write(name, "");
            request.append = append;
            request.body = pieces(vec![Ok(vec![b'x'; 2 << 20].into()), Err(body_error())]);
            assert_eq!(room.send(request).await.unwrap_err().code(), Code::Protocol);
        }
        assert_eq!(room.names(), ["kept"]);
        assert_eq!(room.read("kept").await.unwrap(), "old");
    }
}

#[tokio::test]
async fn a_caller_who_goes_away_leaves_nothing() {
    let room = Room::new();
    room.write("kept", "old").await.unwrap();
    for append in [false, true] {
        for name in ["kept", "never"] {
            let (started, begun) = tokio::sync::oneshot::channel::<()>();
            let mut started = Some(started);
            let chunks = futures_util::stream::iter(0..8).map(|_| Ok(Bytes::from(vec![b'x'; 1 << 20])));
            let silence = futures_util::stream::poll_fn(move |_| {
                drop(started.take());
                std::task::Poll::Pending
            });
            let mut request = write(name, "");
            request.append = append;
            request.body = Body::Stream(Box::pin(chunks.chain(silence)));
            tokio::select! {
                result = room.send(request) => panic!("ended: {result:?}"),
                _ = begun => {}
            }
        }
        // What is undone is undone on the blocking pool, soon after.
        let undone = async {
            while room.names() != ["kept"] || std::fs::read(room.at("kept")).unwrap() != b"old" {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), undone)
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn appending_adds_to_the_end_and_is_not_called_atomic() {
    let room = Room::new();
    for (part, whole) in [("one", "one"), (" two", "one two")] {
        let mut request = write("log", part);
        request.append = true;
        request.mode = Some(0o640);
        let written = room.send(request).await.unwrap();
        assert_eq!((written.bytes, written.atomic), (part.len() as u64, false));
        assert_eq!(room.read("log").await.unwrap(), whole);
    }
    assert_eq!(std::fs::metadata(room.at("log")).unwrap().mode() & 0o7777, 0o640);
}

#[tokio::test]
async fn symbolic_links_are_written_through_and_stay() {
    let room = Room::new();
    std::fs::create_dir(room.at("real")).unwrap();
    std::fs::write(room.at("real/file"), "old").unwrap();
    symlink("real/file", room.at("link")).unwrap();
    symlink("link", room.at("link2")).unwrap();
    symlink("real/new", room.at("dangling")).unwrap();
    assert!(room.write("link2", "new").await.unwrap().atomic);
    assert_eq!(std::fs::read(room.at("real/file")).unwrap(), b"new");
    room.write("dangling", "made").await.unwrap();
    assert_eq!(std::fs::read(room.at("real/new")).unwrap(), b"made");
    for link in ["link", "link2", "dangling"] {
        assert!(
            std::fs::symlink_metadata(room.at(link)).unwrap().is_symlink(),
            "{link}"
        );
    }
    symlink("loop", room.at("loop")).unwrap();
    assert_eq!(room.write("loop", "x").await.unwrap_err().code(), Code::Invalid);
    assert_eq!(names(&room.at("real")), ["file", "new"]);
}

#[tokio::test]
async fn hard_links_are_written_in_place_when_that_is_allowed() {
    let room = Room::new();
    std::fs::write(room.at("one"), "a longer old content").unwrap();
    std::fs::hard_link(room.at("one"), room.at("two")).unwrap();
    let mut request = write("one", "new");
    request.in_place = InPlace::IfConfigured;
    let error = room.send(request).await.unwrap_err();
    assert_eq!(error.code(), Code::Conflict);
    assert!(error.to_string().contains("2 hard links"), "{error}");
    assert_eq!(std::fs::read(room.at("two")).unwrap(), b"a longer old content");
    let mut request = write("one", "");
    request.body = pieces(vec![Ok("gone".into()), Err(body_error())]);
    room.send(request).await.unwrap_err();
    assert_eq!(
        std::fs::read(room.at("two")).unwrap(),
        b"a longer old content",
        "collected first"
    );
    assert!(!room.write("one", "new").await.unwrap().atomic);
    assert_eq!(std::fs::read(room.at("two")).unwrap(), b"new");
    assert_eq!(room.names(), ["one", "two"]);
}

#[tokio::test]
async fn the_configuration_can_allow_writing_in_place() {
    let room = Room::with(
        Config {
            in_place: true,
            ..Config::default()
        },
        Reach::Machine,
    );
    std::fs::write(room.at("one"), "old").unwrap();
    std::fs::hard_link(room.at("one"), room.at("two")).unwrap();
    let mut request = write("one", "new");
    request.in_place = InPlace::IfConfigured;
    assert!(!room.send(request).await.unwrap().atomic);
}

#[tokio::test]
async fn directories_sockets_and_slashes_are_refused() {
    let room = Room::new();
    std::fs::create_dir(room.at("dir")).unwrap();
    std::os::unix::net::UnixListener::bind(room.at("socket")).unwrap();
    assert_eq!(
        room.write("dir", "x").await.unwrap_err().errno(),
        Some(libc::EISDIR)
    );
    assert_eq!(
        room.write("dir/", "x").await.unwrap_err().errno(),
        Some(libc::EISDIR)
    );
    assert_eq!(
        room.write("socket", "x").await.unwrap_err().errno(),
        Some(libc::ENXIO)
    );
    assert_eq!(room.write("new/", "x").await.unwrap_err().code(), Code::Invalid);
    assert_eq!(room.write("", "x").await.unwrap_err().errno(), Some(libc::EISDIR));
    assert_eq!(
        room.write("dir/../dir", "x").await.unwrap_err().errno(),
        Some(libc::EISDIR)
    );
}

#[tokio::test]
async fn devices_are_written_as_they_are() {
    let room = Room::new();
    let written = room.write("/dev/null", "gone").await.unwrap();
    assert_eq!(
        (written.bytes, written.atomic, written.durability),
        (4, false, Durability::None)
    );
    let error = room.write("/dev/full", "x").await.unwrap_err();
    assert_eq!(
        (error.code(), error.errno()),
        (Code::StorageFull, Some(libc::ENOSPC))
    );
}

#[tokio::test]
async fn a_fifo_is_fed_when_somebody_reads_it() {
    let room = Room::new();
    mkfifoat(CWD, room.at("fifo"), Mode::RWXU).unwrap();
    assert_eq!(room.write("fifo", "x").await.unwrap_err().code(), Code::Conflict);
    let mut reader = std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(room.at("fifo"))
        .unwrap();
    assert!(!room.write("fifo", "through").await.unwrap().atomic);
    let mut content = String::new();
    reader.read_to_string(&mut content).unwrap();
    assert_eq!(content, "through");
}

#[tokio::test]
async fn concurrent_writers_leave_one_whole_content() {
    let room = Room::new();
    room.write("file", &"0".repeat(300_000)).await.unwrap();
    let writes = (0..40).map(|number: u8| {
        let content = char::from(b'a' + number % 26).to_string().repeat(300_000);
        let room = &room;
        async move { room.write("file", &content).await }
    });
    let results: Vec<_> = futures_util::stream::iter(writes)
        .buffer_unordered(8)
        .collect()
        .await;
    for result in results {
        assert!(result.unwrap().atomic);
        let content = std::fs::read(room.at("file")).unwrap();
        assert!(content.len() == 300_000 && content.iter().all(|byte| *byte == content[0]));
    }
    assert_eq!(room.names(), ["file"]);
}

#[tokio::test]
async fn a_reader_keeps_the_content_that_it_opened() {
    let room = Room::new();
    room.write("file", "old").await.unwrap();
    let request = super::Read {
        path: "file".into(),
        offset: 0,
        length: None,
    };
    let open = room.files.open(Reach::Machine, request).await.unwrap();
    room.write("file", "new content").await.unwrap();
    assert_eq!(open.read_all(100).await.unwrap(), "old");
}

#[tokio::test]
async fn leftovers_of_killed_writers_are_swept_and_others_are_not() {
    let room = Room::new();
    let left = room.at(".boxd-0123456789abcdef0123456789abcdef");
    let busy = room.at(".boxd-fedcba9876543210fedcba9876543210");
    let users = room.at(".boxd-notes");
    for path in [&left, &busy, &users] {
        std::fs::write(path, "x").unwrap();
    }
    let writer = std::fs::File::open(&busy).unwrap();
    rustix::fs::flock(&writer, rustix::fs::FlockOperation::LockExclusive).unwrap();
    room.write("file", "x").await.unwrap();
    assert!(!left.exists());
    assert!(busy.exists() && users.exists());
}

#[tokio::test]
async fn strange_names_are_written_and_read() {
    use std::os::unix::ffi::OsStrExt;
    let room = Room::new();
    let long = "n".repeat(255);
    for name in [
        &b"with\nnewline"[..],
        b"\xff\xfe not utf-8",
        b"-rf",
        b" ",
        b"$HOME",
        long.as_bytes(),
    ] {
        let path = std::path::Path::new(std::ffi::OsStr::from_bytes(name));
        room.write(path, "x").await.unwrap();
        assert_eq!(room.read(path).await.unwrap(), "x");
        let listing = room.list("", false).await.unwrap();
        assert_eq!(listing.entries.len(), 1);
        assert_eq!(listing.entries[0].name().as_bytes(), name);
        room.remove(path, false).await.unwrap();
    }
    assert_eq!(
        room.write("n".repeat(256), "x").await.unwrap_err().code(),
        Code::Invalid
    );
    assert_eq!(
        room.write("d/".repeat(3000), "x").await.unwrap_err().code(),
        Code::Invalid
    );
    assert_eq!(
        room.write("nul\0byte", "x").await.unwrap_err().code(),
        Code::Invalid
    );
}

#[tokio::test]
async fn a_failed_append_takes_nothing_back_that_another_writer_added() {
    let room = Room::new();
    room.write("log", "old ").await.unwrap();
    let log = room.at("log");
    let mut request = write("log", "");
    request.append = true;
    // A batch is written when it is full; the other writer appends before the body breaks off.
    let mut step = 0;
    request.body = Body::Stream(Box::pin(futures_util::stream::poll_fn(move |context| {
        step += 1;
        std::task::Poll::Ready(match step {
            1 => Some(Ok(vec![b'x'; 1 << 20].into())),
            2 if std::fs::metadata(&log).unwrap().len() == 4 => {
                step = 1;
                context.waker().wake_by_ref();
                return std::task::Poll::Pending;
            }
            2 => {
                let mut other = std::fs::OpenOptions::new().append(true).open(&log).unwrap();
                std::io::Write::write_all(&mut other, b"theirs").unwrap();
                Some(Err(body_error()))
            }
            _ => None,
        })
    })));
    room.send(request).await.unwrap_err();
    let content = std::fs::read(room.at("log")).unwrap();
    assert!(content.starts_with(b"old x") && content.ends_with(b"theirs"));
}

#[tokio::test]
async fn what_is_written_in_place_loses_the_rights_of_the_old_content() {
    let room = Room::new();
    std::fs::write(room.at("tool"), "old").unwrap();
    std::fs::hard_link(room.at("tool"), room.at("other")).unwrap();
    std::fs::set_permissions(room.at("tool"), std::fs::Permissions::from_mode(0o6755)).unwrap();
    assert!(!room.write("tool", "new").await.unwrap().atomic);
    assert_eq!(
        std::fs::metadata(room.at("other")).unwrap().mode() & 0o7777,
        0o755
    );
}
