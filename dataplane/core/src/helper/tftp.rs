//! TFTP: a request to port 69 is answered from another port (RFC 1350 §4).

/// Whether a datagram asks to read or to write a file: RFC 1350 §5, an opcode, then two strings that end in zeros.
pub fn is_request(payload: &[u8]) -> bool {
    let [0, 1 | 2, rest @ ..] = payload else { return false };
    let mut strings = rest.split(|&b| b == 0);
    let mut string = || strings.next().is_some_and(|s| !s.is_empty());
    // Two strings with something in them, and the second one's zero behind it.
    string() && string() && strings.next().is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_told_from_everything_else() {
        let rows: [(&[u8], bool); 8] = [
            (b"\0\x01file\0octet\0", true),
            (b"\0\x02file\0netascii\0blksize\x001428\0", true),
            (b"\0\x03\0\x01data\0\0", false),
            (b"\0\x01file\0octet", false),
            (b"\0\x01\0octet\0", false),
            (b"\0\x01file\0\0", false),
            (b"\0\x01", false),
            (b"", false),
        ];
        for (payload, expected) in rows {
            assert_eq!(is_request(payload), expected, "{payload:?}");
        }
    }
}
