//! What a drop's reason is to people: the step that it belongs to, and what it means. Refuses to know packets.

use cc_common::verdict::DropReason;

use super::step::StepKind;

/// Which step a reason belongs to.
pub fn place(reason: DropReason) -> StepKind {
    use DropReason as R;
    match reason {
        R::UnknownPort => StepKind::Port,
        R::FirewallEgress | R::ClosedDestination => StepKind::Egress,
        R::FirewallIngress => StepKind::Ingress,
        R::NoRoute | R::StaleEndpoint | R::NoInternet | R::GatewayClosed => StepKind::Route,
        R::NoWayOut | R::NatExhausted | R::NatProtocol | R::TtlExceeded | R::TooBig | R::Rewrite => StepKind::Nat,
        R::FlowQuota
        | R::HalfOpenQuota
        | R::FlowTableFull
        | R::FlowClosing
        | R::TcpReset
        | R::EgressRate
        | R::HalfOpenRecycled
        | R::TcpUnrelated => StepKind::Flow,
        _ => StepKind::Source,
    }
}

/// What a reason means, where no step says more.
pub fn meaning(reason: DropReason) -> &'static str {
    use DropReason as R;
    match reason {
        R::FlowQuota => "the sender has as many flows as it may have",
        R::HalfOpenQuota => "the sender has as many unanswered flows as it may have",
        R::TcpUnrelated => "it answers or resets a TCP connection that there is not",
        R::FlowTableFull => "the table of flows is full",
        R::FlowClosing => "its flow is being forgotten at this moment; the next packet begins anew",
        R::EgressRate => "the sender is beyond its limit of bandwidth at this moment",
        R::StaleEndpoint => "whom it is for was replaced at this moment",
        R::GatewayClosed => "the gateway answers pings and, at port 53, names, and nothing else",
        R::NoWayOut => "the host has no route there, or none by an interface that containers may use",
        R::NatExhausted => "no port is left to lease",
        R::NatProtocol => "it has no ports to tell conversations apart by",
        R::Multicast => "it is for a group of hosts, and nothing is multicast",
        R::Broadcast => "it is for everybody, and nothing is broadcast",
        _ => "the packet is not sound",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_reason_ends_a_packet_after_its_end() {
        assert!(
            DropReason::ALL.iter().all(|&reason| place(reason) != StepKind::Verdict && !meaning(reason).is_empty())
        );
    }
}
