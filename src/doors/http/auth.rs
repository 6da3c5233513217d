//! Who is asking: bearer tokens to principals.
//!
//! Only digests of tokens are kept and compared, in constant time and against every row, so that neither memory nor
//! timing tells a token. A token in the URL is looked at on event streams only.

use axum::http::HeaderMap;
use axum::http::header::{AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use subtle::ConstantTimeEq;

use super::error::Problem;
use super::query::Query;
use crate::ops::{Door, Principal, Scope};
use crate::telemetry::Secret;

/// A token and what it allows.
#[derive(Debug, Clone)]
pub struct Token {
    /// Unique; the principal is `token:<label>`.
    pub label: String,
    /// The token itself.
    pub secret: Secret<String>,
    /// What it allows.
    pub scopes: Vec<Scope>,
}

impl Token {
    /// The daemon's own token, which allows everything.
    pub fn full(secret: Secret<String>) -> Self {
        Self {
            label: "main".into(),
            secret,
            scopes: vec![Scope::Full],
        }
    }
}

/// Who may speak to this door.
#[derive(Debug, Clone)]
pub enum Access {
    /// Holders of one of these tokens.
    Tokens(Vec<Token>),
    /// Everyone who can connect.
    Open,
}

/// The table that requests are checked against.
#[derive(Debug)]
pub(super) struct Tokens {
    rows: Vec<Row>,
    /// Who everyone is when no token is asked for.
    open: Option<Principal>,
}

#[derive(Debug)]
struct Row {
    digest: blake3::Hash,
    principal: Principal,
}

impl Tokens {
    pub(super) fn new(access: &Access) -> Self {
        match access {
            Access::Open => Self {
                rows: Vec::new(),
                open: Some(Principal::full("token:none", Door::Http)),
            },
            Access::Tokens(tokens) => Self {
                rows: tokens.iter().map(Row::new).collect(),
                open: None,
            },
        }
    }

    /// The principal of a request: `None` when it shows no token, an error when it shows a wrong one.
    pub(super) fn check(&self, headers: &HeaderMap) -> Result<Option<Principal>, Problem> {
        if let Some(everyone) = &self.open {
            return Ok(Some(everyone.clone()));
        }
        let mut shown = headers.get_all(AUTHORIZATION).iter();
        let Some(value) = shown.next() else {
            return Ok(None);
        };
        if shown.next().is_some() {
            return Err(Problem::token("several Authorization headers"));
        }
        let token =
            bearer(value.as_bytes()).ok_or_else(|| Problem::token("the credential is not a bearer token"))?;
        self.find(token)
            .map(Some)
            .ok_or_else(|| Problem::token("the bearer token is not valid"))
    }

    /// The principal of `access_token` in a query, likewise.
    pub(super) fn check_query(&self, query: Option<&str>) -> Result<Option<Principal>, Problem> {
        let query = Query::parse(query.unwrap_or_default())?;
        let Some(token) = query.text("access_token")? else {
            return Ok(None);
        };
        self.find(token.as_bytes())
            .map(Some)
            .ok_or_else(|| Problem::token("the access token is not valid"))
    }

    /// The principal of `bearer.<base64url of the token>` among the subprotocols that a `WebSocket` client offers: a page can
    /// set no other header.
    pub(super) fn check_protocols(&self, headers: &HeaderMap) -> Result<Option<Principal>, Problem> {
        let offered = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter();
        let offered = offered
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','));
        let Some(encoded) = offered
            .map(str::trim)
            .find_map(|name| name.strip_prefix("bearer."))
        else {
            return Ok(None);
        };
        let invalid = || Problem::token("the token among the subprotocols is not valid");
        let token = URL_SAFE_NO_PAD.decode(encoded).map_err(|_| invalid())?;
        self.find(&token).map(Some).ok_or_else(invalid)
    }

    fn find(&self, token: &[u8]) -> Option<Principal> {
        let digest = blake3::hash(token);
        let mut found = None;
        for row in &self.rows {
            if bool::from(row.digest.as_bytes().ct_eq(digest.as_bytes())) {
                found = Some(&row.principal);
            }
        }
        found.cloned()
    }
}

impl Row {
    fn new(token: &Token) -> Self {
        let mut principal = Principal::full(format!("token:{}", token.label), Door::Http);
        principal.scopes = token.scopes.clone().into();
        Self {
            digest: blake3::hash(token.secret.expose().as_bytes()),
            principal,
        }
    }
}

/// The token of `Bearer <token>`; the scheme is case-insensitive.
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked(7)?;
    let token = token.trim_ascii();
    (scheme.eq_ignore_ascii_case(b"bearer ") && !token.is_empty()).then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(AUTHORIZATION, value.parse().unwrap());
        }
        headers
    }

    fn tokens() -> Tokens {
        let main = Token::full(Secret::new("correct".to_owned()));
        let reader = Token {
            label: "reader".into(),
            secret: Secret::new("r".to_owned()),
            scopes: vec![Scope::Read],
        };
        Tokens::new(&Access::Tokens(vec![main, reader]))
    }

    #[test]
    fn a_token_is_its_principal() {
        for value in ["Bearer correct", "bearer  correct", "BEARER correct "] {
            let principal = tokens().check(&headers(&[value])).unwrap().unwrap();
            assert_eq!(&*principal.id, "token:main");
        }
        let reader = tokens().check(&headers(&["Bearer r"])).unwrap().unwrap();
        assert!(reader.allows(Scope::Read) && !reader.allows(Scope::Workspace));
    }

    #[test]
    fn anything_else_is_refused() {
        for value in [
            "Bearer wrong",
            "Bearer correct2",
            "Bearer ",
            "Basic correct",
            "correct",
            "Bearer",
        ] {
            assert!(tokens().check(&headers(&[value])).is_err(), "{value}");
        }
        assert!(
            tokens()
                .check(&headers(&["Bearer correct", "Bearer correct"]))
                .is_err()
        );
        assert!(tokens().check(&HeaderMap::new()).unwrap().is_none());
    }

    #[test]
    fn a_page_shows_its_token_among_the_subprotocols() {
        let offered = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(SEC_WEBSOCKET_PROTOCOL, value.parse().unwrap());
            tokens().check_protocols(&headers)
        };
        let encoded = URL_SAFE_NO_PAD.encode("correct");
        let principal = offered(&format!("boxd.v1, bearer.{encoded}")).unwrap().unwrap();
        assert_eq!(&*principal.id, "token:main");
        assert!(offered("boxd.v1").unwrap().is_none());
        for wrong in ["bearer.", "bearer.???", "bearer.d3Jvbmc"] {
            assert!(offered(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_open_door_knows_everyone() {
        let everyone = Tokens::new(&Access::Open)
            .check(&HeaderMap::new())
            .unwrap()
            .unwrap();
        assert!(everyone.allows(Scope::Full));
    }
}
