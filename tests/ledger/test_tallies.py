from ledger.metrics import increment_tally, read_tallies


def test_a_tally_counts_by_label_and_only_what_was_committed(sessions):
    for label in ("a", "b", "a"):
        with sessions.begin() as session:
            increment_tally(session, "things", label)
    session = sessions()
    increment_tally(session, "things", "b")
    session.rollback()
    session.close()
    with sessions() as session:
        assert read_tallies(session, "things") == {"a": 2, "b": 1}
        assert read_tallies(session, "others") == {}
