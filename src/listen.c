/*
 * Listening sockets: see listen.h.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "listen.h"

#include "activation.h"
#include "log.h"
#include "owner.h"
#include "transparent.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

/* An address with a socket for each worker. */
struct bound {
	struct list link;
	struct addr wanted;          /* as configured: the port may be 0 */
	const struct section *owner; /* in the generation being prepared; NULL: not wanted any more */
	bool fresh;                  /* bound by the listening_prepare() under way */
	dev_t device;                /* of a Unix socket's file: in a jail its name may be another file's */
	ino_t inode;
	unsigned passed;             /* 1 + its number among the sockets that systemd has opened; 0: ours */
	struct listener *listener[]; /* by worker */
};

void listening_init(struct listening *l, unsigned workers)
{
	list_init(&l->bound);
	l->workers = workers;
}

/* The socket file of a process that is gone keeps its name; nobody answers there. */
static void remove_stale(const struct addr *addr)
{
	struct stat st;
	int fd;

	if (addr->sa.sa_family != AF_UNIX || !addr->un.sun_path[0] || lstat(addr->un.sun_path, &st) < 0 || !S_ISSOCK(st.st_mode))
		return;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return;
	if (connect(fd, &addr->sa, addr->len) < 0 && errno == ECONNREFUSED && unlink(addr->un.sun_path) == 0)
		log_global(LOG_NOTICE, "Removed the stale socket %s", addr->un.sun_path);
	close(fd);
}

/* TPROXY gives connections to other machines' addresses only to sockets that may have these. */
static void be_transparent(const struct section *s, int fd, const struct addr *addr)
{
	bool on = transparent_listens(s);
	int error = addr->sa.sa_family == AF_UNIX ? 0 : transparent_set(fd, addr->sa.sa_family, on);

	if (error && on)
		log_global(LOG_WARNING, "Service [%s]: setsockopt IP_TRANSPARENT: %s (%d): TPROXY cannot send connections here",
		           s->name, strerror(-error), -error);
}

static int new_socket(const struct section *s, const struct addr *addr)
{
	int fd = socket(addr->sa.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return -errno;
	log_global(LOG_DEBUG, "Listening file descriptor created (FD=%d)", fd);
	be_transparent(s, fd, addr);
	/* An option that the socket refuses (IPV6_V6ONLY on IPv4) means: not this address. */
	if (sockopts_apply(&s->socket[SOCK_ACCEPT], SOCK_ACCEPT, fd, NULL, s->debug) > 0) {
		close(fd);
		return -EINVAL;
	}
	return fd;
}

static int duplicate(int fd)
{
	int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);

	return copy < 0 ? -errno : copy;
}

/* One more socket on an address that `first` holds. */
static int sibling(const struct section *s, const struct addr *addr, int first, bool v6only)
{
	static const int one = 1;
	struct addr same = {.len = sizeof(same) - sizeof(same.len)};
	int fd;

	if (addr->sa.sa_family == AF_UNIX)
		return duplicate(first);
	fd = new_socket(s, addr);
	if (fd < 0)
		return fd;
	if (v6only)
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof(one));
	if (getsockname(first, &same.sa, &same.len) == 0 && setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof(one)) == 0 &&
	    bind(fd, &same.sa, same.len) == 0 && listen(fd, SOMAXCONN) == 0)
		return fd;
	close(fd);
	return duplicate(first); /* all accept from one queue then */
}

/*
 * The first socket is bound without SO_REUSEPORT, so that an address in use by another process is an error as it should be,
 * and opens the group afterwards.
 */
static int bind_first(const struct section *s, const struct addr *addr, bool v6only)
{
	static const int one = 1;
	int fd, error;

	remove_stale(addr);
	fd = new_socket(s, addr);
	if (fd < 0)
		return fd;
	if (v6only)
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof(one));
	if (bind(fd, &addr->sa, addr->len) == 0) {
		if (addr->sa.sa_family != AF_UNIX)
			setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof(one));
		if (listen(fd, SOMAXCONN) == 0)
			return fd;
	}
	error = -errno;
	close(fd);
	return error;
}

static bool has_file(const struct addr *addr)
{
	return addr->sa.sa_family == AF_UNIX && addr->un.sun_path[0];
}

/* Remembers the file of a Unix socket, and gives it to whom the section says; before the sections that is whom the process will be. */
static void own_file(struct bound *b, const struct section *s)
{
	const char *path = b->wanted.un.sun_path;
	uid_t uid = (uid_t)-1;
	gid_t gid = (gid_t)-1;
	struct stat st;

	if (s->setuid)
		owner_user(s->setuid, &uid);
	if (s->setgid)
		owner_group(s->setgid, &gid);
	if ((s->setuid || s->setgid) && lchown(path, uid, gid) < 0)
		log_global(LOG_ERR, "lchown: %s: %s (%d)", path, strerror(errno), errno);
	if (lstat(path, &st) == 0) {
		b->device = st.st_dev;
		b->inode = st.st_ino;
	}
}

