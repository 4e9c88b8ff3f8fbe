/*
 * `tlsplice -kernel`: what the running kernel offers, and what of it is used. For main.c and doctor*.c.
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TLSPLICE_KERNEL_H
#define TLSPLICE_KERNEL_H

#include "ktls.h"
#include "ring_probe.h"

#include <stdbool.h>
#include <stdio.h>

/* What was found; see kernel_find(). */
struct kernel_found {
	char release[65], machine[65];
	struct ring_support ring;
	struct ktls_support ktls;
	bool accelerated[AEAD_CIPHERS]; /* user space has faster code than the kernel's and OpenSSL's */
	char gcm[128];        /* the kernel's driver of AES-GCM; "" where it cannot be read */
	bool aes, vaes;       /* instructions of the processor */
	bool guard_pages;     /* MADV_GUARD_INSTALL */
	bool transparent;     /* this process may set IP_TRANSPARENT */
	long uring_disabled;  /* sysctl kernel.io_uring_disabled; -1: not there */
	long pipe_pages_soft; /* sysctl fs.pipe-user-pages-soft; -1: not there, 0: no limit */
	long long memlock;    /* limits of the process, -1: none */
	long long descriptors;
	unsigned clients; /* connections that this many descriptors allow */
};

/* Prints the report. False: there is no io_uring, so that tlsplice does not run here; the report's last line says why. */
bool kernel_report(FILE *out);

/* The two halves of it. */
void kernel_find(struct kernel_found *found);
void kernel_print(FILE *out, const struct kernel_found *found);

/* The number in a file of /proc, or -1: not there. */
long kernel_number_in(const char *path);

#endif
