/*
 * Unit tests of notify.h and activation.h: what the environment says, what systemd hears, sockets that are no good.
 * Run by `make unit`. Each test is a process of its own, for both modules look at the environment once.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "activation.h"
#include "notify.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

/* A NOTIFY_SOCKET in the abstract name space, announced. */
static int listener(void)
{
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	char name[64];
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	int n = snprintf(name, sizeof(name), "@tlsplice-unit-%d", (int)getpid());

	memcpy(un.sun_path + 1, name + 1, (size_t)n - 1);
	cr_assert_eq(bind(fd, (struct sockaddr *)&un, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + (size_t)n)), 0);
	setenv("NOTIFY_SOCKET", name, 1);
	return fd;
}

static const char *heard(int fd)
{
	static char text[512];
	ssize_t n = recv(fd, text, sizeof(text) - 1, 0);

	text[n > 0 ? n : 0] = '\0';
	return text;
}

Test(notify, nobody_listens)
{
	unsetenv("NOTIFY_SOCKET");
	setenv("WATCHDOG_USEC", "1000000", 1);
	notify_open();
	notify_ready("Serving");
	cr_assert_eq(notify_watchdog_wait_ms(0), -1);
	cr_assert_not(notify_watchdog_due(UINT64_MAX));
	cr_assert_null(getenv("WATCHDOG_USEC"));
}

Test(notify, messages)
{
	int fd = listener();
	char wanted[64];

	notify_open();
	cr_assert_null(getenv("NOTIFY_SOCKET"));
	snprintf(wanted, sizeof(wanted), "READY=1\nMAINPID=%d\nSTATUS=Serving", (int)getpid());
	notify_ready("Serving");
	cr_assert_str_eq(heard(fd), wanted);
	notify_reloading();
	cr_assert_eq(strncmp(heard(fd), "RELOADING=1\nMONOTONIC_USEC=", 27), 0);
	notify_stopping(0);
	cr_assert_str_eq(heard(fd), "STOPPING=1\nSTATUS=Ending");
	notify_stopping(90);
	cr_assert_str_eq(heard(fd), "STOPPING=1\nEXTEND_TIMEOUT_USEC=100000000\nSTATUS=Waiting for connections to end");
	close(fd);
	notify_ready("nobody listens any more"); /* a warning */
}

Test(notify, names_that_are_none)
{
	char longer[200];

	memset(longer, 'x', sizeof(longer) - 1);
	longer[0] = '/';
	longer[sizeof(longer) - 1] = '\0';
	for (int i = 0; i < 5; i++) {
		setenv("NOTIFY_SOCKET", (const char *[]){"", "/", "relative", longer, "/nonexistent/socket"}[i], 1);
		setenv("WATCHDOG_USEC", "1000000", 1);
		notify_open();
		notify_ready("Serving");
		cr_assert_eq(notify_watchdog_wait_ms(0), -1);
	}
}

static int interval_ms(const char *usec, const char *pid)
{
	setenv("WATCHDOG_USEC", usec, 1);
	if (pid)
		setenv("WATCHDOG_PID", pid, 1);
	else
		unsetenv("WATCHDOG_PID");
	notify_open();
	notify_alive(1000);
	return notify_watchdog_wait_ms(1000);
}

