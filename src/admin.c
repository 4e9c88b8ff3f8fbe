/*
 * The admin endpoint: libmicrohttpd on one thread, three pages made of stats.h, nothing that changes anything.
 * Started and stopped by the main thread.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "admin.h"

#include "addr.h"
#include "log.h"
#include "stats.h"

#include <errno.h>
#include <microhttpd.h>
#include <netdb.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
	CONNECTIONS = 64, /* status pages, not a service: a flood must not eat the descriptors of the proxy */
	IDLE_S = 10,
	MEMORY = 16384, /* bytes for a connection's request head */
	BACKLOG = 64,
};

struct admin {
	struct MHD_Daemon *daemon;
	atomic_bool healthy;
	char where[ADDR_TEXT_MAX];
};

/* ---- pages ---- */

static unsigned int page_status(struct admin *admin, FILE *out)
{
	(void)admin;
	stats_print_html(out);
	return MHD_HTTP_OK;
}

static unsigned int page_metrics(struct admin *admin, FILE *out)
{
	(void)admin;
	stats_print_prometheus(out);
	return MHD_HTTP_OK;
}

static unsigned int page_health(struct admin *admin, FILE *out)
{
	bool healthy = atomic_load(&admin->healthy);

	fputs(healthy ? "ok\n" : "draining\n", out);
	return healthy ? MHD_HTTP_OK : MHD_HTTP_SERVICE_UNAVAILABLE;
}

static unsigned int page_unknown(struct admin *admin, FILE *out)
{
	(void)admin;
	fputs("not found\n", out);
	return MHD_HTTP_NOT_FOUND;
}

static unsigned int page_refused(struct admin *admin, FILE *out)
{
	(void)admin;
	fputs("method not allowed\n", out);
	return MHD_HTTP_METHOD_NOT_ALLOWED;
}

struct page {
	const char *path, *type;
	unsigned int (*print)(struct admin *admin, FILE *out); /* returns the status */
};

static const struct page pages[] = {
	{"/", "text/html; charset=utf-8", page_status},
	{"/metrics", "text/plain; version=0.0.4; charset=utf-8", page_metrics},
	{"/health", "text/plain; charset=utf-8", page_health},
};

static const struct page unknown = {NULL, "text/plain; charset=utf-8", page_unknown};
static const struct page refused = {NULL, "text/plain; charset=utf-8", page_refused};

static const struct page *page_find(const char *path)
{
	for (size_t i = 0; i < sizeof(pages) / sizeof(pages[0]); i++)
		if (!strcmp(pages[i].path, path))
			return &pages[i];
	return &unknown;
}

/* ---- responses ---- */

static bool add_headers(struct MHD_Response *response, const struct page *page)
{
	static const char *const common[][2] = {
		{"Cache-Control", "no-store"},
		{"X-Content-Type-Options", "nosniff"},
		{"Referrer-Policy", "no-referrer"},
		{"Content-Security-Policy",
	         "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"},
	};
	bool added = MHD_add_response_header(response, "Content-Type", page->type) == MHD_YES;

	for (size_t i = 0; i < sizeof(common) / sizeof(common[0]); i++)
		added = added && MHD_add_response_header(response, common[i][0], common[i][1]) == MHD_YES;
	if (page == &refused)
		added = added && MHD_add_response_header(response, "Allow", "GET, HEAD") == MHD_YES;
	return added;
}

/* Prints a page into memory. Returns NULL when there is none left. */
static struct MHD_Response *render(struct admin *admin, const struct page *page, unsigned int *status)
{
	struct MHD_Response *response = NULL;
	char *text = NULL;
	size_t size = 0;
	FILE *out = open_memstream(&text, &size);
	bool complete;

	if (!out)
		return NULL;
	*status = page->print(admin, out);
	complete = !ferror(out);
	if (fclose(out) == 0 && complete)
		response = MHD_create_response_from_buffer(size, text, MHD_RESPMEM_MUST_FREE);
	if (!response)
		free(text);
	return response;
}

/* MHD_NO drops the connection: all that can be done without memory. */
static enum MHD_Result answer(struct admin *admin, struct MHD_Connection *connection, const struct page *page)
{
	unsigned int status = 0;
	struct MHD_Response *response = render(admin, page, &status);
	enum MHD_Result result = MHD_NO;

	if (!response)
		return MHD_NO;
	if (add_headers(response, page))
		result = MHD_queue_response(connection, status, response);
	MHD_destroy_response(response);
	return result;
}

