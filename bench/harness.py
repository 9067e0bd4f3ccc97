"""What the benchmarks' scripts share."""

import grp
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

kRoot = pathlib.Path(__file__).resolve().parent.parent


def say(text):
    print(f"shmstate: bench: {text}", file=sys.stderr)


class SharedDirectory:
    """A directory on the tmpfs that is gone at the end, with what contenders name after it."""

    def __enter__(self):
        self.data_segment = pathlib.Path("/dev/shm", grp.getgrgid(os.getgid()).gr_name)  # iceoryx calls it so
        self.had_data_segment = self.data_segment.exists()
        self.path = pathlib.Path(tempfile.mkdtemp(prefix="shmstate-bench-", dir="/dev/shm"))
        return self.path

    def __exit__(self, *_):
        shutil.rmtree(self.path, ignore_errors=True)
        pathlib.Path("/dev/shm", f"shmstate-bench-{self.path.name}").unlink(missing_ok=True)
        if subprocess.run(["pgrep", "-x", "iox-roudi"], stdout=subprocess.DEVNULL, check=False).returncode == 1:
            pathlib.Path("/dev/shm/iceoryx_mgmt").unlink(missing_ok=True)
            for socket_or_lock in pathlib.Path("/tmp").glob("shmstate-bench-[0-9]*"):
                socket_or_lock.unlink(missing_ok=True)
            if not self.had_data_segment:
                self.data_segment.unlink(missing_ok=True)


class CountingFailed(Exception):
    pass


def count_instructions(function, directory, command):
    """Of one operation: callgrind's count for `function` by how many operations the command says that it did."""
    profile = directory / "callgrind"
    valgrind = ["valgrind", "--tool=callgrind", "--collect-atstart=no", f"--toggle-collect={function}",
                f"--callgrind-out-file={profile}"]
    done = subprocess.run([str(word) for word in valgrind + command], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise CountingFailed(f"counting instructions failed:\n{done.stderr[-2000:]}")
    summary = re.search(r"^summary: (\d+)", profile.read_text(), re.M)
    return round(int(summary.group(1)) / int(done.stdout), 1)
