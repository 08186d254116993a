//! No protocol at all: what the pump, the commands and the state machines cost
//! by themselves. The first replica hands each batch to the others and applies
//! it when the second answers; all keep as much as the cores do.

use crate::RETAINED;
use crate::journal::Journal;
use crate::meter::State;
use crate::pump::{Failure, Replica};
use std::collections::VecDeque;
use std::sync::Arc;

type Batch = Arc<[Vec<u8>]>;

/// A replica that believes what it is told.
pub struct Bare {
    id: u64,
    came: VecDeque<Batch>,
    /// What of it may be applied.
    ready: usize,
    kept: VecDeque<Batch>,
    commands: u64,
    out: Vec<(u64, Option<Batch>)>,
}

impl Replica for Bare {
    /// A batch, or the answer.
    type Message = Option<Batch>;

    fn new(id: u64, _: Journal) -> Result<Self, Failure> {
        let (came, kept) = (VecDeque::new(), VecDeque::new());
        Ok(Bare { id, came, ready: 0, kept, commands: 0, out: Vec::new() })
    }

    fn tick(&mut self) {}

    fn leads(&self) -> bool {
        self.id == 1
    }

    fn receive(&mut self, from: u64, message: Option<Batch>) -> Result<(), Failure> {
        match message {
            Some(batch) => {
                self.came.push_back(batch);
                self.ready += 1;
                self.out.push((from, None));
            }
            None => self.ready += usize::from(from == 2),
        }
        Ok(())
    }

    fn propose(&mut self, commands: Vec<Vec<u8>>) -> Result<(), Failure> {
        let batch: Batch = commands.into();
        self.out.extend([(2, Some(batch.clone())), (3, Some(batch.clone()))]);
        self.came.push_back(batch);
        Ok(())
    }

    fn turn(
        &mut self,
        state: &mut State,
        sent: &mut Vec<(u64, Option<Batch>)>,
    ) -> Result<(), Failure> {
        sent.append(&mut self.out);
        for batch in self.came.drain(..std::mem::take(&mut self.ready)) {
            batch.iter().for_each(|command| state.apply(command));
            self.commands += batch.len() as u64;
            self.kept.push_back(batch);
        }
        while let Some(old) = self.kept.pop_front_if(|b| self.commands > RETAINED + b.len() as u64)
        {
            self.commands -= old.len() as u64;
        }
        Ok(())
    }
}
