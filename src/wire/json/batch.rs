//! Several commands in one request.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Encoding, RunReply, RunRequest};
use crate::error::{Error, Retry};
use crate::ops::{Batch, BatchOutcome, BatchRun, ProcessConfig};

/// Commands of one batch.
const RUNS: usize = 256;
/// Commands at a time: unless something else is asked for, and at most.
const PARALLEL: (usize, usize) = (4, 64);
/// Bytes of output of all of them together that are answered at most.
const BYTES: u64 = 64 << 20;

/// Run several commands.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
#[schema(as = ProcessBatchRequest)]
pub struct BatchRequest {
    /// The commands; at most 256.
    #[schema(required = true, nullable = false)]
    pub runs: Option<Vec<RunRequest>>,
    /// How many run at a time; 4 unless given, 64 at most.
    #[schema(minimum = 1)]
    pub parallel: Option<usize>,
    /// Once one has failed (an exit code that is not 0, a signal, a time limit, a refusal), those that have not begun are
    /// skipped.
    pub stop_on_failure: Option<bool>,
}

impl BatchRequest {
    /// The operation, under the limits of `config`.
    pub fn into_batch(self, config: &ProcessConfig) -> Result<Batch, Error> {
        let invalid = |field, reason: String| Error::Invalid { field, reason };
        let runs = self
            .runs
            .ok_or_else(|| invalid("runs", "is required".to_owned()))?;
        if runs.is_empty() || runs.len() > RUNS {
            let reason = format!("has {} commands, 1 to {RUNS} are allowed", runs.len());
            return Err(invalid("runs", reason));
        }
        let (usual, most) = PARALLEL;
        let parallel = self.parallel.unwrap_or(usual);
        if parallel == 0 || parallel > most {
            return Err(invalid(
                "parallel",
                format!("is {parallel}, 1 to {most} are allowed"),
            ));
        }
        // Each has two channels, and their answers are in memory together.
        let share = BYTES / (2 * runs.len() as u64);
        let config = ProcessConfig {
            max_output_bytes: config.max_output_bytes.min(share),
            ..*config
        };
        let runs = runs.into_iter().enumerate().map(|(at, mut asked)| {
            let exact = asked.encoding.take() == Some(Encoding::Base64);
            let idempotency_key = asked.idempotency_key.clone();
            let run = asked.into_run(&config).map_err(|error| match error {
                Error::Invalid { field, reason } => invalid("runs", format!("at [{at}].{field}: {reason}")),
                other => other,
            })?;
            Ok(BatchRun {
                run,
                idempotency_key,
                exact,
            })
        });
        Ok(Batch {
            runs: runs.collect::<Result<_, Error>>()?,
            parallel,
            stop_on_failure: self.stop_on_failure.unwrap_or(false),
        })
    }
}

/// What came of them.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ProcessBatchResponse)]
pub struct BatchReply {
    /// In the order of the request.
    pub results: Vec<BatchResult>,
}

/// What came of one of them: the answer of a run, why there is none, or that it was skipped.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
#[schema(as = ProcessBatchResult)]
pub enum BatchResult {
    /// It ran to its end.
    Ran(Box<RunReply>),
    /// It did not run, or its outcome is not known.
    Failed(Failure),
    /// It was not begun.
    Skipped {
        /// Always true.
        skipped: bool,
    },
}

/// Why something was not done, in the fields of a problem.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Failure)]
pub struct Failure {
    /// `urn:sandbox-agent:error:<code>`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The stable code.
    pub code: &'static str,
    /// What failed, with its subject.
    pub detail: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Whether the same request may be sent again: `never`, `safe` or `later`.
    pub retry: &'static str,
}

impl From<&Error> for Failure {
    fn from(error: &Error) -> Self {
        let code = error.code().as_str();
        Self {
            kind: format!("urn:sandbox-agent:error:{code}"),
            code,
            detail: error.to_string(),
            hint: error.hint(),
            retry: match error.retry() {
                Retry::Never => "never",
                Retry::Safe => "safe",
                Retry::After(_) => "later",
            },
        }
    }
}

impl From<&[BatchOutcome]> for BatchReply {
    fn from(outcomes: &[BatchOutcome]) -> Self {
        let results = outcomes.iter().map(|outcome| match outcome {
            BatchOutcome::Ran { finished, exact } => {
                let encoding = if *exact { Encoding::Base64 } else { Encoding::Utf8 };
                BatchResult::Ran(Box::new(RunReply::new(finished, encoding, None)))
            }
            BatchOutcome::Failed(error) => BatchResult::Failed(error.into()),
            BatchOutcome::Skipped => BatchResult::Skipped { skipped: true },
        });
        Self {
            results: results.collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec::Keep;
    use crate::wire::json::{Unknown, decode};

    fn batch(text: &str) -> Result<Batch, Error> {
        decode::<BatchRequest>(text.as_bytes(), Unknown::Refused)?.into_batch(&ProcessConfig::default())
    }

    #[test]
    fn the_wrong_one_is_named() {
        for (text, named) in [
            ("{}", "runs"),
            (r#"{"runs":[]}"#, "runs"),
            (r#"{"runs":[{"command":"a"},{"command":""}]}"#, "[1].command"),
            (r#"{"runs":[{"command":"a"}],"parallel":0}"#, "parallel"),
            (r#"{"runs":[{"command":"a"}],"parallel":65}"#, "parallel"),
        ] {
            let error = batch(text).unwrap_err().to_string();
            assert!(error.contains(named), "{text}: {error}");
        }
        let many = format!(r#"{{"runs":[{}]}}"#, vec![r#"{"command":"a"}"#; 257].join(","));
        assert!(batch(&many).is_err());
    }

    #[test]
    fn many_share_what_fits_into_an_answer() {
        let many = format!(r#"{{"runs":[{}]}}"#, vec![r#"{"command":"a"}"#; 256].join(","));
        let batch = batch(&many).unwrap();
        assert_eq!(batch.runs[0].run.keep, Keep::both_ends(128 << 10));
        assert_eq!(batch.parallel, 4);
    }
}
