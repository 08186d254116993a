//! Watches. One hub for the door follows the member's feed of revisions and
//! hands each event to the streams whose watches it concerns ([`hub`]); each
//! stream has a task that turns that into answers ([`stream`]).
//!
//! **Invariants**
//! - The events of a watch come in order of revision, none twice, none missing,
//!   those of one revision together (unless fragments were asked for).
//! - What waits for a stream is bounded: beyond it the watch leaves the hub and
//!   reads history at its own pace, so it slows nobody.
//! - A progress note at a revision follows every event at or below it.

pub(crate) mod hub;
pub(crate) mod stream;
