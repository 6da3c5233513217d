//! One given value, before its setting has looked at it: words of a flag or variable, or a value of the file.
//!
//! The accessors turn it into what a setting wants, or into a sentence that says what would have been right. Pure.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

/// A value as a layer gave it.
#[derive(Debug, Clone, PartialEq)]
pub enum Given {
    /// A flag that takes no value was present.
    Present,
    /// Each use of a repeatable flag.
    Words(Vec<OsString>),
    /// An environment variable; lists are separated by commas.
    Variable(OsString),
    /// A value of the configuration file.
    File(toml::Value),
}

impl Given {
    /// A UTF-8 text.
    pub fn text(&self) -> Result<String, String> {
        match self {
            Self::Present => Err("needs a value".into()),
            Self::Words(words) => one(words).and_then(utf8),
            Self::Variable(value) => utf8(value),
            Self::File(toml::Value::String(text)) => Ok(text.clone()),
            Self::File(other) => Err(format!("is {}, a text in quotes is expected", kind(other))),
        }
    }

    /// A text that is not blank.
    pub fn nonempty(&self) -> Result<String, String> {
        let text = self.text()?;
        if text.trim().is_empty() {
            return Err("is empty".into());
        }
        Ok(text.trim().to_owned())
    }

    /// A path, which need not be UTF-8 on the command line and in the environment.
    pub fn path(&self) -> Result<PathBuf, String> {
        let path = match self {
            Self::Words(words) => PathBuf::from(one(words)?),
            Self::Variable(value) => PathBuf::from(value),
            Self::Present | Self::File(_) => PathBuf::from(self.text()?),
        };
        if path.as_os_str().is_empty() {
            return Err("is empty, a path is expected".into());
        }
        Ok(path)
    }

    /// Several texts.
    pub fn list(&self) -> Result<Vec<String>, String> {
        match self {
            Self::Present => Err("needs a value".into()),
            Self::Words(words) => words.iter().map(utf8).collect(),
            Self::Variable(value) => Ok(utf8(value)?
                .split(',')
                .map(|part| part.trim().to_owned())
                .collect()),
            Self::File(toml::Value::Array(values)) => values
                .iter()
                .map(|value| Self::File(value.clone()).text())
                .collect(),
            Self::File(_) => self.text().map(|text| vec![text]),
        }
    }

    /// A whole number.
    pub fn number(&self) -> Result<u64, String> {
        if let Self::File(toml::Value::Integer(number)) = self {
            return u64::try_from(*number).map_err(|_| format!("is {number}, which is below zero"));
        }
        let text = self.text()?;
        text.parse()
            .map_err(|_| format!("is {text:?}, a whole number is expected"))
    }

    /// Several whole numbers.
    pub fn numbers(&self) -> Result<Vec<u64>, String> {
        if let Self::File(toml::Value::Array(values)) = self {
            return values
                .iter()
                .map(|value| Self::File(value.clone()).number())
                .collect();
        }
        self.list()?
            .into_iter()
            .map(|part| Self::Variable(part.into()).number())
            .collect()
    }

    /// Yes or no.
    pub fn switch(&self) -> Result<bool, String> {
        match self {
            Self::Present => Ok(true),
            Self::File(toml::Value::Boolean(value)) => Ok(*value),
            Self::File(other) => Err(format!("is {}, true or false is expected", kind(other))),
            Self::Words(_) | Self::Variable(_) => match self.text()?.to_ascii_lowercase().as_str() {
                "true" | "1" | "yes" | "on" => Ok(true),
                "false" | "0" | "no" | "off" => Ok(false),
                other => Err(format!("is {other:?}, true or false is expected")),
            },
        }
    }

    /// A duration with its unit: `20ms`, `5s`, `1h 30m`.
    pub fn duration(&self) -> Result<Duration, String> {
        if let Self::File(toml::Value::Integer(number)) = self {
            return Err(format!(
                "is {number} without a unit, write it like \"20ms\" or \"5s\""
            ));
        }
        let text = self.text()?;
        humantime::parse_duration(&text)
            .map_err(|error| format!("is {text:?} ({error}), write it like 20ms or 5s"))
    }

