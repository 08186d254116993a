//! Checkers that know nothing of the simulator.

pub mod linear;

#[cfg(test)]
mod histories;
