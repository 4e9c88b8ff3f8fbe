# The command line, and what the configuration file may look like.
# SPDX-License-Identifier: Apache-2.0
import glob
import os
import re
import signal
import subprocess

import pytest

from peers import echo
from proxy import BINARY, IS_STUNNEL, PREAMBLE, SLOW, TOP, WRAPPER, run_once, until


def minimal(bench, pki, extra=""):
    return f"[s]\naccept = 127.0.0.1:{bench.ports()}\nconnect = 127.0.0.1:1\ncert = {pki.ec_pem}\n{extra}"


def write(bench, text, name="file.conf"):
    path = os.path.join(str(bench.directory), name)
    with open(path, "wb") as file:
        file.write(text if isinstance(text, bytes) else text.encode())
    return path


# --- what only prints ---


@pytest.mark.san
@pytest.mark.valgrind
@pytest.mark.parametrize("flag", ["-help", "-version", "-sockets", "-options", "-HELP", "-Version"])
def test_flags_print_to_stderr(flag):
    status, out, err = run_once([flag])
    assert (status, out) == (0, "")
    assert "\n" in err


def test_help_has_a_line_for_each_option():
    """Tools look for lines that begin with an option's name."""
    _, _, err = run_once(["-help"])
    names = """chroot EGD engine foreground log output pid syslog RNDbytes RNDfile RNDoverwrite compression accept CApath CAfile cert
        checkEmail checkHost checkIP ciphers ciphersuites client config connect CRLpath CRLfile curves debug delay exec execArgs failover
        ident include key libwrap local logId OCSP OCSPaia OCSPflag OCSPnonce options protocol protocolAuthentication protocolDomain
        protocolHeader protocolHost protocolPassword protocolUsername PSKidentity PSKsecrets pty redirect renegotiation requireCert reset
        retry securityLevel service setgid setuid sessionCacheSize sessionCacheTimeout sessionResume sessiond sni socket sslVersion
        sslVersionMax sslVersionMin stack ticketKeySecret ticketMacSecret TIMEOUTbusy TIMEOUTclose TIMEOUTconnect TIMEOUTidle transparent
        verify verifyChain verifyPeer""".split()
    missing = [name for name in names if not re.search(rf"(?m)^{name} +=", err)]
    assert not missing
    assert re.search(r"(?m)^Global options:", err) and re.search(r"(?m)^Service-level options:", err)


@pytest.mark.ours
def test_version_lines():
    _, _, err = run_once(["-version"])
    lines = err.splitlines()
    assert re.match(r"tlsplice \d+\.\d+", lines[0])
    assert any(re.match(r"stunnel 5\.82 compatible on ", line) for line in lines)
    assert any(re.match(r"Compiled/running with OpenSSL 3|Compiled with OpenSSL 3", line) for line in lines)
    assert any(line.startswith("Threading:") for line in lines)
    for text in ("TIMEOUTbusy            = ", "TIMEOUTidle            = 43200", "ciphers                = HIGH:!aNULL:!SSLv2:!DH:!kDHEPSK"):
        assert any(line.startswith(text) for line in lines), text


def test_sockets_table():
    _, _, err = run_once(["-sockets"])
    assert re.search(r"(?m)^    SO_REUSEADDR        \| +yes\|    --    \|    --    \| +no$", err)
    assert re.search(r"(?m)^    TCP_NODELAY         \|    --    \| +yes\| +yes\| +no$", err)
    assert re.search(r"(?m)^    SO_LINGER           \|    --    \|    --    \|    --    \| +0:0$", err)


def test_options_list():
    _, _, err = run_once(["-options"])
    for name in ("ALL", "NO_TICKET", "NO_TLSv1_3", "CIPHER_SERVER_PREFERENCE", "ENABLE_KTLS"):
        assert re.search(rf"(?m)^options = {name}$", err), name


