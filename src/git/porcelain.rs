//! `git status --porcelain=v2 --branch -z`, read (git-status(1), "Porcelain Format Version 2"). Pure.

/// What it says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PorcelainStatus {
    /// The branch; empty when `HEAD` is detached.
    pub branch: String,
    /// What it follows; empty without one.
    pub upstream: String,
    /// Commits that the upstream does not have.
    pub ahead: i32,
    /// Commits that only the upstream has.
    pub behind: i32,
    /// The entries.
    pub files: Vec<PorcelainFile>,
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PorcelainFile {
    /// Its path, any bytes.
    pub path: Vec<u8>,
    /// The two letters: index and worktree.
    pub code: String,
    /// Something of it is in the index.
    pub staged: bool,
}

/// Reads it; what is not understood is passed over.
pub fn porcelain(text: &[u8]) -> PorcelainStatus {
    let mut status = PorcelainStatus::default();
    let mut records = text.split(|byte| *byte == 0);
    while let Some(record) = records.next() {
        let (kind, rest) = record.split_at(record.len().min(2));
        match kind {
            b"# " => header(&mut status, &String::from_utf8_lossy(rest)),
            b"1 " => status.files.extend(changed(rest, 7)),
            b"2 " => {
                status.files.extend(changed(rest, 8));
                // The old path is a record of its own.
                let _ = records.next();
            }
            b"u " => status.files.extend(changed(rest, 9)),
            b"? " | b"! " => {
                let letter = kind[0] as char;
                status.files.push(PorcelainFile {
                    path: rest.to_vec(),
                    code: format!("{letter}{letter}"),
                    staged: false,
                });
            }
            _ => {}
        }
    }
    status
}

fn header(status: &mut PorcelainStatus, text: &str) {
    match text.split_once(' ') {
        Some(("branch.head", "(detached)")) => {}
        Some(("branch.head", name)) => name.clone_into(&mut status.branch),
        Some(("branch.upstream", name)) => name.clone_into(&mut status.upstream),
        Some(("branch.ab", figures)) => {
            let mut numbers = figures
                .split(' ')
                .map(|number| number.parse::<i32>().unwrap_or(0));
            status.ahead = numbers.next().unwrap_or(0);
            status.behind = -numbers.next().unwrap_or(0);
        }
        _ => {}
    }
}

/// `XY` and so many more fields before the path.
fn changed(record: &[u8], fields: usize) -> Option<PorcelainFile> {
    let mut parts = record.splitn(fields + 1, |byte| *byte == b' ');
    let code = String::from_utf8_lossy(parts.next()?).into_owned();
    let path = parts.nth(fields - 1)?.to_vec();
    let staged = !code.starts_with('.');
    Some(PorcelainFile { path, code, staged })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_kind_of_entry_is_read() {
        let text =
            b"# branch.oid 1234\0# branch.head main\0# branch.upstream origin/main\0# branch.ab +2 -3\0\
            1 .M N... 100644 100644 100644 aaa bbb with space\nand line\0\
            2 R. N... 100644 100644 100644 aaa bbb R100 new name\0old name\0\
            u UU N... 100644 100644 100644 100644 a b c conflict \xff\0? un tracked\0! ignored\0";
        let status = porcelain(text);
        assert_eq!(
            (status.branch.as_str(), status.upstream.as_str()),
            ("main", "origin/main")
        );
        assert_eq!((status.ahead, status.behind), (2, 3));
        let files: Vec<_> = status
            .files
            .iter()
            .map(|file| (&file.path[..], file.code.as_str(), file.staged))
            .collect();
        assert_eq!(
            files,
            [
                (&b"with space\nand line"[..], ".M", false),
                (&b"new name"[..], "R.", true),
                (&b"conflict \xff"[..], "UU", true),
                (&b"un tracked"[..], "??", false),
                (&b"ignored"[..], "!!", false),
            ]
        );
        assert_eq!(porcelain(b"# branch.head (detached)\0").branch, "");
    }

    proptest! {
        #[test]
        fn nothing_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = porcelain(&bytes);
        }
    }
}
