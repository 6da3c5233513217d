//! Bytes to a request struct, with the wrong field named.
//!
//! Malformed JSON is [`Error::Protocol`]; JSON of the wrong shape is [`Error::Invalid`] with the field in it. Whether
//! unknown fields pass is the caller's choice, because the routes of the compatible contract ignore them and our own
//! refuse them.

use std::fmt;

use serde::de::value::Error as Captured;
use serde::de::{Deserialize, Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};
use serde::forward_to_deserialize_any;

use crate::error::Error;

/// What becomes of fields that the request struct does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unknown {
    /// They are ignored, as the compatible contract has it.
    Ignored,
    /// They are refused by name.
    Refused,
}

/// Decodes one JSON object; an empty body counts as `{}`.
pub fn decode<T>(bytes: &[u8], unknown: Unknown) -> Result<T, Error>
where
    T: serde::de::DeserializeOwned,
{
    let bytes = if bytes.trim_ascii().is_empty() {
        b"{}"
    } else {
        bytes
    };
    let known = field_names::<T>();
    if !bytes.trim_ascii_start().starts_with(b"{") {
        // Checked here because a struct can also be read from an array of its fields, which is nobody's contract.
        serde_json::from_slice::<IgnoredAny>(bytes).map_err(|error| malformed(&error))?;
        return Err(Error::Invalid {
            field: "body",
            reason: "must be a JSON object".into(),
        });
    }
    if unknown == Unknown::Refused {
        refuse_unknown(bytes, known)?;
    }
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut reader)
        .map_err(|failure| explain(&failure.path().to_string(), failure.inner(), known))?;
    reader.end().map_err(|error| malformed(&error))?;
    Ok(value)
}

fn refuse_unknown(bytes: &[u8], known: &'static [&'static str]) -> Result<(), Error> {
    let Keys(keys) = serde_json::from_slice(bytes).map_err(|error| explain(".", &error, known))?;
    match keys.iter().find(|key| !known.contains(&key.as_str())) {
        None => Ok(()),
        Some(key) => Err(Error::Invalid {
            field: "body",
            reason: format!("unknown field {key:?}, known are {}", known.join(", ")),
        }),
    }
}

/// The keys of an object; its values are skipped.
struct Keys(Vec<String>);

impl<'de> Deserialize<'de> for Keys {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Keys;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Keys, A::Error> {
                let mut keys = Vec::new();
                while let Some((key, IgnoredAny)) = map.next_entry()? {
                    keys.push(key);
                }
                Ok(Keys(keys))
            }
        }
        deserializer.deserialize_map(Collect)
    }
}

/// The error for a failure at `path`, a dotted path of which the first part is a field of the request.
fn explain(path: &str, error: &serde_json::Error, known: &'static [&'static str]) -> Error {
    if !error.is_data() {
        return malformed(error);
    }
    let end = path.find(['.', '[']).unwrap_or(path.len());
    let field = known.iter().copied().find(|name| *name == &path[..end]);
    let reason = match (field, &path[end..]) {
        (Some(_), "") | (None, _) => error.to_string(),
        (Some(_), rest) => format!("at {}: {error}", rest.trim_start_matches('.')),
    };
    Error::Invalid {
        field: field.unwrap_or("body"),
        reason,
    }
}

fn malformed(error: &serde_json::Error) -> Error {
    Error::Protocol {
        reason: format!("malformed JSON: {error}"),
    }
}

/// The names of the fields of a struct, as they are spelled on the wire, so that an error can name one of them
/// without carrying a string of the peer.
fn field_names<T: serde::de::DeserializeOwned>() -> &'static [&'static str] {
    let mut names: &'static [&'static str] = &[];
    // The deserializer always ends with an error: it only looks at what the struct asks for.
    drop(T::deserialize(FieldNames(&mut names)));
    names
}

struct FieldNames<'a>(&'a mut &'static [&'static str]);

impl<'de> Deserializer<'de> for FieldNames<'_> {
    type Error = Captured;

    fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Captured> {
        Err(Captured::custom("only structs have fields"))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        _visitor: V,
    ) -> Result<V::Value, Captured> {
        *self.0 = fields;
        Err(Captured::custom("captured"))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::error::Code;

    #[derive(Debug, Default, PartialEq, serde::Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    struct Sample {
        command: Option<String>,
        timeout_ms: Option<u64>,
        args: Option<Vec<String>>,
    }

    fn invalid(text: &str, unknown: Unknown) -> (&'static str, String) {
        match decode::<Sample>(text.as_bytes(), unknown) {
            Err(Error::Invalid { field, reason }) => (field, reason),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_wrong_field_is_named() {
        let (field, reason) = invalid(r#"{"timeoutMs":-3}"#, Unknown::Ignored);
        assert_eq!(field, "timeoutMs");
        assert!(reason.contains("-3"), "{reason}");
        let (field, reason) = invalid(r#"{"args":["a",5]}"#, Unknown::Ignored);
        assert_eq!(field, "args");
        assert!(reason.contains("[1]"), "{reason}");
        for text in ["[]", r#"["true"]"#, "5", "null"] {
            assert_eq!(invalid(text, Unknown::Refused).0, "body", "{text}");
            assert_eq!(invalid(text, Unknown::Ignored).0, "body", "{text}");
        }
    }

    #[test]
    fn malformed_json_is_a_protocol_error() {
        for text in [r#"{"command":"#, r#"{"command":"a"} x"#, "\u{0}", "nope"] {
            for unknown in [Unknown::Ignored, Unknown::Refused] {
                let error = decode::<Sample>(text.as_bytes(), unknown).unwrap_err();
                assert_eq!(error.code(), Code::Protocol, "{text}: {error}");
            }
        }
    }

    #[test]
    fn unknown_fields_are_ignored_or_refused() {
        let text = br#"{"command":"a","bogus":1}"#;
        assert_eq!(
            decode::<Sample>(text, Unknown::Ignored).unwrap().command.unwrap(),
            "a"
        );
        let (field, reason) = invalid(std::str::from_utf8(text).unwrap(), Unknown::Refused);
        assert_eq!(field, "body");
        assert!(
            reason.contains("bogus") && reason.contains("timeoutMs"),
            "{reason}"
        );
    }

    #[test]
    fn nothing_is_an_empty_object() {
        assert_eq!(
            decode::<Sample>(b" \n", Unknown::Refused).unwrap(),
            Sample::default()
        );
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode::<Sample>(&bytes, Unknown::Ignored);
            let _ = decode::<Sample>(&bytes, Unknown::Refused);
        }
    }
}
