//! A persistent ordered map: cloning is O(1), a change after a clone copies
//! only the path to the changed leaf. A B+-tree of shared nodes (Driscoll et
//! al., "Making Data Structures Persistent", path copying).
//!
//! **Invariants**
//! - Keys of a leaf ascend; every key of child `i` is at or above the
//!   separator `i` and below the separator `i + 1` (the first separator is
//!   never looked at).
//! - No node but the root is empty; all leaves are at one depth. Nodes may be
//!   sparse after removals: rebalancing is not worth its code here.

use bytes::Bytes;
use std::sync::Arc;

/// Most entries of a node.
const FANOUT: usize = 8;

/// A key and its value. Shared as one: a path is copied at most changes, with all pairs
/// of its leaf.
type Pair = Arc<(Bytes, Bytes)>;

/// A child's separator is the key of a pair (that it had as its first when it was cut off).
#[derive(Clone)]
enum Node {
    Leaf(Vec<Pair>),
    Inner(Vec<(Pair, Arc<Node>)>),
}

/// See the file's header.
#[derive(Clone)]
pub(crate) struct PMap {
    root: Arc<Node>,
}

impl Default for PMap {
    fn default() -> PMap {
        PMap { root: Arc::new(Node::Leaf(Vec::new())) }
    }
}

fn child_of(children: &[(Pair, Arc<Node>)], key: &[u8]) -> usize {
    children.partition_point(|(first, _)| &first.0[..] <= key).saturating_sub(1)
}

impl Node {
    fn len(&self) -> usize {
        match self {
            Node::Leaf(pairs) => pairs.len(),
            Node::Inner(children) => children.len(),
        }
    }

    /// Cuts off the upper half of a node that grew too large.
    fn split(&mut self) -> Option<(Pair, Arc<Node>)> {
        if self.len() <= FANOUT {
            return None;
        }
        match self {
            Node::Leaf(pairs) => {
                let upper = pairs.split_off(FANOUT / 2);
                Some((upper[0].clone(), Arc::new(Node::Leaf(upper))))
            }
            Node::Inner(children) => {
                let upper = children.split_off(FANOUT / 2);
                Some((upper[0].0.clone(), Arc::new(Node::Inner(upper))))
            }
        }
    }

    fn insert(&mut self, pair: Pair) -> Option<(Pair, Arc<Node>)> {
        match self {
            Node::Leaf(pairs) => match pairs.binary_search_by(|p| p.0.cmp(&pair.0)) {
                Ok(at) => pairs[at] = pair,
                Err(at) => pairs.insert(at, pair),
            },
            Node::Inner(children) => {
                let at = child_of(children, &pair.0);
                if let Some(upper) = Arc::make_mut(&mut children[at].1).insert(pair) {
                    children.insert(at + 1, upper);
                }
            }
        }
        self.split()
    }

    fn remove(&mut self, key: &[u8]) {
        match self {
            Node::Leaf(pairs) => {
                if let Ok(at) = pairs.binary_search_by(|p| p.0[..].cmp(key)) {
                    pairs.remove(at);
                }
            }
            Node::Inner(children) => {
                let at = child_of(children, key);
                let child = Arc::make_mut(&mut children[at].1);
                child.remove(key);
                if child.len() == 0 {
                    children.remove(at);
                }
            }
        }
    }
}

impl PMap {
    /// The value of `key`.
    pub(crate) fn get(&self, key: &[u8]) -> Option<&Bytes> {
        let mut node = &*self.root;
        loop {
            match node {
                Node::Leaf(pairs) => {
                    let at = pairs.binary_search_by(|p| p.0[..].cmp(key)).ok()?;
                    return Some(&pairs[at].1);
                }
                Node::Inner(children) => node = &children[child_of(children, key)].1,
            }
        }
    }

    /// Sets `key`.
    pub(crate) fn insert(&mut self, key: Bytes, value: Bytes) {
        if let Some(upper) = Arc::make_mut(&mut self.root).insert(Arc::new((key, value))) {
            let lower = (Pair::default(), Arc::clone(&self.root));
            self.root = Arc::new(Node::Inner(vec![lower, upper]));
        }
    }

    /// Removes `key`, if it is there.
    pub(crate) fn remove(&mut self, key: &[u8]) {
        if self.get(key).is_none() {
            return; // Nothing to copy a path for.
        }
        Arc::make_mut(&mut self.root).remove(key);
        loop {
            let next = match &*self.root {
                Node::Inner(children) if children.len() == 1 => Arc::clone(&children[0].1),
                Node::Inner(children) if children.is_empty() => Arc::new(Node::Leaf(Vec::new())),
                _ => return,
            };
            self.root = next;
        }
    }

