//! The systemd unit. Pure.
//!
//! What each line is for is said in the unit itself, because that is where an operator meets it. Paths are quoted as
//! `systemd.syntax(7)` reads them: `%` begins a specifier, `\` an escape, `"` ends a quotation, and `$` begins a variable
//! unless the command begins with a colon.

use std::fmt::Write as _;

use super::{MARKER, NAME, STOP_TIMEOUT, Scope, Unit};
use crate::error::Error;
use crate::exec::SUBGROUP;

/// The unit's name.
pub(super) const UNIT: &str = "boxd.service";

/// Only the machine's manager knows of the network.
const NETWORK: &str = "# Links to a control plane are retried for ever, so the network need not be up yet.
After=network.target
";

pub(super) fn text(unit: &Unit) -> Result<String, Error> {
    let command = unit.command()?;
    check_program(command[0])?;
    let previous = format!("{}.previous", command[0]);
    let after_stop = command_line(&[&previous, "guard", "--after-stop"]);
    let command = command_line(&command);
    let (after, specific, wanted_by) = match unit.scope {
        Scope::System => (NETWORK, system(unit), "multi-user.target"),
        // Its directories are below ~ by themselves, and a user's manager may lower no OOM score.
        Scope::User => ("", "WorkingDirectory=%h".to_owned(), "default.target"),
    };
    Ok(format!(
        "# {MARKER}, which writes it anew: put changes in a drop-in (systemctl edit {NAME}).
[Unit]
Description=boxd: commands, files and terminals of this machine for its owner
{after}# A daemon that fails at once is not started for ever: after 20 times in five minutes it stays failed.
StartLimitIntervalSec=300
StartLimitBurst=20

[Service]
# Ready once every listener is bound and every link was tried once.
Type=notify
NotifyAccess=main
ExecStart={command}
# Reads the connection files again; config.toml needs a restart.
ExecReload=/bin/kill -HUP $MAINPID
# An update that did not come up is taken back, by the executable before it.
ExecStopPost=-{after_stop}
{specific}
Restart=always
RestartSec=2
# Usage and configuration do not get better by trying again.
RestartPreventExitStatus=64 78
# Fed twice as often, by a task that went through the runtime that serves.
WatchdogSec=30
# The daemon asks for more where shutdown.grace is longer.
TimeoutStopSec={stop}
# It ends the trees of its commands itself; what is left when it is gone is killed.
KillMode=mixed

# A command that runs out of memory is its own affair.
OOMPolicy=continue
# Limits of commands are control groups below this one; the daemon itself is in a subgroup (systemd 254 and newer, before
# that it moves there by itself).
Delegate=cpu memory pids
DelegateSubgroup={SUBGROUP}
# The daemon raises its own soft limit; commands get what is usual.
LimitNOFILE=1024:524288

[Install]
WantedBy={wanted_by}
",
        stop = STOP_TIMEOUT.as_secs()
    ))
}

/// A program's path may hold none of these, however it is quoted; arguments may.
fn check_program(path: &str) -> Result<(), Error> {
    let refused = |character: &char| character.is_ascii_control() || "\"'\\".contains(*character);
    match path.chars().find(refused) {
        None => Ok(()),
        Some(character) => Err(Error::Invalid {
            field: "binary",
            reason: format!(
                "{path:?} holds {character:?}, which systemd takes in no program's path; put it elsewhere"
            ),
        }),
    }
}

/// What only a machine's service has, without the last line end.
fn system(unit: &Unit) -> String {
    let mut text = "# Named so that commands have the variables of a login: HOME, USER, SHELL.
User=root
WorkingDirectory=~
StateDirectory=boxd
StateDirectoryMode=0700
"
    .to_owned();
    if unit.config_dir.is_none() {
        text.push_str("ConfigurationDirectory=boxd\nConfigurationDirectoryMode=0700\n");
    }
    text.push_str(
        "# Killed for memory after everything else; commands begin with 0 all the same.\nOOMScoreAdjust=-500",
    );
    text
}

/// The command as one line.
fn command_line(words: &[&str]) -> String {
    let variables = words.iter().any(|word| word.contains('$'));
    let words: Vec<_> = words.iter().map(|word| quoted(word)).collect();
    format!("{}{}", if variables { ":" } else { "" }, words.join(" "))
}

/// One word, with quotation marks only where it needs them.
fn quoted(word: &str) -> String {
    let mut text = String::with_capacity(word.len());
    for character in word.chars() {
        match character {
            '%' => text.push_str("%%"),
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            control if control.is_ascii_control() => {
                let _ = write!(text, "\\x{:02x}", control as u32);
            }
            other => text.push(other),
        }
    }
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-+:=,@%".contains(&byte) || !byte.is_ascii();
    if !word.is_empty() && word.bytes().all(plain) {
        return text;
    }
    format!("\"{text}\"")
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn unit(scope: Scope) -> Unit {
        Unit {
            scope,
            binary: "/usr/local/bin/boxd".into(),
            config_dir: None,
            workspace_root: None,
        }
    }

    #[test]
    fn a_machine_and_a_user_have_units_of_their_own() {
        let both = [Scope::System, Scope::User].map(|scope| text(&unit(scope)).unwrap());
        insta::assert_snapshot!(both.join("--------\n"));
    }

    #[test]
    fn limits_of_starting_are_where_systemd_reads_them() {
        let text = text(&unit(Scope::System)).unwrap();
        let (of_unit, of_service) = text.split_once("[Service]").unwrap();
        assert_eq!(of_unit.matches("\nStartLimit").count(), 2);
        assert!(!of_service.contains("StartLimit"));
    }

    #[test]
    fn every_path_is_one_word_as_it_is() {
        for (path, word) in [
            ("/opt/boxd", "/opt/boxd"),
            ("/opt/my box", "\"/opt/my box\""),
            ("/opt/100%", "/opt/100%%"),
            ("/a\"b'c\\d", "\"/a\\\"b'c\\\\d\""),
            ("/a\nb\t", "\"/a\\x0ab\\x09\""),
            ("/;", "\"/;\""),
            ("/größe", "/größe"),
        ] {
            assert_eq!(quoted(path), word);
        }
    }

    #[test]
    fn a_dollar_is_no_variable() {
        let unit = Unit {
            workspace_root: Some(PathBuf::from("/srv/$HOME")),
            config_dir: Some("/etc/other".into()),
            ..unit(Scope::System)
        };
        let text = text(&unit).unwrap();
        let line = "ExecStart=:/usr/local/bin/boxd run --config-dir /etc/other --state-dir /var/lib/boxd \
                    --workspace-root \"/srv/$HOME\"\n";
        assert!(text.contains(line), "{text}");
        assert!(
            !text.contains("ConfigurationDirectory"),
            "it is not below /etc/boxd"
        );
    }

    #[test]
    fn what_systemd_cannot_read_is_refused() {
        use std::ffi::OsStr;
        use std::os::unix::ffi::OsStrExt;
        for path in [&b"/opt/\xff"[..], b"/opt/a\nb", b"/opt/a'b", b"/opt/a\\b"] {
            let unit = Unit {
                binary: OsStr::from_bytes(path).into(),
                ..unit(Scope::User)
            };
            let error = text(&unit).unwrap_err();
            assert!(matches!(error, Error::Invalid { field: "binary", .. }), "{error}");
        }
    }
}
