//! Whether the tables agree with each other: every flow is in the books of its owner, every name that the outside knows is a flow's, every
//! leased port is in its block. Refuses to know what packets there were.

use std::collections::BTreeMap;

use cc_common::flow::{FLAG_LEASED, FLAG_OUTSIDE, FLAG_SHARED, Flow, FlowKey, Side};
use cc_common::life::{LIFE_DEAD, LIFE_HALF_OPEN, LIFE_MASK};
use cc_common::limits::{ENDPOINTS_MAX, FLOWS_GUARANTEED};
use cc_common::nat::block_of;
use cc_common::quota::Quota;
use programs::maps;

/// Books as the flows say they should be.
#[derive(Debug, Default, PartialEq, Eq)]
struct Books {
    /// By endpoint: flows, half-open ones, ports of others' blocks.
    held: BTreeMap<u32, [u64; 3]>,
    pooled: u64,
    /// By block: conversations that have a port of it.
    uses: BTreeMap<u32, u64>,
    /// By endpoint: blocks of its own.
    blocks: BTreeMap<u32, u64>,
}

pub fn check() {
    let flows = maps::CC_FLOWS.all();
    assert_eq!(should(&flows), are(), "flows and books: {flows:#?}");
    let mut outside = maps::CC_NAT.all();
    for (key, flow) in flows.iter().filter(|(_, flow)| flow.flags & FLAG_OUTSIDE != 0) {
        let mut outer = FlowKey::default();
        outer.set_outer(flow, key.protocol);
        let at = outside.iter().position(|(known, _)| *known == outer).expect("the outside knows the flow");
        let (_, entry) = outside.swap_remove(at);
        assert_eq!(entry.flow, *key);
        let beyond = Side::from_index(entry.beyond).index();
        assert_eq!(flow.generations[beyond], 0, "the side that is beyond is no endpoint");
    }
    assert!(outside.is_empty(), "the outside knows what is no flow: {outside:?}");
}

fn generation(endpoint: u32) -> u64 {
    maps::CC_ENDPOINTS.get(endpoint).map_or(0, |entry| entry.generation)
}

fn should(flows: &[(FlowKey, Flow)]) -> Books {
    let mut books = Books::default();
    for (_, flow) in flows {
        assert_ne!(flow.life & LIFE_MASK, LIFE_DEAD, "what is dead is gone");
        let owner = Side::from_index(flow.owner).index();
        let endpoint = flow.endpoints[owner];
        // What an endpoint that is gone had is in nobody's books.
        let is_there = flow.generations[owner] == generation(endpoint);
        if is_there {
            let held = books.held.entry(endpoint).or_default();
            held[0] += 1;
            held[1] += u64::from(flow.life & LIFE_HALF_OPEN != 0);
            held[2] += u64::from(flow.flags & FLAG_SHARED != 0);
        }
        if flow.flags & FLAG_LEASED != 0 {
            *books.uses.entry(block_of(flow.outer_ports[flow.initiator().index()])).or_default() += 1;
        }
    }
    books.pooled = books.held.values().map(|held| held[0].saturating_sub(FLOWS_GUARANTEED.into())).sum();
    let owned = maps::CC_BLOCKS.all().into_iter().filter(|(_, block)| block.owner != 0);
    for (_, block) in owned {
        let owner = maps::CC_ENDPOINTS.all().into_iter().find(|(_, entry)| entry.generation == block.owner);
        let (endpoint, _) = owner.expect("a block's owner is an endpoint");
        *books.blocks.entry(endpoint).or_default() += 1;
    }
    books
}

fn are() -> Books {
    let mut books = Books::default();
    for (endpoint, Quota { flows, half_open, nat_blocks, nat_shared }) in maps::CC_QUOTAS.all() {
        if endpoint == ENDPOINTS_MAX {
            books.pooled = flows;
            continue;
        }
        let held = [flows, half_open, nat_shared];
        if held != [0; 3] {
            books.held.insert(endpoint, held);
        }
        if nat_blocks != 0 {
            books.blocks.insert(endpoint, nat_blocks);
        }
    }
    books.uses = maps::CC_BLOCKS.all().into_iter().map(|(number, block)| (number, block.uses)).collect();
    books.uses.retain(|_, uses| *uses != 0);
    books
}
