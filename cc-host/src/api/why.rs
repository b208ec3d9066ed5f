//! `cc.v1.WhyService`. Refuses to know how a packet is run.

use std::net::IpAddr;

use cc_common::api::fault::Fault;
use cc_common::api::v1;
use cc_common::api::v1::why_service_server::WhyService;
use tonic::{Request, Response, Status};

use crate::auth::{Caller, Role};
use crate::why::{Ask, Step, Story, Transport, Why, WhyError};

pub struct WhyApi {
    pub why: Why,
}

#[tonic::async_trait]
impl WhyService for WhyApi {
    async fn explain(&self, request: Request<v1::ExplainRequest>) -> Result<Response<v1::Explanation>, Status> {
        let caller = Caller::of(&request)?;
        caller.require(Role::Viewer)?;
        let ask = ask(request.into_inner()).map_err(Fault::from)?;
        let story = self.why.explain(&caller.project, &ask).await.map_err(Fault::from)?;
        Ok(Response::new(view(story)))
    }
}

fn ask(request: v1::ExplainRequest) -> Result<Ask, WhyError> {
    let v1::ExplainRequest { source, destination, port, protocol, ipv6, source_port, claim } = request;
    let bad = |field, value: &dyn ToString, why| WhyError::BadField { field, value: value.to_string(), why };
    let transport = match protocol.as_str() {
        "tcp" => Transport::Tcp,
        "udp" => Transport::Udp,
        "icmp" => Transport::Icmp,
        other => return Err(bad("protocol", &other, "it is tcp, udp or icmp")),
    };
    let port = u16::try_from(port).map_err(|_| bad("port", &port, "ports go up to 65535"))?;
    let source_port =
        u16::try_from(source_port).map_err(|_| bad("--from-port", &source_port, "ports go up to 65535"))?;
    let claim = match claim.as_str() {
        "" => None,
        text => Some(text.parse::<IpAddr>().map_err(|_| bad("--claim", &text, "it is no address"))?),
    };
    let source_port = (source_port != 0).then_some(source_port);
    Ok(Ask { source, destination, port, transport, ipv6, source_port, claim })
}

fn view(story: Story) -> v1::Explanation {
    let Story { packet, steps, allowed, reason, says, next } = story;
    let step = |Step { kind, outcome, says, rule, group }| v1::ExplainStep {
        step: kind.name().to_owned(),
        outcome: outcome.name().to_owned(),
        says,
        rule,
        group,
    };
    v1::Explanation {
        packet,
        steps: steps.into_iter().map(step).collect(),
        verdict: if allowed { "allowed" } else { "denied" }.to_owned(),
        reason,
        says,
        next,
    }
}
