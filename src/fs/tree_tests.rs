//! Changing and looking at the tree through the room: list, stat, make, move, remove.

use std::ffi::{OsStr, OsString};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{CWD, Mode, XattrFlags, getxattr, mkfifoat, setxattr};
use rustix::process::geteuid;

use super::Kind;
use super::copy::{Rights, copy_tree};
use super::fixture::{Room, names, write};
use super::path::Place;
use super::temp::{sweep, unguessable_name};
use crate::error::Code;

fn relative(listing: &super::Listing) -> Vec<String> {
    let paths = listing
        .entries
        .iter()
        .map(|entry| entry.path.strip_prefix(&listing.root).unwrap());
    paths.map(|path| path.to_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_listing_is_sorted_by_path_and_follows_nothing() {
    let room = Room::new();
    for path in ["b/two", "b/one", "a.txt", "b.txt", "a/deep/er/file"] {
        let mut request = write(path, "12345");
        request.create_parents = true;
        room.send(request).await.unwrap();
    }
    symlink("b", room.at("link")).unwrap();
    symlink("nowhere", room.at("dangling")).unwrap();
    mkfifoat(CWD, room.at("fifo"), Mode::RWXU).unwrap();
    let flat = room.list("", false).await.unwrap();
    assert_eq!(flat.root, room.root());
    assert_eq!(
        relative(&flat),
        ["a", "a.txt", "b", "b.txt", "dangling", "fifo", "link"]
    );
    let kinds: Vec<_> = flat.entries.iter().map(|entry| entry.kind).collect();
    let (directory, file, link) = (Kind::Directory, Kind::File, Kind::Symlink);
    assert_eq!(kinds, [directory, file, directory, file, link, Kind::Fifo, link]);
    assert_eq!(flat.entries[1].size, 5);
    assert_eq!(flat.entries[6].target.as_deref(), Some(Path::new("b")));
    let deep = room.list("", true).await.unwrap();
    let expected = [
        "a",
        "a/deep",
        "a/deep/er",
        "a/deep/er/file",
        "a.txt",
        "b",
        "b/one",
        "b/two",
        "b.txt",
        "dangling",
        "fifo",
        "link",
    ];
    assert_eq!(relative(&deep), expected);
    assert!(deep.unreadable.is_empty());
    assert_eq!(
        relative(&room.list("link", false).await.unwrap()),
        ["one", "two"],
        "the top may be a link"
    );
    for path in ["a.txt", "fifo", "/dev/zero"] {
        assert_eq!(
            room.list(path, false).await.unwrap_err().errno(),
            Some(libc::ENOTDIR),
            "{path}"
        );
    }
    assert_eq!(
        room.list("missing", false).await.unwrap_err().code(),
        Code::NotFound
    );
}

/// A chain of directories that is deeper than one path may be long.
fn deep_chain(top: &Path, depth: usize) {
    use rustix::fs::{OFlags, mkdirat, openat};
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut at = openat(CWD, top, flags, Mode::empty()).unwrap();
    for _ in 0..depth {
        mkdirat(&at, "directory", Mode::RWXU).unwrap();
        at = openat(&at, "directory", flags, Mode::empty()).unwrap();
    }
    openat(&at, "file", OFlags::CREATE | OFlags::WRONLY, Mode::RWXU).unwrap();
}

#[tokio::test]
async fn trees_deeper_than_a_path_are_listed_and_removed() {
    let room = Room::new();
    std::fs::create_dir(room.at("top")).unwrap();
    deep_chain(&room.at("top"), 500);
    let listing = room.list("top", true).await.unwrap();
    assert_eq!((listing.entries.len(), listing.unreadable.len()), (501, 0));
    room.remove("top", true).await.unwrap();
    assert!(room.names().is_empty());
}

#[tokio::test]
async fn one_unreadable_directory_does_not_fail_a_listing() {
    let room = Room::new();
    std::fs::create_dir_all(room.at("a/closed")).unwrap();
    room.write("a/open", "x").await.unwrap();
    std::fs::set_permissions(room.at("a/closed"), std::fs::Permissions::from_mode(0o000)).unwrap();
    let listing = room.list("", true).await.unwrap();
    assert_eq!(relative(&listing), ["a", "a/closed", "a/open"]);
    // Root reads everything.
    let expected = usize::from(!geteuid().is_root());
    assert_eq!(listing.unreadable.len(), expected, "{:?}", listing.unreadable);
}

#[tokio::test]
async fn stat_tells_what_is_there_without_following() {
    let room = Room::new();
    let mut request = write("file", "1234");
    request.mode = Some(0o640);
    room.send(request).await.unwrap();
    symlink("file", room.at("link")).unwrap();
    let early = SystemTime::UNIX_EPOCH - Duration::from_millis(1500);
    std::fs::File::open(room.at("file"))
        .unwrap()
        .set_modified(early)
        .unwrap();
    let stat = async |path: &str| room.files.stat(room.reach, PathBuf::from(path)).await.unwrap();
    let file = stat("file").await.unwrap();
    assert_eq!(
        (file.kind, file.size, file.mode, file.modified),
        (Kind::File, 4, 0o640, early)
    );
    assert_eq!(
        (file.name(), file.path.clone()),
        (OsStr::new("file"), room.at("file"))
    );
    let link = stat("link").await.unwrap();
    assert_eq!((link.kind, link.target), (Kind::Symlink, Some("file".into())));
    assert_eq!(stat("").await.unwrap().kind, Kind::Directory);
    assert_eq!(stat("/").await.unwrap().name(), "/");
    for missing in ["missing", "missing/x", "file/x"] {
        assert_eq!(stat(missing).await, None, "{missing}");
    }
}

#[tokio::test]
async fn directories_are_made_with_exact_modes() {
    let room = Room::new();
    assert_eq!(
        room.mkdir("one", false, Some(0o1777)).await.unwrap(),
        room.at("one")
    );
    let mode = |path: &str| std::fs::metadata(room.at(path)).unwrap().mode() & 0o7777;
    assert_eq!(mode("one"), 0o1777);
    assert_eq!(
        room.mkdir("one", false, None).await.unwrap_err().code(),
        Code::AlreadyExists
    );
    assert_eq!(
        room.mkdir("a/b", false, None).await.unwrap_err().code(),
        Code::NotFound
    );
    room.mkdir("a/b/../c/d", true, Some(0o700)).await.unwrap();
    assert_eq!(mode("a/c/d"), 0o700);
    std::fs::create_dir(room.at("by-std")).unwrap();
    assert_eq!(mode("a/c"), mode("by-std"), "parents follow the umask");
    room.mkdir("a/c/d", true, Some(0o755)).await.unwrap();
    assert_eq!(mode("a/c/d"), 0o700, "what exists stays as it is");
    room.write("file", "x").await.unwrap();
    assert_eq!(
        room.mkdir("file", true, None).await.unwrap_err().code(),
        Code::WrongKind
    );
    assert_eq!(
        room.mkdir("file/x", true, None).await.unwrap_err().code(),
        Code::WrongKind
    );
    assert_eq!(
        room.mkdir("", false, None).await.unwrap_err().code(),
        Code::AlreadyExists
    );
    room.mkdir("", true, None).await.unwrap();
}

#[tokio::test]
async fn moves_replace_only_when_asked() {
    let room = Room::new();
    for (path, content) in [
        ("a", "A"),
        ("b", "B"),
        ("dir/file", "D"),
        ("full/one", "1"),
        ("full/two", "2"),
    ] {
        let mut request = write(path, content);
        request.create_parents = true;
        room.send(request).await.unwrap();
    }
    let moved = room.rename("a", "c", false).await.unwrap();
    assert_eq!((moved.from, moved.to), (room.at("a"), room.at("c")));
    assert_eq!(
        room.rename("c", "b", false).await.unwrap_err().code(),
        Code::AlreadyExists
    );
    room.rename("c", "b", true).await.unwrap();
    assert_eq!(room.read("b").await.unwrap(), "A");
    assert_eq!(
        room.rename("missing", "x", true).await.unwrap_err().code(),
        Code::NotFound
    );
    assert_eq!(
        room.rename("b", "no/x", true).await.unwrap_err().code(),
        Code::NotFound
    );
    assert_eq!(
        room.rename("dir", "dir/inside", false).await.unwrap_err().code(),
        Code::Invalid
    );
    assert_eq!(
        room.rename("dir", "full", false).await.unwrap_err().code(),
        Code::AlreadyExists
    );
    room.rename("dir", "full", true).await.unwrap();
    assert_eq!(names(&room.at("full")), ["file"]);
    room.rename("b", "full", true).await.unwrap();
    assert_eq!(room.read("full").await.unwrap(), "A", "a file over a directory");
    room.mkdir("new", false, None).await.unwrap();
    room.rename("new", "full", true).await.unwrap();
    assert_eq!(room.names(), ["full"]);
    assert_eq!(
        room.rename("", "x", true).await.unwrap_err().code(),
        Code::Conflict,
        "the workspace root"
    );
}

#[tokio::test]
async fn a_link_is_moved_itself() {
    let room = Room::new();
    symlink("nowhere", room.at("link")).unwrap();
    room.rename("link", "moved", false).await.unwrap();
    assert_eq!(
        std::fs::read_link(room.at("moved")).unwrap(),
        Path::new("nowhere")
    );
}

/// A directory on another file system than the temporary ones.
fn elsewhere(room: &Room) -> tempfile::TempDir {
    let other = tempfile::tempdir_in("/dev/shm").unwrap();
    let device = |path: &Path| std::fs::metadata(path).unwrap().dev();
    assert_ne!(
        device(other.path()),
        device(&room.root()),
        "/dev/shm must be another file system"
    );
    other
}

#[tokio::test]
async fn a_tree_moves_to_another_file_system_as_it_is() {
    let room = Room::new();
    let other = elsewhere(&room);
    std::fs::create_dir_all(room.at("tree/sub/locked")).unwrap();
    std::fs::write(room.at("tree/sub/tool"), "content").unwrap();
    std::fs::set_permissions(room.at("tree/sub/tool"), std::fs::Permissions::from_mode(0o4750)).unwrap();
    setxattr(room.at("tree/sub/tool"), "user.origin", b"x", XattrFlags::empty()).unwrap();
    std::fs::hard_link(room.at("tree/sub/tool"), room.at("tree/again")).unwrap();
    symlink("sub/tool", room.at("tree/link")).unwrap();
    mkfifoat(CWD, room.at("tree/fifo"), Mode::RUSR).unwrap();
    let strange = OsStr::from_bytes(b"\xff\nname");
    std::fs::write(room.at("tree").join(strange), "strange").unwrap();
    let sparse = std::fs::File::create(room.at("tree/sparse")).unwrap();
    sparse.set_len(64 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"end", (64 << 20) - 3).unwrap();
    let early = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
    std::fs::File::open(room.at("tree/sub/tool"))
        .unwrap()
        .set_modified(early)
        .unwrap();
    std::fs::set_permissions(room.at("tree/sub/locked"), std::fs::Permissions::from_mode(0o500)).unwrap();
    std::fs::File::open(room.at("tree/sub"))
        .unwrap()
        .set_modified(early)
        .unwrap();

    let to = other.path().join("moved");
    room.rename("tree", &to, false).await.unwrap();
    assert!(room.names().is_empty());
    assert_eq!(names(other.path()), ["moved"]);
    let tool = std::fs::metadata(to.join("sub/tool")).unwrap();
    assert_eq!(
        (tool.mode() & 0o7777, tool.modified().unwrap(), tool.nlink()),
        (0o4750, early, 2)
    );
    assert_eq!(
        std::fs::metadata(to.join("sub")).unwrap().modified().unwrap(),
        early
    );
    assert_eq!(
        std::fs::metadata(to.join("sub/locked")).unwrap().mode() & 0o7777,
        0o500
    );
    assert_eq!(std::fs::metadata(to.join("again")).unwrap().ino(), tool.ino());
    assert_eq!(
        std::fs::read_link(to.join("link")).unwrap(),
        Path::new("sub/tool")
    );
    assert_eq!(std::fs::read(to.join(strange)).unwrap(), b"strange");
    let mut value = [0; 8];
    assert_eq!(
        getxattr(to.join("sub/tool"), "user.origin", &mut value).unwrap(),
        1
    );
    let sparse = std::fs::metadata(to.join("sparse")).unwrap();
    assert_eq!(sparse.len(), 64 << 20);
    assert!(
        sparse.blocks() * 512 < 1 << 20,
        "holes stay holes: {} blocks",
        sparse.blocks()
    );
}

#[tokio::test]
async fn a_move_to_another_file_system_replaces_only_when_asked() {
    let room = Room::new();
    let other = elsewhere(&room);
    let to = other.path().join("file");
    std::fs::write(&to, "theirs").unwrap();
    room.write("file", "ours").await.unwrap();
    assert_eq!(
        room.rename("file", &to, false).await.unwrap_err().code(),
        Code::AlreadyExists
    );
    assert_eq!(names(other.path()), ["file"]);
    room.rename("file", &to, true).await.unwrap();
    assert_eq!(std::fs::read(&to).unwrap(), b"ours");
    std::fs::create_dir_all(room.at("dir/sub")).unwrap();
    room.rename("dir", &to, true).await.unwrap();
    assert_eq!(names(&to), ["sub"]);
    assert_eq!(names(other.path()), ["file"]);
    assert!(room.names().is_empty());
}

#[tokio::test]
async fn removing_takes_links_and_not_what_they_point_at() {
    let room = Room::new();
    std::fs::create_dir_all(room.at("tree/sub")).unwrap();
    std::fs::write(room.outside().join("kept"), "x").unwrap();
    std::fs::write(room.at("tree/sub/file"), "x").unwrap();
    symlink(room.outside(), room.at("tree/sub/link")).unwrap();
    symlink(room.outside(), room.at("link")).unwrap();
    let error = room.remove("tree", false).await.unwrap_err();
    assert_eq!(
        (error.code(), error.errno()),
        (Code::Conflict, Some(libc::ENOTEMPTY))
    );
    assert_eq!(room.remove("tree", true).await.unwrap(), room.at("tree"));
    room.remove("link", true).await.unwrap();
    assert_eq!(names(&room.outside()), ["kept"]);
    assert_eq!(
        room.remove("missing", true).await.unwrap_err().code(),
        Code::NotFound
    );
    assert_eq!(
        room.remove("missing/deep", true).await.unwrap_err().code(),
        Code::NotFound
    );
    room.mkdir("empty", false, None).await.unwrap();
    room.remove("empty", false).await.unwrap();
    assert!(room.names().is_empty());
}

#[tokio::test]
async fn the_workspace_root_and_what_holds_it_stay() {
    let room = Room::new();
    std::fs::create_dir(room.at("sub")).unwrap();
    symlink(room.root(), room.outside().join("alias")).unwrap();
    for path in [
        PathBuf::new(),
        "/".into(),
        ".".into(),
        room.root(),
        "sub/..".into(),
        room.root().join(".."),
    ] {
        let error = room.remove(&path, true).await.unwrap_err();
        assert_eq!(error.code(), Code::Conflict, "{path:?}: {error}");
    }
    let parent = room.root().parent().unwrap().to_owned();
    assert_eq!(
        room.remove(parent, true).await.unwrap_err().code(),
        Code::Conflict
    );
    assert!(room.at("sub").exists());
}

#[tokio::test]
async fn nothing_is_moved_over_what_holds_the_workspace_root() {
    let room = Room::new();
    let holder = room.root().parent().unwrap().to_owned();
    let beside = tempfile::tempdir_in(holder.parent().unwrap()).unwrap();
    std::fs::write(beside.path().join("file"), "x").unwrap();
    std::fs::write(room.at("kept"), "x").unwrap();
    for from in [beside.path().to_owned(), beside.path().join("file")] {
        for to in [room.root(), holder.clone()] {
            let error = room.rename(&from, &to, true).await.unwrap_err();
            assert_eq!(error.code(), Code::Conflict, "{from:?} over {to:?}: {error}");
            assert!(from.exists() && room.at("kept").exists(), "{from:?} over {to:?}");
        }
    }
}

#[test]
fn the_sweep_leaves_a_copy_alone_that_waits_for_its_name() {
    let room = Room::new();
    std::fs::write(room.at("file"), "content").unwrap();
    std::fs::create_dir_all(room.at("tree/deep")).unwrap();
    std::fs::write(room.at("tree/deep/file"), "content").unwrap();
    let directory = std::sync::Arc::new(std::fs::File::open(room.root()).unwrap().into());
    let place = |name: OsString| Place {
        directory: std::sync::Arc::clone(&directory),
        absolute: room.at(&name),
        name,
    };
    for (name, below) in [("file", ""), ("tree", "deep/file")] {
        let hidden = place(unguessable_name());
        let copied = copy_tree(&place(name.into()), &hidden, Rights::Kept).unwrap();
        sweep(directory.as_fd()).unwrap();
        let content = std::fs::read(if below.is_empty() {
            hidden.absolute.clone()
        } else {
            hidden.absolute.join(below)
        });
        assert_eq!(content.unwrap(), b"content", "{name}");
        drop(copied);
        sweep(directory.as_fd()).unwrap();
        assert_eq!(room.names(), ["file", "tree"], "one that nobody holds is litter");
        assert_eq!(std::fs::read(room.at("tree/deep/file")).unwrap(), b"content");
    }
}
