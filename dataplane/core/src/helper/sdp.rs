//! Session descriptions: RFC 4566 (syntax), RFC 3264 (what a port of 0 and an address of zeros mean), RFC 3605 (`a=rtcp`),
//! as far as they say where media are to be sent.
//!
//! A description has a part for the session and one for each medium. `c=` says an address, in the session's part for all media,
//! in a medium's for that one; `m=` a port, and RTCP has the next one unless `a=rtcp` says another. Candidates of ICE (`a=candidate`) are left
//! alone: who gathers them knows his external addresses. Pure; no byte sequence makes it panic.

use arrayvec::ArrayVec;
use core::net::IpAddr;
use core::ops::Range;

use super::{ends_here, port};

/// Most media of one description that are looked at; those beyond are left alone. nf_conntrack_sip looks at three.
pub const MEDIA_MAX: usize = 4;

/// Most addresses: of the owner, of the session, and of each medium two, those that are not looked at included.
const ADDRESSES_MAX: usize = 24;

/// A session description. Ranges are of the bytes that it was read from.
#[derive(Clone, Debug, Default)]
pub struct Session {
    /// All addresses: of `o=`, `c=` and `a=rtcp`, with where they stand.
    pub addresses: ArrayVec<(Range<usize>, IpAddr), ADDRESSES_MAX>,
    /// The media that are wanted and go over UDP.
    pub media: ArrayVec<Media, MEDIA_MAX>,
}

/// One medium.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Media {
    /// Which `m=` of the description it is, counted from 0: an answer has as many as its offer, in the same order
    /// (RFC 3264 §6).
    pub line: u8,
    /// What it is.
    pub kind: Kind,
    /// The address, if any is said.
    pub address: Option<IpAddr>,
    /// The port.
    pub port: u16,
    /// Where that stands.
    pub range: Range<usize>,
    /// The port of `a=rtcp`, and where it stands.
    pub rtcp: Option<(u16, Range<usize>)>,
}

/// The kinds of media that are expected, as in nf_conntrack_sip.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Kind {
    /// Sound.
    Audio = 1,
    /// Moving pictures.
    Video = 2,
    /// Facsimile: T.38.
    Image = 3,
}

impl Session {
    /// Reads the description that `body` of `bytes` is; `None` if it is none, or has more addresses than can be told of: half of
    /// them would lead astray.
    pub fn read(bytes: &[u8], body: Range<usize>) -> Option<Self> {
        let mut found = Self::default();
        let mut session_address = None;
        // Whether the `m=` that was read last is looked at.
        let (mut lines, mut is_open) = (0u8, false);
        let mut at = body.start;
        let text = bytes.get(body)?;
        // RFC 4566 §5: the version comes first.
        if !text.starts_with(b"v=0") {
            return None;
        }
        for line in text.split_inclusive(|&b| b == b'\n') {
            let here = at;
            at += line.len();
            let place = |rest: &[u8]| here + super::place(line, rest);
            match line {
                [b'o', b'=', value @ ..] => {
                    // §5.2: user, session id, version, network, family, address.
                    let value = (0..3).try_fold(value, |rest, _| word(rest));
                    if let Some((address, rest, after)) = value.and_then(address) {
                        found.addresses.try_push((place(rest)..place(after), address)).ok()?;
                    }
                }
                [b'c', b'=', value @ ..] => {
                    let read = address(value);
                    if let Some((address, rest, after)) = read {
                        found.addresses.try_push((place(rest)..place(after), address)).ok()?;
                    }
                    let address = read.map(|(address, ..)| address);
                    match (lines, is_open, found.media.last_mut()) {
                        (0, ..) => session_address = address,
                        (_, true, Some(media)) => media.address = address,
                        _ => {}
                    }
                }
                [b'm', b'=', value @ ..] => {
                    is_open = false;
                    if let Some((kind, port, rest, after)) = medium(value) {
                        let media = Media {
                            line: lines,
                            kind,
                            address: session_address,
                            port,
                            range: place(rest)..place(after),
                            rtcp: None,
                        };
                        is_open = found.media.try_push(media).is_ok();
                    }
                    lines = lines.saturating_add(1);
                }
                [b'a', b'=', b'r', b't', b'c', b'p', b':', value @ ..] => {
                    if let (true, Some(media)) = (is_open, found.media.last_mut())
                        && let Some((number, after)) = port(value)
                    {
                        media.rtcp = Some((number, place(value)..place(after)));
                        let address = after.strip_prefix(b" ").and_then(address);
                        if let Some((address, rest, after)) = address {
                            found.addresses.try_push((place(rest)..place(after), address)).ok()?;
                        }
                    }
                }
                _ => {}
            }
        }
        Some(found)
    }
}

