//! Why what an earlier life left is no start for another.

use std::fmt;
use synod_base::codec::Malformed;

/// Why a node cannot start from what it found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RecoverError {
    /// A record could not be read. Nothing was changed.
    Malformed {
        /// Its position among the records, from 0.
        record: usize,
        /// What was wrong in it.
        error: Malformed,
    },
    /// Entries between the boundary and the first one found are missing.
    Gap {
        /// The first missing index.
        missing: u64,
        /// The next one found.
        found: u64,
    },
    /// The state is ahead of the log, so the journal lost entries.
    AppliedAhead {
        /// Applied index of the state.
        applied: u64,
        /// Last index of the log.
        last: u64,
    },
}

impl fmt::Display for RecoverError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RecoverError::Malformed { record, error } => {
                write!(f, "journal record {record} of this cell: {error}")
            }
            RecoverError::Gap { missing, found } => {
                write!(f, "the journal lacks entry {missing}; the next one it has is {found}")
            }
            RecoverError::AppliedAhead { applied, last } => write!(
                f,
                "the state has applied {applied}, the journal ends at {last}: journal entries were lost"
            ),
        }
    }
}

impl std::error::Error for RecoverError {}
