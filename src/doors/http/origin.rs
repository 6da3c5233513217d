//! Protection against pages in a browser: the Host header (DNS rebinding), the Origin header (cross-site requests), and
//! CORS for the origins that the configuration lists.

use std::net::IpAddr;

use axum::http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_METHOD, HOST, ORIGIN, UPGRADE, VARY,
};
use axum::http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Version};
use axum::response::{IntoResponse, Response};

use super::error::Problem;
use super::websocket::offers;

/// What is known about the listener that a request came through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Via {
    /// A TCP listener bound to this address.
    Tcp(IpAddr),
    /// A Unix socket: no browser can reach it.
    Unix,
}

/// The rules of one daemon.
#[derive(Debug)]
pub(super) struct Origins {
    /// Names besides the loopback ones, lower case; addresses without brackets.
    hosts: Vec<String>,
    /// Allowed origins, lower case, without a slash at the end.
    origins: Vec<String>,
}

impl Origins {
    pub(super) fn new(hosts: &[String], origins: &[String]) -> Self {
        Self {
            hosts: hosts
                .iter()
                .map(|host| without_brackets(host).to_ascii_lowercase())
                .collect(),
            origins: origins
                .iter()
                .map(|origin| origin.trim_end_matches('/').to_ascii_lowercase())
                .collect(),
        }
    }

    /// Refuses names that are not ours, and pages of other origins that try to change something.
    pub(super) fn check<B>(&self, request: &Request<B>, via: Via) -> Result<(), Problem> {
        let host = self.check_host(request, via)?;
        // A socket is opened by a safe method, carries input, and no browser keeps a page from it.
        let is_socket = offers(request.headers(), &UPGRADE, "websocket");
        if is_safe(request.method()) && !is_socket {
            return Ok(());
        }
        let Some(origin) = request.headers().get(ORIGIN) else {
            return Ok(());
        };
        let origin = origin.to_str().unwrap_or("(not ASCII)");
        if self.allows(origin) || host.is_some_and(|host| is_same(origin, host)) {
            return Ok(());
        }
        Err(Problem::foreign_origin(origin))
    }

    /// The authority of the request, checked where names matter: on loopback, and wherever names are configured.
    fn check_host<'a, B>(&self, request: &'a Request<B>, via: Via) -> Result<Option<&'a str>, Problem> {
        let mut hosts = request.headers().get_all(HOST).iter();
        let header = match (hosts.next(), hosts.next()) {
            (None, _) if request.version() == Version::HTTP_10 => None,
            (None, _) => return Err(Problem::bad_request("the Host header is missing")),
            (Some(_), Some(_)) => return Err(Problem::bad_request("there are several Host headers")),
            (Some(value), None) => Some(
                value
                    .to_str()
                    .map_err(|_| Problem::bad_request("the Host header is not ASCII"))?,
            ),
        };
        // A request target in absolute form names the authority too, and then that one counts (RFC 9112, 3.2.2).
        let host = request
            .uri()
            .authority()
            .map(axum::http::uri::Authority::as_str)
            .or(header);
        let Via::Tcp(bound) = via else {
            return Ok(host);
        };
        if !bound.is_loopback() && self.hosts.is_empty() {
            return Ok(host);
        }
        for name in [host, header].into_iter().flatten() {
            if !self.knows(without_port(name), bound) {
                return Err(Problem::foreign_host(name));
            }
        }
        Ok(host)
    }

    fn knows(&self, name: &str, bound: IpAddr) -> bool {
        if name.eq_ignore_ascii_case("localhost") {
            return true;
        }
        let name = without_brackets(name);
        // A literal cannot be rebound: whoever sends it connected to that address.
        let is_ours = |address: IpAddr| address.is_loopback() || address == bound;
        name.parse().is_ok_and(is_ours) || self.lists(name)
    }

    fn lists(&self, name: &str) -> bool {
        self.hosts.iter().any(|known| known.eq_ignore_ascii_case(name))
    }

    fn allows(&self, origin: &str) -> bool {
        self.origins
            .iter()
            .any(|known| known.eq_ignore_ascii_case(origin))
    }

    /// The answer to a preflight of an allowed origin; `None` for every other request.
    pub(super) fn preflight<B>(&self, request: &Request<B>) -> Option<Response> {
        let headers = request.headers();
        if request.method() != Method::OPTIONS || !headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD) {
            return None;
        }
        let origin = self.allowed_origin(headers)?;
        let mut response = StatusCode::NO_CONTENT.into_response();
        let answer = response.headers_mut();
        share(answer, origin);
        answer.insert(
            ACCESS_CONTROL_ALLOW_METHODS,
            HeaderValue::from_static("GET, HEAD, POST, PUT, DELETE"),
        );
        answer.insert(
            ACCESS_CONTROL_ALLOW_HEADERS,
            HeaderValue::from_static(
                "authorization, content-type, range, if-match, if-none-match, if-range, last-event-id, x-request-id",
            ),
        );
        answer.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
        Some(response)
    }

    /// The allowed origin that a request comes from, if it does.
    pub(super) fn allowed_origin(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        if self.origins.is_empty() {
            return None;
        }
        let origin = headers.get(ORIGIN)?;
        self.allows(origin.to_str().ok()?).then(|| origin.clone())
    }

    /// Lets the page on `origin` read the answer.
    pub(super) fn mark(&self, response: &mut Response, origin: Option<HeaderValue>) {
        if self.origins.is_empty() {
            return;
        }
        match origin {
            Some(origin) => share(response.headers_mut(), origin),
            None => {
                response
                    .headers_mut()
                    .append(VARY, HeaderValue::from_static("origin"));
            }
        }
    }
}

