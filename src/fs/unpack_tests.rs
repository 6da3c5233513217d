//! Unpacking: what arrives, and archives that attack.

use std::io::Write as _;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use bytes::Bytes;
use proptest::prelude::*;
use tar::{Builder, EntryType, Header};

use super::archive::safe;
use super::fixture::{Room, names, pieces};
use super::{Unpack, UnpackLimits, Unpacked};
use crate::error::{Code, Error};

/// A tar archive that says exactly what the test wants, also what the library would refuse to write.
struct Tar(Builder<Vec<u8>>);

impl Tar {
    fn new() -> Self {
        Self(Builder::new(Vec::new()))
    }

    fn entry(mut self, kind: EntryType, name: &str, link: &str, mode: u32, content: &[u8]) -> Self {
        let mut header = Header::new_gnu();
        header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_gnu_mut().unwrap().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_mtime(1_000_000);
        header.set_size(content.len() as u64);
        header.set_cksum();
        self.0.append(&header, content).unwrap();
        self
    }

    fn file(self, name: &str, content: &str) -> Self {
        self.entry(EntryType::Regular, name, "", 0o644, content.as_bytes())
    }

    fn directory(self, name: &str, mode: u32) -> Self {
        self.entry(EntryType::Directory, name, "", mode, b"")
    }

    fn symlink(self, name: &str, target: &str) -> Self {
        self.entry(EntryType::Symlink, name, target, 0o777, b"")
    }

    fn hardlink(self, name: &str, target: &str) -> Self {
        self.entry(EntryType::Link, name, target, 0o644, b"")
    }

