//! The one table of settings: file keys, variables, flags, parsing, showing and documentation all come from it.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::Config;
use super::parts::{Listen, Token};
use super::value::{Given, name_of};
use crate::doors::nats::Families;
use crate::fs::Durability;
use crate::telemetry::{Format, Secret};
use crate::update::ReleaseKey;

/// One setting.
#[derive(Debug)]
pub struct Setting {
    /// Its key in the file, `section.name`.
    pub key: &'static str,
    /// Its environment variable.
    pub variable: Option<&'static str>,
    /// Its flag without the dashes.
    pub flag: Option<&'static str>,
    /// What the flag takes, in capitals; `None` for a flag without a value.
    pub value: Option<&'static str>,
    /// Whether the flag may be repeated.
    pub repeatable: bool,
    /// Whether the file may set it.
    pub in_file: bool,
    /// What must not be shown.
    pub secrecy: Secrecy,
    /// Settings with the same name here exclude each other: the highest layer that gives one of them wins.
    pub group: Option<&'static str>,
    /// A value for the example file where the default says nothing, as TOML.
    pub example: &'static str,
    /// One sentence.
    pub doc: &'static str,
    /// Stores a given value.
    pub set: fn(&mut Config, &Given) -> Result<(), String>,
    /// The value as TOML; `None` while it is not set.
    pub show: fn(&Config) -> Option<String>,
}

/// What of a value must not be shown, and is overwritten in `argv` and the environment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Secrecy {
    /// Nothing.
    Open,
    /// All of it.
    Secret,
    /// Credentials inside a URL.
    UrlCredentials,
}

/// What most settings are like.
const SETTING: Setting = Setting {
    key: "",
    variable: None,
    flag: None,
    value: None,
    repeatable: false,
    in_file: true,
    secrecy: Secrecy::Open,
    group: None,
    example: "",
    doc: "",
    set: |_, _| Ok(()),
    show: |_| None,
};

const SUBJECTS: &[(&str, Families)] = &[
    ("plain", Families::Plain),
    ("instance", Families::Instance),
    ("both", Families::Both),
];
const DURABILITY: &[(&str, Durability)] = &[
    ("none", Durability::None),
    ("file", Durability::File),
    ("dir", Durability::Dir),
];
const FORMATS: &[(&str, Format)] = &[
    ("auto", Format::Auto),
    ("text", Format::Text),
    ("json", Format::Json),
];

/// Payload of one frame: less would be mostly overhead, and more than a broker takes by default is never sent.
const FRAMES: RangeInclusive<u64> = 1024..=1024 * 1024;
/// How long something is kept that nobody is there for.
const TIMEOUTS: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(315_576_000);

