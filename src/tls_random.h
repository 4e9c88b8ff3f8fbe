/*
 * Seed files: RNDfile and its like. OpenSSL seeds itself from the kernel; what is in the file comes on top.
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TLSPLICE_TLS_RANDOM_H
#define TLSPLICE_TLS_RANDOM_H

#include "config.h"

struct tls_library;

/*
 * Stirs the file's bytes into the generators of the process and of each worker, and gives the file new ones if the configuration says so. For the main
 * thread at start. A file that cannot be used is warned about.
 */
void tls_random_seed(const struct globals *globals, struct tls_library *const *libraries, unsigned count);

#endif
