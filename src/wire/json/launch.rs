//! The fields that everything has which starts a program, checked one by one.

use std::collections::BTreeMap;
use std::ffi::OsString;

use bytes::Bytes;
use serde_json::Value;

use super::text::from_base64;
use crate::error::Error;
use crate::exec::{Command, Environment};

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

/// A limit that cannot be kept is refused, never ignored.
pub(super) fn refuse_unenforceable(field: &'static str, value: Option<&Value>) -> Result<(), Error> {
    match value {
        None | Some(Value::Null) => Ok(()),
        Some(_) => Err(Error::Unsupported {
            what: format!("process.run with {field:?}"),
            why: "this build cannot enforce it".into(),
            fix: Some(format!("leave {field:?} out")),
        }),
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
