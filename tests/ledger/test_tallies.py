from ledger.metrics import count, tallies


def test_a_tally_counts_by_label_and_only_what_was_committed(sessions):
    for label in ("a", "b", "a"):
        with sessions.begin() as session:
            count(session, "things", label)
    session = sessions()
    count(session, "things", "b")
    session.rollback()
    session.close()
    with sessions() as session:
        assert tallies(session, "things") == {"a": 2, "b": 1}
        assert tallies(session, "others") == {}
