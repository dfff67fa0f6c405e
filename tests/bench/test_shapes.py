import json

from tests import launch
from tests.models import tiny_folders


def test_prints_a_table_and_one_json_line(tmp_path):
    tiny_folders.write("vit", tmp_path)
    ended = launch.fcs("bench", "shapes", "--model", tmp_path, "--repeats", "3")
    assert ended.returncode == 0, ended.stderr
    summary = json.loads(ended.stdout.splitlines()[-1])
    assert summary["best"] in summary["rows"]
    assert {row["dtype"] for row in summary["rows"]} == {"float32", "bfloat16"}
    assert all(0 < row["encode_ms"] < row["sample_ms"] for row in summary["rows"])
