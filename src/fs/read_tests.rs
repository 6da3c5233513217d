//! Reading through the room: ranges, sizes, and what is not a regular file.

use std::os::unix::fs::symlink;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use rustix::fs::{CWD, Mode, mkfifoat};

use super::fixture::Room;
use super::{Kind, OpenFile, Reach, Read};
use crate::error::{Code, Error};

async fn open(room: &Room, path: &str) -> Result<OpenFile, Error> {
    room.files
        .open(
            room.reach,
            Read {
                path: path.into(),
                offset: 0,
                length: None,
            },
        )
        .await
}

#[tokio::test]
async fn ranges_read_what_is_asked_for_and_nothing_past_the_end() {
    let room = Room::new();
    room.write("file", "0123456789").await.unwrap();
    let cases: [(u64, Option<u64>, &str); 8] = [
        (0, None, "0123456789"),
        (3, None, "3456789"),
        (3, Some(4), "3456"),
        (8, Some(100), "89"),
        (10, None, ""),
        (1 << 40, Some(5), ""),
        (2, Some(0), ""),
        (2, Some(u64::MAX), "23456789"),
    ];
    for (offset, length, expected) in cases {
        assert_eq!(
            room.read_range("file", offset, length).await.unwrap(),
            expected,
            "{offset} {length:?}"
        );
    }
    let mut file = open(&room, "file").await.unwrap();
    file.narrow(4, Some(2));
    assert_eq!((file.total(), file.range()), (10, 4..6));
    let chunks: Vec<Bytes> = file.into_stream().try_collect().await.unwrap();
    assert_eq!(chunks, ["45"]);
    assert_eq!(
        room.read_range("", 0, None).await.unwrap_err().errno(),
        Some(libc::EISDIR)
    );
}

#[tokio::test]
async fn a_stream_gives_every_byte_once() {
    let room = Room::new();
    let content: Vec<u8> = (0..1_300_001_u32).map(|number| (number % 251) as u8).collect();
    std::fs::write(room.at("file"), &content).unwrap();
    let file = open(&room, "file").await.unwrap();
    let chunks: Vec<Bytes> = file.into_stream().try_collect().await.unwrap();
    assert!(chunks.len() >= 5, "{}", chunks.len());
    assert_eq!(chunks.concat(), content);
}

#[tokio::test]
async fn a_range_of_a_huge_sparse_file_costs_only_the_range() {
    let room = Room::new();
    let huge = std::fs::File::create(room.at("huge")).unwrap();
    huge.set_len(10 << 30).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&huge, b"needle", 7 << 30).unwrap();
    assert_eq!(
        room.read_range("huge", (7 << 30) - 1, Some(8)).await.unwrap(),
        "\0needle\0"
    );
    let file = open(&room, "huge").await.unwrap();
    assert_eq!(file.total(), 10 << 30);
    let error = file.read_all(1 << 20).await.unwrap_err();
    assert!(matches!(error, Error::TooLarge { size, limit, .. } if (size, limit) == (10 << 30, 1 << 20)));
    let mut stream = Box::pin(open(&room, "huge").await.unwrap().into_stream());
    assert!(stream.next().await.unwrap().unwrap().len() <= 1 << 20);
}

#[tokio::test]
async fn what_is_no_regular_file_is_refused_at_once() {
    let room = Room::new();
    mkfifoat(CWD, room.at("fifo"), Mode::RWXU).unwrap();
    let socket = std::os::unix::net::UnixListener::bind(room.at("socket")).unwrap();
    for path in ["fifo", "socket", "/dev/zero", "/dev/tty", "/", ""] {
        let error = open(&room, path).await.unwrap_err();
        assert_eq!(error.code(), Code::WrongKind, "{path}: {error}");
    }
    drop(socket);
    assert_eq!(open(&room, "missing").await.unwrap_err().code(), Code::NotFound);
    assert_eq!(
        open(&room, "fifo/x").await.unwrap_err().errno(),
        Some(libc::ENOTDIR)
    );
}

