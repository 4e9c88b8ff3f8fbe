/*
 * Engines of OpenSSL: loaded as the configuration says, with keys and certificates in them. For tls*.c only, in the main thread; an engine's
 * keys may be used by all threads.
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TLSPLICE_TLS_ENGINE_H
#define TLSPLICE_TLS_ENGINE_H

#include <openssl/types.h>
#include <stdbool.h>

/* The options `engine`, `engineCtrl` and `engineDefault`: act at once. Return NULL, or what is wrong; the details have been logged. */
const char *tls_engine_open(const char *id); /* "auto": those that OpenSSL knows already */
const char *tls_engine_control(const char *command);
const char *tls_engine_default(const char *tasks);

/* Initialises the engine opened last; a failure is logged, and shows again where the engine is used. */
void tls_engine_settle(void);

/* Engines are numbered from 1 in the order in which they were opened. tls_engine_find() returns 0 when there is none of that id. */
unsigned tls_engine_count(void);
unsigned tls_engine_find(const char *id);

/* A certificate or key by the id it has in the engine. NULL: the engine does not have it; the reason is in OpenSSL's error queue. */
X509 *tls_engine_cert(unsigned number, const char *id);
EVP_PKEY *tls_engine_key(unsigned number, const char *id, UI_METHOD *ui);

#endif
