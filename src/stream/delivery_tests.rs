//! The rules of [`Delivery`], one by one.

use super::delivery_model::Retained;
use super::{Ack, Acked, Attach, Attached, Delivery, Frame, Lease, Offer, frame_limit};

fn attach(generation: u64, from_seq: u64, window_bytes: u64) -> Attach {
    Attach {
        generation,
        from_seq,
        window_bytes,
    }
}

fn ack(generation: u64, acked_seq: u64, credit_bytes: u64) -> Ack {
    Ack {
        generation,
        acked_seq,
        credit_bytes,
        is_final: false,
    }
}

fn last_ack(generation: u64, acked_seq: u64) -> Ack {
    Ack {
        is_final: true,
        ..ack(generation, acked_seq, 0)
    }
}

fn data(seq: u64, payload: u64) -> Frame {
    Frame {
        seq,
        payload,
        exit: false,
    }
}

fn exit(seq: u64) -> Frame {
    Frame {
        seq,
        payload: 0,
        exit: true,
    }
}

#[track_caller]
fn pump(attached: Attached) -> Lease {
    match attached {
        Attached::Pump(lease) => lease,
        other => panic!("expected a lease, got {other:?}"),
    }
}

/// An op whose client attached with this window.
fn begun(window: u64) -> (Delivery, Lease) {
    let mut delivery = Delivery::new(1);
    let lease = pump(delivery.attach(attach(1, 0, window)));
    (delivery, lease)
}

/// The same, after these many frames of one byte were published.
fn published(frames: u64) -> (Delivery, Lease) {
    let (mut delivery, lease) = begun(0);
    for seq in 1..=frames {
        assert_eq!(delivery.offer(&lease, data(seq, 1)), Offer::Publish);
    }
    (delivery, lease)
}

#[test]
fn credit_stops_payload_and_nothing_else() {
    let (mut delivery, lease) = begun(8);
    assert_eq!(delivery.offer(&lease, data(1, 4)), Offer::Publish);
    assert_eq!(delivery.offer(&lease, data(2, 3)), Offer::Publish);
    assert_eq!(
        delivery.offer(&lease, data(3, 2)),
        Offer::AwaitCredit,
        "the window is an absolute limit"
    );
    assert_eq!(delivery.offer(&lease, data(3, 1)), Offer::Publish);
    assert_eq!(delivery.offer(&lease, data(4, 1)), Offer::AwaitCredit);
    assert_eq!(
        delivery.offer(&lease, data(4, 0)),
        Offer::Publish,
        "progress is free"
    );
    assert_eq!(delivery.offer(&lease, data(5, 1)), Offer::AwaitCredit);
    assert_eq!(delivery.ack(ack(1, 2, 0)), Acked::Taken { release: 2 });
    assert_eq!(
        delivery.offer(&lease, data(5, 1)),
        Offer::Publish,
        "7 of 8 are free"
    );
    assert_eq!(delivery.offer(&lease, data(6, 7)), Offer::AwaitCredit);
    assert_eq!(delivery.ack(ack(1, 5, 0)), Acked::Taken { release: 5 });
    assert_eq!(delivery.offer(&lease, data(6, 8)), Offer::Publish);
    assert_eq!(
        delivery.offer(&lease, data(7, 1)),
        Offer::AwaitCredit,
        "8 of 8 are used"
    );
    assert_eq!(
        delivery.offer(&lease, exit(7)),
        Offer::Publish,
        "the exit is free"
    );
}

#[test]
fn one_frame_may_always_be_in_flight() {
    let (mut delivery, lease) = begun(1);
    for seq in 1..5 {
        assert_eq!(delivery.offer(&lease, data(seq, 128 << 10)), Offer::Publish);
        assert_eq!(
            delivery.offer(&lease, data(seq + 1, 128 << 10)),
            Offer::AwaitCredit
        );
        assert_eq!(delivery.ack(ack(1, seq, 0)), Acked::Taken { release: seq });
    }
}

#[test]
fn without_a_window_it_is_four_mebibytes() {
    let (mut delivery, lease) = begun(0);
    assert_eq!(delivery.offer(&lease, data(1, (4 << 20) - 1)), Offer::Publish);
    assert_eq!(delivery.offer(&lease, data(2, 1)), Offer::Publish);
    assert_eq!(delivery.offer(&lease, data(3, 1)), Offer::AwaitCredit);
}

