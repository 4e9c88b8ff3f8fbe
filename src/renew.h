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

#endif
