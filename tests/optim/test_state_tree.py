"""State trees hold what optimizers keep, in dtype, value and order in memory."""

import pytest
import torch
from toy import assert_equal_trees, saved

from minigpt.optim.state_tree import bytes_of, from_tree, to_tree

CPU = torch.device("cpu")


def test_everything_plain_comes_back():
    state = {"a": [torch.ones(2), None, {"b": 1, "c": [True, "x", 2.5]}], "step": torch.tensor(3.0)}
    assert_equal_trees(from_tree(saved(to_tree(state)), CPU), state)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(12.0).view(3, 4),
        torch.arange(12.0).view(3, 4).T,
        torch.arange(24.0).view(2, 3, 4).permute(2, 0, 1),
        torch.arange(24.0).view(2, 3, 4).transpose(0, 1),
        torch.tensor(1.0),
        torch.arange(5),
        torch.ones(1, 4),
        torch.empty(0, 3),
    ],
)
def test_tensors_keep_value_dtype_and_strides_through_files(tensor):
    again = from_tree(saved(to_tree([tensor])), CPU)[0]
    assert torch.equal(again, tensor)
    assert (again.dtype, again.stride()) == (tensor.dtype, tensor.stride())


def test_a_slice_is_saved_by_value():
    tensor = torch.arange(12.0).view(3, 4)[:, 1:3]
    assert torch.equal(from_tree(saved(to_tree(tensor)), CPU), tensor)


def test_trees_are_live_and_what_comes_from_them_is_not():
    tensor = torch.zeros(3)
    tree = to_tree({"a": tensor})
    tensor += 1
    assert tree["a"].sum() == 3
    copy = from_tree(tree, CPU)
    tensor += 1
    assert copy["a"].sum() == 3


@pytest.mark.parametrize("value", [{1: 2}, {"a": object()}, [print], 1j])
def test_what_a_checkpoint_cannot_hold_is_refused(value):
    with pytest.raises(TypeError, match="cannot be saved"):
        to_tree(value)


def test_bytes():
    tree = to_tree({"a": [torch.zeros(3), torch.zeros(2, 3, dtype=torch.bfloat16).T, None], "b": 1})
    assert bytes_of(tree) == 12 + 12
