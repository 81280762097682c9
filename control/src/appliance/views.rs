//! The core's values as the API shows them.

use std::time::{Duration, SystemTime};

use postern_core::conntrack::changes::Happened;
use postern_core::conntrack::entry::flags;
use postern_core::pipeline::{ConnectionView, Told};
use postern_core::units::InterfaceId;

use crate::api::connection::{
    Connection, ConnectionId, Counted, Protocol, TupleInfo, shared_zone, state_name,
};
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
    let counted = [0, 1]
        .map(|d| accounting.then(|| Counted { packets: view.packets[d], bytes: view.bytes[d] }));
    let [original, reply] = TupleInfo::both(view, counted);
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
        original,
        reply,
        mark: view.mark,
        zone: shared_zone(view),
        original_ingress: name(view.ingress),
        original_egress: name(view.egress),
        expected: has(flags::EXPECTED),
        helper: view.helper.map(|helper| helper.name().to_owned()),
        age_s: view.age_ms / 1000,
        start_unix_s: unix_ms(start) / 1000,
        worker: view.id.worker().0,
    }
}

#[cfg(test)]
mod tests {
    use postern_core::conntrack::tuple::{Tuple, protocol};
    use postern_core::pipeline::ConnectionId as CoreId;

    use super::*;
    use crate::api::filter::{ConnectionFilter, ConnectionQuery, Traits};

    fn view(number: u8, src: &str, dst: &str, ids: (u16, u16), flags: u16) -> ConnectionView {
        let (src, dst) = (src.parse().unwrap(), dst.parse().unwrap());
        let original = Tuple::new(src, dst, ids.0, ids.1, number).unwrap();
        ConnectionView {
            id: CoreId(1),
            original,
            reply: original.inverted(),
            flags,
            protocol_state: 3,
            remaining_ms: 1000,
            packets: [1, 1],
            bytes: [40, 40],
            mark: 0x17,
            ingress: InterfaceId(0),
            egress: InterfaceId::NONE,
            helper: None,
            age_ms: 60 * 86_400_000,
        }
    }

    /// A filter says the same of a connection of the core as of what is shown of it, and no worker leaves out what passes.
    #[test]
    fn a_filter_means_the_same_before_and_after_a_connection_is_shown() {
        let views = [
            view(protocol::TCP, "192.168.1.2", "192.0.2.9", (5000, 443), flags::ASSURED),
            view(
                protocol::UDP,
                "192.168.1.3",
                "192.0.2.9",
                (443, 53),
                flags::SEEN_REPLY | flags::SNAT,
            ),
            view(protocol::SCTP, "192.168.1.2", "192.0.2.8", (5000, 443), flags::DNAT),
            view(protocol::ICMP, "192.168.1.2", "192.0.2.9", (443, 8 << 8), 0),
            view(protocol::GRE, "192.168.1.2", "192.0.2.9", (0, 0), flags::EXPECTED),
            view(protocol::TCP, "2001:db8::1", "2001:db8::2", (443, 443), 0),
        ];
        let name = |id: InterfaceId| (id == InterfaceId(0)).then_some("lan");
        let mut passed = 0;
        for query in [
            "",
            "protocol=tcp",
            "family=ipv6",
            "src=192.168.1.2",
            "src=192.168.1.0/24",
            "dst=192.0.2.9&dport=443",
            "sport=443",
            "dport=443",
            "reply_src=192.0.2.9&reply_dport=5000",
            "icmp_id=443",
            "icmp_type=8",
            "state=ESTABLISHED",
            "status=ASSURED,UNREPLIED",
            "src_nat=any",
            "any_nat=192.0.2.0/24",
            "mark=0x17",
            "mark=0x7/0xf",
            "mark=7",
            "interface=lan",
            "interface=wan",
        ] {
            let query: ConnectionQuery = serde_urlencoded::from_str(query).unwrap();
            let filter = ConnectionFilter::try_from(&query).unwrap();
            for view in &views {
                let shown =
                    connection(view, SystemTime::now(), true, |id| name(id).map(str::to_owned));
                let passes = filter.matches(&Traits::of_view(view, name));
                assert_eq!(passes, filter.matches(&(&shown).into()), "{query:?}, {view:?}");
                assert!(!passes || filter.to_core().matches(view), "{query:?}, {view:?}");
                passed += u32::from(passes);
            }
        }
        assert!(passed > 20, "{passed}");
        assert_eq!(connection(&views[0], SystemTime::now(), true, |_| None).age_s, 60 * 86_400);
    }
}
