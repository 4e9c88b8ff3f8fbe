/*
 * For the tests of records by the kernel: a kernel of our own in place of ktls.c, which notes what it is given, can be told to refuse, and makes
 * records with the keys that it has got. Included by tests/unit/test_kernel_records.c and tests/fuzz/fuzz_kernel_records.c only.
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TLSPLICE_KTLS_FAKE_H
#define TLSPLICE_KTLS_FAKE_H

#include "ktls.h"
#include "record_testing.h"

#include <errno.h>

static struct fake {
	struct ktls_support support;
	int fd; /* of the socket that is attached */
	bool attached;
	unsigned attaches, installs[KTLS_DIRECTIONS];
	unsigned fail_in; /* attaches and installs until one fails; 0: none */
	int fail_with;
	uint64_t sequence[KTLS_DIRECTIONS]; /* as of the last install */
	struct forger records;              /* tx: what it sends, rx: what it receives */
	bool paused;                        /* a KeyUpdate has gone by, and no new key has come: Linux 6.14 */
	bool error;                         /* a record was refused: lies on the socket */
	unsigned cleared;
} fake;

/* Everything is supported, and nothing has been asked for yet. */
static inline void fake_reset(void)
{
	fake = (struct fake){.support = {.rekey = true, .no_pad = true}};
	for (int direction = 0; direction < KTLS_DIRECTIONS; direction++)
		for (int version = 0; version < KTLS_VERSIONS; version++)
			for (int cipher = 0; cipher < AEAD_CIPHERS; cipher++)
				fake.support.cipher[direction][version][cipher] = true;
}

static inline bool fake_fails(void)
{
	return fake.fail_in > 0 && --fake.fail_in == 0;
}

const char *const ktls_direction_names[KTLS_DIRECTIONS] = {"tx", "rx"};

const struct ktls_outcome_text ktls_outcomes[KTLS_OUTCOME_COUNT] = {
#define X(name, word, why) {word, why},
	KTLS_OUTCOMES(X)
#undef X
};

const struct ktls_support *ktls_support(void)
{
	return &fake.support;
}

const char *ktls_cipher_name(enum aead_cipher cipher)
{
	return cipher == AEAD_AES_128_CCM ? "CCM" : "a cipher";
}

int ktls_attach(int fd)
{
	if (fake_fails())
		return fake.fail_with;
	fake.attaches++;
	fake.attached = true;
	fake.fd = fd;
	return 0;
}

/* What a second installation comes to: Linux takes keys of TLS 1.3, of the same cipher, from 6.14 on. */
static inline int fake_again(enum ktls_version version, enum aead_cipher cipher)
{
	if (version != KTLS_13 || !fake.support.rekey)
		return -EBUSY;
	return cipher == fake.records.cipher ? 0 : -EINVAL;
}

int ktls_install(int fd, enum ktls_direction direction, enum ktls_version version, enum aead_cipher cipher,
                 const struct tls_keys *keys, uint64_t sequence)
{
	struct forger_half *half = direction == KTLS_SEND ? &fake.records.tx : &fake.records.rx;
	int error = fake.installs[direction] ? fake_again(version, cipher) : 0;

	if (fake_fails())
		return fake.fail_with;
	if (!fake.attached || fd != fake.fd)
		return -ENOPROTOOPT;
	if (!error && !fake.support.cipher[direction][version][cipher])
		error = -EINVAL;
	if (error)
		return error;
	fake.records.tls13 = version == KTLS_13;
	fake.records.cipher = cipher;
	fake.records.explicit_nonce = version == KTLS_12 && cipher != AEAD_CHACHA20_POLY1305;
	half->keys = *keys;
	half->sequence = fake.sequence[direction] = sequence;
	fake.installs[direction]++;
	if (direction == KTLS_RECEIVE)
		fake.paused = false;
	return 0;
}

int ktls_sequence(int fd, enum ktls_direction direction, enum aead_cipher cipher, uint64_t *sequence)
{
	const struct forger_half *half = direction == KTLS_SEND ? &fake.records.tx : &fake.records.rx;

	if (fake_fails())
		return fake.fail_with;
	if (fd != fake.fd || cipher != fake.records.cipher || !fake.installs[direction])
		return -EINVAL;
	*sequence = half->sequence;
	return 0;
}

bool ktls_clear_error(int fd)
{
	bool was = fd == fake.fd && fake.error;

	fake.cleared++;
	fake.error = false;
	return was;
}

#endif
