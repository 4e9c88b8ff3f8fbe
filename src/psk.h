/*
 * Pre-shared keys: the file of the option `PSKsecrets`, read once with the configuration, in whose arena it lives and is wiped.
 * Read by config*.c, looked into by tls_psk.c.
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TLSPLICE_PSK_H
#define TLSPLICE_PSK_H

#include <stdbool.h>
#include <stddef.h>

struct arena;

enum {
	PSK_IDENTITY_BYTES = 255,
	PSK_KEY_MIN = 16,
	PSK_KEY_MAX = 512, /* what OpenSSL 3 takes */
	PSK_FILE_MAX = 16 << 20,
};

struct psk {
	const char *identity;
	const unsigned char *key;
	size_t key_len;
	unsigned line; /* of the file */
};

/* All keys of a file. */
struct psks {
	const struct psk *first; /* in the order of the file */
	struct psk *sorted;      /* by identity */
	size_t count;
};

/*
 * Reads lines of "identity:key" from n bytes of text; the key is hexadecimal, with colons between bytes if you like, or else the very bytes.
 * Returns NULL after logging at LOG_ERR what is wrong, without quoting any key.
 */
struct psks *psks_parse(struct arena *arena, const char *text, size_t n);

/* The same from a file; warns if everybody may read it. */
struct psks *psks_load(struct arena *arena, const char *path);

/* The key of an identity, or NULL. */
const struct psk *psks_find(const struct psks *psks, const char *identity);

#endif
