"""The graph: order, cycles, the critical path, and a drawing."""

from __future__ import annotations

import inspect
import sys

import pytest

from stageflow import Pipeline, StageGraph, StageKind
from tests.utils.factories import chain, layered, make_spec, wide


def graph_of(**edges: str) -> StageGraph:
    """A graph given as ``b="a"``: b depends on a; several names are separated by spaces."""
    return StageGraph([make_spec(name, *before.split()) for name, before in edges.items()])


DIAMOND = {"end": "left right", "left": "start", "right": "start", "start": ""}


def test_the_order_has_each_stage_after_all_that_it_waits_for() -> None:
    """For any order of the specs."""
    order = graph_of(**DIAMOND).topological_order()
    assert order[0] == "start"
    assert order[-1] == "end"
    assert sorted(order) == sorted(DIAMOND)


def test_stages_that_are_ready_together_keep_the_order_of_their_specs() -> None:
    """The order is one and the same on every machine."""
    assert graph_of(c="", a="", b="").topological_order() == ("c", "a", "b")


def test_numbers_lead_both_ways_along_a_dependency() -> None:
    """Predecessors and successors mirror each other."""
    graph = graph_of(**DIAMOND)
    assert graph.predecessors == ((1, 2), (3,), (3,), ())
    assert graph.successors == ((), (0,), (0,), (1, 2))
    assert graph.in_degrees == (2, 1, 1, 0)
    assert graph.order == (3, 1, 2, 0)


def test_a_graph_knows_its_stages_by_name() -> None:
    """Look-up, membership and length speak of stages."""
    graph = graph_of(**DIAMOND)
    assert graph["left"].name == "left"
    assert ("left" in graph, "centre" in graph, len(graph)) == (True, False, 4)
    with pytest.raises(KeyError):
        graph["centre"]
    assert repr(graph) == "StageGraph('graph', 4 stages, 4 dependencies)"


def test_a_dependency_that_is_not_there_is_left_out() -> None:
    """An open set of specs has a graph of what is known."""
    graph = graph_of(a="elsewhere", b="a")
    assert graph.topological_order() == ("a", "b")
    assert graph.in_degrees == (0, 1)


@pytest.mark.parametrize(
    ("edges", "cycles"),
    [
        ({"a": "", "b": "a"}, [set()]),
        ({"a": "a"}, [{("a", "a")}]),
        ({"a": "b", "b": "a"}, [{("a", "b", "a")}, {("b", "a", "b")}]),
        # The stages before and behind a component do not belong to it.
        (
            {"before": "", "a": "b before", "b": "a", "behind": "b"},
            [{("a", "b", "a")}, {("b", "a", "b")}],
        ),
        # Two components, each reported once.
        ({"a": "a", "b": "b"}, [{("a", "a"), ("b", "b")}]),
    ],
)
def test_each_knot_is_reported_as_one_cycle(
    edges: dict[str, str], cycles: list[set[tuple[str, ...]]]
) -> None:
    """The path runs in the direction of the data and closes on itself."""
    graph = graph_of(**edges)
    assert set(graph.cycles()) in cycles
    assert graph.has_cycles() is bool(cycles[0])


def test_a_long_cycle_is_named_in_the_direction_of_the_data() -> None:
    """Where a feeds b, b feeds c and c feeds a, that is the order of the path."""
    (path,) = graph_of(a="c", b="a", c="b").cycles()
    assert path in {("a", "b", "c", "a"), ("b", "c", "a", "b"), ("c", "a", "b", "c")}


def test_a_stage_that_only_leads_into_a_cycle_does_not_belong_to_it() -> None:
    """Though it is of the same component: each step of the path is a dependency."""
    (path,) = graph_of(a="b", b="c", c="b d", d="a").cycles()
    assert path in {("b", "c", "b"), ("c", "b", "c")}


