//! Values written as text: durations, networks, device names.

use std::net::IpAddr;
use std::time::Duration;

use postern_core::snapshot::{InterfaceAddress, is_link_local};

/// Parses `"30s"`, `"250ms"`, `"50us"`, `"5m"`, `"2h"`, `"1d"`: a whole number and a unit.
///
/// # Errors
/// A sentence saying what is wrong.
pub fn duration(text: &str) -> Result<Duration, String> {
    let trimmed = text.trim();
    let digits = trimmed.len() - trimmed.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = trimmed.split_at(digits);
    let number: u64 = number
        .parse()
        .map_err(|_| format!("`{text}` is not a duration; write for example \"30s\" or \"5m\""))?;
    let nanoseconds: u64 = match unit.trim() {
        "us" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60 * 1_000_000_000,
        "h" => 3_600 * 1_000_000_000,
        "d" => 86_400 * 1_000_000_000,
        "" => return Err(format!("`{text}` has no unit; the units are us, ms, s, m, h and d")),
        other => {
            return Err(format!("`{other}` is not a unit; the units are us, ms, s, m, h and d"));
        }
    };
    let total = number.checked_mul(nanoseconds).ok_or_else(|| format!("`{text}` is too long"))?;
    Ok(Duration::from_nanos(total))
}

/// A duration as one writes it, in the largest unit that gives a whole number.
pub fn show_duration(value: Duration) -> String {
    let micros = value.as_micros();
    [
        (86_400_000_000, "d"),
        (3_600_000_000, "h"),
        (60_000_000, "m"),
        (1_000_000, "s"),
        (1_000, "ms"),
    ]
    .into_iter()
    .find(|(unit, _)| micros >= *unit && micros.is_multiple_of(*unit))
    .map_or_else(|| format!("{micros}us"), |(unit, name)| format!("{}{name}", micros / unit))
}

/// Parses an interface's address with its prefix length, `"192.168.1.1/24"`, and refuses what cannot
/// be a host's address.
///
/// # Errors
/// A sentence saying what is wrong, and a hint where one is obvious.
pub fn interface_address(text: &str) -> Result<InterfaceAddress, (String, Option<String>)> {
    let Some((address, length)) = text.split_once('/') else {
        return Err(match text.parse::<IpAddr>() {
            Ok(address) => {
                let common = if address.is_ipv4() { 24 } else { 64 };
                let hint = format!("for example \"{address}/{common}\"");
                (format!("`{text}` has no prefix length"), Some(hint))
            }
            Err(_) => (format!("`{text}` is not an address with a prefix length"), None),
        });
    };
    let address: IpAddr = address
        .parse()
        .map_err(|_| (format!("`{address}` is not an IPv4 or IPv6 address"), None))?;
    let longest = if address.is_ipv4() { 32 } else { 128 };
    let length =
        length.parse::<u8>().ok().filter(|l| (1..=longest).contains(l)).ok_or_else(|| {
            (format!("`{length}` is not a prefix length of 1 to {longest}"), None)
        })?;
    host_address(address)?;
    let network = InterfaceAddress { address, length };
    if let IpAddr::V4(v4) = address
        && length < 31
    {
        let host_bits = u32::MAX >> length;
        if u32::from(v4) & host_bits == 0 {
            return Err((format!("`{text}` is the network itself, not a host in it"), None));
        }
        if u32::from(v4) & host_bits == host_bits {
            return Err((format!("`{text}` is the broadcast address of its network"), None));
        }
    }
    Ok(network)
}

/// Refuses addresses no host can have: unspecified, loopback, multicast, broadcast.
pub(super) fn host_address(address: IpAddr) -> Result<(), (String, Option<String>)> {
    let broadcast = matches!(address, IpAddr::V4(a) if a.is_broadcast() || a.octets()[0] == 0);
    let kind = if address.is_unspecified() {
        "the unspecified address"
    } else if address.is_loopback() {
        "a loopback address"
    } else if address.is_multicast() {
        "a multicast address"
    } else if broadcast {
        "not a host's address"
    } else {
        return Ok(());
    };
    Err((format!("`{address}` is {kind}"), None))
}

/// Whether a gateway can be reached from one of `networks`: it lies in one of them, or is link-local.
pub(super) fn on_link(networks: &[InterfaceAddress], gateway: IpAddr) -> bool {
    (gateway.is_ipv6() && is_link_local(gateway)) || networks.iter().any(|n| n.holds(gateway))
}

/// Whether the kernel accepts `name` for a device (dev_valid_name), and it is plain enough for a
/// file name, a rule and a log line.
///
/// # Errors
/// A sentence saying what is wrong.
pub fn device_name(name: &str) -> Result<(), String> {
    if name.is_empty() || name.len() > 15 {
        return Err(format!("`{name}` is not a device name: 1 to 15 characters are allowed"));
    }
    let bad = |c: char| !c.is_ascii_graphic() || matches!(c, '/' | ':' | '%' | '"' | '\\' | '\'');
    if let Some(c) = name.chars().find(|c| bad(*c)) {
        return Err(format!("`{name}` is not a device name: {c:?} is not allowed in it"));
    }
    // `all` and `default` would be the sysctl folders, `lo` the loopback device.
    if matches!(name, "." | ".." | "all" | "default" | "lo") {
        return Err(format!("`{name}` cannot be used as a device name here"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_a_number_and_a_unit() {
        for (text, ms) in [
            ("30s", 30_000),
            ("250ms", 250),
            ("5m", 300_000),
            ("2h", 7_200_000),
            ("1d", 86_400_000),
        ] {
            assert_eq!(duration(text).unwrap(), Duration::from_millis(ms), "{text}");
            assert_eq!(show_duration(Duration::from_millis(ms)), text);
        }
        assert_eq!(duration("50us").unwrap(), Duration::from_micros(50));
        assert_eq!(show_duration(Duration::from_secs(90)), "90s");
        for bad in [
            "",
            "s",
            "30",
            "3.5s",
            "-1s",
            "30 weeks",
            "99999999999999999999s",
            "18446744073709551615d",
        ] {
            assert!(duration(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_interface_address_is_a_host_in_a_network() {
        for good in [
            "192.168.1.1/24",
            "10.0.0.0/31",
            "10.0.0.1/32",
            "2001:db8::1/64",
            "fe80::1/10",
            "2001:db8::/64",
        ] {
            assert!(interface_address(good).is_ok(), "{good}");
        }
        for bad in [
            "192.168.1.1",
            "192.168.1.0/24",
            "192.168.1.255/24",
            "192.168.1.1/33",
            "192.168.1.1/0",
            "127.0.0.1/8",
            "224.0.0.1/4",
            "::1/128",
            "::/64",
            "ff02::1/16",
            "2001:db8::1/129",
            "x/24",
            "/",
            "",
            "0.0.0.1/8",
            "1.2.3.4/+8/",
        ] {
            assert!(interface_address(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn device_names_are_the_kernels() {
        for good in ["wan", "enp1s0", "a", "fifteen-chars-1", "wan.100", "br_lan"] {
            assert!(device_name(good).is_ok(), "{good:?}");
        }
        for bad in [
            "",
            "sixteen-chars-12",
            "a/b",
            "a b",
            ".",
            "..",
            "all",
            "lo",
            "a:1",
            "a\tb",
            "naïve",
            "x%d",
        ] {
            assert!(device_name(bad).is_err(), "{bad:?}");
        }
    }
}
