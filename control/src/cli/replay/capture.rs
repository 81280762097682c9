//! Capture files: frames with their time and, where the file has it, the name of their interface.

use std::io::{self, Read, Write};
use std::time::Duration;

use pcap_file::pcap::{PcapHeader, PcapPacket, PcapReader, PcapWriter};
use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketBlock;
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};
use pcap_file::pcapng::{Block, PcapNgBlock, PcapNgReader, PcapNgWriter};
use pcap_file::{DataLink, PcapError, TsResolution};
use postern_core::units::InterfaceId;

/// Largest packet kept of each frame written, bytes.
const SNAP_LEN: u32 = 262_144;

/// Why a capture cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// Neither pcap nor pcapng.
    #[error("not a capture file")]
    NotACapture,
    /// Frames of something else.
    #[error("link type {0:?}: only Ethernet can be replayed")]
    LinkType(DataLink),
    /// Malformed, or the system said no.
    #[error(transparent)]
    Pcap(#[from] PcapError),
    /// The system said no.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// One frame of a capture.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frame {
    /// When, since 1970.
    pub time: Duration,
    /// Its bytes, from the Ethernet header on.
    pub bytes: Vec<u8>,
    /// Whether the capture has only its beginning.
    pub cut: bool,
    /// What the capture calls the interface.
    pub interface: Option<String>,
}

/// Reads pcap or pcapng, whichever it is.
pub struct Reader<R: Read>(Format<R>);

type Replayed<R> = io::Chain<io::Cursor<[u8; 4]>, R>;

enum Format<R: Read> {
    Pcap(PcapReader<Replayed<R>>),
    PcapNg(PcapNgReader<Replayed<R>>),
}

impl<R: Read> Reader<R> {
    /// Looks at the first bytes to see which it is.
    ///
    /// # Errors
    /// See [`CaptureError`].
    pub fn new(mut file: R) -> Result<Self, CaptureError> {
        let mut magic = [0; 4];
        file.read_exact(&mut magic).map_err(|_| CaptureError::NotACapture)?;
        let file = io::Cursor::new(magic).chain(file);
        Ok(Self(match magic {
            [0x0a, 0x0d, 0x0d, 0x0a] => Format::PcapNg(PcapNgReader::new(file)?),
            [0xa1, 0xb2, 0xc3 | 0x3c, 0xd4 | 0x4d] | [0xd4 | 0x4d, 0xc3 | 0x3c, 0xb2, 0xa1] => {
                let reader = PcapReader::new(file)?;
                ethernet(reader.header().datalink)?;
                Format::Pcap(reader)
            }
            _ => return Err(CaptureError::NotACapture),
        }))
    }

    /// The next frame; `None` at the end.
    ///
    /// # Errors
    /// See [`CaptureError`].
    pub fn next_frame(&mut self) -> Result<Option<Frame>, CaptureError> {
        match &mut self.0 {
            Format::Pcap(reader) => next_pcap(reader),
            Format::PcapNg(reader) => next_pcapng(reader),
        }
    }
}

fn next_pcap<R: Read>(reader: &mut PcapReader<R>) -> Result<Option<Frame>, CaptureError> {
    let Some(packet) = reader.next_packet().transpose()? else { return Ok(None) };
    Ok(Some(Frame {
        time: packet.timestamp,
        cut: packet.data.len() < packet.orig_len as usize,
        bytes: packet.data.into_owned(),
        interface: None,
    }))
}

fn next_pcapng<R: Read>(reader: &mut PcapNgReader<R>) -> Result<Option<Frame>, CaptureError> {
    loop {
        let Some(block) = reader.next_block().transpose()? else { return Ok(None) };
        let Block::EnhancedPacket(packet) = block else {
            // Simple packets have no time; everything else has no packet.
            continue;
        };
        let packet = packet.into_owned();
        let interface = reader
            .packet_interface(&packet)
            .ok_or(PcapError::InvalidInterfaceId(packet.interface_id))?;
        ethernet(interface.linktype)?;
        let name = interface.options.iter().find_map(|option| match option {
            InterfaceDescriptionOption::IfName(name) => Some(name.clone().into_owned()),
            _ => None,
        });
        return Ok(Some(Frame {
            time: in_resolution(packet.timestamp, interface),
            cut: packet.data.len() < packet.original_len as usize,
            bytes: packet.data.into_owned(),
            interface: name,
        }));
    }
}

