//! What happens to connections is told to whoever follows, whole or with gaps of known size; and what control may
//! change about a connection.

use std::collections::HashMap;
use std::time::Duration;

use postern_core::conntrack::changes::{CHANGES_MAX, Ended, Happened};
use postern_core::conntrack::entry::flags;
use postern_core::conntrack::tcp::State::{
    self, CloseWait, Established, FinWait, SynReceived, SynSent, TimeWait,
};
use postern_core::conntrack::timeouts::TimeoutKind;
use postern_core::conntrack::tuple::{Tuple, protocol};
use postern_core::helper::{Helpers, Kind};
use postern_core::pipeline::{ConnectionId, ConnectionView, Cursor, Edit, Filter, Told};
use postern_core::units::WorkerId;
use postern_tests::packet::{tcp, udp};
use postern_tests::{Firewall, Flow, LAN, Setup, WAN, for_workers};

const WEB: (&str, &str) = ("192.168.1.2:5000", "192.0.2.9:80");

fn following(setup: Setup) -> Firewall {
    let mut fw = Firewall::with(setup);
    fw.follow(true);
    fw
}

/// What was told, with the TCP state then.
fn told(fw: &mut Firewall) -> Vec<(Happened, State)> {
    let state = |t: &Told| t.connection.map_or(0, |c| c.protocol_state);
    fw.changes().iter().map(|t| (t.happened, State::from_number(state(t)))).collect()
}

/// The one way a connection ended, and with how many packets and bytes.
#[track_caller]
fn end(fw: &mut Firewall) -> (Ended, [u64; 2], [u64; 2]) {
    let all = fw.changes();
    let mut ends = all.iter().filter_map(|told| match told.happened {
        Happened::Destroyed(ended) => {
            let c = told.connection.expect("what went was something");
            Some((ended, c.packets, c.bytes))
        }
        _ => None,
    });
    let one = ends.next().expect("one ended");
    assert_eq!(ends.next(), None);
    one
}

#[test]
fn a_tcp_connection_is_followed_through_its_states_to_its_end() {
    use Happened::{Destroyed, New, Updated};
    for_workers([1, 2, 4], |setup| {
        let mut fw = following(setup);
        let mut flow = Flow::outward(WEB.0, WEB.1);
        flow.c2s(&mut fw, &flow.syn());
        assert_eq!(told(&mut fw), [(New, SynSent)]);
        flow.s2c(&mut fw, &flow.syn_ack());
        assert_eq!(told(&mut fw), [(Updated, SynReceived)]);
        flow.c2s(&mut fw, &flow.client_segment());
        assert_eq!(told(&mut fw), [(Updated, Established)]);
        for _ in 0..20 {
            flow.talk(&mut fw);
        }
        assert_eq!(told(&mut fw), [], "data changes no state");
        flow.client_fin(&mut fw);
        let fin = [(Updated, FinWait), (Updated, CloseWait)];
        assert_eq!(told(&mut fw), fin);
        flow.server_fin(&mut fw);
        assert_eq!(told(&mut fw), [(Updated, State::LastAck), (Updated, TimeWait)]);
        fw.pass_secs(241);
        assert_eq!(told(&mut fw), [(Destroyed(Ended::Closed), TimeWait)]);
        assert!(fw.connections().is_empty());
    });
}

