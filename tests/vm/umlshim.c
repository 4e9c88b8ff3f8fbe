/* Lets Debian's user-mode-linux 6.1 and 6.12 run on CPUs whose XSAVE area is larger than the 2696 bytes it reckons with (AMX: 11008).
 * Preloaded by run, built by setup. Newer kernels do not need it, and it does them no harm.
 * SPDX-License-Identifier: Apache-2.0 */

#define _GNU_SOURCE
#include <errno.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { NT_X86_XSTATE = 0x202 };

static char area[65536] __attribute__((aligned(64)));
static size_t whole;	/* the host's size, once known */

static long host_ptrace(long request, long pid, void *address, void *data)
{
	return syscall(SYS_ptrace, request, pid, address, data);
}

static long read_area(long pid)
{
	struct iovec host = { area, sizeof(area) };
	long result = host_ptrace(PTRACE_GETREGSET, pid, (void *)NT_X86_XSTATE, &host);

	if (result >= 0)
		whole = host.iov_len;
	return result;
}

/* UML gets the first part of the host's area. */
static long get_xstate(long pid, struct iovec *uml)
{
	long result = read_area(pid);

	if (result < 0)
		return result;
	if (uml->iov_len > whole)
		uml->iov_len = whole;
	memcpy(uml->iov_base, area, uml->iov_len);
	return 0;
}

/* The host insists on a whole area: the rest, which no guest program ever enables, is zeros. */
static long set_xstate(long pid, const struct iovec *uml)
{
	struct iovec host = { area, 0 };
	long result = whole ? 0 : read_area(pid);
	size_t part;

	if (result < 0)
		return result;
	part = uml->iov_len < whole ? uml->iov_len : whole;
	memcpy(area, uml->iov_base, part);
	memset(area + part, 0, whole - part);
	host.iov_len = whole;
	return host_ptrace(PTRACE_SETREGSET, pid, (void *)NT_X86_XSTATE, &host);
}

long ptrace(enum __ptrace_request request, ...)
{
	va_list args;
	long pid, word;
	void *address, *data;

	va_start(args, request);
	pid = va_arg(args, pid_t);
	address = va_arg(args, void *);
	data = va_arg(args, void *);
	va_end(args);

	if (request == PTRACE_GETREGSET && address == (void *)NT_X86_XSTATE)
		return get_xstate(pid, data);
	if (request == PTRACE_SETREGSET && address == (void *)NT_X86_XSTATE)
		return set_xstate(pid, data);
	if (request != PTRACE_PEEKTEXT && request != PTRACE_PEEKDATA && request != PTRACE_PEEKUSER)
		return host_ptrace(request, pid, address, data);
	/* The system call stores the word, the function returns it. */
	if (host_ptrace(request, pid, address, &word) < 0)
		return -1;
	errno = 0;
	return word;
}
