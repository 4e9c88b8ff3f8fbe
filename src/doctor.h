/*
 * `tlsplice -doctor FILE`: whether this machine has what a configuration needs, and what to do where it has not. For main.c.
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TLSPLICE_DOCTOR_H
#define TLSPLICE_DOCTOR_H

#include "config.h"
#include "privileges.h"

#include <stdio.h>

/*
 * Looks at the machine as the user who calls it sees it, in the network namespace it is called in, and prints what it finds. Nothing stays changed;
 * ports are bound for a moment. Returns the exit status: 1 when something keeps the configuration from working, else 0.
 */
int doctor(const struct config_source *source);

/* --- for doctor*.c -------------------------------------------------------------------------------------------------------------------- */

enum verdict {
	VERDICT_OK,
	VERDICT_WARNING, /* may be meant, may be in the way */
	VERDICT_PROBLEM, /* it will not work */
};

/* A visit. */
struct doctor {
	FILE *out;
	const struct config *config;
	unsigned count[VERDICT_PROBLEM + 1];
	struct identity who; /* the process once it serves */
	bool changes_user;
};

/* One line about what was looked at. A remedy(), if there is one, is the next line. */
void finding(struct doctor *d, enum verdict verdict, const char *format, ...) __attribute__((format(printf, 3, 4)));
void remedy(struct doctor *d, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Files and directories that the configuration names: doctor_files.c. */
void doctor_files(struct doctor *d);

/* Addresses to listen on, and the sysctls of transparent proxying: doctor_net.c. */
void doctor_ports(struct doctor *d);
void doctor_sysctls(struct doctor *d);

/* Rules and routes that bring foreign packets here: doctor_route.c. */
void doctor_routes(struct doctor *d);

#endif
