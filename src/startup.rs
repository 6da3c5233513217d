//! The first instructions of the process, before any thread exists: name lookups that open no shared objects, and
//! secrets that must not stay readable in `/proc`.
//!
//! `unsetenv` does not clear `/proc/<pid>/environ`, so the bytes of secret arguments and variables are overwritten
//! where the kernel put them. Called by `cli::main` and by nothing else; the one module besides the spawn path that
//! needs `unsafe`.

use std::collections::BTreeMap;
use std::ffi::OsString;

use crate::memory;

/// What the process was started with, copied before secrets were overwritten.
#[derive(Debug, Clone, Default)]
pub struct Startup {
    /// Arguments with the program's name first.
    pub arguments: Vec<OsString>,
    /// The environment.
    pub environment: BTreeMap<OsString, OsString>,
}

/// Which flags and variables carry secrets.
#[derive(Debug, Clone, Default)]
pub struct SecretNames {
    /// Flags whose value is a secret, without their dashes: `token`.
    pub flags: Vec<&'static str>,
    /// Variables whose value is a secret: `BOXD_TOKEN`.
    pub variables: Vec<&'static str>,
    /// Flags whose value is a URL that may carry `user:password@`.
    pub url_flags: Vec<&'static str>,
    /// Variables of the same kind.
    pub url_variables: Vec<&'static str>,
}

/// Prepares the process and hands out what it was started with. Must be the first call of `main`: it writes to
/// memory that other threads could read.
pub fn take(names: &SecretNames) -> Startup {
    let startup = Startup {
        arguments: std::env::args_os().collect(),
        environment: std::env::vars_os().collect(),
    };
    platform::look_names_up_in_files();
    memory::configure();
    platform::erase(names);
    startup
}

/// Byte range of `argument` (one entry of `argv`) that hold a secret, given whether the entry before it announced
/// one.
fn secret_of_argument(
    argument: &[u8],
    announced: Option<Announced>,
    names: &SecretNames,
) -> std::ops::Range<usize> {
    match announced {
        Some(Announced::Secret) => return 0..argument.len(),
        Some(Announced::Url) => return user_info(argument, 0),
        None => {}
    }
    let Some(equals) = argument.iter().position(|byte| *byte == b'=') else {
        return 0..0;
    };
    match announces(&argument[..equals], names) {
        Some(Announced::Secret) => equals + 1..argument.len(),
        Some(Announced::Url) => user_info(argument, equals + 1),
        None => 0..0,
    }
}

/// What follows a flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Announced {
    Secret,
    Url,
}

fn announces(argument: &[u8], names: &SecretNames) -> Option<Announced> {
    let flag = argument.strip_prefix(b"--")?;
    if names.flags.iter().any(|name| name.as_bytes() == flag) {
        return Some(Announced::Secret);
    }
    names
        .url_flags
        .iter()
        .any(|name| name.as_bytes() == flag)
        .then_some(Announced::Url)
}

/// Byte range of `variable` (one `NAME=value` entry) that holds a secret.
fn secret_of_variable(variable: &[u8], names: &SecretNames) -> std::ops::Range<usize> {
    let Some(equals) = variable.iter().position(|byte| *byte == b'=') else {
        return 0..0;
    };
    let is = |name: &&str| name.as_bytes() == &variable[..equals];
    if names.variables.iter().any(is) {
        return equals + 1..variable.len();
    }
    if names.url_variables.iter().any(is) {
        return user_info(variable, equals + 1);
    }
    0..0
}

