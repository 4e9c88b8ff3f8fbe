/*
 * The report of `tlsplice -kernel`: what it says about kernels of all kinds, and what the trials of the ring find on this one.
 * Run by `make unit`.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "kernel.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { COLUMNS_MAX = 130 };

static char *report(const struct kernel_found *found)
{
	char *text = NULL;
	size_t size;
	FILE *out = open_memstream(&text, &size);

	kernel_print(out, found);
	fclose(out);
	return text;
}

/* A kernel that has everything, of which a test takes something away. */
static struct kernel_found everything(void)
{
	struct kernel_found found = {
		.release = "7.3.4",
		.machine = "x86_64",
		.gcm = "generic-gcm-vaes-avx512",
		.aes = true,
		.vaes = true,
		.guard_pages = true,
		.transparent = true,
		.pipe_pages_soft = 16384,
		.memlock = -1,
		.descriptors = 1048576,
		.clients = 512000,
		.ktls = {.rekey = true, .no_pad = true},
	};

	for (int i = 0; i < RING_FEATURES; i++)
		found.ring.has[i] = true;
	for (int direction = 0; direction < KTLS_DIRECTIONS; direction++)
		for (int version = 0; version < KTLS_VERSIONS; version++)
			for (int cipher = 0; cipher < AEAD_CIPHERS; cipher++)
				found.ktls.cipher[direction][version][cipher] = true;
	return found;
}

/* A line of the report that begins with one text, after spaces, and has another in it. */
static bool says(const char *text, const char *what, const char *use)
{
	for (const char *line = text; line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL) {
		size_t n = strcspn(line, "\n");
		const char *at = line + strspn(line, " ");

		if (strncmp(at, what, strlen(what)) == 0 && memmem(line, n, use, strlen(use)))
			return true;
	}
	return false;
}

#define cr_says(found, what, use)                                                  \
	do {                                                                       \
		char *text_ = report(found);                                       \
                                                                                   \
		cr_assert(says(text_, what, use), "%s: %s\n%s", what, use, text_); \
		free(text_);                                                       \
	} while (0)

Test(kernel, tls_of_a_new_kernel)
{
	struct kernel_found found = everything();

	cr_says(&found, "tlsplice", "on Linux 7.3.4, x86_64");
	cr_says(&found, "AES-128-GCM", "send 1.2 1.3, receive 1.2 1.3  ktls = auto: in the kernel");
	cr_says(&found, "new keys after a KeyUpdate", "auto includes TLS 1.3");
	found.accelerated[AEAD_AES_128_GCM] = true;
	cr_says(&found, "AES-128-GCM", "ktls = auto: in user space, which is faster with it");
	cr_says(&found, "AES-256-GCM", "ktls = auto: in the kernel");
	cr_says(&found, "ktls = yes", "where a KeyUpdate changes the keys");
	cr_says(&found, "poll", "readable when a record is whole");
}

Test(kernel, tls_of_an_old_kernel)
{
	struct kernel_found found = everything();

	found.ktls.rekey = false;
	found.ktls.tells_partial = true;
	found.ktls.cipher[KTLS_RECEIVE][KTLS_13][AEAD_AES_256_GCM] = false;
	found.ktls.cipher[KTLS_RECEIVE][KTLS_12][AEAD_CHACHA20_POLY1305] = false;
	cr_says(&found, "AES-128-GCM", "ktls = auto: TLS 1.2 in the kernel, TLS 1.3 in user space");
	cr_says(&found, "AES-256-GCM", "send 1.2 1.3, receive 1.2");
	cr_says(&found, "CHACHA20-POLY1305", "send 1.2 1.3, receive 1.3");
	cr_says(&found, "CHACHA20-POLY1305", "ktls = auto: in user space");
	cr_says(&found, "new keys after a KeyUpdate", "leaves TLS 1.3 in user space");
	cr_says(&found, "ktls = yes", "ends it cleanly, and is logged");
	cr_says(&found, "poll", "a wake-up for nothing");
}

