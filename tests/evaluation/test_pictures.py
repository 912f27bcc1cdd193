"""What pictures show: nested families make compact grids."""

from __future__ import annotations

from benchmark.evaluation.pictures import attribute_columns
from benchmark.tasks.card import load_card


def test_nested_fine_classes_make_as_many_columns_as_a_superclass_has() -> None:
    card = load_card("cifar20-100")
    columns = attribute_columns(card)
    assert [len(values) for values in columns] == [5] * 20
    fish = columns[card.task.label.values.index("fish")]
    assert [card.task.attribute.values[a] for a in fish] == ["aquarium fish", "flatfish", "ray", "shark", "trout"]


def test_attributes_that_classes_share_make_one_column_each() -> None:
    assert attribute_columns(load_card("colorized-digits")) == [list(range(10))] * 10
    # Two families of two, each shared by two classes, are not nested.
    assert attribute_columns(load_card("spuco-animals")) == [list(range(4))] * 4