#[test]
fn every_end_has_its_reason_and_its_final_counters() {
    for_workers([1, 2], |setup| {
        let mut fw = following(setup);
        let mut dns = Flow::outward("192.168.1.2:5000", "192.0.2.9:53");
        dns.exchange(&mut fw);
        dns.exchange(&mut fw);
        let lengths = [&dns.ask(), &dns.tell()].map(|pkt| pkt.build().len() as u64);
        fw.pass_secs(31);
        assert_eq!(end(&mut fw), (Ended::Timeout, [2, 2], lengths.map(|len| 2 * len)));

        dns.exchange(&mut fw);
        let id = fw.connection().id;
        assert!(fw.delete(id) && !fw.delete(id));
        assert_eq!(end(&mut fw), (Ended::Deleted, [1, 1], lengths));

        // Past its deadline, and found so by the next packet of its tuple.
        dns.exchange(&mut fw);
        fw.pass_untidied(std::time::Duration::from_secs(31));
        dns.exchange(&mut fw);
        assert_eq!(end(&mut fw).0, Ended::Timeout);

        // A RST in answer to the first SYN; and a SYN that begins anew in TIME_WAIT.
        let refused = Flow::outward("192.168.1.2:6000", "192.0.2.9:80");
        fw.lan(refused.syn()).out(WAN);
        let rst = tcp("192.168.1.2:6000", "192.0.2.9:80").rst().seq(refused.seq[0]);
        fw.lan(rst);
        assert_eq!(end(&mut fw).0, Ended::Closed);
        let mut again = Flow::outward(WEB.0, WEB.1).open(&mut fw);
        again.client_fin(&mut fw);
        again.server_fin(&mut fw);
        again.seq = [90_000, 80_000];
        again.reopen(&mut fw);
        assert_eq!(end(&mut fw).0, Ended::Reopened);

        // The address that it appears behind is gone.
        fw.changes();
        fw.change(|setup| setup.set_addresses(WAN, &["203.0.113.77/24"]));
        fw.housekeep(u32::MAX);
        let ends: Vec<_> = fw.changes().iter().map(|told| told.happened).collect();
        assert_eq!(ends, [Happened::Destroyed(Ended::AddressGone); 2]);
        assert!(fw.connections().is_empty());
    });
}

#[test]
fn whoever_makes_room_says_so() {
    let mut fw = following(Setup::default().capacity(64));
    for host in 0..64u16 {
        fw.lan(udp(("192.168.1.2", 5000 + host), "192.0.2.66:53")).out(WAN);
        assert_eq!(fw.changes().len(), 1);
    }
    fw.lan(udp("192.168.1.3:5000", "192.0.2.66:53")).out(WAN);
    let both: Vec<_> = fw.changes().iter().map(|told| told.happened).collect();
    assert_eq!(both, [Happened::Destroyed(Ended::Evicted), Happened::New]);
}

#[test]
fn nothing_is_noted_while_nobody_follows() {
    let mut fw = Firewall::new();
    let mut flow = Flow::outward(WEB.0, WEB.1).open(&mut fw);
    assert_eq!(fw.changes(), []);
    fw.follow(true);
    flow.talk(&mut fw);
    fw.follow(false);
    flow.client_fin(&mut fw);
    flow.server_fin(&mut fw);
    fw.pass_secs(241);
    assert_eq!(fw.changes(), []);
    assert_eq!(fw.values().changes_missed, 0);
}

/// Once the log is half full, a connection whose change waits is not noted again; the taker sees the newest.
#[test]
fn changes_that_nobody_takes_come_as_one_when_room_is_short() {
    let mut fw = following(Setup::default().capacity(64));
    let mut flow = Flow::outward(WEB.0, WEB.1).open(&mut fw);
    flow.client_fin(&mut fw);
    let states: Vec<_> = told(&mut fw).into_iter().map(|(_, state)| state).collect();
    let each = [SynSent, SynReceived, Established, FinWait, CloseWait];
    assert_eq!(states, each, "there is room for each");
    for port in 0..32 {
        fw.lan(udp(("192.168.1.3", 5000 + port), "192.0.2.66:53")).out(WAN);
    }
    flow.server_fin(&mut fw);
    fw.edit(fw.tcp().id, Edit { mark: Some((7, u32::MAX)), timeout_ms: None }).unwrap();
    // Taken although nobody follows any more, or the next one would find it waiting for ever.
    fw.follow(false);
    let late = fw.changes();
    assert_eq!(late.len(), 33);
    let last = late[32].connection.unwrap();
    assert_eq!((State::from_number(last.protocol_state), last.mark), (TimeWait, 7));
    assert_eq!(fw.tcp().flags & flags::CHANGED, 0);
    fw.follow(true);
    fw.edit(fw.tcp().id, Edit { mark: Some((1, u32::MAX)), timeout_ms: None }).unwrap();
    assert_eq!(told(&mut fw), [(Happened::Updated, TimeWait)]);
}

trait OneTcp {
    fn tcp(&self) -> ConnectionView;
}

impl OneTcp for Firewall {
    /// The one TCP connection there is.
    fn tcp(&self) -> ConnectionView {
        let all = self.connections();
        *all.iter().find(|c| c.original.protocol() == protocol::TCP).expect("there is one")
    }
}

