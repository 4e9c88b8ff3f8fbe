# Starts the proxy under test, watches its log, stops it and checks how it ended. For the tests of this directory.
# TLSPLICE names the binary (default build/tlsplice); TLSPLICE=/usr/bin/stunnel4 checks the tests against stunnel.
# SPDX-License-Identifier: Apache-2.0
import os
import re
import resource
import shlex
import signal
import subprocess
import time

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BINARY = os.path.join(TOP, os.environ.get("TLSPLICE", "build/tlsplice"))
WRAPPER = shlex.split(os.environ.get("TLSPLICE_WRAPPER", ""))
IS_STUNNEL = "stunnel" in os.path.basename(BINARY)
# Sanitizers and valgrind: nothing is asserted about time, but nothing may be waited for too briefly either.
SLOW = 6 if os.environ.get("TLSPLICE_SLOW") else 1

# What a sanitizer or valgrind prints when it found something.
REPORTS = re.compile(r"ERROR: \w+Sanitizer|WARNING: \w+Sanitizer|runtime error:|==\d+== .*(Invalid|uninitialised|lost in loss)")

# More lines for the global part of every configuration, "\\n" between them: the same tests with kernel TLS, for example.
EXTRA = os.environ.get("TLSPLICE_EXTRA_GLOBALS", "").replace("\\n", "\n").strip()
EXTRA += "\n" if EXTRA else ""

PREAMBLE = "foreground = yes\nsyslog = no\ndebug = debug\n"


class StartFailed(Exception):
    pass


def until(check, timeout=10, what="condition"):
    """Waits until check() returns something true and returns that; generous, since nothing here asserts a time."""
    end = time.monotonic() + timeout * SLOW
    while True:
        result = check()
        if result:
            return result
        if time.monotonic() > end:
            raise AssertionError(f"waited {timeout * SLOW} s for: {what}")
        time.sleep(0.02)


def listening_ports(pid="self"):
    """Of the network that a process is in."""
    ports = set()
    for name in ("tcp", "tcp6"):
        with open(f"/proc/{pid}/net/{name}") as table:
            for line in table.readlines()[1:]:
                fields = line.split()
                if fields[3] == "0A":
                    ports.add(int(fields[1].rsplit(":", 1)[1], 16))
    return ports


