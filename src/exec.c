/*
 * Programs in the place of an upstream, or of a client: see exec.h.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "exec.h"

#include "child.h"
#include "coro.h"
#include "environment.h"
#include "jobs.h"

#include <arpa/inet.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifndef LIBDIR
#define LIBDIR "/usr/local/lib"
#endif

#define PRELOAD_FILE "libtlsplice_preload.so"

enum { VARIABLES_MAX = 5 }; /* REMOTE_HOST, REMOTE_PORT, LD_PRELOAD, SSL_CLIENT_DN, SSL_CLIENT_I_DN */

/* A program being started: the pool's until it was delivered, and nobody's once it was abandoned. */
struct exec {
	struct job job;
	struct message message;
	struct worker *worker;
	struct ring_wait *wait; /* NULL: abandoned */
	struct config *config;  /* whose strings are used */
	struct child child;
	int error;
	char *own[VARIABLES_MAX + 1];
	char **environment;
};

static char preload[PATH_MAX]; /* "": programs would not find it */

void exec_find_preload(void)
{
	ssize_t n = readlink("/proc/self/exe", preload, sizeof(preload) - sizeof(PRELOAD_FILE) - 1);
	char *name;

	/* Beside the binary where both were built, else where it is installed. */
	preload[n > 0 ? n : 0] = '\0';
	name = strrchr(preload, '/');
	if (name)
		strcpy(name + 1, PRELOAD_FILE);
	if (!name || access(preload, R_OK) < 0)
		strcpy(preload, LIBDIR "/tlsplice/" PRELOAD_FILE);
}

/* What a section's program will not find now that the root is another. */
static void look_in_jail(const struct section *s)
{
	if (access(s->exec, X_OK) < 0)
		log_global(LOG_WARNING, "Service [%s]: exec %s: not in the chroot directory: %s (%d)", s->name, s->exec,
		           strerror(errno), errno);
	if (s->pty && access("/dev/ptmx", R_OK | W_OK) < 0)
		log_global(LOG_WARNING, "Service [%s]: pty needs /dev/ptmx and /dev/pts in the chroot directory: %s (%d)",
		           s->name, strerror(errno), errno);
	if (section_keeps_source(s) && !preload[0])
		log_global(LOG_WARNING,
		           "Service [%s]: " PRELOAD_FILE " is not in the chroot directory: getpeername(2) will not tell "
		           "programs who their client is",
		           s->name);
}

void exec_look_in_jail(const struct config *config)
{
	if (access(preload, R_OK) < 0)
		preload[0] = '\0';
	for (const struct section *s = config->sections; s; s = s->next)
		if (s->exec)
			look_in_jail(s);
}

/* --- the environment ------------------------------------------------------------------------------------------------------------------ */

/* Adds a variable. False: no memory. */
static bool put(struct exec *x, const char *name, const char *value)
{
	size_t i = 0;

	while (x->own[i])
		i++;
	return asprintf(&x->own[i], "%s=%s", name, value) >= 0 || (x->own[i] = NULL);
}

/* Who the client is. Nothing is told of one that has no address, or none any more; on a Unix socket it is of this machine. */
static bool put_peer(struct exec *x, const struct conn *c)
{
	char host[INET6_ADDRSTRLEN] = "localhost", port[8] = "";
	const struct addr *peer = &c->peer;

	if (!peer->len)
		return true;
	if (peer->sa.sa_family == AF_INET) {
		inet_ntop(AF_INET, &peer->in.sin_addr, host, sizeof(host));
		snprintf(port, sizeof(port), "%u", ntohs(peer->in.sin_port));
	} else if (peer->sa.sa_family == AF_INET6) {
		inet_ntop(AF_INET6, &peer->in6.sin6_addr, host, sizeof(host));
		snprintf(port, sizeof(port), "%u", ntohs(peer->in6.sin6_port));
	}
	return put(x, "REMOTE_HOST", host) && put(x, "REMOTE_PORT", port) &&
	       (!section_keeps_source(c->service->conf) || !preload[0] || put(x, "LD_PRELOAD", preload));
}

struct names {
	struct tls *tls;
	char *subject, *issuer;
	bool ok;
};

static void get_names(void *arg)
{
	struct names *n = arg;

	n->ok = tls_peer_names(n->tls, &n->subject, &n->issuer);
}

/* Whose certificate the client has shown, if TLS is up by now. */
static bool put_names(struct exec *x, struct conn *c)
{
	struct names n = {.tls = &c->tls};
	bool ok;

	if (!c->tls.ssl)
		return true;
	conn_call(c, get_names, &n);
	ok = n.ok && (!n.subject || (put(x, "SSL_CLIENT_DN", n.subject) && put(x, "SSL_CLIENT_I_DN", n.issuer)));
	free(n.subject);
	free(n.issuer);
	return ok;
}

