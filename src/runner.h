/*
 * Runners: sections with `exec` and `connect` but without `accept`. Their program takes the place of the client: it is started with the section,
 * and with `retry` again each time that its connection has ended. Each belongs to one worker.
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TLSPLICE_RUNNER_H
#define TLSPLICE_RUNNER_H

#include "worker.h"

struct runner;

/*
 * A set of services comes into force. The runners of another configuration start no program any more and end with their connections; those of the new one
 * begin. Where only certificates were renewed, they go on.
 */
void runners_adopt(struct worker *worker, struct service_set *set);

/* No program is started any more. */
void runners_stop(struct worker *worker);

/* A runner's connection, with the id that it had, is over. */
void runner_ended(struct runner *runner, const char *id);

#endif
