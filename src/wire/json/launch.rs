//! The fields that everything has which starts a program, checked one by one.

use std::collections::BTreeMap;
use std::ffi::OsString;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::text::from_base64;
use crate::error::Error;
use crate::exec::{Command, Environment, Limits};

/// The key under which a repeat gets the same outcome.
pub(super) fn check_key(key: Option<&str>) -> Result<(), Error> {
    let Some(key) = key.filter(|key| !(1..=256).contains(&key.len())) else {
        return Ok(());
    };
    Err(Error::Invalid {
        field: "idempotencyKey",
        reason: format!("has {} bytes, 1 to 256 are allowed", key.len()),
    })
}

/// What a command and everything that it starts may use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
#[schema(as = ProcessLimits)]
pub struct LimitsRequest {
    /// Memory, bytes; beyond it the whole tree is killed.
    #[schema(minimum = 1)]
    pub memory_max: Option<u64>,
    /// Memory, bytes; beyond it the tree is slowed down.
    #[schema(minimum = 1)]
    pub memory_high: Option<u64>,
    /// Processor time, thousandths of one processor.
    #[schema(minimum = 1)]
    pub cpu_millicores: Option<u64>,
    /// Processes and threads at once.
    #[schema(minimum = 1)]
    pub pids_max: Option<u64>,
    /// Open descriptors of each process.
    #[schema(minimum = 1)]
    pub nofile: Option<u64>,
    /// Bytes of output; beyond it the whole tree is killed.
    #[schema(minimum = 1)]
    pub output_max: Option<u64>,
}

impl From<LimitsRequest> for Limits {
    fn from(limits: LimitsRequest) -> Self {
        Self {
            memory_max: limits.memory_max,
            memory_high: limits.memory_high,
            cpu_millicores: limits.cpu_millicores,
            pids_max: limits.pids_max,
            nofile: limits.nofile,
            output_max: limits.output_max,
        }
    }
}

/// The limits of a request; those that mean nothing are refused by name.
pub(super) fn limits(asked: Option<LimitsRequest>) -> Result<Limits, Error> {
    let limits = asked.map_or_else(Limits::default, Limits::from);
    limits.validate_as(&[
        "limits.memoryMax",
        "limits.memoryHigh",
        "limits.cpuMillicores",
        "limits.pidsMax",
        "limits.nofile",
        "limits.outputMax",
    ])?;
    Ok(limits)
}

/// The user of a request.
pub(super) fn user(asked: Option<String>) -> Result<Option<String>, Error> {
    match asked {
        Some(user) if user.is_empty() => Err(Error::Invalid {
            field: "user",
            reason: "must not be empty; give a name or uid:gid".into(),
        }),
        Some(user) => without_nul("user", user).map(Some),
        None => Ok(None),
    }
}

pub(super) fn program(command: String, args: Vec<String>, shell: bool) -> Result<Command, Error> {
    if command.is_empty() {
        return Err(Error::Invalid {
            field: "command",
            reason: "must not be empty".into(),
        });
    }
    let command = without_nul("command", command)?;
    let mut words = vec![OsString::from(command)];
    for argument in args {
        words.push(without_nul("args", argument)?.into());
    }
    if shell {
        Ok(Command::Shell(words.join(" ".as_ref())))
    } else {
        Ok(Command::Argv(words))
    }
}

pub(super) fn environment(variables: BTreeMap<String, String>) -> Result<Environment, Error> {
    let mut pairs = Vec::with_capacity(variables.len());
    for (name, value) in variables {
        if name.is_empty() || name.contains('=') {
            let reason = format!("{name:?} is no name of a variable: it must not be empty or contain \"=\"");
            return Err(Error::Invalid { field: "env", reason });
        }
        pairs.push((
            without_nul("env", name)?.into(),
            without_nul("env", value)?.into(),
        ));
    }
    Ok(Environment::Overlay(pairs))
}

pub(super) fn stdin(text: Option<String>, base64: Option<String>) -> Result<Bytes, Error> {
    match (text, base64) {
        (Some(_), Some(_)) => Err(Error::Invalid {
            field: "stdinB64",
            reason: "give either stdin or stdinB64".into(),
        }),
        (Some(text), None) => Ok(text.into()),
        (None, Some(encoded)) => from_base64("stdinB64", &encoded).map(Bytes::from),
        (None, None) => Ok(Bytes::new()),
    }
}

pub(super) fn without_nul(field: &'static str, text: String) -> Result<String, Error> {
    if text.contains('\0') {
        return Err(Error::Invalid {
            field,
            reason: "must not contain a NUL byte".into(),
        });
    }
    Ok(text)
}
