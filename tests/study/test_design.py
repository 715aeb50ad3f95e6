"""The drawn design: every promise of its docstring, counted."""

from collections import Counter
from itertools import combinations

import pytest

from e2ed2.study.design import design_study
from e2ed2.study.votes import CRITERIA


def test_the_papers_study_counts():
    design = design_study(300, 2, 10, seed=0)
    for blocks in design.raters:
        assert sorted(block.criterion for block in blocks) == sorted(CRITERIA)
        for block in blocks:
            kinds = Counter(design.pairs[screen.pair].kind for screen in block.screens)
            assert kinds == {"practice": 30, "main": 270, "check": 15, "repeat": 15}
            assert len({screen.pair for screen in block.screens}) == len(block.screens)
            assert [design.pairs[s.pair].kind for s in block.screens[:30]] == ["practice"] * 30


def test_the_seed_fixes_all_and_another_changes_it():
    assert design_study(20, 3, 7, seed=4) == design_study(20, 3, 7, seed=4)
    assert design_study(20, 3, 7, seed=4) != design_study(20, 3, 7, seed=5)


def test_criteria_come_in_each_order_equally_often():
    design = design_study(10, 2, 12, seed=1)
    orders = Counter(tuple(block.criterion for block in blocks) for blocks in design.raters)
    assert len(orders) == 6 and set(orders.values()) == {2}


def test_half_of_a_block_is_mirrored_and_no_two_raters_see_the_same_order():
    design = design_study(40, 2, 6, seed=2)
    for blocks in design.raters:
        for block in blocks:
            plain = [s for s in block.screens if design.pairs[s.pair].kind == "main"]
            assert len(plain) == 36 and sum(s.is_mirrored for s in plain) == 18
    orders = [tuple(s.pair for block in blocks for s in block.screens) for blocks in design.raters]
    assert len(set(orders)) == 6


def test_repeats_come_later_and_mirrored():
    design = design_study(60, 2, 5, seed=3)
    for blocks in design.raters:
        for block in blocks:
            place = {screen.pair: i for i, screen in enumerate(block.screens)}
            side = {screen.pair: screen.is_mirrored for screen in block.screens}
            repeats = [design.pairs[s.pair] for s in block.screens if design.pairs[s.pair].kind == "repeat"]
            assert len(repeats) == 3
            for pair in repeats:
                assert place[pair.id] - place[pair.repeat_of] >= len(block.screens) // 5
                assert side[pair.id] != side[pair.repeat_of]
                assert design.pairs[pair.repeat_of].kind == "main"


@pytest.mark.parametrize("num_models", [3, 4])
def test_more_models_each_prompt_once_and_all_pairs_of_models_equally_often(num_models):
    versus = list(combinations(range(num_models), 2))
    design = design_study(48, num_models, len(versus), seed=6)
    by_prompt: Counter[tuple[int, tuple[int, int]]] = Counter()
    for blocks in design.raters:
        seen = [design.pairs[s.pair] for s in blocks[0].screens if design.pairs[s.pair].kind in ("main", "practice")]
        assert sorted(pair.prompt for pair in seen) == list(range(48))
        counts = Counter(pair.models for pair in seen)
        assert set(counts) == set(versus) and set(counts.values()) == {48 // len(versus)}
        by_prompt.update((pair.prompt, pair.models) for pair in seen)
    assert set(by_prompt.values()) == {1} and len(by_prompt) == 48 * len(versus)


def test_an_uneven_study_is_even_for_each_rater_and_each_prompt_alone():
    design = design_study(23, 4, 3, seed=0)
    plain = [[design.pairs[s.pair] for s in blocks[0].screens] for blocks in design.raters]
    plain = [[pair for pair in seen if pair.kind == "main"] for seen in plain]
    for seen in plain:
        counts = Counter(pair.models for pair in seen)
        assert len(counts) == 6 and max(counts.values()) - min(counts.values()) == 1
    assert max(Counter((pair.prompt, pair.models) for seen in plain for pair in seen).values()) == 1
    total = Counter(pair.models for seen in plain for pair in seen).values()
    assert (min(total), max(total)) == (9, 12)


def test_the_smallest_study():
    design = design_study(4, 2, 1, seed=0)
    kinds = Counter(design.pairs[s.pair].kind for s in design.raters[0][0].screens)
    assert kinds == {"practice": 1, "main": 3, "check": 1, "repeat": 1}
