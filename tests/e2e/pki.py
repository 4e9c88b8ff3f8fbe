# Keys and certificates, made by the openssl command when the tests start: nothing secret is committed and nothing expires.
# Pki has what every test uses; Pki.trust, made when it is first wanted, the certificates that tests of verification need.
# SPDX-License-Identifier: Apache-2.0
import functools
import os
import subprocess
import time

PASSWORD = "correct horse"

EXTENSIONS = """
[server]
subjectAltName = DNS:localhost, DNS:*.example.test, IP:127.0.0.1, IP:::1
[ca]
basicConstraints = critical, CA:true
keyUsage = keyCertSign, cRLSign
[client]
extendedKeyUsage = clientAuth
"""


class Pki:
    """Every attribute is the path of a file; *_pem files hold certificate and key."""

    def __init__(self, directory):
        self.directory = str(directory)
        self.extensions = self.path("extensions.cnf")
        with open(self.extensions, "w") as file:
            file.write(EXTENSIONS)
        self.ca = self.certificate("ca", "/CN=Test CA", section="ca", ec=True)
        self.other_ca = self.certificate("other_ca", "/CN=Another CA", section="ca", ec=True)
        self.intermediate = self.certificate("intermediate", "/CN=Intermediate", section="ca", issuer="ca", ec=True)
        self.rsa = self.certificate("rsa", "/CN=localhost", section="server", issuer="ca")
        self.ec = self.certificate("ec", "/CN=localhost", section="server", issuer="ca", ec=True)
        self.leaf = self.certificate("leaf", "/CN=localhost", section="server", issuer="intermediate", ec=True)
        self.client = self.certificate("client", "/CN=a client", section="client", issuer="ca", ec=True)
        self.rsa_key, self.ec_key, self.leaf_key = (self.path(name + ".key") for name in ("rsa", "ec", "leaf"))
        self.rsa_pem = self.join("rsa.pem", self.rsa, self.rsa_key)
        self.ec_pem = self.join("ec.pem", self.ec, self.ec_key)
        self.client_pem = self.join("client.pem", self.client, self.path("client.key"))
        self.chain_pem = self.join("chain.pem", self.leaf, self.intermediate, self.leaf_key)
        self.chain = self.join("chain.crt", self.leaf, self.intermediate)
        self.bundle = self.join("bundle.crt", self.ca, self.intermediate)
        self.encrypted_key = self.path("encrypted.key")
        openssl("pkey", "-in", self.ec_key, "-aes256", "-passout", "pass:" + PASSWORD, "-out", self.encrypted_key)
        self.encrypted_pem = self.join("encrypted.pem", self.ec, self.encrypted_key)
        self.p12 = self.pkcs12("plain.p12", "")
        self.p12_password = self.pkcs12("password.p12", PASSWORD)
        self.p12_chain = self.pkcs12("chain.p12", "", self.leaf, self.leaf_key, self.intermediate)

    @functools.cached_property
    def trust(self):
        return Trust(self)

    def path(self, name):
        return os.path.join(self.directory, name)

    def certificate(self, name, subject, section, issuer=None, ec=False):
        key, request, out = self.path(name + ".key"), self.path(name + ".csr"), self.path(name + ".crt")
        kind = ["ec", "-pkeyopt", "ec_paramgen_curve:P-256"] if ec else ["rsa:2048"]
        openssl("req", "-new", "-newkey", *kind, "-nodes", "-subj", subject, "-keyout", key, "-out", request)
        signer = (["-CA", self.path(issuer + ".crt"), "-CAkey", self.path(issuer + ".key"), "-CAcreateserial"] if issuer
                  else ["-signkey", key])
        openssl("x509", "-req", "-in", request, "-days", "2", *signer, "-extfile", self.extensions, "-extensions", section,
                "-out", out)
        os.chmod(key, 0o600)
        return out

    def join(self, name, *parts):
        out = self.path(name)
        with open(out, "w") as file:
            os.fchmod(file.fileno(), 0o600)
            for part in parts:
                with open(part) as source:
                    file.write(source.read())
        return out

    def pkcs12(self, name, password, certificate=None, key=None, *chain):
        out = self.path(name)
        extra = [item for path in chain for item in ("-certfile", path)]
        openssl("pkcs12", "-export", "-in", certificate or self.ec, "-inkey", key or self.ec_key, *extra,
                "-passout", "pass:" + password, "-out", out)
        return out


