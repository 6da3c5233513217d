//! Staying small: an idle daemon holds what it uses, not what it once used.
//!
//! The allocator keeps freed memory, and the kernel keeps every page of the program that a start or a burst of work
//! touched. After work, and once after the start, both are given back; what is needed again comes back from the
//! page cache within microseconds. Nothing here is on a request's path.

/// To be called before threads exist: few arenas, because each keeps its own free memory.
pub fn configure() {
    platform::configure();
}

/// Gives back what is not used now. Takes milliseconds; not for a request's path.
pub fn give_back() {
    platform::give_back();
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[expect(
    unsafe_code,
    reason = "the allocator's and the kernel's advice calls have no safe wrapper"
)]
mod platform {
    use std::ffi::c_void;

    /// Allocation is rarely what threads wait for here; two arenas serve two workers.
    const ARENAS: i32 = 2;

    /// Freed memory that an arena keeps between two looks of whoever gives it back, bytes: the buffers of a body that comes in
    /// are the same pages again and again, instead of a fault of the page tables for each.
    const KEPT: i32 = 8 << 20;
    /// From this size on, memory is the kernel's again as soon as it is freed, bytes.
    const LARGE: i32 = 4 << 20;

    pub(super) fn configure() {
        let settings = [
            (libc::M_ARENA_MAX, ARENAS),
            (libc::M_TRIM_THRESHOLD, KEPT),
            (libc::M_MMAP_THRESHOLD, LARGE),
        ];
        for (name, value) in settings {
            // SAFETY: sets a number in the allocator; no thread exists yet.
            unsafe { libc::mallopt(name, value) };
        }
    }

    pub(super) fn give_back() {
        // SAFETY: the allocator takes its own locks.
        unsafe { libc::malloc_trim(0) };
        if let Some((start, length)) = program_text() {
            // SAFETY: the range is a private file mapping that is never written, so its pages can be read again from
            // the file at any time, also while this very code runs.
            unsafe { libc::madvise(start as *mut c_void, length, libc::MADV_DONTNEED) };
        }
    }

    /// Start and length of the mapping that holds this function, when it is one of a file that cannot be written.
    fn program_text() -> Option<(usize, usize)> {
        let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
        let here = program_text as *const () as usize;
        maps.lines().find_map(|line| text_mapping(line, here))
    }

    fn text_mapping(line: &str, address: usize) -> Option<(usize, usize)> {
        let mut fields = line.split_ascii_whitespace();
        let (start, end) = fields.next()?.split_once('-')?;
        let start = usize::from_str_radix(start, 16).ok()?;
        let end = usize::from_str_radix(end, 16).ok()?;
        let of_a_file = fields.next()? == "r-xp" && fields.nth(2)? != "0";
        (of_a_file && (start..end).contains(&address)).then_some((start, end - start))
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn only_the_read_only_mapping_of_a_file_is_taken() {
            let line = "1000-3000 r-xp 00000000 fe:00 42    /bin/boxd";
            assert_eq!(text_mapping(line, 0x2000), Some((0x1000, 0x2000)));
            assert_eq!(text_mapping(line, 0x3000), None);
            assert_eq!(
                text_mapping("1000-3000 rwxp 00000000 fe:00 42 /bin/boxd", 0x2000),
                None
            );
            assert_eq!(text_mapping("1000-3000 r-xp 00000000 00:00 0", 0x2000), None);
            assert_eq!(text_mapping("", 0), None);
        }

        #[test]
        fn this_program_is_found_and_survives() {
            let (start, length) = program_text().unwrap();
            assert!((start..start + length).contains(&(program_text as *const () as usize)));
            give_back();
            assert_eq!(std::hint::black_box(6) * 7, 42);
        }
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
mod platform {
    /// Other allocators have no such setting.
    pub(super) fn configure() {}

    /// Other allocators give back by themselves.
    pub(super) fn give_back() {}
}
