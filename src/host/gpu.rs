//! NVIDIA GPUs as `nvidia-smi` lists them: asking it now and then, and reading its answer.
//!
//! A driver takes tens of milliseconds to seconds to answer, so it is asked at a slower pace than the rest is sampled,
//! in a process of the engine like any other, and hardly ever where the program does not exist.

use std::sync::Arc;
use std::time::Duration;

use super::{Gpu, Host};
use crate::error::Error;
use crate::exec::{Command, Engine, Environment, Exit, Finished, Owner, ProcessSpec};
use crate::lifecycle::Tasks;
use crate::stream::Keep;

/// The program and its arguments. Units are left out of the answer, memory is in MiB.
const QUESTION: [&str; 3] = [
    "nvidia-smi",
    "--query-gpu=name,utilization.gpu,memory.used,memory.total",
    "--format=csv,noheader,nounits",
];

/// Between two answers.
const PACE: Duration = Duration::from_secs(30);

/// Before asking again what was not there, or failed: a driver may have been installed meanwhile.
const RETRY: Duration = Duration::from_secs(600);

/// A driver that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(10);
/// More than any answer has.
const KEEP: Keep = Keep::first(64 << 10);

/// Asks until the daemon stops.
pub(super) async fn watch(host: Arc<Host>, engine: Arc<Engine>, tasks: Tasks) -> Result<(), Error> {
    let mut told = false;
    loop {
        // A task of its own: a question that is under way must be heard to its end.
        let question = tasks.spawn("nvidia-smi", {
            let engine = Arc::clone(&engine);
            async move { engine.run(spec(), KEEP).await }
        });
        let answer = tokio::select! {
            () = tasks.stopping() => return Ok(()),
            answer = question => answer.map_err(|panic| Error::Internal { reason: panic.to_string() }),
        };
        let pause = match answer.and_then(|finished| figures(&finished?)) {
            Ok(gpus) => {
                *host.gpus.write() = gpus;
                PACE
            }
            Err(Error::NotFound { .. }) => RETRY,
            Err(error) => {
                if !std::mem::replace(&mut told, true) {
                    tracing::warn!(%error, "GPUs cannot be asked for their figures");
                }
                host.gpus.write().clear();
                RETRY
            }
        };
        tokio::select! {
            () = tasks.stopping() => return Ok(()),
            () = tokio::time::sleep(pause) => {}
        }
    }
}

fn spec() -> ProcessSpec {
    ProcessSpec {
        environment: Environment::Overlay(vec![("LC_ALL".into(), "C".into())]),
        timeout: Some(PATIENCE),
        owner: Owner::System,
        ..ProcessSpec::new(Command::Argv(QUESTION.map(Into::into).into()), "/", KEEP)
    }
}

fn figures(finished: &Finished) -> Result<Vec<Gpu>, Error> {
    let end = &finished.end;
    if end.timed_out {
        return Err(Error::Timeout {
            what: "nvidia-smi",
            after: PATIENCE,
        });
    }
    if end.exit != Exit::Code(0) {
        let said = String::from_utf8_lossy(&finished.stdout.head);
        return Err(Error::Unsupported {
            what: "GPU figures".into(),
            why: format!("nvidia-smi ended with {:?}: {}", end.exit, said.trim()),
            fix: None,
        });
    }
    Ok(read(&String::from_utf8_lossy(&finished.stdout.head)))
}

/// Reads the answer, one GPU a line. Figures that a GPU does not tell (`[N/A]`) are zero; a line without a name and
/// three figures is left out.
fn read(text: &str) -> Vec<Gpu> {
    text.lines().filter_map(line).collect()
}

fn line(line: &str) -> Option<Gpu> {
    // A product name may hold a comma, so the figures are taken from the end.
    let mut fields = line.rsplitn(4, ',').map(str::trim);
    let [mem_total, mem_used, util] = [fields.next()?, fields.next()?, fields.next()?];
    let name = fields.next().filter(|name| !name.is_empty())?.to_owned();
    Some(Gpu {
        name,
        util_percent: number(util).clamp(0.0, 100.0),
        mem_used: mebibytes(mem_used),
        mem_total: mebibytes(mem_total),
    })
}

fn number(field: &str) -> f64 {
    field
        .parse()
        .ok()
        .filter(|value: &f64| value.is_finite())
        .unwrap_or(0.0)
}

fn mebibytes(field: &str) -> u64 {
    (number(field).max(0.0) * 1_048_576.0) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_a_gpu() {
        let gpus = read("NVIDIA A100-SXM4-40GB, 37, 1024, 40960\nGeForce, special, 0, 5, 8192\n");
        assert_eq!(gpus.len(), 2);
        assert_eq!(gpus[0].name, "NVIDIA A100-SXM4-40GB");
        assert!((gpus[0].util_percent - 37.0).abs() < f64::EPSILON);
        assert_eq!((gpus[0].mem_used, gpus[0].mem_total), (1 << 30, 40 << 30));
        assert_eq!(gpus[1].name, "GeForce, special");
    }

    #[test]
    fn what_is_not_told_is_zero_and_garbage_is_left_out() {
        let gpus = read(
            "Tesla, [N/A], [Not Supported], 16384\nNVIDIA-SMI has failed\n, 1, 2, 3\n\nX, inf, -5, nan\n",
        );
        assert_eq!(
            gpus.iter().map(|gpu| gpu.name.as_str()).collect::<Vec<_>>(),
            ["Tesla", "X"]
        );
        assert_eq!((gpus[0].mem_used, gpus[0].mem_total), (0, 16 << 30));
        assert_eq!((gpus[1].mem_used, gpus[1].mem_total), (0, 0));
    }
}