/// Every setting, in the order of the example file.
pub const SETTINGS: &[Setting] = &[
    Setting {
        key: "config.file",
        variable: Some("BOXD_CONFIG"),
        flag: Some("config"),
        value: Some("FILE"),
        in_file: false,
        doc: "The configuration file; `config.toml` in the configuration directory when none is named.",
        show: |config| Some(quoted(&config.config_file.display())),
        ..SETTING
    },
    Setting {
        key: "config.dir",
        variable: Some("BOXD_CONFIG_DIR"),
        flag: Some("config-dir"),
        value: Some("DIR"),
        in_file: false,
        doc: "Where `config.toml` and `connections/` are: /etc/boxd for root, else ~/.config/boxd.",
        show: |config| Some(quoted(&config.config_dir.display())),
        ..SETTING
    },
    Setting {
        key: "state.dir",
        variable: Some("BOXD_STATE_DIR"),
        flag: Some("state-dir"),
        value: Some("DIR"),
        example: "\"/var/lib/boxd\"",
        doc: "Token, journal, spools and recordings: /var/lib/boxd for root, else ~/.local/state/boxd.",
        set: |config, given| given.path().map(|path| config.state_dir = path),
        show: |config| Some(quoted(&config.state_dir.display())),
        ..SETTING
    },
    Setting {
        key: "state.ready_file",
        variable: Some("BOXD_READY_FILE"),
        flag: Some("ready-file"),
        value: Some("FILE"),
        example: "\"/run/boxd/ready.json\"",
        doc: "Also write what is bound and linked to this file, whole, once it is.",
        set: |config, given| given.path().map(|path| config.ready_file = Some(path)),
        show: |config| config.ready_file.as_ref().map(|path| quoted(&path.display())),
        ..SETTING
    },
    Setting {
        key: "workspace.root",
        variable: Some("BOXD_WORKSPACE_ROOT"),
        flag: Some("workspace-root"),
        value: Some("DIR"),
        example: "\"/workspace\"",
        doc: "What relative paths mean; the current directory by default.",
        set: |config, given| given.path().map(|path| config.workspace.root = path),
        show: |config| Some(quoted(&config.workspace.root.display())),
        ..SETTING
    },
    Setting {
        key: "http.listen",
        variable: Some("BOXD_HTTP"),
        flag: Some("http"),
        value: Some("ADDR"),
        repeatable: true,
        doc: "Where HTTP listens: host:port (port 0 is any free one), unix:/path, or off; 127.0.0.1:2468 by default.",
        set: |config, given| listeners(&given.list()?).map(|listen| config.http.listen = listen),
        show: |config| {
            Some(match config.http.listen.as_slice() {
                [] => quoted(&"off"),
                listen => list(listen),
            })
        },
        ..SETTING
    },
    Setting {
        key: "http.token",
        group: Some("http token"),
        variable: Some("BOXD_TOKEN"),
        flag: Some("token"),
        value: Some("TOKEN"),
        secrecy: Secrecy::Secret,
        example: "\"...\"",
        doc: "The bearer token; prefer a file, other programs can read arguments and variables while boxd starts.",
        set: |config, given| {
            given
                .nonempty()
                .map(|text| config.http.token = Token::Given(Secret::new(text)))
        },
        show: |config| matches!(config.http.token, Token::Given(_)).then(hidden),
        ..SETTING
    },
    Setting {
        key: "http.token_file",
        group: Some("http token"),
        variable: Some("BOXD_TOKEN_FILE"),
        flag: Some("token-file"),
        value: Some("FILE"),
        example: "\"/run/secrets/boxd-token\"",
        doc: "A file (or /dev/fd/N) that holds the bearer token; without any, one is made and kept 0600.",
        set: |config, given| {
            let path = given.path()?;
            let token = super::secret_file(&path)?;
            config.http.token = Token::File { path, token };
            Ok(())
        },
        show: |config| match &config.http.token {
            Token::File { path, .. } => Some(quoted(&path.display())),
            _ => None,
        },
        ..SETTING
    },
    Setting {
        key: "http.no_token",
        group: Some("http token"),
        flag: Some("no-token"),
        doc: "Ask for no token at all; only on loopback, elsewhere only with --i-know.",
        set: |config, given| {
            if given.switch()? {
                config.http.token = Token::Off;
            }
            Ok(())
        },
        show: |config| Some((config.http.token == Token::Off).to_string()),
        ..SETTING
    },
    Setting {
        key: "http.i_know",
        flag: Some("i-know"),
        in_file: false,
        doc: "Insist on --no-token where anyone who reaches the listener can run commands.",
        set: |config, given| given.switch().map(|value| config.http.i_know = value),
        show: |config| Some(config.http.i_know.to_string()),
        ..SETTING
    },
    Setting {
        key: "http.hosts",
        variable: Some("BOXD_HTTP_HOSTS"),
        doc: "Names that the Host header may have, besides those of loopback; once set, no other is served.",
        set: |config, given| given.list().map(|hosts| config.http.hosts = hosts),
        show: |config| Some(list(&config.http.hosts)),
        ..SETTING
    },
    Setting {
        key: "http.origins",
        variable: Some("BOXD_HTTP_ORIGINS"),
        doc: "Origins of web pages that may use the API, exactly as browsers send them.",
        set: |config, given| given.list().map(|origins| config.http.origins = origins),
        show: |config| Some(list(&config.http.origins)),
        ..SETTING
    },
    Setting {
        key: "http.unix_users",
        variable: Some("BOXD_HTTP_UNIX_USERS"),
        doc: "User ids that may use a Unix socket, besides root and the daemon's own; its file stays 0600, so give them \
              access to it (setfacl) as well.",
        set: |config, given| {
            let users: Result<Vec<_>, _> = given.numbers()?.into_iter().map(u32::try_from).collect();
            config.http.unix_users = users.map_err(|_| "holds a number that is no user id".to_owned())?;
            Ok(())
        },
        show: |config| Some(format!("{:?}", config.http.unix_users)),
        ..SETTING
    },
    Setting {
        key: "http.max_connections",
        variable: Some("BOXD_HTTP_MAX_CONNECTIONS"),
        example: "1024",
        doc: "Connections at once; follows the limit on file descriptors when not set.",
        set: |config, given| {
            let most = given.number()?;
            if most == 0 {
                return Err("is 0, which would serve nobody".into());
            }
            config.http.max_connections = Some(most as usize);
            Ok(())
        },
        show: |config| config.http.max_connections.map(|most| most.to_string()),
        ..SETTING
    },
    Setting {
        key: "link.nats_urls",
        variable: Some("BOXD_NATS_URL"),
        flag: Some("nats-url"),
        value: Some("URL"),
        repeatable: true,
        secrecy: Secrecy::UrlCredentials,
        example: "[\"tls://broker.example.com:4222\"]",
        doc: "A broker (nats, tls, ws or wss) for one link without a connection file.",
        set: |config, given| given.list().map(|urls| config.link.nats_urls = urls),
        show: |config| {
            let urls: Vec<_> = config
                .link
                .nats_urls
                .iter()
                .map(|url| without_credentials(url))
                .collect();
            (!urls.is_empty()).then(|| list(&urls))
        },
        ..SETTING
    },
    Setting {
        key: "link.workspace_id",
        variable: Some("BOXD_WORKSPACE_ID"),
        flag: Some("workspace-id"),
        value: Some("ID"),
        example: "\"00000000-0000-4000-8000-000000000001\"",
        doc: "The workspace of that link.",
        set: |config, given| given.nonempty().map(|id| config.link.workspace_id = id),
        show: |config| text(&config.link.workspace_id),
        ..SETTING
    },
    Setting {
        key: "link.agent_id",
        variable: Some("BOXD_AGENT_ID"),
        flag: Some("agent-id"),
        value: Some("ID"),
        example: "\"00000000-0000-4000-8000-000000000002\"",
        doc: "This machine's id on that link.",
        set: |config, given| given.nonempty().map(|id| config.link.agent_id = id),
        show: |config| text(&config.link.agent_id),
        ..SETTING
    },
    Setting {
        key: "link.nats_token",
        group: Some("NATS credential"),
        variable: Some("BOXD_NATS_TOKEN"),
        flag: Some("nats-token"),
        value: Some("TOKEN"),
        secrecy: Secrecy::Secret,
        example: "\"...\"",
        doc: "The connect token of that link; prefer the file.",
        set: |config, given| {
            given
                .nonempty()
                .map(|text| config.link.nats_token = Some(Secret::new(text)))
        },
        show: |config| config.link.nats_token.as_ref().map(|_| hidden()),
        ..SETTING
    },
    Setting {
        key: "link.nats_token_file",
        group: Some("NATS credential"),
        variable: Some("BOXD_NATS_TOKEN_FILE"),
        flag: Some("nats-token-file"),
        value: Some("FILE"),
        example: "\"/run/secrets/boxd-nats-token\"",
        doc: "A file (or /dev/fd/N) that holds the connect token of that link.",
        set: |config, given| {
            let path = given.path()?;
            config.link.nats_token = Some(super::secret_file(&path)?);
            config.link.nats_token_file = Some(path);
            Ok(())
        },
        show: |config| {
            config
                .link
                .nats_token_file
                .as_ref()
                .map(|path| quoted(&path.display()))
        },
        ..SETTING
    },
    Setting {
        key: "link.nats_creds",
        group: Some("NATS credential"),
        variable: Some("BOXD_NATS_CREDS"),
        flag: Some("nats-creds"),
        value: Some("FILE"),
        example: "\"/run/secrets/boxd.creds\"",
        doc: "A NATS .creds file for that link.",
        set: |config, given| given.path().map(|path| config.link.nats_creds = Some(path)),
        show: |config| {
            config
                .link
                .nats_creds
                .as_ref()
                .map(|path| quoted(&path.display()))
        },
        ..SETTING
    },
    Setting {
        key: "link.relay_url",
        variable: Some("BOXD_RELAY_URL"),
        flag: Some("relay-url"),
        value: Some("URL"),
        example: "\"wss://relay.example.com/stream\"",
        doc: "The relay for that link's stream ports.",
        set: |config, given| given.nonempty().map(|url| config.link.relay_url = Some(url)),
        show: |config| config.link.relay_url.as_ref().map(quoted),
        ..SETTING
    },
    Setting {
        key: "link.relay_token",
        variable: Some("BOXD_RELAY_TOKEN"),
        flag: Some("relay-token"),
        value: Some("TOKEN"),
        secrecy: Secrecy::Secret,
        example: "\"...\"",
        doc: "The producer token for that relay.",
        set: |config, given| {
            given
                .nonempty()
                .map(|text| config.link.relay_token = Some(Secret::new(text)))
        },
        show: |config| config.link.relay_token.as_ref().map(|_| hidden()),
        ..SETTING
    },
    Setting {
        key: "link.consent_screen_control",
        variable: Some("BOXD_CONSENT_SCREEN_CONTROL"),
        flag: Some("consent-screen-control"),
        doc: "Allow synthetic keyboard and mouse input on that link.",
        set: |config, given| {
            given
                .switch()
                .map(|value| config.link.consent_screen_control = value)
        },
        show: |config| Some(config.link.consent_screen_control.to_string()),
        ..SETTING
    },
    Setting {
        key: "nats.subjects",
        variable: Some("BOXD_NATS_SUBJECTS"),
        doc: "Subject families that are served: plain, instance or both.",
        set: |config, given| given.choice(SUBJECTS).map(|value| config.nats.subjects = value),
        show: |config| Some(quoted(&name_of(SUBJECTS, config.nats.subjects))),
        ..SETTING
    },
    Setting {
        key: "nats.root",
        variable: Some("BOXD_NATS_ROOT"),
        doc: "First token of every subject.",
        set: |config, given| given.nonempty().map(|root| config.nats.root = root),
        show: |config| Some(quoted(&config.nats.root)),
        ..SETTING
    },
    Setting {
        key: "nats.client_name",
        variable: Some("BOXD_NATS_CLIENT_NAME"),
        example: "\"opengeni-agent/connection/<instance>\"",
        doc: "The client name shown to the broker; auth callouts may parse it. `<instance>` stands for this run.",
        set: |config, given| given.nonempty().map(|name| config.nats.client_name = Some(name)),
        show: |config| config.nats.client_name.as_ref().map(quoted),
        ..SETTING
    },
    Setting {
        key: "nats.allow_plaintext",
        variable: Some("BOXD_NATS_ALLOW_PLAINTEXT"),
        doc: "Allow nats:// and ws:// to brokers that are not on this machine.",
        set: |config, given| given.switch().map(|value| config.nats.allow_plaintext = value),
        show: |config| Some(config.nats.allow_plaintext.to_string()),
        ..SETTING
    },
    Setting {
        key: "exec.linger",
        variable: Some("BOXD_EXEC_LINGER"),
        doc: "How long output is still read after a command ended while its background child holds the pipe.",
        set: |config, given| given.duration().map(|value| config.exec.linger = value),
        show: |config| Some(duration(config.exec.linger)),
        ..SETTING
    },
    Setting {
        key: "exec.kill_grace",
        variable: Some("BOXD_EXEC_KILL_GRACE"),
        doc: "How long a process tree has between TERM and KILL when the daemon stops.",
        set: |config, given| given.duration().map(|value| config.exec.kill_grace = value),
        show: |config| Some(duration(config.exec.kill_grace)),
        ..SETTING
    },
    Setting {
        key: "pty.detach_timeout",
        variable: Some("BOXD_PTY_DETACH_TIMEOUT"),
        doc: "How long a terminal lives that nobody looks at or writes to.",
        set: |config, given| {
            within(given.duration()?, TIMEOUTS).map(|value| config.pty.detach_timeout = value)
        },
        show: |config| Some(duration(config.pty.detach_timeout)),
        ..SETTING
    },
    Setting {
        key: "op.frame_bytes",
        variable: Some("BOXD_OP_FRAME_BYTES"),
        doc: "Bytes of output in one frame of an operation that is streamed over NATS, at most; a broker may allow less.",
        set: |config, given| {
            let bytes = given.number()?;
            if !FRAMES.contains(&bytes) {
                return Err(format!(
                    "is {bytes}, it must be from {} to {}",
                    FRAMES.start(),
                    FRAMES.end()
                ));
            }
            config.op.frame_bytes = bytes as usize;
            Ok(())
        },
        show: |config| Some(config.op.frame_bytes.to_string()),
        ..SETTING
    },
    Setting {
        key: "op.abandon",
        variable: Some("BOXD_OP_ABANDON"),
        doc: "How long such an operation waits for a client that went away, once no more of its output can be kept.",
        set: |config, given| within(given.duration()?, TIMEOUTS).map(|value| config.op.abandon = value),
        show: |config| Some(duration(config.op.abandon)),
        ..SETTING
    },
    Setting {
        key: "fs.durability",
        variable: Some("BOXD_FS_DURABILITY"),
        doc: "What is synced to disk before a write is answered: none, the file, or also its name (dir).",
        set: |config, given| given.choice(DURABILITY).map(|value| config.fs.durability = value),
        show: |config| Some(quoted(&name_of(DURABILITY, config.fs.durability))),
        ..SETTING
    },
    Setting {
        key: "fs.in_place",
        variable: Some("BOXD_FS_IN_PLACE"),
        doc: "Write in place where a file cannot be replaced by a rename (bind mounts), instead of refusing.",
        set: |config, given| given.switch().map(|value| config.fs.in_place = value),
        show: |config| Some(config.fs.in_place.to_string()),
        ..SETTING
    },
    Setting {
        key: "fs.confine",
        variable: Some("BOXD_FS_CONFINE"),
        doc: "Keep every path of every caller beneath the workspace root.",
        set: |config, given| given.switch().map(|value| config.fs_confine = value),
        show: |config| Some(config.fs_confine.to_string()),
        ..SETTING
    },
    Setting {
        key: "journal.fsync",
        variable: Some("BOXD_JOURNAL_FSYNC"),
        doc: "Sync the journal of commands before each one starts, so that a power loss cannot run one twice.",
        set: |config, given| given.switch().map(|value| config.journal_fsync = value),
        show: |config| Some(config.journal_fsync.to_string()),
        ..SETTING
    },
    Setting {
        key: "update.base_url",
        variable: Some("BOXD_UPDATE_BASE_URL"),
        example: "\"https://releases.example.com/boxd\"",
        doc: "Where releases of boxd are: an https URL or an absolute directory.",
        set: |config, given| given.nonempty().map(|base| config.update.base_url = Some(base)),
        show: |config| config.update.base_url.as_ref().map(quoted),
        ..SETTING
    },
    Setting {
        key: "update.channel",
        variable: Some("BOXD_UPDATE_CHANNEL"),
        doc: "Which releases are taken.",
        set: |config, given| given.nonempty().map(|channel| config.update.channel = channel),
        show: |config| Some(quoted(&config.update.channel)),
        ..SETTING
    },
    Setting {
        key: "update.trial_timeout",
        variable: Some("BOXD_UPDATE_TRIAL_TIMEOUT"),
        doc: "How long a new executable has to serve before the one before is back in its place.",
        set: |config, given| {
            within(given.duration()?, TIMEOUTS).map(|value| config.update.trial_timeout = value)
        },
        show: |config| Some(duration(config.update.trial_timeout)),
        ..SETTING
    },
    Setting {
        key: "update.public_keys",
        variable: Some("BOXD_UPDATE_PUBLIC_KEYS"),
        example: "[\"RWROULZH1k2MYXN5hqhjlgnuQFoUNuoNA3XoTKAff7vZoj8STSpHsmw7\"]",
        doc: "The minisign keys that releases are signed with, instead of the one that this build was made with.",
        set: |config, given| {
            let keys = given.list()?;
            let keys = keys
                .iter()
                .map(|key| ReleaseKey::parse(key))
                .collect::<Result<_, _>>()?;
            config.update.keys = keys;
            Ok(())
        },
        show: |config| {
            let keys: Vec<_> = config
                .update
                .keys
                .iter()
                .map(|key| key.as_str().to_owned())
                .collect();
            (!keys.is_empty()).then(|| list(&keys))
        },
        ..SETTING
    },
    Setting {
        key: "shutdown.grace",
        variable: Some("BOXD_SHUTDOWN_GRACE"),
        doc: "How long running work may take to end when the daemon stops.",
        set: |config, given| given.duration().map(|value| config.shutdown_grace = value),
        show: |config| Some(duration(config.shutdown_grace)),
        ..SETTING
    },
    Setting {
        key: "log.filter",
        variable: Some("BOXD_LOG"),
        flag: Some("log"),
        value: Some("FILTER"),
        doc: "Which log lines are written, like info or info,boxd::exec=debug.",
        set: |config, given| given.text()?.parse().map(|filter| config.log_filter = filter),
        show: |config| Some(quoted(&config.log_filter)),
        ..SETTING
    },
    Setting {
        key: "log.format",
        variable: Some("BOXD_LOG_FORMAT"),
        flag: Some("log-format"),
        value: Some("FORMAT"),
        doc: "text, json, or auto: text on a terminal and in the journal, JSON elsewhere.",
        set: |config, given| given.choice(FORMATS).map(|format| config.log_format = format),
        show: |config| Some(quoted(&name_of(FORMATS, config.log_format))),
        ..SETTING
    },
    Setting {
        key: "call.url",
        variable: Some("BOXD_URL"),
        flag: Some("url"),
        value: Some("URL"),
        in_file: false,
        doc: "The daemon that `boxd call` speaks to, http://host:port or unix:/path.",
        set: |config, given| given.nonempty().map(|url| config.url = Some(url)),
        show: |config| config.url.as_ref().map(quoted),
        ..SETTING
    },
];

