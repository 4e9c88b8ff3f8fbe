/*
 * Files and directories examined: see doctor.h. What is read again by a reload must be readable for the user that the process will be by then.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "doctor.h"

#include "tls_place.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* access(2) as the user that the process will be, in a process of its own. Returns 0 or -errno. */
static int access_later(const struct doctor *d, const char *path, int mode)
{
	const struct identity *who = &d->who;
	pid_t pid = d->changes_user ? fork() : -1;
	int status;

	if (pid == 0) {
		if ((who->group && (setgroups((size_t)who->count, who->groups) < 0 || setgid(who->groups[0]) < 0)) ||
		    setuid(who->uid) < 0)
			_exit(0); /* that it may not is another finding */
		_exit(faccessat(AT_FDCWD, path, mode, AT_EACCESS) < 0 ? errno : 0);
	}
	if (pid > 0)
		return waitpid(pid, &status, 0) == pid && WIFEXITED(status) ? -WEXITSTATUS(status) : 0;
	return faccessat(AT_FDCWD, path, mode, AT_EACCESS) < 0 ? -errno : 0;
}

/* A file or directory that is read at start and again by each reload. False: there is none, said. */
static bool look_at_readable(struct doctor *d, const char *who, const char *option, const char *path)
{
	int mode = R_OK, error;
	struct stat st;

	if (stat(path, &st) == 0 && S_ISDIR(st.st_mode))
		mode |= X_OK;
	if (faccessat(AT_FDCWD, path, mode, AT_EACCESS) < 0) {
		finding(d, VERDICT_PROBLEM, "%s: %s = %s: %s", who, option, path, strerror(errno));
		remedy(d, errno == ENOENT ? "make the file, or mend the path"
		                          : "make it readable for the user that starts tlsplice, the directories above it too");
		return false;
	}
	error = access_later(d, path, mode);
	if (error) {
		finding(d, VERDICT_WARNING, "%s: %s = %s: a reload cannot read it as user %u: %s", who, option, path, d->who.uid,
		        strerror(-error));
		remedy(d, "chown or chgrp it, or set an ACL: setfacl -m u:%u:r %s", d->who.uid, path);
	} else {
		finding(d, VERDICT_OK, "%s: %s = %s", who, option, path);
	}
	return true;
}

static void look_at_secret(struct doctor *d, const char *who, const char *option, const char *path)
{
	struct stat st;

	if (!look_at_readable(d, who, option, path) || stat(path, &st) < 0 || !(st.st_mode & (S_IROTH | S_IWOTH | S_IWGRP)))
		return;
	finding(d, VERDICT_WARNING, "%s: %s = %s: others may read or change it (mode %04o)", who, option, path,
	        (unsigned)st.st_mode & 07777);
	remedy(d, "chmod o=,g-w %s", path);
}

/* Run for each connection, by whoever the process is by then. */
static void look_at_program(struct doctor *d, const struct section *s)
{
	const char *root = d->config->global.chroot ? d->config->global.chroot : "";
	char at[PATH_MAX];
	int error;

	snprintf(at, sizeof(at), "%s%s", root, s->exec);
	error = access_later(d, at, X_OK);
	if (!error) {
		finding(d, VERDICT_OK, "%s: exec = %s", s->name, at);
		return;
	}
	finding(d, VERDICT_PROBLEM, "%s: exec = %s: user %u cannot run it: %s", s->name, at, d->who.uid, strerror(-error));
	remedy(d, "install the program, mend the path, or chmod +x");
}

static void look_at_section(struct doctor *d, const struct section *s)
{
	bool tokens = s->engine_id || s->engine_num;

	for (size_t i = 0; i < s->cert.count && !tokens; i++) {
		bool has_key = !s->key || i > 0;

		if (place_is_token(s->cert.texts[i]))
			continue;
		if (has_key)
			look_at_secret(d, s->name, "cert", s->cert.texts[i]);
		else
			look_at_readable(d, s->name, "cert", s->cert.texts[i]);
	}
	if (s->key && !tokens && !place_is_token(s->key))
		look_at_secret(d, s->name, "key", s->key);
	if (s->psk_secrets)
		look_at_secret(d, s->name, "PSKsecrets", s->psk_secrets);
	for (size_t i = 0; i < s->ticket_key_files.count; i++)
		look_at_secret(d, s->name, "ticketKeyFile", s->ticket_key_files.texts[i]);
	if (s->ca_file)
		look_at_readable(d, s->name, "CAfile", s->ca_file);
	if (s->ca_path)
		look_at_readable(d, s->name, "CApath", s->ca_path);
	if (s->crl_file)
		look_at_readable(d, s->name, "CRLfile", s->crl_file);
	if (s->crl_path)
		look_at_readable(d, s->name, "CRLpath", s->crl_path);
	if (s->exec)
		look_at_program(d, s);
}

/* A file that the process writes once it is in its chroot and its user. */
static void look_at_written(struct doctor *d, const char *option, const char *path)
{
	const char *root = d->config->global.chroot ? d->config->global.chroot : "";
	char at[PATH_MAX], *slash;
	struct stat st;
	int error;

	if (!path || strncmp(path, "/dev/", 5) == 0)
		return;
	snprintf(at, sizeof(at), "%s%s", root, path);
	if (stat(at, &st) < 0 || strcmp(option, "pid") == 0) { /* a new file: by its directory */
		slash = strrchr(at, '/');
		if (slash)
			slash[slash == at] = '\0';
		else
			strcpy(at, ".");
	}
	error = access_later(d, at, stat(at, &st) == 0 && S_ISDIR(st.st_mode) ? W_OK | X_OK : W_OK);
	if (!error) {
		finding(d, VERDICT_OK, "%s = %s%s", option, root, path);
		return;
	}
	finding(d, VERDICT_PROBLEM, "%s = %s%s: user %u cannot write %s: %s", option, root, path, d->who.uid, at,
	        strerror(-error));
	remedy(d, "make the directory, and let the user of `setuid` write there");
}

void doctor_files(struct doctor *d)
{
	const struct globals *g = &d->config->global;
	struct stat st;

	if (g->chroot && (stat(g->chroot, &st) < 0 || !S_ISDIR(st.st_mode))) {
		finding(d, VERDICT_PROBLEM, "chroot = %s: no such directory", g->chroot);
		remedy(d, "mkdir -p %s", g->chroot);
	}
	look_at_written(d, "output", g->output);
	look_at_written(d, "pid", g->pid);
	for (const struct section *s = d->config->sections; s; s = s->next)
		look_at_section(d, s);
}
