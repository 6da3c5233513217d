//! nginx with `git http-backend` behind it, as git-http-backend(1) describes it: repositories over HTTP for one user, who
//! shows a password (RFC 7617).

use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use super::group::Group;
use super::require;

/// The server and what runs its programs.
pub(crate) struct Nginx {
    port: u16,
    directory: TempDir,
    _server: Group,
    _programs: Group,
}

impl Nginx {
    /// Serves the repositories below `directory` to `user`.
    #[track_caller]
    pub(crate) fn start(directory: &Path, user: &str, password: &str) -> Self {
        let own = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let programs = UnixListener::bind(own.path().join("programs")).unwrap();
        std::fs::write(own.path().join("users"), format!("{user}:{{PLAIN}}{password}\n")).unwrap();
        let config = own.path().join("nginx.conf");
        std::fs::write(&config, configuration(own.path(), directory, port)).unwrap();
        let wrapper = Group::serving(
            "fcgiwrap",
            &mut Command::new(require("fcgiwrap")),
            programs.into(),
            &own.path().join("fcgiwrap.log"),
        );
        let mut command = Command::new(require("nginx"));
        // The listeners that it has from the one before it: here the one on its standard input.
        command.env("NGINX", "0;").arg("-c").arg(&config);
        command.arg("-p").arg(own.path()).args(["-e", "stderr"]);
        let log = own.path().join("nginx.log");
        let nginx = Group::serving("nginx", &mut command, listener.into(), &log);
        Self {
            port,
            directory: own,
            _server: nginx,
            _programs: wrapper,
        }
    }

    /// Where it is.
    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// What was asked of it, a line each: the user, the request and the status.
    pub(crate) fn asked(&self) -> Vec<String> {
        let log = std::fs::read_to_string(self.directory.path().join("access")).unwrap_or_default();
        log.lines().map(str::to_owned).collect()
    }
}

fn configuration(own: &Path, repositories: &Path, port: u16) -> String {
    let (own, repositories) = (own.display(), repositories.display());
    let output = Command::new(require("git")).arg("--exec-path").output().unwrap();
    let programs = String::from_utf8(output.stdout).unwrap();
    let programs = programs.trim();
    let user = if nix::unistd::geteuid().is_root() {
        "user root;"
    } else {
        ""
    };
    format!(
        r#"
{user}
daemon off;
worker_processes 1;
pid {own}/pid;
error_log stderr;
events {{}}
http {{
    log_format short '$remote_user "$request" $status';
    access_log {own}/access short;
    client_body_temp_path {own}/body;
    fastcgi_temp_path {own}/fastcgi;
    proxy_temp_path {own}/proxy;
    scgi_temp_path {own}/scgi;
    uwsgi_temp_path {own}/uwsgi;
    client_max_body_size 0;
    server {{
        listen 127.0.0.1:{port};
        auth_basic "repositories";
        auth_basic_user_file {own}/users;
        location / {{
            fastcgi_pass unix:{own}/programs;
            fastcgi_param SCRIPT_FILENAME {programs}/git-http-backend;
            fastcgi_param GIT_PROJECT_ROOT {repositories};
            fastcgi_param GIT_HTTP_EXPORT_ALL 1;
            fastcgi_param PATH_INFO $uri;
            fastcgi_param QUERY_STRING $query_string;
            fastcgi_param REQUEST_METHOD $request_method;
            fastcgi_param CONTENT_TYPE $content_type;
            fastcgi_param CONTENT_LENGTH $content_length;
            fastcgi_param REMOTE_USER $remote_user;
            fastcgi_param REMOTE_ADDR $remote_addr;
        }}
    }}
}}
"#
    )
}
