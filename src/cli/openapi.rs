//! `boxd openapi`.

use clap::Args;

use super::output;
use crate::doors::http;
use crate::error::Error;

/// Print the OpenAPI 3.1 document of the HTTP API.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  boxd openapi > openapi.json")]
pub(super) struct Openapi {}

/// Prints the document.
pub(super) fn print() -> Result<(), Error> {
    output::answer(http::openapi()?.as_bytes())
}
