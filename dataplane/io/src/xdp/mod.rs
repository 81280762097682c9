//! AF_XDP: rings shared with the kernel, one set per queue of a device.

pub mod abi;
pub mod program;
pub mod ring;
pub mod socket;

pub(crate) mod bpf;
pub(crate) mod sys;
