"""Flags, as commands have them."""

from typing import Literal, get_args, get_origin

from qwen35cli.cli.options import Kernels
from qwen35cli.kernels import Backend


def test_the_kernels_are_those_there_are():
    named = next(each for each in get_args(get_args(Kernels)[0]) if get_origin(each) is Literal)
    assert {*get_args(named)} == {*get_args(Backend)}