@pytest.mark.ours
@pytest.mark.san
@pytest.mark.valgrind
@pytest.mark.parametrize("flag", ["-kernel", "-Kernel"])
def test_report_on_the_kernel(flag):
    status, out, err = run_once([flag])
    assert (status, err) == (0, "")
    found = {line[2:33].strip(): (line[33:64].strip(), line[64:].strip()) for line in out.splitlines() if line.startswith("  ")}
    assert out.startswith("tlsplice ") and f"on Linux {os.uname().release}, {os.uname().machine}\n" in out
    for name in ("SINGLE_ISSUER, DEFER_TASKRUN", "rings of provided buffers", "multishot accept", "multishot recv", "multishot recvmsg"):
        there, use = found[name]
        assert there == "yes" and use.startswith("used"), name
    assert found["SEND_ZC"][1].startswith("not used")
    assert {"MADV_GUARD_INSTALL", "descriptors (ulimit -n)", "fs.pipe-user-pages-soft", "the kernel's gcm(aes)"} <= set(found)
    if found["sockets with TLS"][0] == "no":
        assert re.search(r"(?m)^  .*modprobe tls|too old for TLS", out)
        return
    # Whatever kernel this is: what the lines say fits together.
    rekey = found["new keys after a KeyUpdate"][0] == "yes"
    there, use = found["AES-128-GCM"]
    assert there == "send 1.2 1.3, receive 1.2 1.3"
    policy = "ktls = auto: in the kernel" if rekey else "ktls = auto: TLS 1.2 in the kernel, TLS 1.3 in user space"
    assert use in (policy, "ktls = auto: in user space, which is faster with it")
    assert found["CHACHA20-POLY1305"][1] == policy
    assert ("changes the keys" if rekey else "ends it cleanly") in found["ktls = yes, tx or rx"][1]
    assert found["the kernel's gcm(aes)"][0] != "-"  # somebody has asked for it by now


# --- which file ---


@pytest.mark.parametrize("name", ["/no/such/file.conf", "-x", "--help"])
def test_a_file_that_is_not_there(name):
    status, out, err = run_once([name])
    assert (status, out) == (1, "")
    assert f'[!] Invalid configuration file name "{name}"' in err
    assert re.search(r"(?m)^\[!\] realpath: No such file or directory \(2\)$", err)
    assert IS_STUNNEL or "tlsplice -t [<filename>]" in err, "somebody may have looked for a flag"


def test_a_directory_in_place_of_a_file(tmp_path):
    assert run_once([str(tmp_path)])[0] == 1


def test_fd_wants_a_number():
    status, _, err = run_once(["-fd"])
    assert status == 1
    assert "[!] No file descriptor specified" in err
    assert "-fd <n> | -help | -version | -sockets | -options" in err


@pytest.mark.parametrize("number", ["999", "x", "-1"])
def test_fd_that_is_not_open(number):
    assert run_once(["-fd", number])[0] == 1


@pytest.mark.san
@pytest.mark.valgrind
def test_configuration_from_a_descriptor(bench, pki):
    port, backend = bench.ports(), bench.server(echo)
    read, write_end = os.pipe()
    os.write(write_end, (PREAMBLE + f"[s]\naccept = 127.0.0.1:{port}\nconnect = 127.0.0.1:{backend.port}\n"
                         f"cert = {pki.ec_pem}\n").encode())
    os.close(write_end)
    proxy = bench.proxy("", args=["-fd", str(read)], pass_fds=(read,))
    os.close(read)
    proxy.wait_log(f"Reading configuration from descriptor {read}")
    until(lambda: not bench.ports.free(port))
    bench.client(port).ping()


@pytest.mark.san
def test_surplus_arguments_are_ignored(bench, pki):
    port, backend = bench.ports(), bench.server(echo)
    path = write(bench, PREAMBLE + f"[s]\naccept = 127.0.0.1:{port}\nconnect = 127.0.0.1:{backend.port}\ncert = {pki.ec_pem}\n")
    bench.proxy(f"accept = 127.0.0.1:{port}\n", args=[path, "-nonsense", "b"])
    bench.client(port).ping()