Test(notify, watchdog)
{
	int fd = listener();
	char name[64], own[16];

	snprintf(name, sizeof(name), "%s", getenv("NOTIFY_SOCKET"));
	snprintf(own, sizeof(own), "%d", (int)getpid());
	cr_assert_eq(interval_ms("3000000", NULL), 1500);
	cr_assert_str_eq(heard(fd), "WATCHDOG=1");
	cr_assert_not(notify_watchdog_due(2499));
	cr_assert(notify_watchdog_due(2500));
	cr_assert_eq(notify_watchdog_wait_ms(2600), 0);
	for (int i = 0; i < 6; i++) {
		static const struct {
			const char *usec, *pid;
			int ms;
		} cases[] = {{"1", NULL, 1},
		             {"0", NULL, -1},
		             {"nonsense", NULL, -1},
		             {"3000000", "1", -1},
		             {"18446744073709551615", NULL, -1},
		             {"4000", NULL, 2}};

		setenv("NOTIFY_SOCKET", name, 1);
		cr_assert_eq(interval_ms(cases[i].usec, cases[i].pid), cases[i].ms, "%s", cases[i].usec);
	}
	setenv("NOTIFY_SOCKET", name, 1);
	cr_assert_eq(interval_ms("3000000", own), 1500);
	close(fd);
}

/* --- activation.h --------------------------------------------------------------------------------------------------------------------- */

/* Puts a descriptor where the first of systemd's is, and announces so many. */
static bool take(int fd, const char *count)
{
	char pid[16];

	if (fd < 0)
		close(3);
	else if (fd != 3)
		dup2(fd, 3);
	snprintf(pid, sizeof(pid), "%d", (int)getpid());
	setenv("LISTEN_PID", pid, 1);
	setenv("LISTEN_FDS", count, 1);
	setenv("LISTEN_FDNAMES", "a:b", 1);
	return activation_take();
}

static int listening_socket(int type)
{
	struct sockaddr sa = {.sa_family = AF_UNIX};
	int fd = socket(AF_UNIX, type | SOCK_NONBLOCK, 0);

	if (bind(fd, &sa, sizeof(sa.sa_family)) < 0 ||
	    (type != SOCK_DGRAM && listen(fd, 1) < 0)) /* a name of the kernel's choice */
		abort();
	return fd;
}

/* The test's own descriptor 3 is somebody else's: in a process that may spoil it. */
static void in_child(bool (*check)(void))
{
	pid_t pid = fork();
	int status;

	if (pid == 0)
		_exit(check() ? 0 : 1);
	cr_assert_eq(waitpid(pid, &status, 0), pid);
	cr_assert_eq(status, 0);
}

static bool takes_a_listening_socket(void)
{
	return take(listening_socket(SOCK_STREAM), "1") && activation_count() == 1 && activation_socket(0) == 3 &&
	       fcntl(3, F_GETFD) == FD_CLOEXEC && !(fcntl(3, F_GETFL) & O_NONBLOCK) && !getenv("LISTEN_FDS") &&
	       !getenv("LISTEN_PID") && !getenv("LISTEN_FDNAMES");
}

Test(activation, a_listening_socket)
{
	in_child(takes_a_listening_socket);
}

static bool takes_nothing(void)
{
	static const char *const counts[] = {"0", "", "-1", "x", "1x", "99999999999999999999"};
	bool ok = true;

	for (size_t i = 0; i < sizeof(counts) / sizeof(*counts); i++)
		ok = ok && take(-1, counts[i]) && activation_count() == 0;
	setenv("LISTEN_PID", "1", 1); /* another process */
	setenv("LISTEN_FDS", "1", 1);
	return ok && activation_take() && activation_count() == 0;
}

Test(activation, nothing_is_announced)
{
	in_child(takes_nothing);
}

static bool refuses_what_is_not_there(void)
{
	return !take(-1, "1") && !take(-1, "2147483647") && !take(-1, "9223372036854775807") && activation_count() == 0;
}

Test(activation, more_than_there_are)
{
	in_child(refuses_what_is_not_there);
}

static bool refuses_others(void)
{
	return !take(listening_socket(SOCK_DGRAM), "1") && !take(listening_socket(SOCK_SEQPACKET), "1") &&
	       !take(socket(AF_UNIX, SOCK_STREAM, 0), "1") && !take(open("/dev/null", O_RDONLY), "1") && activation_count() == 0;
}

Test(activation, what_is_no_listening_stream_socket)
{
	in_child(refuses_others);
}
