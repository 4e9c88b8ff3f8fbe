# Programs of `exec` in a jail: chroot, another user, and all that a program needs inside.
#
#     /tmp/XXXX/jail/ = "/"      bin/who, its loader and libraries; dev/ptmx and dev/pts; the preload library under its path outside
#
# SPDX-License-Identifier: Apache-2.0
import os
import pwd
import re
import shutil
import subprocess
import tempfile

import pytest

from peers import CLOSE_NOTIFY, RESET, TlsClient
from proxy import BINARY
from test_exec import WHO
from test_process import IN_JAIL, NOBODY

pytestmark = [pytest.mark.ours, pytest.mark.san]

PRELOAD = os.path.join(os.path.dirname(BINARY), "libtlsplice_preload.so")


class Jail:
    def __init__(self, bench):
        self.bench = bench
        self.path = tempfile.mkdtemp()
        os.chmod(self.path, 0o755)  # those of pytest are root's alone

    def put(self, outside, inside=None):
        to = self.path + (inside or outside)
        os.makedirs(os.path.dirname(to), exist_ok=True)
        shutil.copy(outside, to)

    def libraries(self):
        said = subprocess.run(["ldd", WHO], stdout=subprocess.PIPE, text=True, check=True).stdout
        return re.findall(r"(/\S+) \(0x", said)

    def proxy(self, *sections, user=True, **options):
        """A section for each of the lists of lines; .at is where they listen."""
        at = [self.bench.ports() for _ in sections]
        head = f"chroot = {self.path}\n" + ("setuid = nobody\nsetgid = nogroup\n" if user else "")
        text = f"{head}cert = {self.bench.pki.ec_pem}\n"
        text += "".join(f"[s{i}]\naccept = 127.0.0.1:{port}\nexec = /bin/who\n{lines}\n" for i, (port, lines) in enumerate(zip(at, sections)))
        proxy = self.bench.proxy(text, env=IN_JAIL, **options)
        proxy.at = at
        return proxy


@pytest.fixture
def jail(bench):
    jail = Jail(bench)
    yield jail
    bench.close()
    shutil.rmtree(jail.path)


@pytest.fixture
def furnished(jail):
    jail.put(WHO, "/bin/who")
    for library in jail.libraries():
        jail.put(library)
    return jail


def says(port, end=CLOSE_NOTIFY):
    """What the program says, and the client's port."""
    client = TlsClient(port)
    number = client.sock.getsockname()[1]
    said = client.recv_all().decode().replace("\r", "")
    assert client.ended == end
    client.close()
    return said, number


@pytest.mark.parametrize("user", [True, False], ids=["nobody", "root"])
def test_a_program_in_the_jail(furnished, user):
    proxy = furnished.proxy("", user=user)
    for _ in range(3):
        said, number = says(proxy.at[0])
        assert f"env REMOTE_PORT={number}\n" in said and "arg /bin/who\n" in said
        assert re.findall(r"(?m)^fd (\d+)", said) in (["0", "1", "2"], [])  # there is no /proc to look into
    assert not proxy.lines("LOG[0-4].*(exec|chroot directory)")
    proxy.wait_log(r"Child process \d+ finished with code 0", 3)


def test_it_is_who_the_proxy_is(furnished):
    """Also its files: in the jail, the user's."""
    furnished.put("/bin/sh")
    for path in subprocess.run(["ldd", "/bin/sh"], stdout=subprocess.PIPE, text=True, check=True).stdout.split():
        if path.startswith("/"):
            furnished.put(path)
    os.mkdir(furnished.path + "/tmp")
    os.chmod(furnished.path + "/tmp", 0o777)
    proxy = furnished.proxy("exec = /bin/sh\nexecArgs = sh -c echo>/tmp/here;echo${IFS}/*")
    said, _ = says(proxy.at[0])
    assert set(said.split()) == {"/" + name for name in os.listdir(furnished.path)}
    found = os.stat(furnished.path + "/tmp/here")
    assert found.st_uid == NOBODY == pwd.getpwnam("nobody").pw_uid


