/*
 * TCP ports that a configuration needs: for `sandbox = strict`. For sandbox.c.
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TLSPLICE_SANDBOX_PORTS_H
#define TLSPLICE_SANDBOX_PORTS_H

#include "config.h"
#include "landlock.h"

/* Which uses of ports can be told beforehand, as a sum of enum landlock_ports: none of those that the configuration leaves to others. */
unsigned sandbox_ports_known(const struct config *config);

/* Calls see() with every port to bind or connect to, until it returns something else than 0, which is returned. */
int sandbox_ports_each(const struct config *config, int (*see)(void *arg, unsigned port, enum landlock_ports use), void *arg);

#endif
