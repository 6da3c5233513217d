//! What no setting can decide alone: settings that need each other, and those that are only safe together.

use std::path::{Path, PathBuf};

use super::parts::{Config, Link, Listen, Token};

/// Resolves relative paths against the current directory, so that nothing changes meaning later.
pub(super) fn make_absolute(config: &mut Config, current_dir: Option<&Path>) {
    let Some(current_dir) = current_dir else {
        return;
    };
    let absolute = |path: &mut PathBuf| {
        if path.is_relative() {
            *path = current_dir.join(&*path);
        }
    };
    absolute(&mut config.state_dir);
    absolute(&mut config.config_dir);
    absolute(&mut config.config_file);
    absolute(&mut config.workspace.root);
    config.ready_file.iter_mut().for_each(absolute);
    config.link.nats_creds.iter_mut().for_each(absolute);
    for listen in &mut config.http.listen {
        if let Listen::Unix(path) = listen {
            absolute(path);
        }
    }
    if let Token::File { path, .. } = &mut config.http.token {
        absolute(path);
    }
}

/// Adds a sentence for every rule that the configuration breaks.
pub(super) fn check(config: &Config, problems: &mut Vec<String>) {
    let root = &config.workspace.root;
    if !root.is_dir() {
        problems.push(format!("workspace.root {root:?} is not a directory"));
    }
    if !is_subject_token(&config.nats.root) {
        problems.push(format!(
            "nats.root {:?} cannot be one token of a NATS subject",
            config.nats.root
        ));
    }
    check_token(config, problems);
    check_names(&config.http.hosts, &config.http.origins, problems);
    check_link(&config.link, problems);
}

/// Without a token, whoever reaches a listener runs commands. Loopback is left to the person who asks for it; a
/// Unix socket could only be meant as a boundary, and commands that run under our own user are inside it.
fn check_token(config: &Config, problems: &mut Vec<String>) {
    if config.http.token != Token::Off || config.http.i_know {
        return;
    }
    for listen in &config.http.listen {
        match listen {
            Listen::Tcp(address) if address.ip().is_loopback() => {}
            Listen::Tcp(address) => problems.push(format!(
                "http.no_token: {address} is not loopback, everyone who reaches it could run commands; use a token, \
                 or insist with --i-know"
            )),
            Listen::Unix(path) => problems.push(format!(
                "http.no_token: commands run under the same user as the daemon and could use {path:?} as well; use a \
                 token, or insist with --i-know"
            )),
        }
    }
}

/// A name in another spelling than the one that headers are compared with would never match, in silence.
fn check_names(hosts: &[String], origins: &[String], problems: &mut Vec<String>) {
    for host in hosts {
        let literal = host.trim_start_matches('[').trim_end_matches(']');
        let is_address = literal.parse::<std::net::IpAddr>().is_ok();
        let is_name = !host.is_empty() && !host.contains(['/', ':', '*', ' ']);
        if !is_address && !is_name {
            problems.push(format!(
                "http.hosts {host:?} is no name that a Host header can have: write it without scheme, port and wildcard"
            ));
        }
    }
    for origin in origins {
        let authority = origin.split_once("://").map_or("", |(_, authority)| authority);
        let authority = authority.strip_suffix('/').unwrap_or(authority);
        if authority.is_empty() || authority.contains(['/', '*', ' ']) {
            problems.push(format!(
                "http.origins {origin:?} is no origin: write scheme://host or scheme://host:port, without a path and \
                 wildcard"
            ));
        }
    }
}

fn check_link(link: &Link, problems: &mut Vec<String>) {
    if *link == Link::default() {
        return;
    }
    let needed = [
        ("link.nats_urls (--nats-url)", link.nats_urls.is_empty()),
        ("link.workspace_id (--workspace-id)", link.workspace_id.is_empty()),
        ("link.agent_id (--agent-id)", link.agent_id.is_empty()),
    ];
    let missing: Vec<_> = needed
        .iter()
        .filter(|(_, missing)| *missing)
        .map(|(name, _)| *name)
        .collect();
    if !missing.is_empty() {
        problems.push(format!(
            "a link without a connection file also needs {}",
            missing.join(", ")
        ));
    }
    for url in &link.nats_urls {
        let scheme = url.split_once("://").map_or("", |(scheme, _)| scheme);
        if !["nats", "tls", "ws", "wss"].contains(&scheme) {
            problems.push("link.nats_urls: a URL starts with nats://, tls://, ws:// or wss://".into());
        }
    }
    for (name, id) in [
        ("link.workspace_id", &link.workspace_id),
        ("link.agent_id", &link.agent_id),
    ] {
        if !id.is_empty() && !is_subject_token(id) {
            problems.push(format!("{name} {id:?} cannot be one token of a NATS subject"));
        }
    }
    if link.relay_token.is_some() && link.relay_url.is_none() {
        problems.push("link.relay_token is of no use without link.relay_url (--relay-url)".into());
    }
}

/// Whether `text` can be one token of a subject that we subscribe to.
fn is_subject_token(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && !b".*>".contains(&byte))
}