    fn bytes(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

fn zipped(archive: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(archive).unwrap();
    encoder.finish().unwrap()
}

fn paths(room: &Room, done: &Unpacked) -> Vec<String> {
    let root = room.root();
    done.paths
        .iter()
        .map(|path| path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn a_tree_arrives_as_it_was_packed() {
    let archive = Tar::new()
        .directory("./", 0o700)
        .directory("dir/", 0o550)
        .file("dir/file", "content")
        .entry(EntryType::Regular, "dir/tool", "", 0o6755, b"#!")
        .symlink("dir/link", "file")
        .symlink("absolute", "/etc/hostname")
        .hardlink("again", "./dir/file")
        .file("new/deep/file", "deep")
        .bytes();
    for (name, archive) in [("plain", archive.clone()), ("zipped", zipped(&archive))] {
        let room = Room::new();
        let done = room.unpack(name, archive).await.unwrap();
        let expected = [
            "dir",
            "dir/file",
            "dir/tool",
            "dir/link",
            "absolute",
            "again",
            "new/deep/file",
        ];
        assert_eq!(paths(&room, &done), expected.map(|path| format!("{name}/{path}")));
        assert!(!done.truncated && done.skipped.is_empty());
        let at = |path: &str| room.at(name).join(path);
        assert_eq!(std::fs::read(at("dir/file")).unwrap(), b"content");
        assert_eq!(std::fs::read(at("new/deep/file")).unwrap(), b"deep");
        assert_eq!(
            std::fs::read_link(at("absolute")).unwrap(),
            Path::new("/etc/hostname")
        );
        let meta = |path: &str| std::fs::metadata(at(path)).unwrap();
        assert_eq!(meta("dir/tool").mode() & 0o7777, 0o755, "no setuid");
        assert_eq!(meta("dir").mode() & 0o7777, 0o550);
        assert_eq!(
            (meta("dir/file").mtime(), meta("dir").mtime()),
            (1_000_000, 1_000_000)
        );
        assert_eq!(meta("again").ino(), meta("dir/file").ino());
        assert_eq!(names(&room.at(name)), ["absolute", "again", "dir", "new"]);
        std::fs::set_permissions(at("dir"), std::fs::Permissions::from_mode(0o755)).unwrap();
    }
}

#[tokio::test]
async fn a_streamed_archive_arrives_and_a_broken_one_leaves_nothing() {
    let room = Room::new();
    let archive = zipped(&Tar::new().file("a", &"x".repeat(100_000)).bytes());
    let chunks = |archive: &[u8]| {
        archive
            .chunks(17)
            .map(|chunk| Ok(Bytes::copy_from_slice(chunk)))
            .collect()
    };
    let unpack = async |body| {
        room.files
            .unpack(
                room.reach,
                Unpack {
                    path: "new/dir".into(),
                    body,
                },
            )
            .await
    };
    let mut broken: Vec<Result<Bytes, Error>> = chunks(&archive[..archive.len() / 2]);
    broken.push(Err(Error::Protocol {
        reason: "gone".into(),
    }));
    assert_eq!(unpack(pieces(broken)).await.unwrap_err().code(), Code::Protocol);
    assert!(room.names().is_empty());
    assert_eq!(
        unpack(pieces(chunks(&archive[..archive.len() / 2])))
            .await
            .unwrap_err()
            .code(),
        Code::Invalid
    );
    assert!(room.names().is_empty());
    unpack(pieces(chunks(&archive))).await.unwrap();
    assert_eq!(std::fs::read(room.at("new/dir/a")).unwrap().len(), 100_000);
}

#[tokio::test]
async fn existing_files_are_replaced_and_links_are_not_written_through() {
    let room = Room::new();
    std::fs::write(room.outside().join("file"), "outside").unwrap();
    std::fs::write(room.at("file"), "old").unwrap();
    std::fs::hard_link(room.at("file"), room.at("other-name")).unwrap();
    symlink(room.outside().join("file"), room.at("link")).unwrap();
    room.unpack(
        "",
        Tar::new()
            .file("file", "new")
            .file("link", "new")
            .symlink("link2", "file")
            .bytes(),
    )
    .await
    .unwrap();
    assert_eq!(std::fs::read(room.at("file")).unwrap(), b"new");
    assert_eq!(std::fs::read(room.at("link")).unwrap(), b"new");
    assert_eq!(std::fs::read(room.at("other-name")).unwrap(), b"old");
    assert_eq!(std::fs::read(room.outside().join("file")).unwrap(), b"outside");
    room.unpack(
        "",
        Tar::new()
            .hardlink("file", "file")
            .symlink("link2", "other")
            .bytes(),
    )
    .await
    .unwrap();
    assert_eq!(std::fs::read_link(room.at("link2")).unwrap(), Path::new("other"));
    assert_eq!(
        room.names(),
        ["file", "link", "link2", "other-name"],
        "nothing hidden is left"
    );
}

#[tokio::test]
async fn bad_names_refuse_the_whole_archive_before_anything_is_written() {
    let attacks = [
        Tar::new().file("ok", "x").file("../evil", "x"),
        Tar::new().file("ok", "x").file("a/../../evil", "x"),
        Tar::new().file("ok", "x").file("/tmp/boxd-evil", "x"),
        Tar::new().file("ok", "x").directory("..", 0o777),
        Tar::new().file("ok", "x").symlink("../evil", "x"),
        Tar::new().file("ok", "x").hardlink("evil", "../outside/file"),
        Tar::new().file("ok", "x").hardlink("evil", "/etc/passwd"),
        Tar::new().file("ok", "x").file("", "x"),
        Tar::new().file("ok", "x").symlink("empty", ""),
    ];
    for (number, attack) in attacks.into_iter().enumerate() {
        let room = Room::new();
        std::fs::write(room.outside().join("file"), "outside").unwrap();
        let error = room.unpack("dest", attack.bytes()).await.unwrap_err();
        assert_eq!(error.code(), Code::Invalid, "{number}: {error}");
        assert!(room.names().is_empty(), "{number}: {:?}", room.names());
        assert_eq!(names(&room.outside()), ["file"], "{number}");
    }
}

#[tokio::test]
async fn links_in_the_archive_and_on_the_way_never_lead_outside() {
    let room = Room::new();
    std::fs::write(room.outside().join("file"), "outside").unwrap();
    symlink(room.outside(), room.at("planted")).unwrap();
    let outside = room.outside();
    let outside = outside.to_str().unwrap();
    let attacks = [
        Tar::new()
            .file("ok", "x")
            .symlink("out", outside)
            .file("out/evil", "x"),
        Tar::new()
            .file("ok", "x")
            .symlink("out", "..")
            .file("out/outside/evil", "x"),
        Tar::new()
            .file("ok", "x")
            .symlink("a", ".")
            .symlink("a/b", "..")
            .file("b/outside/evil", "x"),
        Tar::new()
            .file("ok", "x")
            .symlink("out", outside)
            .directory("out/evil", 0o777),
        Tar::new()
            .file("ok", "x")
            .symlink("out", outside)
            .symlink("out/evil", "x"),
        Tar::new()
            .file("ok", "x")
            .symlink("out", outside)
            .hardlink("evil", "out/file"),
        Tar::new()
            .file("ok", "x")
            .symlink("out", &format!("{outside}/file"))
            .hardlink("evil", "out"),
        Tar::new().file("ok", "x").hardlink("evil", "planted/file"),
        Tar::new().file("ok", "x").file("planted/evil", "x"),
        Tar::new()
            .file("ok", "x")
            .symlink("proc", "/proc/self/root")
            .file("proc/tmp/boxd-evil", "x"),
    ];
    for (number, attack) in attacks.into_iter().enumerate() {
        let error = room.unpack("", attack.bytes()).await.unwrap_err();
        assert_eq!(error.code(), Code::Invalid, "{number}: {error}");
        assert!(
            error.to_string().contains("written before it"),
            "{number}: {error}"
        );
        assert_eq!(names(&room.outside()), ["file"], "{number}");
        assert_eq!(
            std::fs::metadata(room.outside().join("file")).unwrap().nlink(),
            1,
            "{number}"
        );
        assert_eq!(
            std::fs::read(room.at("ok")).unwrap(),
            b"x",
            "what came before stays"
        );
        for name in ["out", "a", "b", "proc"] {
            let _may_not_be_there = std::fs::remove_file(room.at(name));
        }
    }
}

#[tokio::test]
async fn a_link_that_was_replaced_inside_is_followed_inside() {
    let room = Room::new();
    let archive = Tar::new()
        .directory("real", 0o755)
        .symlink("alias", "real")
        .file("alias/file", "x")
        .bytes();
    room.unpack("", archive).await.unwrap();
    assert_eq!(std::fs::read(room.at("real/file")).unwrap(), b"x");
}

#[tokio::test]
async fn devices_and_fifos_are_reported_and_not_made() {
    let room = Room::new();
    let mut archive = Tar::new();
    for (kind, name) in [
        (EntryType::Char, "c"),
        (EntryType::Block, "b"),
        (EntryType::Fifo, "f"),
    ] {
        archive = archive.entry(kind, name, "", 0o666, b"");
    }
    let done = room.unpack("", archive.file("file", "x").bytes()).await.unwrap();
    assert_eq!(paths(&room, &done), ["file"]);
    let skipped: Vec<_> = done
        .skipped
        .iter()
        .map(|(path, reason)| (path.clone(), reason.as_str()))
        .collect();
    let expected = [
        (room.at("c"), "a character device"),
        (room.at("b"), "a block device"),
        (room.at("f"), "a fifo"),
    ];
    assert_eq!(skipped, expected);
    assert_eq!(room.names(), ["file"]);
}

#[tokio::test]
async fn what_is_no_archive_is_refused() {
    let good = Tar::new().file("file", &"x".repeat(5000)).bytes();
    let mut flipped = good.clone();
    flipped[0] ^= 1;
    let mut cut_zip = zipped(&good);
    cut_zip.truncate(cut_zip.len() - 12);
    let cases: [(&str, Vec<u8>); 7] = [
        ("empty", Vec::new()),
        ("one byte", vec![b'x']),
        ("text", b"hello, this is not a tar archive ".repeat(100)),
        ("a bad checksum", flipped),
        ("cut in the content", good[..1500].to_vec()),
        ("cut gzip", cut_zip),
        ("gzip of nothing like it", zipped(&[7; 3000])),
    ];
    for (name, archive) in cases {
        let room = Room::new();
        let error = room.unpack("dest", archive).await.unwrap_err();
        assert_eq!(error.code(), Code::Invalid, "{name}: {error}");
        assert!(room.names().is_empty(), "{name}");
    }
}

#[tokio::test]
async fn caps_hold_before_anything_is_written() {
    let limits = UnpackLimits {
        entries: 3,
        expanded_bytes: 1 << 20,
        header_bytes: 4096,
        depth: 4,
    };
    let long = "n".repeat(100).repeat(100);
    let mut long_name = Tar::new();
    long_name
        .0
        .append_link(&mut Header::new_gnu(), "link", &long)
        .unwrap();
    let many = (0..4).fold(Tar::new(), |archive, number| {
        archive.file(&number.to_string(), "")
    });
    let large = Tar::new().file("large", &"0".repeat((1 << 20) + 1));
    let deep = Tar::new().file("a/b/c/d/e", "");
    // Nothing is made of what lies behind the end, and of a fifo, and it is not expanded without end either.
    let mut behind = Tar::new().file("ok", "").bytes();
    behind.resize(2 << 20, 0);
    let hollow = Tar::new().entry(EntryType::Fifo, "fifo", "", 0o644, &vec![0; (1 << 20) + 1]);
    let cases = [
        (many, Code::Invalid, "more than 3 entries"),
        (large, Code::TooLarge, "1048576"),
        (long_name, Code::Invalid, "headers"),
        (deep, Code::Invalid, "deeper"),
        (hollow, Code::TooLarge, "1048576"),
    ];
    let mut cases = cases
        .map(|(archive, code, text)| (archive.bytes(), code, text))
        .to_vec();
    cases.push((behind, Code::Invalid, "too large"));
    for (archive, code, text) in cases {
        let room = Room::limited(limits);
        let error = room.unpack("dest", zipped(&archive)).await.unwrap_err();
        assert_eq!(error.code(), code, "{error}");
        assert!(error.to_string().contains(text), "{error}");
        assert!(room.names().is_empty());
    }
    let room = Room::limited(limits);
    let fits = Tar::new()
        .file("a/b/c/d", "x")
        .file("b", &"0".repeat((1 << 20) - 1))
        .file("c", "");
    room.unpack("dest", fits.bytes()).await.unwrap();
}

#[tokio::test]
async fn an_answer_lists_only_so_many_paths_and_says_so() {
    let room = Room::new();
    let archive = (0..Unpacked::MAX_PATHS + 5).fold(Tar::new(), |archive, number| {
        archive.file(&number.to_string(), "")
    });
    let done = room.unpack("", archive.bytes()).await.unwrap();
    assert_eq!((done.paths.len(), done.truncated), (Unpacked::MAX_PATHS, true));
    assert_eq!(room.names().len(), Unpacked::MAX_PATHS + 5);
}

proptest! {
    #[test]
    fn a_safe_name_never_leads_up_or_to_the_root(name in "(/|\\.\\.|\\.|[a-c]){0,8}") {
        if let Ok(path) = safe(Path::new(&name), "an entry") {
            let plain = path.components().all(|part| matches!(part, std::path::Component::Normal(_)));
            prop_assert!(plain, "{name:?} became {path:?}");
            prop_assert!(!name.starts_with('/'));
        }
    }

    #[test]
    fn any_bytes_are_unpacked_or_refused_without_a_panic(
        damage in proptest::collection::vec((0_usize..2048, any::<u8>()), 1..6),
        cut in 0_usize..4096,
    ) {
        let mut archive = Tar::new().file("dir/file", "content").symlink("link", "dir").bytes();
        for (at, byte) in damage {
            archive[at] = byte;
        }
        archive.truncate(cut);
        let room = Room::new();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let _either_is_fine = runtime.block_on(room.unpack("dest", archive));
        prop_assert!(names(&room.outside()).is_empty());
        prop_assert!(room.names().iter().all(|name| name == "dest"), "{:?}", room.names());
    }
}

/// GNU tar with `--sparse --format=posix` stores a map and what is not a hole, under a name of its own making: written
/// out as it lies there it would be another file than the one that was packed.
#[tokio::test]
async fn sparse_files_of_the_posix_formats_are_reported_and_not_made() {
    let versions: [&[(&str, &[u8])]; 3] = [
        &[("GNU.sparse.size", b"1048576"), ("GNU.sparse.numblocks", b"1")],
        &[("GNU.sparse.map", b"0,1"), ("GNU.sparse.name", b"image")],
        &[
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.name", b"image"),
            ("GNU.sparse.realsize", b"1048576"),
        ],
    ];
    for extensions in versions {
        let room = Room::new();
        let mut tar = Tar::new();
        tar.0.append_pax_extensions(extensions.iter().copied()).unwrap();
        let archive = tar.file("GNUSparseFile.1/image", "1\n0\n1\nx").file("file", "x");
        let done = room.unpack("", archive.bytes()).await.unwrap();
        assert_eq!(paths(&room, &done), ["file"]);
        assert_eq!(room.names(), ["file"]);
        let named = extensions.iter().any(|(key, _)| *key == "GNU.sparse.name");
        let name = if named { "image" } else { "GNUSparseFile.1/image" };
        assert_eq!(done.skipped, [(room.at(name), "a sparse file".to_owned())]);
    }
    let room = Room::new();
    let mut tar = Tar::new();
    let outside: [(&str, &[u8]); 1] = [("GNU.sparse.name", b"../image")];
    tar.0.append_pax_extensions(outside).unwrap();
    let error = room.unpack("", tar.file("file", "x").bytes()).await.unwrap_err();
    assert_eq!(error.code(), Code::Invalid);
}

#[tokio::test]
async fn times_before_1970_are_kept() {
    let room = Room::new();
    let mut header = Header::new_gnu();
    header.set_path("old").unwrap();
    header.set_mode(0o644);
    header.set_size(0);
    header.as_old_mut().mtime = [[0xff; 4].as_slice(), &(-5_i64).to_be_bytes()]
        .concat()
        .try_into()
        .unwrap();
    header.set_cksum();
    let mut tar = Tar::new();
    tar.0.append(&header, std::io::empty()).unwrap();
    room.unpack("", tar.bytes()).await.unwrap();
    assert_eq!(std::fs::metadata(room.at("old")).unwrap().mtime(), -5);
}
