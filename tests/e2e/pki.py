# Keys and certificates, made by the openssl command when the tests start: nothing secret is committed and nothing expires.
# SPDX-License-Identifier: Apache-2.0
import os
import subprocess

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


def openssl(*args, stdin=None):
    done = subprocess.run(["openssl", *args], input=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    return done.stdout.decode(errors="replace")
