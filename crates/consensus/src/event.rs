//! Decisions and their reasons.

/// A decision of a protocol, with its reason. (Filled in with the protocols.)
#[derive(Clone, PartialEq, Debug)]
pub enum Event {}