fn ethernet(link: DataLink) -> Result<(), CaptureError> {
    if link == DataLink::ETHERNET { Ok(()) } else { Err(CaptureError::LinkType(link)) }
}

/// pcap-file takes every timestamp for nanoseconds; the interface says what its units are.
pub(super) fn in_resolution(
    stamp: Duration,
    interface: &InterfaceDescriptionBlock<'_>,
) -> Duration {
    let resolution = interface.options.iter().find_map(|option| match option {
        InterfaceDescriptionOption::IfTsResol(resolution) => Some(*resolution),
        _ => None,
    });
    // Without the option: microseconds. The top bit makes it a power of two.
    let resolution = resolution.unwrap_or(6);
    let exponent = u32::from(resolution & 0x7f);
    let units = stamp.as_nanos();
    let nanoseconds = if resolution & 0x80 != 0 {
        units.checked_mul(1_000_000_000).and_then(|n| n.checked_shr(exponent)).unwrap_or(0)
    } else if exponent <= 9 {
        units * 10u128.pow(9 - exponent)
    } else {
        10u128.checked_pow(exponent - 9).map_or(0, |divisor| units / divisor)
    };
    Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
}

/// Writes pcap, what leaves by all wires in one stream; or pcapng, what leaves by each wire and what the
/// host gets by each interface (`host:NAME`), with these names.
pub struct Writer<W: Write>(Sink<W>);

enum Sink<W: Write> {
    Pcap(PcapWriter<W>),
    PcapNg(PcapNgWriter<W>),
}

impl<W: Write> Writer<W> {
    /// Begins a capture, pcapng if it is to be `with_names`. Timestamps are in nanoseconds.
    ///
    /// # Errors
    /// See [`CaptureError`].
    pub fn new(file: W, with_names: bool, names: &[&str]) -> Result<Self, CaptureError> {
        if !with_names {
            let header = PcapHeader {
                snaplen: SNAP_LEN,
                datalink: DataLink::ETHERNET,
                ts_resolution: TsResolution::NanoSecond,
                ..PcapHeader::default()
            };
            return Ok(Self(Sink::Pcap(PcapWriter::with_header(file, header)?)));
        }
        let mut writer = PcapNgWriter::new(file)?;
        for prefix in ["", "host:"] {
            for name in names {
                let block = InterfaceDescriptionBlock {
                    linktype: DataLink::ETHERNET,
                    snaplen: SNAP_LEN,
                    options: vec![
                        InterfaceDescriptionOption::IfName(format!("{prefix}{name}").into()),
                        InterfaceDescriptionOption::IfTsResol(9),
                    ],
                };
                writer.write_block(&block.into_block())?;
            }
        }
        Ok(Self(Sink::PcapNg(writer)))
    }

    /// Writes a frame; `false` if the format has no place for it.
    ///
    /// # Errors
    /// See [`CaptureError`].
    pub fn write(
        &mut self,
        interface: InterfaceId,
        to_host: bool,
        time: Duration,
        bytes: &[u8],
    ) -> Result<bool, CaptureError> {
        let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
        match &mut self.0 {
            Sink::Pcap(_) if to_host => return Ok(false),
            Sink::Pcap(writer) => {
                writer.write_packet(&PcapPacket::new(time, length, bytes))?;
            }
            Sink::PcapNg(writer) => {
                // Interfaces were declared in order, the wires first.
                let wires = writer.interfaces().len() / 2;
                let id = interface.index() + if to_host { wires } else { 0 };
                let block = EnhancedPacketBlock {
                    interface_id: u32::try_from(id).map_err(io::Error::other)?,
                    timestamp: time,
                    original_len: length,
                    data: bytes.into(),
                    options: Vec::new(),
                };
                writer.write_block(&block.into_block())?;
            }
        }
        Ok(true)
    }

    /// Writes out what is buffered.
    ///
    /// # Errors
    /// What the system says.
    pub fn finish(self) -> io::Result<()> {
        match self.0 {
            Sink::Pcap(writer) => writer.into_writer().flush(),
            Sink::PcapNg(writer) => writer.into_inner().flush(),
        }
    }
}
