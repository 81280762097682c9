//! DCC among IRC clients: `PRIVMSG nick :\x01DCC SEND file address port size\x01`, and CHAT.
//!
//! Address and port are decimal numbers; the connection comes from the nick, whose address nobody knows. Only
//! what the client says counts, and only whole lines that are such a message and nothing else.

use core::net::Ipv4Addr;

use super::{Finding, Style, decimal, place, port};

/// The endpoint that a line of the client's offers, its end included.
pub fn client(line: &[u8]) -> Option<Finding> {
    let begin = line.windows(6).position(|w| w == b":\x01DCC ")?;
    let (head, rest) = (line.get(..begin)?, line.get(begin + 6..)?);
    // RFC 2812 §3.3.1: PRIVMSG <msgtarget> <text to be sent>.
    let target = head.get(..8).filter(|word| word.eq_ignore_ascii_case(b"PRIVMSG "))?;
    let target = head.get(target.len()..)?.trim_ascii();
    if target.is_empty() || target.contains(&b' ') || target.contains(&1) {
        return None;
    }
    let rest = match rest.get(..5)? {
        b"SEND " => after_name(rest.get(5..)?)?,
        b"CHAT " => after_name(rest.get(5..)?)?,
        _ => return None,
    };
    let (address, after) = decimal(rest, 10)?;
    let (port, after) = port(after.strip_prefix(b" ")?)?;
    let range = place(line, rest)..place(line, after);
    let closing = after.iter().position(|&b| b == 1)?;
    let whole = matches!(after.first(), Some(b' ' | 1))
        && matches!(after.get(closing + 1..), Some(b"\r\n" | b"\n"));
    let address = Some(Ipv4Addr::from(address).into());
    whole.then_some(Finding { range, address, port, style: Style::Numbers })
}

/// What follows a file's name, which may be quoted, and a space.
fn after_name(rest: &[u8]) -> Option<&[u8]> {
    let (end, skip) = match rest.strip_prefix(b"\"") {
        Some(quoted) => (quoted.iter().position(|&b| b == b'"')?, 2),
        None => (rest.iter().position(|&b| b == b' ')?, 0),
    };
    rest.get(end + skip..)?.strip_prefix(b" ")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use std::vec::Vec;

    use super::*;

    /// C118
    #[test]
    fn what_offers_a_connection() {
        let rows: [(&str, Option<(&str, u16)>); 12] = [
            (
                "PRIVMSG bob :\x01DCC SEND file.txt 3232235778 1025 123\x01\r\n",
                Some(("3232235778 1025", 1025)),
            ),
            (
                "privmsg bob :\x01DCC SEND \"a file\" 3232235778 1025 1\x01\n",
                Some(("3232235778 1025", 1025)),
            ),
            (
                "PRIVMSG bob :\x01DCC CHAT chat 3232235778 1025\x01\r\n",
                Some(("3232235778 1025", 1025)),
            ),
            ("PRIVMSG bob :\x01DCC CHAT chat 3232235778 1025\x01", None),
            ("PRIVMSG bob :\x01DCC CHAT chat 3232235778 1025\r\n", None),
            ("PRIVMSG bob :\x01DCC CHAT chat 3232235778 65536\x01\r\n", None),
            ("PRIVMSG bob :\x01DCC CHAT chat 4294967296 1025\x01\r\n", None),
            ("PRIVMSG bob :\x01DCC ACCEPT file 1025 0\x01\r\n", None),
            ("PRIVMSG :\x01DCC CHAT chat 3232235778 1025\x01\r\n", None),
            ("NOTICE bob :\x01DCC CHAT chat 3232235778 1025\x01\r\n", None),
            (":a PRIVMSG bob :\x01DCC CHAT chat 3232235778 1025\x01\r\n", None),
            ("PRIVMSG bob :look: \x01DCC CHAT chat 3232235778 1025\x01\r\n", None),
        ];
        for (line, expected) in rows {
            let found = client(line.as_bytes());
            let found = found.map(|f| (&line[f.range.clone()], f.port));
            assert_eq!(found, expected, "{line:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..5),
            tail: Vec<u8>,
            keep: prop::sample::Index,
        ) {
            let mut line = b"PRIVMSG bob :\x01DCC SEND \"a\" 3232235778 1025 123\x01\r\n".to_vec();
            line.extend(tail);
            for (index, byte) in changes {
                let at = index.index(line.len());
                line[at] = byte;
            }
            line.truncate(keep.index(line.len() + 1));
            if let Some(found) = client(&line) {
                prop_assert!(found.range.start < found.range.end && found.range.end <= line.len());
            }
        }
    }
}