/// What there is no room for is counted where it is missing, and everything before and after is there.
#[test]
fn an_overrun_is_counted_to_the_connection() {
    let mut fw = following(Setup::default().capacity(65_536));
    let open = |fw: &mut Firewall, from: u16, to: u16| {
        (from..to)
            .for_each(|port| _ = fw.lan(udp(("192.168.1.2", port), "192.0.2.66:53")).out(WAN));
    };
    let most = CHANGES_MAX as u16;
    open(&mut fw, 1024, 1024 + most + 100);
    let first = fw.changes();
    assert_eq!(first.len(), usize::from(most) + 1);
    assert_eq!(first.last().map(|told| told.happened), Some(Happened::Missed(100)));
    let ports = |all: &[Told]| -> Vec<u16> {
        all.iter().filter_map(|t| Some(t.connection?.original.src_id())).collect()
    };
    assert_eq!(ports(&first), (1024..1024 + most).collect::<Vec<_>>());
    assert_eq!(fw.values().changes_missed, 100);
    open(&mut fw, 40_000, 40_010);
    assert_eq!(ports(&fw.changes()), (40_000..40_010).collect::<Vec<_>>());
    assert_eq!(fw.values().changes_missed, 100);
}

/// Followed without a gap, what was told adds up to the table: after any traffic, whoever heard all knows all.
#[test]
fn who_heard_everything_knows_the_table() {
    for_workers([1, 2, 4], |setup| {
        let mut fw = following(setup.capacity(512));
        let mut known: HashMap<ConnectionId, u8> = HashMap::new();
        let mut flows: Vec<Flow> = Vec::new();
        for round in 0..300u16 {
            let server = if round % 3 == 0 { "192.0.2.9:53" } else { "192.0.2.9:80" };
            let mut flow = Flow::outward(("192.168.1.2", 2000 + round), server);
            match round % 3 {
                0 => flow.exchange(&mut fw),
                1 => flow = flow.open(&mut fw),
                _ => _ = flow.c2s(&mut fw, &flow.syn()),
            }
            if round % 3 == 1 {
                flows.push(flow);
            }
            if round % 7 == 0 && !flows.is_empty() {
                let mut flow = flows.remove(0);
                flow.client_fin(&mut fw);
                flow.server_fin(&mut fw);
            }
            if round % 11 == 0 {
                let mut queries =
                    fw.connections().into_iter().filter(|c| c.original.dst_id() == 53);
                let deleted = queries.next_back().is_some_and(|c| fw.delete(c.id));
                assert!(deleted);
            }
            if round % 50 == 0 {
                fw.pass_secs(31);
            }
            for Told { happened, connection, .. } in fw.changes() {
                let c = connection.expect("nothing was missed");
                let was_there = match happened {
                    Happened::New => known.insert(c.id, c.protocol_state).is_none(),
                    Happened::Updated => known.insert(c.id, c.protocol_state).is_some(),
                    Happened::Destroyed(_) => known.remove(&c.id).is_some(),
                    Happened::Missed(_) => false,
                };
                assert!(was_there, "{happened:?} of {c:?}");
            }
            let table: HashMap<_, _> =
                fw.connections().iter().map(|c| (c.id, c.protocol_state)).collect();
            // What is past its deadline and was not swept yet is known still, and not listed.
            assert!(table.iter().all(|(id, state)| known.get(id) == Some(state)));
        }
        fw.housekeep(u32::MAX);
        fw.changes().iter().filter_map(|t| t.connection).for_each(|c| _ = known.remove(&c.id));
        assert_eq!(known.len(), fw.connections().len());
    });
}