    /// The pairs in `from..to`, ascending, or descending if `reverse`.
    pub(crate) fn range(&self, from: &[u8], to: Option<&[u8]>, reverse: bool) -> Range<'_> {
        let bound = if reverse { Some(from) } else { to };
        let mut range =
            Range { stack: Vec::new(), reverse, bound: bound.map(Bytes::copy_from_slice) };
        range.seek(&self.root, if reverse { to } else { Some(from) });
        range
    }
}

/// Iterates over a [`PMap`]. The stack holds, for each level, the node and how
/// many of its entries lie before the position.
pub(crate) struct Range<'a> {
    stack: Vec<(&'a Node, usize)>,
    reverse: bool,
    bound: Option<Bytes>,
}

impl<'a> Range<'a> {
    /// Positions between the keys below `at` and those at or above it (`None`:
    /// behind everything).
    fn seek(&mut self, root: &'a Node, at: Option<&[u8]>) {
        let mut node = root;
        loop {
            match node {
                Node::Leaf(pairs) => {
                    let before =
                        at.map_or(pairs.len(), |at| pairs.partition_point(|p| &p.0[..] < at));
                    self.stack.push((node, before));
                    return;
                }
                Node::Inner(children) => {
                    let child = at.map_or(children.len() - 1, |at| child_of(children, at));
                    // Going on, this child is done; going back, it still is to be left.
                    self.stack.push((node, if self.reverse { child } else { child + 1 }));
                    node = &children[child].1;
                }
            }
        }
    }

    fn step(&mut self) -> Option<&'a (Bytes, Bytes)> {
        loop {
            let (node, before) = self.stack.last_mut()?;
            let node: &'a Node = node;
            let at = if self.reverse {
                before.checked_sub(1)
            } else {
                Some(*before).filter(|at| *at < node.len())
            };
            let Some(at) = at else {
                self.stack.pop();
                continue;
            };
            *before = if self.reverse { at } else { at + 1 };
            match node {
                Node::Leaf(pairs) => return Some(&pairs[at]),
                Node::Inner(children) => {
                    let child: &'a Node = &children[at].1;
                    self.stack.push((child, if self.reverse { child.len() } else { 0 }));
                }
            }
        }
    }
}

impl<'a> Iterator for Range<'a> {
    type Item = &'a (Bytes, Bytes);

    fn next(&mut self) -> Option<Self::Item> {
        let pair = self.step()?;
        let inside = match &self.bound {
            None => true,
            Some(bound) if self.reverse => pair.0 >= *bound,
            Some(bound) => pair.0 < *bound,
        };
        if !inside {
            self.stack.clear();
            return None;
        }
        Some(pair)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn like_a_btreemap(
            ops in prop::collection::vec((0u16..300, prop::option::weighted(0.6, 0u8..9)), 0..600),
            from in 0u16..300,
            to in prop::option::of(0u16..300),
        ) {
            let mut map = PMap::default();
            let mut model = BTreeMap::new();
            let mut pins = Vec::new();
            for (i, (k, v)) in ops.into_iter().enumerate() {
                let key = Bytes::copy_from_slice(&k.to_be_bytes());
                match v {
                    Some(v) => {
                        let v = Bytes::copy_from_slice(&[v]);
                        map.insert(key.clone(), v.clone());
                        model.insert(key, v);
                    }
                    None => {
                        map.remove(&key);
                        model.remove(&key);
                    }
                }
                if i % 97 == 0 {
                    pins.push((map.clone(), model.clone()));
                }
            }
            pins.push((map, model));
            let from = from.to_be_bytes();
            let to = to.map(|t| t.to_be_bytes()).filter(|t| *t >= from);
            for (map, model) in pins {
                let want: Vec<_> = model
                    .iter()
                    .filter(|(k, _)| k[..] >= from[..] && to.is_none_or(|t| k[..] < t[..]))
                    .map(|(k, v)| (k.clone(), v.clone()))
                    .collect();
                let to = to.as_ref().map(|t| &t[..]);
                let got: Vec<_> = map.range(&from, to, false).cloned().collect();
                prop_assert_eq!(&got, &want);
                let mut back: Vec<_> = map.range(&from, to, true).cloned().collect();
                back.reverse();
                prop_assert_eq!(&back, &want);
                for (k, v) in &model {
                    prop_assert_eq!(map.get(k), Some(v));
                }
            }
        }
    }
}