#[test]
fn a_client_that_only_grows_its_credit_gets_on() {
    // Its window is smaller than a frame, too.
    let mut delivery = Delivery::new(100);
    let lease = pump(delivery.attach(attach(1, 0, 10)));
    for seq in 1..100 {
        assert_eq!(delivery.offer(&lease, data(seq, 100)), Offer::Publish);
        assert_eq!(delivery.offer(&lease, data(seq + 1, 100)), Offer::AwaitCredit);
        assert_eq!(
            delivery.ack(ack(1, 0, 10 + seq * 100)),
            Acked::Taken { release: 0 }
        );
    }
}

#[test]
fn acknowledgements_are_believed_within_reason() {
    let mut fresh = Delivery::new(1);
    assert_eq!(fresh.ack(ack(0, 0, 5)), Acked::Ignored, "nobody is attached");
    let (mut delivery, lease) = published(3);
    for generation in [0, 2] {
        assert_eq!(delivery.ack(ack(generation, 3, 1)), Acked::Ignored);
    }
    assert_eq!(
        delivery.ack(ack(1, 4, 1)),
        Acked::Taken { release: 0 },
        "frame 4 was not sent"
    );
    assert_eq!(
        delivery.offer(&lease, data(4, 1)),
        Offer::AwaitCredit,
        "its credit counts"
    );
    assert_eq!(delivery.ack(ack(1, 2, 0)), Acked::Taken { release: 2 });
    assert_eq!(
        delivery.ack(ack(1, 1, 0)),
        Acked::Taken { release: 2 },
        "it came late"
    );
    assert_eq!(delivery.releasable(), 2);
}

#[test]
fn the_higher_generation_wins_and_an_equal_one_is_the_same() {
    let (mut delivery, first) = published(5);
    for generation in [0, 1] {
        assert!(matches!(
            delivery.attach(attach(generation, 2, 1)),
            Attached::Unchanged
        ));
    }
    let second = pump(delivery.attach(attach(3, 2, 0)));
    assert_eq!(delivery.generation(), 3);
    assert!(
        matches!(delivery.attach(attach(2, 0, 0)), Attached::Unchanged),
        "2 is lower than 3"
    );
    assert_eq!(delivery.next_seq(), 3);
    assert!(!delivery.stands(&first) && delivery.stands(&second));
    assert_eq!(
        delivery.ack(ack(1, 5, 1)),
        Acked::Ignored,
        "it is about the first"
    );
}

#[test]
fn a_new_pump_publishes_after_the_old_one_has_let_go() {
    let (mut delivery, first) = published(2);
    let second = pump(delivery.attach(attach(2, 0, 0)));
    assert_eq!(delivery.offer(&second, data(1, 1)), Offer::AwaitLease);
    assert_eq!(delivery.offer(&first, data(3, 1)), Offer::LetGo);
    let third = pump(delivery.attach(attach(3, 1, 0)));
    delivery.give_back(second);
    assert_eq!(
        delivery.offer(&third, data(2, 1)),
        Offer::AwaitLease,
        "the second never held anything"
    );
    delivery.give_back(first);
    assert!(delivery.is_attached(), "those were over before");
    assert_eq!(delivery.offer(&third, data(2, 1)), Offer::Publish);
    delivery.give_back(third);
    assert!(!delivery.is_attached());
}

#[test]
fn an_equal_generation_after_a_lost_link_goes_on_where_it_was() {
    let (mut delivery, first) = published(5);
    delivery.detach();
    assert_eq!(delivery.offer(&first, data(6, 1)), Offer::LetGo);
    let second = pump(delivery.attach(attach(1, 2, 1)));
    assert!(
        matches!(delivery.attach(attach(1, 2, 1)), Attached::Unchanged),
        "it stands"
    );
    assert_eq!(delivery.offer(&second, data(6, 1)), Offer::AwaitLease);
    delivery.give_back(first);
    assert!(
        delivery.is_attached(),
        "the late lease is of the attachment before"
    );
    assert_eq!(
        delivery.offer(&second, data(3, 1)),
        Offer::Refused,
        "3 was published"
    );
    assert_eq!(
        delivery.offer(&second, data(6, 1)),
        Offer::Publish,
        "and the window is what it was"
    );
    assert_eq!(delivery.offer(&second, data(7, 1)), Offer::Publish);
}

