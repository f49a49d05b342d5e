import hashlib
import multiprocessing
import pickle
import re
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from ranet_lib.files import fetching
from ranet_lib.files.fetching import Archive, DownloadError, cache_folder, fetch
from ranet_lib.files.pickles import unpickle_arrays

CONTENT = np.random.default_rng(0).bytes(300_000)


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    """Between this test and its own server, whatever the machine has."""
    for name in ("http_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def archive():
    return Archive("things.tar.gz", len(CONTENT), hashlib.sha256(CONTENT).hexdigest(), ())


class Server(ThreadingHTTPServer):
    """Serves CONTENT under addresses that each misbehave in one way, and notes what it was asked."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests = []  # (path, first byte asked for)
        self.done = threading.Event()

    def url(self, path):
        return f"http://127.0.0.1:{self.server_port}/{path}"

    def handle_error(self, request, client_address):
        """Say nothing: whom the reader has left writes to a broken pipe."""

    def asked(self, path):
        return [start for asked_path, start in self.requests if asked_path == path]


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        path = self.path.strip("/")
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(asked[1]) if asked else 0
        self.server.requests.append((path, start))
        content = {"wrong": CONTENT[::-1], "page": b"<html>please log in</html>"}.get(path, CONTENT)
        if path == "missing":
            return self.send_error(404)
        if path == "loop":
            self.send_response(302)
            self.send_header("Location", "/loop")
            return self.end_headers()
        if path == "silent":
            return self.server.done.wait(10)
        if path == "hesitates":  # the head of its answer never ends
            self.wfile.write(b"HTTP/1.0 200 OK\r\nX-Slow: ")
            while not self.server.done.wait(0.05):
                self.wfile.write(b"x")
            return
        if path == "long":  # a length that Python makes no number of
            self.send_response(200)
            self.send_header("Content-Length", "9" * 5000)
            return self.end_headers()
        if path == "shouts":  # what would clear a terminal and fill it
            return self.wfile.write(b"\x1b[2J" + b"!" * 60_000)
        if path in ("lengths", "trailers"):  # the length of a chunk, or what comes after the last, never ends
            first, more = (b"5;", b"x") if path == "lengths" else (b"0\r\n", b"A: b\r\n")
            self.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + first)
            while not self.server.done.wait(0.05):
                self.wfile.write(more)
            return
        if path == "endless":  # says no length, and goes on
            self.send_response(200)
            self.end_headers()
            while not self.server.done.is_set():
                self.wfile.write(b"x" * 10_000)
            return
        if path == "moved":
            self.send_response(302)
            self.send_header("Location", "/good")
            return self.end_headers()
        if path == "local":  # leads to a file of the reader's own machine
            self.send_response(302)
            self.send_header("Location", "file:///etc/hostname")
            return self.end_headers()
        if path == "restarts":  # knows no ranges
            start = 0
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        body = content[start:]
        if path == "cut":
            self.wfile.write(body[:100_000])
        elif path == "stalls":
            self.wfile.write(body[:50_000])
            self.wfile.flush()
            self.server.done.wait(10)
        elif path == "trickles":
            while not self.server.done.wait(0.05):
                self.wfile.write(b"x")
        elif path == "slow":
            for at in range(0, len(body), 30_000):
                self.wfile.write(body[at : at + 30_000])
                time.sleep(0.05)
        else:
            self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    server = Server()
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield server
    server.done.set()
    server.shutdown()
    server.server_close()


def get(archive, folder, server, *paths, **options):
    return fetch(archive, folder, sources=[server.url(path) for path in paths], **options)


def test_download_once_then_from_the_cache(archive, server, tmp_path):
    path = get(archive, tmp_path / "new" / "cache", server, "good")
    assert path == tmp_path / "new" / "cache" / "things.tar.gz"
    assert path.read_bytes() == CONTENT
    assert get(archive, path.parent, server, "good") == path
    assert server.asked("good") == [0]
    assert not list(path.parent.glob("*.part"))


def test_a_damaged_cached_file_is_replaced(archive, server, tmp_path):
    (tmp_path / archive.filename).write_bytes(CONTENT[:-1] + b"?")
    assert get(archive, tmp_path, server, "good").read_bytes() == CONTENT


def test_a_cut_connection_is_taken_up_where_it_ended(archive, server, tmp_path):
    assert get(archive, tmp_path, server, "cut").read_bytes() == CONTENT
    starts = [*server.asked("cut"), len(CONTENT)]
    assert starts[0] == 0 and all(0 < later - start <= 100_000 for start, later in zip(starts, starts[1:]))


def test_a_later_call_carries_on_from_the_part_file(archive, server, tmp_path):
    (tmp_path / "things.tar.gz.part").write_bytes(CONTENT[:123_456])
    assert get(archive, tmp_path, server, "good").read_bytes() == CONTENT
    assert server.asked("good") == [123_456]


def test_a_server_without_ranges_sends_the_whole_again(archive, server, tmp_path):
    (tmp_path / "things.tar.gz.part").write_bytes(CONTENT[:100])
    assert get(archive, tmp_path, server, "restarts").read_bytes() == CONTENT


@pytest.mark.parametrize("left_over", [b"other bytes", b"x" * len(CONTENT), b"x" * (len(CONTENT) + 1)])
def test_a_wrong_part_file_does_not_spoil_the_source(left_over, archive, server, tmp_path):
    (tmp_path / "things.tar.gz.part").write_bytes(left_over)
    assert get(archive, tmp_path, server, "good").read_bytes() == CONTENT


@pytest.mark.parametrize(
    "path, reason",
    [
        ("missing", "404"),
        ("loop", "redirects"),
        ("wrong", "SHA-256"),
        ("page", "offers 26 bytes; the archive has 300,000"),
        ("silent", "stalled: 0 bytes in 1 seconds"),
        ("stalls", "stalled: 0 bytes in 1 seconds"),
        ("trickles", "stalled"),
        ("hesitates", "stalled"),
        ("endless", "SHA-256"),
        ("local", "file:///etc/hostname"),
        ("long", "long: .{1,200}\n"),
        ("shouts", r"shouts: \[2J!{100,200}\n"),
        ("lengths", "stalled"),
        ("trailers", "stalled"),
    ],
)
def test_a_bad_source_leads_to_the_next_and_its_reason_is_told(path, reason, archive, server, tmp_path):
    stalls = "stalled" in reason
    assert get(archive, tmp_path, server, path, "good", timeout=2 if stalls else 30).read_bytes() == CONTENT
    assert server.asked("good")
    with pytest.raises(DownloadError, match=reason):
        get(archive, tmp_path / "other", server, path, timeout=1 if stalls else 30)
    assert not (tmp_path / "other" / archive.filename).exists()


def test_a_redirect_and_a_slow_source_are_followed_to_the_end(archive, server, tmp_path):
    for path in ("moved", "slow"):
        assert get(archive, tmp_path / path, server, path, timeout=5).read_bytes() == CONTENT


def test_total_failure_names_every_source_and_the_way_out(archive, server, tmp_path):
    with socket.socket() as closed, pytest.raises(DownloadError) as failure:
        closed.bind(("127.0.0.1", 0))  # and does not listen
        refuses = "http://{}:{}/good".format(*closed.getsockname())
        sources = [server.url("missing"), refuses, "file:///etc/hostname", "http://no-such-host.invalid/x"]
        fetch(archive, tmp_path, sources=sources, timeout=10)
    message = str(failure.value)
    for source, reason in zip(sources, ["404", "refused", "not an http", "(?:[Nn]ame|stalled)"], strict=True):
        assert re.search(f"{re.escape(source)}: .*{reason}", message), message
    assert "data_dir" in message


def _fetch_in_a_process(archive, folder, source, barrier):
    barrier.wait()
    fetch(archive, folder, sources=[source])


def test_two_processes_download_once(archive, server, tmp_path):
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2, timeout=600)
    arguments = archive, tmp_path, server.url("slow"), barrier
    processes = [context.Process(target=_fetch_in_a_process, args=arguments) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(600)
    assert [process.exitcode for process in processes] == [0, 0]
    assert server.asked("slow") == [0]
    assert (tmp_path / archive.filename).read_bytes() == CONTENT


def test_a_killed_process_leaves_no_lock(archive, server, tmp_path):
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2, timeout=600)
    process = context.Process(
        target=_fetch_in_a_process, args=(archive, tmp_path, server.url("stalls"), barrier)
    )
    process.start()
    barrier.wait()
    part = tmp_path / "things.tar.gz.part"
    for _ in range(60_000):
        if part.exists():
            break
        time.sleep(0.01)
    process.kill()
    process.join()
    assert part.exists()
    assert get(archive, tmp_path, server, "good").read_bytes() == CONTENT


def test_progress_is_reported_and_does_not_flood(archive, server, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(fetching, "CHUNK", 1000)
    get(archive, tmp_path, server, "good")
    lines = [line for line in capsys.readouterr().err.splitlines() if line]
    assert 2 <= len(lines) <= 4
    assert all(line.startswith(archive.filename) for line in lines)
    assert "100%" in lines[-1] and "300k/300k" in lines[-1]


def test_a_cache_folder_that_is_no_path_is_named(monkeypatch):
    monkeypatch.setenv("RANET_DATA", "~nobody-here/data")
    with pytest.raises(ValueError, match="RANET_DATA must be a path; received '~nobody-here/data'"):
        cache_folder()


def test_the_cache_folder_follows_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("RANET_DATA", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("RANET_DATA")
    assert cache_folder().parts[-2:] == (".cache", "ranet")


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4])
def test_plain_values_and_integer_arrays_are_read(protocol):
    content = {
        "data": np.arange(12, dtype=np.uint8).reshape(3, 4),
        "columns": np.asfortranarray(np.arange(12).reshape(3, 4)),
        "big_endian": np.arange(3, dtype=">i4"),
        b"names": ["a", b"\xff", 3, 2.5, None, True, (1, 2)],
    }
    read = unpickle_arrays(pickle.dumps(content, protocol))
    assert set(read) == {"data", "columns", "big_endian", "names"}
    assert read["names"] == content[b"names"]
    for key in ("data", "columns", "big_endian"):
        np.testing.assert_array_equal(read[key], content[key])
        assert read[key].dtype == content[key].dtype


class Call:
    """Pickles as a call of any function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    "make_evil",
    [
        lambda marker: Call(open, marker, "w"),
        lambda marker: Call(eval, f"open({marker!r}, 'w')"),
        lambda marker: Call(np.ndarray.tofile, np.zeros(3), marker),
    ],
)
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_that_runs_something_is_refused_and_runs_nothing(make_evil, protocol, tmp_path):
    marker = tmp_path / "ran"
    data = pickle.dumps({"data": make_evil(str(marker))}, protocol)
    with pytest.raises(ValueError, match="asks to run"):
        unpickle_arrays(data)
    assert not marker.exists()
    pickle.loads(data)  # it would have: the test means something
    assert marker.exists()


