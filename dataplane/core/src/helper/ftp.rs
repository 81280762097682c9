//! FTP's control connection: RFC 959, RFC 2428 (EPRT, EPSV), RFC 1123 §4.1.2.6 (how 227 is read).
//!
//! The client's `PORT` and `EPRT` name where it listens; the server's replies 227 and 229 where it does. A reply
//! counts only if it was asked for and does not stand within the text of a longer one, which may be anybody's. A
//! client that says what no FTP client says, such as the lines of an HTTP request, is no FTP client: its connection
//! is left alone for good.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Finding, Style, decimal, ends_here, place, port};

/// What is remembered between lines. Four bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Talk {
    /// `PASV` and `EPSV` that were not answered yet.
    pub asked: u8,
    /// The code of the reply of several lines that has begun and not ended; else 0.
    pub within: u16,
}

/// What a line says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Said {
    /// Nothing to us.
    Nothing,
    /// Where the speaker listens.
    Here(Finding),
    /// This is not FTP.
    Foreign,
}

/// Takes in a line of the client's, its end included.
pub fn client(talk: &mut Talk, line: &[u8]) -> Said {
    // Before ABOR come the signals of RFC 959 §4.1.3: telnet's IAC (255) with a command each.
    let mut text = line;
    while let [255, 241..=250, rest @ ..] = text {
        text = rest;
    }
    let len = text.iter().take_while(|b| b.is_ascii_alphanumeric()).count();
    let (word, rest) = text.split_at(len);
    let separate = matches!(rest.first(), Some(b' ' | b'\r' | b'\n'));
    // RFC 959 §5.3: "The command codes are four or fewer alphabetic characters." There are longer ones: XSHA256.
    let is_command = (3..=8).contains(&len) && separate;
    let is = |name: &[u8]| word.eq_ignore_ascii_case(name);
    // RFC 9110 §9.3, RFC 5789.
    const HTTP: [&[u8]; 9] =
        [b"GET", b"PUT", b"POST", b"HEAD", b"DELETE", b"CONNECT", b"OPTIONS", b"TRACE", b"PATCH"];
    let is_http = HTTP.into_iter().any(is);
    if !is_command || is_http {
        return Said::Foreign;
    }
    if is(b"PASV") || is(b"EPSV") {
        talk.asked = talk.asked.saturating_add(1);
    }
    let arguments = rest.trim_ascii_start();
    let found = if is(b"PORT") {
        six_numbers(line, arguments).filter(|(_, rest)| ends_here(rest)).map(|(found, _)| found)
    } else if is(b"EPRT") {
        eprt(line, arguments)
    } else {
        None
    };
    found.map_or(Said::Nothing, Said::Here)
}

/// Takes in a line of the server's, its end included.
pub fn server(talk: &mut Talk, line: &[u8]) -> Said {
    // RFC 959 §4.2: three digits, then a space; or a hyphen, and then lines up to one with the same digits and a
    // space.
    let code = match line {
        [a @ b'0'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9', after, ..] => {
            let [a, b, c] = [a, b, c].map(|digit| u16::from(digit - b'0'));
            Some((a * 100 + b * 10 + c, *after))
        }
        _ => None,
    };
    if talk.within != 0 {
        if code == Some((talk.within, b' ')) {
            talk.within = 0;
        }
        return Said::Nothing;
    }
    let found = match code {
        Some((code, b'-')) => {
            talk.within = code.max(1);
            None
        }
        Some((227, b' ')) if talk.asked > 0 => {
            talk.asked -= 1;
            pasv(line)
        }
        Some((229, b' ')) if talk.asked > 0 => {
            talk.asked -= 1;
            epsv(line)
        }
        _ => None,
    };
    found.map_or(Said::Nothing, Said::Here)
}

/// `h1,h2,h3,h4,p1,p2` at the front of `rest`, the end of `line`; and what follows.
fn six_numbers<'l>(line: &[u8], rest: &'l [u8]) -> Option<(Finding, &'l [u8])> {
    let begin = place(line, rest);
    let mut numbers = [0u8; 6];
    let mut after = rest;
    for (index, value) in numbers.iter_mut().enumerate() {
        if index > 0 {
            after = after.strip_prefix(b",")?;
        }
        let (read, rest) = decimal(after, 3)?;
        (*value, after) = (u8::try_from(read).ok()?, rest);
    }
    let [a, b, c, d, high, low] = numbers;
    let finding = Finding {
        range: begin..place(line, after),
        address: Some(Ipv4Addr::new(a, b, c, d).into()),
        port: u16::from_be_bytes([high, low]),
        style: Style::Commas,
    };
    Some((finding, after))
}

