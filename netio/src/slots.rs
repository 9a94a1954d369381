//! Tables of fixed size whose keys are never mistaken for a later tenant of the same slot.

/// Names one tenant of a table: the slot, and which of its successive tenants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

/// Most slots a table can have: an index shares a 64-bit word with a generation and an operation kind.
pub(crate) const MAX_SLOTS: usize = 1 << 24;

struct Slot<T> {
    generation: u32,
    tenant: Option<T>,
}

/// A table with a fixed number of slots. It allocates once, when it is made.
///
/// A generation repeats after 2³² tenants of one slot; free slots are reused last in, first out.
pub(crate) struct Slots<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
}

impl<T> Slots<T> {
    pub(crate) fn with_capacity(capacity: usize) -> Self {
        assert!(capacity <= MAX_SLOTS, "a table has at most {MAX_SLOTS} slots");
        let indices = 0..u32::try_from(capacity).expect("MAX_SLOTS fits u32");
        Self {
            slots: indices.clone().map(|_| Slot { generation: 0, tenant: None }).collect(),
            free: indices.rev().collect(),
        }
    }

    pub(crate) fn is_full(&self) -> bool {
        self.free.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Moves `tenant` in, or hands it back when every slot is taken.
    pub(crate) fn insert(&mut self, tenant: T) -> Result<Key, T> {
        let Some(index) = self.free.pop() else { return Err(tenant) };
        let slot = &mut self.slots[index as usize];
        assert!(slot.tenant.is_none(), "a free slot has no tenant");
        slot.tenant = Some(tenant);
        Ok(Key { index, generation: slot.generation })
    }

    pub(crate) fn get(&self, key: Key) -> Option<&T> {
        let slot = self.slots.get(key.index as usize)?;
        if slot.generation == key.generation { slot.tenant.as_ref() } else { None }
    }

    pub(crate) fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        let slot = self.slots.get_mut(key.index as usize)?;
        if slot.generation == key.generation { slot.tenant.as_mut() } else { None }
    }

    /// Moves the tenant out. Its key is stale from here on.
    pub(crate) fn remove(&mut self, key: Key) -> Option<T> {
        let slot = self.slots.get_mut(key.index as usize)?;
        if slot.generation != key.generation {
            return None;
        }
        let tenant = slot.tenant.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(key.index);
        Some(tenant)
    }

    /// Keys of all tenants, in the order of their slots.
    pub(crate) fn keys(&self) -> impl Iterator<Item = Key> + '_ {
        self.slots
            .iter()
            .zip(0u32..)
            .filter(|(slot, _)| slot.tenant.is_some())
            .map(|(slot, index)| Key { index, generation: slot.generation })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_stale_key_finds_nothing() {
        let mut slots = Slots::with_capacity(1);
        let old = slots.insert("old").unwrap();
        assert_eq!(slots.insert("second"), Err("second"));
        assert_eq!(slots.remove(old), Some("old"));
        let new = slots.insert("new").unwrap();
        assert_eq!(new.index, old.index);
        assert_eq!(slots.get(old), None);
        assert_eq!(slots.get_mut(old), None);
        assert_eq!(slots.remove(old), None);
        assert_eq!(slots.get(new), Some(&"new"));
    }

    proptest! {
        #[test]
        fn behaves_like_a_map(steps in prop::collection::vec((any::<bool>(), any::<prop::sample::Index>()), 0..200)) {
            const CAPACITY: usize = 8;
            let mut slots = Slots::with_capacity(CAPACITY);
            let mut model: Vec<(Key, usize)> = Vec::new();
            let mut gone: Vec<Key> = Vec::new();
            for (step, (insert, pick)) in steps.into_iter().enumerate() {
                if insert {
                    match slots.insert(step) {
                        Ok(key) => model.push((key, step)),
                        Err(_) => prop_assert_eq!(model.len(), CAPACITY),
                    }
                } else if !model.is_empty() {
                    let (key, value) = model.swap_remove(pick.index(model.len()));
                    prop_assert_eq!(slots.remove(key), Some(value));
                    gone.push(key);
                }
                prop_assert_eq!(slots.len(), model.len());
                prop_assert_eq!(slots.is_full(), model.len() == CAPACITY);
                prop_assert_eq!(slots.keys().count(), model.len());
                for (key, value) in &model {
                    prop_assert_eq!(slots.get(*key), Some(value));
                }
                for key in &gone {
                    prop_assert_eq!(slots.get(*key), None);
                }
            }
        }
    }
}
