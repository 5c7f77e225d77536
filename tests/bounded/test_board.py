"""What one process writes on the board, another reads whole."""

import os
import signal

import pytest

from builder.bounded.board import Board


@pytest.mark.slow
def test_the_time_is_never_read_while_it_is_half_written() -> None:
    """With `struct.pack_into`, one read in a hundred found zeros, which looked like time that was up."""
    board = Board(600)
    first = board.deadline
    writer = os.fork()
    if not writer:
        while True:
            board.postpone(float("inf"))
            board.postpone(board.seconds + 1e6)
    try:
        while board.deadline == first:  # until the writer has started
            pass
        found = {(board.seconds, board.deadline > 0) for _ in range(1_000_000)}
    finally:
        os.kill(writer, signal.SIGKILL)
        os.waitpid(writer, 0)
    assert found == {(600, True)}


def test_time_that_is_added_moves_the_deadline_as_far() -> None:
    board = Board(10)
    deadline = board.deadline
    board.allow(25)
    assert (board.seconds, board.deadline) == (25, deadline + 15)