/// `|1|132.235.1.2|6275|`, the delimiter being any character (RFC 2428 §2).
fn eprt(line: &[u8], rest: &[u8]) -> Option<Finding> {
    let (&delimiter, after) = rest.split_first()?;
    if !(33..=126).contains(&delimiter) || delimiter.is_ascii_digit() {
        return None;
    }
    let begin = place(line, after);
    let mut fields = after.splitn(4, |&b| b == delimiter);
    let (family, address) = (fields.next()?, core::str::from_utf8(fields.next()?).ok()?);
    let (number, end) = (fields.next()?, fields.next()?);
    let address = match family {
        b"1" => IpAddr::V4(address.parse::<Ipv4Addr>().ok()?),
        b"2" => IpAddr::V6(address.parse::<Ipv6Addr>().ok()?),
        _ => return None,
    };
    let (port, nothing) = port(number)?;
    let whole = nothing.is_empty() && ends_here(end);
    let range = begin..place(line, end) - 1;
    let style = Style::Delimited(delimiter);
    whole.then_some(Finding { range, address: Some(address), port, style })
}

/// `227 Entering Passive Mode (h1,h2,h3,h4,p1,p2)`. RFC 1123 §4.1.2.6: the parentheses may be missing, so the
/// numbers begin with the first digit of the text.
fn pasv(line: &[u8]) -> Option<Finding> {
    let text = line.get(4..)?;
    let rest = text.get(text.iter().position(u8::is_ascii_digit)?..)?;
    let (finding, after) = six_numbers(line, rest)?;
    matches!(after.first(), Some(b')' | b'.' | b' ' | b'\r' | b'\n')).then_some(finding)
}

