//! The slots that listen to one channel.

/// Most channels of a node with very many streams have one listener: two words, no allocation.
#[derive(Debug, Default)]
pub(super) enum Slots {
    #[default]
    None,
    One(u32),
    // Thin, so that this has two words.
    #[allow(clippy::box_collection)]
    Many(Box<Vec<u32>>),
}

impl Slots {
    pub(super) fn as_slice(&self) -> &[u32] {
        match self {
            Self::None => &[],
            Self::One(slot) => std::slice::from_ref(slot),
            Self::Many(slots) => slots,
        }
    }

    /// Appends a slot and answers its place.
    pub(super) fn push(&mut self, slot: u32) -> u32 {
        match self {
            Self::None => *self = Self::One(slot),
            Self::One(first) => *self = Self::Many(Box::new(vec![*first, slot])),
            Self::Many(slots) => slots.push(slot),
        }
        self.as_slice().len() as u32 - 1
    }

    /// Removes the slot at the place; the last takes its place, and is answered if there is one.
    pub(super) fn swap_remove(&mut self, place: u32) -> Option<u32> {
        match self {
            Self::None | Self::One(_) => *self = Self::None,
            Self::Many(slots) => {
                slots.swap_remove(place as usize);
                match slots.as_slice() {
                    [] => *self = Self::None,
                    // Give back what many needed.
                    [slot] => *self = Self::One(*slot),
                    _ => {}
                }
            }
        }
        self.as_slice().get(place as usize).copied()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn slots_are_those_of_a_vector(steps in prop::collection::vec(prop::option::of(any::<prop::sample::Index>()), 0..60)) {
            let (mut slots, mut model) = (Slots::default(), Vec::new());
            for (number, step) in (0..).zip(steps) {
                match step.filter(|_| !model.is_empty()) {
                    None => {
                        prop_assert_eq!(slots.push(number) as usize, model.len());
                        model.push(number);
                    }
                    Some(index) => {
                        let place = index.index(model.len());
                        model.swap_remove(place);
                        prop_assert_eq!(slots.swap_remove(place as u32), model.get(place).copied());
                    }
                }
                prop_assert_eq!(slots.as_slice(), model.as_slice());
            }
        }
    }
}