LEAF = "basicConstraints = CA:false\n"
CA = "basicConstraints = critical, CA:true\nkeyUsage = keyCertSign, cRLSign\n"

KINDS = {"ec": ["ec", "-pkeyopt", "ec_paramgen_curve:P-256"], "p384": ["ec", "-pkeyopt", "ec_paramgen_curve:P-384"], "rsa": ["rsa:2048"],
         "rsa4096": ["rsa:4096"], "ed25519": ["ed25519"]}


class Trust:
    """
    root signs intermediate, intermediate signs the leafs. .issue() makes one more certificate and returns its name; NAME.crt, NAME.key and NAME.pem
    (certificate, its chain without the root, key) are then in .directory, see .crt(), .key() and .pem(). Made once for all tests.
    """

    def __init__(self, pki):
        self.directory = os.path.join(pki.directory, "trust")
        os.mkdir(self.directory)
        self.made, self.issuers, self.serials = {}, {}, {}
        self.root = self.issue("root", "/C=PL/O=Wire/CN=Root", extensions=CA)
        self.other = self.issue("other", "/CN=Other root", extensions=CA)
        self.intermediate = self.issue("intermediate", "/C=PL/O=Wire/CN=Intermediate", issuer="root", extensions=CA)

    def path(self, name):
        return os.path.join(self.directory, name)

    def crt(self, name):
        return self.path(name + ".crt")

    def key(self, name):
        return self.path(name + ".key")

    def pem(self, name):
        return self.path(name + ".pem")

    def issue(self, name, subject=None, issuer=None, extensions=LEAF, kind="ec", key_of=None, start=-1, end=2, chain=True):
        """A certificate, valid from `start` to `end` days from now. Without issuer it is self-signed. key_of: it has that certificate's key."""
        if name in self.made:
            return name
        key, request, config = self.path((key_of or name) + ".key"), self.path(name + ".csr"), self.path(name + ".cnf")
        subject = subject or f"/C=PL/O=Wire/OU=leaf/CN={name}"
        new = ["-key", key] if key_of else ["-newkey", *KINDS[kind], "-nodes", "-keyout", key]
        openssl("req", "-new", *new, "-utf8", "-subj", subject, "-out", request)
        serial = self.serials[name] = 0x1000 + len(self.made)
        with open(config, "w") as file:
            file.write(f"[ca]\ndefault_ca = a\n[a]\nnew_certs_dir = {self.directory}\ndatabase = {self.path(name + '.index')}\n"
                       f"serial = {self.path(name + '.serial')}\ndefault_md = sha256\npolicy = any\nemail_in_dn = yes\n"
                       f"unique_subject = no\nstring_mask = utf8only\nutf8 = yes\npreserve = yes\n[any]\n[x]\nsubjectKeyIdentifier = hash\n{extensions}")
        with open(self.path(name + ".index"), "w"), open(self.path(name + ".serial"), "w") as file:
            file.write(f"{serial:X}\n")
        signer = ["-cert", self.crt(issuer), "-keyfile", self.key(issuer)] if issuer else ["-selfsign", "-keyfile", key]
        openssl("ca", "-config", config, "-batch", "-notext", "-in", request, *signer, "-extensions", "x", "-preserveDN",
                "-startdate", when(start), "-enddate", when(end), "-out", self.crt(name))
        os.unlink(self.path(f"{serial:X}.pem"))
        os.chmod(key, 0o600)
        self.issuers[name] = issuer
        self._bundle(name, key, chain)
        self.made[name] = True
        return name

    def _bundle(self, name, key, chain):
        links, issuer = [self.crt(name)], self.issuers[name]
        while chain and issuer and self.issuers[issuer]:
            links.append(self.crt(issuer))
            issuer = self.issuers[issuer]
        self.join(name + ".pem", *links, key)

    def join(self, name, *parts):
        with open(self.path(name), "w") as file:
            os.fchmod(file.fileno(), 0o600)
            for part in parts:
                with open(part) as source:
                    file.write(source.read())
        return self.path(name)

    def doctored(self, name, of, old, new):
        """The certificate `of` with other bytes of the same length in it, signed once more by its issuer: what no command would issue."""
        if name in self.made:
            return name
        der = subprocess.run(["openssl", "x509", "-in", self.crt(of), "-outform", "DER"], stdout=subprocess.PIPE, check=True).stdout
        assert old in der and len(old) == len(new)
        body = der_value(der)
        tbs = der_take(body)[0].replace(old, new)
        algorithm = der_take(der_take(body)[1])[0]
        with open(self.path(name + ".tbs"), "wb") as file:
            file.write(tbs)
        signature = subprocess.run(["openssl", "dgst", "-sha256", "-sign", self.key(self.issuers[of]), self.path(name + ".tbs")],
                                   stdout=subprocess.PIPE, check=True).stdout
        with open(self.path(name + ".der"), "wb") as file:
            file.write(der_make(0x30, tbs + algorithm + der_make(0x03, b"\0" + signature)))
        openssl("x509", "-in", self.path(name + ".der"), "-inform", "DER", "-out", self.crt(name))
        self.issuers[name] = self.issuers[of]
        self.serials[name] = self.serials[of]
        self.join(name + ".key", self.key(of))
        self._bundle(name, self.key(name), True)
        self.made[name] = True
        return name

    def crl(self, name, issuer, revoked=(), start=-1, end=2, keyid=True):
        """A revocation list of an issuer, valid from `start` to `end` days from now, as a PEM file. Without keyid it says the issuer's name only."""
        index, config, out = self.path(name + ".crl-index"), self.path(name + ".crl-cnf"), self.path(name + ".crl")
        with open(index, "w") as file:
            for each in revoked:
                file.write(f"R\t{when(2)[2:]}\t{when(-0.5)[2:]}\t{self.serials[each]:X}\tunknown\t/CN={each}\n")
        with open(config, "w") as file:
            file.write(f"[ca]\ndefault_ca = a\n[a]\ndatabase = {index}\ndefault_md = sha256\n" +
                       ("crl_extensions = x\n[x]\nauthorityKeyIdentifier = keyid\n" if keyid else ""))
        openssl("ca", "-config", config, "-gencrl", "-cert", self.crt(issuer), "-keyfile", self.key(issuer),
                "-crl_lastupdate", when(start), "-crl_nextupdate", when(end), "-out", out)
        return out

    def hashed(self, directory, *files):
        """A directory whose files are named as `openssl rehash` does."""
        os.makedirs(directory, exist_ok=True)
        for path in files:
            what, suffix = ("crl", ".r") if path.endswith(".crl") else ("x509", ".")
            name = openssl(what, "-in", path, "-noout", "-hash").strip() + suffix
            number = 0
            while os.path.exists(os.path.join(directory, f"{name}{number}")):
                number += 1
            with open(path) as source, open(os.path.join(directory, f"{name}{number}"), "w") as file:
                file.write(source.read())
        return str(directory)


def when(days):
    """A time as ASN.1 writes it."""
    return time.strftime("%Y%m%d%H%M%SZ", time.gmtime(time.time() + days * 86400))


def der_make(tag, value):
    n = len(value)
    size = bytes([n]) if n < 128 else bytes([0x80 | (n.bit_length() + 7) // 8]) + n.to_bytes((n.bit_length() + 7) // 8, "big")
    return bytes([tag]) + size + value


def der_take(data):
    """The first element, tag and length included, and what follows it."""
    n, header = data[1], 2
    if n & 0x80:
        header += n & 0x7f
        n = int.from_bytes(data[2:header], "big")
    return data[:header + n], data[header + n:]


def der_value(data):
    element, _ = der_take(data)
    header = 2 + (element[1] & 0x7f if element[1] & 0x80 else 0)
    return element[header:]


def openssl(*args, stdin=None):
    done = subprocess.run(["openssl", *args], input=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    return done.stdout.decode(errors="replace")
