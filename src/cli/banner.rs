//! What `boxd run` shows a person at a terminal once it is ready: where it is, and what does not work here. Pure.

use std::fmt::Write as _;
use std::path::Path;

use crate::capability::Capability;
use crate::state::Ready;
use crate::telemetry::Secret;

/// What the banner tells.
#[derive(Debug)]
pub(super) struct Banner<'a> {
    /// What is bound and linked.
    pub(super) ready: &'a Ready,
    /// The bearer token; it is shown, so the caller makes sure that a terminal is all that sees it.
    pub(super) token: Option<&'a Secret<String>>,
    /// What relative paths mean.
    pub(super) workspace_root: &'a Path,
    /// What works here.
    pub(super) capabilities: &'a [Capability],
}

impl Banner<'_> {
    /// The banner as lines of text.
    pub(super) fn text(&self) -> String {
        let mut text = format!("boxd {}\n", env!("CARGO_PKG_VERSION"));
        for url in &self.ready.http {
            match self.token {
                Some(token) if url.starts_with("http") => {
                    let _ = writeln!(text, "  url        {url}/#token={}", token.expose());
                }
                _ => {
                    let _ = writeln!(text, "  listening  {url}");
                }
            }
        }
        let _ = writeln!(text, "  workspace  {}", self.workspace_root.display());
        for link in &self.ready.links {
            let _ = writeln!(
                text,
                "  link       {}/{}: {}",
                link.workspace_id, link.agent_id, link.state
            );
        }
        for row in self.capabilities.iter().filter(|row| !row.available) {
            let why = row.why.as_deref().unwrap_or("not available");
            let _ = writeln!(text, "  missing    {}: {why}", row.name);
            if let Some(fix) = &row.fix {
                let _ = writeln!(text, "             fix: {fix}");
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::LinkState;

    #[test]
    fn the_banner_says_where_it_is_and_what_is_missing() {
        let ready = Ready {
            pid: 1,
            http: vec!["http://127.0.0.1:2468".into(), "unix:/run/boxd.sock".into()],
            token_file: None,
            instance: "i".into(),
            links: vec![LinkState {
                workspace_id: "w".into(),
                agent_id: "a".into(),
                state: "connected".into(),
            }],
        };
        let token = Secret::new("s3cret".to_owned());
        let rows = [
            Capability::available("fs.read"),
            Capability::missing(
                "git.status",
                "git is not installed",
                Some("apt-get install git".into()),
            ),
        ];
        let banner = Banner {
            ready: &ready,
            token: Some(&token),
            workspace_root: Path::new("/work"),
            capabilities: &rows,
        };
        insta::assert_snapshot!(banner.text().replace(env!("CARGO_PKG_VERSION"), "VERSION"));
    }
}
