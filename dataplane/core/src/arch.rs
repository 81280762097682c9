//! The core's one unsafe room: what only processor instructions can say.
#![allow(unsafe_code)]

/// Asks for the cache line that `place` begins in. A hint: it has no effect but on time.
#[inline(always)]
pub fn prefetch<T>(place: &T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch of any address has no architectural effect; `place` is a valid reference anyway.
    unsafe {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(core::ptr::from_ref(place).cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = place;
}

/// Bit mask of the places of `tags` that hold `tag`.
#[inline(always)]
pub fn matches(tags: &[u16; 8], tag: u16) -> u32 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: SSE2 is part of x86-64; the load is unaligned and reads exactly the sixteen bytes of `tags`.
    unsafe {
        use core::arch::x86_64::{
            _mm_cmpeq_epi16, _mm_loadu_si128, _mm_movemask_epi8, _mm_packs_epi16, _mm_set1_epi16,
            _mm_setzero_si128,
        };
        let held = _mm_loadu_si128(tags.as_ptr().cast());
        let equal = _mm_cmpeq_epi16(held, _mm_set1_epi16(tag as i16));
        _mm_movemask_epi8(_mm_packs_epi16(equal, _mm_setzero_si128())) as u32
    }
    #[cfg(not(target_arch = "x86_64"))]
    tags.iter().enumerate().fold(0, |mask, (i, &held)| mask | u32::from(held == tag) << i)
}

/// Runs `work`, compiled for the best vectors that this processor has.
///
/// `work` must be `#[inline(always)]`, and whatever it calls too: what is not inlined stays as it was.
#[cfg(target_arch = "x86_64")]
#[inline]
pub fn with_vectors<T>(work: impl FnOnce() -> T) -> T {
    #[target_feature(enable = "avx2,avx512f,avx512vl")]
    fn with_avx512<T>(work: impl FnOnce() -> T) -> T {
        work()
    }
    #[target_feature(enable = "avx2")]
    fn with_avx2<T>(work: impl FnOnce() -> T) -> T {
        work()
    }
    if has_avx512::get() {
        // SAFETY: the processor and the kernel support what the function is compiled for.
        unsafe { with_avx512(work) }
    } else if has_avx2::get() {
        // SAFETY: as above.
        unsafe { with_avx2(work) }
    } else {
        work()
    }
}

#[cfg(target_arch = "x86_64")]
cpufeatures::new!(has_avx2, "avx2");
#[cfg(target_arch = "x86_64")]
cpufeatures::new!(has_avx512, "avx2", "avx512f", "avx512vl");

/// Runs `work`: elsewhere the compiler's vectors are the best there are.
#[cfg(not(target_arch = "x86_64"))]
#[inline]
pub fn with_vectors<T>(work: impl FnOnce() -> T) -> T {
    work()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_that_holds_the_tag_is_marked_and_no_other() {
        assert_eq!(matches(&[7, 0, 7, 0xffff, 1, 2, 3, 7], 7), 0b1000_0101);
        assert_eq!(matches(&[7, 0, 7, 0xffff, 1, 2, 3, 7], 0xffff), 0b1000);
        assert_eq!(matches(&[0; 8], 0), 0xff);
        assert_eq!(matches(&[0; 8], 1), 0);
    }
}
