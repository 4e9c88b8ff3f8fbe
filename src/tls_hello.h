/*
 * What a ClientHello says before anything of it is acted on: the server name, and which section it chooses. For tls*.c and tests only.
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TLSPLICE_TLS_HELLO_H
#define TLSPLICE_TLS_HELLO_H

#include "tls.h"

#include <openssl/types.h>

/* A host name has 253 bytes at most; OpenSSL takes 255, and so do we. */
enum { SERVER_NAME_MAX = 255 };

/*
 * The one host name in the n bytes of a server_name extension (RFC 6066 section 3), as a string. False: the extension is malformed, or
 * holds anything but one host name of 1 to SERVER_NAME_MAX bytes without a NUL in it.
 */
bool hello_server_name(const unsigned char *extension, size_t n, char name[SERVER_NAME_MAX + 1]);

/* Whether a pattern of the option `sni` means a name: the whole of it or, after a leading star, its end. The case of ASCII letters does not count. */
bool hello_matches(const char *pattern, const char *name);

/* The first virtual host of the section whose pattern means the name, or NULL. */
const struct virtual_host *hello_find(const struct section *section, const char *name);

/* Has the contexts of a server section look at each ClientHello first: see TLS_CHOSE. */
void tls_hello_install(SSL_CTX *ctx);

#endif