def test_a_program_that_is_not_there(jail):
    proxy = jail.proxy("")
    assert proxy.lines(r"LOG4\[ui\]: Service \[s0\]: exec /bin/who: not in the chroot directory: No such file or directory \(2\)$")
    assert says(proxy.at[0])[0] == ""
    if "thread" not in BINARY:  # that sanitizer makes a fork of vfork: the reason stays in the child
        proxy.wait_log(r"LOG3\[0\]: exec /bin/who: No such file or directory \(2\)$")
    assert not proxy.lines("loader")


def test_a_program_without_its_loader(jail):
    jail.put(WHO, "/bin/who")
    proxy = jail.proxy("")
    assert says(proxy.at[0])[0] == ""
    if "thread" not in BINARY:
        proxy.wait_log(r"LOG3\[0\]: exec /bin/who: No such file or directory \(2\)$")
        proxy.wait_log(r"LOG3\[0\]: exec /bin/who: the file is there, but not the interpreter or loader \(ld\.so\) that it asks for$")


def test_a_program_without_a_library(jail):
    jail.put(WHO, "/bin/who")
    for library in jail.libraries():
        if "ld-linux" in library:
            jail.put(library)
    proxy = jail.proxy("")
    says(proxy.at[0])
    proxy.wait_log(r"/bin/who: error while loading shared libraries: libc\.so\.6: cannot open shared object file")
    proxy.wait_log(r"LOG6\[main\]: Child process \d+ finished with code 127$")
    proxy.wait_log(r"LOG5\[main\]: Child process \d+ has not found a library \(ld\.so says so\) or a command \(a shell does\)$")


def test_the_peer_of_a_program_in_the_jail(furnished):
    furnished.put(PRELOAD)
    proxy = furnished.proxy("transparent = source", "")
    said, number = says(proxy.at[0])
    assert f"env LD_PRELOAD={PRELOAD}\n" in said and f"peer 0: 127.0.0.1 {number} length 16\n" in said
    assert "peer 0: family 1\n" in says(proxy.at[1])[0]


def test_the_preload_library_is_not_in_the_jail(furnished):
    """The loader would complain of it to the client."""
    proxy = furnished.proxy("transparent = source", "", preamble="foreground = quiet\nsyslog = no\ndebug = debug\noutput = /log\n", user=False)
    with open(furnished.path + "/log") as file:
        warnings = re.findall(r"LOG4\[ui\]: Service \[(\w+)\]: libtlsplice_preload.so is not in the chroot directory: getpeername\(2\) "
                              r"will not tell programs who their client is\n", file.read())
    assert warnings == ["s0"]
    said, _ = says(proxy.at[0])
    assert said.startswith("arg /bin/who\n") and "peer 0: family 1\n" in said and "libtlsplice" not in said


def test_a_terminal_in_the_jail(furnished):
    """Without /dev/ptmx there is none, which is said at start too; with it and devpts there is."""
    proxy = furnished.proxy("pty = yes")
    proxy.wait_log(r"LOG4\[ui\]: Service \[s0\]: pty needs /dev/ptmx and /dev/pts in the chroot directory: No such file or directory \(2\)$")
    assert says(proxy.at[0], RESET)[0] == ""
    proxy.wait_log(r"LOG3\[0\]: openpty: No such file or directory \(2\)$")
    mounts = ('mkdir -p "$0/dev/pts" && mount -t devpts -o newinstance,ptmxmode=666,mode=620 devpts "$0/dev/pts" && ln -s pts/ptmx "$0/dev/ptmx" '
              '&& exec "$@"')
    proxy = furnished.proxy("pty = yes", prefix=("unshare", "-m", "sh", "-c", mounts, furnished.path))
    for _ in range(2):
        said, number = says(proxy.at[0])
        assert f"env REMOTE_PORT={number}\n" in said
    proxy.wait_log(r"LOG7\[\d\]: TTY=/dev/pts/\d+ allocated", 2)
    assert not proxy.lines("LOG[0-4].*pty needs")