#[test]
fn acknowledgements_are_heard_while_nobody_is_attached() {
    let (mut delivery, lease) = published(5);
    delivery.give_back(lease);
    assert_eq!(delivery.ack(ack(1, 4, 0)), Acked::Taken { release: 4 });
}

#[test]
fn a_replay_costs_credit_from_its_beginning_and_frees_only_by_acknowledgement() {
    let (mut delivery, first) = published(5);
    let second = pump(delivery.attach(attach(2, 3, 2)));
    delivery.give_back(first);
    assert_eq!(delivery.releasable(), 0, "a from_seq frees nothing");
    for seq in [4, 5] {
        assert_eq!(delivery.offer(&second, data(seq, 1)), Offer::Publish);
    }
    assert_eq!(delivery.offer(&second, data(6, 1)), Offer::AwaitCredit);
    assert_eq!(delivery.ack(ack(2, 3, 0)), Acked::Taken { release: 3 });
    assert_eq!(
        delivery.offer(&second, data(6, 1)),
        Offer::AwaitCredit,
        "3 cost nothing"
    );
    assert_eq!(delivery.ack(ack(2, 4, 0)), Acked::Taken { release: 4 });
    assert_eq!(delivery.offer(&second, data(6, 1)), Offer::Publish);
}

#[test]
fn what_arrived_late_from_the_generation_before_is_sent_again_free_of_charge() {
    let (mut delivery, first) = published(5);
    let second = pump(delivery.attach(attach(2, 1, 1)));
    delivery.give_back(first);
    assert_eq!(delivery.offer(&second, data(2, 1)), Offer::Publish);
    assert_eq!(delivery.offer(&second, data(3, 1)), Offer::AwaitCredit);
    assert_eq!(
        delivery.ack(ack(2, 4, 0)),
        Acked::Taken { release: 2 },
        "3 and 4 are still to be sent"
    );
    for seq in [3, 4, 5] {
        assert_eq!(delivery.offer(&second, data(seq, 1)), Offer::Publish);
        assert_eq!(delivery.releasable(), seq.min(4));
    }
    assert_eq!(delivery.offer(&second, data(6, 1)), Offer::AwaitCredit);
    // The next client did not acknowledge that: what it is sent again costs it credit.
    let third = pump(delivery.attach(attach(3, 4, 1)));
    delivery.give_back(second);
    assert_eq!(delivery.offer(&third, data(5, 1)), Offer::Publish);
    assert_eq!(delivery.offer(&third, data(6, 1)), Offer::AwaitCredit);
}

#[test]
fn what_one_client_acknowledged_early_costs_the_next_one_credit() {
    let (mut delivery, first) = published(5);
    let second = pump(delivery.attach(attach(2, 0, 1)));
    assert_eq!(delivery.ack(ack(2, 5, 0)), Acked::Taken { release: 0 });
    let third = pump(delivery.attach(attach(3, 0, 1)));
    delivery.give_back(first);
    delivery.give_back(second);
    assert_eq!(delivery.offer(&third, data(1, 1)), Offer::Publish);
    assert_eq!(delivery.releasable(), 0);
    assert_eq!(delivery.offer(&third, data(2, 1)), Offer::AwaitCredit);
}

#[test]
fn who_attaches_below_what_is_gone_is_told_where_the_log_begins() {
    let (mut delivery, lease) = published(5);
    assert_eq!(delivery.ack(ack(1, 3, 0)), Acked::Taken { release: 3 });
    assert!(matches!(
        delivery.attach(attach(2, 2, 0)),
        Attached::Lost { first: 4 }
    ));
    assert!(
        delivery.stands(&lease) && delivery.generation() == 1,
        "nothing changed"
    );
    assert_eq!(delivery.offer(&lease, data(6, 1)), Offer::Publish);
    let _second = pump(delivery.attach(attach(2, 3, 0)));
    assert_eq!(delivery.next_seq(), 4);
}

#[test]
fn who_claims_more_than_was_sent_gets_what_comes_after_it() {
    let (mut delivery, lease) = published(5);
    delivery.give_back(lease);
    let second = pump(delivery.attach(attach(2, u64::MAX, 0)));
    assert_eq!(delivery.next_seq(), 6);
    assert_eq!(delivery.offer(&second, data(6, 1)), Offer::Publish);
}