/// From `start` up to the last `@` of a value that carries credentials, empty when there is none. Several URLs may be
/// joined by commas; everything between the first `://` and the last `@` goes.
fn user_info(bytes: &[u8], start: usize) -> std::ops::Range<usize> {
    let value = &bytes[start..];
    let Some(at) = value.iter().rposition(|byte| *byte == b'@') else {
        return 0..0;
    };
    let scheme = value
        .windows(3)
        .position(|window| window == b"://")
        .map_or(0, |found| found + 3);
    if scheme < at {
        start + scheme..start + at
    } else {
        0..0
    }
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[expect(
    unsafe_code,
    reason = "only raw pointers reach the kernel's copy of argv and environ"
)]
mod platform {
    use std::ffi::{CStr, c_char, c_int};
    use std::ptr;
    use std::sync::atomic::{AtomicPtr, Ordering};

    use super::{SecretNames, announces, secret_of_argument, secret_of_variable};

    static ARGUMENTS: AtomicPtr<*mut c_char> = AtomicPtr::new(ptr::null_mut());
    static VARIABLES: AtomicPtr<*mut c_char> = AtomicPtr::new(ptr::null_mut());

    /// glibc passes `argc`, `argv` and `envp` to initialisers, also in static programs; the standard library finds
    /// its arguments the same way. It needs no `/proc`, which an empty root does not have.
    // SAFETY: the section holds function pointers of exactly this type, which glibc calls once before `main`.
    #[unsafe(link_section = ".init_array")]
    #[used]
    static REMEMBER: extern "C" fn(c_int, *mut *mut c_char, *mut *mut c_char) = remember;

    extern "C" fn remember(_count: c_int, arguments: *mut *mut c_char, variables: *mut *mut c_char) {
        ARGUMENTS.store(arguments, Ordering::Relaxed);
        VARIABLES.store(variables, Ordering::Relaxed);
    }

    /// Overwrites the secrets in the process's own `argv` and `environ` with zero bytes.
    pub(super) fn erase(names: &SecretNames) {
        let mut announced = None;
        for_each(&ARGUMENTS, |argument| {
            if argument == b"--" {
                // What follows belongs to a command that is not ours.
                return false;
            }
            let range = secret_of_argument(argument, announced, names);
            announced = if announced.is_some() {
                None
            } else {
                announces(argument, names)
            };
            argument[range].fill(0);
            true
        });
        for_each(&VARIABLES, |variable| {
            let range = secret_of_variable(variable, names);
            variable[range].fill(0);
            true
        });
    }

    /// Calls `visit` with the bytes of each string of a NULL-terminated vector until it answers `false`.
    fn for_each(vector: &AtomicPtr<*mut c_char>, mut visit: impl FnMut(&mut [u8]) -> bool) {
        let mut entry = vector.load(Ordering::Relaxed);
        if entry.is_null() {
            return;
        }
        loop {
            // SAFETY: the kernel ends both vectors with a NULL pointer, and we stop there.
            let string = unsafe { *entry };
            if string.is_null() {
                return;
            }
            // SAFETY: every entry points to a NUL-terminated string on the initial stack, which stays mapped and
            // writable for the life of the process. No other thread exists yet, and nothing else holds a reference.
            let bytes = unsafe {
                let length = CStr::from_ptr(string).count_bytes();
                std::slice::from_raw_parts_mut(string.cast::<u8>(), length)
            };
            if !visit(bytes) {
                return;
            }
            // SAFETY: the entry was not the terminating NULL, so another one follows.
            entry = unsafe { entry.add(1) };
        }
    }

    /// Tells glibc to look users and groups up in `/etc` and hosts in `/etc/hosts` and by DNS.
    ///
    /// A static program would otherwise load whatever modules the image's `nsswitch.conf` names, together with a
    /// second C library, and a line such as `passwd: compat` makes every lookup find nobody.
    pub(super) fn look_names_up_in_files() {
        unsafe extern "C" {
            fn __nss_configure_lookup(database: *const c_char, services: *const c_char) -> c_int;
        }
        for (database, services) in [
            (c"passwd", c"files"),
            (c"group", c"files"),
            (c"initgroups", c"files"),
            (c"hosts", c"files dns"),
        ] {
            // SAFETY: both are NUL-terminated strings that live for ever, and no thread looks a name up yet.
            let status = unsafe { __nss_configure_lookup(database.as_ptr(), services.as_ptr()) };
            debug_assert_eq!(status, 0, "{database:?}");
        }
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
mod platform {
    /// Other platforms keep their arguments where this module does not reach; `doctor` says so.
    pub(super) fn erase(_names: &super::SecretNames) {}

    /// Only glibc loads name-service modules.
    pub(super) fn look_names_up_in_files() {}
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> SecretNames {
        SecretNames {
            flags: vec!["token"],
            variables: vec!["BOXD_TOKEN"],
            url_flags: vec!["nats-url"],
            url_variables: vec!["BOXD_NATS_URL"],
        }
    }

    #[test]
    fn secret_arguments_are_found_in_both_spellings() {
        assert_eq!(announces(b"--token", &names()), Some(Announced::Secret));
        assert_eq!(announces(b"token", &names()), None);
        assert_eq!(
            secret_of_argument(b"s3cret", Some(Announced::Secret), &names()),
            0..6
        );
        assert_eq!(secret_of_argument(b"--token=s3cret", None, &names()), 8..14);
        assert_eq!(secret_of_argument(b"--tokens=s3cret", None, &names()), 0..0);
        assert_eq!(secret_of_argument(b"--http=127.0.0.1:0", None, &names()), 0..0);
    }

    #[test]
    fn only_the_credentials_of_a_url_are_secret() {
        let url = b"nats://user:pass@host:4222";
        assert_eq!(secret_of_argument(url, Some(Announced::Url), &names()), 7..16);
        assert_eq!(
            secret_of_argument(b"nats://host:4222", Some(Announced::Url), &names()),
            0..0
        );
        assert_eq!(
            secret_of_variable(b"BOXD_NATS_URL=nats://t0ken@host", &names()),
            21..26
        );
    }

    #[test]
    fn secret_variables_are_found_by_their_whole_name() {
        assert_eq!(secret_of_variable(b"BOXD_TOKEN=abc", &names()), 11..14);
        assert_eq!(secret_of_variable(b"BOXD_TOKEN_FILE=/x", &names()), 0..0);
        assert_eq!(secret_of_variable(b"BOXD_TOKEN", &names()), 0..0);
    }
}
