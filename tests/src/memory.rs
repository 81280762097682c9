//! Zeroed memory, aligned as the core's tables want it, that lives as long as the firewall that uses it.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};

/// One region. Whoever borrows from it must be gone before it is.
#[derive(Debug)]
pub(crate) struct Region {
    start: *mut u8,
    layout: Layout,
}

// SAFETY: a region is nothing but memory; moving it between threads moves the ownership.
unsafe impl Send for Region {}

impl Region {
    pub(crate) fn new(bytes: usize) -> Self {
        let layout =
            Layout::from_size_align(bytes.max(64), 64).expect("a table is no half of memory");
        // SAFETY: the layout's size is not zero.
        let start = unsafe { alloc_zeroed(layout) };
        if start.is_null() {
            handle_alloc_error(layout);
        }
        Self { start, layout }
    }

    /// The memory.
    ///
    /// # Safety
    /// To be called once, and what borrows from the slice must be dropped before the region.
    pub(crate) unsafe fn lend(&mut self) -> &'static mut [u8] {
        // SAFETY: `start` points to that many zeroed bytes, and the caller promises the rest.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.layout.size()) }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout.
        unsafe { dealloc(self.start, self.layout) }
    }
}
