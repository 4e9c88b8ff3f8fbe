/*
 * Kernel TLS: what this kernel can do, and the system calls a TLS socket takes. The only file that sees <linux/tls.h>.
 * Callers: record_kernel.c gives keys, end.c reads and writes records, `tlsplice -kernel` reports. kernel-notes/ktls.md has the traps.
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TLSPLICE_KTLS_H
#define TLSPLICE_KTLS_H

#include "aead.h"
#include "tls_traffic.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum ktls_direction { KTLS_SEND, KTLS_RECEIVE, KTLS_DIRECTIONS };
enum ktls_version { KTLS_12, KTLS_13, KTLS_VERSIONS };

/* Where a direction's records are made, or why not in the kernel: word for metrics, sentence for the log. */
#define KTLS_OUTCOMES(X)                                                                                       \
	X(KERNEL, "kernel", "in the kernel")                                                                   \
	X(OFF, "off", "the configuration says so")                                                             \
	X(UNSUPPORTED, "unsupported", "this kernel has no TLS")                                                \
	X(VERSION, "version", "the kernel has no TLS older than 1.2")                                          \
	X(CIPHER, "cipher", "the kernel does not have the cipher")                                             \
	X(REKEY, "rekey", "this kernel cannot change the keys of TLS 1.3, Linux 6.14 can")                     \
	X(INPLACE, "inplace", "user space has faster code for the cipher")                                     \
	X(OPTIONS, "options", "something in the configuration needs OpenSSL")                                  \
	X(FRAGMENT, "fragment", "the peers have agreed on short records")                                      \
	X(REFUSED, "refused", "the kernel refused")                                                            \
	X(SHORT, "short", "it ended before ktlsAfter bytes")

enum ktls_outcome {
#define X(name, word, why) KTLS_##name,
	KTLS_OUTCOMES(X)
#undef X
		KTLS_OUTCOME_COUNT
};

extern const char *const ktls_direction_names[]; /* "tx", "rx" */
extern const struct ktls_outcome_text {
	const char *word, *why;
} ktls_outcomes[KTLS_OUTCOME_COUNT];

/* What the kernel that runs has. Found out by trying, on sockets of our own. */
struct ktls_support {
	int error; /* 0, or why there is no kernel TLS at all: -errno */
	bool cipher[KTLS_DIRECTIONS][KTLS_VERSIONS][AEAD_CIPHERS];
	bool rekey;         /* TLS 1.3: takes new keys after a KeyUpdate (Linux 6.14) */
	bool no_pad;        /* TLS_RX_EXPECT_NO_PAD (Linux 6.0) works: decrypts TLS 1.3 straight into the reader's memory */
	bool tells_partial; /* poll(2) says "readable" while only a part of a record is there (before Linux 6.12) */
};

/* Tries everything once; called before threads are started. Loads the kernel's module if it may. */
void ktls_probe(void);
const struct ktls_support *ktls_support(void);

/* A sentence for ktls_support()->error. */
const char *ktls_explain(int error);

/* "AES-128-GCM" */
const char *ktls_cipher_name(enum aead_cipher cipher);

/*
 * Makes a connected TCP socket one of kernel TLS, which changes nothing until keys are installed. It cannot be undone.
 * Harmless if it is one already. Returns 0 or -errno.
 */
int ktls_attach(int fd);

/*
 * Installs a direction's keys; `sequence` is the number of its next record. Again on the same socket: new keys after a KeyUpdate, where
 * ktls_support()->rekey. Returns 0 or -errno, and then nothing has changed. See Documentation/networking/tls.rst of Linux.
 */
int ktls_install(int fd, enum ktls_direction direction, enum ktls_version version, enum aead_cipher cipher, const struct tls_keys *keys,
                 uint64_t sequence);

/* The number of a direction's next record, as the kernel counts. Returns 0 or -errno. */
int ktls_sequence(int fd, enum ktls_direction direction, enum aead_cipher cipher, uint64_t *sequence);

/*
 * Reads what is there, up to n bytes, of records of one type, without waiting. Returns as ktls_result(), -EAGAIN if nothing is there, else
 * -errno. On a socket without keys for receiving it is recv(2).
 */
long ktls_read(int fd, void *data, size_t n, unsigned char *type);

/* Sends one record of a content type other than application data, without waiting. Returns 0 or -errno (-EAGAIN: no room now). */
int ktls_write_record(int fd, unsigned char type, const void *data, size_t n);

/*
 * What a read of n bytes, with the content type that came with them (0: none), means: bytes, and then application data is type 0; 0 at the end of
 * the stream, -EAGAIN for an empty record of application data, -EPROTO for any other empty one, which may not be (RFC 8446 5.1).
 */
long ktls_result(long n, unsigned char *type);

/*
 * A record that was refused leaves its error on the socket, and nothing can be sent any more. Takes it off, so that an alert still can. Returns whether
 * there was one.
 */
bool ktls_clear_error(int fd);

/* The content type in a control message that the kernel filled, or 0. `control` as msg_control(3), of CMSG_SPACE(1) bytes. */
unsigned char ktls_control_type(const void *control, size_t n);

#ifdef RING_FAULTS
/* Test builds: the nth system call that gives the kernel something (attach, install) fails with -error. 
 * ktls_probe() takes them from the environment: TLSPLICE_FAIL_KTLS=NTH[:ERRNO], counted from its end. */
void ktls_fail_nth(unsigned long nth, int error);
#endif

#endif
