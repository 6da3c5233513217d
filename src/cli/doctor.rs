//! `boxd doctor`: what works here, what does not and the command that fixes it, and what is configured.

use std::fmt::Write as _;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use super::flags::{Daemon, SettingFlags};
use super::output;
use crate::config::{self, Config, Listen, Loaded, Sources};
use crate::error::Error;
use crate::startup::Startup;
use crate::state::Ready;

/// Show what works here, and the command that fixes what does not.
#[derive(Debug, Args)]
#[command(after_help = "\
Takes the same flags and variables as `boxd run`, to see what they would do.

Examples:
  boxd doctor
  boxd doctor --json
  boxd doctor --print-config
  boxd doctor --print-example > /etc/boxd/config.toml")]
pub(super) struct Doctor {
    #[command(flatten)]
    flags: SettingFlags<Daemon>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Print every setting, its value and the layer that decided it; secrets as ***.
    #[arg(long, conflicts_with = "print_example")]
    print_config: bool,
    /// Print an example configuration file.
    #[arg(long)]
    print_example: bool,
}

/// One finding.
#[derive(Debug)]
struct Finding {
    what: String,
    ok: bool,
    /// Details, or why not.
    note: String,
    fix: Option<String>,
}

impl Finding {
    fn good(what: &str, note: impl Into<String>) -> Self {
        Self {
            what: what.to_owned(),
            ok: true,
            note: note.into(),
            fix: None,
        }
    }

    fn bad(what: &str, note: impl Into<String>, fix: &str) -> Self {
        Self {
            what: what.to_owned(),
            ok: false,
            note: note.into(),
            fix: Some(fix.to_owned()),
        }
    }
}

impl Doctor {
    pub(super) fn run(self, startup: Startup) -> Result<ExitCode, Error> {
        if self.print_example {
            output::answer(config::example().as_bytes())?;
            return Ok(ExitCode::SUCCESS);
        }
        let loaded = config::load(&Sources {
            flags: self.flags.given,
            ..super::sources(startup)
        })?;
        if self.print_config {
            print_config(&loaded, self.json)?;
        } else {
            print_findings(&examine(&loaded.config), self.json)?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn print_config(loaded: &Loaded, json: bool) -> Result<(), Error> {
    let rows = loaded.rows();
    if json {
        let rows: Vec<_> = rows
            .iter()
            .map(|(key, value, layer)| json!({ "key": key, "value": value, "layer": layer }))
            .collect();
        return output::json(&json!({ "settings": rows }));
    }
    let keys = rows.iter().map(|(key, ..)| key.len()).max().unwrap_or(0);
    let values = rows
        .iter()
        .map(|(_, value, _)| value.len())
        .max()
        .unwrap_or(0)
        .min(40);
    let mut text = String::new();
    for (key, value, layer) in rows {
        let _ = writeln!(text, "{key:keys$}  {value:values$}  {layer}");
    }
    output::answer(text.as_bytes())
}

fn print_findings(findings: &[Finding], json: bool) -> Result<(), Error> {
    if json {
        let rows: Vec<_> = findings
            .iter()
            .map(|row| json!({ "name": row.what, "ok": row.ok, "note": row.note, "fix": row.fix }))
            .collect();
        return output::json(&json!({ "version": env!("CARGO_PKG_VERSION"), "findings": rows }));
    }
    let width = findings.iter().map(|row| row.what.len()).max().unwrap_or(0);
    let mut text = String::new();
    for row in findings {
        let mark = if row.ok { "ok " } else { "-- " };
        let _ = writeln!(
            text,
            "{}",
            format!("{mark} {:width$}  {}", row.what, row.note).trim_end()
        );
        if let Some(fix) = &row.fix {
            let _ = writeln!(text, "    {:width$}  fix: {fix}", "");
        }
    }
    output::answer(text.as_bytes())
}

fn examine(config: &Config) -> Vec<Finding> {
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
        findings.push(if mode & 0o077 == 0 {
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
