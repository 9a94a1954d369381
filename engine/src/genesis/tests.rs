use std::fs;

use super::{
    dev::{dev_account_key, dev_allocations},
    *,
};

fn parameters() -> Parameters {
    let validators = (0..4)
        .map(|i| GenesisValidator { name: format!("v{i}"), key: dev_account_key(&[9; 32], i).address() })
        .collect();
    Parameters { name: "testnet".into(), tables: 16, lanes: 4, time: 1_700_000_000_000_000, validators }
}

fn sample() -> Genesis {
    Genesis::create(parameters(), dev_allocations(&[7; 32], 10, 1_000_000)).unwrap()
}

#[test]
fn round_trip_through_files() {
    let directory = tempfile::tempdir().unwrap();
    let genesis = sample();
    genesis.write(directory.path()).unwrap();
    assert_eq!(Genesis::load(&directory.path().join(GENESIS_FILE)).unwrap(), genesis);
    assert_eq!(genesis.supply(), 10_000_000);
    assert!(genesis.allocations().is_sorted_by_key(|allocation| allocation.address));
    let again = genesis.write(directory.path()).unwrap_err();
    assert!(matches!(again, GenesisError::Exists(_)), "{again}");
}

#[test]
fn the_hash_is_stable() {
    let genesis = sample();
    assert_eq!(
        genesis.hash().to_string(),
        "eac84a7331dffe364c9ae0f67c0f67a8d59c26bc1b93162199fb424235c49953"
    );
    assert_eq!(genesis.chain().to_le_bytes(), genesis.hash().0[..8]);
    assert_eq!(genesis.committee().chain(), genesis.chain());
}

#[test]
fn the_hash_covers_what_nodes_agree_on_and_nothing_else() {
    let allocations = dev_allocations(&[7; 32], 10, 1_000_000);
    let hash = |change: fn(&mut Parameters, &mut Vec<Allocation>)| {
        let (mut parameters, mut allocations) = (parameters(), allocations.clone());
        change(&mut parameters, &mut allocations);
        Genesis::create(parameters, allocations).unwrap().hash()
    };
    let base = hash(|_, _| {});
    assert_eq!(hash(|p, _| p.validators[0].name = "other".into()), base);
    assert_eq!(hash(|_, a| a.reverse()), base);
    let different = [
        hash(|p, _| p.name = "another".into()),
        hash(|p, _| p.tables = 32),
        hash(|p, _| p.lanes = 2),
        hash(|p, _| p.time += 1),
        hash(|p, _| p.validators.swap(0, 1)),
        hash(|_, a| a[0].balance += 1),
        hash(|_, a| a.truncate(9)),
    ];
    for hash in different {
        assert_ne!(hash, base);
    }
}

#[test]
fn refuses_each_broken_rule_in_one_line() {
    let refused = |change: fn(&mut Parameters, &mut Vec<Allocation>)| {
        let (mut parameters, mut allocations) = (parameters(), dev_allocations(&[7; 32], 3, 1));
        change(&mut parameters, &mut allocations);
        let text = Genesis::create(parameters, allocations).unwrap_err().to_string();
        assert_eq!(text.lines().count(), 1, "{text}");
        text
    };
    for (text, cause) in [
        (refused(|p, _| p.name = "My Net".into()), "is no name"),
        (refused(|p, _| p.name.clear()), "is no name"),
        (refused(|p, _| p.validators[1].name = "a\"b".into()), "is no name"),
        (refused(|p, _| p.validators[1].name = "v0".into()), "two validators are called «v0»"),
        (refused(|p, _| p.tables = 12), "12 tables: use a power of two"),
        (refused(|p, _| p.tables = 2048), "2048 tables"),
        (refused(|p, _| p.lanes = 17), "17 lanes for 16 tables: use 1 to 16"),
        (refused(|p, _| p.lanes = 0), "0 lanes"),
        (refused(|p, _| p.validators.truncate(3)), "not 3"),
        (refused(|p, _| p.validators[1].key = p.validators[0].key), "listed twice"),
        (refused(|_, a| a[1].balance = 0), "is zero"),
        (refused(|_, a| a[1].address = a[0].address), "two allocations"),
        (refused(|_, a| a[1].balance = u64::MAX), "add up to more"),
    ] {
        assert!(text.contains(cause), "{text}");
    }
}

#[test]
fn damaged_files_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(GENESIS_FILE);
    let allocations = directory.path().join(ALLOCATIONS_FILE);
    sample().write(directory.path()).unwrap();
    let (toml, bytes) = (fs::read_to_string(&path).unwrap(), fs::read(&allocations).unwrap());
    let error = |toml: &str, bytes: &[u8]| {
        fs::write(&path, toml).unwrap();
        fs::write(&allocations, bytes).unwrap();
        Genesis::load(&path).unwrap_err().to_string()
    };

    let mut flipped = bytes.clone();
    flipped[35] ^= 1;
    assert!(error(&toml, &flipped).contains("not the one that genesis.toml names (its blake3)"));
    assert!(error(&toml, &bytes[1..]).contains("(its size)"));
    assert!(error(&toml, &[]).contains("(its size)"));

    // Consistent, yet not in the one order that is canonical.
    let mut swapped = bytes[ALLOCATION_SIZE..].to_vec();
    swapped.extend_from_slice(&bytes[..ALLOCATION_SIZE]);
    let digest = |bytes: &[u8]| blake3::hash(bytes).to_string();
    let renamed = toml.replace(&digest(&bytes), &digest(&swapped));
    assert!(error(&renamed, &swapped).contains("don't ascend"));

    assert!(error(&toml.replace("version = 1", "version = 2"), &bytes).contains("version 2 is unknown"));
    let unknown = error(&toml.replace("lanes = 4", "lanes = 4\ncolour = 1"), &bytes);
    assert!(unknown.contains("genesis.toml:7:1: unknown field `colour`"), "{unknown}");
    let key = error(&toml.replacen("key = \"top1", "key = \"top2", 1), &bytes);
    assert!(key.contains("genesis.toml:15:7: «top2"), "{key}");

    fs::write(&path, &toml).unwrap();
    fs::remove_file(&allocations).unwrap();
    assert!(Genesis::load(&path).unwrap_err().to_string().contains("allocations.bin can't be read"));
}
