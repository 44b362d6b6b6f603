import re

from hypothesis import given
from hypothesis import strategies as st

from ledger.events.timeline import TEXTS
from ledger.states import MOVES, TERMINAL, JobState, RequestState, fold


def test_every_state_of_the_design_can_be_reached_and_left_or_is_the_end():
    for noun, states in (("job", JobState), ("target", RequestState)):
        reached = {to for destinations in MOVES[noun].values() for to in destinations}
        first = {"job": "queued", "target": "received"}[noun]
        assert reached | {first} == set(states)
        assert {state for state in states if state not in MOVES[noun]} <= TERMINAL


def test_what_is_published_or_cancelled_stays_so():
    for moves in MOVES.values():
        assert not {"completed", "cancelled", "rejected"} & set(moves)


def test_every_move_has_its_sentence_on_the_timeline():
    for noun, moves in MOVES.items():
        for destinations in moves.values():
            assert {f"{noun}.{state}" for state in destinations} <= set(TEXTS)


def test_no_sentence_holds_a_stray_brace():
    for sentence in TEXTS.values():
        assert re.sub(r"\{\w+\}", "", sentence).isprintable()
        assert not set("{}") & set(re.sub(r"\{\w+\}", "", sentence))


def test_a_request_is_where_its_least_advanced_open_target_is_then_where_the_worst_ended():
    r = RequestState
    assert fold([r.VERIFYING, r.SCHEDULED, r.COMPLETED]) == r.SCHEDULED
    assert fold([r.COMPLETED, r.RUNNING]) == r.RUNNING
    assert fold([r.COMPLETED, r.FAILED]) == r.FAILED
    assert fold([r.COMPLETED, r.CANCELLED]) == r.CANCELLED
    assert fold([r.REJECTED, r.COMPLETED]) == r.COMPLETED
    assert fold([r.REJECTED]) == r.REJECTED


@given(st.lists(st.sampled_from(sorted(MOVES["target"])), min_size=1, max_size=4), st.data())
def test_whatever_moves_its_targets_make_a_request_can_follow(states, data):
    states = [RequestState(state) for state in states]
    if RequestState.RECEIVED in states:
        return  # all targets of a request leave `received` in one transaction
    before = fold(states)
    index = data.draw(st.integers(0, len(states) - 1))
    states[index] = RequestState(data.draw(st.sampled_from(sorted(MOVES["target"][states[index]]))))
    after = fold(states)
    assert after == before or after in MOVES["request"][before]
