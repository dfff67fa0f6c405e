import json

from tests import launch
from tests.photos import locate


def test_the_joint_problem_and_the_paper_stand_beside_the_closed_forms():
    options = ("--samples", "300", "--selection-samples", "50")
    ended = launch.fcs("bench", "bounds", locate("coffee.png"), *options)
    assert ended.returncode == 0, ended.stderr
    summary = json.loads(ended.stdout.splitlines()[-1])
    assert [row["shift"] for row in summary["rows"]] == [0.25, 0.5, 1.0, 2.0]
    for row in summary["rows"]:
        assert row["paper"] < row["bound"] or row["bound"] == -1
        assert row["closed_forms"] <= row["bound"]
    assert summary["rows"][1]["bound"] > 0.9
