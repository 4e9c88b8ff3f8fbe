# One load against one fresh proxy: what bench/run and bench/guest have in common. Starts load generator, origin and proxy, checks that the
# right bytes come through, and leaves no process behind. Used by these two only.
# SPDX-License-Identifier: Apache-2.0
import grp
import json
import os
import pwd
import shutil
import subprocess
import sys

import proxies as px
from proxies import Trouble

NEGOTIATED = "TLSv1.3 TLS_AES_128_GCM_SHA256 X25519 id-ecPublicKey"
BUILD = os.path.join(os.path.dirname(px.HERE), os.environ.get("BUILD", "build"))


class Load:
    """One run of bench/load: its START and END come as they happen, its JSON after that."""

    def __init__(self, port, place, words):
        argv = [os.path.join(BUILD, "bench", "load"), words[0], "--port", str(port), *words[1:]]
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                        preexec_fn=place)

    def expect(self, word):
        line = self.process.stdout.readline().strip()
        if line != word:
            raise Trouble(self.process.stderr.read().strip() or f"the load generator ended before {word}")

    def go(self):
        """After START, where the work is counted and not timed."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def result(self):
        return json.loads(self.process.stdout.readline())

    def close(self):
        self.process.stdin.close()
        self.process.kill()
        self.process.wait()


class Origin:
    def __init__(self, place):
        self.process = subprocess.Popen([os.path.join(BUILD, "bench", "origin"), "0"], stdout=subprocess.PIPE, text=True,
                                        preexec_fn=place)
        self.port = int(self.process.stdout.readline().split()[1])

    def close(self):
        self.process.kill()
        self.process.wait()


class Stage:
    """Where loads are played: the cores, and what proxies' configurations are filled with."""

    check_words = ["--connections", "4"]

    def __init__(self, values, cores):
        self.values = values
        self.proxy_core, self.load_core = cores

    def place_load(self):
        """Runs in the load generator and the origin before they begin."""
        os.sched_setaffinity(0, {self.load_core})

    def load(self, proxy, words):
        plain = ["--plain"] if proxy.kind == "floor" else []
        return Load(proxy.port, self.place_load, [*words, *plain])

    def play(self, proxy, words):
        """A load from beginning to end, where nothing is measured."""
        load = self.load(proxy, words)
        try:
            load.expect("START")
            load.expect("END")
            return load.result()
        finally:
            load.close()

    def with_proxy(self, proxy, action):
        """A fresh origin and a fresh proxy for each action: no cell inherits another's memory or used-up ports."""
        origin = Origin(self.place_load)
        try:
            proxy.start(dict(self.values, origin=origin.port), self.proxy_core)
            return action(proxy)
        finally:
            proxy.stop()
            origin.close()

    def check(self, proxy):
        """Every byte of a large body in both directions, and what was negotiated."""
        for mode in ("check", "check-up"):
            result = self.play(proxy, [mode, *self.check_words])
            if result["errors"]:
                raise Trouble(f"{proxy.title}: {mode}: {result['error']}")
            if proxy.kind != "floor" and result["negotiated"] != NEGOTIATED:
                raise Trouble(f"{proxy.title} negotiated {result['negotiated']} instead of {NEGOTIATED}")


def chosen(what, names, everything):
    """The members of everything that a comma-separated list names, in their own order."""
    if not names:
        return everything
    wanted = names.split(",")
    for name in wanted:
        if name not in [member.name for member in everything]:
            raise Trouble(f"there is no {what} \"{name}\" (there are {', '.join(member.name for member in everything)})")
    return [member for member in everything if member.name in wanted]


def certificate(folder):
    names = {name: os.path.join(folder, name + ".pem") for name in ("cert", "key", "both")}
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30",
                    "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
                    "-keyout", names["key"], "-out", names["cert"]], check=True, stderr=subprocess.DEVNULL)
    with open(names["both"], "w", opener=lambda path, flags: os.open(path, flags, 0o600)) as both:
        for part in ("cert", "key"):
            with open(names[part]) as f:
                shutil.copyfileobj(f, both)
    return names


def stage_values(folder, nofile):
    """What the files in bench/peers name between two @."""
    os.chmod(folder, 0o755)
    user = pwd.getpwnam("nobody") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())
    return dict(certificate(folder), dir=folder, build=BUILD, nofile=nofile, modules="/usr/lib/nginx/modules",
                nobody=user.pw_name, nogroup=grp.getgrgid(user.pw_gid).gr_name)


def present(proxies, stage):
    """Those that are installed, start, negotiate what is asked for and return the right bytes."""
    good = []
    for proxy in proxies:
        why = proxy.missing(stage.values)
        if not why:
            try:
                stage.with_proxy(proxy, stage.check)
                good.append(proxy)
                continue
            except Trouble as trouble:
                why = str(trouble)
        print(f"left out: {proxy.title}: {why}", file=sys.stderr)
    return good
