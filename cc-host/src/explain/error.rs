//! What can go wrong when something is explained. Refuses to explain it twice: rooms below say their own part.

use cc_common::api::fault::Fault;
use tonic::Code;

use crate::container::ContainerError;
use crate::datapath::DatapathError;
use crate::kernel::link::LinkError;

#[derive(Debug, thiserror::Error)]
pub enum ExplainError {
    #[error(transparent)]
    Container(#[from] ContainerError),
    #[error(transparent)]
    Datapath(#[from] DatapathError),
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error("cannot watch flows: {max} others read the table already")]
    TooManyReaders { max: usize },
    #[error("cannot watch drops or decisions: {max} others do already")]
    TooManyWatchers { max: usize },
    #[error("cannot watch flows: there are more than {max}")]
    TooManyFlows { max: usize },
}

impl From<ExplainError> for Fault {
    fn from(error: ExplainError) -> Fault {
        let what = error.to_string();
        match error {
            ExplainError::Container(inner) => inner.into(),
            ExplainError::Datapath(inner) => inner.into(),
            ExplainError::Link(inner) => inner.into(),
            ExplainError::TooManyReaders { .. } => Fault::new(
                Code::ResourceExhausted,
                "net.readers",
                what,
                "the whole table is read once a second for each of them",
            )
            .next("try again when one of them has ended"),
            ExplainError::TooManyWatchers { .. } => {
                Fault::new(Code::ResourceExhausted, "net.watchers", what, "each gets every record that it may see")
                    .next("try again when one of them has ended")
            }
            ExplainError::TooManyFlows { .. } => Fault::new(
                Code::ResourceExhausted,
                "net.too_many_flows",
                what,
                "what changes among them cannot be told in time",
            )
            .next("watch one container: cc net flows --watch CONTAINER"),
        }
    }
}