/// The setting of a key.
pub fn setting(key: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.key == key)
}

fn listeners(words: &[String]) -> Result<Vec<Listen>, String> {
    if words == ["off"] {
        return Ok(Vec::new());
    }
    if words.iter().any(|word| word == "off") {
        return Err("says off beside other listeners".into());
    }
    words.iter().map(|word| Listen::parse(word)).collect()
}

/// A TOML basic string; control characters are escaped as JSON does, which TOML reads too.
fn quoted(value: &impl ToString) -> String {
    serde_json::Value::String(value.to_string()).to_string()
}

fn list(values: &[impl ToString]) -> String {
    let values: Vec<_> = values.iter().map(quoted).collect();
    format!("[{}]", values.join(", "))
}

fn text(value: &str) -> Option<String> {
    (!value.is_empty()).then(|| quoted(&value))
}

fn hidden() -> String {
    quoted(&"***")
}

fn within(value: Duration, range: RangeInclusive<Duration>) -> Result<Duration, String> {
    if range.contains(&value) {
        return Ok(value);
    }
    let [from, to] = [range.start(), range.end()].map(|end| humantime::format_duration(*end).to_string());
    Err(format!(
        "is {}, it must be from {from} to {to}",
        humantime::format_duration(value)
    ))
}

fn duration(value: Duration) -> String {
    quoted(&humantime::format_duration(value))
}

/// The URL with `***` in place of what stands before its `@`.
fn without_credentials(url: &str) -> String {
    match (url.find("://"), url.rfind('@')) {
        (Some(scheme), Some(at)) if scheme + 3 < at => format!("{}***{}", &url[..scheme + 3], &url[at..]),
        _ => url.to_owned(),
    }
}