class Proxy:
    def __init__(self, directory, text, preamble=PREAMBLE, args=None, env=None, nofile=None, wait=True, stdin=subprocess.DEVNULL,
                 pass_fds=(), prefix=(), cwd=None, name="tlsplice"):
        self.directory = str(directory)
        self.config = os.path.join(self.directory, name + ".conf")
        self.out = os.path.join(self.directory, name + ".out")
        self.preamble = preamble + EXTRA
        self.expect_open = False  # set it when a test leaves connections open on purpose
        self.finished = False
        self.write(text)
        argv = [*prefix, *WRAPPER, BINARY, *(args if args is not None else [self.config])]
        self.output = open(self.out, "ab")
        self.process = subprocess.Popen(argv, stdin=stdin, stdout=self.output, stderr=self.output, cwd=cwd or self.directory,
                                        env=dict(os.environ, **(env or {})), pass_fds=pass_fds,
                                        preexec_fn=lambda: self._limits(nofile))
        self.pid = self.process.pid
        self.base_fds = None
        if wait:
            self.wait_ready()

    @staticmethod
    def _limits(nofile):
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (nofile, nofile) if nofile else (hard, hard))

    def write(self, text):
        """(Re)writes the configuration file."""
        self.text = self.preamble + text
        with open(self.config, "w") as file:
            file.write(self.text)

    def body(self):
        """What write() was given."""
        return self.text[len(self.preamble):]

    def log(self):
        with open(self.out, errors="replace") as file:
            return file.read()

    def lines(self, pattern):
        return [line for line in self.log().splitlines() if re.search(pattern, line)]

    def wait_log(self, pattern, count=1, timeout=15):
        """Waits until `count` lines match and returns them."""
        def check():
            found = self.lines(pattern)
            return found if len(found) >= count else None
        try:
            return until(check, timeout)
        except AssertionError:
            raise AssertionError(f"{count} lines with {pattern!r} expected in:\n{self.log()[-6000:]}") from None

    def wait_ready(self):
        ports = {int(port) for port in re.findall(r"(?mi)^\s*accept\s*=\s*(?:\S*:)?(\d+)\s*$", self.text)}
        paths = re.findall(r"(?mi)^\s*accept\s*=\s*(/\S+)\s*$", self.text)

        def check():
            if self.process.poll() is not None:
                raise StartFailed(f"exit status {self.process.returncode}:\n{self.log()}")
            return ports <= listening_ports(self.pid) and all(os.path.exists(path) for path in paths) and (
                "Configuration successful" in self.log() or "debug = " not in self.text or ports or paths)
        until(check, 20, "proxy listens")
        silent = re.search(r"(?mi)^foreground\s*=\s*quiet", self.text)
        if not silent and re.findall(r"(?mi)^debug\s*=\s*(?:\w+\.)?(\w+)", self.text)[-1:] in (["debug"], ["info"]):
            self.wait_log("Accepting new connections")
        self.settle()

    def settle(self):
        """Notes the number of descriptors once it is steady: the base that it must come back to."""
        last, same = -1, 0
        if self.base_fds is None and not IS_STUNNEL:
            # The sockets listen before the workers run; each of them has a ring.
            until(lambda: len([fd for fd in self.fds().values() if "io_uring" in fd]) >= self.workers() or self.process.poll() is not None,
                  what="every worker runs")
        for _ in range(200):
            now = len(self.fds())
            same = same + 1 if now == last else 0
            if same >= (1 if SLOW == 1 else 20):
                break
            last = now
            time.sleep(0.05)
        self.base_fds = last

    def workers(self):
        configured = re.findall(r"(?mi)^\s*workers\s*=\s*(\d+)", self.text)
        return int(configured[-1]) if configured else len(os.sched_getaffinity(self.pid))

    def fds(self):
        found = {}
        for fd in os.listdir(f"/proc/{self.pid}/fd"):
            try:
                found[int(fd)] = os.readlink(f"/proc/{self.pid}/fd/{fd}")
            except OSError:
                pass
        return found

    def wait_idle(self, timeout=20):
        """Waits until every descriptor of a connection is closed again."""
        try:
            until(lambda: len(self.fds()) <= self.base_fds, timeout)
        except AssertionError:
            raise AssertionError(f"{self.base_fds} descriptors at start, now {self.fds()}\n{self.log()[-6000:]}") from None

    def rss_kib(self):
        with open(f"/proc/{self.pid}/status") as status:
            return int(re.search(r"VmRSS:\s*(\d+)", status.read()).group(1))

    def cpu_s(self):
        with open(f"/proc/{self.pid}/stat") as stat:
            fields = stat.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def send_signal(self, number):
        self.process.send_signal(number)

    def hup(self, text=None):
        """Reloads, with a new text if given; returns whether the proxy took it."""
        if text is not None:
            self.write(text)
        good, bad = "Configuration successful", "Failed to reload the configuration file"
        before = self.log()
        self.send_signal(signal.SIGHUP)
        until(lambda: self.log().count(good) + self.log().count(bad) > before.count(good) + before.count(bad)
              or self.process.poll() is not None, 20, "reload")
        assert self.process.poll() is None, self.log()
        took = self.log().count(good) > before.count(good)
        if took:
            self.wait_ready_again()
        return took

    def wait_ready_again(self):
        if IS_STUNNEL:
            time.sleep(0.5)  # it closes its listeners and opens them again
        ports = {int(port) for port in re.findall(r"(?mi)^\s*accept\s*=\s*(?:\S*:)?(\d+)\s*$", self.text)}
        until(lambda: ports <= listening_ports(self.pid), 20, "listening after the reload")
        # Old listeners go away in their own time; a higher base would hide a leak.
        base = self.base_fds
        self.settle()
        self.base_fds = max(base, self.base_fds)

    def wait_exit(self, timeout=15):
        try:
            return self.process.wait(timeout * SLOW)
        except subprocess.TimeoutExpired:
            raise AssertionError("the proxy does not end:\n" + self.log()[-6000:]) from None

    def stop(self, number=signal.SIGTERM, status=0):
        """Ends the proxy and checks that it ends well: nothing leaked, nothing reported."""
        if self.finished:
            return
        self.finished = True
        try:
            if self.process.poll() is None:
                if not self.expect_open and self.base_fds is not None:
                    self.wait_idle()
                self.send_signal(number)
            assert self.wait_exit(30) == status, f"exit status {self.process.returncode}:\n{self.log()[-6000:]}"
        finally:
            self.kill()
            self.check_reports()

    def check_reports(self):
        log = self.log()
        assert not REPORTS.search(log), log[-20000:]

    def kill(self):
        self.finished = True
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.output.close()


def gone(pid):
    """Whether a process has ended; its parent need not know yet."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


def run_once(args, stdin=subprocess.DEVNULL, timeout=30, env=None, cwd=None, pass_fds=()):
    """Runs the binary to its end; returns (status, stdout, stderr)."""
    done = subprocess.run([*WRAPPER, BINARY, *args], stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          timeout=timeout * SLOW, env=dict(os.environ, **(env or {})), cwd=cwd, pass_fds=pass_fds)
    stderr = done.stderr.decode(errors="replace")
    assert not REPORTS.search(stderr), stderr
    return done.returncode, done.stdout.decode(errors="replace"), stderr
