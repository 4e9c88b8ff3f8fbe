/*
 * Unit tests of landlock.h, seccomp.h and of rings with restrictions: what is refused, and what must not be. Each in a process of its own that ends with it.
 * Run by `make unit`.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "landlock.h"
#include "ring.h"
#include "seccomp.h"

#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <linux/netlink.h>
#include <netdb.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* Runs a check where nothing of it stays behind, and returns what it returned: the line that failed, or 0. */
static int apart(int (*check)(void))
{
	int status = -1;
	pid_t pid = fork();

	if (pid == 0)
		_exit(check() & 0xff);
	cr_assert(pid > 0 && waitpid(pid, &status, 0) == pid);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* A line's number, as far as an exit status can tell: 0 means that all is well. */
#define EXPECT(condition)                                                  \
	do {                                                               \
		if (!(condition)) {                                        \
			fprintf(stderr, "%d: %s\n", __LINE__, #condition); \
			return 1;                                          \
		}                                                          \
	} while (0)

/* --- seccomp ------------------------------------------------------------------------------------------------------------------------- */

static int restrict_calls(bool strangers)
{
	return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 ? seccomp_restrict(strangers, false) : -errno;
}

static bool refused(long result, int error)
{
	return result < 0 && errno == error;
}

static int what_is_refused(void)
{
	char program[] = "/bin/true", *const argv[] = {program, NULL};
	struct io_uring_params params = {0};
	void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	EXPECT(restrict_calls(false) == 0);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
	EXPECT(refused(execve(argv[0], argv, NULL), EPERM));
	EXPECT(refused(ptrace(PTRACE_TRACEME, 0, NULL, NULL), EPERM));
#else
	(void)argv;
#endif
	EXPECT(refused(syscall(SYS_io_uring_setup, 8, &params), EPERM));
	EXPECT(refused(unshare(CLONE_NEWUSER), EPERM));
	EXPECT(refused(chroot("/"), EPERM));
	EXPECT(refused(syscall(SYS_setuid, getuid()), EPERM));
	EXPECT(refused(syscall(SYS_bpf, 0, NULL, 0), EPERM));
	EXPECT(refused(syscall(SYS_clone3, NULL, 0), ENOSYS));
	EXPECT(refused(syscall(SYS_clone, CLONE_NEWNS | SIGCHLD, 0, 0, 0, 0), EPERM));
	EXPECT(refused(syscall(SYS_keyctl, 0, 0, 0, 0, 0), EPERM));
	EXPECT(refused(socket(AF_PACKET, SOCK_RAW, 0), EAFNOSUPPORT));
	EXPECT(refused(socket(AF_ALG, SOCK_SEQPACKET, 0), EAFNOSUPPORT));
	EXPECT(refused(socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_ICMP), EPERM));
	EXPECT(refused(socket(AF_INET6, SOCK_RAW, IPPROTO_ICMPV6), EPERM));
	EXPECT(refused(socket(AF_NETLINK, SOCK_RAW, NETLINK_AUDIT), EPERM));
	EXPECT(mmap(NULL, 4096, PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED && errno == EPERM);
	EXPECT(refused(mprotect(page, 4096, PROT_READ | PROT_WRITE | PROT_EXEC), EPERM));
	return 0;
}

static void *nothing(void *arg)
{
	return arg;
}

static int what_is_allowed(void)
{
	struct addrinfo *list = NULL;
	pthread_t thread;

	EXPECT(restrict_calls(false) == 0);
	EXPECT(pthread_create(&thread, NULL, nothing, NULL) == 0 && pthread_join(thread, NULL) == 0);
	EXPECT(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0) >= 0);
	EXPECT(socket(AF_INET6, SOCK_DGRAM, 0) >= 0);
	EXPECT(socket(AF_UNIX, SOCK_STREAM, 0) >= 0);
	EXPECT(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE) >= 0);
	EXPECT(getaddrinfo("localhost", NULL, NULL, &list) == 0);
	freeaddrinfo(list);
	EXPECT(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) != MAP_FAILED);
	EXPECT(mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) != MAP_FAILED);
	EXPECT(open("/dev/null", O_RDWR) >= 0);
	return 0;
}

