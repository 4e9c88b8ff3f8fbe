/*
 * The backend is told whose connection it gets, before the first byte of it (option `sendProxy`). A step of conn_live().
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TLSPLICE_INTRODUCE_H
#define TLSPLICE_INTRODUCE_H

#include "conn.h"

/*
 * Server mode, connected: puts the header before everything that the backend is to get. The relay sends it, at once and with the client's first data if these
 * are there. Who is redirected is not announced.
 */
void introduce(struct conn *c);

#endif
