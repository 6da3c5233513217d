//! What work took is given back when it is over.

use serde_json::json;

use crate::harness::{Daemon, PATIENCE, eventually, processes};

const FILES: usize = 20_000;
/// Bytes that may be kept.
const KEPT: u64 = 6 << 20;

#[tokio::test]
async fn what_a_long_answer_took_is_given_back() {
    let daemon = Daemon::start();
    let http = daemon.http();
    let resident = || processes::resident(daemon.pid()).0;
    let body = json!({ "path": "tree", "recursive": true, "limit": 2 * FILES });
    let list = async || http.post("/v1/ops/fs.list", &body).await.json();
    let tree = daemon.workspace().join("tree");
    std::fs::create_dir(&tree).unwrap();
    // The code of a listing is there as well afterwards.
    list().await;
    let before = resident();
    for file in 0..FILES {
        std::fs::write(tree.join(format!("a file with a rather long name {file}")), "").unwrap();
    }
    let answer = list().await;
    assert_eq!(answer["entries"].as_array().unwrap().len(), FILES);
    eventually("memory to be given back", PATIENCE, || {
        (resident() < before + KEPT).then_some(())
    });
}
