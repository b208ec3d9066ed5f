//! The rules at an endpoint's door. So far there is one: members of a security group reach each other, nobody else does.
//! Refuses to know how a packet got there.

use crate::verdict::DropReason;

/// The destination's ingress decision, taken in the sender's program: redirecting into the peer skips the destination's own.
#[inline(always)]
pub fn ingress(sender_group: u32, destination_group: u32) -> Result<(), DropReason> {
    if sender_group == destination_group { Ok(()) } else { Err(DropReason::FirewallIngress) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn only_the_own_group(a: u32, b: u32) {
            prop_assert_eq!(ingress(a, b).is_ok(), a == b);
            prop_assert_eq!(ingress(a, a), Ok(()));
        }
    }
}
