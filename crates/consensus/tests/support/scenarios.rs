//! Where exploring begins: what each script has led to, and how far it goes from there.

use super::explorer::{Act, Bounds, Scenario, Script};
use synod_consensus::{Protocol, Role};

const ALL: [u8; 3] = [0, 1, 2];

fn bounds(time_outs: u32, crashes: u32, proposals: u32) -> Bounds {
    Bounds { time_outs, crashes, proposals }
}

/// All of a protocol.
pub fn of(protocol: Protocol) -> Vec<Scenario> {
    // Zab's leaders take more messages to come about, so more happens in fewer events.
    let zab = protocol == Protocol::Zab;
    let deep = |others: usize, zabs: usize| if zab { zabs } else { others };
    let mut all = Vec::new();
    let mut add = |name, bounds, depth, script: &Script| {
        all.push(Scenario { name, protocol, bounds, depth, script: script.acts.clone() });
    };
    add("nothing yet", bounds(3, 1, 0), deep(6, 5), &Script::new(protocol));
    add("a leader", bounds(2, 1, 2), deep(6, 5), &elected(protocol));
    add("two stand for one ballot", bounds(0, 1, 1), deep(9, 7), &rivals(protocol));
    add(
        "an entry in flight while another stands",
        bounds(0, 1, 0),
        deep(9, 6),
        &in_flight(protocol),
    );
    match protocol {
        Protocol::Raft => {
            add("figure 8, an old entry in flight", bounds(0, 1, 1), 9, &figure_8());
            add("a change half done", bounds(0, 1, 0), 8, &shrinking(protocol));
        }
        // A change counts a window of 1,024 slots later: out of reach.
        Protocol::Paxos => {}
        Protocol::Zab => {
            add("a change half done", bounds(0, 0, 0), 6, &shrinking(protocol));
            add("an epoch that another wants too", bounds(0, 0, 0), 9, &wanted_twice());
        }
    }
    all
}

/// The first leads, and all know.
fn elected(protocol: Protocol) -> Script {
    let mut script = Script::new(protocol);
    script.act(Act::TimeOut(0)).among(&ALL);
    script
}

/// The first and the last ask the second for its support in the same ballot.
fn rivals(protocol: Protocol) -> Script {
    let mut script = Script::new(protocol);
    script.stand(0, 1).stand(2, 1).lose(0, 2);
    script
}

/// The leader has proposed, nobody has heard it; the last asks the second for the
/// next ballot.
fn in_flight(protocol: Protocol) -> Script {
    let mut script = elected(protocol);
    script.act(Act::Propose(0)).act(Act::Crash(1)).stand(2, 1).lose(0, 2);
    script
}

/// Figure 8 (Ongaro and Ousterhout): an entry of the first leader's first term is on its
/// way again, in a later one; the last, whose entry is newer, asks for a vote.
fn figure_8() -> Script {
    let mut script = elected(Protocol::Raft);
    script.act(Act::Propose(0)).act(Act::Persist(0)).lose(0, 1).lose(0, 2);
    script.act(Act::Crash(1)).lead(2, 1).act(Act::Persist(2)).lose(2, 1).lose(2, 0);
    // The first hears of the later term, and wins the next.
    script.act(Act::TimeOut(0)).among(&[0, 1]).lead(0, 1).act(Act::Persist(0));
    probed(&mut script);
    // So does the last: of that.
    script.act(Act::Lose(0, 2)).act(Act::TimeOut(2)).deliver(2, 1).deliver(1, 2);
    script.act(Act::Crash(1)).stand(2, 1).lose(0, 2);
    script
}

/// The leader's first append meets a log that is behind, and it goes back.
fn probed(script: &mut Script) {
    script.deliver(0, 1).deliver(1, 0);
}

/// The leader is to be the only member, nobody has heard it; the last stands.
fn shrinking(protocol: Protocol) -> Script {
    let mut script = elected(protocol);
    script.act(Act::Shrink(0)).lose(0, 1).lose(0, 2).act(Act::Crash(1));
    match protocol {
        Protocol::Zab => script.nearly_lead(2, 1, 5),
        _ => script.stand(2, 1),
    };
    script
}

/// The first leads an epoch with the second, which has crashed since; the last asks for
/// the same one.
fn wanted_twice() -> Script {
    let mut script = rivals(Protocol::Zab);
    script.until(&[0, 1], 0, Role::Leader).lose(0, 1).act(Act::Crash(1));
    script
}
