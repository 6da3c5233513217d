//! The query of a request: named parameters with named errors.
//!
//! Values are bytes, because a path may be percent-encoded bytes that are no UTF-8. Parameters that a route does not
//! know are ignored, as the compatible contract has it; a parameter given twice is refused.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;

use super::error::Problem;
use crate::error::Error;
use crate::wire::json;

/// The decoded pairs of a query.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Query(Vec<(Vec<u8>, Vec<u8>)>);

impl Query {
    /// Decodes `application/x-www-form-urlencoded`; the part of the target behind `?`.
    pub(super) fn parse(query: &str) -> Result<Self, Error> {
        let pair = |pair: &str| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Ok((unescape(name)?, unescape(value)?))
        };
        query
            .split('&')
            .filter(|text| !text.is_empty())
            .map(pair)
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// The value of `name`; `None` when it is not there.
    fn bytes(&self, name: &'static str) -> Result<Option<&[u8]>, Error> {
        let mut values = self
            .0
            .iter()
            .filter(|(key, _)| key == name.as_bytes())
            .map(|(_, value)| &value[..]);
        let first = values.next();
        if values.next().is_some() {
            return Err(Error::Invalid {
                field: name,
                reason: "is given more than once".into(),
            });
        }
        Ok(first)
    }

    /// Whether `name` is there.
    pub(super) fn has(&self, name: &'static str) -> bool {
        self.0.iter().any(|(key, _)| key == name.as_bytes())
    }

    /// The text of `name`.
    pub(super) fn text(&self, name: &'static str) -> Result<Option<&str>, Error> {
        let Some(bytes) = self.bytes(name)? else {
            return Ok(None);
        };
        let text = std::str::from_utf8(bytes).map_err(|_| Error::Invalid {
            field: name,
            reason: "is not UTF-8".into(),
        })?;
        Ok(Some(text))
    }

    /// The switch `name`: `true` or `false`; absent is false.
    pub(super) fn flag(&self, name: &'static str) -> Result<bool, Error> {
        match self.bytes(name)? {
            None | Some(b"false") => Ok(false),
            Some(b"true") => Ok(true),
            Some(other) => {
                let reason = format!("{:?} is neither true nor false", String::from_utf8_lossy(other));
                Err(Error::Invalid { field: name, reason })
            }
        }
    }

    /// The whole number `name`, which is not negative.
    pub(super) fn number(&self, name: &'static str) -> Result<Option<u64>, Error> {
        let Some(text) = self.text(name)? else {
            return Ok(None);
        };
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let number = text.parse().ok().filter(|_| digits);
        number.map(Some).ok_or_else(|| Error::Invalid {
            field: name,
            reason: format!("{text:.40?} is no whole number from 0 on"),
        })
    }

    /// The permission bits `mode`, in octal.
    pub(super) fn mode(&self) -> Result<Option<u32>, Error> {
        self.text("mode")?.map(json::mode).transpose()
    }

    /// The path in `path` (percent-encoded bytes) or `pathB64`; `None` when neither is there.
    pub(super) fn optional_path(&self) -> Result<Option<PathBuf>, Error> {
        let Some(bytes) = self.bytes("path")? else {
            return json::path(("path", "pathB64"), None, self.text("pathB64")?);
        };
        if self.has("pathB64") {
            return Err(Error::Invalid {
                field: "pathB64",
                reason: "give either path or pathB64".into(),
            });
        }
        if bytes.contains(&0) {
            return Err(Error::Invalid {
                field: "path",
                reason: "must not contain a NUL byte".into(),
            });
        }
        Ok(Some(PathBuf::from(OsString::from_vec(bytes.to_vec()))))
    }

    /// The path, which has to be there and name something: an empty one would be the workspace itself.
    pub(super) fn path(&self) -> Result<PathBuf, Error> {
        let path = self.optional_path()?.ok_or(Error::Invalid {
            field: "path",
            reason: "is required".into(),
        })?;
        if path.as_os_str().is_empty() {
            return Err(Error::Invalid {
                field: "path",
                reason: "must not be empty; \".\" is the workspace root".into(),
            });
        }
        Ok(path)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Query {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        Ok(Self::parse(parts.uri.query().unwrap_or_default())?)
    }
}

/// `+` is a space and `%XX` a byte.
fn unescape(text: &str) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        match first {
            b'+' => bytes.push(b' '),
            b'%' => {
                let (digits, after) = rest.split_at_checked(2).ok_or_else(broken_escape)?;
                bytes.push(hex(digits[0])? << 4 | hex(digits[1])?);
                rest = after;
            }
            other => bytes.push(*other),
        }
    }
    Ok(bytes)
}

fn hex(digit: u8) -> Result<u8, Error> {
    (digit as char)
        .to_digit(16)
        .map(|value| value as u8)
        .ok_or_else(broken_escape)
}

fn broken_escape() -> Error {
    Error::Invalid {
        field: "query",
        reason: "\"%\" must be followed by two hex digits".into(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;

    use proptest::prelude::*;

    use super::*;

    fn refused(outcome: Result<impl std::fmt::Debug, Error>) -> &'static str {
        match outcome {
            Err(Error::Invalid { field, .. }) => field,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn values_are_unescaped() {
        let query = Query::parse("path=a+b%2Fc%FF&recursive=true&empty&x=").unwrap();
        assert_eq!(query.path().unwrap().as_os_str().as_bytes(), b"a b/c\xff");
        assert!(query.flag("recursive").unwrap());
        assert_eq!(query.text("empty").unwrap(), Some(""));
        assert_eq!(query.text("none").unwrap(), None);
    }

    #[test]
    fn a_number_has_digits_and_nothing_else() {
        let query =
            Query::parse("a=0&b=18446744073709551615&c=-1&d=+1&e=&f=18446744073709551616&g=1e3").unwrap();
        assert_eq!(query.number("a").unwrap(), Some(0));
        assert_eq!(query.number("b").unwrap(), Some(u64::MAX));
        assert_eq!(query.number("z").unwrap(), None);
        for name in ["c", "d", "e", "f", "g"] {
            assert_eq!(refused(query.number(name)), name);
        }
    }

    #[test]
    fn a_wrong_parameter_is_named() {
        assert_eq!(refused(Query::parse("path=%G0")), "query");
        assert_eq!(refused(Query::parse("path=%F")), "query");
        let query = Query::parse("path=a&path=b&recursive=banana&mode=rw&pathB64=*").unwrap();
        assert_eq!(refused(query.path()), "path");
        assert_eq!(refused(query.flag("recursive")), "recursive");
        assert_eq!(refused(query.mode()), "mode");
        assert_eq!(refused(Query::parse("pathB64=*").unwrap().path()), "pathB64");
        assert_eq!(refused(Query::parse("path=%00").unwrap().path()), "path");
        assert_eq!(refused(Query::parse("").unwrap().path()), "path");
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in ".{0,60}") {
            if let Ok(query) = Query::parse(&text) {
                let _ = (query.path(), query.flag("recursive"), query.mode());
            }
        }
    }
}