static void bound_free(struct bound *b)
{
	struct stat st;

	list_remove(&b->link);
	if (!b->passed && has_file(&b->wanted) && lstat(b->wanted.un.sun_path, &st) == 0 && st.st_dev == b->device &&
	    st.st_ino == b->inode)
		unlink(b->wanted.un.sun_path);
	free(b);
}

/* Drops what listening_prepare() made: no worker has seen it. */
static void bound_undo(struct listening *l, struct bound *b)
{
	for (unsigned w = 0; w < l->workers; w++) {
		if (b->listener[w] && b->listener[w]->fd >= 0)
			close(b->listener[w]->fd);
		free(b->listener[w]);
	}
	bound_free(b);
}

static struct listener *listener_new(int fd)
{
	struct listener *listener = calloc(1, sizeof(*listener));

	if (!listener) {
		close(fd);
		return NULL;
	}
	list_init(&listener->link);
	listener->fd = fd;
	return listener;
}

/* Fills b->listener. Returns 0 or -errno. */
static int bind_all(const struct listening *l, struct bound *b, const struct section *s, bool v6only)
{
	int first = bind_first(s, &b->wanted, v6only);

	if (first < 0)
		return first;
	b->listener[0] = listener_new(first);
	for (unsigned w = 1; b->listener[0] && w < l->workers; w++) {
		int fd = sibling(s, &b->wanted, first, v6only);

		if (fd < 0)
			return fd;
		b->listener[w] = listener_new(fd);
		if (!b->listener[w])
			return -ENOMEM;
	}
	return b->listener[0] ? 0 : -ENOMEM;
}

static void log_bound(const struct section *s, const struct bound *b)
{
	struct addr addr = {.len = sizeof(addr) - sizeof(addr.len)};
	char text[ADDR_TEXT_MAX];
	int fd = b->listener[0]->fd;

	if (getsockname(fd, &addr.sa, &addr.len) < 0)
		addr = b->wanted;
	log_global(LOG_INFO, "Service [%s] (FD=%d) bound to %s", s->name, fd, addr_text(&addr, text));
}

/* `accept = PORT` means every address: where [::] takes IPv4 along and that is taken, [::] alone will do. */
static bool retry_v6only(const struct addr *addr, int error)
{
	return error == -EADDRINUSE && addr->sa.sa_family == AF_INET6 && IN6_IS_ADDR_UNSPECIFIED(&addr->in6.sin6_addr);
}

static bool bind_fresh(struct listening *l, const struct section *s, const struct addr *addr)
{
	struct bound *b = calloc(1, sizeof(*b) + l->workers * sizeof(struct listener *));
	char text[ADDR_TEXT_MAX];
	int error;

	if (!b)
		return false;
	b->wanted = *addr;
	b->owner = s;
	b->fresh = true;
	error = bind_all(l, b, s, false);
	if (retry_v6only(addr, error))
		error = bind_all(l, b, s, true);
	if (error == 0) {
		list_append(&l->bound, &b->link);
		if (has_file(addr))
			own_file(b, s);
		log_bound(s, b);
		return true;
	}
	log_global(LOG_NOTICE, "Binding service [%s] to %s: %s (%d)", s->name, addr_text(addr, text), strerror(-error), -error);
	list_init(&b->link);
	b->wanted.len = 0;
	b->wanted.sa.sa_family = AF_UNSPEC; /* whatever file is there is not ours */
	bound_undo(l, b);
	return false;
}

/* Claims an address that is bound already. */
static bool keep(struct listening *l, const struct section *s, const struct addr *addr)
{
	list_each(it, next, &l->bound) {
		struct bound *b = container_of(it, struct bound, link);

		if (!b->owner && !b->passed && addr_equal(&b->wanted, addr)) {
			b->owner = s;
			return true;
		}
	}
	return false;
}

/* A socket that stays gets the options of the section that has it now: not before the configuration is in force. */
static void adjust(const struct listening *l, const struct bound *b)
{
	const struct section *s = b->owner;
	unsigned sockets = b->passed ? 1 : l->workers; /* else the others are copies */

	for (unsigned w = 0; w < sockets; w++) {
		if (!b->passed)
			be_transparent(s, b->listener[w]->fd, &b->wanted);
		sockopts_apply(&s->socket[SOCK_ACCEPT], SOCK_ACCEPT, b->listener[w]->fd, NULL, s->debug);
	}
}

/* --- sockets that systemd has opened ---------------------------------------------------------------------------------------------------- */

