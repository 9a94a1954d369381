//! Which client is at home on which core.

use std::collections::BTreeMap;

use relay_dp::vpn::{Network, PublicKey};

use super::clients::Client;

/// Clients by key, each with its home.
pub type Homes = BTreeMap<PublicKey, (Client, u8)>;

/// Gives each of `clients` a home on one of `cores` cores: the one that it has in `before`, or the one with the fewest. Clients whose
/// networks overlap are at home together, since only one endpoint that knows both can tell whose an address is.
pub fn assign(clients: &BTreeMap<PublicKey, Client>, before: &Homes, cores: u8) -> Homes {
    let together = together(clients);
    let group = |key: &PublicKey| together.get(key).copied().unwrap_or(*key);
    let mut homes: BTreeMap<PublicKey, u8> = BTreeMap::new();
    for key in clients.keys() {
        if let Some((_, home)) = before.get(key) {
            homes.entry(group(key)).or_insert(*home);
        }
    }
    let mut counts = vec![0usize; cores.into()];
    for home in clients.keys().filter_map(|key| homes.get(&group(key))) {
        counts[usize::from(*home)] += 1;
    }
    let (settled, mut at_home) = (homes.clone(), Homes::new());
    for (key, client) in clients {
        let home = *homes.entry(group(key)).or_insert_with(|| {
            let least = (0..).zip(&counts).min_by_key(|(core, clients)| (**clients, *core));
            least.map_or(0, |(core, _)| core)
        });
        if !settled.contains_key(&group(key)) {
            counts[usize::from(home)] += 1;
        }
        at_home.insert(*key, (client.clone(), home));
    }
    at_home
}

/// Each network's core. Networks that lie in each other have the same.
pub fn routes(homes: &Homes) -> BTreeMap<Network, u8> {
    let of = |(client, home): &(Client, u8)| -> Vec<(Network, u8)> {
        client.networks.iter().map(|network| (network.truncated(), *home)).collect()
    };
    homes.values().flat_map(of).collect()
}

/// Of clients whose networks overlap, the one that stands for all of them.
fn together(clients: &BTreeMap<PublicKey, Client>) -> BTreeMap<PublicKey, PublicKey> {
    let networks = clients
        .iter()
        .flat_map(|(key, client)| client.networks.iter().map(|network| (network.truncated(), *key)));
    let mut networks: Vec<(Network, PublicKey)> = networks.collect();
    // A network comes right before those that lie in it.
    networks.sort_by_key(|(network, key)| (network.address(), network.length(), *key));
    let mut groups: BTreeMap<PublicKey, PublicKey> = BTreeMap::new();
    let mut around: Vec<(Network, PublicKey)> = Vec::new();
    for (network, key) in networks {
        while around.last().is_some_and(|(outer, _)| !outer.contains(network.address())) {
            around.pop();
        }
        if let Some((_, outer)) = around.last() {
            let (one, other) = (standing_for(&groups, *outer), standing_for(&groups, key));
            if one != other {
                groups.insert(one.max(other), one.min(other));
            }
        }
        around.push((network, key));
    }
    groups.keys().map(|key| (*key, standing_for(&groups, *key))).collect()
}

fn standing_for(groups: &BTreeMap<PublicKey, PublicKey>, mut key: PublicKey) -> PublicKey {
    while let Some(next) = groups.get(&key) {
        key = *next;
    }
    key
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use relay_dp::vpn::PrivateKey;

    use super::*;

    fn client(number: u8, networks: &[(u8, u8)]) -> (PublicKey, Client) {
        let key = PublicKey([number; 32]);
        let network = |(byte, length): &(u8, u8)| Network::new([10, *byte, 0, 1].into(), *length).unwrap();
        let networks = networks.iter().map(network).collect();
        (key, Client { key, preshared_key: PrivateKey([number; 32]), networks })
    }

    #[test]
    fn clients_are_shared_out_and_stay() {
        let all: BTreeMap<_, _> = (0..7).map(|number| client(number, &[(number, 32)])).collect();
        let first = assign(&all, &Homes::new(), 3);
        let homes: Vec<u8> = first.values().map(|(_, home)| *home).collect();
        assert_eq!(homes, [0, 1, 2, 0, 1, 2, 0]);
        // Two leave core 1, so the next two come there.
        let mut fewer = all.clone();
        fewer.retain(|key, _| ![1, 4].contains(&key.0[0]));
        let second = assign(&fewer, &first, 3);
        fewer.extend([client(20, &[(20, 32)]), client(21, &[(21, 32)])]);
        let third = assign(&fewer, &second, 3);
        let home = |number: u8| third[&PublicKey([number; 32])].1;
        assert_eq!((home(20), home(21)), (1, 1));
        assert!(second.iter().all(|(key, (_, home))| third[key].1 == *home && first[key].1 == *home));
        assert_eq!(routes(&third).len(), 7);
    }

    #[test]
    fn whose_networks_overlap_are_together() {
        let all = [(1, &[(1, 32)][..]), (2, &[(2, 32)]), (3, &[(3, 16), (9, 16)]), (4, &[(3, 32), (8, 32)])];
        let all: BTreeMap<_, _> = all.map(|(number, networks)| client(number, networks)).into();
        let homes = assign(&all, &Homes::new(), 4);
        let home = |homes: &Homes, number: u8| homes[&PublicKey([number; 32])].1;
        assert_eq!(home(&homes, 3), home(&homes, 4));
        // One that lies over all of them brings them together.
        let mut wider = all.clone();
        wider.extend([client(5, &[(0, 8)])]);
        let homes = assign(&wider, &homes, 4);
        assert!((1..=5).all(|number| home(&homes, number) == 0), "{homes:?}");
    }

    proptest! {
        /// Whatever files say, an address is looked for on the core of every client that may have it.
        #[test]
        fn an_address_has_one_core(
            steps in proptest::collection::vec(proptest::collection::btree_map(
                0u8..12, proptest::collection::vec((0u8..6, 8u8..=32), 0..3), 0..10), 1..5),
            cores in 1u8..5,
        ) {
            let mut homes = Homes::new();
            for step in steps {
                let clients: BTreeMap<_, _> =
                    step.iter().map(|(number, networks)| client(*number, networks)).collect();
                let next = assign(&clients, &homes, cores);
                prop_assert_eq!(next.keys().collect::<Vec<_>>(), clients.keys().collect::<Vec<_>>());
                let routes = routes(&next);
                for (client, home) in next.values() {
                    prop_assert!(*home < cores);
                    for network in &client.networks {
                        let address = network.address();
                        prop_assert!(routes.iter().filter(|(route, _)| route.contains(address)).all(|(_, core)| core == home));
                    }
                }
                homes = next;
            }
        }
    }
}