def test_the_critical_path_is_the_heaviest_chain() -> None:
    """Weights decide, and a stage without weight is free."""
    graph = graph_of(**DIAMOND)
    by_left = graph.critical_path({"start": 1.0, "left": 5.0, "right": 2.0, "end": 1.0})
    by_right = graph.critical_path({"left": 1.0, "right": 2.0, "end": 1.0})
    assert by_left == (("start", "left", "end"), 7.0)
    assert by_right == (("start", "right", "end"), 3.0)


def test_without_weights_the_critical_path_is_the_longest() -> None:
    """Each stage weighs one."""
    graph = graph_of(a="", b="a", c="b", lone="")
    assert graph.critical_path() == (("a", "b", "c"), 3.0)


def test_a_free_stage_still_names_what_it_waits_for() -> None:
    """Where nothing weighs anything, a path is a path of the graph all the same."""
    graph = graph_of(a="", b="a")
    path = graph.critical_path({})
    assert path.length == 0.0
    assert path.stages in {("a",), ("a", "b")}


def test_a_graph_without_stages_is_empty_in_every_respect() -> None:
    """Nothing to order, nothing to draw, no path."""
    graph = StageGraph([])
    assert (len(graph), graph.topological_order(), graph.cycles()) == (0, (), ())
    assert graph.critical_path() == ((), 0.0)
    assert graph.to_mermaid() == "flowchart LR\n"


def test_the_drawing_has_a_node_a_stage_and_an_arrow_a_dependency() -> None:
    """Optional stages are marked; the text is Mermaid's."""
    graph = StageGraph(
        [
            make_spec("start", kind=StageKind.GUARD),
            make_spec("left", "start", required=False),
            make_spec("right", "start", required=False),
        ]
    )
    assert graph.to_mermaid().splitlines() == [
        "flowchart LR",
        '    s0["start<br/><small>guard</small>"]',
        '    s1["left<br/><small>transform</small>"]',
        '    s2["right<br/><small>transform</small>"]',
        "    s0 --> s1",
        "    s0 --> s2",
        "    classDef optional stroke-dasharray: 5 5",
        "    class s1,s2 optional",
    ]


def test_a_drawing_of_required_stages_has_no_styles() -> None:
    """Nothing is declared that nothing uses."""
    assert "class" not in graph_of(a="", b="a").to_mermaid()
    assert Pipeline("p", [make_spec("a")]).draw() == StageGraph([make_spec("a")]).to_mermaid()


@pytest.mark.slow
@pytest.mark.untraced
def test_a_chain_of_a_hundred_thousand_stages_builds_without_recursion() -> None:
    """Depth costs no stack: a limit far below the length of the chain is enough."""
    length = 100_000
    pipeline = chain(length)
    frames = len(inspect.stack())
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(frames + 60)
    try:
        graph = pipeline.build()
        path = graph.critical_path()
    finally:
        sys.setrecursionlimit(limit)
    assert path.length == length
    assert graph.topological_order() == tuple(f"s{n}" for n in range(length))


@pytest.mark.slow
@pytest.mark.untraced
def test_a_hundred_thousand_stages_side_by_side_build() -> None:
    """Width costs no more than the dependencies that it has."""
    graph = wide(100_000).build()
    assert graph.topological_order()[0] == "source"
    assert graph.topological_order()[-1] == "sink"
    assert graph.critical_path().length == 3.0


def test_dense_layers_keep_their_order() -> None:
    """Every stage of a layer stands behind every one of the layer before."""
    order = layered(5, 20).build().topological_order()
    assert [name.partition("n")[0] for name in order] == [
        f"l{k}" for k in range(5) for _ in range(20)
    ]


def test_a_knot_behind_another_is_reported_too() -> None:
    """Whichever of them is met first, and though one feeds the other."""
    for edges in (
        {"a": "b", "b": "a", "c": "b d", "d": "c"},
        {"c": "b d", "d": "c", "a": "b", "b": "a"},
    ):
        assert sorted("".join(sorted(set(path))) for path in graph_of(**edges).cycles()) == [
            "ab",
            "cd",
        ]