@pytest.mark.san
def test_relative_file_name_is_found_again_by_a_reload(bench, pki):
    port, backend = bench.ports(), bench.server(echo)
    write(bench, PREAMBLE + f"[s]\naccept = 127.0.0.1:{port}\nconnect = 127.0.0.1:{backend.port}\ncert = {pki.ec_pem}\n")
    proxy = bench.proxy(f"accept = 127.0.0.1:{port}\n", args=["file.conf"])
    proxy.send_signal(signal.SIGHUP)
    proxy.wait_log("Configuration successful", 2)
    bench.client(port).ping()


# --- -t and -T ---


@pytest.mark.ours
@pytest.mark.san
@pytest.mark.valgrind
def test_t_tests_a_configuration(bench, pki):
    good, bad = write(bench, minimal(bench, pki), "good.conf"), write(bench, minimal(bench, pki, "nonsense = 1\n"), "bad.conf")
    status, _, err = run_once(["-t", good])
    assert status == 0 and "Configuration successful" in err
    status, _, err = run_once(["-t", bad])
    assert status == 1
    assert re.search(r'(?m)^\[!\] .*bad\.conf:5: "nonsense = 1": Specified option name is not valid here$', err)
    assert re.search(r"(?m)^\[!\] Configuration failed$", err)
    assert run_once(["-t", "/no/such/file"])[0] == 1


@pytest.mark.ours
@pytest.mark.san
def test_t_looks_at_certificates_and_binds_nothing(bench, pki):
    taken = bench.server(echo)
    path = write(bench, f"[s]\naccept = 127.0.0.1:{taken.port}\nconnect = 1\ncert = {pki.ec_pem}\n")
    assert run_once(["-t", path])[0] == 0
    path = write(bench, f"[s]\naccept = 127.0.0.1:{taken.port}\nconnect = 1\ncert = /no/such/cert.pem\n")
    status, _, err = run_once(["-t", path])
    assert status == 1 and "/no/such/cert.pem" in err


@pytest.mark.ours
@pytest.mark.san
@pytest.mark.valgrind
def test_capital_t_prints_what_it_reads_the_same_again(bench, pki):
    """The effective configuration, with defaults: reading it again gives the same."""
    path = write(bench, f"debug = info\nTIMEOUTidle = 77\n{minimal(bench, pki)}[second]\nclient = yes\naccept = 127.0.0.1:{bench.ports()}\n"
                        "connect = 127.0.0.1:2\nsocket = r:SO_KEEPALIVE=1\n")
    status, out, _ = run_once(["-T", path])
    assert status == 0
    assert re.search(r"(?m)^\[s\]$", out) and re.search(r"(?m)^\[second\]$", out)
    assert len(re.findall(r"(?m)^TIMEOUTidle +=\s*77$", out)) >= 1
    again = write(bench, out, "again.conf")
    status, second, _ = run_once(["-T", again])
    assert status == 0
    assert second == out


@pytest.mark.ours
@pytest.mark.san
def test_capital_t_masks_no_secret_into_a_pass_word(bench, pki):
    path = write(bench, minimal(bench, pki, "protocolPassword = hunter2\n"))
    _, out, err = run_once(["-T", path])
    assert "hunter2" not in err


# --- the file ---


