//! The row of the relay: frames of a terminal's size from one `WebSocket` to another, beside a loop that only hands them on.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use boxd::wire::proto::{StreamChannel, StreamFrame, StreamOpen, StreamRole};
use boxd::wire::relay::Message;
use boxd::wire::relay_token::{Mode, ProducerClaims, ViewerClaims, mint};
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Message as Packet;
use tokio_tungstenite::{WebSocketStream, accept_async, client_async};

use crate::guest::Lab;
use crate::table::{Bar, Row, Table, Unit, interleave};

const FRAME: usize = 8 * 1024;
const FRAMES: u64 = 16 * 1024;
const ROUNDS: usize = 3;
/// What the relay under measurement signs with.
pub(crate) const SECRET: &str = "a bench";

type Socket = WebSocketStream<TcpStream>;

/// Measures the row.
///
/// # Errors
/// The relay did not start, or refused.
pub(crate) async fn rows(lab: &Lab, table: &mut Table) -> Result<()> {
    let (_relay, port) = lab.relay().await?;
    let mut channel = 0;
    let ours = async || {
        channel += 1;
        through_ours(port, &format!("c{channel}")).await
    };
    let rounds = interleave(ROUNDS, through_bare, ours).await?;
    table.add(Row::of(
        "relay splice, one channel",
        &rounds,
        Unit::MegabytesPerSecond,
        Bar::NotUnder(0.7),
    ));
    Ok(())
}

async fn dial(port: u16, query: &str) -> Result<Socket> {
    let stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.set_nodelay(true)?;
    Ok(
        client_async(format!("ws://127.0.0.1:{port}/stream?{query}"), stream)
            .await?
            .0,
    )
}

fn frame(channel: &str, seq: u64, data: &Bytes) -> Packet {
    let frame = Message::Frame(StreamFrame {
        channel_id: channel.to_owned(),
        seq,
        data: data.clone(),
        produced_at_ms: 0,
    });
    Packet::Binary(frame.encode())
}

/// Sends all frames into one end and takes them out of the other: MB/s.
async fn measure(channel: &str, mut producer: Socket, mut viewer: Socket) -> Result<f64> {
    let data = Bytes::from(vec![b'x'; FRAME]);
    let start = Instant::now();
    let sending = async {
        for seq in 0..FRAMES {
            producer.feed(frame(channel, seq, &data)).await?;
        }
        producer.flush().await?;
        anyhow::Ok(())
    };
    let taking = async {
        let mut frames = 0;
        while frames < FRAMES {
            let next = tokio::time::timeout(Duration::from_secs(20), viewer.next()).await?;
            match next.context("the socket was closed")?? {
                Packet::Binary(bytes) => {
                    ensure!(bytes.len() > FRAME, "a short frame");
                    frames += 1;
                }
                Packet::Close(_) => bail!("the socket was closed"),
                _ => {}
            }
        }
        anyhow::Ok(())
    };
    let (sent, taken) = tokio::join!(sending, taking);
    sent.and(taken)?;
    Ok((FRAMES as usize * FRAME) as f64 / 1e6 / start.elapsed().as_secs_f64())
}

async fn through_ours(port: u16, channel: &str) -> Result<f64> {
    let query = format!("ws=w&agent=a&port=7681&channel={channel}");
    let producer = ProducerClaims {
        workspace_id: "w".into(),
        agent_id: "a".into(),
        exp: u64::MAX,
    };
    let viewer = ViewerClaims {
        workspace_id: "w".into(),
        agent_id: None,
        session_id: "s".into(),
        viewer_id: "v".into(),
        lease_epoch: 0,
        mode: Mode::Control,
        port: 7681,
        exp: u64::MAX,
    };
    let tokens = [
        (StreamRole::Agent, mint(&producer, SECRET.as_bytes())?),
        (StreamRole::Client, mint(&viewer, SECRET.as_bytes())?),
    ];
    let mut ends = Vec::new();
    for (role, token) in tokens {
        let mut socket = dial(port, &query).await?;
        let open = Message::Open(StreamOpen {
            channel: Some(StreamChannel {
                channel_id: channel.to_owned(),
                workspace_id: "w".into(),
                agent_id: "a".into(),
                port: 7681,
                ..StreamChannel::default()
            }),
            token,
            role: role.into(),
            resume_from_seq: 0,
        });
        socket.send(Packet::Binary(open.encode())).await?;
        let ack = socket.next().await.context("no answer to StreamOpen")??;
        let Message::OpenAck(ack) = Message::decode(ack.into_data())? else {
            bail!("another answer to StreamOpen");
        };
        ensure!(ack.accepted, "the relay refuses: {:?}", ack.error);
        ends.push(socket);
    }
    let viewer = ends.pop().context("a viewer")?;
    let producer = ends.pop().context("a producer")?;
    measure(channel, producer, viewer).await
}

/// A thread that hands messages from its first connection to its second.
async fn through_bare() -> Result<f64> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    let port = listener.local_addr()?.port();
    let server = std::thread::spawn(move || -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async move {
            let listener = TcpListener::from_std(listener)?;
            let mut ends = Vec::new();
            for _ in 0..2 {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                ends.push(accept_async(stream).await?);
            }
            let mut to = ends.pop().context("a second end")?;
            let mut from = ends.pop().context("a first end")?;
            while let Some(Ok(message @ Packet::Binary(_))) = from.next().await {
                to.send(message).await?;
            }
            Ok(())
        })
    });
    let producer = dial(port, "").await?;
    let viewer = dial(port, "").await?;
    let measured = measure("c", producer, viewer).await?;
    ensure!(
        server.join().is_ok_and(|served| served.is_ok()),
        "the bare pump failed"
    );
    Ok(measured)
}
