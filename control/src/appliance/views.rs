//! The core's values as the API shows them.

use std::time::{Duration, SystemTime};

use postern_core::conntrack::changes::Happened;
use postern_core::conntrack::entry::flags;
use postern_core::conntrack::tuple::Direction;
use postern_core::pipeline::{ConnectionView, Told};
use postern_core::units::InterfaceId;

use crate::api::connection::{Connection, ConnectionId, Counted, Protocol, TupleInfo, state_name};
use crate::api::event::Event;
use crate::api::model::Family;

/// Milliseconds since 1970.
pub(super) fn unix_ms(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// What happened to a connection as the API shows it, seen `now`. `name` gives an interface's name.
pub fn event(
    told: &Told,
    now: SystemTime,
    accounting: bool,
    name: impl Fn(InterfaceId) -> Option<String>,
) -> Event {
    let then = now.checked_sub(Duration::from_millis(told.ago_ms.into())).unwrap_or(now);
    let time_unix_ms = unix_ms(then);
    let Some(view) = &told.connection else {
        let missed = if let Happened::Missed(missed) = told.happened { missed } else { 0 };
        return Event::Overrun { time_unix_ms, missed };
    };
    let connection = connection(view, then, accounting, name);
    match told.happened {
        Happened::New => Event::New { time_unix_ms, connection },
        Happened::Updated => Event::Update { time_unix_ms, connection },
        Happened::Destroyed(ended) => Event::Destroy {
            time_unix_ms,
            connection,
            reason: ended.into(),
            duration_ms: view.age_ms,
        },
        Happened::Missed(missed) => Event::Overrun { time_unix_ms, missed },
    }
}

/// A connection as the API shows it, as it was `then`. `name` gives an interface's name.
pub fn connection(
    view: &ConnectionView,
    then: SystemTime,
    accounting: bool,
    name: impl Fn(InterfaceId) -> Option<String>,
) -> Connection {
    let age = Duration::from_millis(view.age_ms);
    let start = then.checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH);
    let number = view.original.protocol();
    let counted = |direction: Direction| {
        let d = direction.index();
        accounting.then(|| Counted { packets: view.packets[d], bytes: view.bytes[d] })
    };
    let has = |bit: u16| view.flags & bit != 0;
    Connection {
        id: ConnectionId(view.id.0),
        family: Family::of(view.original.src()),
        protocol: Protocol(number),
        protocol_number: number,
        timeout_s: view.remaining_ms / 1000,
        state: state_name(view).map(str::to_owned),
        seen_reply: has(flags::SEEN_REPLY),
        assured: has(flags::ASSURED),
        snat: has(flags::SNAT),
        dnat: has(flags::DNAT),
        original: TupleInfo::new(&view.original, Direction::Original, counted(Direction::Original)),
        reply: TupleInfo::new(&view.reply, Direction::Reply, counted(Direction::Reply)),
        mark: view.mark,
        zone: view.original.zone(),
        original_ingress: name(view.ingress),
        original_egress: name(view.egress),
        expected: has(flags::EXPECTED),
        helper: view.helper.map(|helper| helper.name().to_owned()),
        age_s: view.age_ms / 1000,
        start_unix_s: unix_ms(start) / 1000,
        worker: view.id.worker().0,
    }
}