/// `229 Entering Extended Passive Mode (|||6446|)`: RFC 2428 §3.
fn epsv(line: &[u8]) -> Option<Finding> {
    let open = line.iter().position(|&b| b == b'(')?;
    let &[delimiter, second, third, ref rest @ ..] = line.get(open + 1..)? else { return None };
    if [second, third] != [delimiter; 2] || delimiter.is_ascii_digit() {
        return None;
    }
    let (port, after) = port(rest)?;
    let &[closing, b')', ..] = after else { return None };
    let range = place(line, rest)..place(line, after);
    (closing == delimiter).then_some(Finding { range, address: None, port, style: Style::Port })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use std::string::String;
    use std::vec::Vec;

    use super::*;

    fn from_client(line: &str) -> Said {
        client(&mut Talk::default(), line.as_bytes())
    }

    fn from_server(line: &str) -> Said {
        server(&mut Talk { asked: 1, within: 0 }, line.as_bytes())
    }

    /// What was found, with the text it stands in: `"192.168.1.2 1025 in 192,168,1,2,4,1"`.
    fn show(said: &Said, line: &str) -> String {
        match said {
            Said::Nothing => "nothing".into(),
            Said::Foreign => "foreign".into(),
            Said::Here(Finding { range, address, port, .. }) => {
                let address = address.map_or("-".into(), |a| std::format!("{a}"));
                std::format!("{address} {port} in {}", &line[range.clone()])
            }
        }
    }

    /// C110, C112, C122
    #[test]
    fn what_clients_say() {
        let rows = [
            ("PORT 192,168,1,2,4,1\r\n", "192.168.1.2 1025 in 192,168,1,2,4,1"),
            ("port 192,168,1,2,4,1\n", "192.168.1.2 1025 in 192,168,1,2,4,1"),
            ("PORT  192,168,1,2,4,1  \r\n", "192.168.1.2 1025 in 192,168,1,2,4,1"),
            ("PORT 192,168,001,002,004,001\r\n", "192.168.1.2 1025 in 192,168,001,002,004,001"),
            ("PORT 192,168,1,2,0,22\r\n", "192.168.1.2 22 in 192,168,1,2,0,22"),
            ("PORT 192,168,1,2,4\r\n", "nothing"),
            ("PORT 192,168,1,2,4,1,5\r\n", "nothing"),
            ("PORT 192,168,1,2,4,256\r\n", "nothing"),
            ("PORT 192,168,1,2,4,0001\r\n", "nothing"),
            ("PORT 192.168.1.2.4.1\r\n", "nothing"),
            ("PORT 192,168,1,2,4,1", "nothing"),
            ("PORT\r\n", "nothing"),
            ("PORT192,168,1,2,4,1\r\n", "foreign"),
            ("EPRT |1|192.168.1.2|1025|\r\n", "192.168.1.2 1025 in 1|192.168.1.2|1025"),
            ("EPRT |2|2001:db8:1::2|1025|\r\n", "2001:db8:1::2 1025 in 2|2001:db8:1::2|1025"),
            ("eprt !1!192.168.1.2!1025!\n", "192.168.1.2 1025 in 1!192.168.1.2!1025"),
            ("EPRT |1|2001:db8:1::2|1025|\r\n", "nothing"),
            ("EPRT |3|192.168.1.2|1025|\r\n", "nothing"),
            ("EPRT |1|192.168.1.2|65536|\r\n", "nothing"),
            ("EPRT |1|192.168.1.2|1025\r\n", "nothing"),
            ("EPRT |1|192.168.1.2|1025|x\r\n", "nothing"),
            ("EPRT\r\n", "nothing"),
            ("USER anonymous\r\n", "nothing"),
            ("XMD5 file\r\n", "nothing"),
            ("OPTIONS * HTTP/1.1\r\n", "foreign"),
            ("\u{7f}\r\n", "foreign"),
            ("POST / HTTP/1.1\r\n", "foreign"),
            ("GET /PORT HTTP/1.1\r\n", "foreign"),
            ("Host: ftp.example.com\r\n", "foreign"),
            ("\r\n", "foreign"),
        ];
        for (line, expected) in rows {
            assert_eq!(show(&from_client(line), line), expected, "{line:?}");
        }
        let abort = [&[255, 244, 255, 242][..], b"ABOR\r\n"].concat();
        assert_eq!(client(&mut Talk::default(), &abort), Said::Nothing);
    }

    /// C113
    #[test]
    fn what_servers_say() {
        let rows = [
            (
                "227 Entering Passive Mode (192,0,2,9,200,1).\r\n",
                "192.0.2.9 51201 in 192,0,2,9,200,1",
            ),
            ("227 Entering Passive Mode 192,0,2,9,200,1\r\n", "192.0.2.9 51201 in 192,0,2,9,200,1"),
            ("227 =192,0,2,9,200,1\r\n", "192.0.2.9 51201 in 192,0,2,9,200,1"),
            ("227 Entering Passive Mode (192,0,2,9,200,1,3)\r\n", "nothing"),
            ("227 Entering Passive Mode (192,0,2,9,200\r\n", "nothing"),
            ("227-Entering Passive Mode (192,0,2,9,200,1).\r\n", "nothing"),
            ("229 Entering Extended Passive Mode (|||6446|)\r\n", "- 6446 in 6446"),
            ("229 Extended (!!!6446!)\r\n", "- 6446 in 6446"),
            ("229 Extended (|||6446)\r\n", "nothing"),
            ("229 Extended (|1|192.0.2.9|6446|)\r\n", "nothing"),
            ("229 Extended (|||66446|)\r\n", "nothing"),
            ("200 192,0,2,9,200,1\r\n", "nothing"),
            ("227\r\n", "nothing"),
            ("\n", "nothing"),
        ];
        for (line, expected) in rows {
            assert_eq!(show(&from_server(line), line), expected, "{line:?}");
        }
    }

    /// C121: what a file, a banner or a listing says is not what the server says.
    #[test]
    fn a_reply_counts_only_if_asked_for_and_not_within_another() {
        let reply = b"227 Entering Passive Mode (192,0,2,9,200,1).\r\n";
        let mut talk = Talk::default();
        assert_eq!(server(&mut talk, reply), Said::Nothing, "nobody asked");
        assert_eq!(client(&mut talk, b"PASV\r\n"), Said::Nothing);
        assert_eq!(server(&mut talk, b"220-Welcome.\r\n"), Said::Nothing);
        assert_eq!(server(&mut talk, reply), Said::Nothing, "it is part of the welcome");
        assert_eq!(server(&mut talk, b"220 Go on.\r\n"), Said::Nothing);
        assert!(matches!(server(&mut talk, reply), Said::Here(_)));
        assert_eq!(server(&mut talk, reply), Said::Nothing, "it was asked for once");
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_and_what_is_found_lies_in_the_line(
            start in prop::sample::select(std::vec![
                &b"PORT 192,168,1,2,4,1\r\n"[..], b"EPRT |1|192.168.1.2|1025|\r\n",
                b"227 Entering Passive Mode (192,0,2,9,200,1).\r\n",
                b"229 Entering Extended Passive Mode (|||6446|)\r\n", b"",
            ]),
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
            tail: Vec<u8>,
            keep: prop::sample::Index,
        ) {
            let mut line = [start, &tail].concat();
            for (index, byte) in changes {
                if !line.is_empty() {
                    let at = index.index(line.len());
                    line[at] = byte;
                }
            }
            line.truncate(keep.index(line.len() + 1));
            let mut talk = Talk { asked: 1, within: 0 };
            for said in [client(&mut talk, &line), server(&mut talk, &line)] {
                if let Said::Here(found) = said {
                    prop_assert!(found.range.start < found.range.end);
                    prop_assert!(found.range.end <= line.len());
                }
            }
        }
    }
}
