//! In any order of events a frame is published once in a generation, without hole and in order, and an honest client
//! ends with everything that nobody told it was lost; and whatever a client says, the pipe is read to its end.

use proptest::prelude::*;

use super::delivery_model::{Claim, Step, World};

fn claim() -> impl Strategy<Value = Claim> {
    prop_oneof![
        6 => Just(Claim::Honest),
        2 => (1..5_u64).prop_map(Claim::Less),
        1 => (1..3_u64).prop_map(Claim::More),
        2 => Just(Claim::Nothing),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        20 => (0..8_u64).prop_map(Step::Write),
        1 => Just(Step::Exit),
        20 => (0..4_usize, 1..6_usize).prop_map(|(pump, turns)| Step::Pump { pump, turns }),
        2 => (0..4_usize).prop_map(Step::GiveBack),
        10 => (1..5_usize).prop_map(Step::Deliver),
        3 => (0..4_usize).prop_map(Step::LinkLost),
        2 => (1..4_u64).prop_map(Step::Drop),
        6 => (prop_oneof![2 => 0..2_u64, 4 => 2..4_u64], claim(), 0..20_u64)
            .prop_map(|(generation, from, window)| Step::Attach { generation, from, window }),
        12 => (prop_oneof![5 => Just(0_u64), 1 => Just(1)], claim(), 0..20_u64, any::<bool>()).prop_map(
            |(generation, acked, credit, is_final)| Step::Ack { generation, acked, credit, is_final }
        ),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn in_any_order_of_events_nothing_is_lost_untold_sent_twice_or_stuck(
        steps in proptest::collection::vec(step(), 0..120),
    ) {
        let mut world = World::new(7);
        for step in &steps {
            world.take(step);
        }
        world.finish();
    }
}

/// A client on a link that holds, and a pipe that is read through the gate.
#[derive(Debug, Clone, Copy)]
struct Flow {
    window: u64,
    /// How much the log keeps.
    limit: u64,
    /// The client says something after this many bytes, at most its window.
    batch: u64,
    /// It acknowledges, or it only grows its credit.
    acknowledges: bool,
}

proptest! {
    #[test]
    fn the_pipe_is_read_to_its_end_whatever_the_client_says_and_the_log_holds(
        payloads in proptest::collection::vec(prop_oneof![1 => Just(0_u64), 9 => 1..40_u64], 1..80),
        window in 1..100_u64,
        limit in 0..100_u64,
        batch in 1..=100_u64,
        acknowledges in any::<bool>(),
    ) {
        let batch = 1 + (batch - 1) % window;
        run(&payloads, Flow { window, limit, batch, acknowledges });
    }
}

fn run(payloads: &[u64], flow: Flow) {
    let mut world = World::new(39);
    world.take(&Step::Attach {
        generation: 2,
        from: Claim::Nothing,
        window: flow.window,
    });
    world.take(&Step::Pump { pump: 0, turns: 1 });
    let total = payloads.iter().sum::<u64>();
    let (mut unread, mut consumed, mut said) = (payloads.to_vec(), 0, 0);
    unread.reverse();
    while consumed < total {
        let before = (world.written.len(), world.reached, world.client.upto);
        let retained = world.retained(flow.limit);
        let room = retained.room(&world.delivery);
        if room > 0
            && let Some(payload) = unread.pop()
        {
            let read = payload.min(room);
            world.take(&Step::Write(read));
            if read < payload {
                unread.push(payload - read);
            }
        }
        while world.retained(flow.limit).total > flow.limit && world.delivery.droppable() > world.released {
            world.take(&Step::Drop(1));
        }
        world.take(&Step::Pump { pump: 0, turns: 1 });
        consumed += world.wire.iter().map(|frame| frame.payload).sum::<u64>();
        world.take(&Step::Deliver(1));
        let spoke = consumed - said >= flow.batch;
        if spoke {
            said = consumed;
            world.take(&Step::Ack {
                generation: 0,
                acked: if flow.acknowledges {
                    Claim::Honest
                } else {
                    Claim::Nothing
                },
                credit: if flow.acknowledges {
                    0
                } else {
                    consumed + flow.window
                },
                is_final: false,
            });
        }
        let after = (world.written.len(), world.reached, world.client.upto);
        assert!(spoke || before != after, "stuck with {retained:?}: {world:?}");
    }
    assert!(unread.iter().all(|payload| *payload == 0));
}