@pytest.mark.san
@pytest.mark.parametrize("text, line, said", [
    ("nonsense = 1\n", 1, "Specified option name is not valid here"),
    ("[s]\nforeground = yes\n", 2, "Specified option name is not valid here"),
    ("no equals sign\n", 1, "No '=' found"),
    ("[s]\nclient = no ; comment\n", 2, "The argument needs to be either 'yes' or 'no'"),
    ("debug = 8\n", 1, "Illegal debug level"), ("[s]\ndebug = local3.info\n", 2, "Illegal debug level"),
    ("debug = nofacility.info\n", 1, "Illegal syslog facility"),
    ("[s]\nTIMEOUTidle = 1s\n", 2, "Illegal idle timeout"),
    ("[s]\nsocket = l:so_keepalive=1\n", 2, "Illegal socket option"), ("[s]\nsocket = x:SO_KEEPALIVE=1\n", 2, "Illegal socket option"),
    ("[s]\nsslVersion = SSLv2\n", 2, "Invalid protocol version"), ("[s]\nverify = 5\n", 2, "Bad verify level"),
    ("[s]\nsecurityLevel = 6\n", 2, "Illegal security level"),
    ("[s]\nfailover = random\n", 2, ""), ("taskbar = yes\n", 1, "Specified option name is not valid here"),
])
def test_errors_name_file_and_line(bench, text, line, said):
    path = write(bench, text)
    status, out, err = run_once([path])
    assert (status, out) == (1, "")
    bad = re.escape(text.splitlines()[line - 1])
    assert re.search(rf'(?m)^\[!\] {re.escape(path)}:{line}: "{bad}": .*{re.escape(said)}', err), err
    assert re.search(r"(?m)^\[!\] Configuration failed$", err)


@pytest.mark.san
@pytest.mark.parametrize("section, said", [
    ("[x]\naccept = 127.0.0.1:1\ncert = {cert}\n", "Service [x]: Each service must define two endpoints"),
    ("[x]\nconnect = 127.0.0.1:1\ncert = {cert}\n", "Service [x]: Each service must define two endpoints"),
    ("[x]\naccept = 127.0.0.1:1\nconnect = 2\n", "Service [x]: TLS server needs a certificate"),
    ("[x]\naccept = 127.0.0.1:1\nconnect = 2\ncert = {cert}\nsslVersionMin = TLSv1.3\nsslVersionMax = TLSv1.2\n",
     "Service [x]: Invalid protocol version range"),
    ("[x]\naccept = 127.0.0.1:1\nconnect = 2\ncert = {cert}\nprotocol = nosuch\n", "Service [x]: Protocol not supported"),
])
def test_errors_of_a_whole_section(bench, pki, section, said):
    status, _, err = run_once([write(bench, section.replace("{cert}", pki.ec_pem))])
    assert status == 1
    assert f"[!] {said}" in err and "[!] Configuration failed" in err


@pytest.mark.san
@pytest.mark.parametrize("change", [
    lambda text: text.replace("\n", "\r\n"), lambda text: "\ufeff" + text, lambda text: text.rstrip("\n"),
    lambda text: text.replace("accept", "ACCEPT").replace("connect", "CoNNect"), lambda text: "\n\n;x\n  # y\n" + text,
    lambda text: text.replace(" = ", "="), lambda text: text.replace(" = ", "   =   ").replace("\n", "  \n   "),
    lambda text: text.replace("[s]", "[a name with spaces \u00e9]"), lambda text: text.replace("[s]", "[]"),
    lambda text: text.replace("cert =", "client = yes\nclient = no\ncert ="),
], ids=["crlf", "bom", "no-newline", "case", "comments", "tight", "loose", "utf8-name", "empty-name", "last-wins"])
def test_forms_of_the_same_file(bench, pki, change):
    port, backend = bench.ports(), bench.server(echo)
    text = change(PREAMBLE + f"[s]\naccept = 127.0.0.1:{port}\nconnect = 127.0.0.1:{backend.port}\ncert = {pki.ec_pem}\n")
    path = write(bench, text)
    bench.proxy(f"accept = 127.0.0.1:{port}\n", args=[path])
    bench.client(port).ping()


@pytest.mark.san
def test_two_sections_of_one_name(bench, pki):
    a, b, backend = bench.ports(), bench.ports(), bench.server(echo)
    both = "".join(f"[same]\naccept = 127.0.0.1:{port}\nconnect = 127.0.0.1:{backend.port}\n" for port in (a, b))
    bench.proxy(f"cert = {pki.ec_pem}\n{both}")
    bench.client(a).ping()
    bench.client(b).ping()


