/*
 * certReload: files of certificates, keys, CAs and revocation lists that change are loaded anew while the proxy serves, the rest of the configuration
 * stays as it is. For the main thread.
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TLSPLICE_RENEW_H
#define TLSPLICE_RENEW_H

#include "config.h"
#include "service.h"
#include "watch.h"

/* Begins to watch the files of the sections with `certReload = yes`. To be called before they are read. NULL: there are none, or no memory (logged). */
struct watch *renew_watch(const struct config *config);

/*
 * After poll(2): once files have changed and settled, returns the configuration in force with those sections' files loaded anew, to be put in force.
 * A section whose files cannot be used keeps what it has, which is logged at LOG_WARNING, once for each change. NULL: there is nothing to
 * put in force.
 */
struct generation *renew(struct watch *watch, uint64_t now_ms, const struct generation *current,
                         struct tls_library *const *libraries);

/* The path of a file, also of "file:///path"; NULL for what is none, as "pkcs11:object=key". */
const char *renew_path(const char *place);

/* Calls see() for every place that a section's certificates, keys and trust come from, until it returns something else than 0, which is returned. */
int renew_each_place(const struct section *section, int (*see)(void *arg, const struct section *section, const char *place),
                     void *arg);

#endif
