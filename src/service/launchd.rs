//! The property list of launchd. Pure.

use super::{MARKER, NAME, STOP_TIMEOUT, Scope, Unit};
use crate::error::Error;

/// The label, by which launchd knows the job.
pub(super) const LABEL: &str = NAME;

pub(super) fn text(unit: &Unit) -> Result<String, Error> {
    let arguments: Vec<_> = unit
        .command()?
        .into_iter()
        .map(|word| Ok(format!("    <string>{}</string>\n", escaped(word)?)))
        .collect::<Result<_, Error>>()?;
    let session = match unit.scope {
        // A daemon's home is in no variable.
        Scope::System => {
            "  <key>WorkingDirectory</key>\n  <string>/var/root</string>\n  <key>StandardErrorPath</key>\n  \
             <string>/Library/Logs/boxd.log</string>\n"
        }
        // launchd reads no ~: a log below it needs a list that somebody wrote by hand.
        Scope::User => "",
    };
    Ok(format!(
        r#"<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">
<!-- {MARKER}, which writes it anew. -->
<plist version="1.0">
<dict>
  <key>Label</key>
  <string>{LABEL}</string>
  <key>ProgramArguments</key>
  <array>
{arguments}  </array>
{session}  <key>RunAtLoad</key>
  <true/>
  <key>KeepAlive</key>
  <true/>
  <key>ThrottleInterval</key>
  <integer>10</integer>
  <key>ExitTimeOut</key>
  <integer>{stop}</integer>
  <key>ProcessType</key>
  <string>Interactive</string>
</dict>
</plist>
"#,
        arguments = arguments.concat(),
        stop = STOP_TIMEOUT.as_secs()
    ))
}

/// The text of an element. What XML cannot hold at all is refused.
fn escaped(word: &str) -> Result<String, Error> {
    if let Some(control) = word
        .chars()
        .find(|character| character.is_control() || "\u{fffe}\u{ffff}".contains(*character))
    {
        return Err(Error::Invalid {
            field: "path",
            reason: format!("{word:?} holds {control:?}, which a property list cannot"),
        });
    }
    Ok(word
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(scope: Scope) -> Unit {
        Unit {
            scope,
            binary: "/usr/local/bin/boxd".into(),
            config_dir: None,
            workspace_root: Some("/srv/<a> & \"b\"".into()),
        }
    }

    #[test]
    fn a_machine_and_a_user_have_lists_of_their_own() {
        let both = [Scope::System, Scope::User].map(|scope| text(&unit(scope)).unwrap());
        insta::assert_snapshot!(both.join("--------\n"));
    }

    #[test]
    fn what_xml_cannot_hold_is_refused() {
        let unit = Unit {
            binary: "/opt/a\u{7}".into(),
            ..unit(Scope::User)
        };
        assert!(text(&unit).unwrap_err().to_string().contains("property list"));
    }
}
