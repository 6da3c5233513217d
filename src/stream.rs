//! Numbered records, what is kept of them, and how they reach a client. Pure: no tokio, no clock, no locks; callers pass
//! bytes and `now`.
//!
//! `record` is what writers make and readers get, `log` numbers and counts it, `shelf` keeps it per channel, `keep` says
//! how much; `cursor` is where a reader stands, and `read` what it gets. `arrivals` is the other
//! direction: which of the numbered pieces of a whole have come.

mod arrivals;
mod cursor;
mod delivery;
#[cfg(test)]
mod delivery_model;
#[cfg(test)]
mod delivery_model_tests;
#[cfg(test)]
mod delivery_tests;
mod dialogue;
mod flight;
mod keep;
mod log;
mod read;
mod record;
mod roster;
mod shelf;
mod survey;
mod text;
mod view;

pub use arrivals::{Arrival, Arrivals};
pub use cursor::Cursor;
pub use delivery::{Delivery, frame_limit};
pub use dialogue::{Ack, Acked, Attach, Attached, Frame, Lease, Offer, ReadGate};
pub use keep::{ChannelTotals, Keep, Kept, Tail, Totals};
pub use log::{Log, RECORD_LIMIT};
pub use record::{Channel, Gap, Holder, Item, Record, Spilled, Stored};
pub use roster::{Evictions, Roster, Standing};
pub use survey::Survey;
pub use text::{Line, Lines};
pub use view::{Chosen, Omitted, Piece, Select, View};