    /// One of `choices`, by its name.
    pub fn choice<T: Copy>(&self, choices: &[(&str, T)]) -> Result<T, String> {
        let text = self.text()?;
        choices
            .iter()
            .find(|(name, _)| *name == text)
            .map(|(_, value)| *value)
            .ok_or_else(|| {
                let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
                format!("is {text:?}, one of {} is expected", names.join(", "))
            })
    }
}

/// The name of a choice, for showing it.
pub(super) fn name_of<T: Copy + PartialEq>(choices: &[(&'static str, T)], value: T) -> &'static str {
    choices
        .iter()
        .find(|(_, candidate)| *candidate == value)
        .map_or("", |(name, _)| *name)
}

fn one(words: &[OsString]) -> Result<&OsString, String> {
    match words {
        [word] => Ok(word),
        _ => Err("is given more than once".into()),
    }
}

fn utf8(text: impl AsRef<OsStr>) -> Result<String, String> {
    let text = text.as_ref();
    text.to_str()
        .map(str::to_owned)
        .ok_or_else(|| format!("is not UTF-8: {:?}", String::from_utf8_lossy(text.as_bytes())))
}

fn kind(value: &toml::Value) -> &'static str {
    match value {
        toml::Value::String(_) => "a text",
        toml::Value::Integer(_) => "an integer",
        toml::Value::Float(_) => "a number",
        toml::Value::Boolean(_) => "true or false",
        toml::Value::Datetime(_) => "a date",
        toml::Value::Array(_) => "a list",
        toml::Value::Table(_) => "a section",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_layer_spells_the_same_value() {
        let file = |text: &str| Given::File(toml::from_str::<toml::Table>(text).unwrap()["x"].clone());
        let word = |text: &str| Given::Words(vec![text.into()]);
        let variable = |text: &str| Given::Variable(text.into());
        assert_eq!(file("x = \"20ms\"").duration(), Ok(Duration::from_millis(20)));
        assert_eq!(variable("20ms").duration(), word("20ms").duration());
        assert_eq!(file("x = true").switch(), Ok(true));
        assert_eq!(variable("yes").switch(), Ok(true));
        assert_eq!(Given::Present.switch(), Ok(true));
        assert_eq!(
            file("x = [\"a\", \"b\"]").list(),
            Ok(vec!["a".into(), "b".into()])
        );
        assert_eq!(variable("a, b").list(), file("x = [\"a\", \"b\"]").list());
        assert_eq!(word("a").list(), file("x = \"a\"").list());
        assert_eq!(word("b").choice(&[("a", 1), ("b", 2)]), Ok(2));
    }

    #[test]
    fn a_wrong_value_says_what_would_be_right() {
        let file = |text: &str| Given::File(toml::from_str::<toml::Table>(text).unwrap()["x"].clone());
        assert!(file("x = 20").duration().unwrap_err().contains("without a unit"));
        assert!(
            file("x = \"true\"")
                .switch()
                .unwrap_err()
                .contains("true or false is expected")
        );
        assert!(
            Given::Variable("soon".into())
                .duration()
                .unwrap_err()
                .contains("20ms")
        );
        assert!(
            Given::Words(vec!["a".into(), "b".into()])
                .text()
                .unwrap_err()
                .contains("more than once")
        );
        assert!(
            Given::Variable("c".into())
                .choice(&[("a", 1), ("b", 2)])
                .unwrap_err()
                .contains("one of a, b")
        );
        let not_text = OsString::from(OsStr::from_bytes(b"\xff"));
        assert!(Given::Variable(not_text.clone()).text().is_err());
        assert_eq!(
            Given::Variable(not_text.clone()).path(),
            Ok(PathBuf::from(not_text))
        );
    }
}
