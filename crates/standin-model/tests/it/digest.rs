use proptest::prelude::*;
use standin_model::digest::tree::{self, RootBuilder};
use standin_model::{BlockDigest, DeltaDigest, is_zero_data};

#[test]
fn a_digest_is_the_beginning_of_the_blake3_hash() {
    // The published test value of BLAKE3 for "abc".
    assert_eq!(BlockDigest::of(b"abc").to_string(), "6437b3ac38465133ffb63b75273a8db5");
}

#[test]
fn zeros_of_any_length_have_the_zero_digest_and_nothing_else_has() {
    for length in [0, 1, 15, 16, 17, 31, 32, 33, 4095, 4096, 65536] {
        let mut data = vec![0_u8; length];
        assert!(BlockDigest::of(&data).is_zero(), "{length} zeros");
        for place in [0, length / 2, length.saturating_sub(1)] {
            if place < length {
                data[place] = 1;
                assert!(
                    !is_zero_data(&data) && !BlockDigest::of(&data).is_zero(),
                    "a one at {place} of {length}"
                );
                data[place] = 0;
            }
        }
    }
}

#[test]
fn text_that_is_no_digest_is_refused() {
    let good = BlockDigest::of(b"x").to_string();
    assert_eq!(good.parse::<BlockDigest>(), Ok(BlockDigest::of(b"x")));
    for bad in [
        "",
        "00",
        &good[1..],
        &format!("{good}0"),
        &format!("+{}", &good[1..]),
        &"ä".repeat(16),
        &"g".repeat(32),
    ] {
        assert!(bad.parse::<BlockDigest>().is_err(), "{bad:?} was accepted");
    }
    assert!(serde_json::from_str::<BlockDigest>("17").is_err());
    assert!(good.parse::<DeltaDigest>().is_err());
}

#[test]
fn levels_grow_by_one_for_every_64_fold() {
    let cases =
        [(0, 0), (1, 0), (2, 1), (64, 1), (65, 2), (4096, 2), (4097, 3), (1 << 24, 4), (u64::MAX, 11)];
    for (leaves, levels) in cases {
        assert_eq!(tree::levels(leaves), levels, "{leaves} leaves");
    }
}

/// The root, level by level: what the streaming builder must agree with.
fn plain_root(leaves: &[BlockDigest]) -> BlockDigest {
    match leaves {
        [] => BlockDigest::ZERO,
        [only] => *only,
        many => plain_root(&many.chunks(tree::FAN_OUT).map(tree::node).collect::<Vec<_>>()),
    }
}

fn leaf(number: u64) -> BlockDigest {
    if number % 3 == 0 { BlockDigest::ZERO } else { BlockDigest::of(&number.to_le_bytes()) }
}

#[test]
fn the_streamed_root_is_the_root_at_every_edge_of_a_level() {
    for count in [0, 1, 2, 63, 64, 65, 127, 128, 129, 4095, 4096, 4097, 8191, 9000] {
        let leaves: Vec<_> = (0..count).map(leaf).collect();
        assert_eq!(tree::root(leaves.iter().copied()), plain_root(&leaves), "{count} leaves");
    }
}

#[test]
fn swapped_or_changed_leaves_change_the_root() {
    let mut leaves: Vec<_> = (1..200).map(leaf).collect();
    let root = plain_root(&leaves);
    leaves.swap(0, 100);
    assert_ne!(plain_root(&leaves), root);
    leaves.swap(0, 100);
    leaves[150] = leaf(9_999);
    assert_ne!(plain_root(&leaves), root);
}

#[test]
fn a_node_is_not_the_digest_of_its_childrens_bytes() {
    let children = [leaf(1), leaf(2)];
    let bytes: Vec<u8> = children.iter().flat_map(|child| *child.as_bytes()).collect();
    assert_ne!(tree::node(&children), BlockDigest::of(&bytes));
}

