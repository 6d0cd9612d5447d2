"""How many steps probes and traces take where ranks exchange every k steps alone."""

from worldsize.train.probe import whole_periods


def test_steps_fill_periods() -> None:
    assert [whole_periods(steps, 4) for steps in (0, 1, 4, 5, 10)] == [0, 4, 4, 8, 12]
    assert whole_periods(7, 1) == 7
