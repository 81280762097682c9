//! `pktgen`: a traffic generator and sink over AF_XDP, for a device under test between two interfaces.
//!
//! ```text
//!   schedule ──► frame (stamp) ──► tx port ──► device under test ──► rx port ──► frame, stamp ──► tracker
//!   which flow,   bytes and                                                       checked         loss, order,
//!   when, size    checksums                                                                       latency
//! ```
//!
//! - [`args`] and [`topology`]: what may be asked, and which addresses and devices are refused.
//! - [`frame`]: frames written from a template and read back; [`stamp`]: the 18 bytes each carries.
//! - [`schedule`]: which flow comes next and how many packets are due; [`tracker`]: what came of them.
//! - [`port`]: two devices and their AF_XDP sockets; one thread polls both and never sleeps.
//! - [`datagrams`] (UDP, first packets, SYN floods) and [`lives`] (whole TCP connections) are the work.
//! - [`accounts`]: whose processor time it was.
//! - [`run`]: opening, warming up, measuring; [`search`]: RFC 2544 throughput; [`replay`] and [`sink`]: the two halves alone; [`report`]: figures.
//!
//! Memory is taken at the start; what grows with the flows is four bytes a flow and direction, one bit
//! for the opening, and with traffic both ways the endpoint the reply goes to.

pub mod accounts;
pub mod args;
pub mod datagrams;
pub mod frame;
pub mod lives;
pub mod port;
pub mod replay;
pub mod report;
pub mod run;
pub mod schedule;
pub mod search;
pub mod sink;
pub mod stamp;
pub mod topology;
pub mod tracker;
