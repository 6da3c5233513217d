//! What is asked of a control plane and what it answers, by the names of its HTTP interface.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::http::{Answer, post};
use crate::error::Error;
use crate::telemetry::Secret;

/// A control plane.
#[derive(Debug, Clone)]
pub struct Api {
    url: String,
}

/// What a machine says of itself.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Machine {
    /// ed25519, base64 without padding.
    pub public_key: String,
    /// `linux`, `macos`.
    pub os: String,
    /// `x86_64`, `aarch64`.
    pub arch: String,
    /// What its owner knows it by.
    pub machine_name: String,
    /// Whether it has a display to show.
    pub can_offer_display: bool,
    /// Whether its owner offers to have it controlled.
    pub requests_screen_control: bool,
}

/// A device flow that has begun.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Started {
    /// For us alone.
    pub device_code: String,
    /// For the person to compare.
    pub user_code: String,
    /// Where the person goes.
    pub verification_uri: String,
    /// The same with the code in it.
    #[serde(default)]
    pub verification_uri_complete: Option<String>,
    /// Seconds between two questions.
    #[serde(default = "usual_interval")]
    pub interval_seconds: u64,
    /// Seconds until it is over.
    #[serde(default = "usual_expiry")]
    pub expires_in_seconds: u64,
}

fn usual_interval() -> u64 {
    5
}

fn usual_expiry() -> u64 {
    900
}

/// Where a device flow is.
#[derive(Debug)]
pub enum Polled {
    /// The person has not decided.
    Pending,
    /// Ask less often; for so long at least where it says.
    SlowDown(Option<Duration>),
    /// The person said yes.
    Authorized(Box<Credentials>),
    /// The person said no.
    Denied,
    /// It took too long.
    Expired,
    /// The control plane does not do this.
    Disabled,
}

/// What a link is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// As whom.
    pub agent_id: String,
    /// Whose.
    pub workspace_id: String,
    /// For the broker.
    pub bearer: Secret<String>,
    /// The brokers.
    pub nats_urls: Vec<String>,
    /// The relay, empty for none.
    pub relay_url: String,
    /// For the relay.
    pub relay_token: Secret<String>,
    /// Whom updates are signed by, as the control plane has it.
    pub update_public_key: String,
    /// Whether the owner consented to more than the workspace.
    pub consented_whole_machine: bool,
    /// Whether the owner consented to synthetic input.
    pub consented_screen_control: bool,
    /// What its subjects begin with, empty for the usual.
    pub subject_prefix: String,
}

/// As they come.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answered {
    agent_id: String,
    workspace_id: String,
    #[serde(alias = "natsAccountCreds")]
    bearer: String,
    nats_urls: Vec<String>,
    #[serde(default)]
    relay_url: Option<String>,
    #[serde(default)]
    relay_token: Option<String>,
    #[serde(default)]
    update_public_key: Option<String>,
    #[serde(default)]
    consented_whole_machine: bool,
    #[serde(default)]
    consented_screen_control: bool,
    #[serde(default)]
    subject_prefix: Option<String>,
}

impl From<Answered> for Credentials {
    fn from(answered: Answered) -> Self {
        Self {
            agent_id: answered.agent_id,
            workspace_id: answered.workspace_id,
            bearer: Secret::new(answered.bearer),
            nats_urls: answered.nats_urls,
            relay_url: answered.relay_url.unwrap_or_default(),
            relay_token: Secret::new(answered.relay_token.unwrap_or_default()),
            update_public_key: answered.update_public_key.unwrap_or_default(),
            consented_whole_machine: answered.consented_whole_machine,
            consented_screen_control: answered.consented_screen_control,
            subject_prefix: answered.subject_prefix.unwrap_or_default(),
        }
    }
}

impl Api {
    /// At this URL, which paths are appended to.
    pub fn new(url: &str) -> Self {
        Self {
            url: url.trim_end_matches('/').to_owned(),
        }
    }