static int strangers_run_programs(void)
{
	char program[] = "/bin/true", *const argv[] = {program, NULL};
	struct io_uring_params params = {0};

	EXPECT(restrict_calls(true) == 0);
	EXPECT(refused(syscall(SYS_io_uring_setup, 8, &params), EPERM));
	EXPECT(refused(syscall(SYS_keyctl, 0xffff, 0, 0, 0, 0), EOPNOTSUPP) || errno == ENOSYS);
	execve(argv[0], argv, NULL);
	return 1;
}

static pthread_barrier_t barrier;

/* A thread that was there before. */
static void *try_later(void *arg)
{
	int *result = arg;

	pthread_barrier_wait(&barrier);
	pthread_barrier_wait(&barrier);
	*result = refused(chroot("/"), EPERM) ? 0 : 1;
	return NULL;
}

static int every_thread_is_restricted(void)
{
	pthread_t thread;
	int result = -1;

	pthread_barrier_init(&barrier, NULL, 2);
	EXPECT(pthread_create(&thread, NULL, try_later, &result) == 0);
	pthread_barrier_wait(&barrier);
	EXPECT(restrict_calls(false) == 0);
	pthread_barrier_wait(&barrier);
	EXPECT(pthread_join(thread, NULL) == 0);
	return result;
}

Test(seccomp, what_is_refused)
{
	cr_assert_eq(apart(what_is_refused), 0);
}

Test(seccomp, what_is_allowed)
{
	cr_assert_eq(apart(what_is_allowed), 0);
}

Test(seccomp, strangers_run_programs)
{
	cr_assert_eq(apart(strangers_run_programs), 0);
}

Test(seccomp, every_thread_is_restricted)
{
	cr_assert_eq(apart(every_thread_is_restricted), 0);
}

/* --- Landlock ------------------------------------------------------------------------------------------------------------------------ */

static char directory[] = "/tmp/tlsplice-landlock-XXXXXX";

static const char *path(const char *name)
{
	static char full[128];

	snprintf(full, sizeof(full), "%s/%s", directory, name);
	return full;
}

static void make_file(const char *name)
{
	int fd = open(path(name), O_WRONLY | O_CREAT | O_CLOEXEC, 0644);

	cr_assert(fd >= 0);
	close(fd);
}

static int may_open(const char *name, int flags)
{
	int fd = open(path(name), flags | O_CLOEXEC, 0644);

	if (fd >= 0)
		close(fd);
	return fd >= 0 ? 0 : errno;
}

static int files_are_restricted(void)
{
	int version = landlock_version(), list = landlock_open(version, 0);

	EXPECT(list >= 0);
	EXPECT(landlock_allow(list, version, path("read"), LANDLOCK_READ) == 0);
	EXPECT(landlock_allow(list, version, path("write"), LANDLOCK_WRITE) == 0);
	EXPECT(landlock_allow(list, version, path("remove"), LANDLOCK_REMOVE) == 0);
	EXPECT(landlock_allow(list, version, path("lone"), LANDLOCK_READ) == 0);
	EXPECT(landlock_allow(list, version, path("nosuch"), LANDLOCK_READ) == -ENOENT);
	EXPECT(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && landlock_enforce(list) == 0);
	EXPECT(may_open("read/file", O_RDONLY) == 0);
	EXPECT(may_open("read/file", O_WRONLY) == EACCES);
	EXPECT(may_open("read/new", O_WRONLY | O_CREAT) == EACCES);
	EXPECT(may_open("write/file", O_WRONLY | O_TRUNC) == 0);
	EXPECT(may_open("write/new", O_WRONLY | O_CREAT | O_APPEND) == 0);
	EXPECT(may_open("write/file", O_RDONLY) == EACCES);
	EXPECT(may_open("lone", O_RDONLY) == 0);
	EXPECT(may_open("other", O_RDONLY) == EACCES);
	EXPECT(unlink(path("write/file")) < 0 && errno == EACCES);
	EXPECT(unlink(path("remove/file")) == 0);
	EXPECT(mkdir(path("write/directory"), 0755) < 0 && errno == EACCES);
	return 0;
}