/// What follows the next word and a space.
fn word(text: &[u8]) -> Option<&[u8]> {
    let len = text.iter().position(|&b| b == b' ').filter(|&len| len > 0)?;
    text.get(len + 1..)
}

/// `IN IP4 192.168.1.2` up to the end of the line: the address, the text from it on, and what follows it. One for many (§5.7:
/// `/` and a time to live) is none.
fn address(text: &[u8]) -> Option<(IpAddr, &[u8], &[u8])> {
    let rest = text.strip_prefix(b"IN IP4 ").or_else(|| text.strip_prefix(b"IN IP6 "))?;
    let len = rest.iter().take_while(|b| b.is_ascii_hexdigit() || matches!(b, b'.' | b':')).count();
    let (name, after) = rest.split_at(len);
    let address: IpAddr = core::str::from_utf8(name).ok()?.parse().ok()?;
    let is_family = address.is_ipv4() == text.starts_with(b"IN IP4");
    let ends = after.is_empty() || ends_here(after);
    (is_family && ends).then_some((address, rest, after))
}

/// `audio 49170 RTP/AVP 0` (§5.14): what, its port, the text from the port on, and what follows it. `None` for a port of 0, which
/// means not wanted (RFC 3264 §6), and for what does not go over UDP.
fn medium(text: &[u8]) -> Option<(Kind, u16, &[u8], &[u8])> {
    const KINDS: [(&[u8], Kind); 3] =
        [(b"audio ", Kind::Audio), (b"video ", Kind::Video), (b"image ", Kind::Image)];
    let read = |(name, kind): (&[u8], Kind)| text.strip_prefix(name).map(|rest| (kind, rest));
    let (kind, rest) = KINDS.into_iter().find_map(read)?;
    let (number, after) = port(rest)?;
    // Behind it may stand `/` and how many ports there are.
    let space = after.iter().position(|&b| b == b' ')?;
    let over = after.get(space + 1..space + 4)?;
    let is_datagrams = over.eq_ignore_ascii_case(b"RTP") || over.eq_ignore_ascii_case(b"udp");
    (number != 0 && is_datagrams).then_some((kind, number, rest, after))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use std::string::String;
    use std::vec::Vec;

    use super::*;

    const PHONE: &str =
        "v=0\r\no=a 1 1 IN IP4 192.168.1.2\r\ns=-\r\nc=IN IP4 192.168.1.2\r\nt=0 0\r\n";

    fn read(media: &str) -> Session {
        let text = std::format!("{PHONE}{media}");
        Session::read(text.as_bytes(), 0..text.len()).unwrap()
    }

    /// The media, as `line address:port/rtcp`.
    fn show(media: &str) -> Vec<String> {
        let show = |media: &Media| {
            let address = media.address.map_or("-".into(), |a| std::format!("{a}"));
            let rtcp = media.rtcp.as_ref().map_or(0, |(port, _)| *port);
            std::format!("{} {:?} {address}:{}/{rtcp}", media.line, media.kind, media.port)
        };
        read(media).media.iter().map(show).collect()
    }

    #[test]
    fn media_and_where_they_go() {
        let rows: [(&str, &[&str]); 12] = [
            ("m=audio 4000 RTP/AVP 0\r\n", &["0 Audio 192.168.1.2:4000/0"]),
            ("m=audio 4000/2 RTP/SAVP 0\na=x\n", &["0 Audio 192.168.1.2:4000/0"]),
            (
                "m=audio 4000 RTP/AVP 0\r\nc=IN IP4 192.168.1.3\r\na=rtcp:4005\r\nm=video 4002 RTP/AVP 99\r\n",
                &["0 Audio 192.168.1.3:4000/4005", "1 Video 192.168.1.2:4002/0"],
            ),
            (
                "m=audio 0 RTP/AVP 0\r\nc=IN IP4 9.9.9.9\r\nm=image 4000 udptl t38\r\n",
                &["1 Image 192.168.1.2:4000/0"],
            ),
            ("m=application 4000 UDP/BFCP *\r\nm=text 5000 RTP/AVP 98\r\n", &[]),
            ("m=image 4000 TCP t38\r\n", &[]),
            (
                "m=audio 4000 RTP/AVP 0\r\na=rtcp:4001 IN IP4 192.168.1.2\r\n",
                &["0 Audio 192.168.1.2:4000/4001"],
            ),
            ("m=audio 65536 RTP/AVP 0\r\n", &[]),
            ("m=audio 4000\r\n", &[]),
            (" m=audio 4000 RTP/AVP 0\r\n", &[]),
            ("m=audio 22 RTP/AVP 0\r\n", &["0 Audio 192.168.1.2:22/0"]),
            ("m=audio 4000 RTP/AVP 0\r\nc=IN IP4 224.2.1.1/127\r\n", &["0 Audio -:4000/0"]),
        ];
        for (media, expected) in rows {
            assert_eq!(show(media), expected, "{media:?}");
        }
        assert_eq!(show(&"m=audio 4000 RTP/AVP 0\r\n".repeat(300)).len(), MEDIA_MAX);
    }

    #[test]
    fn addresses_stand_where_it_says() {
        let media =
            "m=audio 4000 RTP/AVP 0\r\nc=IN IP4 192.168.1.3\r\na=rtcp:4001 IN IP4 192.168.1.4\r\n";
        let text = std::format!("{PHONE}{media}");
        let found = read(media);
        assert_eq!(found.addresses.len(), 4);
        for (range, address) in &found.addresses {
            assert_eq!(text[range.clone()].parse(), Ok(*address));
        }
        assert_eq!(&text[found.media[0].range.clone()], "4000");
        assert_eq!(&text[found.media[0].rtcp.clone().unwrap().1], "4001");
    }

    #[test]
    fn what_does_not_begin_with_its_version_is_no_description() {
        for text in ["", "o=a 1 1 IN IP4 192.168.1.2\r\nv=0\r\n", "\r\nv=0\r\n"] {
            assert!(Session::read(text.as_bytes(), 0..text.len()).is_none());
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_and_what_is_found_lies_in_the_text(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
            keep: prop::sample::Index,
        ) {
            let mut text = std::format!(
                "{PHONE}m=audio 4000 RTP/AVP 0\r\nc=IN IP6 2001:db8::1\r\na=rtcp:4001 IN IP4 192.168.1.4\r\n"
            )
            .into_bytes();
            for (index, byte) in changes {
                let at = index.index(text.len());
                text[at] = byte;
            }
            text.truncate(keep.index(text.len()) + 1);
            if let Some(found) = Session::read(&text, 0..text.len()) {
                for (range, _) in &found.addresses {
                    prop_assert!(range.start < range.end && range.end <= text.len());
                }
                for Media { range, .. } in &found.media {
                    prop_assert!(text[range.clone()].iter().all(u8::is_ascii_digit));
                }
            }
        }
    }
}