/* --- starting it ----------------------------------------------------------------------------------------------------------------------- */

static void exec_free(struct exec *x)
{
	if (!x)
		return;
	for (size_t i = 0; x->own[i]; i++)
		free(x->own[i]);
	free(x->environment);
	config_free(x->config);
	free(x);
}

/* On a pool thread. */
static void work(struct job *job)
{
	struct exec *x = container_of(job, struct exec, job);

	x->error = child_start(&x->child);
}

static void done(struct job *job)
{
	struct exec *x = container_of(job, struct exec, job);

	worker_post(x->worker, &x->message);
}

/* Back on the worker. */
static void deliver(struct worker *w, struct message *message)
{
	struct exec *x = container_of(message, struct exec, message);
	(void)w;

	if (!x->wait) {
		if (x->child.fd >= 0)
			close(x->child.fd);
		exec_free(x);
		return;
	}
	x->wait->result.res = 0;
	coro_resume(x->wait->coro);
}

static struct exec *exec_new(struct conn *c)
{
	struct config *config = c->service->set->generation->config;
	const struct section *conf = c->service->conf;
	struct exec *x = calloc(1, sizeof(*x));

	if (!x)
		return NULL;
	x->job.work = work;
	x->job.done = done;
	x->message.deliver = deliver;
	x->worker = c->worker;
	x->wait = &c->wait;
	x->config = config_ref(config);
	if (put_peer(x, c) && put_names(x, c))
		x->environment = environment_join(x->own, config->environment);
	if (!x->environment) {
		exec_free(x);
		return NULL;
	}
	x->child = (struct child){
		.program = conf->exec,
		.argv = conf->exec_argv,
		.envp = x->environment,
		.pty = conf->pty,
		.keep_stderr = config->global.foreground == FOREGROUND_YES,
		.fd = -1,
	};
	return x;
}

void exec_abandon(struct exec **slot)
{
	struct ring_wait *wait = (*slot)->wait;

	(*slot)->wait = NULL;
	*slot = NULL;
	wait->result.res = -ECANCELED;
	coro_resume(wait->coro);
}

/* Waits until the program runs. False: the connection has been given up meanwhile, and the program with it. */
static bool await(struct conn *c, struct exec *x)
{
	c->exec = x;
	c->wait.coro = coro_self();
	jobs_submit(&x->job);
	coro_suspend();
	if (c->wait.result.res < 0)
		return false;
	c->exec = NULL;
	return true;
}

/* A terminal is one to us too: it is read and written as a file. */
static int open_end(struct end *e, const struct child *s)
{
	if (s->pty)
		return end_open_files(e, s->fd, s->fd);
	end_open(e, s->fd);
	return 0;
}

static void started(struct conn *c, struct end *e, const struct exec *x)
{
	const struct child *s = &x->child;
	int error = x->error ? x->error : open_end(e, s);

	if (s->tty[0])
		conn_log(c, LOG_DEBUG, "TTY=%s allocated", s->tty);
	if (error) {
		conn_log(c, LOG_ERR, "%s: %s (%d)", x->error ? s->what : "O_NONBLOCK", strerror(-error), -error);
		if (s->fd >= 0)
			close(s->fd);
		conn_fail(c, CONN_RESET);
		return;
	}
	conn_log(c, LOG_INFO, "Local mode child started (PID=%d)", (int)s->pid);
	if (s->exec_error)
		conn_log(c, LOG_ERR, "exec %s: %s (%d)", s->program, strerror(-s->exec_error), -s->exec_error);
	if (s->lacks_loader)
		conn_log(c, LOG_ERR, "exec %s: the file is there, but not the interpreter or loader (ld.so) that it asks for",
		         s->program);
}

static void run(struct conn *c, struct end *e)
{
	struct exec *x;

	if (c->failed)
		return;
	conn_deadline(c, TIMEOUT_FOREVER, NULL);
	x = exec_new(c);
	if (!x) {
		conn_log(c, LOG_ERR, "No memory for the environment of the program");
		conn_fail(c, CONN_RESET);
		return;
	}
	if (!await(c, x)) {
		conn_fail(c, CONN_CLOSED);
		return;
	}
	started(c, e, x);
	exec_free(x);
}

void exec_upstream(struct conn *c)
{
	const struct section *conf = c->service->conf;

	run(c, &c->back);
	if (c->failed)
		return;
	snprintf(c->destination, sizeof(c->destination), "%s", conf->exec);
	if (!c->back.file)
		sockopts_apply(&conf->socket[SOCK_REMOTE], SOCK_REMOTE, c->back.fd, c->id, conf->debug);
	conn_log(c, LOG_DEBUG, "Remote descriptor (FD=%d) initialized", c->back.fd);
}

void exec_client(struct conn *c)
{
	run(c, &c->front);
}
