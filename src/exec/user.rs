//! Who a command runs as, when that is not who the daemon is: a name or numbers, looked up in `/etc/passwd` and
//! `/etc/group`. The change itself happens in `cradle`, between birth and the program.

use std::ffi::{CString, OsString};

use nix::errno::Errno;
use nix::unistd::{self, Gid, Group, Uid};

use super::spec::Environment;
use crate::error::Error;

/// What the kernel asks of whoever changes the user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Credentials {
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Supplementary groups.
    pub(super) groups: Vec<u32>,
}

/// A user that a command can run as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct User {
    /// As the caller spelled it.
    asked: String,
    /// `None` when it is who the daemon is already.
    credentials: Option<Credentials>,
    name: OsString,
    home: OsString,
    shell: OsString,
}

/// No user has this number: to the kernel it means "leave as it is".
const NOBODY: u32 = u32::MAX;
/// Programs that stand in `/etc/passwd` for "may not log in". A command asks for no login, and a shell line needs a
/// shell.
const NO_LOGIN: [&str; 2] = ["nologin", "false"];

impl User {
    /// Looks up `name`, `uid`, or either with `:group` or `:gid`. A name wins over a number that reads the same. With a
    /// group of its own a user is in no other; without, in all of those that `/etc/group` says. A number that is in no
    /// file needs a group.
    pub(super) fn find(asked: &str) -> Result<Self, Error> {
        let (user, group) = asked
            .split_once(':')
            .map_or((asked, None), |(user, group)| (user, Some(group)));
        if user.is_empty() || group.is_some_and(|group| group.is_empty() || group.contains(':')) {
            return Err(Error::Invalid {
                field: "user",
                reason: format!("{asked:?} is neither a name nor of the form uid:gid"),
            });
        }
        let number = number(user)?;
        let entry = match found(unistd::User::from_name(user))? {
            None => match number {
                Some(uid) => found(unistd::User::from_uid(Uid::from_raw(uid)))?,
                None => None,
            },
            named => named,
        };
        let group = group.map(find_group).transpose()?;
        let unknown = || Error::NotFound {
            what: "user",
            name: user.into(),
        };
        let uid = entry.as_ref().map(|entry| entry.uid.as_raw()).or(number);
        let uid = uid.ok_or_else(unknown)?;
        let gid = group.or(entry.as_ref().map(|entry| entry.gid.as_raw()));
        let gid = gid.ok_or_else(unknown)?;
        let groups = match &entry {
            Some(entry) if group.is_none() => groups(&entry.name, gid)?,
            _ => Vec::new(),
        };
        Self {
            asked: asked.into(),
            credentials: Some(Credentials { uid, gid, groups }),
            name: entry
                .as_ref()
                .map_or(uid.to_string(), |entry| entry.name.clone())
                .into(),
            home: entry
                .as_ref()
                .map_or("/".into(), |entry| entry.dir.clone().into()),
            shell: entry.map_or("/bin/sh".into(), |entry| shell(entry.shell.into())),
        }
        .for_this_daemon()
    }

    /// Only root can change the user; nobody needs to become who he is.
    fn for_this_daemon(mut self) -> Result<Self, Error> {
        let own = (unistd::geteuid(), unistd::getegid());
        let wanted = self.credentials.as_ref();
        if wanted.is_some_and(|wanted| (wanted.uid, wanted.gid) == (own.0.as_raw(), own.1.as_raw())) {
            self.credentials = None;
        } else if !own.0.is_root() {
            return Err(Error::Denied {
                doing: format!(
                    "run as user {:?} (the daemon runs as uid {}: start it as root, or leave the user out)",
                    self.asked, own.0
                ),
                errno: libc::EPERM,
            });
        }
        Ok(self)
    }

    /// As the caller spelled it.
    pub(super) fn asked(&self) -> &str {
        &self.asked
    }

    /// What the child has to change to; `None` when it need not.
    pub(super) fn credentials(&self) -> Option<&Credentials> {
        self.credentials.as_ref()
    }

    /// `HOME`, `USER`, `LOGNAME` and `SHELL` of this user, under what the caller has set. An exact environment stays.
    pub(super) fn beneath(&self, environment: Environment) -> Environment {
        match environment {
            Environment::Overlay(given) => {
                let own = [
                    ("HOME", &self.home),
                    ("USER", &self.name),
                    ("LOGNAME", &self.name),
                    ("SHELL", &self.shell),
                ];
                // Of a name that comes twice the later one counts.
                let own = own.map(|(name, value)| (name.into(), value.clone()));
                Environment::Overlay(own.into_iter().chain(given).collect())
            }
            exact @ Environment::Exact(_) => exact,
        }
    }
}

fn shell(entry: OsString) -> OsString {
    let program = std::path::Path::new(&entry).file_name();
    if program.is_none_or(|program| NO_LOGIN.iter().any(|refusal| program == *refusal)) {
        return "/bin/sh".into();
    }
    entry
}