@pytest.mark.san
def test_include_directory(bench, pki, tmp_path):
    """Files in byte order; a section opened in one goes on in the next and in the parent."""
    parts, port, backend = tmp_path / "parts", bench.ports(), bench.server(echo)
    parts.mkdir()
    (parts / "20-middle").write_text(f"connect = 127.0.0.1:{backend.port}\n")
    (parts / "10-begin").write_text(f"[s]\naccept = 127.0.0.1:{port}\n")
    (parts / "sub").mkdir()
    proxy = bench.proxy(f"include = {parts}\ncert = {pki.ec_pem}\n", wait=False)
    until(lambda: not bench.ports.free(port))
    proxy.wait_log("Configuration successful")
    bench.client(port).ping()


def test_include_of_nothing(bench):
    out = bench.refused("include = /no/such/directory\n")
    assert re.search(r"\[!\] .*No such file or directory \(2\)", out)
    assert "Failed to include directory" in out


@pytest.mark.ours
@pytest.mark.san
def test_an_include_that_includes_itself_ends(bench, tmp_path):
    parts = tmp_path / "parts"
    parts.mkdir()
    (parts / "a").write_text(f"include = {parts}\n")
    assert "Configuration failed" in bench.refused(f"include = {parts}\n")


@pytest.mark.san
@pytest.mark.parametrize("content", [b"\0" * 1000, b"[" * 100000, b"=" * 40000, b"a" * 20000 + b" = 1\n", b"\xff\xfe\xfd\n" * 500,
                                     b"[s]\n" * 5000, b"cert = " + b"x" * 15000 + b"\n"],
                         ids=["zeros", "brackets", "equals", "long-line", "not-text", "sections", "long-value"])
def test_hostile_files_end_in_an_error(bench, content):
    status, _, err = run_once([write(bench, content)])
    assert status == 1, err[-2000:]
    if not IS_STUNNEL:
        assert "Configuration failed" in err


@pytest.mark.ours
@pytest.mark.san
@pytest.mark.parametrize("option", ["protocol = smtp", "verifyChain = yes\nCAfile = {ca}",
                                    "verifyPeer = yes\nCAfile = {ca}\nredirect = 127.0.0.1:1"])
def test_an_option_that_is_not_built_yet_is_refused(bench, pki, option):
    """Never ignored in silence: either it works or the start ends with one sentence."""
    status, _, err = run_once(["-t", write(bench, minimal(bench, pki, option.format(ca=pki.ca) + "\n"))])
    if status:
        assert re.search(r'option "\w+" is not built yet', err), err


# --- the kernel says no ---


def test_no_io_uring_is_one_clear_sentence(bench, pki, tools):
    """As with kernel.io_uring_disabled = 2: io_uring_setup(2) fails with EPERM."""
    if IS_STUNNEL:
        pytest.skip("stunnel does not use io_uring")
    path = write(bench, PREAMBLE + minimal(bench, pki))
    for error in ("EPERM", "ENOSYS"):
        done = subprocess.run([tools + "/no-io-uring", error, BINARY, path], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, timeout=30 * SLOW, text=True)
        assert done.returncode == 1, done.stdout
        assert len(re.findall(r"(?m)^\[[*!]\] .*io_uring", done.stdout)) == 1, done.stdout


@pytest.mark.ours
def test_report_on_a_kernel_without_io_uring(tools):
    for error in ("EPERM", "ENOSYS"):
        done = subprocess.run([tools + "/no-io-uring", error, BINARY, "-kernel"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, timeout=30 * SLOW, text=True)
        assert done.returncode == 1, done.stdout
        assert "io_uring" in done.stdout.splitlines()[-1] and "multishot" not in done.stdout, done.stdout


# --- what is in the repository ---


@pytest.mark.ours
def test_sample_files_parse(pki):
    """Every file of configs/ is a valid configuration apart from its certificate; test_configs.py starts them."""
    for name in sorted(glob.glob(os.path.join(TOP, "configs", "**", "*.conf"), recursive=True)):
        status, _, err = run_once(["-T", name])
        assert status == 0, (name, err)


def test_wrapper_is_sane():
    assert not WRAPPER or os.access("/usr/bin/valgrind", os.X_OK)
