//! What caches may tell.
//!
//! **Checked here**: whatever a client reads from its cache is what the cell has
//! agreed on at that moment: contents, names, and that there is nothing. So it is no
//! older than any write that was acknowledged before the read began.

use crate::model::Model;
use crate::oracle::Found;
use synod_coord::file::{Cached, Object, look, looked};
use synod_mvcc::RangeResult;

/// Compares what a cache tells with the model's present state.
pub fn check_cached(object: &Object, told: &Cached, model: &Model) -> Result<(), Found> {
    let kvs = model.range(&look(object).range, i64::MAX);
    let found = RangeResult { count: kvs.len() as i64, more: false, kvs };
    let now = looked(object, &found).map_err(|e| ("cache coherence", e.to_string()))?;
    if *told == now {
        return Ok(());
    }
    let at = model.revision();
    let what = format!("a cache tells {told:?} of {object:?}, at revision {at} it is {now:?}");
    Err(("cache coherence", what))
}
