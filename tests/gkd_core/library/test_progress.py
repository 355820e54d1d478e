"""The line on stderr: rewritten on a terminal, now and then a new one in a file."""

import io

from gkd_core.events import Evaluation, Progress, Warning
from gkd_core.library.progress import ProgressLine, worded

HALF = Progress(
    run="student", epoch=1, epochs=3, step=5, steps=12, fraction=0.25, losses={"a": 1.5, "b": 0.25}
)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_it_says_where_a_run_stands() -> None:
    assert worded(HALF.model_copy(update={"seconds_left": 75.0})) == (
        " 25% student, epoch 2 of 3, loss 1.750, 1 min 15 s left"
    )
    assert worded(HALF.model_copy(update={"seconds_left": 7500.0})).endswith("2 h 5 min left")


def test_a_terminal_has_one_line_that_is_rewritten() -> None:
    terminal = Terminal()
    line = ProgressLine(terminal)
    line.show(HALF)
    line.show(HALF.model_copy(update={"fraction": 0.5, "losses": {}}))
    line.end()
    assert terminal.getvalue().count("\n") == 1
    last = terminal.getvalue().split("\r")[-1]
    assert last.startswith(" 50% student, epoch 2 of 3 ")
    assert len(last.rstrip("\n")) == len(worded(HALF))  # nothing of the longer line is left


def test_a_file_has_a_line_now_and_then() -> None:
    file = io.StringIO()
    line = ProgressLine(file)
    for _ in range(100):
        line.show(HALF)
    line.end()
    assert file.getvalue() == worded(HALF) + "\n"


def test_what_stays_has_a_line_of_its_own() -> None:
    terminal = Terminal()
    line = ProgressLine(terminal)
    line.show(HALF)
    line.show(Evaluation(run="student", epoch=2, metrics={"AP": 0.5}, per_class={}, seconds=1.0))
    line.show(Warning(message="odd", hint=""))
    assert terminal.getvalue().endswith("\rstudent, epoch 2: AP 0.500\nwarning: odd\n")
