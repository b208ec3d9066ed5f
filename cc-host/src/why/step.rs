//! The answer: steps in the order in which a packet meets them, and how it ends. Refuses to know how they came about.

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StepKind {
    /// Whose interface it comes by.
    Port,
    /// Whether it says where it is from.
    Source,
    Flow,
    Route,
    Egress,
    Ingress,
    Nat,
    Verdict,
}

impl StepKind {
    /// In the order in which a packet meets them.
    pub const ORDER: [StepKind; 7] = [
        StepKind::Port,
        StepKind::Source,
        StepKind::Flow,
        StepKind::Route,
        StepKind::Egress,
        StepKind::Ingress,
        StepKind::Nat,
    ];

    pub fn name(self) -> &'static str {
        match self {
            StepKind::Port => "port",
            StepKind::Source => "source",
            StepKind::Flow => "flow",
            StepKind::Route => "route",
            StepKind::Egress => "egress",
            StepKind::Ingress => "ingress",
            StepKind::Nat => "nat",
            StepKind::Verdict => "verdict",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Ok,
    Denied,
    Note,
}

impl Outcome {
    pub fn name(self) -> &'static str {
        match self {
            Outcome::Ok => "ok",
            Outcome::Denied => "denied",
            Outcome::Note => "note",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    pub kind: StepKind,
    pub outcome: Outcome,
    pub says: String,
    /// The rule that decided, and its group; 0 and nothing if none did.
    pub rule: u32,
    pub group: String,
}

/// The whole answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Story {
    pub packet: String,
    pub steps: Vec<Step>,
    pub allowed: bool,
    /// Of a denial, stable; else empty.
    pub reason: String,
    pub says: String,
    /// What would allow it; empty if nothing would.
    pub next: String,
}

impl Step {
    pub fn new(kind: StepKind, outcome: Outcome, says: impl Into<String>) -> Self {
        Step { kind, outcome, says: says.into(), rule: 0, group: String::new() }
    }
}

impl Story {
    /// One that ends without a packet.
    pub fn without_packet(packet: String, allowed: bool, reason: &str, says: String, next: String) -> Self {
        let outcome = if allowed { Outcome::Ok } else { Outcome::Denied };
        let steps = vec![Step::new(StepKind::Route, outcome, says.clone()), verdict(outcome, &says)];
        Story { packet, steps, allowed, reason: reason.to_owned(), says, next }
    }
}

pub fn verdict(outcome: Outcome, says: &str) -> Step {
    Step::new(StepKind::Verdict, outcome, says)
}
