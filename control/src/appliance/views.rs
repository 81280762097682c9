//! The core's values as the API shows them.

use postern_core::conntrack::entry::flags;
use postern_core::conntrack::tuple::{Direction, protocol};
use postern_core::conntrack::{sctp, tcp};
use postern_core::pipeline::ConnectionView;
use postern_core::units::InterfaceId;

use crate::api::connection::{Connection, ConnectionId, Counted, Protocol, TupleInfo};
use crate::api::model::Family;

/// A connection as the API shows it. `name` gives an interface's name.
pub fn connection(
    view: &ConnectionView,
    accounting: bool,
    name: impl Fn(InterfaceId) -> Option<String>,
) -> Connection {
    let number = view.original.protocol();
    let counted = |direction: Direction| {
        let d = direction.index();
        accounting.then(|| Counted { packets: view.packets[d], bytes: view.bytes[d] })
    };
    let has = |bit: u16| view.flags & bit != 0;
    let state = match number {
        protocol::TCP => Some(tcp::State::from_number(view.protocol_state).name()),
        protocol::SCTP => Some(sctp::State::from_number(view.protocol_state).name()),
        _ => None,
    };
    Connection {
        id: ConnectionId(view.id.0),
        family: Family::of(view.original.src()),
        protocol: Protocol(number),
        protocol_number: number,
        timeout_s: view.remaining_ms / 1000,
        state: state.map(str::to_owned),
        seen_reply: has(flags::SEEN_REPLY),
        assured: has(flags::ASSURED),
        snat: has(flags::SNAT),
        dnat: has(flags::DNAT),
        original: TupleInfo::new(&view.original, Direction::Original, counted(Direction::Original)),
        reply: TupleInfo::new(&view.reply, Direction::Reply, counted(Direction::Reply)),
        mark: view.mark,
        zone: view.original.zone(),
        original_ingress: name(view.ingress),
        original_egress: None,
        age_s: view.age_ms / 1000,
        worker: view.id.worker().0,
    }
}
