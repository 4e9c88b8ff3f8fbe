/*
 * Questions to whoever is at the terminal: pass phrases and PINs. For tls*.c only, in the main thread.
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TLSPLICE_TLS_PROMPT_H
#define TLSPLICE_TLS_PROMPT_H

#include <openssl/types.h>
#include <stdbool.h>
#include <stddef.h>

enum { TLS_PASSPHRASE_MAX = 1024 };

/* How OpenSSL, an engine or a provider asks. Lives as long as the process; NULL: no memory. */
UI_METHOD *tls_prompt_method(void);

/*
 * Before a secret may be needed. `pin`: the question will be for the PIN of a token. `of`: what the secret opens, unless OpenSSL knows better; may be NULL.
 * `answer`, unless NULL or empty: what to say without asking. Both must stay until tls_prompt_end().
 */
void tls_prompt_begin(bool pin, const char *of, const char *answer);

/* Whether somebody was asked since, and what the answer was, "" if there was none. */
bool tls_prompt_asked(void);
const char *tls_prompt_answer(void);

/* Wipes the answer. */
void tls_prompt_end(void);

/*
 * Right answers to questions are kept for the pass phrases that follow, also those of a reload: some, the latest first. tls_prompt_remembered() is
 * NULL when there are no more than n.
 */
void tls_prompt_remember(void);
const char *tls_prompt_remembered(size_t n);

/* True if OpenSSL's error queue tells of what another answer could cure. Clears it. */
bool tls_prompt_was_wrong(void);

#endif
