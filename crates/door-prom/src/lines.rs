//! What the lines of a target's page stand for. A page changes little from one scrape to the
//! next: behind a line nearly always stands the one that stood there before, and is found
//! by a comparison instead of a search.

use hashbrown::{DefaultHashBuilder, HashTable};
use std::hash::BuildHasher;
use synod_tsdb::SeriesId;

/// A line that was seen.
#[derive(Debug)]
pub(crate) struct Known {
    /// Name and labels, as they stand on the page.
    pub text: Box<str>,
    /// None: relabelling drops it.
    pub id: Option<SeriesId>,
    /// It came with a time of its own.
    pub timed: bool,
    /// The scrape that saw it last.
    round: u64,
    /// The line that stood behind it then.
    next: Place,
}

/// Where a line is kept, until it is forgotten.
pub(crate) type Place = u32;

/// See the file's header.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    places: Vec<Option<Known>>,
    free: Vec<Place>,
    by_text: HashTable<Place>,
    hasher: DefaultHashBuilder,
    /// The page's first.
    first: Place,
    /// This scrape's number.
    round: u64,
    /// Lines that this scrape saw.
    seen: usize,
    /// The last of them.
    last: Option<Place>,
}

impl Lines {
    /// The line that stood behind this one; behind none, the first.
    pub fn behind(&self, place: Option<Place>) -> Option<(Place, &Known)> {
        let next = match place {
            None => self.first,
            Some(place) => self.get(place)?.next,
        };
        Some((next, self.get(next)?))
    }

    /// A line.
    pub fn get(&self, place: Place) -> Option<&Known> {
        self.places.get(place as usize)?.as_ref()
    }

    /// The line of this text.
    pub fn find(&self, text: &str) -> Option<Place> {
        let same = |place: &Place| self.get(*place).is_some_and(|known| *known.text == *text);
        self.by_text.find(self.hasher.hash_one(text), same).copied()
    }

    /// Notes a line that is not known.
    pub fn insert(&mut self, text: &str, id: Option<SeriesId>, timed: bool) -> Place {
        let known = Known { text: text.into(), id, timed, round: 0, next: Place::MAX };
        let place = self.free.pop().unwrap_or_else(|| {
            self.places.push(None);
            self.places.len() as Place - 1
        });
        self.places[place as usize] = Some(known);
        let (places, hasher) = (&self.places, &self.hasher);
        self.by_text.insert_unique(self.hasher.hash_one(text), place, |place| {
            places[*place as usize].as_ref().map_or(0, |known| hasher.hash_one(&*known.text))
        });
        place
    }

    /// A scrape begins.
    pub fn begin(&mut self) {
        (self.round, self.seen, self.last) = (self.round + 1, 0, None);
    }

    /// This scrape's next line is this one; gives its series.
    pub fn see(&mut self, place: Place) -> Option<SeriesId> {
        match self.last.replace(place).and_then(|last| self.places[last as usize].as_mut()) {
            Some(last) => last.next = place,
            None => self.first = place,
        }
        let known = self.places.get_mut(place as usize)?.as_mut()?;
        if std::mem::replace(&mut known.round, self.round) != self.round {
            self.seen += 1;
        }
        known.id
    }

    /// Forgets the lines that this scrape did not see; hands each out.
    pub fn forget_unseen(&mut self, each: impl FnMut(&Known)) {
        if self.seen < self.by_text.len() {
            let round = self.round;
            self.forget(|known| known.round != round, each);
        }
    }

    /// Forgets lines; hands each out.
    pub fn forget(&mut self, gone: impl Fn(&Known) -> bool, mut each: impl FnMut(&Known)) {
        for (place, slot) in self.places.iter_mut().enumerate() {
            let Some(known) = slot.take_if(|known| gone(known)) else { continue };
            self.seen -= usize::from(known.round == self.round);
            each(&known);
            self.free.push(place as Place);
            let hash = self.hasher.hash_one(&*known.text);
            if let Ok(entry) = self.by_text.find_entry(hash, |p| *p == place as Place) {
                entry.remove();
            }
        }
    }

    /// All lines.
    pub fn iter(&self) -> impl Iterator<Item = &Known> {
        self.places.iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines that had to be searched for.
    fn scrape(lines: &mut Lines, page: &str) -> usize {
        let (mut place, mut searched, mut found) = (None, 0, Vec::new());
        for text in page.split_whitespace() {
            let guess = lines.behind(place).filter(|(_, known)| *known.text == *text);
            place = Some(match guess {
                Some((place, _)) => place,
                None => {
                    searched += 1;
                    lines.find(text).unwrap_or_else(|| lines.insert(text, None, false))
                }
            });
            found.extend(place);
        }
        lines.begin();
        for place in found {
            lines.see(place);
        }
        searched
    }

    fn unseen(lines: &mut Lines) -> String {
        let mut gone = String::new();
        lines.forget_unseen(|known| gone += &known.text);
        gone
    }

    #[test]
    fn a_line_is_expected_where_it_was() {
        let mut lines = Lines::default();
        assert_eq!(scrape(&mut lines, "a b c d"), 4);
        assert_eq!((scrape(&mut lines, "a b c d"), unseen(&mut lines)), (0, String::new()));
        // One is new, and one is gone.
        assert_eq!((scrape(&mut lines, "a x b d"), unseen(&mut lines)), (3, "c".into()));
        assert_eq!((scrape(&mut lines, "a x b d"), unseen(&mut lines)), (0, String::new()));
        // The place of one that is gone is another's now.
        assert_eq!((scrape(&mut lines, "y a d"), unseen(&mut lines)), (3, "bx".into()));
        assert_eq!((scrape(&mut lines, "y a d"), lines.find("x")), (0, None));
        // A line may stand there twice.
        assert_eq!((scrape(&mut lines, "y y a"), unseen(&mut lines)), (1, "d".into()));
        assert_eq!((scrape(&mut lines, ""), unseen(&mut lines).len()), (0, 2));
        assert_eq!(lines.iter().count(), 0);
    }
}