fn find_group(asked: &str) -> Result<u32, Error> {
    let number = number(asked)?;
    let named = found(Group::from_name(asked))?.map(|group| group.gid.as_raw());
    named.or(number).ok_or_else(|| Error::NotFound {
        what: "group",
        name: asked.into(),
    })
}

/// The supplementary groups of a user, its own among them.
fn groups(name: &str, gid: u32) -> Result<Vec<u32>, Error> {
    // What stood in a file of lines holds no NUL.
    let name = CString::new(name).unwrap_or_default();
    let groups = unistd::getgrouplist(&name, Gid::from_raw(gid)).map_err(|errno| Error::Io {
        doing: format!("look up the groups of {name:?}"),
        source: errno.into(),
    })?;
    Ok(groups.into_iter().map(Gid::as_raw).collect())
}

fn number(text: &str) -> Result<Option<u32>, Error> {
    // `parse` takes a sign, too.
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse::<u32>().ok().filter(|_| digits) {
        Some(NOBODY) => Err(Error::Invalid {
            field: "user",
            reason: format!("{NOBODY} is nobody's number"),
        }),
        number => Ok(number),
    }
}

/// What a look-up found. A system without these files has no users.
fn found<T>(entry: nix::Result<Option<T>>) -> Result<Option<T>, Error> {
    match entry {
        Err(Errno::ENOENT | Errno::ESRCH) => Ok(None),
        Err(errno) => Err(Error::Io {
            doing: "look up a user or group".into(),
            source: errno.into(),
        }),
        Ok(entry) => Ok(entry),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;

    fn credentials(asked: &str) -> (u32, u32, Vec<u32>) {
        let user = User::find(asked).unwrap();
        let Credentials { uid, gid, groups } = user.credentials().unwrap().clone();
        (uid, gid, groups)
    }

    #[test]
    fn names_and_numbers_mean_the_same_user() {
        if !unistd::geteuid().is_root() {
            let error = User::find("nobody").unwrap_err();
            assert_eq!(error.code(), Code::Denied);
            assert!(error.to_string().contains("start it as root"), "{error}");
            return;
        }
        let entry = unistd::User::from_name("nobody").unwrap().unwrap();
        let (uid, gid) = (entry.uid.as_raw(), entry.gid.as_raw());
        let named = credentials("nobody");
        assert_eq!((named.0, named.1), (uid, gid));
        assert!(named.2.contains(&gid), "{named:?}");
        assert_eq!(credentials(&uid.to_string()), named);
        assert_eq!(
            credentials("nobody:daemon").2,
            Vec::<u32>::new(),
            "no other group"
        );
        assert_eq!(credentials("61234:61235"), (61_234, 61_235, vec![]));
        let root_of_another_group = credentials("0:61235");
        assert_eq!(root_of_another_group, (0, 61_235, vec![]));
        assert_eq!(User::find("root").unwrap().credentials(), None, "that is us");
    }

    #[test]
    fn who_is_unknown_is_named_and_what_is_no_user_is_refused() {
        for (asked, code, said) in [
            ("no such user", Code::NotFound, "user \"no such user\""),
            ("61234", Code::NotFound, "user \"61234\""),
            ("+1", Code::NotFound, "user \"+1\""),
            ("root:no such group", Code::NotFound, "group \"no such group\""),
            ("ro\0ot", Code::NotFound, "user"),
            ("99999999999:1", Code::NotFound, "user"),
            ("4294967295:1", Code::Invalid, "4294967295"),
            ("1:4294967295", Code::Invalid, "4294967295"),
            ("", Code::Invalid, "uid:gid"),
            (":1", Code::Invalid, "uid:gid"),
            ("1:", Code::Invalid, "uid:gid"),
            ("1:2:3", Code::Invalid, "uid:gid"),
        ] {
            let error = User::find(asked).unwrap_err();
            assert_eq!(error.code(), code, "{asked:?}: {error}");
            assert!(error.to_string().contains(said), "{error}");
        }
    }

    #[test]
    fn the_environment_says_who_it_is_unless_the_caller_does() {
        let user = User {
            asked: "bob".into(),
            credentials: None,
            name: "bob".into(),
            home: "/home/bob".into(),
            shell: shell("/usr/sbin/nologin".into()),
        };
        let given = vec![("HOME".into(), "/elsewhere".into())];
        let Environment::Overlay(pairs) = user.beneath(Environment::Overlay(given.clone())) else {
            panic!("it stays an overlay");
        };
        let value = |wanted: &str| {
            let found = pairs.iter().rfind(|(name, _)| name == wanted);
            found.map(|(_, value)| value.to_str().unwrap())
        };
        assert_eq!(value("HOME"), Some("/elsewhere"));
        assert_eq!(
            [value("USER"), value("LOGNAME"), value("SHELL")],
            ["bob", "bob", "/bin/sh"].map(Some)
        );
        let exact = Environment::Exact(given);
        assert_eq!(user.beneath(exact.clone()), exact);
        assert_eq!(shell("/bin/zsh".into()), "/bin/zsh");
        assert_eq!(shell("".into()), "/bin/sh");
    }
}
