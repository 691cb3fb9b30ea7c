"""`diffmix doctor` on a cluster."""

from diffmix.config import Config
from engine.nodes.node_check import NodeFacts, check_nodes, differences
from jobs.doctor import print_nodes


def node(name: str, **values) -> NodeFacts:
    given = {"versions": {"torch": "2.10"}, "cpus": 4.0, "gpus": 1.0, "devices": ("H100",)}
    given |= {"free_gb": 100.0, "sees_out": True}
    return NodeFacts(name=name, **given | values)


def test_every_node_of_a_cluster_answers(cluster, tmp_path):
    found = check_nodes(Config(out=str(tmp_path)))
    assert found
    for one in found:
        assert one.error == ""
        assert one.versions["torch"]
        assert one.sees_out
        assert one.free_gb > 0
    assert sum(one.gpus for one in found) > 0
    assert [one.sees_out for one in check_nodes(Config(out=str(tmp_path / "no")))] == [False] * len(
        found
    )


def test_only_versions_that_differ_are_named():
    same = {"ray": "2.60", "xformers": None}
    first = node("a", versions={**same, "torch": "2.10"})
    second = node("b", versions={**same, "torch": "2.9"})
    silent = node("c", versions={}, error="gone")
    assert differences([first, second, silent]) == {"torch": ["2.10", "2.9"]}
    assert differences([first, first]) == {}


def test_the_table_has_a_row_for_each_node_and_says_what_is_wrong(capsys):
    good = [node("10.0.0.1 (train)"), node("10.0.0.2", gpus=0.0, devices=())]
    assert print_nodes(good) == 0
    text = capsys.readouterr().out
    assert "10.0.0.1 (train)" in text
    assert "all nodes have the same versions: torch 2.10" in text
    bad = [*good, node("10.0.0.3", sees_out=False), node("10.0.0.4", error="gone")]
    bad.append(node("10.0.0.5", versions={"torch": "2.9"}))
    assert print_nodes(bad) == 1
    words = " ".join(capsys.readouterr().out.split())
    assert "torch differs" in words
    assert "10.0.0.3 does not see the run folder" in words
    assert "10.0.0.4 did not answer (gone)" in words
    assert print_nodes([node("a", versions={}, error="gone")]) == 1
    assert "same versions" not in capsys.readouterr().out
    assert print_nodes([*good, node("c", versions={}, error="gone")]) == 1
    assert "the nodes that answered have the same versions" in capsys.readouterr().out
