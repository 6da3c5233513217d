//! Searching what files hold.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::Ordering;

use grep_matcher::Matcher;
use grep_regex::{RegexMatcher, RegexMatcherBuilder};
use grep_searcher::{BinaryDetection, Searcher, SearcherBuilder, Sink, SinkContext, SinkFinish, SinkMatch};

use super::budget::Budget;
use super::context::Assembly;
use super::report::Report;
use super::request::{Place, Request};
use crate::error::Error;

/// Bytes that a compiled pattern may take.
const PATTERN_BYTES: usize = 16 << 20;

/// Bytes that one line may take: a line is searched whole. A file with a longer one is counted as not read.
const LINE_BYTES: usize = 16 << 20;

/// The pattern, compiled. A pattern that would not fit in memory is refused; no pattern takes more than linear time.
pub(super) fn matcher(request: &Request) -> Result<RegexMatcher, Error> {
    let mut builder = RegexMatcherBuilder::new();
    builder
        .case_insensitive(request.ignore_case)
        .fixed_strings(request.literal)
        .line_terminator(Some(b'\n'))
        .size_limit(PATTERN_BYTES)
        .dfa_size_limit(PATTERN_BYTES);
    builder.build(&request.pattern).map_err(|error| Error::Invalid {
        field: "pattern",
        reason: error.to_string(),
    })
}

/// What one thread needs to search files.
#[derive(Debug)]
pub(super) struct Worker {
    matcher: RegexMatcher,
    searcher: Searcher,
    before: u64,
    after: u64,
}

impl Worker {
    pub(super) fn new(matcher: RegexMatcher, request: &Request) -> Self {
        let searcher = SearcherBuilder::new()
            .line_number(true)
            .before_context(request.before as usize)
            .after_context(request.after as usize)
            .binary_detection(BinaryDetection::quit(0))
            .heap_limit(Some(LINE_BYTES))
            .build();
        Self {
            matcher,
            searcher,
            before: request.before,
            after: request.after,
        }
    }

    /// The matches of the regular file at `path`; none when it is binary.
    pub(super) fn search(&mut self, path: &Path, budget: &Budget, report: &Report) -> Vec<Place> {
        match self.read(path, budget, report) {
            Ok(places) => places,
            // Removed since the directory was read: it is not there any more.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => {
                report.unread(Some(path.to_owned()), error.to_string());
                Vec::new()
            }
        }
    }

    fn read(&mut self, path: &Path, budget: &Budget, report: &Report) -> io::Result<Vec<Place>> {
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(path)?;
        report.files.fetch_add(1, Ordering::Relaxed);
        let reader = Metered { file, budget, report };
        let mut hits = Hits {
            matcher: &self.matcher,
            assembly: Assembly::new(self.before, self.after),
            // One more shows that there are more, and behind that many all lines after the last one have come.
            enough: budget.left() + 1 + self.after,
            most: budget.bytes_left(),
            is_binary: false,
        };
        self.searcher.search_reader(&self.matcher, reader, &mut hits)?;
        if hits.is_binary {
            report.binary.fetch_add(1, Ordering::Relaxed);
            return Ok(Vec::new());
        }
        Ok(hits.assembly.finish())
    }
}

/// A file whose reading ends when the search is over.
struct Metered<'a> {
    file: File,
    budget: &'a Budget,
    report: &'a Report,
}

impl Read for Metered<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.budget.is_over() {
            return Ok(0);
        }
        let read = self.file.read(buffer)?;
        self.report.bytes.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

/// What comes of one file.
struct Hits<'a> {
    matcher: &'a RegexMatcher,
    assembly: Assembly,
    /// Matches that are enough.
    enough: u64,
    /// Bytes of them that are.
    most: u64,
    is_binary: bool,
}

impl Sink for Hits<'_> {
    type Error = io::Error;

    fn matched(&mut self, _searcher: &Searcher, found: &SinkMatch<'_>) -> Result<bool, io::Error> {
        let number = found.line_number().unwrap_or(0);
        // One match has several lines only where patterns may span lines, which ours may not.
        let line = found.bytes();
        let first = self.matcher.find(line).ok().flatten();
        let column = first.map_or(1, |first| first.start() as u64 + 1);
        // One more than fits shows that there is more.
        let is_over = self.assembly.bytes() > self.most;
        self.assembly.hit(number, column, line);
        Ok(!is_over && self.assembly.count() < self.enough)
    }

    fn context(&mut self, _searcher: &Searcher, line: &SinkContext<'_>) -> Result<bool, io::Error> {
        self.assembly.context(line.bytes());
        Ok(true)
    }

    fn context_break(&mut self, _searcher: &Searcher) -> Result<bool, io::Error> {
        self.assembly.gap();
        Ok(true)
    }

    fn finish(&mut self, _searcher: &Searcher, end: &SinkFinish) -> Result<(), io::Error> {
        self.is_binary = end.binary_byte_offset().is_some();
        Ok(())
    }
}
