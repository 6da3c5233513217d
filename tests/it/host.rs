//! Figures of the machine through the doors, and GPUs where `nvidia-smi` answers.

use std::path::PathBuf;
use std::time::Duration;

use boxd::wire::proto::MetricsRequest;
use boxd::wire::proto::agent_event::Event;
use boxd::wire::proto::control_request::Op;
use boxd::wire::proto::control_response::Result as Outcome;

use crate::harness::{Connection, ControlPlane, Daemon, NatsServer, PATIENCE, write_program};

#[tokio::test]
async fn gpus_are_listed_where_the_driver_answers() {
    let broker = NatsServer::start();
    let link = Connection::to(&broker.url());
    let tools = tempfile::tempdir().unwrap();
    let program = tools.path().join("nvidia-smi");
    let script =
        "#!/bin/sh\n[ \"$LC_ALL\" = C ] && [ \"$#\" = 2 ] || exit 1\necho 'NVIDIA L4, 37, 1024, 23034'\n";
    write_program(&program, script);
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

/// A cgroup of this test's own below that of the test itself, and the shell line that sets 512 MiB and enters it;
/// `None` where the machine lets nobody make one.
fn own_cgroup() -> Option<(Leaf, String)> {
    let text = std::fs::read_to_string("/proc/self/cgroup").unwrap();
    let path_of = |wanted: &str| {
        text.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            (fields.next()? == wanted).then(|| fields.next()).flatten()
        })
    };
    let places = [
        ("memory", "/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
        ("", "/sys/fs/cgroup", "memory.max"),
    ];
    for (controller, mount, file) in places {
        let Some(path) = path_of(controller) else { continue };
        let leaf = PathBuf::from(format!("{mount}{path}/boxd-test-{}", uuid::Uuid::new_v4()));
        if std::fs::create_dir(&leaf).is_err() {
            continue;
        }
        let leaf = Leaf(leaf);
        if leaf.0.join(file).exists() {
            let directory = leaf.0.display();
            let line = format!("echo 536870912 > {directory}/{file}; echo $$ > {directory}/cgroup.procs");
            return Some((leaf, line));
        }
    }
    None
}

/// Removed when the processes in it are gone.
struct Leaf(PathBuf);

impl Drop for Leaf {
    fn drop(&mut self) {
        for _ in 0..200 {
            match std::fs::remove_dir(&self.0) {
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                _ => return,
            }
        }
    }
}

#[tokio::test]
async fn the_limit_of_the_container_stands_beside_the_figures_of_the_machine() {
    let Some((_leaf, enter)) = own_cgroup() else {
        eprintln!("this machine lets nobody make a memory cgroup: the made-up trees of src/host stand alone");
        return;
    };
    let broker = NatsServer::start();
    let link = Connection::to(&broker.url());
    let control = ControlPlane::connect(&link).await;
    let mut events = control.events().await;
    let daemon = Daemon::builder().prelude(&enter).connection(&link).start();
    let page = daemon.http().get("/v1/metrics").await.json();
    assert_eq!(page["limits"]["memoryMaxBytes"], 536_870_912, "{page}");
    assert!(
        page["memTotalBytes"].as_u64().unwrap() > 536_870_912,
        "the machine's own: {page}"
    );
    let capacity = loop {
        if let Some(Event::Heartbeat(beat)) = events.next().await.event {
            break beat.capacity.unwrap();
        }
    };
    assert!(capacity.mem_available_bytes <= 536_870_912, "{capacity:?}");
    assert!(capacity.mem_available_bytes > 256 << 20, "{capacity:?}");
    drop(daemon);
}