@pytest.mark.parametrize(
    "content",
    [
        {"data": np.zeros(3)},  # of floats
        {"data": np.array([print, 1], dtype=object)},
        {"data": Call(np.dtype, "O")},
        [1, 2],
    ],
)
def test_other_than_a_dict_of_integer_arrays_is_refused(content):
    with pytest.raises(ValueError, match="only integers are read|not a dict"):
        unpickle_arrays(pickle.dumps(content, 4))


@pytest.mark.parametrize("keep", [0, 1, 0.5, 0.99])
def test_a_cut_pickle_is_a_clear_error(keep):
    data = pickle.dumps({"data": np.arange(1000)}, 4)
    with pytest.raises(ValueError, match="damaged or cut short"):
        unpickle_arrays(data[: int(len(data) * keep) if keep < 1 else keep])


@pytest.mark.parametrize(
    "opcodes",
    [
        b"})" + b"\x85" * 1_000_000 + b"Ns.",  # tuples nested in a key: the hash overflows the stack of C
        b"(" + b")" + b"\x85" * 1_000_000 + b"Nd.",
        b"}(" + b")" + b"\x85" * 1_000_000 + b"Nu.",
        b"(" + b")" + b"\x85" * 1_000_000 + b"\x91.",  # and in a set
        b"\x8f(" + b")" + b"\x85" * 1_000_000 + b"\x90.",
        b"\x96" + (1 << 36).to_bytes(8, "little") + b".",  # 64 GB of zeros
    ],
    ids=["item", "dict", "items", "frozen set", "set", "bytearray"],
)
def test_a_pickle_cannot_end_the_process(opcodes):
    code = """
import sys
from ranet_lib.files.pickles import unpickle_arrays
try:
    unpickle_arrays(sys.stdin.buffer.read())
except ValueError:
    sys.exit(7)
"""
    ended = subprocess.run([sys.executable, "-c", code], input=b"\x80\x04" + opcodes, capture_output=True, timeout=600)
    assert ended.returncode == 7, ended


def test_a_pickle_cannot_change_what_later_ones_meet():
    # BUILD with a pair sets attributes: here on the reader that stands for numpy's _reconstruct.
    attack = b"\x80\x02}U\x04datacnumpy.core.multiarray\n_reconstruct\n(N}X\x08\x00\x00\x00__call__Nstbs."
    with pytest.raises(ValueError, match="__call__.*read-only"):
        unpickle_arrays(attack)
    np.testing.assert_array_equal(unpickle_arrays(pickle.dumps({"data": np.arange(3)}, 2))["data"], [0, 1, 2])