/// `conntrack -U`: the mark's masked bits are cleared, then it is combined by XOR (ctnetlink_change_mark).
#[test]
fn a_mark_is_set_under_its_mask_and_found_by_a_filter() {
    let mut fw = Firewall::new();
    let mut flow = Flow::outward(WEB.0, WEB.1).open(&mut fw);
    let id = fw.connection().id;
    let mut set = |value, mask| {
        let edit = Edit { mark: Some((value, mask)), timeout_ms: None };
        fw.edit(id, edit).map(|c| c.mark)
    };
    assert_eq!(set(0x1234, u32::MAX), Some(0x1234));
    assert_eq!(set(0x0050, 0x00ff), Some(0x1250));
    assert_eq!(set(0x1000, 0), Some(0x0250), "outside of its mask it is combined");
    flow.talk(&mut fw);
    assert_eq!(fw.connection().mark, 0x0250, "packets leave it alone");
    let now = fw.now;
    let found = |fw: &mut Firewall, mark| {
        let (mut count, filter) = (0, Filter { mark: Some(mark), ..Filter::default() });
        fw.pipeline(0).visit(WorkerId(0), Cursor::default(), 1000, &filter, now, |_| count += 1);
        count
    };
    assert_eq!((found(&mut fw, 0x0250), found(&mut fw, 0)), (1, 0));
    assert!(fw.delete(id));
    assert_eq!(fw.edit(id, Edit::default()), None);
}

/// The remaining time is set, shorter or longer, and the next packet gives back the state's own.
#[test]
fn a_timeout_is_set_until_the_next_packet() {
    for (seconds, lives, dead) in [(5, 4, 2), (100_000, 99_999, 2)] {
        let mut fw = Firewall::new();
        let mut flow = Flow::outward(WEB.0, WEB.1).open(&mut fw);
        let id = fw.connection().id;
        fw.pass_secs(100);
        let set = |fw: &mut Firewall| {
            let edit = Edit { mark: None, timeout_ms: Some(seconds * 1000) };
            fw.edit(id, edit).expect("it lives").remaining_ms
        };
        assert_eq!(set(&mut fw), seconds * 1000);
        flow.talk(&mut fw);
        assert_eq!(fw.connection().remaining_ms, 7_440_000);
        set(&mut fw);
        fw.pass_secs(lives);
        assert_eq!(fw.connections().len(), 1);
        fw.pass_secs(dead);
        assert_eq!(fw.connections().len(), 0);
    }
}

/// A view says where packets come in and go out, so that a listing can be asked for either.
#[test]
fn a_view_names_both_interfaces() {
    let mut fw = Firewall::new();
    Flow::outward(WEB.0, WEB.1).open(&mut fw);
    let view = fw.connection();
    assert_eq!((view.ingress, view.egress), (LAN.interface(), WAN.interface()));
}

/// C195: a dump in slices while connections come, change and go between any two of them. It lists what lives throughout
/// once, nothing twice, and nothing that was never there: whoever follows is the judge of that.
#[test]
fn a_dump_under_churn_repeats_and_invents_nothing() {
    for_workers([1, 2], |setup| {
        let workers = setup.workers;
        let mut fw = following(setup.capacity(8192));
        let mut known: HashMap<ConnectionId, [Tuple; 2]> = HashMap::new();
        let learn = |fw: &mut Firewall, known: &mut HashMap<_, _>| {
            for Told { happened, connection, .. } in fw.changes() {
                let c = connection.expect("nothing was missed");
                match happened {
                    Happened::Destroyed(_) => _ = known.remove(&c.id),
                    _ => _ = known.insert(c.id, [c.original, c.reply]),
                }
            }
        };
        for port in 0..2000u16 {
            Flow::outward(("192.168.1.2", 10_000 + port), "192.0.2.9:53").exchange(&mut fw);
            learn(&mut fw, &mut known);
        }
        let throughout: Vec<ConnectionId> = known.keys().copied().collect();
        let mut next = 0u32;
        for worker in 0..workers {
            let me = WorkerId(worker);
            let (mut cursor, mut listed) = (Some(Cursor::default()), HashMap::new());
            while let Some(at) = cursor {
                for _ in 0..40 {
                    let host = ["192.168.1.3", "192.168.1.4"][next as usize % 2];
                    let port = 1024 + (next % 60_000) as u16;
                    fw.lan(udp((host, port), "192.0.2.9:53")).out(WAN);
                    next += 1;
                    learn(&mut fw, &mut known);
                }
                let passing = known.iter().filter(|(_, [original, _])| original.src_id() < 10_000);
                let old: Vec<_> = passing.map(|(id, _)| *id).take(30).collect();
                old.into_iter().for_each(|id| assert!(fw.delete(id)));
                learn(&mut fw, &mut known);
                let (now, mut slice) = (fw.now, Vec::new());
                let pipeline = fw.pipeline(usize::from(worker));
                cursor = pipeline.visit(me, at, 128, &Filter::default(), now, |v| slice.push(v));
                for view in slice {
                    assert_eq!(known.get(&view.id), Some(&[view.original, view.reply]));
                    assert!(listed.insert(view.id, ()).is_none(), "{view:?} twice");
                }
            }
            let own = throughout.iter().filter(|id| id.worker() == me);
            own.for_each(|id| assert!(listed.contains_key(id)));
        }
    });
}

