use std::fmt;
use std::io;

/// Why the journal cannot go on. After any of these nothing more is appended.
#[derive(Debug)]
pub enum JournalError {
    /// The disk failed. A failed sync leaves it unknown what is durable, so the
    /// node must stop.
    Io {
        /// What was being done.
        doing: &'static str,
        /// To which file.
        file: String,
        /// What the system said.
        source: io::Error,
    },
    /// Acknowledged records cannot be read any more.
    Damaged {
        /// In which file.
        file: String,
        /// At which byte.
        offset: u64,
        /// What is wrong there.
        what: String,
    },
    /// The file is another node's or of a format that this version cannot read.
    Foreign {
        /// Which file.
        file: String,
        /// What it is.
        what: String,
    },
    /// The record is larger than a segment can hold.
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The most that fits.
        most: usize,
    },
    /// An earlier error has closed the journal.
    Closed,
}

impl fmt::Display for JournalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            JournalError::Io { doing, file, source } => {
                write!(f, "journal: {doing} {file}: {source}")?;
                if source.kind() == io::ErrorKind::StorageFull {
                    write!(
                        f,
                        "; free some space and start the node again: nothing acknowledged was lost"
                    )?;
                }
                Ok(())
            }
            JournalError::Damaged { file, offset, what } => write!(
                f,
                "journal: {file} is damaged at byte {offset}: {what}; this node will neither vote \
                 nor acknowledge with it. Look with `synod journal verify`; if the cluster has a \
                 quorum without this node, start it with --rebuild to fetch everything from its peers, \
                 else restore from a snapshot"
            ),
            JournalError::Foreign { file, what } => {
                write!(f, "journal: {file} is {what}; check the data directory and the version")
            }
            JournalError::TooLarge { bytes, most } => {
                write!(f, "journal: a batch of {bytes} bytes exceeds the segment's {most}")
            }
            JournalError::Closed => write!(f, "journal: closed by an earlier error"),
        }
    }
}

impl std::error::Error for JournalError {}
