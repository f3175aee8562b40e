"""What the watch says of processes in which nothing moves."""

import sys

from topoface.training.watch import Whereabouts, verdict, whereabouts


def test_hanging_silent_and_waiting_ranks_are_told_apart_and_few_waiting_are_listed() -> None:
    seen = {
        rank: Whereabouts(step=7, place="training/update.py:9 (f)", collective="all_reduce")
        for rank in range(8)
    }
    seen[2] = Whereabouts(step=6, place="mine/method.py:3 (penalties)", collective="")
    seen[5] = Whereabouts(step=6, place="data/loader.py:4 (batches)", collective="")
    said = verdict(seen, {5}).split("; ")
    assert said == [
        "rank 5 does not answer, last seen in step 6 at data/loader.py:4 (batches)",
        "rank 2 hangs in step 6 at mine/method.py:3 (penalties)",
        *(f"rank {rank} waits in all_reduce of step 7 at training/update.py:9 (f)" for rank in (0, 1, 3, 4)),
        "2 more wait",
    ]


def test_the_place_is_the_innermost_line_outside_of_torch_and_the_library() -> None:
    found = whereabouts(sys._getframe())
    assert found["collective"] == ""
    assert found["place"].startswith("training/test_watch.py:")
    inside: list[dict[str, str]] = []
    sorted([1], key=lambda _: inside.append(whereabouts(sys._getframe())) or 0)
    assert "test_watch.py" in inside[0]["place"]
    assert whereabouts(None) == {"collective": "", "place": "an unknown place"}