    /// As it is written into connection files.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Begins a device flow.
    ///
    /// # Errors
    ///
    /// Why not, in a sentence.
    pub async fn start(&self, workspace_id: &str, machine: &Machine) -> Result<Started, Error> {
        let mut body = serde_json::to_value(machine).map_err(|error| internal(&error))?;
        body["workspaceId"] = workspace_id.into();
        let answer = post(&format!("{}/v1/enrollments/device/start", self.url), &body).await?;
        match answer.status {
            200 | 201 => field("the start of an enrollment", answer.body),
            _ => Err(self.refused(&answer)),
        }
    }

    /// Asks where a device flow is.
    ///
    /// # Errors
    ///
    /// As [`Api::start`].
    pub async fn poll(&self, device_code: &str) -> Result<Polled, Error> {
        let body = json!({ "deviceCode": device_code });
        let mut answer = post(&format!("{}/v1/enrollments/device/poll", self.url), &body).await?;
        if answer.status == 429 {
            return Ok(Polled::SlowDown(answer.retry_after));
        }
        let state = answer.body["state"].as_str().map(str::to_owned);
        match state.as_deref() {
            Some("pending") => Ok(Polled::Pending),
            Some("slow_down") => Ok(Polled::SlowDown(answer.retry_after)),
            Some("authorized") => {
                let credentials = answer.body["credentials"].take();
                field::<Answered>("credentials", credentials)
                    .map(|answered| Polled::Authorized(Box::new(answered.into())))
            }
            Some("denied") => Ok(Polled::Denied),
            Some("expired") => Ok(Polled::Expired),
            Some("disabled") => Ok(Polled::Disabled),
            _ if answer.status >= 400 => Err(self.refused(&answer)),
            other => Err(Error::Protocol {
                reason: format!("the control plane answers the state {other:?}, which nobody knows"),
            }),
        }
    }

    /// Gives an enrollment token for credentials.
    ///
    /// # Errors
    ///
    /// As [`Api::start`].
    pub async fn exchange(&self, token: &str, machine: &Machine) -> Result<Credentials, Error> {
        let mut body = serde_json::to_value(machine).map_err(|error| internal(&error))?;
        body["token"] = token.into();
        let mut answer = post(&format!("{}/v1/enrollments/token/exchange", self.url), &body).await?;
        match answer.status {
            200 | 201 => {
                let credentials = answer.body["credentials"].take();
                field::<Answered>("credentials", credentials).map(Credentials::from)
            }
            401 => Err(Error::Forbidden {
                reason:
                    "the enrollment token is not accepted: it may be used up, expired or of another place"
                        .into(),
            }),
            _ => Err(self.refused(&answer)),
        }
    }

    fn refused(&self, answer: &Answer) -> Error {
        let said = ["message", "detail", "error", "title"]
            .iter()
            .find_map(|name| answer.body[*name].as_str())
            .map(|said| format!(": {said:.200}"))
            .unwrap_or_default();
        let unavailable = |reason: String| Error::Unavailable {
            what: "enrollment".into(),
            reason,
        };
        match answer.status {
            401 | 403 => Error::Forbidden {
                reason: format!("{} does not let this machine enroll{said}", self.url),
            },
            404 => unavailable(format!("{} does not enroll machines (404){said}", self.url)),
            429 => unavailable(match answer.retry_after {
                Some(after) => format!(
                    "{} is asked too often, try again in {} s",
                    self.url,
                    after.as_secs()
                ),
                None => format!("{} is asked too often, try again later", self.url),
            }),
            503 => unavailable(format!("{} is not set up for it (503){said}", self.url)),
            // To ask again would be answered the same.
            status @ 400..=499 => Error::Protocol {
                reason: format!("{} answers {status}{said}", self.url),
            },
            status => unavailable(format!("{} answers {status}{said}", self.url)),
        }
    }
}

fn field<T: serde::de::DeserializeOwned>(what: &str, value: Value) -> Result<T, Error> {
    // What is in it is not repeated: it may be a secret.
    serde_json::from_value(value).map_err(|error| Error::Protocol {
        reason: format!(
            "the control plane answers {what} that lack something: {}",
            error.to_string().split(',').next().unwrap_or_default()
        ),
    })
}

fn internal(error: &serde_json::Error) -> Error {
    Error::Internal {
        reason: format!("a request cannot be written: {error}"),
    }
}
