"""The QGIS plugin's runner, against children that do all that a child can do wrong."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from geoseg_qgis import runner
from geoseg_qgis.runner import Engine, EngineCanceled, EngineError, EngineMissing
from hypothesis import given, settings
from hypothesis import strategies as st

ROOT = Path(__file__).parents[1]
SCENE = ROOT / "tests" / "data" / "banepa_center.tif"
REAL = Engine((sys.executable, "-m", "geoseg"))
RESULT = 'print("{\\"event\\": \\"result\\", \\"n\\": 1}", flush=True)\n'
posix = pytest.mark.skipif(os.name == "nt", reason="signals and process groups")


def child(code: str) -> Engine:
    """An engine that runs `code`; `tell(**event)` writes an event."""
    start = "import json, os, signal, subprocess, sys, time\n"
    tell = "def tell(**event): print(json.dumps(event), flush=True)\n"
    return Engine((sys.executable, "-S", "-c", start + tell + code))


def gone(pid: int, seconds: float = 5) -> bool:
    """No such process, or a zombie that nobody collects, so long from now at most."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    return False


def test_events_as_they_come_and_the_result() -> None:
    seen: list[dict] = []
    engine = child("tell(event='info', a='ä'); tell(event='result', argv=sys.argv[1:])")
    result = engine.run(["predict", "a b"], on_event=seen.append)
    assert result == {"event": "result", "argv": ["predict", "a b", "--json"]}
    assert seen == [{"event": "info", "a": "ä"}, result]


def test_signs_of_life_are_handed_on_and_are_no_result(tmp_path: Path) -> None:
    seen: list[dict] = []
    arguments = ["vectorize", str(SCENE), "-o", str(tmp_path / "no.xyz")]
    with pytest.raises(EngineError, match="xyz"):
        REAL.run(arguments, on_event=seen.append)
    assert seen[0] == {"event": "alive"}
    with pytest.raises(EngineError, match="code 0 and no result"):
        child("tell(event='alive')").run(["predict"])


def test_a_report_is_a_result_though_it_tells_of_trouble() -> None:
    assert child("tell(trouble=['x']); sys.exit(1)").run(["doctor"]) == {"trouble": ["x"]}
    with pytest.raises(EngineError, match="ended with code 1"):
        child("tell(event='result'); sys.exit(1)").run(["predict"])


def test_a_run_of_which_parts_failed_has_a_result() -> None:
    code = "tell(event='result', done=2, failed=1); sys.exit(3)"
    assert child(code).run(["batch"])["failed"] == 1
    with pytest.raises(EngineError, match="code 3 and no result"):
        child("tell(done=2); sys.exit(3)").run(["batch"])  # no report ends so


def test_a_wrong_option_speaks_of_versions() -> None:
    with pytest.raises(EngineError) as e:
        REAL.run(["info", str(SCENE), "--foo"])
    quoted, advice = str(e.value).splitlines()
    assert re.search(r"No such option.*--foo", quoted)
    assert advice == runner.update()
    with pytest.raises(EngineError, match=r"(?s)code 2 and no result.*Repair the engine"):
        child("sys.stderr.write('no usage'); sys.exit(2)").run([])


def test_an_error_event_is_the_message_and_the_engine_may_clean_up(tmp_path: Path) -> None:
    mark = tmp_path / "cleaned"
    code = (
        f"tell(event='error', message='no CRS: set one'); time.sleep(.3); open({str(mark)!r}, 'w')"
    )
    with pytest.raises(EngineError, match="^no CRS: set one$"):
        child(code).run(["predict"])
    assert mark.exists()


def test_what_a_light_engine_lacks_is_told_with_the_remedy_in_qgis() -> None:
    code = "tell(event='error', kind='NeedsTorchError', message='training needs torch')"
    with pytest.raises(EngineError, match=r"(?s)^training needs torch\n.*repair the engine"):
        child(code).run(["train"])


@pytest.mark.parametrize("garbage", ["Hello", "[1]", "null", "[" * 5000, '{"event"', "\\xff\\x00"])
def test_garbage(garbage: str) -> None:
    code = f"sys.stdout.buffer.write({garbage!r}.encode() + b'\\n')\n"
    with pytest.raises(EngineError, match=r"(?s)no event.*Repair the engine"):
        child(code + "sys.stdout.flush(); time.sleep(60)").run(["predict"])


