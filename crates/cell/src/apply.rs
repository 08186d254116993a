//! Committed entries become state; those who waited are answered.

use crate::cell::{Agreed, Cell, CellOutput, Failure, Reply};
use crate::envelope::{ConfigContext, open};
use bytes::Bytes;
use synod_consensus::{Entry, EntryKind, Input, Membership};
use synod_mvcc::{Command, Outcome, Store};

impl<S: Store> Cell<S> {
    pub(crate) fn apply(&mut self, entries: &[Entry], out: &mut Vec<CellOutput>) {
        let mut answers = Vec::new();
        let mut bytes = 0;
        // Stamps of earlier leaders count for a new one as for everybody.
        let led = self.leads_caught_up();
        for entry in entries {
            if entry.index <= self.state.applied() {
                continue;
            }
            bytes += entry.data.len() + 32;
            let (term, before) = (entry.term, self.state.applied_term());
            if let Err(why) = self.apply_one(entry, &mut answers) {
                out.push(CellOutput::Fatal(why));
                return;
            }
            if term > before {
                self.requests.lost_before(term);
            }
            if bytes >= self.limits.apply_batch_bytes {
                self.publish(std::mem::take(&mut bytes), led, &mut answers, out);
            }
        }
        if bytes > 0 {
            self.publish(bytes, led, &mut answers, out);
        }
        // Told once the protocol's present outputs are all begun: what it then
        // writes comes after what it wrote before.
        self.applied_news = true;
    }

    fn apply_one(&mut self, entry: &Entry, answers: &mut Vec<CellOutput>) -> Result<(), String> {
        let (index, term) = (entry.index, entry.term);
        let broken = |e: &dyn std::fmt::Display| {
            format!(
                "the agreed entry {index} cannot be applied: {e}; its bytes must have been damaged"
            )
        };
        let (origin, ticket, commands) = match entry.kind {
            EntryKind::Noop => (synod_base::NodeId::NONE, 0, Vec::new()),
            EntryKind::Command => {
                let (origin, ticket, command) = open(entry.data.clone()).map_err(|e| broken(&e))?;
                (origin, ticket, vec![command])
            }
            EntryKind::Config => {
                let (_, context) =
                    Membership::decode_entry(entry.data.clone()).map_err(|e| broken(&e))?;
                let context = ConfigContext::decode(context).map_err(|e| broken(&e))?;
                (context.origin, context.ticket, context.commands)
            }
        };
        if let Some(observed) = &mut self.observed {
            let commands = commands.clone();
            observed.push(Agreed { index, term, origin, ticket, commands });
        }
        let result = self.apply_commands(index, term, commands)?;
        let ours = (origin == self.id).then_some(ticket);
        let (answered, lost) = self.requests.settle(index, ours);
        if let Some(ticket) = answered {
            let revision = self.state.revision();
            let result = result
                .map(|outcome| Reply::Applied { outcome, revision, term })
                .map_err(Failure::State);
            answers.push(CellOutput::Done { ticket, result });
        }
        if let Some(ticket) = lost {
            // Another leader's entry took its place, so it will never be.
            let result = Err(Failure::Refused(synod_consensus::Refusal::LeaderChanged));
            answers.push(CellOutput::Done { ticket, result });
        }
        Ok(())
    }

    fn apply_commands(
        &mut self,
        index: u64,
        term: u64,
        commands: Vec<Bytes>,
    ) -> Result<Result<Outcome, synod_mvcc::Error>, String> {
        let mut result = Ok(Outcome::Done);
        if commands.is_empty() {
            self.state.skip(index, term);
        }
        for bytes in commands {
            let command = Command::decode(bytes).map_err(|e| {
                format!("the agreed entry {index} is not a command that this version knows: {e}")
            })?;
            if command.clock().is_some() {
                self.duties.applied_stamp();
            }
            result = self
                .state
                .apply(index, term, &command)
                .map_err(|e| format!("the state's store failed: {e}"))?;
        }
        Ok(result)
    }

    /// One atomic batch to the store; then, and only then, the answers.
    fn publish(
        &mut self,
        bytes: usize,
        led: bool,
        answers: &mut Vec<CellOutput>,
        out: &mut Vec<CellOutput>,
    ) {
        match self.state.commit() {
            Ok(revisions) => {
                if !revisions.is_empty() {
                    out.push(CellOutput::Revisions(revisions));
                }
                out.append(answers);
                self.unsynced_bytes += bytes;
                let leads = led && self.leads_caught_up();
                self.duties.heard(self.state.lease_clock(), leads, self.now);
            }
            Err(e) => self.fatal(&e, out),
        }
    }

    pub(crate) fn tell_applied(&mut self, out: &mut Vec<CellOutput>) {
        let index = self.state.applied();
        self.drive(Input::Applied { index, durable: self.synced.min(index) }, out);
    }

    /// Asks for the store to be made durable when enough has gathered.
    pub(crate) fn maybe_sync(&mut self, out: &mut Vec<CellOutput>) {
        let due = self.unsynced_bytes >= self.limits.sync_bytes
            || (self.unsynced_bytes > 0 && self.now.since(self.last_sync) >= self.limits.sync_ms);
        if due && !self.syncing {
            self.syncing = true;
            self.unsynced_bytes = 0;
            self.last_sync = self.now;
            out.push(CellOutput::SyncState { index: self.state.applied() });
        }
    }
}
