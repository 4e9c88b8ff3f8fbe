/*
 * Watching files for changes: inotify(7) on the directories, so that renaming over and symbolic links set anew are seen like writing in place, and
 * a look at the files now and then for what inotify does not tell (network file systems, no more watches). Files that change one after
 * another are reported together, once they have settled. For the main thread: nothing here waits.
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TLSPLICE_WATCH_H
#define TLSPLICE_WATCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct watch;

/* Returns NULL when there is no memory. Where inotify is not to be had (logged) looking alone must do. watch_free(NULL) is fine. */
struct watch *watch_new(void);
void watch_free(struct watch *watch);

/*
 * Adds a file or directory (then: what is in it) to what `owner` wants to know of. It need not exist. What it is like now is what later changes are
 * measured by: call it before reading the file. Returns 0 or -ENOMEM.
 */
int watch_add(struct watch *watch, const char *path, unsigned owner);

/* What poll(2) should wait for besides: POLLIN of this descriptor (-1: of none now), and so many milliseconds (-1: for ever). NULL is fine. */
int watch_descriptor(const struct watch *watch);
int watch_wait_ms(const struct watch *watch, uint64_t now_ms);

/*
 * To be called after poll(2). Returns true when files have changed and settled: those owners' elements of `changed` are set to true.
 * Each change is reported once. `now_ms`: CLOCK_MONOTONIC.
 */
bool watch_turn(struct watch *watch, uint64_t now_ms, bool *changed);

#endif
