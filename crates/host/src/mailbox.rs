//! What other threads bring to the core's thread: one queue, one wake per drain.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::Notify;

/// A queue with many writers and one reader that takes everything at once.
pub(crate) struct Mailbox<T> {
    items: Mutex<Vec<T>>,
    woken: AtomicBool,
    notify: Notify,
}

impl<T> Mailbox<T> {
    pub fn new() -> Mailbox<T> {
        Mailbox {
            items: Mutex::new(Vec::new()),
            woken: AtomicBool::new(false),
            notify: Notify::new(),
        }
    }

    pub fn push(&self, item: T) {
        self.items.lock().unwrap_or_else(|e| e.into_inner()).push(item);
        self.wake();
    }

    pub fn push_all(&self, items: &mut Vec<T>) {
        self.items.lock().unwrap_or_else(|e| e.into_inner()).append(items);
        self.wake();
    }

    fn wake(&self) {
        if !self.woken.swap(true, Ordering::AcqRel) {
            self.notify.notify_one();
        }
    }

    /// Moves everything into `into` (empty before).
    pub fn take(&self, into: &mut Vec<T>) {
        self.woken.store(false, Ordering::Release);
        std::mem::swap(&mut *self.items.lock().unwrap_or_else(|e| e.into_inner()), into);
    }

    /// Until there may be something to take.
    pub async fn wait(&self) {
        self.notify.notified().await;
    }
}
