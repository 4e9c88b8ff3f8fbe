/*
 * Modules of OpenSSL: engines, providers, FIPS. They belong to the process and are loaded while the configuration is read for the first time, line by
 * line in the order of the file; later readings are only compared with it. For the main thread.
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TLSPLICE_TLS_MODULES_H
#define TLSPLICE_TLS_MODULES_H

#include <stdbool.h>
#include <stddef.h>

enum tls_module {
	TLS_ENGINE,             /* ID */
	TLS_ENGINE_CONTROL,     /* CMD[:ARG] for the engine opened last */
	TLS_ENGINE_DEFAULT,     /* tasks of the engine opened last */
	TLS_PROVIDER,           /* NAME */
	TLS_PROVIDER_PARAMETER, /* PROVIDER:NAME=VALUE */
};

/* One reading of a configuration: zeroed at its start. */
struct tls_modules_reading {
	size_t lines;
	bool engine;  /* one has been named */
	bool differs; /* from what the process has loaded */
};

/*
 * A line of the global part. While the process has no modules yet it acts at once; afterwards it only notes whether the lines are
 * those that were acted upon. Returns NULL, or what is wrong; details have been logged.
 */
const char *tls_modules_line(struct tls_modules_reading *reading, enum tls_module module, const char *value);

/*
 * The end of the global part: initialises the last engine, and turns FIPS on. At a later reading with other lines: says that they need a new start.
 * Returns NULL, or what is wrong.
 */
const char *tls_modules_end(const struct tls_modules_reading *reading, bool fips);

/* Engines by their numbers from 1; tls_modules_engine() returns 0 when none has that id. */
size_t tls_modules_engines(void);
size_t tls_modules_engine(const char *id);

/* Whether only algorithms of a FIPS provider are used, which leaves out everything of our own. */
bool tls_modules_fips(void);

/* Whether OpenSSL could compress, which is never asked for. */
bool tls_modules_compression(void);

#endif
