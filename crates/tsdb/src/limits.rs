//! Bounds of what is kept, and what is said when they are met.

use std::fmt;

/// Bounds.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Series of the head.
    pub series: usize,
    /// Labels of a series.
    pub labels: usize,
    /// Bytes of all labels of a series.
    pub label_bytes: usize,
    /// Bytes of the head's chunks: beyond them nothing is taken until a block is written.
    pub head_bytes: usize,
    /// How long samples stay, ms.
    pub retention: i64,
    /// Bytes of all blocks; 0: any.
    pub retention_bytes: u64,
    /// How much older than the newest sample one may be that comes late, ms; 0: none may.
    pub out_of_order: i64,
    /// The time that the smallest blocks span, ms.
    pub block_range: i64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            series: 200_000,
            labels: 64,
            label_bytes: 8 << 10,
            head_bytes: 1 << 30,
            retention: 15 * 86_400_000,
            retention_bytes: 1 << 30,
            out_of_order: 0,
            block_range: 2 * 3_600_000,
        }
    }
}

impl Limits {
    /// The head is cut when it spans more than this.
    pub(crate) fn head_span(&self) -> i64 {
        self.block_range + self.block_range / 2
    }

    /// Where the block begins in which a time lies.
    pub(crate) fn block_of(&self, at: i64) -> i64 {
        at.div_euclid(self.block_range).saturating_mul(self.block_range)
    }
}

/// Why a sample or a series was not taken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Refused {
    /// The series has a later sample.
    OutOfOrder,
    /// The series has a later sample, and histograms are taken in order only.
    LateHistogram,
    /// It has another value at this very time.
    Duplicate,
    /// What is so old is in a block already, or belongs there.
    OutOfBounds,
    /// It is later than the out-of-order window allows.
    TooOld,
    /// Its time is too far ahead of the clock.
    Ahead,
    /// There are as many series as the limit allows.
    TooManySeries(usize),
    /// Too many labels, or too many bytes of them.
    TooManyLabels(usize),
    /// Blocks cannot be written, and memory for samples is used up.
    Full(usize),
    /// The disk has less free than its owner wants to leave.
    NoRoom,
    /// The series is no more: nothing came for long, and what it had is in blocks.
    Gone,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refused::OutOfOrder => f.write_str("out of order sample"),
            Refused::LateHistogram => {
                f.write_str("out of order sample: native histograms are taken in order only")
            }
            Refused::Duplicate => f.write_str("duplicate sample for timestamp"),
            Refused::OutOfBounds => f.write_str("out of bounds"),
            Refused::TooOld => f.write_str("too old sample"),
            Refused::Ahead => f.write_str("a sample is too far in the future"),
            Refused::TooManySeries(most) => {
                write!(f, "there are {most} series already, which is the limit")
            }
            Refused::TooManyLabels(most) => {
                write!(f, "a series has more labels, or longer ones, than the limit of {most}")
            }
            Refused::Full(most) => {
                write!(f, "{most} bytes of samples wait for a block that cannot be written")
            }
            Refused::NoRoom => f.write_str("the disk has too little room left"),
            Refused::Gone => f.write_str("the series was dropped as too old"),
        }
    }
}

impl std::error::Error for Refused {}
