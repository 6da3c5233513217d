//! Which of our forms a caller takes by its `Accept` header.

use axum::http::HeaderMap;
use axum::http::header::ACCEPT;

use crate::wire::json::Framing;

/// What a caller takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Accept {
    json: bool,
    /// The stream that it names first.
    stream: Option<Framing>,
}

impl Accept {
    /// Without a header, JSON.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let mut accept = Self {
            json: false,
            stream: None,
        };
        let values = headers.get_all(ACCEPT).iter();
        let ranges = values
            .filter_map(|value| value.to_str().ok())
            .flat_map(|text| text.split(','));
        for range in ranges {
            let media = range.split(';').next().unwrap_or_default().trim();
            let is = |name: &str| media.eq_ignore_ascii_case(name);
            accept.json |= is("application/json") || is("application/*") || is("*/*");
            let stream = [Framing::Sse, Framing::Ndjson]
                .into_iter()
                .find(|framing| is(framing.content_type()));
            accept.stream = accept.stream.or(stream);
        }
        accept
    }

    /// The stream that it takes and nothing else: one JSON object would not do.
    pub(super) fn only(self) -> Option<Framing> {
        self.stream.filter(|_| !self.json)
    }

    /// Whether that is this one.
    pub(super) fn is_only(self, framing: Framing) -> bool {
        self.only() == Some(framing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_only_for_those_who_ask_for_it_and_not_for_json() {
        let only = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, text.parse().unwrap());
            Accept::of(&headers).only()
        };
        assert_eq!(only("text/event-stream"), Some(Framing::Sse));
        assert_eq!(
            only("application/x-ndjson;q=1, text/event-stream"),
            Some(Framing::Ndjson)
        );
        for json in [
            "application/json, text/event-stream",
            "*/*",
            "text/html",
            "text/event-stream, */*;q=0.1",
        ] {
            assert_eq!(only(json), None, "{json}");
        }
        assert_eq!(Accept::of(&HeaderMap::new()).only(), None);
    }
}