#[test]
fn a_petabyte_of_zeros_is_added_at_once() {
    let mut builder = RootBuilder::new();
    builder.push_zeros(1 << 38);
    assert!(builder.finish().is_zero());
}

/// Blocks of a delta as the wire has them: offset, length, data or zeros.
fn sum(blocks: &[(u64, u64, BlockDigest)]) -> DeltaDigest {
    let mut sum = DeltaDigest::new();
    for (offset, length, digest) in blocks {
        sum.add_block(*offset, *length, *digest);
    }
    sum
}

#[test]
fn a_lost_doubled_or_moved_block_changes_the_delta_digest() {
    let blocks: Vec<_> = (0..5).map(|n| (n * 4096, 4096, BlockDigest::of(&[7; 9]))).collect();
    let whole = sum(&blocks);
    assert_ne!(sum(&blocks[1..]), whole);
    assert_ne!(sum(&[&blocks[..], &blocks[..1]].concat()), whole);
    let mut moved = blocks.clone();
    moved[0].0 = 5 * 4096;
    assert_ne!(sum(&moved), whole);
    let mut longer = blocks;
    longer[0].1 = 8192;
    assert_ne!(sum(&longer), whole);
}

#[test]
fn read_zeros_and_told_zeros_count_alike() {
    let mut told = DeltaDigest::new();
    told.add_zero(4096, 65536);
    assert_eq!(told, sum(&[(4096, 65536, BlockDigest::of(&[0; 65536]))]));
    assert_ne!(told, DeltaDigest::new());
}

proptest! {
    #[test]
    fn the_zero_test_agrees_with_looking_at_every_byte(data in prop::collection::vec(0_u8..2, 0..70)) {
        prop_assert_eq!(is_zero_data(&data), data.iter().all(|byte| *byte == 0));
    }

    #[test]
    fn runs_of_zeros_are_zeros_pushed_one_by_one(runs in prop::collection::vec((0_u64..9000, 0_u64..5), 1..6)) {
        let mut quick = RootBuilder::new();
        let mut leaves = Vec::new();
        for (zeros, others) in runs {
            quick.push_zeros(zeros);
            leaves.extend((0..zeros).map(|_| BlockDigest::ZERO));
            for number in 0..others {
                quick.push(leaf(number * 3 + 1));
                leaves.push(leaf(number * 3 + 1));
            }
        }
        prop_assert_eq!(quick.finish(), plain_root(&leaves));
    }

    #[test]
    fn the_order_and_the_parts_of_a_delta_do_not_matter(
        blocks in prop::collection::vec((any::<u64>(), any::<u64>(), any::<[u8; 16]>()), 0..20),
        split in 0_usize..20,
    ) {
        let blocks: Vec<_> = blocks.into_iter().map(|(o, l, d)| (o, l, BlockDigest::from_bytes(d))).collect();
        let mut backwards = blocks.clone();
        backwards.reverse();
        prop_assert_eq!(sum(&backwards), sum(&blocks));
        let (one, two) = blocks.split_at(split.min(blocks.len()));
        let mut merged = sum(two);
        merged.merge(&sum(one));
        prop_assert_eq!(merged, sum(&blocks));
    }

    #[test]
    fn digests_survive_bytes_text_and_json(block: [u8; 16], delta: [u8; 32]) {
        let block = BlockDigest::from_bytes(block);
        let delta = DeltaDigest::from_bytes(delta);
        prop_assert_eq!(block.to_string().parse(), Ok(block));
        prop_assert_eq!(delta.to_string().parse(), Ok(delta));
        prop_assert_eq!(DeltaDigest::from_bytes(delta.to_bytes()), delta);
        let json = serde_json::to_string(&(block, delta)).expect("two strings");
        prop_assert_eq!(serde_json::from_str::<(BlockDigest, DeltaDigest)>(&json).expect("own JSON"), (block, delta));
    }
}
