//! What `linux/if_xdp.h` fixes: socket options, mapping offsets, layouts. Names are the kernel's.

use std::ffi::c_int;

/// `sxdp_flags`: use the UMEM of the socket in `sxdp_shared_umem_fd`.
pub const XDP_SHARED_UMEM: u16 = 1 << 0;
/// `sxdp_flags`: never zero-copy.
pub const XDP_COPY: u16 = 1 << 1;
/// `sxdp_flags`: zero-copy or fail.
pub const XDP_ZEROCOPY: u16 = 1 << 2;
/// `sxdp_flags`: the kernel says in the ring's flags when it wants a system call.
pub const XDP_USE_NEED_WAKEUP: u16 = 1 << 3;

/// Ring flags: the kernel waits for a system call.
pub const XDP_RING_NEED_WAKEUP: u32 = 1 << 0;

pub(crate) const XDP_MMAP_OFFSETS: c_int = 1;
pub(crate) const XDP_RX_RING: c_int = 2;
pub(crate) const XDP_TX_RING: c_int = 3;
pub(crate) const XDP_UMEM_REG: c_int = 4;
pub(crate) const XDP_UMEM_FILL_RING: c_int = 5;
pub(crate) const XDP_UMEM_COMPLETION_RING: c_int = 6;
pub(crate) const XDP_STATISTICS: c_int = 7;
pub(crate) const XDP_OPTIONS: c_int = 8;
/// Frames one `sendto` sends in copy mode: 32 unless raised (Linux 6.17 and later).
pub(crate) const XDP_MAX_TX_SKB_BUDGET: c_int = 9;

/// `xdp_options.flags`: the socket got zero-copy.
pub const XDP_OPTIONS_ZEROCOPY: u32 = 1 << 0;

pub(crate) const XDP_PGOFF_RX_RING: libc::off_t = 0;
pub(crate) const XDP_PGOFF_TX_RING: libc::off_t = 0x8000_0000;
pub(crate) const XDP_UMEM_PGOFF_FILL_RING: libc::off_t = 0x1_0000_0000;
pub(crate) const XDP_UMEM_PGOFF_COMPLETION_RING: libc::off_t = 0x1_8000_0000;

/// `struct sockaddr_xdp`.
#[repr(C)]
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct SockaddrXdp {
    pub(crate) family: u16,
    pub(crate) flags: u16,
    pub(crate) ifindex: u32,
    pub(crate) queue_id: u32,
    pub(crate) shared_umem_fd: u32,
}

/// `struct xdp_umem_reg`, with the TX metadata length of Linux 6.8 (zero: none).
#[repr(C)]
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct XdpUmemReg {
    pub(crate) addr: u64,
    pub(crate) len: u64,
    pub(crate) chunk_size: u32,
    pub(crate) headroom: u32,
    pub(crate) flags: u32,
    pub(crate) tx_metadata_len: u32,
}

/// `struct xdp_ring_offset`: bytes from the start of the ring's mapping.
#[repr(C)]
#[derive(Clone, Copy, Default, Debug)]
pub struct XdpRingOffset {
    /// The producer's cursor, a `u32`.
    pub producer: u64,
    /// The consumer's cursor, a `u32`.
    pub consumer: u64,
    /// The first entry.
    pub desc: u64,
    /// The ring's flags, a `u32`.
    pub flags: u64,
}

/// `struct xdp_mmap_offsets`.
#[repr(C)]
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct XdpMmapOffsets {
    pub(crate) rx: XdpRingOffset,
    pub(crate) tx: XdpRingOffset,
    pub(crate) fill: XdpRingOffset,
    pub(crate) completion: XdpRingOffset,
}

/// `struct xdp_desc`: an entry of the rx and tx rings.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct XdpDesc {
    /// Where the packet begins, in bytes from the start of the UMEM.
    pub addr: u64,
    /// Length of the packet in bytes.
    pub len: u32,
    /// Zero for packets in one frame without metadata.
    pub options: u32,
}

/// `struct xdp_statistics`: what the kernel counted for one socket.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct XdpStatistics {
    /// Dropped for other reasons: a frame longer than [`FRAME_LEN_MAX`](crate::frame::FRAME_LEN_MAX).
    pub rx_dropped: u64,
    /// Fill entries that were no frame.
    pub rx_invalid_descs: u64,
    /// Tx entries that were no packet; the kernel swallows their frames.
    pub tx_invalid_descs: u64,
    /// Dropped because the worker did not empty the rx ring in time.
    pub rx_ring_full: u64,
    /// Dropped because the fill ring had no frame.
    pub rx_fill_ring_empty_descs: u64,
    /// Times the kernel looked for something to send and found nothing.
    pub tx_ring_empty_descs: u64,
}

/// `struct xdp_options`.
#[repr(C)]
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct XdpOptions {
    pub(crate) flags: u32,
}

const _: () = assert!(size_of::<SockaddrXdp>() == 16);
const _: () = assert!(size_of::<XdpUmemReg>() == 32);
const _: () = assert!(size_of::<XdpRingOffset>() == 32);
const _: () = assert!(size_of::<XdpMmapOffsets>() == 128);
const _: () = assert!(size_of::<XdpDesc>() == 16);
const _: () = assert!(size_of::<XdpStatistics>() == 48);
const _: () = assert!(size_of::<XdpOptions>() == 4);