@settings(max_examples=40)
@given(st.binary(max_size=300), st.integers(0, 2))
def test_any_bytes_give_a_result_or_a_clean_error(said: bytes, code: int) -> None:
    escaped = "".join(f"\\0{byte:03o}" for byte in said)
    engine = Engine(("sh", "-c", "printf '%b' \"$0\"; exit $1", escaped, str(code)))
    with contextlib.suppress(EngineError):  # and nothing else
        assert isinstance(engine.run([]), dict)


def test_a_line_without_end_does_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "LONGEST", 1 << 16)
    with pytest.raises(EngineError, match="no event"):
        child("while True: sys.stdout.write('x' * 65536)").run([])


def test_a_crash_shows_the_end_of_stderr_and_what_to_do() -> None:
    code = "tell(event='start'); sys.stderr.write('x' * 100_000 + '\\nlast words'); os._exit(3)"
    with pytest.raises(EngineError) as e:
        child(code).run(["predict"])
    lines = str(e.value).splitlines()
    assert lines[0] == "geoseg ended with code 3 and no result."
    assert lines[-2:] == ["last words", runner.repair()]
    assert len(str(e.value)) < 3000


@posix
def test_a_killed_engine_speaks_of_memory() -> None:
    with pytest.raises(EngineError, match="out of memory"):
        child("os.kill(os.getpid(), signal.SIGKILL)").run(["predict"])


def test_no_result_is_an_error() -> None:
    with pytest.raises(EngineError, match="code 0 and no result"):
        child("").run(["predict"])


@pytest.mark.parametrize("command", ["/nowhere/geoseg", str(SCENE)], ids=["missing", "no program"])
def test_an_executable_that_is_missing(command: str) -> None:
    with pytest.raises(EngineMissing, match="Set up the engine"):
        Engine((command,)).run(["doctor"])


IGNORANT = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
GRANDCHILD = (
    "g = subprocess.Popen([sys.executable, '-S', '-c', 'import signal, time\\n"
    "signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(60)'], "
    "stdout=subprocess.PIPE{more})\ng.stdout.readline()\n"
)
BEHAVIOUR = {
    "well-behaved": "tell(pids=[os.getpid()]); time.sleep(60)",
    "ignores SIGTERM": IGNORANT + "tell(pids=[os.getpid()]); time.sleep(60)",
    "grandchild": GRANDCHILD.format(more="") + "tell(pids=[os.getpid(), g.pid]); time.sleep(60)",
    "closed stdout": "tell(pids=[os.getpid()]); os.close(1); time.sleep(60)",
    "floods": "tell(pids=[os.getpid()])\nwhile True: print('{}')",
}


@posix
@pytest.mark.parametrize("behaviour", BEHAVIOUR)
def test_cancel_within_a_second(behaviour: str) -> None:
    pids: list[int] = []
    since = 0.0

    def listen(event: dict) -> None:
        nonlocal since
        if not pids:
            pids.extend(event["pids"])
            since = time.monotonic()

    # A moment later, so that the child has come to what it does next.
    wish: Callable[[], bool] = lambda: bool(pids) and time.monotonic() > since + 0.2  # noqa: E731
    with pytest.raises(EngineCanceled):
        child(BEHAVIOUR[behaviour]).run([], on_event=listen, is_canceled=wish)
    assert time.monotonic() - since - 0.2 < 1
    assert all(gone(pid, 0.2) for pid in pids)


@posix
def test_what_the_leader_leaves_behind_is_killed() -> None:
    pids: list[int] = []
    code = GRANDCHILD.format(more="") + "tell(event='result', pid=g.pid); os._exit(0)"
    result = child(code).run([], on_event=lambda event: pids.append(event["pid"]))
    assert result["pid"] == pids[0]
    assert gone(pids[0], 0.2)


@posix
def test_a_grandchild_that_holds_stdout_open_does_not_hold_the_run() -> None:
    code = "g = subprocess.Popen(['sleep', '60']); tell(event='result', pid=g.pid); os._exit(0)"
    started = time.monotonic()
    result = child(code).run([])
    assert time.monotonic() - started < 2
    assert gone(result["pid"], 0.2)


