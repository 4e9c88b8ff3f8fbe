/*
 * A machine examined: see doctor.h. What concerns the process is here.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "doctor.h"

#include "buf.h"
#include "daemon.h"
#include "kernel.h"
#include "log.h"
#include "ring.h"
#include "ring_probe.h"
#include "transparent.h"
#include "worker.h"

#include <errno.h>
#include <linux/capability.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

enum { CLIENTS_FEW = 1000 }; /* fewer than this are seldom meant */

/* --- the report --------------------------------------------------------------------------------------------------------------------- */

void finding(struct doctor *d, enum verdict verdict, const char *format, ...)
{
	static const char *const words[] = {[VERDICT_OK] = "ok", [VERDICT_WARNING] = "warning", [VERDICT_PROBLEM] = "problem"};
	va_list args;

	d->count[verdict]++;
	fprintf(d->out, "%-8s ", words[verdict]);
	va_start(args, format);
	vfprintf(d->out, format, args);
	va_end(args);
	fputc('\n', d->out);
}

void remedy(struct doctor *d, const char *format, ...)
{
	va_list args;

	fputs("         -> ", d->out);
	va_start(args, format);
	vfprintf(d->out, format, args);
	va_end(args);
	fputc('\n', d->out);
}

/* --- io_uring ----------------------------------------------------------------------------------------------------------------------- */

static void look_at_ring(struct doctor *d)
{
	long disabled = kernel_number_in("/proc/sys/kernel/io_uring_disabled");
	struct ring_support support;

	ring_probe(&support);
	if (support.error && support.error != -ENOMEM) {
		finding(d, VERDICT_PROBLEM, "io_uring: %s", ring_explain(support.error));
		if (disabled > 0)
			remedy(d, "sysctl -w kernel.io_uring_disabled=0, and a file in /etc/sysctl.d so that it stays");
		if (disabled == 1)
			remedy(d, "or let tlsplice run as root or in the group of the sysctl kernel.io_uring_group");
	} else if (disabled == 1 && d->changes_user) {
		finding(d, VERDICT_OK, "io_uring: for the privileged and a group; rings are made before setuid takes effect");
	} else {
		finding(d, VERDICT_OK, "io_uring: allowed");
	}
}

/* As many rings as there will be workers, at once: some kernels count them as locked memory. */
static void look_at_memlock(struct doctor *d)
{
	static struct ring *rings[WORKERS_MAX];
	static struct bufs bufs[WORKERS_MAX];
	unsigned wanted = workers_wanted(d->config), made = 0;
	struct rlimit limit = {0};
	int error = 0;

	while (made < wanted && (rings[made] = ring_open(&bufs[made], &error)))
		made++;
	for (unsigned i = 0; i < made; i++)
		ring_close(rings[i]);
	for (unsigned i = 0; i <= made && i < WORKERS_MAX; i++)
		bufs_free(&bufs[i]);
	getrlimit(RLIMIT_MEMLOCK, &limit);
	if (made == wanted) {
		finding(d, VERDICT_OK, "locked memory (ulimit -l): enough for %u worker(s)", wanted);
	} else if (error == -ENOMEM) {
		finding(d, VERDICT_PROBLEM, "locked memory (ulimit -l, %llu KiB): %u of %u workers get their ring",
		        (unsigned long long)limit.rlim_cur / 1024, made, wanted);
		remedy(d, "ulimit -l unlimited, or LimitMEMLOCK=infinity in the systemd unit%s",
		       made ? ", or fewer workers" : "");
	}
}

/* --- limits and privileges ---------------------------------------------------------------------------------------------------------- */

static void look_at_descriptors(struct doctor *d)
{
	unsigned clients = process_limits();

	finding(d, clients < CLIENTS_FEW ? VERDICT_WARNING : VERDICT_OK, "descriptors (ulimit -n): room for %u connections",
	        clients);
	if (clients < CLIENTS_FEW)
		remedy(d, "ulimit -Hn 65536, or LimitNOFILE=65536 in the systemd unit");
}

static bool has_capability(unsigned number)
{
	FILE *file = fopen("/proc/self/status", "re");
	unsigned long long effective = 0;
	char line[256];

	while (file && fgets(line, sizeof(line), file))
		if (sscanf(line, "CapEff: %llx", &effective) == 1)
			break;
	if (file)
		fclose(file);
	return effective >> number & 1;
}

static void look_at_capability(struct doctor *d, const char *option, bool wanted, unsigned number, const char *name)
{
	if (!wanted)
		return;
	if (has_capability(number)) {
		finding(d, VERDICT_OK, "%s: %s is there", option, name);
		return;
	}
	finding(d, VERDICT_PROBLEM, "%s: needs %s", option, name);
	remedy(d, "start tlsplice as root, or add it to AmbientCapabilities and CapabilityBoundingSet of the systemd unit");
}

static bool any_transparent(const struct config *config)
{
	bool any = false;

	for (const struct section *s = config->sections; s && !any; s = s->next)
		any = s->transparent != TRANSPARENT_NONE;
	return any;
}

static void look_at_transparent(struct doctor *d)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int error = fd < 0 ? -errno : transparent_set(fd, AF_INET, true);

	if (fd >= 0)
		close(fd);
	if (!error) {
		finding(d, VERDICT_OK, "transparent: sockets may have foreign addresses");
		return;
	}
	finding(d, VERDICT_PROBLEM, "transparent: sockets may not have foreign addresses: %s", strerror(-error));
	remedy(d, "start tlsplice as root, or with AmbientCapabilities=CAP_NET_ADMIN in the systemd unit, or setcap "
	          "cap_net_admin+ep tlsplice");
}

static void look_at_privileges(struct doctor *d)
{
	const struct globals *g = &d->config->global;

	look_at_capability(d, "chroot", g->chroot != NULL, CAP_SYS_CHROOT, "CAP_SYS_CHROOT");
	look_at_capability(d, "setuid", g->setuid != NULL, CAP_SETUID, "CAP_SETUID");
	look_at_capability(d, "setgid", g->setgid != NULL, CAP_SETGID, "CAP_SETGID");
	if (any_transparent(d->config))
		look_at_transparent(d);
}

/* --- the visit ---------------------------------------------------------------------------------------------------------------------- */

/* Names were looked up when the configuration was read, so they are there. */
static void find_user(struct doctor *d)
{
	struct identity *who = &d->who;

	privileges_identity(&d->config->global, who);
	if (!who->user)
		who->uid = geteuid();
	d->changes_user = who->uid != geteuid() || (who->group && who->groups[0] != getegid());
}

static void examine(struct doctor *d)
{
	find_user(d);
	look_at_ring(d);
	look_at_memlock(d);
	look_at_descriptors(d);
	look_at_privileges(d);
	doctor_ports(d);
	doctor_files(d);
	if (any_transparent(d->config)) {
		doctor_sysctls(d);
		doctor_routes(d);
	}
}

int doctor(const struct config_source *source)
{
	struct config *config = config_load(source);
	struct doctor d = {.out = stdout, .config = config};

	signal(SIGPIPE, SIG_IGN); /* trials of the ring where the loopback interface is down */
	log_dump_kept();
	if (config)
		examine(&d);
	else
		finding(&d, VERDICT_PROBLEM, "configuration: it cannot be read");
	fprintf(d.out, "%u problem(s), %u warning(s)\n", d.count[VERDICT_PROBLEM], d.count[VERDICT_WARNING]);
	config_free(config);
	return d.count[VERDICT_PROBLEM] ? 1 : 0;
}