Test(landlock, files_are_restricted)
{
	static const char *const directories[] = {"read", "write", "remove"};
	static const char *const files[] = {"read/file", "write/file", "remove/file", "lone", "other"};

	if (landlock_version() < 3)
		cr_skip_test("this kernel has no Landlock of version 3");
	cr_assert(mkdtemp(directory));
	for (size_t i = 0; i < 3; i++)
		cr_assert_eq(mkdir(path(directories[i]), 0755), 0);
	for (size_t i = 0; i < 5; i++)
		make_file(files[i]);
	cr_expect_eq(apart(files_are_restricted), 0);
	unlink(path("write/new"));
	for (size_t i = 0; i < 5; i++)
		unlink(path(files[i]));
	for (size_t i = 0; i < 3; i++)
		rmdir(path(directories[i]));
	rmdir(directory);
}

static int bind_to(unsigned port)
{
	struct sockaddr_in in = {
		.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int error = bind(fd, (struct sockaddr *)&in, sizeof(in)) < 0 ? errno : 0;

	close(fd);
	return error;
}

static int connect_to(unsigned port)
{
	struct sockaddr_in in = {
		.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int error = connect(fd, (struct sockaddr *)&in, sizeof(in)) < 0 ? errno : 0;

	close(fd);
	return error;
}

/* Nothing listens there: who gets as far as that is not kept from it. */
enum { LISTED = 1, OTHER = 2 };

static int ports_are_restricted(void)
{
	int list = landlock_open(landlock_version(), LANDLOCK_BIND | LANDLOCK_CONNECT);

	EXPECT(list >= 0);
	EXPECT(landlock_allow_port(list, 0, LANDLOCK_BIND) == 0);
	EXPECT(landlock_allow_port(list, LISTED, LANDLOCK_CONNECT) == 0);
	EXPECT(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && landlock_enforce(list) == 0);
	EXPECT(bind_to(0) == 0);
	EXPECT(bind_to(29999) == EACCES);
	EXPECT(connect_to(LISTED) == ECONNREFUSED);
	EXPECT(connect_to(OTHER) == EACCES);
	return 0;
}

Test(landlock, ports_are_restricted)
{
	if (landlock_version() < LANDLOCK_VERSION_PORTS)
		cr_skip_test("this kernel's Landlock knows no ports");
	cr_assert_eq(apart(ports_are_restricted), 0);
}

/* --- rings --------------------------------------------------------------------------------------------------------------------------- */

/* The descriptor of the ring that was opened last. */
static int ring_descriptor(void)
{
	char name[64], link[64];

	for (int fd = 255; fd >= 0; fd--) {
		ssize_t n;

		snprintf(name, sizeof(name), "/proc/self/fd/%d", fd);
		n = readlink(name, link, sizeof(link) - 1);
		if (n > 0 && memmem(link, (size_t)n, "io_uring", 8))
			return fd;
	}
	return -1;
}

static int try_to_register(void)
{
	struct io_uring_restriction none = {.opcode = IORING_RESTRICTION_SQE_OP, .sqe_op = IORING_OP_OPENAT};

	return syscall(SYS_io_uring_register, ring_descriptor(), IORING_REGISTER_RESTRICTIONS, &none, 1) < 0 ? errno : 0;
}

static int a_restricted_ring(void)
{
	struct bufs bufs = {0};
	struct ring *ring;
	int error;

	ring = ring_open(&bufs, &error);
	EXPECT(ring && try_to_register() == EBADFD); /* too late for a ring that is in use */
	ring_close(ring);
	ring_restrict();
	ring = ring_open(&bufs, &error);
	EXPECT(ring);
	EXPECT(try_to_register() == EACCES);
	ring_close(ring);
	bufs_free(&bufs);
	return 0;
}

Test(sandbox, a_restricted_ring)
{
	cr_assert_eq(apart(a_restricted_ring), 0);
}
