//! How links prove who they are and whom they trust: TLS, web sockets, `.creds` files and what happens when one runs
//! out.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use boxd::wire::proto::PingRequest;
use boxd::wire::proto::control_request::Op;
use nkeys::KeyPair;
use serde_json::{Value, json};

use crate::harness::certificates::certificates;
use crate::harness::{Connection, ControlPlane, Daemon, NatsServer};

#[tokio::test]
async fn tls_is_spoken_with_brokers_that_the_machine_trusts_and_no_others() {
    let directory = tempfile::tempdir().unwrap();
    certificates(directory.path());
    let file = |name: &str| directory.path().join(name);
    let (cert, key) = (file("cert.pem"), file("key.pem"));
    let tls = format!("tls {{ cert_file: {cert:?}, key_file: {key:?} }}");
    let broker = NatsServer::builder().settings(&tls).start();
    let mut link = Connection::to(&broker.url().replace("nats://", "tls://"));
    let trusting = Daemon::builder()
        .environment("SSL_CERT_FILE", file("ca.pem"))
        .connection(&link)
        .start();
    assert_eq!(trusting.ready["links"][0]["state"], "connected");
    let options = async_nats::ConnectOptions::new().add_root_certificates(file("ca.pem"));
    let plane = ControlPlane::connect_with(options, &link).await;
    assert_eq!(plane.ask(Op::Ping(PingRequest::default())).await.error, None);

    link.agent_id = uuid::Uuid::new_v4().to_string();
    let strict = Daemon::builder().connection(&link).start();
    assert_eq!(strict.ready["links"][0]["state"], "waiting");
    assert!(strict.log().contains("cannot be reached"));
}

#[tokio::test]
async fn websockets_carry_a_link() {
    let broker = NatsServer::builder()
        .settings("websocket { host: \"127.0.0.1\", port: -1, no_tls: true }")
        .start();
    let link = Connection::to(&broker.url());
    let mut over_websocket = link.clone();
    over_websocket.urls = vec![broker.websocket_url()];
    let daemon = Daemon::builder().connection(&over_websocket).start();
    assert_eq!(daemon.ready["links"][0]["state"], "connected");
    let plane = ControlPlane::connect(&link).await;
    assert_eq!(plane.ask(Op::Ping(PingRequest::default())).await.error, None);
}

/// A NATS operator with one account, as the server's settings want them.
struct Operator {
    key: KeyPair,
    account: KeyPair,
}

impl Operator {
    fn new() -> Self {
        Self {
            key: KeyPair::new_operator(),
            account: KeyPair::new_account(),
        }
    }

    fn settings(&self) -> String {
        let operator = token(
            &self.key,
            &self.key.public_key(),
            &json!({"type": "operator", "version": 2}),
            None,
        );
        let limits = json!({"subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true,
            "conn": -1, "leaf": -1});
        let claims = json!({"type": "account", "version": 2, "limits": limits});
        let account = token(&self.key, &self.account.public_key(), &claims, None);
        let name = self.account.public_key();
        format!("operator: {operator}\nresolver: MEMORY\nresolver_preload: {{ {name}: {account} }}")
    }

    /// The text of a `.creds` file that is good for so long.
    fn creds(&self, lifetime: Duration) -> String {
        let user = KeyPair::new_user();
        let claims = json!({"type": "user", "version": 2, "pub": {}, "sub": {}, "subs": -1, "data": -1, "payload": -1});
        let jwt = token(&self.account, &user.public_key(), &claims, Some(lifetime));
        format!(
            "-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n\
             -----BEGIN USER NKEY SEED-----\n{}\n------END USER NKEY SEED------\n",
            user.seed().unwrap()
        )
    }
}

fn token(issuer: &KeyPair, subject: &str, claims: &Value, lifetime: Option<Duration>) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let mut body = json!({"jti": uuid::Uuid::new_v4().to_string(), "iat": now.as_secs(), "iss": issuer.public_key(),
        "sub": subject, "name": "test", "nats": claims});
    if let Some(lifetime) = lifetime {
        body["exp"] = (now + lifetime).as_secs().into();
    }
    let encode = |part: &Value| URL_SAFE_NO_PAD.encode(part.to_string());
    let signed = format!(
        "{}.{}",
        encode(&json!({"typ": "JWT", "alg": "ed25519-nkey"})),
        encode(&body)
    );
    let signature = URL_SAFE_NO_PAD.encode(issuer.sign(signed.as_bytes()).unwrap());
    format!("{signed}.{signature}")
}

#[tokio::test]
async fn a_credential_that_runs_out_is_replaced_at_once_by_the_one_in_the_file() {
    let operator = Operator::new();
    let broker = NatsServer::builder().settings(&operator.settings()).start();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("box.creds");
    let day = Duration::from_secs(86_400);
    std::fs::write(&file, operator.creds(Duration::from_secs(4))).unwrap();
    let link = Connection::to(&broker.url());
    let options = async_nats::ConnectOptions::with_credentials(&operator.creds(day)).unwrap();
    let plane = ControlPlane::connect_with(options, &link).await;
    let mut hellos = plane.hellos().await;
    let begin = Instant::now();
    let daemon = Daemon::builder()
        .argument("--nats-url")
        .argument(broker.url())
        .argument("--workspace-id")
        .argument(link.workspace_id.as_str())
        .argument("--agent-id")
        .argument(link.agent_id.as_str())
        .argument("--nats-creds")
        .argument(&file)
        .start();
    assert_eq!(daemon.ready["links"][0]["state"], "connected");
    hellos.next().await;
    std::fs::write(&file, operator.creds(day)).unwrap();
    hellos.next_within(Duration::from_secs(8)).await;
    // Four seconds of life, rounded down to whole ones, and no backoff after them.
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    assert!(daemon.log().contains("Expired"), "the reason was not understood");
    assert_eq!(plane.ask(Op::Ping(PingRequest::default())).await.error, None);
}