#[test]
fn the_final_acknowledgement_ends_it_and_the_exit_is_last() {
    let (mut delivery, lease) = published(2);
    assert_eq!(delivery.ack(last_ack(1, 2)), Acked::Taken { release: 2 });
    assert_eq!(delivery.offer(&lease, exit(3)), Offer::Publish);
    assert_eq!(delivery.offer(&lease, data(4, 1)), Offer::Refused);
    assert_eq!(delivery.ack(last_ack(1, 2)), Acked::Taken { release: 2 });
    assert_eq!(delivery.ack(last_ack(2, 3)), Acked::Ignored);
    assert_eq!(delivery.ack(ack(1, 3, 0)), Acked::Taken { release: 3 });
    assert!(!delivery.is_ended() && delivery.is_attached());
    assert_eq!(delivery.ack(last_ack(1, 4)), Acked::Ended { release: 3 });
    assert!(delivery.is_ended() && !delivery.is_attached());
    assert_eq!(delivery.offer(&lease, data(4, 1)), Offer::LetGo);
    assert!(matches!(delivery.attach(attach(2, 3, 0)), Attached::Unchanged));
    assert_eq!(delivery.ack(last_ack(1, 3)), Acked::Ignored);
}

#[test]
fn the_end_needs_no_replay() {
    let (mut delivery, lease) = published(2);
    assert_eq!(delivery.offer(&lease, exit(3)), Offer::Publish);
    let _second = pump(delivery.attach(attach(2, 0, 0)));
    assert_eq!(delivery.ack(last_ack(2, 3)), Acked::Ended { release: 3 });
    assert_eq!(delivery.releasable(), 3);
}

#[test]
fn the_pipe_is_read_while_there_is_credit_and_room() {
    // In flight, window, attached; unsent, retained, limit; whether it is read.
    let cases = [
        (0, 10, true, 0, 0, 100, true),
        (0, 10, true, 9, 9, 100, true),
        (0, 10, true, 10, 10, 100, false),
        (9, 10, true, 0, 9, 100, true),
        (9, 10, true, 1, 10, 100, false),
        (10, 10, true, 0, 10, 100, false),
        // Full of what was sent: it may be dropped.
        (200, 300, true, 0, 200, 100, true),
        (200, 300, true, 99, 299, 100, true),
        (200, 301, true, 100, 300, 100, false),
        // There is no room at all: one frame at a time.
        (0, 10, true, 0, 0, 0, true),
        (0, 10, true, 1, 1, 0, false),
        (5, 10, true, 0, 5, 0, true),
        // Nobody is there: until it is full, whatever the credit was.
        (10, 10, false, 50, 60, 100, true),
        (10, 10, false, 90, 100, 100, false),
        (0, 10, false, 0, 100, 100, false),
    ];
    for case @ (in_flight, window, attached, unsent, total, limit, read) in cases {
        let (mut delivery, lease) = begun(window);
        assert_eq!(delivery.offer(&lease, data(1, in_flight)), Offer::Publish);
        if !attached {
            delivery.detach();
        }
        let retained = Retained { unsent, total, limit };
        assert_eq!(retained.room(&delivery) > 0, read, "{case:?}");
    }
}

#[test]
fn frames_are_small_enough_for_two_in_a_window() {
    // Most in one message, window, frame.
    let cases = [
        (131_072, 0, 131_072),
        (131_072, 1 << 20, 131_072),
        (131_072, 200_000, 100_000),
        (131_072, 1, 512),
        (100, 1, 100),
        (131_072, u64::MAX, 131_072),
    ];
    for (most, window, frame) in cases {
        assert_eq!(frame_limit(most, window), frame, "{most} {window}");
    }
}

#[test]
fn only_what_was_sent_to_who_is_attached_is_dropped() {
    let (mut delivery, lease) = published(5);
    assert_eq!(delivery.let_drop(2), 2);
    assert_eq!(delivery.droppable(), 5);
    delivery.detach();
    assert_eq!(delivery.let_drop(5), 2, "who comes next may need them");
    delivery.give_back(lease);
    let _second = pump(delivery.attach(attach(2, 3, 0)));
    assert_eq!(delivery.let_drop(u64::MAX), 3, "4 and 5 are to be sent again");
    assert!(matches!(
        delivery.attach(attach(3, 2, 0)),
        Attached::Lost { first: 4 }
    ));
}
