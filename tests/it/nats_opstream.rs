//! Streamed operations over NATS: every byte once, whatever happens to the connection.

use boxd::wire::proto::control_request::Op;
use boxd::wire::proto::op_start::Op as StartOp;
use boxd::wire::proto::{ExecRequest, OpQuery, OpStart, OpState};

use crate::harness::Ways;
use crate::harness::op::{OpClient, status};

fn shell(line: &str) -> OpStart {
    OpStart {
        op: Some(StartOp::Exec(ExecRequest {
            command: vec![line.to_owned()],
            shell: true,
            ..ExecRequest::default()
        })),
        ..OpStart::default()
    }
}

#[tokio::test]
async fn a_command_says_all_it_printed_and_how_it_ended() {
    let ways = Ways::start().await;
    let (started, mut client) =
        OpClient::start(&ways.control, "first", shell("echo out; echo err >&2; exit 3")).await;
    assert!(started.accepted);
    let said = client.finish().await;
    assert_eq!(
        (&said.stdout[..], &said.stderr[..]),
        (&b"out\n"[..], &b"err\n"[..])
    );
    let exit = said.exit.unwrap();
    assert_eq!(exit.exit_code, 3);
    assert_eq!(exit.totals["stdout"], 4);
    assert_eq!(exit.digests["stdout"], blake3::hash(b"out\n").to_hex().as_str());
    let query = OpQuery {
        op_id: "first".into(),
    };
    let state = status(ways.control.ask(Op::OpQuery(query)).await.result);
    assert_eq!(state.state(), OpState::Complete);
    assert_eq!(state.next_seq, client.seen + 1);
}

#[tokio::test]
async fn output_beyond_the_window_arrives_whole_as_it_is_acknowledged() {
    let ways = Ways::start().await;
    let start = OpStart {
        window_bytes: 300_000,
        ..shell("seq 1 1000000")
    };
    let (_, mut client) = OpClient::start(&ways.control, "long", start).await;
    let said = client.finish().await;
    let exit = said.exit.unwrap();
    assert_eq!(
        exit.digests["stdout"],
        blake3::hash(&said.stdout).to_hex().as_str()
    );
    assert_eq!(said.stdout.len(), 6_888_896);
}
