# The proxies of a bench run: reads bench/peers/*.conf, starts and stops one, and says what CPU time and memory all its processes use.
# Used by bench/run, bench/guest and play.py. Adding a proxy means adding a file to bench/peers: the lines "#! name: value" on top say how to
# start it.
# SPDX-License-Identifier: Apache-2.0
import glob
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import time

TICKS = os.sysconf("SC_CLK_TCK")
HERE = os.path.dirname(os.path.abspath(__file__))


class Trouble(Exception):
    """Something to tell the user in one sentence."""


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def descendants(pid):
    """The process and all its children, grandchildren and so on, as far as they still live."""
    found, wanted = [], [pid]
    while wanted:
        pid = wanted.pop()
        found.append(pid)
        for path in glob.glob(f"/proc/{pid}/task/*/children"):
            try:
                with open(path) as f:
                    wanted += map(int, f.read().split())
            except OSError:
                pass
    return found


def cpu_clock(pid):
    """The clock of a process's CPU time, as clock_getcpuclockid(3) makes it: nanoseconds, where /proc/PID/stat counts ticks of 10 ms."""
    return (~pid << 3) | 2


def cpu_seconds(pids):
    """User and system time of all threads, those that have ended and the ring's kernel workers included."""
    total = 0.0
    for pid in pids:
        try:
            total += time.clock_gettime(cpu_clock(pid))
        except OSError:
            pass
    return total


def core_seconds(core):
    """What everybody together has used of a core."""
    with open("/proc/stat") as f:
        fields = re.search(rf"^cpu{core} (.*)$", f.read(), re.M).group(1).split()
    return sum(int(fields[i]) for i in (0, 1, 2, 5, 6)) / TICKS


def resident_kib(pids):
    """smaps_rollup counts pages; the figure in /proc/PID/status is only near the truth on newer kernels."""
    total = 0
    for pid in pids:
        try:
            with open(f"/proc/{pid}/smaps_rollup") as f:
                total += int(re.search(r"^Rss:\s+(\d+)", f.read(), re.M).group(1))
        except (OSError, AttributeError):
            pass
    return total


class Proxy:
    def __init__(self, path, variant=None):
        self.name = os.path.basename(path)[:-len(".conf")]
        with open(path) as f:
            self.template = f.read()
        facts = dict(re.findall(r"^#! (\w+): (.*)$", self.template, re.M))
        self.title = facts["title"]
        self.argv = facts["argv"]
        self.kind = facts["kind"]
        self.note = facts.get("note", "")
        self.package = facts.get("package", "")
        self.version_command = facts.get("version", "")
        self.guest_only = facts.get("only") == "guest"
        self.kernel_records = facts.get("records") == "kernel"
        self.process = None
        if variant:
            self.vary(*variant)

    def vary(self, name, options):
        """The same proxy with a few more options, which come last in its configuration: "#! variant: name: one = option; another = one"."""
        self.name += "-" + name
        self.title += ", " + name
        self.note = options
        self.guest_only = True
        self.template += "".join(option.strip() + "\n" for option in options.split(";"))

    def variants(self):
        return re.findall(r"^#! variant: (\S+): (.*)$", self.template, re.M)

    def fill(self, text, values):
        return re.sub(r"@(\w+)@", lambda m: str(values[m.group(1)]), text)

    def missing(self, values):
        """Why this proxy cannot run here, or None."""
        program = shlex.split(self.fill(self.argv, dict(values, conf="", port=0, origin=0)))[0]
        if shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin"):
            return None
        return f"{program} is not there" + (f" (apt-get install {self.package})" if self.package else " (run make first)")

    def version(self, values):
        if not self.version_command:
            return ""
        argv = shlex.split(self.fill(self.version_command, values))
        result = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        for line in result.stdout.splitlines():
            if re.search(r"\d+\.\d+", line):
                return line.strip()
        return "unknown"

    def start(self, values, core):
        self.port = free_port()
        values = dict(values, port=self.port)
        values["conf"] = os.path.join(values["dir"], self.name + ".conf")
        with open(values["conf"], "w") as f:
            f.write(self.fill(self.template, values))
        self.log = open(os.path.join(values["dir"], self.name + ".log"), "a+")
        self.process = subprocess.Popen(
            shlex.split(self.fill(self.argv, values)), stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log,
            start_new_session=True, preexec_fn=lambda: os.sched_setaffinity(0, {core}))
        self.wait_until_listening()

    def wait_until_listening(self):
        for _ in range(200):
            if self.process.poll() is not None:
                break
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                time.sleep(0.05)
        raise Trouble(f"{self.title} does not listen: {self.last_words()}")

    def last_words(self):
        self.log.flush()
        self.log.seek(0)
        return " / ".join(self.log.read().strip().splitlines()[-3:]) or "it said nothing"

    def pids(self):
        return descendants(self.process.pid)

    def cpu(self):
        return cpu_seconds(self.pids())

    def rss(self):
        return resident_kib(self.pids())

    def stop(self):
        """Ends the process group that start() made, gently first."""
        if not self.process:
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self.process.pid, number)
                self.process.wait(timeout=3)
                break
            except subprocess.TimeoutExpired:
                continue
            except ProcessLookupError:
                break
        self.process.wait()
        try:
            os.killpg(self.process.pid, signal.SIGKILL)     # workers that outlive their master
        except ProcessLookupError:
            pass
        self.log.close()
        self.process = None


def load_all():
    """In the order of the table: the subject and its variants, the peers, the floor."""
    order = {"subject": 0, "peer": 1, "floor": 2}
    proxies = []
    for path in sorted(glob.glob(os.path.join(HERE, "peers", "*.conf"))):
        proxy = Proxy(path)
        proxies += [proxy] + [Proxy(path, variant) for variant in proxy.variants()]
    return sorted(proxies, key=lambda p: order[p.kind])
