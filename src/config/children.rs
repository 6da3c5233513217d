//! The environment that children start from: ours without what is meant for boxd alone. Pure.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

/// Variables whose names begin so: our settings, the service manager's protocols, our telemetry.
const PREFIXES: [&str; 4] = ["BOXD_", "WATCHDOG_", "LISTEN_", "OTEL_"];

/// Variables of exactly these names: where the service manager listens and where credentials lie.
const NAMES: [&str; 2] = ["NOTIFY_SOCKET", "CREDENTIALS_DIRECTORY"];

/// The variables that a child may see, in a stable order.
pub fn children(environment: &BTreeMap<OsString, OsString>) -> Vec<(OsString, OsString)> {
    environment
        .iter()
        .filter(|(name, _)| !is_ours(name))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

fn is_ours(name: &OsStr) -> bool {
    PREFIXES
        .iter()
        .any(|prefix| name.as_bytes().starts_with(prefix.as_bytes()))
        || NAMES.iter().any(|ours| name == *ours)
}
