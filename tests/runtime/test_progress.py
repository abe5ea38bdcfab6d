"""What a waiting user sees: one line that fits, and whole lines in a log."""

import fcntl
import os
import pty
import select
import struct
import termios

import pytest

from grokjax.base.names import OOD_ACCURACY, OOD_BRIDGE_FOUND, TRAINING_ACCURACY
from grokjax.base.text import Plain
from grokjax.data.composition import COMPOSITION
from grokjax.runtime import progress
from grokjax.runtime.progress import Progress, headlines
from grokjax.settings.rows import group_label


class Screen:
    """A terminal of some width: what it shows after all that was written, as a user sees it."""

    def __init__(self, columns: int):
        self.columns = columns
        self._read, self._write = pty.openpty()
        fcntl.ioctl(self._write, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self._text = ""
        self.stream = os.fdopen(self._write, "w")

    def lines(self) -> list[str]:
        self.stream.flush()
        while select.select([self._read], [], [], 0.2)[0]:
            self._text += os.read(self._read, 4096).decode()
        text = self._text
        rows, row, column = [""], 0, 0
        for letter in text:
            if letter == "\r":
                column = 0
            elif letter == "\n":
                row, rows = row + 1, [*rows, ""]
            else:
                if column == self.columns:
                    row, column, rows = row + 1, 0, [*rows, ""]
                rows[row] = rows[row][:column].ljust(column) + letter + rows[row][column + 1 :]
                column += 1
        return [line.rstrip() for line in rows]

    def close(self) -> None:
        self.stream.close()
        os.close(self._read)


@pytest.fixture(params=[40, 80, 200])
def screen(request):
    made = Screen(request.param)
    yield made
    made.close()


def rows(num, ood=0.25):
    values = {TRAINING_ACCURACY: 1.0, OOD_ACCURACY: ood, OOD_BRIDGE_FOUND: 0.5}
    return [{"run_id": i} | values for i in range(num)]


GROUPS = ["natural, weight_decay 0.3", "both_hop_full, weight_decay 0.3"]
SHOWN = COMPOSITION.headline_metrics


def test_a_terminal_has_one_line_that_fits(screen):
    shown = Progress(12, 0, 8000, Plain(screen.stream))
    shown.note("compiling the training program ...")
    assert screen.lines() == ["compiling the training program ..."]
    shown.say("data: 1,000 training items a run")
    shown.note("compiling the evaluation ...")
    for step in (100, 200, 7900):
        shown.update(step, headlines(GROUPS * 6, rows(12), SHOWN))
    shown.update(8000, headlines(["all"], rows(1), SHOWN), last=True)
    shown.say("figure: curves.png")
    lines = screen.lines()
    assert lines[0] == "data: 1,000 training items a run" and lines[2] == "figure: curves.png"
    assert lines[1].startswith("step 8,000/8,000") and len(lines) == 4
    assert max(map(len, lines)) < screen.columns and "compiling" not in "".join(lines)


def test_what_is_swept_is_named_where_there_is_room(screen):
    shown = Progress(12, 0, 8000, screen.stream)
    shown.update(4000, headlines(GROUPS, rows(2), SHOWN))
    (line,) = screen.lines()
    assert ("weight_decay 0.3: train 1.00 ood 0.25" in line) == (screen.columns == 200)
    assert ("1.00/0.25/0.50" in line) == (screen.columns == 80)


def test_a_log_has_whole_lines(tmp_path, monkeypatch):
    with open(tmp_path / "log", "w") as file:
        shown = Progress(2, 0, 20, file)
        shown.note("compiling ...")
        shown.say("data")
        shown.update(10, headlines(GROUPS, rows(2), SHOWN))
        shown.update(11)  # not yet time for another line
        shown.update(20, last=True)
    lines = (tmp_path / "log").read_text().split("\n")
    assert [line[:10] for line in lines] == ["data", "step 10/20", "step 20/20", ""]
    assert all(group in lines[1] for group in GROUPS) and "\r" not in "".join(lines)
    assert progress._LOG_EVERY > 1


def test_many_groups_are_one():
    shown = headlines([f"g{i}" for i in range(9)], rows(9), SHOWN)
    assert shown[0] == "all: train 1.00 ood 0.25 bridge 0.50" and shown[-1] == "1.00/0.25/0.50"
    assert headlines(["a"], [{OOD_ACCURACY: float("nan")}], SHOWN)[0] == "a: train - ood - bridge -"


def test_a_runs_label_is_what_is_swept_without_its_seeds():
    run = {"run_id": 3, "regime": "natural", "seeds.data": 4, "optimizer.weight_decay": 0.30}
    run |= {"optimizer.schedule": "own.py:linear@0123456789ab", "status": "running"}
    assert group_label(run) == "natural, weight_decay 0.3, schedule own.py:linear"
