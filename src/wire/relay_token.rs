//! Tokens of the relay: `prefix + base64url(JSON claims) + "." + base64url(HMAC-SHA256(secret, encoded claims))`, without
//! padding. Pure: the caller gives the time.
//!
//! The prefix says what a token is for and is outside the signature, so a token counts as its kind only when its claims
//! are those of that kind.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, Mac};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::Sha256;

use crate::error::Error;

/// Claims that make a token one of a viewer.
const OF_VIEWERS: [&str; 5] = ["sessionId", "viewerId", "leaseEpoch", "mode", "port"];

/// Claims of one kind of token.
pub trait Claims: Serialize + DeserializeOwned {
    /// What its tokens begin with.
    const PREFIX: &'static str;

    /// The last second in which it counts, unix time.
    fn expires(&self) -> u64;

    /// Whether claims are of another kind although they have all that this one needs.
    fn are_foreign(_claims: &Map<String, Value>) -> bool {
        false
    }
}

/// What a viewer may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Look.
    View,
    /// Look, type and point.
    Control,
}

/// What a viewer presents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ViewerClaims {
    /// Of the channel.
    pub workspace_id: String,
    /// The agent of the channel; any of the workspace when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_id: Option<String>,
    /// The session that looks.
    pub session_id: String,
    /// The viewer in it.
    pub viewer_id: String,
    /// Grows with each lease: whoever has an older one is fenced off.
    pub lease_epoch: u64,
    /// What it may do.
    pub mode: Mode,
    /// The stream port.
    pub port: u16,
    /// The last second in which it counts, unix time.
    pub exp: u64,
}

/// What the machine presents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProducerClaims {
    /// Of its channels.
    pub workspace_id: String,
    /// The machine.
    pub agent_id: String,
    /// The last second in which it counts, unix time.
    pub exp: u64,
}

impl Claims for ViewerClaims {
    const PREFIX: &'static str = "ogs_";

    fn expires(&self) -> u64 {
        self.exp
    }
}

impl Claims for ProducerClaims {
    const PREFIX: &'static str = "ogr_";

    fn expires(&self) -> u64 {
        self.exp
    }

    fn are_foreign(claims: &Map<String, Value>) -> bool {
        OF_VIEWERS.iter().any(|name| claims.contains_key(*name))
    }
}

/// The token that holds these claims.
///
/// # Errors
///
/// [`Error::Invalid`] when the secret is empty: anybody could sign with that.
pub fn mint<C: Claims>(claims: &C, secret: &[u8]) -> Result<String, Error> {
    let json = serde_json::to_vec(claims).map_err(|error| Error::Internal {
        reason: format!("claims cannot be written: {error}"),
    })?;
    let encoded = URL_SAFE_NO_PAD.encode(json);
    let signature = URL_SAFE_NO_PAD.encode(signed(&encoded, secret)?.finalize().into_bytes());
    Ok(format!("{}{encoded}.{signature}", C::PREFIX))
}

/// The claims of a token that is signed with the secret and counts at `now`, unix seconds.
///
/// # Errors
///
/// [`Error::Unauthenticated`] saying what is wrong with it; nothing of the token is in the error.
pub fn verify<C: Claims>(token: &str, secret: &[u8], now: u64) -> Result<C, Error> {
    let refused = |reason| Error::Unauthenticated { reason };
    let rest = token
        .strip_prefix(C::PREFIX)
        .ok_or_else(|| refused("the token does not begin as one of its kind"))?;
    let (encoded, signature) = rest
        .rsplit_once('.')
        .ok_or_else(|| refused("the token has no signature"))?;
    let signature = URL_SAFE_NO_PAD
        .decode(signature)
        .map_err(|_| refused("the token has a signature that is not base64url"))?;
    // In constant time.
    signed(encoded, secret)?
        .verify_slice(&signature)
        .map_err(|_| refused("the token is not signed with this secret"))?;
    let json = URL_SAFE_NO_PAD
        .decode(encoded)
        .map_err(|_| refused("the token has claims that are not base64url"))?;
    let claims: Map<String, Value> = serde_json::from_slice(&json)
        .map_err(|_| refused("the token has claims that are not a JSON object"))?;
    if C::are_foreign(&claims) {
        return Err(refused("the token is one of another kind under this prefix"));
    }
    let claims: C = serde_json::from_value(Value::Object(claims))
        .map_err(|_| refused("the token does not have the claims of its kind"))?;
    if claims.expires() < now {
        return Err(refused("the token has expired"));
    }
    Ok(claims)
}

