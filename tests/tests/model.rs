//! The core against a naive model: see [`postern_tests::model`].

use postern_tests::model::{FORWARDS, INSIDE, OUTSIDE, Op, PORTS, SERVICES, World};
use proptest::prelude::*;

fn op() -> impl Strategy<Value = Op> {
    let protocol = prop::sample::select(vec![1u8, 6, 17, 17]);
    let ports = prop::sample::select(vec![500u16, 5000, 5001, 8080, 40_000]);
    prop_oneof![
        8 => (protocol.clone(), 0..INSIDE.len(), 0..PORTS.len(), 0..OUTSIDE.len(), 0..SERVICES.len())
            .prop_map(|(protocol, host, port, server, service)| Op::Out { protocol, host, port, server, service }),
        2 => (prop::sample::select(vec![6u8, 17]), 0..3usize, 0..4usize, 0..4usize)
            .prop_map(|(protocol, host, port, dialled)| Op::Loop { protocol, host, port, dialled }),
        4 => (protocol, 0..3usize, 0..2usize, ports, any::<bool>())
            .prop_map(|(protocol, server, service, port, answer)| Op::In { protocol, server, service, port, answer }),
        1 => (0..3usize, 0..3usize, 0..4usize).prop_map(|(server, host, port)| Op::Bypass { server, host, port }),
        8 => any::<usize>().prop_map(|which| Op::Answer { which }),
        2 => any::<usize>().prop_map(|which| Op::Report { which }),
        3 => (prop_oneof![0u64..3_000, 0u64..40_000, 0u64..350_000], any::<bool>())
            .prop_map(|(ms, tidied)| Op::Pass { ms, tidied }),
        1 => (0..FORWARDS.len()).prop_map(|which| Op::Forward { which }),
        1 => (0..3usize).prop_map(|host| Op::Deny { host }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// C072, C073, C075, C078, C079, C086, C181, C182, C183, C185, C190, C193, C104: whatever happens in
    /// whatever order.
    #[test]
    fn agrees_with_a_naive_model(
        workers in prop::sample::select(vec![1u8, 1, 2, 3, 8]),
        seed in any::<u64>(),
        ops in proptest::collection::vec(op(), 1..120),
    ) {
        let mut world = World::new(workers, seed);
        for op in ops {
            world.run(op);
        }
        world.finish();
    }
}
