//! Staying current: a signed release is found, proved, put in the place of the running executable, and taken back when it
//! does not come up.
//!
//! ```text
//!   source --manifest--> release (signature, judgement) --artifact--> place (staged, digest, signature)
//!                                                                        |
//!      trial <--restart-- daemon <--asked-- apply <--rehearsed, replaced-+
//!        |-- it serves: confirmed                `-- anything fails: nothing has changed
//!        `-- it does not, or dies three times: the one before is back, by itself or by its guard
//! ```
//!
//! Nothing is believed that the release key did not sign: the manifest binds version, channel, target and digest.
//! An older manifest than one that was seen, and a version that is not newer, are refused, whoever asks.
//!
//! The layout of a release: `<base>/agent/<channel>/manifest.json` with `.minisig`, and
//! `<base>/agent/<version>/boxd-<target>` with `.minisig`.

mod apply;
mod find;
pub mod guard;
mod idle;
mod origin;
mod place;
mod proof;
mod release;
mod source;
mod standing;
mod status;
mod trial;

pub use apply::{Config, Updater};
pub use origin::{Origin, Start};
pub use place::Place;
pub use release::ReleaseKey;
pub use status::{Applied, Apply, Available, Outcome, Progress, Stage, Status};
pub use trial::{Completed, Trial};
