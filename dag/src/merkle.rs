//! Binary Merkle trees in the shape of RFC 6962, section 2.1: an odd node moves up unchanged.
//!
//! Leaves are hashes of a domain of their own and inner nodes of [`Domain::NODE`], so a node can't pass for a leaf.

use crate::hash::{Domain, Hash};

/// Hash of two children.
pub fn node(left: &Hash, right: &Hash) -> Hash {
    let mut bytes = [0; 64];
    bytes[..32].copy_from_slice(&left.0);
    bytes[32..].copy_from_slice(&right.0);
    Domain::NODE.hash(&bytes)
}

/// Root of `leaves`; [`Hash::ZERO`] where there are none. Uses the slice as scratch space.
pub fn root_in_place(leaves: &mut [Hash]) -> Hash {
    let mut count = leaves.len();
    if count == 0 {
        return Hash::ZERO;
    }
    while count > 1 {
        for i in 0..count / 2 {
            leaves[i] = node(&leaves[2 * i], &leaves[2 * i + 1]);
        }
        if count % 2 == 1 {
            leaves[count / 2] = leaves[count - 1];
        }
        count = count.div_ceil(2);
    }
    leaves[0]
}

/// Root of `leaves`.
pub fn root(leaves: &[Hash]) -> Hash {
    root_in_place(&mut leaves.to_vec())
}

/// The siblings from leaf `index` up to the root, lowest first.
///
/// # Panics
/// Where `index` is not below the number of leaves.
pub fn path(leaves: &[Hash], index: usize) -> Vec<Hash> {
    assert!(index < leaves.len(), "leaf {index} of {}", leaves.len());
    let mut level = leaves.to_vec();
    let mut index = index;
    let mut path = Vec::with_capacity(path_length(index, leaves.len()));
    while level.len() > 1 {
        if index ^ 1 < level.len() {
            path.push(level[index ^ 1]);
        }
        level = level.chunks(2).map(|pair| if let [l, r] = pair { node(l, r) } else { pair[0] }).collect();
        index /= 2;
    }
    path
}

/// Number of siblings on the path of leaf `index` of `count`.
pub fn path_length(mut index: usize, mut count: usize) -> usize {
    let mut length = 0;
    while count > 1 {
        length += usize::from(index ^ 1 < count);
        index /= 2;
        count = count.div_ceil(2);
    }
    length
}

/// The root that `leaf` at `index` of `count` leads to along `path`; `None` where the path has the wrong length.
pub fn root_of_path(leaf: Hash, mut index: usize, mut count: usize, path: &[Hash]) -> Option<Hash> {
    if index >= count || path.len() != path_length(index, count) {
        return None;
    }
    let mut hash = leaf;
    let mut siblings = path.iter();
    while count > 1 {
        if index ^ 1 < count {
            let sibling = siblings.next()?;
            hash = if index.is_multiple_of(2) { node(&hash, sibling) } else { node(sibling, &hash) };
        }
        index /= 2;
        count = count.div_ceil(2);
    }
    Some(hash)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn leaves(count: usize) -> Vec<Hash> {
        (0..count).map(|i| Domain::VOTE.hash(&i.to_le_bytes())).collect()
    }

    /// The recursive definition of RFC 6962, section 2.1.
    fn reference(leaves: &[Hash]) -> Hash {
        match leaves {
            [] => Hash::ZERO,
            [leaf] => *leaf,
            _ => {
                let split = leaves.len().next_power_of_two() / 2;
                node(&reference(&leaves[..split]), &reference(&leaves[split..]))
            }
        }
    }

    #[test]
    fn paths_of_all_small_trees() {
        for count in 1..=70 {
            let leaves = leaves(count);
            let root = root(&leaves);
            assert_eq!(root, reference(&leaves));
            for index in 0..count {
                let path = path(&leaves, index);
                assert_eq!(root_of_path(leaves[index], index, count, &path), Some(root));
                assert_ne!(root_of_path(Hash::ZERO, index, count, &path), Some(root));
            }
        }
    }

    proptest! {
        #[test]
        fn a_leaf_proves_no_other_place(count in 2usize..40, index in 0usize..40, other in 0usize..40) {
            let leaves = leaves(count);
            let (index, other) = (index % count, other % count);
            prop_assume!(index != other);
            let path = path(&leaves, index);
            prop_assert_ne!(root_of_path(leaves[index], other, count, &path), Some(root(&leaves)));
        }
    }
}
