/*
 * How tls.c hands a connection over to the record engine `inplace`.
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TLSPLICE_RECORD_INPLACE_H
#define TLSPLICE_RECORD_INPLACE_H

#include "record.h"
#include "tls_traffic.h"

#include <openssl/types.h>
#include <stdbool.h>

struct inplace;

/*
 * Takes the keys and record numbers of an established connection. Returns NULL if the cipher is not one of ours or something
 * fails; the connection is as it was then. OpenSSL must not touch the connection any more once the engine is used.
 */
struct inplace *inplace_new(const SSL *ssl, const struct tls_traffic *traffic, bool client);

/* Wipes the keys. inplace_free(NULL) is fine. */
void inplace_free(struct inplace *inplace);

/* TLS 1.3: after this many records of ours a KeyUpdate is sent. Tests lower it. */
extern uint64_t inplace_records_per_key;

extern const struct record_engine record_inplace;

#endif