fn signed(encoded: &str, secret: &[u8]) -> Result<Hmac<Sha256>, Error> {
    let empty = || Error::Invalid {
        field: "secret",
        reason: "is empty, anybody could sign with it".into(),
    };
    if secret.is_empty() {
        return Err(empty());
    }
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).map_err(|_| empty())?;
    mac.update(encoded.as_bytes());
    Ok(mac)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize)]
    struct Vector {
        token: String,
        secret: String,
        now: u64,
        valid: bool,
        kind: String,
        claims: Option<Value>,
        why: Option<String>,
    }

    #[derive(Deserialize)]
    struct Vectors {
        vectors: Vec<Vector>,
    }

    fn verdict(vector: &Vector) -> Result<Value, Error> {
        let secret = vector.secret.as_bytes();
        let shown = |claims| serde_json::to_value(claims).unwrap();
        match vector.kind.as_str() {
            "ogs_" => verify::<ViewerClaims>(&vector.token, secret, vector.now)
                .map(|claims| serde_json::to_value(claims).unwrap()),
            "ogr_" => verify::<ProducerClaims>(&vector.token, secret, vector.now).map(shown),
            other => panic!("an unknown kind {other}"),
        }
    }

    #[test]
    fn the_vectors_are_kept() {
        let text = include_str!("../../tests/vectors/relay-tokens.json");
        let vectors: Vectors = serde_json::from_str(text).unwrap();
        assert!(vectors.vectors.len() > 10);
        for vector in &vectors.vectors {
            let verdict = verdict(vector);
            match verdict {
                Ok(claims) => {
                    assert!(vector.valid, "{:?} was accepted", vector.why);
                    assert_eq!(Some(&claims), vector.claims.as_ref());
                }
                Err(error) => assert!(!vector.valid, "{} was refused: {error}", vector.token),
            }
        }
    }

    fn viewer() -> ViewerClaims {
        ViewerClaims {
            workspace_id: "w".into(),
            agent_id: Some("a".into()),
            session_id: "s".into(),
            viewer_id: "v".into(),
            lease_epoch: 1,
            mode: Mode::View,
            port: 7681,
            exp: 100,
        }
    }

    #[test]
    fn what_was_minted_is_accepted_until_it_expires() {
        let token = mint(&viewer(), b"secret").unwrap();
        assert_eq!(verify::<ViewerClaims>(&token, b"secret", 100).unwrap(), viewer());
        let late = verify::<ViewerClaims>(&token, b"secret", 101).unwrap_err();
        assert!(late.to_string().contains("expired"), "{late}");
        assert!(mint(&viewer(), b"").is_err());
        assert!(verify::<ViewerClaims>(&token, b"", 0).is_err());
    }

    #[test]
    fn a_token_under_the_prefix_of_another_kind_is_refused() {
        // It has all that a producer needs.
        let token = mint(&viewer(), b"secret").unwrap().replacen("ogs_", "ogr_", 1);
        let error = verify::<ProducerClaims>(&token, b"secret", 0).unwrap_err();
        assert!(error.to_string().contains("another kind"), "{error}");
        let producer = ProducerClaims {
            workspace_id: "w".into(),
            agent_id: "a".into(),
            exp: 100,
        };
        let token = mint(&producer, b"secret").unwrap();
        assert_eq!(verify::<ProducerClaims>(&token, b"secret", 0).unwrap(), producer);
        let token = token.replacen("ogr_", "ogs_", 1);
        assert!(verify::<ViewerClaims>(&token, b"secret", 0).is_err());
    }
}
