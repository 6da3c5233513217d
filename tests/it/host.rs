//! Figures of the machine through the doors, and GPUs where `nvidia-smi` answers.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use boxd::wire::proto::MetricsRequest;
use boxd::wire::proto::control_request::Op;
use boxd::wire::proto::control_response::Result as Outcome;

use crate::harness::{Connection, ControlPlane, Daemon, NatsServer, PATIENCE};

#[tokio::test]
async fn gpus_are_listed_where_the_driver_answers() {
    let broker = NatsServer::start();
    let link = Connection::to(&broker.url());
    let tools = tempfile::tempdir().unwrap();
    let program = tools.path().join("nvidia-smi");
    let script =
        "#!/bin/sh\n[ \"$LC_ALL\" = C ] && [ \"$#\" = 2 ] || exit 1\necho 'NVIDIA L4, 37, 1024, 23034'\n";
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", tools.path().display(), std::env::var("PATH").unwrap());
    let _daemon = Daemon::builder()
        .environment("PATH", path)
        .connection(&link)
        .start();
    let control = ControlPlane::connect(&link).await;
    let gpus = tokio::time::timeout(PATIENCE, async {
        loop {
            let response = control.ask(Op::Metrics(MetricsRequest {})).await;
            let Some(Outcome::Metrics(sample)) = response.result else {
                panic!("{response:?}")
            };
            if !sample.gpus.is_empty() {
                return sample.gpus;
            }
            // The next sample takes the figures in.
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    let gpus = gpus.await.expect("the GPU is in a sample");
    assert_eq!((gpus.len(), gpus[0].name.as_str()), (1, "NVIDIA L4"));
    assert_eq!(
        (gpus[0].mem_used_bytes, gpus[0].mem_total_bytes),
        (1 << 30, 23034 << 20)
    );
}

#[tokio::test]
async fn both_doors_answer_the_same_figures() {
    let broker = NatsServer::start();
    let (daemon, link) = Daemon::linked(&broker);
    let control = ControlPlane::connect(&link).await;
    let response = control.ask(Op::Metrics(MetricsRequest {})).await;
    let Some(Outcome::Metrics(wire)) = response.result else {
        panic!("{response:?}")
    };
    let page = daemon.http().get("/v1/metrics").await.json();
    assert!(
        wire.mem_total_bytes > 0 && wire.disk_total_bytes > 0 && wire.run_queue >= 0.0,
        "{wire:?}"
    );
    assert_eq!(page["memTotalBytes"], wire.mem_total_bytes, "{page}");
    assert_eq!(page["diskTotalBytes"], wire.disk_total_bytes, "{page}");
}
