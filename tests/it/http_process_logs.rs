//! What a process wrote, in every form, and what is said of what is left out.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hyper::header::ACCEPT;
use serde_json::{Value, json};

use crate::harness::Daemon;
use crate::harness::http::Http;
use crate::http_process_life::{ended, made, made_of};

/// The log of a process by a query.
async fn logs(http: &Http, id: &str, query: &str) -> crate::harness::Answer {
    http.get(&format!("/v1/processes/{id}/logs?{query}")).await
}

/// The bytes of all entries.
pub(crate) fn bytes(entries: &Value) -> Vec<u8> {
    let entries = entries.as_array().unwrap().iter();
    let data = entries.map(|entry| BASE64.decode(entry["data"].as_str().unwrap()).unwrap());
    data.collect::<Vec<_>>().concat()
}

#[tokio::test]
async fn bytes_come_back_as_they_are() {
    let daemon = Daemon::start();
    let http = daemon.http();
    // Every byte there is, and a character that is written in two halves.
    let line = r"for i in $(seq 0 255); do printf \\$(printf %o $i); done; printf '\342\202'; sleep 0.05; printf '\254\n'";
    let id = made(&http, line).await;
    ended(&http, &id).await;
    let mut expected: Vec<u8> = (0..=255).collect();
    expected.extend_from_slice("€\n".as_bytes());
    let raw = logs(&http, &id, "format=raw").await;
    assert_eq!(raw.body, expected);
    assert_eq!(raw.header("content-type"), "application/octet-stream");
    let entries = logs(&http, &id, "").await.json()["entries"].clone();
    assert_eq!(bytes(&entries), expected);
    let text = logs(&http, &id, "format=text").await;
    assert!(text.header("content-type").starts_with("text/plain"));
    assert!(text.text().ends_with("€\n"), "{}", text.text());
    let ndjson = logs(&http, &id, "format=ndjson").await.text();
    let events: Vec<Value> = ndjson
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let (last, events) = events.split_last().unwrap();
    assert_eq!(last["type"], "end", "{last}");
    assert!(events.iter().all(|event| event["type"] == "log"));
    assert_eq!(bytes(&json!(events)), expected);
    let request = http
        .request(hyper::Method::GET, &format!("/v1/processes/{id}/logs"))
        .header(ACCEPT, "application/x-ndjson");
    let same = http
        .send(request.body(http_body_util::Full::default()).unwrap())
        .await;
    assert_eq!(same.text(), ndjson);
}

#[tokio::test]
async fn lines_are_chosen_and_what_is_left_out_is_told() {
    let daemon = Daemon::start();
    let http = daemon.http();
    let id = made(&http, "seq 1 1000; printf '10%%\\r\\033[31m100%%\\033[0m\\nlast'").await;
    ended(&http, &id).await;
    let text = async |query: &str| {
        let answer = logs(&http, &id, &format!("format=text&{query}")).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.text()
    };
    assert_eq!(text("lines=10-12").await, "10\n11\n12\n");
    assert_eq!(text("lines=-2").await, "1\n2\n");
    assert_eq!(text("tail=1&lines=1002-").await, "last\n");
    assert_eq!(text("collapse=true&lines=1001-1001").await, "100%\n");
    assert_eq!(text("lines=1001-1001").await, "10%\r\u{1b}[31m100%\u{1b}[0m\n");
    assert_eq!(
        text("grep=%5E5%5B05%5D0%24&context=1").await,
        "499-499\n500:500\n501-501\n--\n549-549\n550:550\n551-551\n"
    );
    let head = text("head=2").await;
    assert!(head.starts_with("1\n2\n[... 1000 lines ("), "{head}");
    // What is left out is read by the query that is told, and then everything is there.
    let query = head
        .split_once("/logs?")
        .and_then(|(_, rest)| rest.split_once(" reads"))
        .unwrap();
    let rest = logs(&http, &id, query.0).await.text();
    assert!(rest.starts_with("3\n") && rest.ends_with("\nlast\n") && rest.lines().count() == 1000);
    let tail = text("tail=2").await;
    assert!(
        tail.starts_with("[... 1000 lines (") && tail.ends_with("\nlast\n"),
        "{tail}"
    );
    let both = text("maxBytes=100").await;
    assert!(
        both.starts_with("1\n2\n") && both.ends_with("\nlast\n") && both.contains("left out"),
        "{both}"
    );
    for (query, field) in [
        ("format=text&grep=(", "grep"),
        ("format=text&lines=0-1", "lines"),
        ("format=text&context=1", "context"),
        ("format=text&maxBytes=0", "maxBytes"),
        ("format=text&tail=0", "tail"),
        ("format=xml", "format"),
        ("head=0", "head"),
        ("tail=-1", "tail"),
        ("since=99999", "since"),
        ("grep=x", "grep"),
        ("collapse=perhaps", "collapse"),
        ("follow=true&head=1", "head"),
        ("follow=true&format=raw", "format"),
    ] {
        let problem = logs(&http, &id, query).await.problem(400, "invalid_request");
        assert_eq!(problem["details"]["field"], field, "{query}: {problem}");
    }
}

