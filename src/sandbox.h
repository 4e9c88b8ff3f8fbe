/*
 * The sandbox: what a proxy that has been taken over still cannot do. For serve.c; kernel-notes/sandbox.md has the why.
 * Everything here does as much as the kernel can, and says what it cannot.
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TLSPLICE_SANDBOX_H
#define TLSPLICE_SANDBOX_H

#include "config.h"

#include <stdbool.h>

/*
 * Of the calling thread and all that it starts later: no new privileges, and by Landlock no other files than those that the configuration and the
 * libraries need. Rings opened later take no other operations than ours.
 */
void sandbox_files(const struct config *config, const struct config_source *source);

/* Of all threads: none of the system calls that a proxy never makes. No ring can be opened afterwards. */
void sandbox_calls(const struct config *config);

/* Whether a configuration can be loaded within the sandbox in force. If not, it has been logged which file is out of reach. */
bool sandbox_allows(const struct config *config);

#endif
