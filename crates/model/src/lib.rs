//! The vocabulary of banger: names, ids, sizes with units, what a sandbox shall be, and which request fits which state.
//!
//! Every value here is proven valid once, when it is made, and cannot be wrong afterwards: a [`SandboxName`] is a
//! host name label, a [`ByteSize`] fits in 64 bits, [`lifecycle::answer`] knows every pair of state and request.
//! Nothing here touches a machine; the proofs are the tests beside each type.

pub mod change;
pub mod distribution;
pub mod egress;
pub mod id;
pub mod image_ref;
pub mod lifecycle;
pub mod name;
pub mod paths;
pub mod port;
pub mod service;
pub mod size;
pub mod spec;
pub mod work_template;
pub mod workspace;

pub use change::Change;
pub use distribution::Distribution;
pub use id::{Digest, OperationId, SandboxId};
pub use lifecycle::State;
pub use name::{ImageName, KernelName, SandboxName, UserName};
pub use size::ByteSize;
pub use spec::{Backend, InitMode, RestartPolicy, SandboxSpec, Vcpus, VmmChoice};
pub use work_template::WorkTemplate;