/// What is listed: the helper of a connection, and what it expects, until that is past its deadline.
#[test]
fn a_view_names_the_helper_and_expectations_can_be_shown() {
    for_workers([1, 2], |mut setup| {
        setup.options.helpers = Helpers::NONE.with(Kind::Ftp);
        let mut fw = Firewall::with(setup);
        let shown = |fw: &Firewall| {
            let (now, mut all) = (fw.now.tick(), Vec::new());
            let table = &fw.snapshot().expectations;
            let shards = (0..).take_while(|&shard| table.show(shard, now, |e| all.push(e)));
            assert!(shards.count() > 1);
            all
        };
        let control = Flow::outward("192.168.1.2:5000", "192.0.2.9:21").open(&mut fw);
        let view = fw.connection();
        assert_eq!(view.helper, Some(Kind::Ftp));
        assert!(shown(&fw).is_empty());
        let port = control.client_segment().payload("PORT 192,168,1,2,156,64\r\n");
        fw.lan(port).out(WAN);
        let all = shown(&fw);
        let [expected] = &all[..] else { panic!("{all:?}") };
        assert_eq!((expected.master, expected.protocol), (view.id.0, protocol::TCP));
        let (server, outer) = ("192.0.2.9".parse().unwrap(), "203.0.113.2".parse().unwrap());
        assert_eq!((expected.src, expected.dst), (Some(server), outer));
        assert_eq!((expected.dst_port, expected.to.1), (40_000, 40_000));
        fw.pass_secs(299);
        assert_eq!(shown(&fw).len(), 1);
        fw.pass_untidied(std::time::Duration::from_secs(1));
        assert!(shown(&fw).is_empty(), "past its deadline");
    });
}

/// C190: what an operator set holds until the timeouts themselves are changed, whatever else is reviewed.
#[test]
fn a_timeout_that_was_set_outlives_changes_of_something_else() {
    for_workers([1, 2], |setup| {
        let mut fw = Firewall::with(setup);
        Flow::outward("192.168.1.2:5000", "192.0.2.9:80").open(&mut fw);
        let id = fw.connection().id;
        let edit = Edit { mark: None, timeout_ms: Some(500_000_000) };
        fw.edit(id, edit).expect("it lives");
        let more = ["192.168.1.1/24", "192.168.7.1/24", "2001:db8:1::1/64"];
        fw.change(|setup| setup.set_addresses(LAN, &more));
        fw.pass_secs(10);
        assert_eq!(fw.connection().remaining_ms, 500_000_000 - 10_000);
        fw.change(|setup| setup.timeouts.set(TimeoutKind::Udp, Duration::from_secs(77)));
        fw.pass_secs(10);
        assert_eq!(fw.connection().remaining_ms, 7_440_000 - 20_000, "that of its state");
    });
}

/// C202: the age of a connection that is kept up is told also when it is older than the clock of its timeouts goes round.
#[test]
fn a_connection_is_as_old_as_it_is() {
    let mut fw = following(Setup::default());
    let mut flow = Flow::outward(WEB.0, WEB.1).open(&mut fw);
    let mut age_ms = 0;
    while age_ms < 60 * 86_400_000 {
        let step = Duration::from_secs(7_000);
        fw.pass(step);
        age_ms += step.as_millis() as u64;
        flow.talk(&mut fw);
    }
    let told = fw.connection().age_ms;
    assert!(told.abs_diff(age_ms) <= 64, "{told} of {age_ms}");
    fw.changes();
    fw.delete(fw.connection().id);
    let end = fw.changes().pop().expect("its end").connection.expect("what went");
    assert_eq!(end.age_ms, told);
}
