/*
 * The environment of programs that `exec` starts: what is told of the connection, then what the proxy itself was given. Each name stands in it
 * once, for programs differ in which of two they take.
 * Depends on nothing of the proxy but its arena.
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TLSPLICE_ENVIRONMENT_H
#define TLSPLICE_ENVIRONMENT_H

#include "arena.h"

/*
 * A copy of an environment as environ(7) has it, without names that occurred before, entries that are not NAME=VALUE, and everything by
 * which programs would take somebody else's word for ours: REMOTE_* and SSL_CLIENT_*. NULL: no memory.
 */
char **environment_copy(struct arena *arena, char *const *from);

/*
 * `own`, then those of `base` that have other names; both end with NULL. The array is to be freed with free(3), the strings stay whose they are.
 * NULL: no memory.
 */
char **environment_join(char *const *own, char *const *base);

#endif
