/*
 * libwrap (hosts.allow, hosts.deny) in a process of its own. The library has global variables, reads files, looks names up and may run what a rule
 * says: so each question is answered by a child of the helper process, which has nothing of ours in it but the client's socket, and
 * ends with its answer. Many are at work at once; a slow lookup holds up nobody else's.
 *
 * The helper is this program, started anew (main.c calls wrap_main()): no keys, no threads, no locks of ours. It is there only when a section says
 * `libwrap = yes`, stays outside of a jail that we enter later, and ends with us. It is two processes, of which one starts the other again.
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TLSPLICE_WRAP_H
#define TLSPLICE_WRAP_H

#include "config.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* Whether this build has the library. */
bool wrap_available(void);

/* For the main thread, before chroot and setuid: starts the helper if a section wants it and none is there. Returns false after logging why. */
bool wrap_start(const struct config *config);

/*
 * For the main thread's poll(2): a descriptor with events 0 that has POLLHUP once the helper has died, -1 while there is none to look at.
 * wrap_look() then starts another one, a second after the last one at the earliest. wrap_wait_ms(): look again after so many milliseconds; -1: never.
 */
int wrap_descriptor(void);
int wrap_wait_ms(uint64_t now_ms);
void wrap_look(uint64_t now_ms);

/* The helper's process, or the last one's; 0: there has been none. For the main thread. */
pid_t wrap_pid(void);

/* The helper ends when the last question has been answered. */
void wrap_stop(void);

/*
 * Asks whether the client of that socket may use the daemon, without waiting. The helper's child gives up soon after `seconds`, unless they are negative.
 * *reply: a descriptor of the caller's that gets one byte, 1 for yes; its end without a byte is a no. Callable from any thread.
 * Returns 0, -EAGAIN: not now, wrap_asked() has POLLOUT when one can try again; else another -errno.
 */
int wrap_ask(const char *daemon, int client, int seconds, int *reply);
int wrap_asked(void);

/* The helper process. True if the arguments say that this is what we are; then wrap_main() is all that there is to do. */
bool wrap_is_helper(int argc, char *const argv[]);
int wrap_main(char *const argv[]);

/* What the library says about the client of a socket. Only in a child of the helper. */
bool wrap_allows(int client, const char *daemon);

#endif
