/*
 * Addresses and sysctls examined: see doctor.h.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "doctor.h"

#include "kernel.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <netdb.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* --- ports -------------------------------------------------------------------------------------------------------------------------- */

/* Binds for a moment. Returns 0 or -errno. */
static int try_bind(const struct addr *addr)
{
	static const int one = 1;
	int fd = socket(addr->sa.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0), error;

	if (fd < 0)
		return -errno;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (addr->sa.sa_family == AF_INET6) /* [::] beside 0.0.0.0 */
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof(one));
	error = bind(fd, &addr->sa, addr->len) < 0 ? -errno : 0;
	close(fd);
	return error;
}

static void judge_bind(struct doctor *d, const struct section *s, const char *where, int error)
{
	switch (-error) {
	case 0: finding(d, VERDICT_OK, "%s: accept = %s", s->name, where); break;
	case EADDRINUSE:
		finding(d, VERDICT_WARNING, "%s: accept = %s: in use, by a tlsplice that runs or by another program", s->name,
		        where);
		remedy(d, "ss -ltnp shows by which");
		break;
	case EACCES:
		finding(d, VERDICT_PROBLEM, "%s: accept = %s: %s", s->name, where, strerror(-error));
		remedy(d, "start tlsplice as root, or with AmbientCapabilities=CAP_NET_BIND_SERVICE in the systemd unit, "
		          "or lower the sysctl net.ipv4.ip_unprivileged_port_start");
		break;
	case EADDRNOTAVAIL:
		finding(d, VERDICT_PROBLEM, "%s: accept = %s: no address of this machine", s->name, where);
		remedy(d, "ip address add, or sysctl -w net.ipv4.ip_nonlocal_bind=1 where it comes later");
		break;
	case EAFNOSUPPORT: finding(d, VERDICT_WARNING, "%s: accept = %s: %s", s->name, where, strerror(-error)); break;
	default: finding(d, VERDICT_PROBLEM, "%s: accept = %s: %s", s->name, where, strerror(-error)); break;
	}
}

static void look_at_accept(struct doctor *d, const struct section *s, const char *spec)
{
	struct addr_list list = {0};
	char text[ADDR_TEXT_MAX];
	int error = addr_resolve(spec, ADDR_PASSIVE, &list);

	if (error) {
		finding(d, VERDICT_PROBLEM, "%s: accept = %s: %s", s->name, spec, gai_strerror(error));
		remedy(d, "mend the name, or add it to /etc/hosts");
	}
	for (size_t i = 0; i < list.count; i++)
		if (list.addrs[i].sa.sa_family != AF_UNIX)
			judge_bind(d, s, addr_text(&list.addrs[i], text), try_bind(&list.addrs[i]));
	addr_list_free(&list);
}

void doctor_ports(struct doctor *d)
{
	for (const struct section *s = d->config->sections; s; s = s->next)
		for (size_t i = 0; i < s->accept.count; i++)
			look_at_accept(d, s, s->accept.texts[i]);
}

/* --- sysctls ------------------------------------------------------------------------------------------------------------------------ */

/* A sysctl of one interface, or of "all" and "default". */
static long of_interface(const char *interface, const char *name)
{
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "/proc/sys/net/ipv4/conf/%s/%s", interface, name);
	return kernel_number_in(path);
}

/* With it the reverse path filter looks our own rule up, and takes every sender for an impostor. Everything arrives there or nothing does. */
static bool judge_valid_mark(struct doctor *d, const char *interface)
{
	if (of_interface(interface, "src_valid_mark") != 1)
		return true;
	finding(d, VERDICT_PROBLEM, "net.ipv4.conf.%s.src_valid_mark is 1: packets with our mark are dropped", interface);
	remedy(d, "sysctl -w net.ipv4.conf.%s.src_valid_mark=0 (wg-quick sets it)", interface);
	return false;
}

static bool judge_rp_filter(struct doctor *d, const char *interface)
{
	if (of_interface(interface, "rp_filter") != 1)
		return true;
	finding(d, VERDICT_WARNING,
	        "net.ipv4.conf.%s.rp_filter is 1 (strict): packets that come by another interface than answers would take are "
	        "dropped",
	        interface);
	remedy(d, "sysctl -w net.ipv4.conf.%s.rp_filter=2, if a route is asymmetrical", interface);
	return false;
}

static void look_at_interfaces(struct doctor *d)
{
	DIR *dir = opendir("/proc/sys/net/ipv4/conf");
	bool mark = true, filter = true;

	for (const struct dirent *entry; dir && (entry = readdir(dir));) {
		const char *name = entry->d_name;

		if (name[0] == '.' || strcmp(name, "default") == 0) /* of interfaces to come */
			continue;
		mark = judge_valid_mark(d, name) && mark;
		filter = judge_rp_filter(d, name) && filter;
	}
	if (dir)
		closedir(dir);
	if (mark)
		finding(d, VERDICT_OK, "net.ipv4.conf.*.src_valid_mark: 0");
	if (filter)
		finding(d, VERDICT_OK, "net.ipv4.conf.*.rp_filter: off, or loose");
}

static bool any_destination(const struct config *config)
{
	bool any = false;

	for (const struct section *s = config->sections; s && !any; s = s->next)
		any = section_keeps_destination(s);
	return any;
}

void doctor_sysctls(struct doctor *d)
{
	look_at_interfaces(d);
	if (kernel_number_in("/proc/sys/net/ipv4/ip_forward") == 0) {
		finding(d, VERDICT_WARNING, "net.ipv4.ip_forward is 0: this machine passes on nothing but what tlsplice accepts");
		remedy(d, "sysctl -w net.ipv4.ip_forward=1, if it is a router");
	}
	if (any_destination(d->config) && kernel_number_in("/proc/sys/net/ipv4/ip_nonlocal_bind") == 1) {
		finding(d, VERDICT_WARNING,
		        "net.ipv4.ip_nonlocal_bind is 1: servers on the ports of our own listeners pass for ourselves, and are "
		        "refused");
		remedy(d, "sysctl -w net.ipv4.ip_nonlocal_bind=0, or let the listeners have one address each");
	}
}
