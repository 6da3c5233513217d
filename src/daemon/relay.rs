//! `boxd relay`: a relay and nothing else, until told to stop.

use std::net::SocketAddr;

use super::signals::Signals;
use super::workers;
use crate::doors::relay::{Config, Server};
use crate::error::Error;
use crate::lifecycle::Tasks;

/// Serves until a signal asks to stop; `announce` is told the address once it listens.
///
/// # Errors
///
/// What kept it from starting.
pub fn run(config: Config, announce: impl FnOnce(SocketAddr) -> Result<(), Error>) -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers())
        .thread_name("boxd")
        .enable_all()
        .build()
        .map_err(|source| Error::Io {
            doing: "start the runtime".into(),
            source,
        })?;
    runtime.block_on(async {
        let mut signals = Signals::listen()?;
        let (server, tasks) = (Server::bind(config).await?, Tasks::new());
        let address = server.address()?;
        tasks.pillar("relay", server.serve(tasks.clone()));
        tracing::info!(%address, version = env!("CARGO_PKG_VERSION"), "the relay listens");
        announce(address)?;
        tokio::select! {
            () = signals.next_stop() => {}
            Some((_, ended)) = tasks.next_pillar() => return ended,
        }
        tracing::info!("stopping");
        tasks.stop();
        Ok(())
    })
}
