//! The time of day where the user is, as asctime(3) prints it and `conntrack -o ktimestamp` with it.

/// `Mon Nov 23 19:31:47 2026`, in the local time zone.
pub(super) fn asctime(unix_s: u64) -> String {
    const DAYS: [&str; 7] = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let seconds = libc::time_t::try_from(unix_s).unwrap_or(0);
    // SAFETY: all zeroes is a `tm`: numbers, and a pointer that may be null.
    let mut tm: libc::tm = unsafe { std::mem::zeroed() };
    // SAFETY: both are valid for the call, which keeps neither; it reads the time zone from a file of the system's.
    if unsafe { libc::localtime_r(&seconds, &mut tm) }.is_null() {
        return unix_s.to_string(); // a year that no `int` holds
    }
    let name = |names: &[&'static str], number: libc::c_int| {
        usize::try_from(number).ok().and_then(|number| names.get(number).copied()).unwrap_or("???")
    };
    let (day, month) = (name(&DAYS, tm.tm_wday), name(&MONTHS, tm.tm_mon));
    let (hour, minute, second) = (tm.tm_hour, tm.tm_min, tm.tm_sec);
    let year = i64::from(tm.tm_year) + 1900;
    format!("{day} {month} {:2} {hour:02}:{minute:02}:{second:02} {year}", tm.tm_mday)
}

#[cfg(test)]
mod tests {
    #[test]
    fn it_is_what_date_says() {
        for unix_s in [0u64, 86_400 * 40 + 3_661, 1_795_462_307] {
            let date = std::process::Command::new("date")
                .env("LC_ALL", "C")
                .args([&format!("-d@{unix_s}"), "+%a %b %e %H:%M:%S %Y"])
                .output()
                .unwrap();
            let date = String::from_utf8(date.stdout).unwrap();
            assert_eq!(super::asctime(unix_s), date.trim_end());
        }
    }
}