fn share(headers: &mut HeaderMap, origin: HeaderValue) {
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    headers.insert(
        ACCESS_CONTROL_EXPOSE_HEADERS,
        HeaderValue::from_static("x-request-id, etag, content-range, accept-ranges, retry-after, allow"),
    );
    headers.append(VARY, HeaderValue::from_static("origin"));
}

fn is_safe(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

/// Whether a page on `origin` is a page of ours, reached under the same authority.
fn is_same(origin: &str, host: &str) -> bool {
    let authority = origin
        .strip_prefix("http://")
        .or_else(|| origin.strip_prefix("https://"));
    authority.is_some_and(|authority| authority.eq_ignore_ascii_case(host))
}

/// An IPv6 address as it is written outside of an authority.
fn without_brackets(name: &str) -> &str {
    name.strip_prefix('[')
        .and_then(|name| name.strip_suffix(']'))
        .unwrap_or(name)
}

fn without_port(authority: &str) -> &str {
    if let Some(end) = authority.find(']') {
        return &authority[..=end];
    }
    authority.split_once(':').map_or(authority, |(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOOPBACK: Via = Via::Tcp(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST));
    const EVERYWHERE: Via = Via::Tcp(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED));

    fn status(origins: &Origins, via: Via, method: &str, host: Option<&str>, origin: Option<&str>) -> u16 {
        let mut request = Request::builder().method(method).uri("/v1/health");
        if let Some(host) = host {
            request = request.header(HOST, host);
        }
        if let Some(origin) = origin {
            request = request.header(ORIGIN, origin);
        }
        match origins.check(&request.body(()).unwrap(), via) {
            Ok(()) => 200,
            Err(problem) => problem.render("id").status().as_u16(),
        }
    }

    #[test]
    fn a_foreign_host_is_misdirected_on_loopback() {
        let rules = Origins::new(&["Box.Example".into()], &[]);
        for known in [
            "localhost",
            "LOCALHOST:2468",
            "127.0.0.1:9",
            "127.9.9.9",
            "[::1]:80",
            "box.example:1",
        ] {
            assert_eq!(status(&rules, LOOPBACK, "GET", Some(known), None), 200, "{known}");
        }
        for foreign in [
            "evil.example",
            "evil.example:2468",
            "localhost.evil.example",
            "10.0.0.1",
            "",
            "[::2]",
        ] {
            assert_eq!(
                status(&rules, LOOPBACK, "GET", Some(foreign), None),
                421,
                "{foreign}"
            );
        }
        assert_eq!(status(&rules, EVERYWHERE, "GET", Some("evil.example"), None), 421);
        for listed in ["fd00::7", "[fd00::7]"] {
            let rules = Origins::new(&[listed.into()], &[]);
            assert_eq!(
                status(&rules, LOOPBACK, "GET", Some("[FD00::7]:80"), None),
                200,
                "{listed}"
            );
        }
        let unnamed = Origins::new(&[], &[]);
        assert_eq!(status(&unnamed, EVERYWHERE, "GET", Some("my.example"), None), 200);
        assert_eq!(status(&unnamed, Via::Unix, "GET", Some("anything"), None), 200);
        assert_eq!(status(&unnamed, LOOPBACK, "GET", None, None), 400);
    }

    #[test]
    fn the_authority_of_an_absolute_target_counts_too() {
        let request = Request::builder()
            .uri("http://evil.example/v1/health")
            .header(HOST, "localhost")
            .body(())
            .unwrap();
        assert!(Origins::new(&[], &[]).check(&request, LOOPBACK).is_err());
        let request = Request::builder()
            .uri("http://localhost/v1/health")
            .header(HOST, "evil.example")
            .body(())
            .unwrap();
        assert!(Origins::new(&[], &[]).check(&request, LOOPBACK).is_err());
    }

    #[test]
    fn a_foreign_page_may_not_change_anything() {
        let rules = Origins::new(&[], &["https://app.example/".into()]);
        let check = |method, origin| status(&rules, LOOPBACK, method, Some("localhost:2468"), Some(origin));
        for method in ["POST", "PUT", "DELETE", "PATCH"] {
            assert_eq!(check(method, "https://evil.example"), 403, "{method}");
            assert_eq!(check(method, "null"), 403, "{method}");
            assert_eq!(check(method, "http://localhost:9999"), 403, "{method}");
            assert_eq!(check(method, "http://localhost:2468"), 200, "{method}");
            assert_eq!(check(method, "https://app.example"), 200, "{method}");
        }
        assert_eq!(check("GET", "https://evil.example"), 200);
    }

    #[test]
    fn a_preflight_is_answered_for_listed_origins_only() {
        let preflight = |rules: &Origins, origin: &str| {
            let request = Request::builder()
                .method("OPTIONS")
                .header(ORIGIN, origin)
                .header(ACCESS_CONTROL_REQUEST_METHOD, "PUT")
                .body(())
                .unwrap();
            rules.preflight(&request)
        };
        let rules = Origins::new(&[], &["https://app.example".into()]);
        let response = preflight(&rules, "https://app.example").unwrap();
        assert_eq!(
            response.headers()[ACCESS_CONTROL_ALLOW_ORIGIN],
            "https://app.example"
        );
        assert_eq!(response.headers()[ACCESS_CONTROL_ALLOW_CREDENTIALS], "true");
        assert!(preflight(&rules, "https://evil.example").is_none());
        assert!(preflight(&Origins::new(&[], &[]), "https://app.example").is_none());
    }
}
