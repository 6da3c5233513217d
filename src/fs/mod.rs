//! The files room: read, write, list, move and remove, with nothing half done.

mod request;

pub use request::{
    Body, Entry, Kind, List, Listing, Mkdir, Move, Moved, Reach, Read, Remove, Unpack, Unpacked, Write,
    Written,
};