/* Fills b->listener with copies: one queue for all workers. Returns 0 or -errno. */
static int copy_passed(const struct listening *l, struct bound *b, int passed)
{
	for (unsigned w = 0; w < l->workers; w++) {
		int fd = duplicate(passed);

		if (fd < 0)
			return fd;
		b->listener[w] = listener_new(fd);
		if (!b->listener[w])
			return -ENOMEM;
	}
	return 0;
}

static bool open_passed(struct listening *l, const struct section *s, unsigned n)
{
	struct bound *b = calloc(1, sizeof(*b) + l->workers * sizeof(struct listener *));
	int fd = activation_socket(n), error;

	if (!b)
		return false;
	log_global(LOG_DEBUG, "Listening file descriptor received from systemd (FD=%d)", fd);
	list_append(&l->bound, &b->link);
	b->passed = n + 1;
	b->owner = s;
	b->fresh = true;
	b->wanted.len = sizeof(b->wanted) - sizeof(b->wanted.len);
	error = getsockname(fd, &b->wanted.sa, &b->wanted.len) < 0 ? -errno : copy_passed(l, b, fd);
	if (!error) {
		sockopts_apply(&s->socket[SOCK_ACCEPT], SOCK_ACCEPT, fd, NULL, s->debug);
		log_bound(s, b);
		return true;
	}
	log_global(LOG_ERR, "Service [%s] (FD=%d): %s (%d)", s->name, fd, strerror(-error), -error);
	bound_undo(l, b);
	return false;
}

/* The section takes the nth, which it may have had before. */
static bool use_passed(struct listening *l, const struct section *s, unsigned n)
{
	list_each(it, next, &l->bound) {
		struct bound *b = container_of(it, struct bound, link);

		if (b->passed == n + 1) {
			b->owner = s;
			return true;
		}
	}
	return open_passed(l, s, n);
}

/* --- all of a generation ------------------------------------------------------------------------------------------------------------------ */

static bool bind_section(struct listening *l, const struct section *s, const struct addr_list *addrs, unsigned *passed)
{
	bool any = false;

	if (!addrs->count) { /* clients come from another section, by their server name, or from a program */
		log_global(LOG_DEBUG, s->exec ? "Skipped exec+connect service [%s]" : "Skipped SNI secondary service [%s]",
		           s->name);
		return true;
	}
	log_global(LOG_DEBUG, "Binding service [%s]", s->name);
	if (*passed < activation_count())
		return use_passed(l, s, (*passed)++);
	for (size_t i = 0; i < addrs->count; i++)
		if (keep(l, s, &addrs->addrs[i]) || bind_fresh(l, s, &addrs->addrs[i]))
			any = true;
	if (!any)
		log_global(LOG_ERR, "Binding service [%s] failed", s->name);
	return any;
}

bool listening_prepare(struct listening *l, const struct generation *g)
{
	unsigned passed = 0;
	bool ok = true;

	list_each(it, next, &l->bound) {
		struct bound *b = container_of(it, struct bound, link);

		b->owner = NULL;
		b->fresh = false;
	}
	for (const struct section *s = g->config->inetd ? NULL : g->config->sections; ok && s; s = s->next)
		ok = bind_section(l, s, &g->commons[s->index].accept, &passed);
	if (ok && passed < activation_count()) {
		log_global(LOG_ERR, "Too many listening file descriptors received from systemd, got %u", activation_count());
		ok = false;
	}
	if (ok)
		return true;
	list_each(it, next, &l->bound) {
		struct bound *b = container_of(it, struct bound, link);

		if (b->fresh)
			bound_undo(l, b);
	}
	return false;
}

/* What one worker is told. */
struct change {
	struct listening *listening;
	struct service_set *set;
};

static void change_over(struct worker *w, void *arg)
{
	struct change *change = arg;

	worker_adopt_begin(w);
	list_each(it, next, &change->listening->bound) {
		struct bound *b = container_of(it, struct bound, link);

		if (b->owner) {
			b->listener[w->number]->service = &change->set->services[b->owner->index];
			worker_listen(w, b->listener[w->number]);
		}
	}
	worker_adopt_end(w, change->set);
}

void listening_commit(struct listening *l, struct generation *g, struct worker *workers)
{
	struct change change = {.listening = l};

	list_each(it, next, &l->bound) {
		const struct bound *b = container_of(it, struct bound, link);

		if (b->owner && !b->fresh)
			adjust(l, b);
	}
	for (unsigned w = 0; w < l->workers; w++) {
		change.set = &g->sets[w];
		worker_ask(&workers[w], change_over, &change);
	}
	list_each(it, next, &l->bound) {
		struct bound *b = container_of(it, struct bound, link);

		if (!b->owner)
			bound_free(b); /* its listeners are the workers' to free */
	}
}

void listening_end(struct listening *l)
{
	while (!list_empty(&l->bound))
		bound_free(list_first(&l->bound, struct bound, link));
}
