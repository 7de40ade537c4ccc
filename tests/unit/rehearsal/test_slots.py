# SPDX-License-Identifier: Apache-2.0
"""A request gets the slot that already holds most of its text."""

from __future__ import annotations

from specbuild.rehearsal.slots import Slots, common


def test_the_longest_common_prefix_decides() -> None:
    slots = Slots(3, reuse=True)
    texts = ([1, 2, 3, 4], [1, 2, 9], [5])
    taken = [slots.take(text)[0] for text in texts]
    for slot, text in zip(taken, texts, strict=True):
        slots.give_back(slot, text)
    assert slots.take([1, 2, 9, 9]) == (taken[1], 3)
    assert slots.take([1, 2, 3, 4, 5]) == (taken[0], 4)


def test_the_last_token_is_always_computed() -> None:
    slots = Slots(1, reuse=True)
    slot, _ = slots.take([1, 2, 3])
    slots.give_back(slot, [1, 2, 3])
    assert slots.take([1, 2, 3]) == (slot, 2)


def test_an_unknown_text_takes_an_empty_slot_before_it_overwrites_one() -> None:
    slots = Slots(2, reuse=True)
    used, _ = slots.take([1, 2])
    slots.give_back(used, [1, 2])
    other, known = slots.take([7, 8])
    assert (other != used, known) == (True, 0)


def test_of_full_slots_the_longest_unused_is_overwritten() -> None:
    slots = Slots(2, reuse=True)
    first, _ = slots.take([1])
    second, _ = slots.take([2])
    slots.give_back(second, [2])
    slots.give_back(first, [1])
    assert slots.take([3])[0] == second


def test_without_reuse_nothing_is_known() -> None:
    slots = Slots(1, reuse=False)
    slot, _ = slots.take([1, 2, 3])
    slots.give_back(slot, [1, 2, 3])
    assert slots.take([1, 2, 3]) == (slot, 0)


def test_taken_slots_are_not_given_away() -> None:
    slots = Slots(1, reuse=True)
    assert slots.free
    slots.take([1])
    assert not slots.free


def test_common_is_the_length_of_the_common_prefix() -> None:
    assert common([1, 2, 3], [1, 2, 4]) == 2
    assert common([], [1]) == 0
    assert common([1, 2], [1, 2, 3]) == 2