/* libmicrohttpd calls this once with the head, then for each piece of a body, and at the end with none left. */
static enum MHD_Result on_request(void *arg, struct MHD_Connection *connection, const char *path, const char *method,
                                  const char *version, const char *upload, size_t *upload_size, void **seen)
{
	struct admin *admin = arg;

	(void)version;
	(void)upload;
	if (strcmp(method, MHD_HTTP_METHOD_GET) != 0 && strcmp(method, MHD_HTTP_METHOD_HEAD) != 0)
		return answer(admin, connection, &refused);
	if (!*seen) {
		*seen = admin;
		return MHD_YES;
	}
	if (*upload_size) {
		*upload_size = 0;
		return MHD_YES;
	}
	return answer(admin, connection, page_find(path));
}

/* What libmicrohttpd complains of is mostly what peers sent: never louder than debug. */
__attribute__((format(printf, 2, 0))) static void on_complaint(void *arg, const char *format, va_list args)
{
	(void)arg;
	if (log_wants(LOG_DEBUG))
		log_vwrite(LOG_DEBUG, "admin", format, args);
}

/* ---- starting and stopping ---- */

/* The address to listen on: of a bare port the IPv4 one, for "127.0.0.1" is what people type. */
static const struct addr *choose(const struct addr_list *list, const char *address)
{
	if (!strchr(address, ':'))
		for (size_t i = 0; i < list->count; i++)
			if (list->addrs[i].sa.sa_family == AF_INET)
				return &list->addrs[i];
	return list->count ? &list->addrs[0] : NULL;
}

/* Returns NULL or what is wrong. */
static const char *look_up(const char *address, struct addr *addr)
{
	struct addr_list list = {0};
	int error = addr_resolve(address, ADDR_ACTIVE, &list);
	const struct addr *chosen = choose(&list, address);

	if (chosen)
		*addr = *chosen;
	addr_list_free(&list);
	if (error)
		return gai_strerror(error);
	return addr->len ? NULL : "no address";
}

static bool resolve(const char *address, struct addr *addr)
{
	const char *wrong = addr_check(address, ADDR_ACTIVE);

	if (!wrong && (address[0] == '/' || address[0] == '@'))
		wrong = "[host:]port needed";
	if (!wrong)
		wrong = look_up(address, addr);
	if (wrong)
		log_global(LOG_ERR, "admin: \"%s\": %s", address, wrong);
	return !wrong;
}

/* Returns a listening socket or -errno. */
static int listen_on(const struct addr *addr)
{
	int fd = socket(addr->sa.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), error;

	if (fd < 0)
		return -errno;
	if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int)) == 0 && bind(fd, &addr->sa, addr->len) == 0 &&
	    listen(fd, BACKLOG) == 0)
		return fd;
	error = -errno;
	close(fd);
	return error;
}

/* The thread is libmicrohttpd's to make; it inherits our mask, and no signal may reach it. */
static struct MHD_Daemon *start_daemon(struct admin *admin, int fd)
{
	unsigned int flags = MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_AUTO | MHD_USE_ERROR_LOG | MHD_USE_ITC;
	struct MHD_Daemon *daemon;
	sigset_t all, before;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	daemon = MHD_start_daemon(flags, 0, NULL, NULL, on_request, admin, MHD_OPTION_EXTERNAL_LOGGER, on_complaint, NULL,
	                          MHD_OPTION_LISTEN_SOCKET, fd, MHD_OPTION_CONNECTION_LIMIT, (unsigned int)CONNECTIONS,
	                          MHD_OPTION_CONNECTION_TIMEOUT, (unsigned int)IDLE_S, MHD_OPTION_CONNECTION_MEMORY_LIMIT,
	                          (size_t)MEMORY, MHD_OPTION_END);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return daemon;
}

/* Returns 0 or -errno. */
static int open_endpoint(struct admin *admin, const struct addr *addr)
{
	int fd = listen_on(addr);

	if (fd < 0)
		return fd;
	admin->daemon = start_daemon(admin, fd);
	/* The socket is libmicrohttpd's now, which has closed it or not: better one descriptor too many than somebody else's closed. */
	return admin->daemon ? 0 : -EAGAIN;
}

struct admin *admin_start(const char *address)
{
	struct admin *admin;
	struct addr addr = {0};
	int error;

	if (!resolve(address, &addr))
		return NULL;
	admin = calloc(1, sizeof(*admin));
	if (!admin) {
		log_global(LOG_ERR, "admin: %s (%d)", strerror(ENOMEM), ENOMEM);
		return NULL;
	}
	admin->healthy = true;
	addr_text(&addr, admin->where);
	error = open_endpoint(admin, &addr);
	if (error) {
		log_global(LOG_ERR, "admin: %s: %s (%d)", admin->where, strerror(-error), -error);
		free(admin);
		return NULL;
	}
	log_global(LOG_NOTICE, "Admin endpoint on %s", admin->where);
	return admin;
}

void admin_set_healthy(struct admin *admin, bool healthy)
{
	if (admin)
		atomic_store(&admin->healthy, healthy);
}

void admin_stop(struct admin *admin)
{
	if (!admin)
		return;
	MHD_stop_daemon(admin->daemon);
	free(admin);
}