Test(kernel, one_version_in_one_direction)
{
	struct kernel_found found = everything();

	memset(found.ktls.cipher, 0, sizeof(found.ktls.cipher));
	found.ktls.cipher[KTLS_SEND][KTLS_13][AEAD_AES_128_GCM] = true;
	cr_says(&found, "AES-128-GCM", "send 1.3, receive - ");
	cr_says(&found, "AES-128-GCM", "ktls = auto: in user space");
	found.ktls.cipher[KTLS_RECEIVE][KTLS_13][AEAD_AES_128_GCM] = true;
	cr_says(&found, "AES-128-GCM", "ktls = auto: TLS 1.3 in the kernel, TLS 1.2 in user space");
}

Test(kernel, without_tls)
{
	struct kernel_found found = everything();

	found.ktls = (struct ktls_support){.error = -ENOENT};
	cr_says(&found, "sockets with TLS", "no");
	cr_says(&found, "this kernel has no TLS", "modprobe tls");
}

Test(kernel, without_io_uring)
{
	struct kernel_found found = everything();
	char *text;

	found.ring = (struct ring_support){.error = -EPERM};
	found.uring_disabled = 2;
	cr_says(&found, "kernel.io_uring_disabled", "for nobody");
	cr_says(&found, "a ring", "tlsplice does not start");
	cr_says(&found, "io_uring is switched off", "kernel.io_uring_disabled");
	text = report(&found);
	cr_assert_not(strstr(text, "multishot"), "%s", text);
	free(text);
}

Test(kernel, ring)
{
	struct kernel_found found = everything();

	cr_says(&found, "SEND_ZC", "yes");
	cr_says(&found, "SEND_ZC", "not used: ");
	cr_says(&found, "SPLICE", "relay = uring-splice");
	memset(found.ring.has, 0, sizeof(found.ring.has));
	cr_says(&found, "multishot recvmsg", "kernel TLS cannot be used without it");
	cr_says(&found, "SPLICE", "cannot be used");
}

Test(kernel, ciphers)
{
	static const struct {
		const char *driver, *said;
	} kinds[] = {
		{"generic-gcm-vaes-avx512", "vector AES"},
		{"generic-gcm-aesni", "the processor's AES"},
		{"gcm-aes-ce", "the processor's AES"},
		{"gcm_base(ctr(aes-generic),ghash-generic)", "plain C"},
		{"qat_aes_gcm", "whatever"},
		{"", "not known"},
	};
	struct kernel_found found = everything();

	for (size_t i = 0; i < sizeof(kinds) / sizeof(*kinds); i++) {
		snprintf(found.gcm, sizeof(found.gcm), "%s", kinds[i].driver);
		cr_says(&found, "the kernel's gcm(aes)", kinds[i].said);
	}
}

Test(kernel, limits)
{
	struct kernel_found found = everything();

	cr_says(&found, "fs.pipe-user-pages-soft", "1024 pipes of 64 KiB");
	cr_says(&found, "descriptors", "room for 512000 connections");
	cr_says(&found, "locked memory", "no limit");
	found.pipe_pages_soft = 0;
	cr_says(&found, "fs.pipe-user-pages-soft", "without limit");
	found.pipe_pages_soft = -1;
	cr_says(&found, "fs.pipe-user-pages-soft", "not there");
	found.guard_pages = false;
	cr_says(&found, "MADV_GUARD_INSTALL", "mprotect");
}

Test(kernel, lines_are_short)
{
	struct kernel_found found = everything();

	for (int rekey = 0; rekey < 2; rekey++) {
		char *text;

		found.ktls.rekey = rekey;
		text = report(&found);
		for (const char *line = text; *line; line += strcspn(line, "\n") + 1)
			cr_assert_leq(strcspn(line, "\n"), COLUMNS_MAX, "%s", line);
		free(text);
	}
}

Test(kernel, ring_of_this_kernel)
{
	struct ring_support support;

	ring_probe(&support);
	if (support.error)
		return; /* not allowed here: test_ring says it more clearly */
	for (int i = RING_DEFER_TASKRUN; i <= RING_RECVMSG_MANY; i++)
		cr_assert(support.has[i], "feature %d", i);
	cr_assert(support.has[RING_SEND_ZC] && support.has[RING_SPLICE]);
}
