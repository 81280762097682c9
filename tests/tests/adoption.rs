//! Workers adopt a new snapshot one after the other, with packets in between and hand-overs on their way: no
//! packet is lost, and no connection is made twice. A worker is only ever made to adopt by a packet that a newer one
//! hands it.

use std::net::SocketAddr;

use postern_core::conntrack::tuple::protocol;
use postern_tests::{Draw, Firewall, Flow, LAN, Setup, WAN};

fn flow(number: u16) -> Flow {
    let client = SocketAddr::from(([192, 168, 1, 2 + (number % 3) as u8], 5000 + 2 * number));
    Flow::outward(client, "192.0.2.9:53")
}

/// Sends a packet each way of a flow that may be new, while hand-overs are slow; all arrive in the end.
fn exchange_slowly(fw: &mut Firewall, flow: &mut Flow, draw: &mut Draw) {
    let mut outs = fw.lan(flow.ask()).outs;
    if let Some(seen) = flow.seen {
        outs.extend(fw.wan(flow.tell()).outs);
        assert_eq!(flow.seen(), seen);
    }
    if draw.below(2) == 0 {
        fw.adopt(draw.below(usize::from(fw.setup().workers)));
    }
    outs.extend(fw.settle().outs);
    let there: Vec<_> = outs.iter().filter(|out| out.at == WAN).map(|out| out.pkt()).collect();
    let [there] = there.as_slice() else { panic!("lost or doubled: {outs:?}") };
    let known = flow.seen.replace(there.source());
    assert!(known.is_none_or(|known| known == there.source()), "{known:?}, {there:?}");
    assert_eq!(*there, flow.at_server(&flow.ask()));
    let back: Vec<_> = outs.iter().filter(|out| out.at == LAN).map(|out| out.pkt()).collect();
    match known {
        Some(_) => assert_eq!(back, [flow.at_client(&flow.tell())]),
        None => assert!(back.is_empty()),
    }
}

/// C190, C104
#[test]
fn no_packet_is_lost_and_no_connection_doubled_while_workers_adopt_one_by_one() {
    for seed in 0..300 {
        let mut draw = Draw::new(seed);
        let workers = *draw.of(&[2, 3, 4, 8]);
        let mut fw = Firewall::with(Setup::default().workers(workers).seed(seed));
        fw.slow_adoption = true;
        fw.slow_hand_over = true;
        let mut flows: Vec<Flow> = Vec::new();
        let mut changes = 0;
        for step in 0..60 {
            match draw.below(8) {
                // A forward on a port that is in use, or goes.
                0 if changes < 6 => {
                    changes += 1; // while others may still be under way
                    let port = 5000 + 2 * draw.below(12) as u16;
                    let known = fw.setup().forwards.iter().any(|f| f.first == port);
                    fw.change(|setup| match known {
                        true => setup.forwards.retain(|f| f.first != port),
                        false => setup.add_forward(protocol::UDP, (port, port), "192.168.1.10:53"),
                    });
                }
                1 => fw.adopt(draw.below(usize::from(workers))),
                2 if flows.len() < 12 => flows.push(flow(flows.len() as u16)),
                _ => {}
            }
            if !flows.is_empty() {
                let which = draw.below(flows.len());
                exchange_slowly(&mut fw, &mut flows[which], &mut draw);
            }
            let begun = flows.iter().filter(|f| f.seen.is_some()).count();
            assert_eq!(fw.connections().len(), begun, "seed {seed}, step {step}");
        }
        assert_eq!(fw.values().dropped(), 0);
    }
}
