//! Writing through the room.

use super::fixture::{Room, pieces, write};

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