#[tokio::test]
async fn links_are_followed_and_the_entry_is_what_was_opened() {
    let room = Room::new();
    room.write("file", "content").await.unwrap();
    symlink("file", room.at("link")).unwrap();
    let file = open(&room, "link").await.unwrap();
    assert_eq!((file.entry().kind, file.entry().size), (Kind::File, 7));
    assert_eq!(file.entry().path, room.at("link"));
    assert_eq!(file.read_all(7).await.unwrap(), "content");
    symlink("gone", room.at("dangling")).unwrap();
    assert_eq!(open(&room, "dangling").await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn the_version_changes_with_the_content() {
    let room = Room::new();
    room.write("file", "one").await.unwrap();
    let first = open(&room, "file").await.unwrap().version().to_owned();
    assert_eq!(open(&room, "file").await.unwrap().version(), first);
    room.write("file", "two").await.unwrap();
    assert_ne!(open(&room, "file").await.unwrap().version(), first);
}

#[tokio::test]
async fn a_file_that_shrinks_ends_in_an_error() {
    let room = Room::new();
    std::fs::write(room.at("file"), vec![b'x'; 3 << 20]).unwrap();
    let mut stream = Box::pin(open(&room, "file").await.unwrap().into_stream());
    stream.next().await.unwrap().unwrap();
    std::fs::File::options()
        .write(true)
        .open(room.at("file"))
        .unwrap()
        .set_len(10)
        .unwrap();
    let rest: Result<Vec<Bytes>, Error> = stream.try_collect().await;
    let error = rest.unwrap_err();
    assert!(error.to_string().contains("shorter"), "{error}");
    let file = open(&room, "file").await.unwrap();
    std::fs::write(room.at("file"), "").unwrap();
    assert_eq!(file.read_all(100).await.unwrap_err().code(), Code::Io);
}

#[tokio::test]
async fn kernel_files_without_a_size_are_served() {
    let room = Room::new();
    let status = room.read("/proc/self/status").await.unwrap();
    assert!(status.starts_with(b"Name:"), "{status:?}");
    let file = open(&room, "/proc/self/status").await.unwrap();
    assert_eq!(file.total(), file.entry().size);
    let streamed: Vec<u8> = file
        .into_stream()
        .map_ok(|chunk| chunk.to_vec())
        .try_concat()
        .await
        .unwrap();
    assert!(streamed.starts_with(b"Name:"));
    let part = room.read_range("/proc/self/status", 0, Some(5)).await.unwrap();
    assert_eq!(part, "Name:");
    // Of these the size is told as one page, whatever they hold.
    let page = room.read("/sys/kernel/fscaps").await.unwrap();
    assert_eq!(page, std::fs::read("/sys/kernel/fscaps").unwrap());
}

#[tokio::test]
async fn an_empty_file_is_empty() {
    let room = Room::new();
    room.write("empty", "").await.unwrap();
    assert_eq!(room.read("empty").await.unwrap(), "");
    let chunks: Vec<Bytes> = open(&room, "empty")
        .await
        .unwrap()
        .into_stream()
        .try_collect()
        .await
        .unwrap();
    assert!(chunks.is_empty());
}

#[tokio::test]
async fn a_confined_reach_reads_inside_and_refuses_what_leads_outside() {
    let room = Room::confined();
    std::fs::write(room.at("file"), "inside").unwrap();
    std::fs::write(room.outside().join("secret"), "secret").unwrap();
    symlink("../outside/secret", room.at("relative")).unwrap();
    symlink(room.outside().join("secret"), room.at("absolute")).unwrap();
    symlink(room.outside(), room.at("directory")).unwrap();
    assert_eq!(room.read("file").await.unwrap(), "inside");
    assert_eq!(room.read(room.at("file")).await.unwrap(), "inside");
    assert_eq!(room.read("x/../file").await.unwrap_err().code(), Code::NotFound);
    for path in [
        "../outside/secret",
        "/etc/passwd",
        "relative",
        "absolute",
        "directory/secret",
        "..",
        "/",
    ] {
        let error = room.read(path).await.unwrap_err();
        assert_eq!(
            (error.code(), error.errno()),
            (Code::Denied, Some(libc::EACCES)),
            "{path}: {error}"
        );
        assert!(error.to_string().contains("fs.confine"), "{error}");
        let request = Read {
            path: path.into(),
            offset: 0,
            length: None,
        };
        let error = room.files.open(Reach::Unconsented, request).await.unwrap_err();
        assert_eq!(error.code(), Code::ConsentRequired, "{path}");
    }
}
