//! The kernel beside the packet path, over rtnetlink, in this process's network namespace.
//!
//! [`Follower`] keeps a [`KernelState`] of links, addresses and routes, and the core's neighbour array;
//! [`Configurator`] gives TAPs the addresses and gateways of the configuration. Both belong to the
//! control thread. Requests block: the kernel answers within the system call, a dump of a large
//! table in as long as it takes to read it.

mod configure;
mod decode;
mod follow;
mod neighbours;
mod socket;
mod state;
mod translate;

pub use configure::{Configurator, ConfigureError, GATEWAY_METRIC};
pub use follow::{COALESCE, Follower};
pub use neighbours::{
    FAILED_HOLD, RESOLUTIONS_PER_SECOND, Resolution, ResolveCounters, SOURCE_RESOLUTIONS_PER_SECOND,
};
pub use state::{Changes, KernelState, Link};

/// Marks addresses (IFA_PROTO) and routes (rtm_protocol) that Postern added: a number that neither
/// the kernel nor iproute2's rt_protos gives to anyone.
const OURS: u8 = 80;
