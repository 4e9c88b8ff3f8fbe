/*
 * What tls.c needs of the record engine `openssl`: its BIO. Nobody else includes this.
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TLSPLICE_RECORD_OPENSSL_H
#define TLSPLICE_RECORD_OPENSSL_H

#include "record.h"

#include <openssl/types.h>
#include <stdbool.h>

/* Makes the BIO method, once per process. False: no memory. */
bool record_bio_init(void);

/* A BIO that reads from record->in and writes to record->out; NULL: no memory. The SSL object owns it. */
BIO *record_bio_new(struct record *record);

#endif
