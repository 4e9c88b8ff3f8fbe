/*
 * Serving: start, signals, reload, drain, stop. For main.c.
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TLSPLICE_SERVE_H
#define TLSPLICE_SERVE_H

#include "config.h"

/* Reads the configuration and serves until a signal ends it. Returns the exit status. */
int serve(const struct config_source *source);

/* -t: does everything a start does except opening sockets and logs. Returns the exit status. */
int test_configuration(const struct config_source *source);

#endif
