//! What surrounds the daemon: directories, addresses, connection files and brokers. Nothing is changed by looking.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::Finding;
use crate::config::{Config, Listen};
use crate::state::Ready;

/// Looks at everything that the configuration names.
pub(super) fn examine(config: &Config) -> Vec<Finding> {
    let ready = Ready::read(&config.state_dir)
        .ok()
        .filter(|ready| is_alive(ready.pid));
    let mut findings = vec![
        Finding::good("version", env!("CARGO_PKG_VERSION")),
        match &ready {
            Some(ready) => Finding::good("daemon", format!("runs, pid {}", ready.pid)),
            None => Finding::good("daemon", "does not run with this state directory"),
        },
        state_directory(&config.state_dir),
    ];
    findings.extend(connection_files(&config.config_dir));
    findings.push(Finding::good(
        "workspace",
        config.workspace.root.display().to_string(),
    ));
    if ready.is_none() {
        findings.extend(config.http.listen.iter().map(listener));
    }
    findings.extend(
        config
            .link
            .nats_urls
            .iter()
            .map(|url| broker(url, config.nats.allow_plaintext)),
    );
    findings
}

fn is_alive(pid: u32) -> bool {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid.cast_signed()), None)
        != Err(nix::errno::Errno::ESRCH)
}

fn state_directory(path: &Path) -> Finding {
    let shown = path.display();
    let Some(existing) = path.ancestors().find(|candidate| candidate.exists()) else {
        return Finding::bad("state", format!("{shown} has no parent"), "give --state-dir");
    };
    if nix::unistd::access(existing, nix::unistd::AccessFlags::W_OK).is_err() {
        let fix = "give --state-dir a directory that you may write; until then nothing survives a restart";
        return Finding::bad("state", format!("{shown} may not be written"), fix);
    }
    let missing = if existing == path {
        ""
    } else {
        " (made at first start)"
    };
    Finding::good("state", format!("{shown}{missing}"))
}

/// Connection files hold bearers, so nobody else may read them.
fn connection_files(config_dir: &Path) -> Vec<Finding> {
    let directory = config_dir.join("connections");
    let Ok(entries) = std::fs::read_dir(&directory) else {
        return vec![Finding::good(
            "connections",
            format!("none in {}", directory.display()),
        )];
    };
    let mut findings = Vec::new();
    for entry in entries.flatten() {
        let path = entry.path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let mode = entry
            .metadata()
            .map_or(0, |metadata| metadata.permissions().mode() & 0o777);
        let others = mode & 0o077;
        findings.push(if others == 0 {
            Finding::good("connection", path.display().to_string())
        } else {
            let fix = format!("chmod 600 {}", path.display());
            Finding::bad(
                "connection",
                format!("{} can be read by others ({mode:o})", path.display()),
                &fix,
            )
        });
    }
    findings
}

fn listener(listen: &Listen) -> Finding {
    let bound = match listen {
        Listen::Tcp(address) => TcpListener::bind(address).map(drop),
        Listen::Unix(path) => match std::os::unix::net::UnixStream::connect(path) {
            Ok(_) => Err(std::io::ErrorKind::AddrInUse.into()),
            Err(_) => Ok(()),
        },
    };
    match bound {
        Ok(()) => Finding::good("http", format!("{listen} is free")),
        Err(error) => Finding::bad(
            "http",
            format!("{listen} cannot be bound: {error}"),
            "stop what listens there, or give --http 127.0.0.1:0",
        ),
    }
}

fn broker(url: &str, allow_plaintext: bool) -> Finding {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
    let local = ["127.", "localhost", "[::1]"]
        .iter()
        .any(|prefix| host.starts_with(prefix));
    if matches!(scheme, "nats" | "ws") && !local && !allow_plaintext {
        return Finding::bad(
            "link",
            format!("{scheme}://{host} would send the token in the clear"),
            "use tls:// or wss://, or set nats.allow_plaintext",
        );
    }
    Finding::good("link", format!("{scheme}://{host}"))
}