def test_an_exception_of_the_listener_ends_the_child() -> None:
    pids: list[int] = []

    def listen(event: dict) -> None:
        pids.append(event["pid"])
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        child("tell(pid=os.getpid()); time.sleep(60)").run([], on_event=listen)
    assert gone(pids[0], 0.2)


def test_nothing_is_left_open() -> None:
    def count() -> tuple[int, int]:
        return len(os.listdir("/proc/self/fd")), threading.active_count()  # noqa: PTH208

    engine = child("tell(event='result')")
    engine.run([])
    before = count()
    engine.run([])
    assert count() == before


def test_the_environment_is_cleaned(monkeypatch: pytest.MonkeyPatch) -> None:
    names = "PYTHONHOME PYTHONPATH PROJ_LIB PROJ_DATA GDAL_DATA QGIS_PREFIX_PATH LD_PRELOAD"
    with monkeypatch.context() as patch:
        for name in [*names.split(), "PIP_TARGET", "HTTPS_PROXY", "GEOSEG_MODELS"]:
            patch.setenv(name, "/nowhere")
        before = dict(os.environ)
        got = child("tell(event='result', env=dict(os.environ))").run([])["env"]
        assert dict(os.environ) == before
    assert not {*names.split(), "PIP_TARGET"} & set(got)
    assert got["HTTPS_PROXY"] == got["GEOSEG_MODELS"] == "/nowhere"  # the user's
    assert runner.SET.items() <= got.items()


STRAY = """
import os, sys
from geoseg import registry
models = registry.list_models
def noisy(**more):
    print("stray"); os.write(1, b"from C\\n"); os.system("echo from a shell")
    return models(**more)
registry.list_models = noisy
sys.argv[0] = "geoseg"
from geoseg.cli import main
main()
"""


def test_a_stray_print_in_the_engine_does_not_break_the_lines() -> None:
    seen: list[dict] = []
    last = Engine((sys.executable, "-c", STRAY)).run(["model", "list"], on_event=seen.append)
    assert seen[-1] == last
    assert "buildings-v1" in [record["name"] for record in seen]


@posix
def test_an_abandoned_engine_that_does_not_clean_up_ends_all_the_same() -> None:
    code = "import signal, time, geoseg.cli as c\n"
    code += "signal.signal(signal.SIGTERM, signal.SIG_IGN); c.PATIENCE = 0.2\n"
    code += "c.cli = lambda obj, **_: (obj(), time.sleep(60))\nc.main()"
    env = {**os.environ, "GEOSEG_WATCH_STDIN": "1"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, env=env, timeout=20)
    assert done.returncode == 130


QGIS = """
import json, sys
sys.path.insert(0, sys.argv[1])
from geoseg_qgis.runner import Engine
engine = Engine((sys.executable, "-c", sys.argv[2]))
engine.run(sys.argv[3:], on_event=lambda event: print(json.dumps(event), flush=True))
"""
# The real engine, which tells who it is.
TELLING = """
import os, sys
os.write(1, b'{"event": "pid", "pid": %d}\\n' % os.getpid())
sys.argv[0] = "geoseg"
from geoseg.cli import main
main()
"""


@posix
def test_the_engine_ends_when_qgis_is_killed(tmp_path: Path) -> None:
    output = tmp_path / "out.gpkg"
    arguments = ["predict", str(SCENE), "-o", str(output), "--tile", "128", "--threads", "1"]
    command = [sys.executable, "-c", QGIS, str(ROOT / "qgis_plugin"), TELLING, *arguments]
    qgis = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert qgis.stdout is not None
    with qgis, qgis.stdout:
        pid = json.loads(qgis.stdout.readline())["pid"]
        try:
            for line in qgis.stdout:
                if json.loads(line)["event"] == "progress":
                    break
            else:
                pytest.fail("no progress")
            qgis.send_signal(signal.SIGKILL)
            qgis.wait()
            assert gone(pid, 10)
        finally:
            if not gone(pid, 0.1):
                os.kill(pid, signal.SIGKILL)
    assert list(tmp_path.iterdir()) == []
