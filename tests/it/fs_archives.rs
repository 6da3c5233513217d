//! Archives that are to cost more than they are worth: a million entries, and bombs.

use std::io::Write;
use std::time::{Duration, Instant};

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http_body_util::Full;
use hyper::Method;
use serde_json::json;

use crate::harness::{Answer, Daemon, Http, processes};

/// The header of an entry (POSIX.1-1988 ustar); a size that does not fit is binary, as GNU tar writes it.
fn header(name: &str, kind: u8, size: u64) -> [u8; 512] {
    let mut header = [0; 512];
    header[..name.len()].copy_from_slice(name.as_bytes());
    header[100..107].copy_from_slice(b"0000644");
    match format!("{size:011o}").as_bytes() {
        digits if digits.len() == 11 => header[124..135].copy_from_slice(digits),
        _ => {
            header[124] = 0x80;
            header[128..136].copy_from_slice(&size.to_be_bytes());
        }
    }
    header[136..147].copy_from_slice(b"00000000000");
    header[156] = kind;
    header[257..265].copy_from_slice(b"ustar\x0000");
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    header
}

/// A part of a compressed archive: several in a row are the archive.
fn zipped(part: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(part).unwrap();
    encoder.finish().unwrap()
}

async fn unpack(http: &Http, path: &str, archive: Vec<u8>) -> Answer {
    let request = http.request(Method::POST, &format!("/v1/fs/upload-batch?path={path}"));
    let body = Full::new(Bytes::from(archive));
    http.send(
        request
            .header("content-type", "application/x-tar")
            .body(body)
            .unwrap(),
    )
    .await
}

/// A million entries that are no files, so that the disk is not what is measured.
#[tokio::test]
async fn a_million_entries_cost_little() {
    let daemon = Daemon::start();
    let http = daemon.http();
    let thousand: Vec<u8> = (0..1000)
        .flat_map(|number| header(&format!("fifo {number}"), b'6', 0))
        .collect();
    let million = zipped(&thousand).repeat(1000);
    let began = Instant::now();
    let answer = unpack(&http, "fits", million).await;
    let took = began.elapsed();
    println!("a million entries took {took:?}");
    assert_eq!(answer.status, 200, "{}", answer.text());
    let answer = answer.json();
    assert_eq!(
        (&answer["paths"], &answer["truncated"]),
        (&json!([]), &json!(true))
    );
    assert_eq!(answer["skipped"].as_array().unwrap().len(), 1024);
    assert!(took < Duration::from_secs(60), "{took:?}");
    let (_, peak) = processes::resident(daemon.pid());
    assert!(peak < 128 << 20, "{peak} bytes");
}

/// A small archive that says that it is too large is believed at once; one that is larger than the disk ends there, and
/// leaves nothing half written.
#[tokio::test]
async fn a_bomb_is_refused_or_ends_with_the_disk() {
    let mount = "mkdir \"$WORKSPACE/small\"; mount -t tmpfs -o size=4m,mode=755 tmpfs \"$WORKSPACE/small\"";
    let daemon = Daemon::builder().namespace(mount).start();
    let http = daemon.http();
    let zeros = zipped(&vec![0; 1 << 20]);
    let mut bomb = zipped(&header("first", b'0', 0));
    bomb.extend(zipped(&header("bomb", b'0', 65 << 30)));
    bomb.extend(zeros.repeat(100));
    let problem = unpack(&http, "small/refused", bomb)
        .await
        .problem(413, "too_large");
    assert!(problem.to_string().contains("68719476736"), "{problem}");

    let mut large = zipped(&header("first", b'0', 0));
    large.extend(zipped(&header("bomb", b'0', 100 << 20)));
    large.extend(zeros.repeat(100));
    let began = Instant::now();
    let problem = unpack(&http, "small/large", large)
        .await
        .problem(507, "storage_full");
    println!("a bomb took {:?}", began.elapsed());
    assert!(problem.to_string().contains("bomb"), "{problem}");
    let entries = http.get("/v1/fs/entries?path=small&recursive=true").await.json();
    let names: Vec<_> = entries
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["large", "first"], "what came before stays, and no half");
    assert_eq!(
        http.put("/v1/fs/file?path=small/new", vec![b'n'; 3 << 20])
            .await
            .status,
        200,
        "the space is free again"
    );
    let (_, peak) = processes::resident(daemon.pid());
    assert!(peak < 128 << 20, "{peak} bytes");
}