#[tokio::test]
async fn entries_that_a_limit_leaves_out_are_told() {
    let daemon = Daemon::start();
    let http = daemon.http();
    let id = made(&http, "for i in 1 2 3 4 5 6; do echo $i; sleep 0.03; done").await;
    ended(&http, &id).await;
    let all = logs(&http, &id, "").await.json();
    let count = all["entries"].as_array().unwrap().len();
    assert!(count >= 3 && all.get("leftOut").is_none(), "{all}");
    let (first, last) = (
        logs(&http, &id, "head=1").await.json(),
        logs(&http, &id, "tail=1").await.json(),
    );
    for (part, other) in [(&first, &all["entries"][0]), (&last, &all["entries"][count - 1])] {
        assert_eq!(part["entries"], json!([other]));
        let left = &part["leftOut"][0];
        assert_eq!(left["entries"], count - 1, "{part}");
        let rest = logs(&http, &id, left["query"].as_str().unwrap()).await.json();
        assert_eq!(rest["entries"].as_array().unwrap().len(), count - 1);
        assert_eq!(left["bytes"], bytes(&rest["entries"]).len(), "{part}");
    }
    let few = logs(&http, &id, "maxBytes=3").await.json();
    assert_eq!(few["entries"], json!([all["entries"][0]]));
}

#[tokio::test]
async fn what_was_dropped_is_said_exactly() {
    let daemon = Daemon::start();
    let http = daemon.http();
    let asked = json!({ "command": "seq 1 1000000", "shell": true, "retention": { "bytes": 100_000 } });
    let id = made_of(&http, &asked).await;
    let info = ended(&http, &id).await;
    let written: Vec<_> = (1..=1_000_000).map(|number| format!("{number}\n")).collect();
    let written = written.concat();
    assert_eq!(info["channels"]["stdout"]["bytes"], written.len());
    let page = logs(&http, &id, "").await.json();
    let kept = bytes(&page["entries"]);
    assert!(kept.len() <= 100_000 && written.as_bytes().ends_with(&kept));
    let gap = &page["gaps"][0];
    assert_eq!(gap["bytes"], written.len() - kept.len(), "{gap}");
    assert_eq!(
        (&gap["stream"], &gap["from"], gap["to"].as_u64().unwrap() + 1),
        (
            &json!("stdout"),
            &json!(1),
            page["entries"][0]["sequence"].as_u64().unwrap()
        )
    );
    let raw = logs(&http, &id, "format=raw").await;
    assert_eq!(raw.body, kept);
    assert_eq!(
        raw.header("x-omitted-bytes"),
        (written.len() - kept.len()).to_string()
    );
    let text = logs(&http, &id, "format=text&head=1").await.text();
    assert!(
        text.starts_with("[... ") && text.contains("bytes of stdout are not kept"),
        "{text}"
    );
}
