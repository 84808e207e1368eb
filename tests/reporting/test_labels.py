from itertools import combinations, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upcycle.reporting.labels import Box, apart, beside, folded, nearest, width

PLACES = st.lists(st.floats(0, 1, allow_subnormal=False), max_size=14)


@given(PLACES)
def test_names_in_a_column_stand_apart_and_keep_their_order(places: list[float]) -> None:
    moved = apart(places, 0.05, 0.0, 1.0)
    order = sorted(range(len(places)), key=lambda at: places[at])
    assert all(moved[above] - moved[below] >= 0.05 - 1e-9 for below, above in pairwise(order))
    assert all(-1e-9 <= place <= 1 + 1e-9 for place in moved)


def test_names_that_are_apart_stay_where_they_are() -> None:
    assert [0.1, 0.9, 0.5] == pytest.approx(apart([0.1, 0.9, 0.5], 0.2, 0.0, 1.0))


def test_names_that_collide_move_alike_to_both_sides() -> None:
    assert [0.4, 0.6] == pytest.approx(apart([0.5, 0.5], 0.2, 0.0, 1.0))


def test_more_names_than_there_is_room_for_share_the_room() -> None:
    assert [0.0, 0.5, 1.0] == pytest.approx(apart([0.4, 0.5, 0.5], 0.7, 0.0, 1.0))


def test_nothing_to_place_is_nothing_placed() -> None:
    assert ([], []) == (apart([], 0.1, 0.0, 1.0), beside([], [], [], Box(0, 0, 1, 1)))


def test_labels_beside_points_cover_neither_points_nor_each_other() -> None:
    points = [(2.0, 2.0), (2.1, 2.05), (2.2, 1.95), (2.3, 2.0), (2.4, 2.02)]
    dots = [Box(x - 0.05, y - 0.05, x + 0.05, y + 0.05) for x, y in points]
    boxes = beside(points, [(0.8, 0.15)] * 5, dots, Box(0, 0, 5, 4))
    assert [] == [pair for pair in combinations(boxes, 2) if pair[0].overlap(pair[1]) > 1e-9]
    assert [] == [box for box in boxes for dot in dots if box.overlap(dot) > 1e-9]


def test_a_label_stays_inside_the_frame() -> None:
    (box,) = beside([(4.9, 0.1)], [(1.0, 0.2)], [], Box(0, 0, 5, 4))
    assert box.left >= 0
    assert box.right <= 5
    assert box.bottom >= 0


def test_a_label_stands_right_of_its_point_where_there_is_room() -> None:
    (box,) = beside([(1.0, 1.0)], [(0.5, 0.2)], [], Box(0, 0, 5, 4))
    assert (1.12, 0.9, 1.62, 1.1) == pytest.approx((box.left, box.bottom, box.right, box.top))


def test_the_nearest_point_of_a_box_lies_on_its_edge_or_is_the_point_itself() -> None:
    box = Box(1, 1, 2, 2)
    assert [(1, 1.5), (2, 2), (1.5, 1.2)] == [nearest(box, point) for point in ((0, 1.5), (3, 3), (1.5, 1.2))]


def test_a_long_name_is_folded_at_its_words() -> None:
    assert "Constant rate,\ntuned" == folded("Constant rate, tuned", 15)


def test_a_name_without_words_is_broken_anywhere_and_cut_in_its_middle() -> None:
    assert "xxxxxxxxxx\nxxx…xxxxxx" == folded("x" * 300, 10)


def test_letters_of_double_width_count_twice() -> None:
    assert 2 * width("abc", 9) == width("猫猫猫", 9)
    assert all(width(line, 9) <= width("x" * 10, 9) for line in folded("猫" * 40, 10).split("\n"))


@given(st.text(max_size=200), st.integers(6, 30), st.integers(1, 3))
def test_a_folded_name_has_no_more_lines_and_letters_than_asked_for(text: str, letters: int, lines: int) -> None:
    found = folded(text, letters, lines).split("\n")
    assert len(found) <= lines
    assert all(len(line) <= letters for line in found)
